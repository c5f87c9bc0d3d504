//! How does a plan become something that decides in nanoseconds?

mod limits;
mod routes;

use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Weak};
use std::time::Duration;

use arrayvec::ArrayVec;
use rustc_hash::FxHashMap;
use traflux_core::plan::requests::RequestPlan;
use traflux_core::plan::routing::RoutePlan;
use traflux_core::{PlanError, Timestamp};

pub(super) use self::limits::CompiledLimit;
pub(super) use self::routes::{Place, Route, RouteMember, RoutePool};

use self::limits::{Found, limiter_settings};
use self::routes::{Builder, Contexts};
use super::Shared;
use super::admission::{Admission, Kept, MOST_KEYS};
use super::backend::Registry;
use super::counters::Counters;
use super::decision::{Decision, Reason, Refusal};
use super::settings::EngineSettings;
use super::waiting::Room;
use crate::affinity::{AffinityKey, AffinitySource, prefix_chain};
use crate::error::GatewayError;
use crate::limit::{Key, KeyTable, Limiter};
use crate::observe::{DeciderIx, TenantMetrics};
use crate::request::Request;
use crate::rule::{Matcher, order};

/// A request waits for at most one of so many parts of the time until its deadline, where that is short.
const WAITED: u32 = 5;

/// The number of all tenants together that come when the table is full; no place of the table has it.
pub(super) const OTHERS: u32 = u32::MAX;

/// A plan ready to decide.
#[derive(Debug, Clone)]
pub(super) struct Compiled {
    pub(super) shared: Arc<Shared>,
    pub(super) plan: Arc<RequestPlan>,
    pub(super) settings: Arc<EngineSettings>,
    /// Rules in the order in which they are tried.
    pub(super) rules: Arc<Matcher>,
    /// One per rule, in the same order; then that of the default, then those that routes fall back to.
    pub(super) routes: Vec<Route>,
    default: Option<u32>,
    /// The band of requests of no kind, where no band lists tiers of users.
    usual_band: Option<u8>,
    /// Header with the deadline of a request, in lower case.
    deadline_header: Option<Box<str>>,
    models: Arc<FxHashMap<Box<str>, u32>>,
    contexts: Arc<Contexts>,
    pub(super) limiter: Limiter,
    limit_rules: Arc<Matcher>,
    pub(super) limits: Arc<[CompiledLimit]>,
    /// Whether some limit may be waited for.
    pub(super) is_patient: bool,
    pub(super) tenants: Arc<KeyTable>,
    /// Keys found last in the limiter's table of tenants, by number of the tenant; 0 for none.
    tenant_keys: Arc<[AtomicU64]>,
    pub(super) used: Arc<TenantMetrics>,
    pub(super) rooms: Vec<Arc<Room>>,
    /// Rooms of earlier plans in which somebody may still wait.
    pub(super) former: Vec<Weak<Room>>,
    pub(super) counters: Arc<Counters>,
}

