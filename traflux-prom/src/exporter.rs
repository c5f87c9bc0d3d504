//! What does Traflux say of itself?
//!
//! | metric | labels | what it is |
//! |---|---|---|
//! | `traflux_ticks_total` | | ticks of the loop |
//! | `traflux_tick_duration_seconds` | | time of one tick, observation included (histogram) |
//! | `traflux_stage_errors_total` | stage, code | stages that failed |
//! | `traflux_ladder_rung` | | 0 normal, 1 hold, 2 alarm, 3 ramp |
//! | `traflux_ladder_ramp_progress` | | how far on the way to the static split, 0 to 1 |
//! | `traflux_telemetry_age_seconds` | | age of the freshest throughput of any route |
//! | `traflux_telemetry_warnings` | | warnings of the last collection |
//! | `traflux_weight`, `traflux_share` | source, service, endpoint | integer weight sent, share decided |
//! | `traflux_guard_actions_total` | reason | what the guard changed |
//! | `traflux_plan_changes_total` | | plans that differ from the one before |
//! | `traflux_acks_total`, `traflux_nacks_total` | group | answers of data planes |
//! | `traflux_push_to_ack_seconds` | | from push to acknowledgement (histogram) |
//! | `traflux_in_force_lag_seconds` | group | time since the plan in force differs from the plan sent; 0: it does not |
//! | `traflux_solve_duration_seconds` | | time of one solution (histogram) |
//! | `traflux_theta` | | least possible maximum utilisation |
//! | `traflux_demand_rps`, `traflux_demand_upper_rps` | source, service | forecast, and its upper band |
//! | `traflux_capacity`, `traflux_capacity_lower` | resource | estimate, and its lower bound, in units per second |
//! | `traflux_reward`, `traflux_reward_term` | term | reward of the last step, and its terms |
//! | `traflux_transitions_recorded_total` | | transitions given to the learner |
//! | `traflux_transitions_dropped_total` | reason | transitions that were not |
//! | `traflux_exporter_series_dropped` | | series beyond the limit of one metric |
//!
//! Series of endpoints, sources and groups that leave the topology vanish with the next recording.

use std::collections::HashSet;
use std::hash::Hash;
use std::sync::atomic::AtomicU64;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;
use traflux_core::{
    Estimate, GuardAction, NodeGroup, Reward, Rung, Split, SplitSolution, Telemetry, Topology, WeightTable,
};

/// The content type of [`Exporter::encode`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Series of one metric; more are dropped and counted.
const SERIES_LIMIT: usize = 100_000;
/// Characters of one label value; names are cut to it.
const LABEL_LIMIT: usize = 200;

type Labels<const N: usize> = [(&'static str, String); N];
type Number = Gauge<f64, AtomicU64>;

/// Why a transition did not reach the learner.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TransitionDrop {
    /// A plan of the step was not acknowledged before the window began.
    NotAcknowledged,
    /// The learner did not keep up.
    ChannelFull,
    /// The topology changed within the step.
    TopologyChanged,
    /// Metrics were missing or too old.
    Stale,
    /// The ladder of failure left its normal rung.
    NotNormal,
}

impl TransitionDrop {
    /// A stable name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::NotAcknowledged => "not_acknowledged",
            Self::ChannelFull => "channel_full",
            Self::TopologyChanged => "topology_changed",
            Self::Stale => "stale",
            Self::NotNormal => "not_normal",
        }
    }
}

/// Traflux's own metrics. Shared by reference; recording takes no `&mut`.
#[derive(Debug)]
pub struct Exporter {
    registry: Registry,
    ticks: Counter,
    tick_duration: Histogram,
    stage_errors: Family<Labels<2>, Counter>,
    rung: Number,
    ramp_progress: Number,
    telemetry_age: Number,
    telemetry_warnings: Number,
    weights: GaugeSet<3>,
    shares: GaugeSet<3>,
    guard_actions: Family<Labels<1>, Counter>,
    plan_changes: Counter,
    acks: Family<Labels<1>, Counter>,
    nacks: Family<Labels<1>, Counter>,
    push_to_ack: Histogram,
    in_force_lag: GaugeSet<1>,
    solve_duration: Histogram,
    theta: Number,
    demand: GaugeSet<2>,
    demand_upper: GaugeSet<2>,
    capacity: GaugeSet<1>,
    capacity_lower: GaugeSet<1>,
    reward: Number,
    reward_terms: GaugeSet<1>,
    recorded: Counter,
    dropped: Family<Labels<1>, Counter>,
    series_dropped: Number,
}

