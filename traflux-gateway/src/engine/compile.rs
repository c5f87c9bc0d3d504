//! How does a plan become something that decides in nanoseconds?

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use arrayvec::ArrayVec;
use rustc_hash::FxHashMap;
use traflux_core::Timestamp;
use traflux_core::plan::backend::{BackendPlan, PricePlan};
use traflux_core::plan::limit::{LimitPlan, LimitScope, LimitShape, LimitUnit};
use traflux_core::plan::requests::RequestPlan;
use traflux_core::plan::routing::{Algorithm, FallbackPlan, RoutePlan};

use super::admission::{Admission, Kept, MOST_BLOCKS};
use super::backend::{BackendState, Registry};
use super::counters::Counters;
use super::decision::{Reason, Refusal};
use super::settings::EngineSettings;
use super::waiting::Room;
use crate::affinity::{AffinityKey, AffinitySource, Session, prefix_chain};
use crate::balance::{self, Member, Pool, Price};
use crate::error::GatewayError;
use crate::health::HealthGroup;
use crate::limit::{
    Key, KeyTable, LimitIx, LimitRule, LimitSettings, Limiter, LimiterSettings, MOST_LIMITS, ScopeIx,
    ScopeSettings, Unit,
};
use crate::observe::{DeciderIx, RouteIx, SeriesIx, TenantMetrics};
use crate::request::Request;
use crate::retry::{Fallback, Hedge, RetryBudget};
use crate::rule::{Matcher, excludes, order};
use crate::units::PicoDollars;

/// What stands for every model that the plan does not name; no name of a model is like it.
const OTHER_MODEL: &str = "\n";

/// A request waits for at most one of so many parts of the time until its deadline, where that is short.
const WAITED: u32 = 5;

/// A plan ready to decide.
#[derive(Debug, Clone)]
pub(super) struct Compiled {
    pub(super) plan: Arc<RequestPlan>,
    pub(super) settings: Arc<EngineSettings>,
    /// Rules in the order in which they are tried.
    pub(super) rules: Arc<Matcher>,
    /// One per rule, in the same order; then that of the default, then those that routes fall back to.
    pub(super) routes: Vec<Route>,
    default: Option<u32>,
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

/// Where a rule sends.
#[derive(Debug, Clone)]
pub(super) struct Route {
    pub(super) name: Arc<str>,
    pub(super) algorithm: Algorithm,
    /// By model, then what has room for more than some context of a model; `None` where no backend serves it.
    pub(super) pools: Vec<Option<Arc<RoutePool>>>,
    pub(super) session: Option<Arc<Session>>,
    /// The route to turn to when this one cannot serve.
    pub(super) fallback: Option<u32>,
    /// How one gets here from the route before; `None` for a route that requests come to first.
    pub(super) entry: Option<Arc<Fallback>>,
    /// Where its requests wait, by model.
    pub(super) rooms: Vec<Option<u32>>,
    pub(super) budget: Arc<RetryBudget>,
    pub(super) decider: DeciderIx,
    /// The band that the plan names.
    band: Option<u8>,
    /// What a request is worth in the queue.
    pub(super) value: u32,
}

/// The endpoints of a route that serve a model.
#[derive(Debug)]
pub(super) struct RoutePool {
    pub(super) pool: Pool,
    pub(super) members: Arc<[RouteMember]>,
    /// Health of the members; `None` where nothing of the kind is wanted.
    pub(super) health: Option<Arc<HealthGroup>>,
    /// Whether it goes by what endpoints answer when asked.
    pub(super) probed: bool,
    /// When its requests are hedged; `None` where none are.
    pub(super) hedge: Option<Arc<Hedge>>,
    /// Weights and tiers of the plan, by position.
    pub(super) planned: Arc<[Place]>,
}

/// How much of its tier's traffic a member takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) weight: u32,
    pub(super) tier: u8,
}