impl Compiled {
    pub(super) fn new(
        plan: &RequestPlan,
        settings: &EngineSettings,
        shared: &Arc<Shared>,
        registry: &mut Registry,
        before: Option<&Self>,
        now: Timestamp,
    ) -> Result<Self, GatewayError> {
        plan.validate()?;
        let told_apart = registry.tenants.capacity();
        if plan.queue.max_tenants as usize > told_apart {
            let expected = format!("at most {told_apart}, for which there is room since the start");
            return Err(PlanError::Key {
                path: "queue.max_tenants".to_owned(),
                problem: format!("{}, expected {expected}", plan.queue.max_tenants),
            }
            .into());
        }
        if before.is_some_and(|before| before.plan.congestion != plan.congestion) {
            registry.forget_backends();
        }
        registry.endpoints.relearn(&plan.balance.latency);
        let rule_plans = &plan.routing.rules;
        let order = order(rule_plans);
        let rules = Matcher::new(order.iter().map(|ix| &rule_plans[*ix].matches))?;
        let mut models: FxHashMap<Box<str>, u32> = FxHashMap::default();
        for model in plan.backends.values().flat_map(|backend| backend.models.keys()) {
            let next = models.len() as u32;
            models.entry(model.as_str().into()).or_insert(next);
        }
        let contexts = Contexts::new(plan, &models);
        let counters = Counters::new(plan, settings, before.map(|b| &b.counters))?;
        let mut builder = Builder {
            plan,
            settings,
            registry,
            models: &models,
            contexts: &contexts,
            before,
            now,
            rooms: Vec::new(),
            counters: &counters,
        };
        let mut routes = Vec::new();
        for ix in &order {
            let rule = &rule_plans[*ix];
            builder.route(&mut routes, &rule.name, &rule.route, None)?;
        }
        // Fall-back routes stand behind all others, so that positions of rules stay those of the matcher.
        let default = match &plan.routing.default {
            Some(route) => {
                builder.route(&mut routes, "default", route, None)?;
                Some(routes.len() as u32 - 1)
            }
            None => None,
        };
        let firsts: Vec<&RoutePlan> =
            order.iter().map(|ix| &rule_plans[*ix].route).chain(plan.routing.default.as_ref()).collect();
        for (ix, route) in firsts.into_iter().enumerate() {
            let mut from = ix;
            for fallback in &route.fallback {
                let name = Arc::clone(&routes[ix].name);
                let next = RoutePlan {
                    backend: RoutePlan::to([&fallback.backend]).backend,
                    fallback: Vec::new(),
                    ..route.clone()
                };
                builder.route(&mut routes, &name, &next, Some(fallback))?;
                routes[from].fallback = Some(routes.len() as u32 - 1);
                from = routes.len() - 1;
            }
        }
        let rooms = builder.rooms;
        let tenants = Arc::clone(&registry.tenants);
        let limiter_settings = limiter_settings(plan)?;
        let limiter = match before {
            Some(before) => before.limiter.reloaded(&limiter_settings, now)?,
            None => Limiter::new(&limiter_settings, now, settings.seed)?,
        };
        let limits = plan.limits.iter().map(|limit| CompiledLimit::new(limit, &limiter)).collect();
        Ok(Self {
            shared: Arc::clone(shared),
            plan: Arc::new(plan.clone()),
            settings: Arc::new(settings.clone()),
            rules: Arc::new(rules),
            routes,
            default,
            usual_band: plan
                .queue
                .bands
                .iter()
                .all(|band| band.user_tier.is_empty())
                .then(|| plan.queue.band_of("", "")),
            deadline_header: plan.queue.deadline_header.as_ref().map(|name| name.to_ascii_lowercase().into()),
            models: Arc::new(models),
            contexts: Arc::new(contexts),
            limit_rules: Arc::new(Matcher::new(plan.limits.iter().map(|limit| &limit.matches))?),
            limiter,
            limits,
            is_patient: plan.limits.iter().any(|limit| limit.max_wait.is_some_and(|wait| !wait.is_zero())),
            tenant_keys: (0..tenants.capacity()).map(|_| AtomicU64::new(0)).collect(),
            tenants,
            used: Arc::clone(&registry.used),
            former: former(before, &rooms),
            rooms,
            counters,
        })
    }

    /// Takes in a request: rule, tenant, keys of limits, session. Else why not, and which route refuses it.
    #[inline]
    pub(super) fn admit(
        &self,
        request: &Request<'_>,
        now: Timestamp,
    ) -> Result<Admission, (Option<u32>, Reason)> {
        let route = self.route_of(request).ok_or((None, Reason::NoRoute))?;
        let name = request.client.tenant;
        let tenant = self.tenants.find(name).or_else(|| self.tenants.insert(name, |_| false));
        let seen = tenant.and_then(|tenant| self.tenant_keys.get(tenant.slot() as usize));
        let mut admission = self.taken_in(route, tenant.map_or(OTHERS, Key::slot), request, now);
        let kept = &mut *admission;
        let (mut failed, mut found) = (None, Found { seen, last: None });
        self.limit_rules.each(request, |ix| {
            if failed.is_none() {
                failed = self.add_limit(kept, &mut found, ix, request, now).err();
            }
        });
        if let Some(reason) = failed {
            return Err((Some(route), reason));
        }
        if let (Some(_), Some(affinity)) = (&self.routes[route as usize].session, &self.plan.affinity) {
            session_keys(&affinity.key, request, &mut kept.session);
        }
        Ok(admission)
    }

