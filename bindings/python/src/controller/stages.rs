//! How does an object of Python stand in the place of a stage?

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};
use serde::Deserialize;
use traflux::controller::readings;
use traflux_core::{
    Action, ActuateError, Actuator, BoxFuture, Estimate, EstimateError, Estimator, FleetEstimator, GroupIx,
    InForce, MetricsSource, NodeGroup, Observation as Seen, ObserveError, Policy, PolicyError, Receipt,
    Recorder, Reward, RewardFunction, Telemetry, Topology, TrafficPlan, Transition as Step, Window,
};

use super::lock;
use super::views::{Fixed, Observation, Transition};
use super::worker::{Failed, Now, Reports, Worker};
use crate::errors::input;
use crate::gateway::from_json;

/// Observe: ``collect(topology, at, window_s)``.
pub(super) struct PySource {
    pub(super) worker: Worker,
    pub(super) fixed: Arc<Fixed>,
}

impl PySource {
    fn ask(&self, window: Window) -> Result<Telemetry, ObserveError> {
        let source_name = || "the source".to_owned();
        let late = |limit: Duration| ObserveError::Timeout {
            source_name: source_name(),
            limit_ms: u64::try_from(limit.as_millis()).unwrap_or(u64::MAX),
        };
        let bad = |reason| ObserveError::BadAnswer { source_name: source_name(), reason };
        let given = self.worker.call("collect", |py| {
            let topology = self.fixed.view(py)?;
            (topology, window.at.as_secs_f64(), window.length.as_secs_f64()).into_pyobject(py)
        });
        let text = given.map_err(|failed| match failed {
            Failed::Late(limit) => late(limit),
            Failed::Busy => late(self.worker.deadline()),
            Failed::Raised(reason) => bad(reason),
        })?;
        readings::read(&text, &self.fixed.topology, window.at, window.length).map_err(bad)
    }
}

impl MetricsSource for PySource {
    fn collect<'a>(
        &'a self,
        _: &'a Topology,
        window: Window,
    ) -> BoxFuture<'a, Result<Telemetry, ObserveError>> {
        Box::pin(async move { self.ask(window) })
    }
}

/// Estimate: ``estimate(topology, telemetry, estimate)`` after the built-in estimator.
pub(super) struct PyEstimator {
    pub(super) worker: Worker,
    pub(super) before: FleetEstimator,
    pub(super) fixed: Arc<Fixed>,
    pub(super) reports: Reports,
}

impl Estimator for PyEstimator {
    fn estimate(&mut self, topology: &Topology, telemetry: &Telemetry) -> Result<Estimate, EstimateError> {
        let estimate = self.before.estimate(topology, telemetry)?;
        let (routes, resources, flows) =
            (estimate.routes.len(), estimate.resources.len(), estimate.flows.len());
        let (at, generation) = (estimate.at, estimate.generation);
        let collected = readings::text(telemetry, &self.fixed.topology);
        let given = self.worker.call("estimate", |py| {
            let text = serde_json::to_string(&estimate).map_err(|error| input("input_estimate", error))?;
            (self.fixed.view(py)?, from_json(py, &collected)?, from_json(py, &text)?).into_pyobject(py)
        });
        let given = given.and_then(|text| read::<Estimate>("an estimate", &text));
        // What it gave cannot be used, which is what the error says; why is in the report.
        let unusable = EstimateError::Shape { what: "usable estimates", expected: 1, found: 0 };
        match given {
            Ok(given) if given.generation != generation => {
                Err(EstimateError::StaleGeneration { expected: generation, found: given.generation })
            }
            Ok(given) => {
                let lengths = [
                    ("routes", routes, given.routes.len()),
                    ("resources", resources, given.resources.len()),
                    ("flows", flows, given.flows.len()),
                ];
                match lengths.into_iter().find(|(_, expected, found)| expected != found) {
                    Some((what, expected, found)) => Err(EstimateError::Shape { what, expected, found }),
                    None => Ok(Estimate { at, ..given }),
                }
            }
            Err(failed) => {
                self.reports.add("estimate", "stage_failed", &failed);
                Err(unusable)
            }
        }
    }