impl Default for Exporter {
    fn default() -> Self {
        Self::new()
    }
}

impl Exporter {
    /// An exporter in which nothing was recorded.
    #[must_use]
    pub fn new() -> Self {
        let exporter = Self {
            registry: Registry::with_prefix("traflux"),
            ticks: Counter::default(),
            tick_duration: seconds(1e-3),
            stage_errors: Family::default(),
            rung: Number::default(),
            ramp_progress: Number::default(),
            telemetry_age: Number::default(),
            telemetry_warnings: Number::default(),
            weights: GaugeSet::default(),
            shares: GaugeSet::default(),
            guard_actions: Family::default(),
            plan_changes: Counter::default(),
            acks: Family::default(),
            nacks: Family::default(),
            push_to_ack: seconds(5e-4),
            in_force_lag: GaugeSet::default(),
            solve_duration: seconds(1e-4),
            theta: Number::default(),
            demand: GaugeSet::default(),
            demand_upper: GaugeSet::default(),
            capacity: GaugeSet::default(),
            capacity_lower: GaugeSet::default(),
            reward: Number::default(),
            reward_terms: GaugeSet::default(),
            recorded: Counter::default(),
            dropped: Family::default(),
            series_dropped: Number::default(),
        };
        exporter.registered()
    }

    fn registered(mut self) -> Self {
        let r = &mut self.registry;
        r.register("ticks", "Ticks of the loop", self.ticks.clone());
        r.register("tick_duration_seconds", "Time of one tick", self.tick_duration.clone());
        r.register("stage_errors", "Stages that failed", self.stage_errors.clone());
        r.register("ladder_rung", "Ladder of failure: 0 normal, 1 hold, 2 alarm, 3 ramp", self.rung.clone());
        r.register("ladder_ramp_progress", "Way gone to the static split", self.ramp_progress.clone());
        r.register("telemetry_age_seconds", "Age of the freshest throughput", self.telemetry_age.clone());
        r.register("telemetry_warnings", "Warnings of the last collection", self.telemetry_warnings.clone());
        r.register("weight", "Integer weight sent", self.weights.family.clone());
        r.register("share", "Share decided", self.shares.family.clone());
        r.register("guard_actions", "Changes the guard made to proposals", self.guard_actions.clone());
        r.register("plan_changes", "Plans that differ from the one before", self.plan_changes.clone());
        r.register("acks", "Plans acknowledged by data planes", self.acks.clone());
        r.register("nacks", "Plans refused by data planes", self.nacks.clone());
        r.register("push_to_ack_seconds", "Time from push to acknowledgement", self.push_to_ack.clone());
        r.register(
            "in_force_lag_seconds",
            "Time since another plan was sent",
            self.in_force_lag.family.clone(),
        );
        r.register("solve_duration_seconds", "Time of one solution", self.solve_duration.clone());
        r.register("theta", "Least possible maximum utilisation", self.theta.clone());
        r.register("demand_rps", "Demand forecast", self.demand.family.clone());
        r.register("demand_upper_rps", "Upper band of the forecast", self.demand_upper.family.clone());
        r.register("capacity", "Capacity estimate, units per second", self.capacity.family.clone());
        r.register("capacity_lower", "Lower bound of the capacity", self.capacity_lower.family.clone());
        r.register("reward", "Reward of the last step", self.reward.clone());
        r.register("reward_term", "Terms of the reward", self.reward_terms.family.clone());
        r.register("transitions_recorded", "Transitions given to the learner", self.recorded.clone());
        r.register("transitions_dropped", "Transitions not given to it", self.dropped.clone());
        r.register("exporter_series_dropped", "Series beyond the limit", self.series_dropped.clone());
        self
    }

    /// A tick ended after `duration`.
    pub fn record_tick(&self, duration: Duration) {
        self.ticks.inc();
        self.tick_duration.observe(duration.as_secs_f64());
    }

    /// A stage failed. `code` is the `code()` of its error.
    pub fn record_stage_error(&self, stage: &'static str, code: &'static str) {
        self.stage_errors.get_or_create(&[("stage", stage.into()), ("code", code.into())]).inc();
    }

