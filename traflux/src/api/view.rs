//! In which shapes does the API answer?
//!
//! Views are made of decisions and the state of the service; they hold nothing of their own. Their JSON
//! schemas are the ones of the OpenAPI document.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use traflux_core::{Attribution, Health, Rung, SolverStatus};

use crate::config::ServiceConfig;
use crate::controller::{Decision, Mode};
use crate::service::{ServiceState, TrainingView};

/// How it is going, in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Everything is as it should be.
    Ok,
    /// Traffic is controlled, but something is wrong with it.
    Degraded,
    /// Traffic is not controlled: no tick yet, or nothing fresh to act on.
    Alarm,
}

/// Something that somebody should look at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Alarm {
    /// A stable name.
    pub code: String,
    /// How bad it is.
    pub verdict: Verdict,
    /// What it is, in words.
    pub message: String,
}

/// Whether the service is ready.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Readiness {
    /// Whether a first plan was handed over and a tick was made.
    pub ready: bool,
    /// Why it is not.
    pub reasons: Vec<String>,
}

impl Readiness {
    pub(super) fn of(state: &ServiceState) -> Self {
        let ready = state.is_ready();
        let mut reasons = Vec::new();
        if !ready {
            reasons.extend(state.decisions(|log| match log.last() {
                None => vec!["no tick has been made yet".to_owned()],
                Some(last) => last.failures.iter().map(|f| format!("{}: {}", f.stage, f.message)).collect(),
            }));
            if reasons.is_empty() {
                reasons.push("the first plan has not been handed over yet".to_owned());
            }
        }
        Self { ready, reasons }
    }
}

/// Health of one endpoint.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct EndpointHealth {
    /// Its name.
    pub name: String,
    /// Health.
    pub health: Health,
    /// Why it is slow, where it is.
    pub attribution: Attribution,
    /// Share of failed requests.
    pub error_ratio: f64,
    /// Load over capacity.
    pub utilization: f64,
    /// Age of its measurements, seconds; `null` when it was never measured.
    pub age_s: Option<f64>,
}

/// How endpoints, measurements and the loop are.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct HealthReport {
    /// In one word.
    pub verdict: Verdict,
    /// Whether the first plan was handed over and a tick was made.
    pub ready: bool,
    /// Time since the start, seconds.
    pub uptime_s: f64,
    /// Ticks so far.
    pub ticks: u64,
    /// Time since the last tick, seconds; `null` before the first.
    pub last_tick_age_s: Option<f64>,
    /// Where the ladder of failure stands.
    #[serde(flatten)]
    pub rung: Rung,
    /// Age of the freshest measurement of any endpoint, seconds.
    pub freshest_age_s: Option<f64>,
    /// What somebody should look at.
    pub alarms: Vec<Alarm>,
    /// What the metrics source wants known.
    pub warnings: Vec<String>,
    /// Endpoints as last estimated; empty before the first estimate.
    pub endpoints: Vec<EndpointHealth>,
}

impl HealthReport {
    pub(super) fn of(state: &ServiceState) -> Self {
        let last = state.decisions(|log| log.last().cloned());
        let ready = state.is_ready();
        let alarms = alarms(last.as_ref(), ready, &state.data_plane());
        let endpoints: Vec<EndpointHealth> =
            last.iter().flat_map(|d| &d.endpoints).map(endpoint_health).collect();
        Self {
            verdict: verdict(&alarms),
            ready,
            uptime_s: state.uptime().as_secs_f64(),
            ticks: state.ticks(),
            last_tick_age_s: state.since_last_tick().map(|age| age.as_secs_f64()),
            rung: last.as_ref().map_or(Rung::Normal, |d| d.rung),
            freshest_age_s: endpoints.iter().filter_map(|e| e.age_s).reduce(f64::min),
            alarms,
            warnings: last.map(|d| d.warnings).unwrap_or_default(),
            endpoints,
        }
    }
}

fn endpoint_health(group: &crate::controller::GroupView) -> EndpointHealth {
    EndpointHealth {
        name: group.name.clone(),
        health: group.health,
        attribution: group.attribution,
        error_ratio: group.error_ratio,
        utilization: group.utilization,
        age_s: group.age_s,
    }
}

fn verdict(alarms: &[Alarm]) -> Verdict {
    alarms.iter().map(|a| a.verdict).max().unwrap_or(Verdict::Ok)
}

