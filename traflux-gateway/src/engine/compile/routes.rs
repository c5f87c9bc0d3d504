//! What does a route send to, and what of it is kept over a reload?

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use rustc_hash::FxHashMap;
use traflux_core::Timestamp;
use traflux_core::plan::backend::{BackendPlan, PricePlan};
use traflux_core::plan::requests::RequestPlan;
use traflux_core::plan::routing::{Algorithm, FallbackPlan, RoutePlan};

use super::Compiled;
use crate::affinity::Session;
use crate::balance::{BalanceSettings, Member, Pool, Price};
use crate::engine::backend::{BackendState, Registry};
use crate::engine::counters::Counters;
use crate::engine::settings::EngineSettings;
use crate::engine::waiting::Room;
use crate::error::GatewayError;
use crate::health::{HealthGroup, Reason};
use crate::observe::{DeciderIx, RouteIx, SeriesIx};
use crate::retry::{Fallback, Hedge, RetryBudget};
use crate::units::PicoDollars;

/// What stands for every model that the plan does not name; no name of a model is like it.
const OTHER_MODEL: &str = "\n";

/// Where a rule sends.
#[derive(Debug, Clone)]
pub(in crate::engine) struct Route {
    pub(in crate::engine) name: Arc<str>,
    pub(in crate::engine) algorithm: Algorithm,
    /// By model, then what has room for more than some context of a model; `None` where no backend serves it.
    pub(in crate::engine) pools: Vec<Option<Arc<RoutePool>>>,
    pub(in crate::engine) session: Option<Arc<Session>>,
    /// The route to turn to when this one cannot serve.
    pub(in crate::engine) fallback: Option<u32>,
    /// How one gets here from the route before; `None` for a route that requests come to first.
    pub(in crate::engine) entry: Option<Arc<Fallback>>,
    /// Where its requests wait, by model.
    pub(in crate::engine) rooms: Vec<Option<u32>>,
    pub(in crate::engine) budget: Arc<RetryBudget>,
    pub(in crate::engine) decider: DeciderIx,
    /// The band that the plan names.
    pub(super) band: Option<u8>,
    /// What a request is worth in the queue.
    pub(in crate::engine) value: u32,
}

/// The endpoints of a route that serve a model.
#[derive(Debug)]
pub(in crate::engine) struct RoutePool {
    pub(in crate::engine) pool: Pool,
    pub(in crate::engine) members: Arc<[RouteMember]>,
    /// Health of the members; `None` where nothing of the kind is wanted.
    pub(in crate::engine) health: Option<Arc<HealthGroup>>,
    /// Whether it goes by what endpoints answer when asked.
    pub(in crate::engine) probed: bool,
    /// When its requests are hedged; `None` where none are.
    pub(in crate::engine) hedge: Option<Arc<Hedge>>,
    /// Weights and tiers of the plan, by position.
    pub(in crate::engine) planned: Arc<[Place]>,
}

/// How much of its tier's traffic a member takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::engine) struct Place {
    pub(in crate::engine) weight: u32,
    pub(in crate::engine) tier: u8,
}

/// One endpoint of a route.
#[derive(Debug)]
pub(in crate::engine) struct RouteMember {
    pub(in crate::engine) state: Arc<BackendState>,
    /// Base URL; empty for a backend that is known by name alone.
    pub(in crate::engine) url: Arc<str>,
    pub(in crate::engine) price: Price,
    /// Whether the plan takes it out of service.
    pub(in crate::engine) draining: bool,
    /// The most tokens of input and one answer; `None` where the plan does not say.
    pub(in crate::engine) context: Option<u64>,
    pub(in crate::engine) series: SeriesIx,
    pub(in crate::engine) picks: RouteIx,
}