    /// Where the ladder of failure stands.
    pub fn record_rung(&self, rung: Rung) {
        let (number, progress) = match rung {
            Rung::Normal => (0.0, 0.0),
            Rung::Hold => (1.0, 0.0),
            Rung::Alarm => (2.0, 0.0),
            Rung::Ramp { progress } => (3.0, progress),
        };
        self.rung.set(number);
        self.ramp_progress.set(progress);
    }

    /// What was collected. `since_fresh` is the time since any measurement was last fresh; where given, it
    /// replaces the age that a failed collection cannot have.
    pub fn record_telemetry(&self, telemetry: Option<&Telemetry>, since_fresh: Option<Duration>) {
        if let Some(telemetry) = telemetry {
            self.telemetry_warnings.set(telemetry.warnings.len() as f64);
        }
        if let Some(age) = since_fresh.or_else(|| telemetry.and_then(Telemetry::freshest)) {
            self.telemetry_age.set(age.as_secs_f64());
        }
    }

    /// The weights that are sent.
    pub fn record_weights(&self, topology: &Topology, table: &WeightTable) {
        if table.weights.len() == topology.routes().len() {
            let values = table.weights.iter().map(|weight| f64::from(*weight));
            self.note_dropped(self.weights.replace(route_labels(topology).zip(values)));
        }
    }

    /// The shares decided.
    pub fn record_shares(&self, topology: &Topology, split: &Split) {
        if split.shares().len() == topology.routes().len() {
            self.note_dropped(
                self.shares.replace(route_labels(topology).zip(split.shares().iter().copied())),
            );
        }
    }

    /// What the guard changed.
    pub fn record_guard(&self, actions: &[GuardAction]) {
        for action in actions {
            self.guard_actions.get_or_create(&[("reason", action.reason.name().into())]).inc();
        }
    }

    /// A plan differs from the one before.
    pub fn record_plan_change(&self) {
        self.plan_changes.inc();
    }

    /// A data plane of a group acknowledged a plan this long after the push.
    pub fn record_ack(&self, group: &NodeGroup, after: Duration) {
        self.acks.get_or_create(&[("group", label(&group.0))]).inc();
        self.push_to_ack.observe(after.as_secs_f64());
    }

    /// A data plane of a group refused a plan.
    pub fn record_nack(&self, group: &NodeGroup) {
        self.nacks.get_or_create(&[("group", label(&group.0))]).inc();
    }

    /// For each group how long its plan in force has differed from the plan sent; zero where they are equal.
    /// Groups that are not listed are gone, with their counts of answers.
    pub fn record_in_force<'a>(&self, lags: impl IntoIterator<Item = (&'a NodeGroup, Duration)>) {
        let lags = lags.into_iter().map(|(group, lag)| ([("group", label(&group.0))], lag.as_secs_f64()));
        let outcome = self.in_force_lag.replace(lags);
        for gone in &outcome.gone {
            self.acks.remove(gone);
            self.nacks.remove(gone);
        }
        self.note_dropped(outcome);
    }

    /// A solver's answer.
    pub fn record_solution(&self, solution: &SplitSolution, duration: Duration) {
        self.theta.set(solution.theta);
        self.solve_duration.observe(duration.as_secs_f64());
    }

    /// What is believed: demand by flow, capacity by resource.
    pub fn record_estimate(&self, topology: &Topology, estimate: &Estimate) {
        let flows = || {
            topology.flows().iter().zip(&estimate.flows).map(|(flow, estimate)| {
                ([("source", label(&flow.source)), ("service", label(&flow.service))], estimate)
            })
        };
        self.note_dropped(self.demand.replace(flows().map(|(labels, flow)| (labels, flow.demand.get()))));
        self.note_dropped(
            self.demand_upper.replace(flows().map(|(labels, flow)| (labels, flow.upper.get()))),
        );
        let resources = || {
            let pairs = topology.resources().iter().zip(&estimate.resources);
            pairs.map(|(resource, estimate)| ([("resource", label(&resource.name))], estimate))
        };
        self.note_dropped(self.capacity.replace(resources().map(|(labels, r)| (labels, r.capacity.get()))));
        let lower = resources().map(|(labels, r)| (labels, r.capacity_lower.get()));
        self.note_dropped(self.capacity_lower.replace(lower));
    }

    /// What the last step earned.
    pub fn record_reward(&self, reward: &Reward) {
        self.reward.set(reward.total);
        let terms = reward.terms.iter().map(|(name, value)| ([("term", label(name))], *value));
        self.note_dropped(self.reward_terms.replace(terms));
    }

    /// A transition went to the learner.
    pub fn record_transition(&self) {
        self.recorded.inc();
    }

    /// A transition did not.
    pub fn record_transition_dropped(&self, reason: TransitionDrop) {
        self.dropped.get_or_create(&[("reason", reason.name().into())]).inc();
    }

    /// Everything as OpenMetrics text; see [`CONTENT_TYPE`].
    ///
    /// # Panics
    /// Never: writing to a string cannot fail.
    #[must_use]
    pub fn encode(&self) -> String {
        let mut text = String::new();
        encode(&mut text, &self.registry).expect("writing to a string cannot fail");
        text
    }

    fn note_dropped<const N: usize>(&self, outcome: Replaced<N>) {
        if outcome.dropped > 0 {
            self.series_dropped.set(outcome.dropped as f64);
        }
    }
}