/// What somebody should look at, the worst first.
fn alarms(last: Option<&Decision>, ready: bool, data_plane: &Value) -> Vec<Alarm> {
    let mut alarms = Vec::new();
    let mut raise = |verdict, code: &str, message: String| {
        alarms.push(Alarm { code: code.to_owned(), verdict, message });
    };
    let Some(last) = last else {
        raise(Verdict::Alarm, "no_tick", "no tick has been made yet".to_owned());
        return alarms;
    };
    match last.rung {
        Rung::Normal => {}
        Rung::Hold => raise(
            Verdict::Degraded,
            "metrics_missing",
            "metrics failed a moment ago; the plan in force is held".to_owned(),
        ),
        Rung::Alarm => raise(
            Verdict::Alarm,
            "metrics_stale",
            "no fresh metrics for long; the plan in force is held".to_owned(),
        ),
        Rung::Ramp { progress } => raise(
            Verdict::Alarm,
            "metrics_lost",
            format!("no fresh metrics; {:.0} % of the way to the static weights", progress * 100.0),
        ),
    }
    if !ready {
        raise(Verdict::Alarm, "not_ready", "the first plan has not been handed over yet".to_owned());
    }
    for failure in &last.failures {
        raise(Verdict::Degraded, failure.code, format!("{}: {}", failure.stage, failure.message));
    }
    if last.solver.as_ref().is_some_and(|s| s.status == SolverStatus::Overloaded) {
        raise(
            Verdict::Degraded,
            "overloaded",
            "demand exceeds the capacity that can be counted on".to_owned(),
        );
    }
    for endpoint in &last.endpoints {
        match endpoint.health {
            Health::Unhealthy => {
                raise(Verdict::Degraded, "endpoint_unhealthy", format!("{} is unhealthy", endpoint.name));
            }
            Health::Degraded => {
                raise(Verdict::Degraded, "endpoint_degraded", format!("{} is in breach", endpoint.name));
            }
            Health::Healthy | Health::Unknown => {}
        }
    }
    for group in GroupInForce::of(data_plane) {
        if group.nodes == Some(0) {
            raise(
                Verdict::Degraded,
                "group_disconnected",
                format!("no data plane of {} is connected", group.group),
            );
        }
        if group.refused > 0 {
            raise(
                Verdict::Degraded,
                "resource_refused",
                format!("{} resources were refused by data planes of {}", group.refused, group.group),
            );
        }
    }
    alarms.sort_by_key(|a| std::cmp::Reverse(a.verdict));
    alarms
}

/// A decision in one line.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct DecisionSummary {
    /// Number of the tick.
    pub tick: u64,
    /// When, in seconds since the epoch.
    pub at_s: f64,
    /// Where the ladder of failure stood.
    #[serde(flatten)]
    pub rung: Rung,
    /// Version of the plan.
    pub plan_version: String,
    /// Whether a plan was pushed.
    pub pushed: bool,
    /// Fraction of traffic moved.
    pub churn: f64,
    /// What might move, and why.
    pub critical: Vec<(String, String)>,
    /// Changes by the guard.
    pub guard_actions: usize,
    /// Why the split is as it is, its first three sentences.
    pub explanation: Vec<String>,
    /// Stages that failed, by their codes.
    pub failures: Vec<String>,
}

impl DecisionSummary {
    fn of(decision: &Decision) -> Self {
        Self {
            tick: decision.tick,
            at_s: decision.at_s,
            rung: decision.rung,
            plan_version: decision.plan_version.clone(),
            pushed: decision.pushed,
            churn: decision.churn,
            critical: decision.critical.iter().map(|(n, r)| (n.clone(), (*r).to_owned())).collect(),
            guard_actions: decision.guard.len(),
            explanation: decision.explanation.iter().take(3).cloned().collect(),
            failures: decision.failures.iter().map(|f| f.code.to_owned()).collect(),
        }
    }
}

/// Everything at a glance.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct StatusReport {
    /// Version of the program.
    pub version: String,
    /// In one word.
    pub verdict: Verdict,
    /// Whether the first plan was handed over and a tick was made.
    pub ready: bool,
    /// Time since the start, seconds.
    pub uptime_s: f64,
    /// Ticks so far.
    pub ticks: u64,
    /// Mode of the controller; `null` before the first tick.
    pub mode: Option<Mode>,
    /// Whether weights are frozen.
    pub frozen: bool,
    /// What somebody should look at.
    pub alarms: Vec<Alarm>,
    /// The latest decision in full; `null` before the first tick.
    pub decision: Option<Decision>,
    /// The latest decisions in one line each, newest first.
    pub recent: Vec<DecisionSummary>,
    /// Node groups: what they were sent, what is in force, how many nodes are connected.
    pub groups: Vec<GroupInForce>,
    /// Everything known of the data planes.
    pub data_plane: Value,
    /// The training side.
    pub training: TrainingView,
}