impl RoutePool {
    /// The share that weights give each backend, however its health is.
    pub(in crate::engine) fn shares(&self) -> BTreeMap<&str, f64> {
        let weight = |position| f64::from(self.pool.weight(position).unwrap_or(0));
        let total = (0..self.members.len()).map(weight).sum::<f64>().max(1.0);
        let mut shares = BTreeMap::new();
        for (position, member) in self.members.iter().enumerate() {
            *shares.entry(&*member.state.name).or_default() += weight(position) / total;
        }
        shares
    }

    /// Opens and closes members as their health says.
    pub(in crate::engine) fn follow_health(&self, now: Timestamp) {
        let Some(health) = &self.health else { return };
        for position in 0..self.members.len() {
            let eligibility = health.eligibility(now, position);
            match eligibility.reason {
                // The breaker lets its share grow.
                Reason::HalfOpen | Reason::Returning if eligibility.eligible => self.pool.reopen(position),
                _ => self.pool.set_eligible(position, eligibility.eligible, now),
            }
        }
    }
}

/// Which pools have room for a request that is long for its model.
#[derive(Debug, Default)]
pub(super) struct Contexts {
    /// By model: the lengths that some backends end at, ascending, and the position of the pools of those that go beyond.
    /// Empty where the plan says nothing of contexts.
    steps: Vec<Vec<(u64, u32)>>,
    /// Behind the positions of models: the model and the length.
    pub(super) beyond: Vec<(u32, u64)>,
}

impl Contexts {
    pub(super) fn new(plan: &RequestPlan, models: &FxHashMap<Box<str>, u32>) -> Self {
        let mut lengths = vec![BTreeSet::new(); models.len()];
        for (model, of_model) in plan.backends.values().flat_map(|backend| &backend.models) {
            if let (Some(ix), Some(length)) = (models.get(model.as_str()), of_model.context_tokens) {
                lengths[*ix as usize].insert(length);
            }
        }
        if lengths.iter().all(BTreeSet::is_empty) {
            return Self::default();
        }
        let (mut steps, mut beyond) = (Vec::new(), Vec::new());
        for (model, lengths) in (0..).zip(&lengths) {
            let position = |at: usize| (models.len() + 2 + beyond.len() + at) as u32;
            steps.push(lengths.iter().enumerate().map(|(at, length)| (*length, position(at))).collect());
            beyond.extend(lengths.iter().map(|length| (model, *length)));
        }
        Self { steps, beyond }
    }

    /// Position of the pools that have room for so many tokens.
    pub(super) fn pools_for(&self, model: u32, tokens: u64) -> u32 {
        let Some(steps) = self.steps.get(model as usize) else { return model };
        let shorter = steps.iter().take_while(|(length, _)| *length < tokens).last();
        shorter.map_or(model, |(_, position)| *position)
    }
}

pub(super) struct Builder<'a> {
    pub(super) plan: &'a RequestPlan,
    pub(super) settings: &'a EngineSettings,
    pub(super) registry: &'a mut Registry,
    pub(super) models: &'a FxHashMap<Box<str>, u32>,
    pub(super) contexts: &'a Contexts,
    pub(super) before: Option<&'a Compiled>,
    pub(super) now: Timestamp,
    pub(super) rooms: Vec<Arc<Room>>,
    pub(super) counters: &'a Counters,
}