    /// The route of a request.
    #[inline]
    pub(super) fn route_of(&self, request: &Request<'_>) -> Option<u32> {
        self.rules.first(request).map(|ix| ix as u32).or(self.default)
    }

    /// A request of a tenant, without its limits and its session.
    #[inline]
    pub(super) fn taken_in(
        &self,
        route: u32,
        tenant: u32,
        request: &Request<'_>,
        now: Timestamp,
    ) -> Admission {
        let band = self.band(route, request);
        let mut admission = Admission::blank();
        let kept = &mut *admission;
        kept.route = route;
        kept.model = self.contexts.pools_for(self.model(request.model), request.context_tokens());
        kept.tenant = tenant;
        kept.band = band;
        kept.stream = request.stream;
        kept.idempotence = request.idempotence;
        kept.tokens = request.tokens;
        kept.bytes = request.bytes;
        kept.deadline = self.deadline(band, request, now);
        kept.arrived = now;
        admission
    }

    /// Calls with the position of each limit that holds for a request.
    pub(super) fn each_limit(&self, request: &Request<'_>, visit: impl FnMut(usize)) {
        self.limit_rules.each(request, visit);
    }

    /// Whether requests are kept together on the way of this one.
    pub(super) fn keeps_sessions(&self, admission: &Admission) -> bool {
        self.routes[admission.route as usize].session.is_some()
    }

    /// Keys of a request's session, as [`admit`](Self::admit) takes them; none where no sessions are kept.
    pub(super) fn session_of(&self, request: &Request<'_>) -> ArrayVec<AffinityKey, MOST_KEYS> {
        let mut keys = ArrayVec::new();
        if let Some(affinity) = &self.plan.affinity {
            session_keys(&affinity.key, request, &mut keys);
        }
        keys
    }

    /// Position of a model; behind those that the plan names stand none at all and any other.
    pub(super) fn model(&self, name: &str) -> u32 {
        let named = self.models.len() as u32;
        if name.is_empty() { named } else { self.models.get(name).copied().unwrap_or(named + 1) }
    }

    /// Position of the model whose pools these are, however long the request.
    pub(super) fn model_at(&self, pools: u32) -> u32 {
        let behind = (pools as usize).checked_sub(self.models.len() + 2);
        behind.and_then(|at| self.contexts.beyond.get(at)).map_or(pools, |(model, _)| *model)
    }

    /// Why no backend of a route may have a request, whatever their state.
    pub(super) fn unserved(&self, route: &Route, pools: u32) -> Reason {
        let model = self.model_at(pools);
        if model != pools && route.pools[model as usize].is_some() {
            Reason::ContextExceeded
        } else {
            Reason::NoModel
        }
    }

    fn band(&self, route: u32, request: &Request<'_>) -> u8 {
        let usual = self.usual_band.filter(|_| request.kind.is_empty());
        let of_kind =
            || usual.unwrap_or_else(|| self.plan.queue.band_of(request.client.user_tier, request.kind));
        self.routes[route as usize].band.unwrap_or_else(of_kind)
    }

    /// When an answer is of no more use: what the client says, else its band, may only come before what the caller says.
    fn deadline(&self, band: u8, request: &Request<'_>, now: Timestamp) -> Option<Timestamp> {
        let told = self.deadline_header.as_deref().and_then(|name| request.headers.value(name));
        let told = told.and_then(|text| text.trim().parse::<f64>().ok());
        let told = told.and_then(|millis| Duration::try_from_secs_f64(millis * 1e-3).ok());
        let left = told.or_else(|| self.plan.queue.bands.get(usize::from(band))?.deadline);
        let own = left.map(|left| now + left);
        request.deadline.into_iter().chain(own).min()
    }

    /// Counts a decision.
    pub(super) fn count(&self, decider: DeciderIx, reason: &'static str) {
        self.counters.metrics.recorder().decision(decider, self.counters.reason(reason));
    }

    /// Counts a refusal at the door.
    pub(super) fn count_refusal(&self, route: Option<u32>, reason: Reason) {
        let decider = route.map_or_else(|| self.counters.no_rule(), |ix| self.routes[ix as usize].decider);
        self.count(decider, reason.code());
    }