/// Gauges that are recorded as a whole: what is not in the new set is gone.
#[derive(Debug)]
struct GaugeSet<const N: usize> {
    family: Family<Labels<N>, Number>,
    known: Mutex<HashSet<Labels<N>>>,
}

impl<const N: usize> Default for GaugeSet<N>
where
    Labels<N>: Clone + Hash + Eq,
{
    fn default() -> Self {
        Self { family: Family::default(), known: Mutex::new(HashSet::new()) }
    }
}

struct Replaced<const N: usize> {
    dropped: usize,
    gone: Vec<Labels<N>>,
}

impl<const N: usize> GaugeSet<N> {
    /// Sets the new before it removes the old, so that a scrape in between never misses a series that stays.
    fn replace(&self, values: impl Iterator<Item = (Labels<N>, f64)>) -> Replaced<N> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let mut fresh = HashSet::with_capacity(known.len());
        let mut dropped = 0;
        for (labels, value) in values {
            if fresh.len() >= SERIES_LIMIT {
                dropped += 1;
                continue;
            }
            self.family.get_or_create(&labels).set(value);
            fresh.insert(labels);
        }
        let gone: Vec<Labels<N>> = known.difference(&fresh).cloned().collect();
        for labels in &gone {
            self.family.remove(labels);
        }
        *known = fresh;
        Replaced { dropped, gone }
    }
}

fn route_labels(topology: &Topology) -> impl Iterator<Item = Labels<3>> {
    topology.routes().iter().map(|route| {
        let flow = &topology.flows()[route.flow.ix()];
        let endpoint = &topology.groups()[route.group.ix()].name;
        [("source", label(&flow.source)), ("service", label(&flow.service)), ("endpoint", label(endpoint))]
    })
}

/// A name of bounded length without control characters.
fn label(name: &str) -> String {
    name.chars().filter(|c| !c.is_control()).take(LABEL_LIMIT).collect()
}

/// Sixteen buckets, each twice the one before.
fn seconds(least: f64) -> Histogram {
    Histogram::new(exponential_buckets(least, 2.0, 16))
}

#[cfg(test)]
pub(crate) mod tests {
    use traflux_core::{
        Consumption, Flow, Generation, HourlyPrice, Latency, Rate, Resource, Route, UnitPrice,
    };

    use super::*;

    #[allow(clippy::unwrap_used)]
    pub(crate) fn topology(endpoints: &[&str]) -> Topology {
        let mut builder = Topology::builder();
        let flow =
            builder.add_flow(Flow { name: "us/dyn".into(), source: "us".into(), service: "dyn".into() });
        for name in endpoints {
            let resource = Resource {
                name: (*name).into(),
                capacity: Rate::per_second(100.0),
                concurrency: None,
                service_time: None,
                domain: None,
                hourly_price: HourlyPrice::ZERO,
            };
            let (resource, group) = builder.add_endpoint(resource, 0);
            builder.add_route(Route {
                name: format!("us/{name}"),
                flow,
                group,
                consumption: vec![Consumption { resource, per_request: 1.0 }],
                delay: Latency::ZERO,
                price: UnitPrice::ZERO,
            });
        }
        builder.build().unwrap()
    }