/// Lines of [`StatusReport::recent`].
const RECENT: usize = 12;

impl StatusReport {
    pub(super) fn of(state: &ServiceState) -> Self {
        let (last, recent) = state.decisions(|log| {
            let recent: Vec<DecisionSummary> =
                log.newest_first().take(RECENT).map(DecisionSummary::of).collect();
            (log.last().cloned(), recent)
        });
        let ready = state.is_ready();
        let data_plane = state.data_plane();
        let alarms = alarms(last.as_ref(), ready, &data_plane);
        Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            verdict: verdict(&alarms),
            ready,
            uptime_s: state.uptime().as_secs_f64(),
            ticks: state.ticks(),
            mode: last.as_ref().map(|d| d.mode),
            frozen: last.as_ref().is_some_and(|d| d.frozen),
            alarms,
            decision: last,
            recent,
            groups: GroupInForce::of(&data_plane),
            data_plane,
            training: state.training(),
        }
    }
}

/// What one node group was sent, and what it has in force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct GroupInForce {
    /// The group: a source.
    pub group: String,
    /// Version of the plan that it was sent.
    pub target: Option<String>,
    /// Version of the plan that all its connected nodes acknowledged.
    pub in_force: Option<String>,
    /// Nodes connected, where known.
    pub nodes: Option<u64>,
    /// Resources that a node refused and that are not sent again.
    pub refused: u64,
}

impl GroupInForce {
    /// Reads the groups out of the description of the data planes.
    fn of(data_plane: &Value) -> Vec<Self> {
        let groups = data_plane.get("groups").and_then(Value::as_array);
        groups.into_iter().flatten().filter_map(Self::one).collect()
    }

    fn one(group: &Value) -> Option<Self> {
        let text = |value: &Value| value.as_str().map(str::to_owned);
        Some(Self {
            group: text(group.get("group")?)?,
            target: group.get("target").and_then(text),
            in_force: group.get("in_force").and_then(|f| f.get("version")).and_then(text),
            nodes: group.get("nodes").and_then(Value::as_u64),
            refused: group.get("parked").and_then(Value::as_array).map_or(0, |parked| parked.len() as u64),
        })
    }
}

/// Share and weight of an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, JsonSchema)]
pub struct EndpointWeight {
    /// Fraction of the source's traffic, in [0, 1].
    pub share: f64,
    /// The integer sent to the data plane; 0 leaves the endpoint out.
    pub weight: u32,
}

/// The weights in force.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct WeightsReport {
    /// Version of the plan; `null` before the first tick.
    pub plan_version: Option<String>,
    /// When they were looked at, in seconds since the epoch.
    pub at_s: Option<f64>,
    /// Service → source → endpoint.
    pub services: BTreeMap<String, BTreeMap<String, BTreeMap<String, EndpointWeight>>>,
    /// By node group: what it was sent, and what it has in force.
    pub groups: Vec<GroupInForce>,
}

impl WeightsReport {
    pub(super) fn of(state: &ServiceState) -> Self {
        let groups = GroupInForce::of(&state.data_plane());
        state.decisions(|log| {
            let last = log.last();
            Self {
                plan_version: last.map(|d| d.plan_version.clone()),
                at_s: last.map(|d| d.at_s),
                services: last.map(services_of).unwrap_or_default(),
                groups,
            }
        })
    }
}

fn services_of(decision: &Decision) -> BTreeMap<String, BTreeMap<String, BTreeMap<String, EndpointWeight>>> {
    let mut services: BTreeMap<String, BTreeMap<String, BTreeMap<String, EndpointWeight>>> = BTreeMap::new();
    for flow in &decision.flows {
        let weights: BTreeMap<&str, u32> = flow.weights.iter().map(|(n, w)| (n.as_str(), *w)).collect();
        let row = flow.shares.iter().map(|(name, share)| {
            let weight = weights.get(name.as_str()).copied().unwrap_or(0);
            (name.clone(), EndpointWeight { share: *share, weight })
        });
        services.entry(flow.service.clone()).or_default().insert(flow.source.clone(), row.collect());
    }
    services
}

