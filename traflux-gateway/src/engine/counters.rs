//! Under which names is everything counted?

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use traflux_core::plan::requests::RequestPlan;
use traflux_core::plan::routing::Algorithm;

use super::decision::Reason;
use super::settings::EngineSettings;
use crate::error::GatewayError;
use crate::observe::{
    BackendModel, BandIx, Decider, DeciderIx, Metrics, MetricsLayout, ReasonIx, Route, RouteIx, SeriesIx,
};

/// What a decision that sends is counted under.
pub(super) const FORWARDED: &str = "forwarded";
/// What a decision to wait is counted under.
pub(super) const WAITING: &str = "waiting";
/// What a decision to let a request have its turn later is counted under.
pub(super) const LATER: &str = "later";
/// The rule of requests that none matches.
const NO_RULE: &str = "none";

/// Counters of a plan. A plan that has the same names goes on counting where the one before stopped.
#[derive(Debug)]
pub(super) struct Counters {
    pub(super) metrics: Arc<Metrics>,
    /// Position of [`FORWARDED`], which nearly every decision counts.
    pub(super) forwarded: ReasonIx,
    reasons: BTreeMap<&'static str, ReasonIx>,
}

impl Counters {
    pub(super) fn new(
        plan: &RequestPlan,
        settings: &EngineSettings,
        before: Option<&Arc<Self>>,
    ) -> Result<Arc<Self>, GatewayError> {
        let layout = layout(plan);
        if let Some(before) = before.filter(|before| *before.metrics.layout() == layout) {
            return Ok(Arc::clone(before));
        }
        let reasons: BTreeMap<&'static str, ReasonIx> =
            reasons().filter_map(|reason| layout.reason_ix(reason).map(|ix| (reason, ix))).collect();
        let forwarded = reasons.get(FORWARDED).copied().unwrap_or(ReasonIx(u32::MAX));
        let metrics = Arc::new(Metrics::new(layout, &settings.metrics)?);
        Ok(Arc::new(Self { metrics, forwarded, reasons }))
    }

    pub(super) fn series(&self, backend: &str, model: &str) -> SeriesIx {
        self.metrics.layout().series_ix(backend, model).unwrap_or(SeriesIx(u32::MAX))
    }

    pub(super) fn picks(&self, rule: &str, backend: &str) -> RouteIx {
        self.metrics.layout().route_ix(rule, backend).unwrap_or(RouteIx(u32::MAX))
    }

    pub(super) fn decider(&self, rule: &str, algorithm: Algorithm) -> DeciderIx {
        self.metrics.layout().decider_ix(rule, algorithm.name()).unwrap_or(DeciderIx(u32::MAX))
    }

    /// The decider of requests that no rule matches.
    pub(super) fn no_rule(&self) -> DeciderIx {
        self.metrics.layout().decider_ix(NO_RULE, NO_RULE).unwrap_or(DeciderIx(u32::MAX))
    }

    pub(super) fn reason(&self, reason: &'static str) -> ReasonIx {
        self.reasons.get(reason).copied().unwrap_or(ReasonIx(u32::MAX))
    }

    pub(super) fn band(&self, band: u8) -> BandIx {
        BandIx(u32::from(band))
    }
}

fn reasons() -> impl Iterator<Item = &'static str> {
    [FORWARDED, WAITING, LATER].into_iter().chain(Reason::codes())
}

fn layout(plan: &RequestPlan) -> MetricsLayout {
    let mut series = BTreeSet::new();
    for name in plan.backend_names() {
        series.insert((name.to_owned(), String::new()));
        let models = plan.backends.get(name).into_iter().flat_map(|backend| backend.models.keys());
        series.extend(models.map(|model| (name.to_owned(), model.clone())));
    }
    let (mut routes, mut deciders) = (BTreeSet::new(), BTreeSet::new());
    let rules = plan.routing.rules.iter().map(|rule| (rule.name.as_str(), &rule.route));
    for (rule, route) in rules.chain(plan.routing.default.iter().map(|route| ("default", route))) {
        routes.extend(route.backend_names().map(|backend| (rule.to_owned(), backend.to_owned())));
        let algorithm = route.algorithm.unwrap_or(plan.routing.strategy);
        deciders.insert((rule.to_owned(), algorithm.name().to_owned()));
    }
    deciders.insert((NO_RULE.to_owned(), NO_RULE.to_owned()));
    let bands = plan.queue.bands.iter().map(|band| band.name.clone());
    MetricsLayout {
        series: series.into_iter().map(|(backend, model)| BackendModel { backend, model }).collect(),
        routes: routes.into_iter().map(|(rule, backend)| Route { rule, backend }).collect(),
        deciders: deciders.into_iter().map(|(rule, algorithm)| Decider { rule, algorithm }).collect(),
        reasons: reasons().collect::<BTreeSet<_>>().into_iter().map(str::to_owned).collect(),
        bands: bands.collect(),
    }
}