    fn rebuild(&mut self, old: &Topology, new: &Topology) {
        self.before.rebuild(old, new);
    }
}

/// Act: ``act(observation)``.
pub(super) struct PyPolicy {
    pub(super) worker: Worker,
    pub(super) fixed: Arc<Fixed>,
    /// Whether its action is held for a whole step.
    pub(super) holds: bool,
}

impl Policy for PyPolicy {
    fn act(&mut self, observation: &Seen) -> Result<Action, PolicyError> {
        let (fixed, seen) = (Arc::clone(&self.fixed), observation.clone());
        self.worker
            .call("act", |py| (Observation { seen, fixed },).into_pyobject(py))
            .and_then(|text| action(&text, &self.fixed).map_err(Failed::Raised))
            .map_err(|failed| PolicyError::Failed { reason: failed.to_string() })
    }

    fn holds(&self) -> bool {
        self.holds
    }

    fn freezes_when_it_fails(&self) -> bool {
        true
    }
}

/// A group by its index or its name.
#[derive(Deserialize)]
#[serde(untagged, expecting = "a group is an index or a name")]
enum GroupName {
    Ix(usize),
    Name(String),
}

/// What a policy gives, where it is more than groups.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct GivenAction {
    critical: Vec<GroupName>,
    headroom: f64,
    cost_multipliers: Multipliers,
    log_probability: f64,
    value: Option<f64>,
}

/// Factors on the latency of groups: by name, or one for each.
#[derive(Deserialize)]
#[serde(untagged, expecting = "cost multipliers are numbers by name, or one for each group")]
enum Multipliers {
    Named(BTreeMap<String, f64>),
    Each(Vec<f64>),
}

impl Default for Multipliers {
    fn default() -> Self {
        Self::Each(Vec::new())
    }
}

/// Reads an action strictly: nothing is made fit.
fn action(text: &str, fixed: &Fixed) -> Result<Action, String> {
    let groups = fixed.topology.groups().len();
    let named = |name: &str| fixed.group(name).ok_or_else(|| format!("there is no group `{name}`"));
    let group = |given: GroupName| match given {
        GroupName::Ix(ix) if ix < groups => Ok(GroupIx::from(ix)),
        GroupName::Ix(ix) => Err(format!("there is no group {ix}, there are {groups}")),
        GroupName::Name(name) => named(&name).map(GroupIx::from),
    };
    let critical = |given: Vec<GroupName>| given.into_iter().map(group).collect::<Result<Vec<_>, _>>();
    // One by one, because of what an untagged reader says of its own.
    if text.trim_start().starts_with('[') {
        let given: Vec<GroupName> = read("an action", text).map_err(|failed| failed.to_string())?;
        return Ok(Action::choose(critical(given)?));
    }
    let given: GivenAction = read("an action", text).map_err(|failed| failed.to_string())?;
    let cost_multipliers = match given.cost_multipliers {
        Multipliers::Each(each) if each.is_empty() || each.len() == groups => each,
        Multipliers::Each(each) => {
            return Err(format!("there are {} cost multipliers for {groups} groups", each.len()));
        }
        Multipliers::Named(by_name) => {
            let mut all = vec![1.0; if by_name.is_empty() { 0 } else { groups }];
            for (name, multiplier) in &by_name {
                all[named(name)?] = *multiplier;
            }
            all
        }
    };
    Ok(Action {
        critical: critical(given.critical)?,
        headroom: given.headroom,
        cost_multipliers,
        log_probability: given.log_probability,
        value: given.value,
        ..Action::default()
    })
}

fn read<T: serde::de::DeserializeOwned>(what: &str, text: &str) -> Result<T, Failed> {
    serde_json::from_str(text).map_err(|error| Failed::Raised(format!("not {what}: {error}")))
}

/// Reward: ``reward(before, after)``. A step whose reward failed earns nothing and is not recorded.
pub(super) struct PyReward {
    pub(super) worker: Worker,
    pub(super) fixed: Arc<Fixed>,
    pub(super) reports: Reports,
}