    /// An exporter in which each metric has at least one series.
    #[allow(clippy::unwrap_used)]
    pub(crate) fn full() -> Exporter {
        let exporter = Exporter::new();
        let topology = topology(&["a", "b"]);
        exporter.record_tick(Duration::from_millis(4));
        exporter.record_stage_error("observe", "observe_timeout");
        exporter.record_rung(Rung::Ramp { progress: 0.5 });
        exporter.record_telemetry(None, Some(Duration::from_secs(3)));
        let split = Split::uniform(&topology);
        exporter.record_shares(&topology, &split);
        exporter.record_weights(&topology, &traflux_core::quantize(&split, 100).unwrap());
        exporter.record_guard(&[GuardAction {
            route: None,
            reason: traflux_core::GuardReason::Hold,
            proposed: 0.0,
            given: 0.0,
        }]);
        exporter.record_plan_change();
        let group = NodeGroup("us".into());
        exporter.record_in_force([(&group, Duration::ZERO)]);
        exporter.record_ack(&group, Duration::from_millis(2));
        exporter.record_nack(&group);
        exporter.record_reward(&Reward::from_terms([("latency", -1.5), ("errors", -0.5)]));
        exporter.record_transition();
        exporter.record_transition_dropped(TransitionDrop::NotAcknowledged);
        exporter
    }

    #[test]
    fn what_is_recorded_can_be_scraped() {
        let text = full().encode();
        for line in [
            "traflux_ticks_total 1",
            "traflux_tick_duration_seconds_count 1",
            "traflux_stage_errors_total{stage=\"observe\",code=\"observe_timeout\"} 1",
            "traflux_ladder_rung 3.0",
            "traflux_ladder_ramp_progress 0.5",
            "traflux_telemetry_age_seconds 3.0",
            "traflux_weight{source=\"us\",service=\"dyn\",endpoint=\"a\"} 50.0",
            "traflux_share{source=\"us\",service=\"dyn\",endpoint=\"b\"} 0.5",
            "traflux_guard_actions_total{reason=\"hold\"} 1",
            "traflux_plan_changes_total 1",
            "traflux_acks_total{group=\"us\"} 1",
            "traflux_nacks_total{group=\"us\"} 1",
            "traflux_in_force_lag_seconds{group=\"us\"} 0.0",
            "traflux_reward -2.0",
            "traflux_reward_term{term=\"errors\"} -0.5",
            "traflux_transitions_recorded_total 1",
            "traflux_transitions_dropped_total{reason=\"not_acknowledged\"} 1",
            "# EOF",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
    }

    #[test]
    fn the_series_of_a_removed_endpoint_vanish() {
        let exporter = full();
        let smaller = topology(&["b", "c"]);
        exporter.record_shares(&smaller, &Split::uniform(&smaller));
        let text = exporter.encode();
        assert!(!text.contains("traflux_share{source=\"us\",service=\"dyn\",endpoint=\"a\"}"));
        assert!(text.contains("traflux_share{source=\"us\",service=\"dyn\",endpoint=\"c\"} 0.5"));
    }

    #[test]
    fn the_counts_of_a_group_that_left_vanish() {
        let exporter = full();
        exporter.record_in_force([(&NodeGroup("eu".into()), Duration::from_secs(7))]);
        let text = exporter.encode();
        assert!(!text.contains("group=\"us\""), "{text}");
        assert!(text.contains("traflux_in_force_lag_seconds{group=\"eu\"} 7.0"));
    }

    #[test]
    fn a_name_with_quotes_and_control_characters_stays_one_label() {
        let exporter = Exporter::new();
        exporter.record_nack(&NodeGroup("a\"\n\\b\u{1}".into()));
        assert!(
            exporter.encode().contains(r#"traflux_nacks_total{group="a\"\\b"} 1"#),
            "{}",
            exporter.encode()
        );
    }

    #[test]
    fn a_split_of_another_topology_is_not_recorded() {
        let exporter = Exporter::new();
        let split = Split::new(Generation(9), vec![0, 3], vec![0.5, 0.25, 0.25]).unwrap();
        exporter.record_shares(&topology(&["a"]), &split);
        assert!(!exporter.encode().contains("traflux_share{"));
    }
}