impl Builder<'_> {
    pub(super) fn route(
        &mut self,
        routes: &mut Vec<Route>,
        name: &str,
        plan: &RoutePlan,
        fallback: Option<&FallbackPlan>,
    ) -> Result<(), GatewayError> {
        let algorithm = plan.algorithm.unwrap_or(self.plan.routing.strategy);
        let mut names: Vec<&str> = vec![""; self.models.len() + 2];
        for (model, ix) in self.models {
            names[*ix as usize] = model;
        }
        names[self.models.len() + 1] = OTHER_MODEL;
        let rank = routes.iter().filter(|route| *route.name == *name).count();
        let mut pools = names
            .iter()
            .enumerate()
            .map(|(ix, model)| self.pool(name, plan, algorithm, model, rank, ix, None))
            .collect::<Result<Vec<_>, _>>()?;
        let contexts = self.contexts;
        for (ix, length) in &contexts.beyond {
            let base = pools[*ix as usize].clone();
            let all = |base: &Arc<RoutePool>| {
                base.members.iter().all(|m| m.context.is_none_or(|most| most > *length))
            };
            let roomier = match base {
                Some(base) if !all(&base) => {
                    let model = names[*ix as usize];
                    self.pool(name, plan, algorithm, model, rank, pools.len(), Some((&base, *length)))?
                }
                base => base,
            };
            pools.push(roomier);
        }
        let kept = self.before.and_then(|b| Some((&b.plan, b.routes.iter().find(|r| *r.name == *name)?)));
        let session = match &self.plan.affinity {
            Some(affinity) => Some(match kept {
                Some((before, Route { session: Some(session), .. }))
                    if before.affinity == self.plan.affinity =>
                {
                    Arc::clone(session)
                }
                _ => Arc::new(Session::new(affinity)?),
            }),
            None => None,
        };
        let budget = match kept {
            Some((before, route)) if before.retry.budget == self.plan.retry.budget => {
                Arc::clone(&route.budget)
            }
            _ => Arc::new(RetryBudget::new(self.plan.retry.budget)),
        };
        let entry = fallback.map(|fallback| {
            let same = self.before.and_then(|b| b.routes.iter().filter(|r| *r.name == *name).nth(rank));
            let known = same.and_then(|route| route.entry.as_ref()).filter(|known| known.plan() == fallback);
            known.map_or_else(|| Arc::new(Fallback::new(fallback)), Arc::clone)
        });
        let decider = self.counters.decider(name, algorithm);
        let rooms = pools.iter().map(|pool| self.room(pool.as_deref())).collect::<Result<Vec<_>, _>>()?;
        routes.push(Route {
            name: name.into(),
            algorithm,
            pools,
            session,
            fallback: None,
            entry,
            rooms,
            budget,
            decider,
            band: plan.band.as_deref().and_then(|band| self.plan.queue.band_named(band)),
            value: plan.value.unwrap_or(1),
        });
        Ok(())
    }

    /// Requests that want the same backends wait together.
    fn room(&mut self, pool: Option<&RoutePool>) -> Result<Option<u32>, GatewayError> {
        let queue = &self.plan.queue;
        let Some(pool) = pool.filter(|_| queue.max_waiting > 0) else { return Ok(None) };
        let mut backends: Vec<String> = pool.members.iter().map(|m| m.state.name.to_string()).collect();
        backends.sort_unstable();
        backends.dedup();
        if let Some(ix) = self.rooms.iter().position(|room| room.backends == backends) {
            return Ok(Some(ix as u32));
        }
        let kept = self
            .before
            .and_then(|b| b.rooms.iter().find(|room| room.backends == backends && room.plan == *queue));
        let room = match kept {
            Some(room) => Arc::clone(room),
            None => Arc::new(Room::new(backends, queue, &self.registry.tenants)?),
        };
        self.rooms.push(room);
        Ok(Some(self.rooms.len() as u32 - 1))
    }

    /// The pool of a route and model; of those of `beyond` that have room for more than so many tokens.
    #[expect(clippy::too_many_arguments, reason = "all of them name the pool")]
    fn pool(
        &mut self,
        rule: &str,
        plan: &RoutePlan,
        algorithm: Algorithm,
        model: &str,
        rank: usize,
        model_ix: usize,
        beyond: Option<(&RoutePool, u64)>,
    ) -> Result<Option<Arc<RoutePool>>, GatewayError> {
        let unknown = BackendPlan::default();
        let (mut members, mut entries) = (Vec::new(), Vec::new());
        for (name, weight) in plan.weights() {
            let backend = self.plan.backends.get(name).unwrap_or(&unknown);
            if !backend.serves(model) {
                continue;
            }
            // A backend that lists no models is one and the same under any name of a model.
            let own = if backend.models.contains_key(model) { model } else { "" };
            let context = backend.models.get(model).and_then(|model| model.context_tokens);
            if beyond.zip(context).is_some_and(|((_, length), most)| most <= length) {
                continue;
            }
            let state = self.registry.backend(name, own, &self.plan.congestion);
            let price = price(&backend.price_of(model));
            let bare = [traflux_core::plan::backend::UpstreamEndpoint {
                url: String::new(),
                weight: 1,
                tier: 0,
                region: None,
                draining: false,
            }];
            let endpoints = if backend.url.is_empty() { &bare[..] } else { &backend.url };
            for endpoint in endpoints {
                let identity = format!("{name}|{}|{own}", endpoint.url);
                let state_of = self.registry.endpoints.endpoint(&identity, self.now);
                let draining = backend.draining || endpoint.draining;
                state_of.set_draining(draining);
                members.push(Member {
                    endpoint: state_of,
                    weight: weight.saturating_mul(endpoint.weight),
                    tier: endpoint.tier,
                    price,
                });
                entries.push(RouteMember {
                    state: Arc::clone(&state),
                    url: endpoint.url.as_str().into(),
                    price,
                    draining,
                    context,
                    series: self.counters.series(name, own),
                    picks: self.counters.picks(rule, name),
                });
            }
        }
        if members.is_empty() {
            return Ok(None);
        }
        let balance = plan.balance.map_or(self.plan.balance, |route| self.plan.balance.with(&route));
        let settings = BalanceSettings { algorithm, plan: balance };
        // The pool of the same name, of several (a route and what it falls back to) that of the same rank.
        let former = || {
            let before = self.before?;
            let same = before.routes.iter().filter(|route| *route.name == *rule).nth(rank)?;
            let model =
                if model == OTHER_MODEL { before.models.len() as u32 + 1 } else { before.model(model) };
            same.pools.get(model as usize)?.as_deref()
        };
        // What has more room shares all that is learned with those that it was taken from.
        let before = beyond.map_or_else(former, |(all, _)| Some(all));
        let planned = members.iter().map(|m| Place { weight: m.weight, tier: m.tier }).collect();
        let ids: Vec<u32> = members.iter().map(|member| member.endpoint.id()).collect();
        let pool = match before {
            Some(before) => before.pool.reconfigured(settings, members)?,
            None => Pool::new(settings, members, self.settings.seed ^ (rank as u64) << 20 ^ model_ix as u64)?,
        };
        let health = (plan.health_check != Some(false)).then(|| {
            let same = || self.before.is_some_and(|before| before.plan.health == self.plan.health);
            let kept = before.filter(|_| beyond.is_some() || same());
            match kept.and_then(|b| Some((&b.pool, b.health.as_ref()?))) {
                Some((pool, health)) => {
                    let positions: Vec<_> = ids.iter().map(|id| pool.position_of(*id)).collect();
                    Arc::new(health.with_endpoints(self.now, &positions))
                }
                None => Arc::new(HealthGroup::new(&self.plan.health, entries.len())),
            }
        });
        let hedge = self.plan.retry.hedge.map(|hedge| {
            let known = before.and_then(|b| b.hedge.as_ref()).filter(|known| *known.plan() == hedge);
            known.map_or_else(|| Arc::new(Hedge::new(hedge)), Arc::clone)
        });
        let probed = plan.health_check == Some(true);
        Ok(Some(Arc::new(RoutePool { pool, members: entries.into(), health, probed, hedge, planned })))
    }
}

fn price(plan: &PricePlan) -> Price {
    // Dollars per million tokens are micro-dollars per token.
    let per_token = |dollars_per_million: f64| PicoDollars((dollars_per_million * 1e6).round() as u64);
    Price {
        input: per_token(plan.input_dollars_per_million),
        cached: per_token(plan.cached_dollars_per_million.unwrap_or(plan.input_dollars_per_million)),
        output: per_token(plan.output_dollars_per_million),
        request: PicoDollars((plan.request_dollars * 1e12).round() as u64),
    }
}