impl RewardFunction for PyReward {
    fn reward(&self, before: &Telemetry, after: &Telemetry) -> Reward {
        let texts = [before, after].map(|collected| readings::text(collected, &self.fixed.topology));
        let given = self
            .worker
            .call("reward", |py| PyTuple::new(py, [from_json(py, &texts[0])?, from_json(py, &texts[1])?]));
        given.and_then(|text| read::<GivenReward>("a reward", &text)).map_or_else(
            |failed| {
                self.reports.add("reward", "stage_failed", failed);
                Reward::default()
            },
            Reward::from,
        )
    }
}

/// A number, or terms by name.
#[derive(Deserialize)]
#[serde(untagged, expecting = "expected a number, or numbers by name")]
enum GivenReward {
    Total(f64),
    Terms(BTreeMap<String, f64>),
}

impl From<GivenReward> for Reward {
    fn from(given: GivenReward) -> Self {
        match given {
            GivenReward::Total(total) => Self { total, terms: vec![("reward".to_owned(), total)] },
            GivenReward::Terms(terms) => {
                Self { total: terms.values().sum(), terms: terms.into_iter().collect() }
            }
        }
    }
}

/// Record: ``record(transition)``.
pub(super) struct PyRecorder {
    pub(super) worker: Worker,
    pub(super) fixed: Arc<Fixed>,
    pub(super) reports: Reports,
}

impl Recorder for PyRecorder {
    fn record(&mut self, transition: Step) {
        if self.reports.has("reward") {
            return;
        }
        let fixed = Arc::clone(&self.fixed);
        let step = Transition { step: transition, fixed };
        let taken = self.worker.call("record", |py| (step,).into_pyobject(py));
        if let Err(failed) = taken {
            self.reports.add("record", "stage_failed", failed);
        }
    }
}

/// Control: ``apply(plan)``, where there is an object; what it took is in force.
pub(super) struct PyActuator {
    worker: Option<Worker>,
    in_force: Mutex<Option<InForce>>,
    now: Now,
}

impl PyActuator {
    pub(super) fn new(worker: Option<Worker>, now: Now) -> Self {
        Self { worker, in_force: Mutex::new(None), now }
    }

    fn take(&self, plan: &TrafficPlan) -> Result<Receipt, ActuateError> {
        let version = plan.version().clone();
        if let Some(worker) = &self.worker {
            let (number, rows) = (version.as_str().to_owned(), rows(plan));
            let taken = worker.call("apply", |py| {
                let dict = PyDict::new(py);
                dict.set_item("version", number)?;
                dict.set_item("weights", rows)?;
                (dict,).into_pyobject(py)
            });
            taken.map_err(|failed| ActuateError::Unavailable { reason: failed.to_string() })?;
        }
        let mut in_force = lock(&self.in_force);
        let changed = in_force.as_ref().is_none_or(|before| before.version != version);
        if changed {
            *in_force = Some(InForce { version: version.clone(), since: self.now.get() });
        }
        Ok(Receipt { version, changed })
    }
}

/// Weights by service, source and endpoint.
type Rows = BTreeMap<String, BTreeMap<String, BTreeMap<String, u32>>>;

fn rows(plan: &TrafficPlan) -> Rows {
    plan.services()
        .iter()
        .map(|service| {
            let rows = service.rows.iter().map(|row| {
                let names = service.endpoints.iter().map(|endpoint| endpoint.name.clone());
                (row.group.0.clone(), names.zip(row.weights.iter().copied()).collect())
            });
            (service.name.clone(), rows.collect())
        })
        .collect()
}

impl Actuator for PyActuator {
    fn apply<'a>(&'a self, plan: &'a TrafficPlan) -> BoxFuture<'a, Result<Receipt, ActuateError>> {
        Box::pin(async move { self.take(plan) })
    }

    fn in_force(&self, _: &NodeGroup) -> Option<InForce> {
        lock(&self.in_force).clone()
    }

    fn is_connected(&self, _: &NodeGroup) -> bool {
        true
    }
}