/// One endpoint of a route.
#[derive(Debug)]
pub(super) struct RouteMember {
    pub(super) state: Arc<BackendState>,
    /// Base URL; empty for a backend that is known by name alone.
    pub(super) url: Arc<str>,
    pub(super) price: Price,
    /// The most tokens of input and one answer; `None` where the plan does not say.
    pub(super) context: Option<u64>,
    pub(super) series: SeriesIx,
    pub(super) picks: RouteIx,
}

/// Which pools have room for a request that is long for its model.
#[derive(Debug, Default)]
struct Contexts {
    /// By model: the lengths that some backends end at, ascending, and the position of the pools of those that go beyond.
    /// Empty where the plan says nothing of contexts.
    steps: Vec<Vec<(u64, u32)>>,
    /// Behind the positions of models: the model and the length.
    beyond: Vec<(u32, u64)>,
}

impl Contexts {
    fn new(plan: &RequestPlan, models: &FxHashMap<Box<str>, u32>) -> Self {
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
    fn pools_for(&self, model: u32, tokens: u64) -> u32 {
        let Some(steps) = self.steps.get(model as usize) else { return model };
        let shorter = steps.iter().take_while(|(length, _)| *length < tokens).last();
        shorter.map_or(model, |(_, position)| *position)
    }
}

/// A limit with its keys.
#[derive(Debug)]
pub(super) struct CompiledLimit {
    pub(super) name: Arc<str>,
    pub(super) ix: LimitIx,
    scope: Option<ScopeIx>,
    by: Vec<LimitScope>,
    by_backend: bool,
    /// Limits of their own for some keys.
    overrides: FxHashMap<Box<str>, LimitIx>,
}

/// Keys found for a request: limits of one scope share one.
struct Found<'a> {
    /// Where the key of the tenant is that was found at its last request.
    seen: Option<&'a AtomicU64>,
    last: Option<(ScopeIx, Key)>,
}

thread_local! {
    /// Room to put keys together without allocating for each.
    static KEY: RefCell<String> = const { RefCell::new(String::new()) };
}