    /// A refusal at the door, counted.
    #[cold]
    pub(super) fn turn_away(&self, (route, reason): (Option<u32>, Reason)) -> Decision {
        self.count_refusal(route, reason);
        Decision::Refuse(self.refusal(route, reason))
    }

    /// A refusal by a route.
    pub(super) fn refusal(&self, route: Option<u32>, reason: Reason) -> Refusal {
        let rule = route.map(|ix| Arc::clone(&self.routes[ix as usize].name));
        Refusal { reason, rule, limit: None, retry_after: None }
    }
}

fn former(before: Option<&Compiled>, rooms: &[Arc<Room>]) -> Vec<Weak<Room>> {
    let Some(before) = before else { return Vec::new() };
    let left = before.rooms.iter().filter(|room| !rooms.iter().any(|kept| Arc::ptr_eq(kept, room)));
    let older = before.former.iter().filter(|room| room.strong_count() > 0);
    older.cloned().chain(left.map(Arc::downgrade)).collect()
}

impl Compiled {
    /// How long before its deadline a request has to be sent; nothing while that is not known.
    ///
    /// The time within which all but the slowest answers come, a mean over backends, since nobody knows who will have
    /// room. Who has little more than that waits for no more than a part of it ([`WAITED`]), and is refused only where
    /// half of the answers would be late: most of those that are let in are in time.
    pub(super) fn service(&self, admission: &Kept, now: Timestamp) -> Duration {
        let Some(pool) = &self.routes[admission.route as usize].pools[admission.model as usize] else {
            return Duration::ZERO;
        };
        let (mut usual, mut longest, mut known) = (Duration::ZERO, Duration::ZERO, 0);
        for service in pool.members.iter().map(|member| &member.state.service) {
            if let (Some(half), Some(most)) = (service.median(), service.value()) {
                (usual, longest, known) = (usual + half, longest + most, known + 1);
            }
        }
        if known == 0 {
            return Duration::ZERO;
        }
        let (usual, longest) = (usual / known, longest / known);
        let left = admission.deadline.map_or(Duration::MAX, |deadline| deadline.since(now));
        longest.min(usual.max(left.saturating_sub(left / WAITED)))
    }

    /// Has endpoints drain as this plan says; where another was refused, they did as that one says.
    pub(super) fn drain(&self) {
        for pool in self.pools() {
            for (position, member) in pool.members.iter().enumerate() {
                pool.pool.set_draining(position, member.draining);
            }
        }
    }

    /// All pools of all routes.
    pub(super) fn pools(&self) -> impl Iterator<Item = &Arc<RoutePool>> {
        self.routes.iter().flat_map(|route| route.pools.iter().flatten())
    }

    /// All rooms in which somebody may wait.
    pub(super) fn all_rooms(&self) -> impl Iterator<Item = Arc<Room>> {
        self.rooms.iter().cloned().chain(self.former.iter().filter_map(Weak::upgrade))
    }
}

fn session_keys(source: &AffinitySource, request: &Request<'_>, keys: &mut ArrayVec<AffinityKey, MOST_KEYS>) {
    // Within the tenant, so that nobody finds another's sessions.
    let tenant = AffinityKey::of(request.client.tenant.as_bytes());
    let text = match source {
        AffinitySource::Header(name) => request.headers.value(name),
        AffinitySource::Cookie(name) => {
            request.headers.value("cookie").and_then(|cookies| cookie(cookies, name))
        }
        AffinitySource::User => {
            Some(if request.client.user.is_empty() { request.client.key } else { request.client.user })
        }
        AffinitySource::Prefix { block_bytes, blocks } => {
            let mut chain = [AffinityKey(0); MOST_KEYS];
            let count = prefix_chain(request.prompt, *block_bytes, *blocks, &mut chain);
            keys.extend(chain[..count].iter().map(|key| key.scoped(tenant)));
            return;
        }
    };
    keys.extend(text.filter(|t| !t.is_empty()).map(|text| AffinityKey::of(text.as_bytes()).scoped(tenant)));
}

fn cookie<'a>(cookies: &'a str, name: &str) -> Option<&'a str> {
    cookies.split(';').find_map(|pair| {
        let (key, value) = pair.split_once('=')?;
        (key.trim() == name).then(|| value.trim())
    })
}
