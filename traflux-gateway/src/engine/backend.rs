//! What is known of a backend, whatever the plan in force?

use std::collections::HashMap;
use std::sync::Arc;

use traflux_core::Timestamp;
use traflux_core::plan::congestion::CongestionPlan;
use traflux_core::plan::limit::{LimitPlan, LimitScope};
use traflux_core::plan::requests::RequestPlan;

use super::probing::Probes;
use super::settings::EngineSettings;
use crate::balance::{AdaptiveWeights, EndpointTable, LatencyPlan};
use crate::congestion::{BackendSignal, Ceiling, ConcurrencyLimit, CoolDown, LoadReport, Throttle};
use crate::error::GatewayError;
use crate::limit::KeyTable;
use crate::observe::TenantMetrics;
use crate::retry::LatencyQuantile;

/// Congestion of one backend and model.
#[derive(Debug)]
pub(super) struct BackendState {
    pub(super) name: Arc<str>,
    pub(super) concurrency: ConcurrencyLimit,
    pub(super) throttle: Throttle,
    pub(super) cool_down: CoolDown,
    pub(super) requests_left: Ceiling,
    pub(super) tokens_left: Ceiling,
    pub(super) signal: BackendSignal,
    /// How long requests take that were sent: half of them, and all but the slowest.
    pub(super) service: LatencyQuantile,
}

impl BackendState {
    /// Takes in what the backend measures of itself.
    pub(super) fn report_load(&self, now: Timestamp, report: LoadReport) {
        self.signal.report(now, report, self.concurrency.in_flight());
    }
}

/// A request with a deadline is sent early enough for this share of answers to be in time. The slowest are the longest:
/// a hundredth of the answers is some 4 % of the work, where lengths vary as those of chats do.
const IN_TIME: f64 = 0.99;
/// Answers after which that time is told anew.
const ANSWERS: u32 = 200;

/// State by name: what a reload finds again.
#[derive(Debug)]
pub(super) struct Registry {
    pub(super) endpoints: EndpointTable,
    pub(super) tenants: Arc<KeyTable>,
    pub(super) used: Arc<TenantMetrics>,
    backends: HashMap<(String, String), Arc<BackendState>>,
    /// What adapts the weights of a pool, by rule and model.
    pub(super) adaptive: HashMap<(Arc<str>, usize), AdaptiveWeights>,
    pub(super) adapted: Timestamp,
    /// What a controller set: weights of backends by rule.
    pub(super) set: HashMap<String, SetByController>,
    /// Endpoints that are asked how they are.
    pub(super) probes: Probes,
}

/// States by name, as they were at a time.
#[derive(Debug)]
pub(super) struct Known {
    endpoints: EndpointTable,
    backends: HashMap<(String, String), Arc<BackendState>>,
}

/// Weights of a controller.
#[derive(Debug, Clone)]
pub(super) struct SetByController {
    pub(super) weights: HashMap<String, u32>,
    pub(super) at: Timestamp,
}

impl Registry {
    pub(super) fn new(
        plan: &RequestPlan,
        settings: &EngineSettings,
        now: Timestamp,
    ) -> Result<Self, GatewayError> {
        let by_tenant = plan.limits.iter().filter(|limit| limit.by.contains(&LimitScope::Tenant));
        let most = by_tenant.filter_map(|limit| limit.max_keys).max().unwrap_or_default();
        let tenants = most.max(plan.queue.max_tenants).max(LimitPlan::USUAL_MAX_KEYS) as usize;
        let tenants = Arc::new(KeyTable::new(tenants, settings.seed));
        // Always known, so that a full table takes it for none of the others.
        tenants.insert("", |_| false);
        Ok(Self {
            endpoints: EndpointTable::new(&LatencyPlan::default()),
            tenants,
            used: Arc::new(TenantMetrics::new(settings.tenants.clone())?),
            backends: HashMap::new(),
            adaptive: HashMap::new(),
            adapted: now,
            set: HashMap::new(),
            probes: Probes::default(),
        })
    }

    /// What compiling a plan changes here, to be [put back](Self::put_back) where the plan is refused.
    pub(super) fn known(&self) -> Known {
        Known { endpoints: self.endpoints.snapshot(), backends: self.backends.clone() }
    }

    /// As it was before a plan that is refused.
    pub(super) fn put_back(&mut self, known: Known) {
        (self.endpoints, self.backends) = (known.endpoints, known.backends);
    }

    /// Forgets all states, because their settings changed; those of requests in flight live on until these end.
    pub(super) fn forget_backends(&mut self) {
        self.backends.clear();
    }

    /// All states, for upkeep and metrics.
    pub(super) fn backends(&self) -> impl Iterator<Item = &Arc<BackendState>> {
        self.backends.values()
    }

    /// The state of a backend and model, if it is known; of the backend where it makes no difference by model.
    pub(super) fn find(&self, name: &str, model: &str) -> Option<&Arc<BackendState>> {
        let of = |model: &str| self.backends.get(&(name.to_owned(), model.to_owned()));
        of(model).or_else(|| of(""))
    }

    /// The state of a backend and model, a new one if there is none yet.
    pub(super) fn backend(&mut self, name: &str, model: &str, plan: &CongestionPlan) -> Arc<BackendState> {
        let key = (name.to_owned(), model.to_owned());
        let state = self.backends.entry(key).or_insert_with(|| {
            Arc::new(BackendState {
                name: name.into(),
                concurrency: ConcurrencyLimit::new(&plan.concurrency.clone().unwrap_or_default()),
                throttle: Throttle::new(&plan.throttle.clone().unwrap_or_default()),
                cool_down: CoolDown::new(&plan.cool_down),
                requests_left: Ceiling::default(),
                tokens_left: Ceiling::default(),
                signal: BackendSignal::new(&plan.signal),
                service: LatencyQuantile::early(IN_TIME, ANSWERS),
            })
        });
        Arc::clone(state)
    }
}