impl Compiled {
    pub(super) fn new(
        plan: &RequestPlan,
        settings: &EngineSettings,
        registry: &mut Registry,
        before: Option<&Self>,
        now: Timestamp,
    ) -> Result<Self, GatewayError> {
        plan.validate()?;
        if before.is_some_and(|before| before.plan.congestion != plan.congestion) {
            registry.forget_backends();
        }
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
        let limiter_settings = limiter_settings(plan, settings)?;
        let limiter = match before {
            Some(before) => before.limiter.reloaded(&limiter_settings, now)?,
            None => Limiter::new(&limiter_settings, now, settings.seed)?,
        };
        let limits = plan.limits.iter().map(|limit| CompiledLimit::new(limit, &limiter)).collect();
        Ok(Self {
            plan: Arc::new(plan.clone()),
            settings: Arc::new(settings.clone()),
            rules: Arc::new(rules),
            routes,
            default,
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

    /// Takes in a request: rule, tenant, keys of limits, session.
    #[inline]
    pub(super) fn admit(&self, request: &Request<'_>, now: Timestamp) -> Result<Admission, Refusal> {
        let Some(route) = self.rules.first(request).map(|ix| ix as u32).or(self.default) else {
            self.count_refusal(None, Reason::NoRoute);
            return Err(self.refusal(None, Reason::NoRoute));
        };
        // Beyond what the table holds, tenants share the place of the nameless one.
        let name = request.client.tenant;
        let tenant = self.tenants.find(name).or_else(|| self.tenants.insert(name, |_| false));
        let seen = tenant.and_then(|tenant| self.tenant_keys.get(tenant.slot() as usize));
        let tenant = tenant.or_else(|| self.tenants.find("")).map_or(0, Key::slot);
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
        let (mut failed, mut found) = (None, Found { seen, last: None });
        self.limit_rules.each(request, |ix| {
            if failed.is_none() {
                failed = self.add_limit(kept, &mut found, ix, request, now).err();
            }
        });
        if let Some(reason) = failed {
            return Err(self.refusal(Some(route), reason));
        }
        if let (Some(_), Some(affinity)) = (&self.routes[route as usize].session, &self.plan.affinity) {
            session_keys(&affinity.key, request, &mut kept.session);
        }
        Ok(admission)
    }

    /// Whether requests are kept together on the way of this one.
    pub(super) fn keeps_sessions(&self, admission: &Admission) -> bool {
        self.routes[admission.route as usize].session.is_some()
    }

    /// Keys of a request's session, as [`admit`](Self::admit) takes them; none where no sessions are kept.
    pub(super) fn session_of(&self, request: &Request<'_>) -> ArrayVec<AffinityKey, MOST_BLOCKS> {
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
        let of_kind = || self.plan.queue.band_of(request.client.user_tier, request.kind);
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

    /// Adds a limit that holds.
    fn add_limit(
        &self,
        admission: &mut Kept,
        found: &mut Found<'_>,
        ix: usize,
        request: &Request<'_>,
        now: Timestamp,
    ) -> Result<(), Reason> {
        let limit = &self.limits[ix];
        if limit.by.is_empty() {
            return admission.limits.try_push((limit.ix, Key::ONLY)).map_err(|_| Reason::TooManyKeys);
        }
        let same = found.last.filter(|(scope, _)| limit.scope == Some(*scope) && limit.overrides.is_empty());
        if let (Some((_, key)), false) = (same, limit.by_backend) {
            return admission.limits.try_push((limit.ix, key)).map_err(|_| Reason::TooManyKeys);
        }
        if let [scope] = &limit.by[..]
            && !limit.by_backend
        {
            let seen = found.seen.filter(|_| *scope == LimitScope::Tenant && limit.overrides.is_empty());
            if let (Some(seen), Some(scope)) = (seen, limit.scope) {
                let key = Key::unpacked(seen.load(Ordering::Relaxed));
                if self.limiter.is_key(scope, key) {
                    found.last = Some((scope, key));
                    return admission.limits.try_push((limit.ix, key)).map_err(|_| Reason::TooManyKeys);
                }
            }
            self.add_key(admission, found, limit, scope_value(scope, request), now)?;
            if let (Some(seen), Some((_, key))) = (seen, found.last) {
                seen.store(key.packed(), Ordering::Relaxed);
            }
            return Ok(());
        }
        KEY.with_borrow_mut(|key| {
            key.clear();
            for (at, scope) in limit.by.iter().filter(|s| **s != LimitScope::Backend).enumerate() {
                if at > 0 {
                    key.push('/');
                }
                let is_last = at + 1 == limit.by.len();
                push_part(key, scope_value(scope, request), is_last);
            }
            if limit.by_backend {
                let prefix = (limit.by.len() > 1).then(|| key.as_str().into());
                return admission.by_backend.try_push((ix as u16, prefix)).map_err(|_| Reason::TooManyKeys);
            }
            self.add_key(admission, found, limit, key, now)
        })
    }

    fn add_key(
        &self,
        admission: &mut Kept,
        found: &mut Found<'_>,
        limit: &CompiledLimit,
        name: &str,
        now: Timestamp,
    ) -> Result<(), Reason> {
        let (ix, key) = self.limit_key(limit, name, now).ok_or(Reason::TooManyKeys)?;
        if ix == limit.ix {
            found.last = limit.scope.map(|scope| (scope, key));
        }
        admission.limits.try_push((ix, key)).map_err(|_| Reason::TooManyKeys)
    }

    fn limit_key(&self, limit: &CompiledLimit, name: &str, now: Timestamp) -> Option<(LimitIx, Key)> {
        if !limit.overrides.is_empty()
            && let Some(own) = limit.overrides.get(name)
        {
            return Some((*own, Key::ONLY));
        }
        match limit.scope {
            Some(scope) => self.limiter.key(now, scope, name).map(|key| (limit.ix, key)),
            None => Some((limit.ix, Key::ONLY)),
        }
    }

    /// The limits of a request at one backend, where some count each backend apart.
    pub(super) fn limits_at(
        &self,
        admission: &Kept,
        backend: &str,
        now: Timestamp,
    ) -> Result<ArrayVec<(LimitIx, Key), MOST_LIMITS>, Reason> {
        let mut limits = admission.limits.clone();
        for (ix, prefix) in &admission.by_backend {
            let limit = &self.limits[usize::from(*ix)];
            let found = KEY.with_borrow_mut(|key| {
                key.clear();
                if let Some(prefix) = prefix {
                    key.push_str(prefix);
                    key.push('/');
                }
                key.push_str(backend);
                self.limit_key(limit, key, now)
            });
            let found = found.ok_or(Reason::TooManyKeys)?;
            limits.try_push(found).map_err(|_| Reason::TooManyKeys)?;
        }
        Ok(limits)
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

    /// A refusal by a route.
    pub(super) fn refusal(&self, route: Option<u32>, reason: Reason) -> Refusal {
        let rule = route.map(|ix| Arc::clone(&self.routes[ix as usize].name));
        Refusal { reason, rule, limit: None, retry_after: None }
    }

    /// The name of a limit, that of the plan also for an override.
    pub(super) fn limit_name(&self, ix: LimitIx) -> Option<Arc<str>> {
        let limit = self.limits.iter().find(|l| l.ix == ix || l.overrides.values().any(|own| *own == ix))?;
        Some(Arc::clone(&limit.name))
    }

    /// Whether the levels of a limit are kept over a restart, by its name or that of an override.
    pub(super) fn is_persistent(&self, limit: &str) -> bool {
        self.plan.limits.iter().filter(|plan| plan.persistent).any(|plan| {
            plan.name == limit || plan.overrides.keys().any(|key| override_name(&plan.name, key) == limit)
        })
    }

    /// Whether a limit counts each backend apart, so that another backend may do.
    pub(super) fn is_by_backend(&self, ix: LimitIx) -> bool {
        self.limits.iter().any(|l| l.by_backend && (l.ix == ix || l.overrides.values().any(|own| *own == ix)))
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

    /// All pools of all routes.
    pub(super) fn pools(&self) -> impl Iterator<Item = &Arc<RoutePool>> {
        self.routes.iter().flat_map(|route| route.pools.iter().flatten())
    }

    /// All rooms in which somebody may wait.
    pub(super) fn all_rooms(&self) -> impl Iterator<Item = Arc<Room>> {
        self.rooms.iter().cloned().chain(self.former.iter().filter_map(Weak::upgrade))
    }
}

impl RoutePool {
    /// The share that weights give each backend, however its health is.
    pub(super) fn shares(&self) -> BTreeMap<&str, f64> {
        let weight = |position| f64::from(self.pool.weight(position).unwrap_or(0));
        let total = (0..self.members.len()).map(weight).sum::<f64>().max(1.0);
        let mut shares = BTreeMap::new();
        for (position, member) in self.members.iter().enumerate() {
            *shares.entry(&*member.state.name).or_default() += weight(position) / total;
        }
        shares
    }

    /// Opens and closes members as their health says.
    pub(super) fn follow_health(&self, now: Timestamp) {
        let Some(health) = &self.health else { return };
        for position in 0..self.members.len() {
            self.pool.set_eligible(position, health.eligibility(now, position).eligible, now);
        }
    }
}

/// Adds what one scope says to a key. In all but the last part a slash is written `\/`, so that no two clients
/// whose names contain slashes share a key.
fn push_part(key: &mut String, part: &str, is_last: bool) {
    if is_last || !part.contains(['/', '\\']) {
        key.push_str(part);
        return;
    }
    for character in part.chars() {
        if matches!(character, '/' | '\\') {
            key.push('\\');
        }
        key.push(character);
    }
}

fn scope_value<'a>(scope: &LimitScope, request: &Request<'a>) -> &'a str {
    match scope {
        LimitScope::Tenant => request.client.tenant,
        LimitScope::Key => request.client.key,
        LimitScope::User => request.client.user,
        LimitScope::UserTier => request.client.user_tier,
        LimitScope::Model => request.model,
        LimitScope::Header(name) => request.headers.value(name).unwrap_or(""),
        LimitScope::Backend => "",
    }
}

fn session_keys(
    source: &AffinitySource,
    request: &Request<'_>,
    keys: &mut ArrayVec<AffinityKey, MOST_BLOCKS>,
) {
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
            let mut chain = [AffinityKey(0); MOST_BLOCKS];
            let most = (*blocks).min(MOST_BLOCKS);
            let count = prefix_chain(request.prompt, *block_bytes, &mut chain[..most]);
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

impl CompiledLimit {
    /// Whether it has one level for all.
    pub(super) fn is_one(&self) -> bool {
        self.by.is_empty()
    }

    fn new(plan: &LimitPlan, limiter: &Limiter) -> Self {
        let ix = |name: &str| limiter.limit(name).unwrap_or(LimitIx(u16::MAX));
        Self {
            name: plan.name.as_str().into(),
            ix: ix(&plan.name),
            scope: (!plan.by.is_empty()).then(|| limiter.scope_of(&scope_name(&plan.by))).flatten(),
            by: plan.by.clone(),
            by_backend: plan.by.contains(&LimitScope::Backend),
            overrides: plan
                .overrides
                .keys()
                .map(|key| (key.as_str().into(), ix(&override_name(&plan.name, key))))
                .collect(),
        }
    }
}

fn override_name(limit: &str, key: &str) -> String {
    format!("{limit} of {key}")
}

fn scope_name(by: &[LimitScope]) -> String {
    let names: Vec<_> = by
        .iter()
        .map(|scope| match scope {
            LimitScope::Tenant => "tenant".to_owned(),
            LimitScope::Key => "key".to_owned(),
            LimitScope::User => "user".to_owned(),
            LimitScope::UserTier => "user_tier".to_owned(),
            LimitScope::Model => "model".to_owned(),
            LimitScope::Backend => "backend".to_owned(),
            LimitScope::Header(name) => format!("header:{name}"),
        })
        .collect();
    names.join("/")
}

fn limiter_settings(plan: &RequestPlan, settings: &EngineSettings) -> Result<LimiterSettings, GatewayError> {
    // Only limits that may hold for one request together count against the room of a reservation.
    for limit in &plan.limits {
        let together = plan.limits.iter().filter(|other| !excludes(&limit.matches, &other.matches)).count();
        if together > MOST_LIMITS {
            return Err(GatewayError::TooManyLimits {
                limit: limit.name.clone(),
                together,
                most: MOST_LIMITS,
            });
        }
    }
    let mut scopes: BTreeMap<String, ScopeSettings> = BTreeMap::new();
    let mut limits = Vec::new();
    for limit in &plan.limits {
        let scope = (!limit.by.is_empty()).then(|| scope_name(&limit.by));
        if let Some(name) = &scope {
            let entry = ScopeSettings { name: name.clone(), max_keys: settings.max_keys };
            scopes.insert(name.clone(), entry);
        }
        limits.push(LimitSettings {
            name: limit.name.clone(),
            scope,
            unit: unit(limit.unit),
            rule: limit_rule(limit, limit.amount, limit.burst),
            max_wait: limit.max_wait.unwrap_or_default(),
        });
        limits.extend(limit.overrides.iter().map(|(key, amount)| LimitSettings {
            name: override_name(&limit.name, key),
            scope: None,
            unit: unit(limit.unit),
            rule: limit_rule(limit, *amount, limit.burst.map(|burst| burst * amount / limit.amount)),
            max_wait: limit.max_wait.unwrap_or_default(),
        }));
    }
    Ok(LimiterSettings { scopes: scopes.into_values().collect(), limits })
}

fn unit(unit: LimitUnit) -> Unit {
    match unit {
        LimitUnit::Requests | LimitUnit::Concurrency => Unit::Requests,
        LimitUnit::InputTokens => Unit::InputTokens,
        LimitUnit::OutputTokens => Unit::OutputTokens,
        LimitUnit::Tokens => Unit::TotalTokens,
        LimitUnit::Dollars => Unit::PicoDollars,
    }
}

fn limit_rule(limit: &LimitPlan, amount: f64, burst: Option<f64>) -> LimitRule {
    let scale = if limit.unit == LimitUnit::Dollars { 1e12 } else { 1.0 };
    let units = |amount: f64| (amount * scale).round().max(1.0) as u64;
    let (amount, burst, period) = (units(amount), units(burst.unwrap_or(amount)), limit.period);
    if limit.unit == LimitUnit::Concurrency {
        return LimitRule::InFlight { amount };
    }
    match limit.shape {
        LimitShape::TokenBucket => LimitRule::TokenBucket { amount, period, burst },
        LimitShape::FixedWindow => LimitRule::FixedWindow { amount, period, offset: Duration::ZERO },
        LimitShape::SlidingWindow => LimitRule::SlidingWindow { amount, period },
        LimitShape::Pacing => LimitRule::Pacing { amount, period },
    }
}

struct Builder<'a> {
    plan: &'a RequestPlan,
    settings: &'a EngineSettings,
    registry: &'a mut Registry,
    models: &'a FxHashMap<Box<str>, u32>,
    contexts: &'a Contexts,
    before: Option<&'a Compiled>,
    now: Timestamp,
    rooms: Vec<Arc<Room>>,
    counters: &'a Counters,
}

impl Builder<'_> {
    fn route(
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
            let state = self.registry.backend(name, own, &self.plan.congestion, self.settings);
            let price = price(&backend.price_of(model));
            let bare = [traflux_core::plan::backend::UpstreamEndpoint {
                url: String::new(),
                weight: 1,
                tier: 0,
                region: None,
            }];
            let endpoints = if backend.url.is_empty() { &bare[..] } else { &backend.url };
            for endpoint in endpoints {
                let identity = format!("{name}|{}|{own}", endpoint.url);
                members.push(Member {
                    endpoint: self.registry.endpoints.endpoint(&identity, self.now),
                    weight: weight.saturating_mul(endpoint.weight),
                    tier: endpoint.tier,
                    price,
                });
                entries.push(RouteMember {
                    state: Arc::clone(&state),
                    url: endpoint.url.as_str().into(),
                    price,
                    context,
                    series: self.counters.series(name, own),
                    picks: self.counters.picks(rule, name),
                });
            }
        }
        if members.is_empty() {
            return Ok(None);
        }
        let settings =
            crate::balance::BalanceSettings { algorithm: balancing(algorithm), ..self.settings.balance };
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

fn balancing(algorithm: Algorithm) -> balance::Algorithm {
    match algorithm {
        Algorithm::RoundRobin => balance::Algorithm::SmoothWeighted,
        Algorithm::Weighted => balance::Algorithm::WeightedRandom,
        Algorithm::LeastConnections => balance::Algorithm::LeastConnections,
        Algorithm::LeastLatency => balance::Algorithm::LeastLatency,
        Algorithm::LeastCost => balance::Algorithm::LeastCost,
        Algorithm::HotCold => balance::Algorithm::HotCold,
        Algorithm::ConsistentHash => balance::Algorithm::Maglev,
        Algorithm::Adaptive => balance::Algorithm::Adaptive,
    }
}