/// Decisions, newest first.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct DecisionPage {
    /// The decisions.
    pub decisions: Vec<Decision>,
    /// The value of `before` that continues the list; `null` at its end.
    pub next_before: Option<u64>,
}

/// Numbers of the loop.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct LoopMetrics {
    /// Time since the start, seconds.
    pub uptime_s: f64,
    /// Ticks so far.
    pub ticks: u64,
    /// Decisions that the log holds.
    pub decisions_kept: usize,
    /// Of those, the ones with a stage that failed.
    pub ticks_with_failures: usize,
    /// Of those, the ones off the normal rung.
    pub ticks_off_normal: usize,
    /// Failures of the decisions kept, by code.
    pub failures: BTreeMap<String, u64>,
    /// Changes by the guard in the decisions kept, by reason.
    pub guard_actions: BTreeMap<String, u64>,
}

impl LoopMetrics {
    fn of(state: &ServiceState) -> Self {
        let mut metrics = Self {
            uptime_s: state.uptime().as_secs_f64(),
            ticks: state.ticks(),
            decisions_kept: 0,
            ticks_with_failures: 0,
            ticks_off_normal: 0,
            failures: BTreeMap::new(),
            guard_actions: BTreeMap::new(),
        };
        state.decisions(|log| {
            for decision in log.newest_first() {
                metrics.decisions_kept += 1;
                metrics.ticks_with_failures += usize::from(!decision.failures.is_empty());
                metrics.ticks_off_normal += usize::from(decision.rung != Rung::Normal);
                for failure in &decision.failures {
                    *metrics.failures.entry(failure.code.to_owned()).or_default() += 1;
                }
                for action in &decision.guard {
                    *metrics.guard_actions.entry(action.reason.to_owned()).or_default() += 1;
                }
            }
        });
        metrics
    }
}

/// Shares at one moment.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct WeightMoment {
    /// Number of the tick.
    pub tick: u64,
    /// When, in seconds since the epoch.
    pub at_s: f64,
    /// Version of the plan.
    pub plan_version: String,
    /// Fraction of traffic moved.
    pub churn: f64,
    /// Flow → endpoint → share.
    pub shares: BTreeMap<String, BTreeMap<String, f64>>,
}

/// How weights moved.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct WeightMetrics {
    /// Plans pushed in the decisions kept.
    pub pushes: u64,
    /// Fraction of traffic moved by them in sum.
    pub churn: f64,
    /// The latest ticks that pushed a plan, newest first, and the latest of all.
    pub moments: Vec<WeightMoment>,
}

/// Moments of [`WeightMetrics::moments`].
const MOMENTS: usize = 60;

impl WeightMetrics {
    pub(super) fn of(state: &ServiceState) -> Self {
        state.decisions(|log| {
            let mut metrics = Self { pushes: 0, churn: 0.0, moments: Vec::new() };
            for (ix, decision) in log.newest_first().enumerate() {
                metrics.pushes += u64::from(decision.pushed);
                metrics.churn += decision.churn;
                if (decision.pushed || ix == 0) && metrics.moments.len() < MOMENTS {
                    metrics.moments.push(moment(decision));
                }
            }
            metrics
        })
    }
}

fn moment(decision: &Decision) -> WeightMoment {
    WeightMoment {
        tick: decision.tick,
        at_s: decision.at_s,
        plan_version: decision.plan_version.clone(),
        churn: decision.churn,
        shares: decision
            .flows
            .iter()
            .map(|flow| (flow.name.clone(), flow.shares.iter().cloned().collect()))
            .collect(),
    }
}

/// All numbers at once.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct MetricsReport {
    /// The loop.
    #[serde(rename = "loop")]
    pub of_loop: LoopMetrics,
    /// The training side.
    pub training: TrainingView,
    /// How weights moved.
    pub weights: WeightMetrics,
}

impl MetricsReport {
    pub(super) fn of(state: &ServiceState) -> Self {
        Self {
            of_loop: LoopMetrics::of(state),
            training: state.training(),
            weights: WeightMetrics::of(state),
        }
    }
}

/// Whether weights are frozen now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
pub struct FreezeReply {
    /// Whether they are.
    pub frozen: bool,
}

/// The services that replace those in force.
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ServicesRequest {
    /// All services with all their endpoints, as in the configuration.
    pub services: Vec<ServiceConfig>,
}

/// What was taken over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
pub struct ServicesReply {
    /// Services.
    pub services: usize,
    /// Endpoints of all of them.
    pub endpoints: usize,
}
