//! What was decided in a tick, and why?
//!
//! Everything here is plain data for logs, the HTTP API and reports. It holds no wall-clock time, so equal
//! inputs give equal decisions to the last bit.

use std::collections::VecDeque;

use schemars::JsonSchema;
use serde::Serialize;
use traflux_core::{
    Action, Assembled, Attribution, Estimate, FlowIx, GroupIx, GuardAction, Health, Reward, Rung,
    SolverStatus, Split, SplitSolution, Timestamp, Topology, TrafficPlan,
};

use super::Mode;

/// A stage that failed, and what it said.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct Failure {
    /// The stage.
    pub stage: &'static str,
    /// Stable code of the error.
    pub code: &'static str,
    /// The error in words.
    pub message: String,
}

/// What the policy decided.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct ActionView {
    /// Names of the groups chosen, best first.
    pub chosen: Vec<String>,
    /// Demand headroom.
    pub headroom: f64,
    /// Multipliers that are not neutral, by group.
    pub cost_multipliers: Vec<(String, f64)>,
    /// Logarithm of the action's probability.
    pub log_probability: f64,
    /// The critic's value.
    pub value: Option<f64>,
}

/// What the solver answered.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct SolverView {
    /// Its name.
    pub name: String,
    /// Quality of the answer.
    pub status: SolverStatus,
    /// Least possible maximum utilisation.
    pub theta: f64,
    /// Objective, in seconds of delay per second.
    pub objective: f64,
    /// Pivots or iterations.
    pub iterations: usize,
}

/// One change by the guard.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct GuardView {
    /// The route, or `None` for the whole split.
    pub route: Option<String>,
    /// Why.
    pub reason: &'static str,
    /// Share proposed.
    pub proposed: f64,
    /// Share given.
    pub given: f64,
}

/// One flow with its shares.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct FlowView {
    /// Its name.
    pub name: String,
    /// Source: the node group its weights go to.
    pub source: String,
    /// Service.
    pub service: String,
    /// Forecast demand, requests/s; `None` before the first estimate.
    pub demand_rps: Option<f64>,
    /// Upper end of the forecast's band.
    pub demand_upper_rps: Option<f64>,
    /// (endpoint, share in force).
    pub shares: Vec<(String, f64)>,
    /// (endpoint, weight sent), in the order of the shares.
    pub weights: Vec<(String, u32)>,
}

/// One endpoint as estimated.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct GroupView {
    /// Its name.
    pub name: String,
    /// Capacity, best guess, requests/s.
    pub capacity_rps: f64,
    /// Capacity that is counted on.
    pub capacity_lower_rps: f64,
    /// Load, requests/s.
    pub load_rps: f64,
    /// Load over capacity.
    pub utilization: f64,
    /// Latency without network delay, milliseconds.
    pub latency_ms: Option<f64>,
    /// Share of failed requests.
    pub error_ratio: f64,
    /// Health.
    pub health: Health,
    /// Why it is slow, where it is.
    pub attribution: Attribution,
    /// Age of its measurements, seconds.
    pub age_s: Option<f64>,
}

/// What endpoints share, such as a quota, as estimated.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct SharedView {
    /// Its name.
    pub name: String,
    /// Capacity that is counted on, in its own unit per second.
    pub capacity_per_s: f64,
    /// Load, in its own unit per second.
    pub load_per_s: f64,
    /// Load over capacity.
    pub utilization: f64,
}

/// One tick.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct Decision {
    /// Number of the tick, from 1.
    pub tick: u64,
    /// When, in seconds since the epoch (or the start of a simulation).
    pub at_s: f64,
    /// Mode of the controller.
    pub mode: Mode,
    /// Whether weights are frozen.
    pub frozen: bool,
    /// Where the ladder of failure stands.
    #[serde(flatten)]
    pub rung: Rung,
    /// What the metrics source wants known.
    pub warnings: Vec<String>,
    /// Stages that failed.
    pub failures: Vec<Failure>,
    /// Whether the policy took a new action, rather than holding one.
    pub acted: bool,
    /// The action in force.
    pub action: Option<ActionView>,
    /// (endpoint, reason): what may move.
    pub critical: Vec<(String, &'static str)>,
    /// The solver's outcome; `None` when it failed or was not asked.
    pub solver: Option<SolverView>,
    /// Why the split is as it is.
    pub explanation: Vec<String>,
    /// What the guard changed.
    pub guard: Vec<GuardView>,
    /// Flows held because no data plane of their source is connected, or because the actuator failed to take the plan
    /// before.
    pub held_flows: Vec<String>,
    /// Shares after the guard, in route order; what shadow mode would have pushed.
    pub proposed: Vec<f64>,
    /// Flows with the shares in force.
    pub flows: Vec<FlowView>,
    /// Endpoints as estimated.
    pub endpoints: Vec<GroupView>,
    /// What they share, as estimated.
    pub shared: Vec<SharedView>,
    /// Version of the plan.
    pub plan_version: String,
    /// Whether a plan was pushed.
    pub pushed: bool,
    /// Fraction of traffic moved.
    pub churn: f64,
    /// The last reward paid.
    pub reward: Option<Reward>,
}

impl Decision {
    pub(super) fn new(tick: u64, at: Timestamp, mode: Mode, frozen: bool) -> Self {
        Self {
            tick,
            at_s: at.as_secs_f64(),
            mode,
            frozen,
            rung: Rung::Normal,
            warnings: Vec::new(),
            failures: Vec::new(),
            acted: false,
            action: None,
            critical: Vec::new(),
            solver: None,
            explanation: Vec::new(),
            guard: Vec::new(),
            held_flows: Vec::new(),
            proposed: Vec::new(),
            flows: Vec::new(),
            endpoints: Vec::new(),
            shared: Vec::new(),
            plan_version: String::new(),
            pushed: false,
            churn: 0.0,
            reward: None,
        }
    }

    /// About how many things it holds (endpoints, shares, changes): what its size in bytes grows with.
    #[must_use]
    pub fn entries(&self) -> usize {
        self.endpoints.len()
            + self.shared.len()
            + self.critical.len()
            + self.guard.len()
            + self.proposed.len()
            + self.flows.iter().map(|f| f.shares.len() + f.weights.len()).sum::<usize>()
    }

    pub(super) fn fail(&mut self, stage: &'static str, code: &'static str, error: &dyn std::error::Error) {
        self.failures.push(Failure { stage, code, message: error.to_string() });
    }

    pub(super) fn describe_action(&mut self, topology: &Topology, action: &Action, assembled: &Assembled) {
        let name = |group: GroupIx| topology.groups()[group.ix()].name.clone();
        self.action = Some(ActionView {
            chosen: action.critical.iter().map(|g| name(*g)).collect(),
            headroom: action.headroom,
            cost_multipliers: (0..action.cost_multipliers.len())
                .map(GroupIx::from)
                .filter(|g| action.multiplier(*g) != 1.0)
                .map(|g| (name(g), action.multiplier(g)))
                .collect(),
            log_probability: action.log_probability,
            value: action.value,
        });
        self.critical = assembled
            .critical_groups(topology)
            .into_iter()
            .map(|(group, reason)| (name(group), reason.name()))
            .collect();
    }

    pub(super) fn describe_solution(&mut self, topology: &Topology, solution: &SplitSolution) {
        self.explanation = solution.explain(topology).iter().map(ToString::to_string).collect();
        self.solver = Some(SolverView {
            name: solution.solver.clone(),
            status: solution.status,
            theta: solution.theta,
            objective: solution.objective,
            iterations: solution.iterations,
        });
    }

    pub(super) fn describe_guard(&mut self, topology: &Topology, actions: &[GuardAction]) {
        self.guard = actions
            .iter()
            .map(|action| GuardView {
                route: action.route.map(|r| topology.routes()[r.ix()].name.clone()),
                reason: action.reason.name(),
                proposed: action.proposed,
                given: action.given,
            })
            .collect();
    }

    pub(super) fn finish(
        &mut self,
        topology: &Topology,
        current: &Split,
        plan: &TrafficPlan,
        estimate: Option<&Estimate>,
    ) {
        self.plan_version = plan.version().to_string();
        self.flows = topology
            .flows()
            .iter()
            .enumerate()
            .map(|(ix, flow)| FlowView {
                name: flow.name.clone(),
                source: flow.source.clone(),
                service: flow.service.clone(),
                demand_rps: estimate.map(|e| e.flows[ix].demand.get()),
                demand_upper_rps: estimate.map(|e| e.flows[ix].upper.get()),
                shares: topology
                    .route_range(FlowIx::from(ix))
                    .map(|at| {
                        let group = &topology.groups()[topology.routes()[at].group.ix()];
                        (group.name.clone(), current.shares()[at])
                    })
                    .collect(),
                weights: weights_of(plan, &flow.service, &flow.source),
            })
            .collect();
        let Some(estimate) = estimate else { return };
        self.endpoints = topology
            .groups()
            .iter()
            .filter_map(|group| group.resource.map(|r| (group, &estimate.resources[r.ix()])))
            .map(|(group, state)| GroupView {
                name: group.name.clone(),
                capacity_rps: state.capacity.get(),
                capacity_lower_rps: state.capacity_lower.get(),
                load_rps: state.load.get(),
                utilization: state.utilization(),
                latency_ms: state.latency.map(|l| l.as_millis()),
                error_ratio: state.error_ratio,
                health: state.health,
                attribution: state.attribution,
                age_s: state.age.map(|a| a.as_secs_f64()),
            })
            .collect();
        let mut of_a_group = vec![false; topology.resources().len()];
        for resource in topology.groups().iter().filter_map(|group| group.resource) {
            of_a_group[resource.ix()] = true;
        }
        self.shared = topology
            .resources()
            .iter()
            .zip(&estimate.resources)
            .zip(of_a_group)
            .filter(|(_, endpoint)| !endpoint)
            .map(|((resource, state), _)| SharedView {
                name: resource.name.clone(),
                capacity_per_s: state.capacity_lower.get(),
                load_per_s: state.load.get(),
                utilization: state.utilization(),
            })
            .collect();
    }
}

/// The row of weights that a plan gives to one source, by endpoint.
fn weights_of(plan: &TrafficPlan, service: &str, source: &str) -> Vec<(String, u32)> {
    let Some(service) = plan.services().iter().find(|s| s.name == service) else { return Vec::new() };
    let Some(row) = service.rows.iter().find(|r| r.group.0 == source) else { return Vec::new() };
    service.endpoints.iter().map(|e| e.name.clone()).zip(row.weights.iter().copied()).collect()
}

/// The latest decisions, a bounded number of them and of what they hold together.
#[derive(Debug, Clone)]
pub struct DecisionLog {
    limit: usize,
    decisions: VecDeque<Decision>,
    entries: usize,
}

impl DecisionLog {
    /// Most [entries](Decision::entries) of all decisions together, the latest excepted: some 100 MB, a dozen
    /// decisions of a fleet of 10,000 endpoints and 3 sources.
    pub const ENTRIES: usize = 1_000_000;

    /// A log of at most `limit` decisions (at least one).
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self { limit: limit.max(1), decisions: VecDeque::new(), entries: 0 }
    }

    /// Adds a decision; the oldest leave when the log is full.
    pub fn push(&mut self, decision: Decision) {
        self.entries += decision.entries();
        self.decisions.push_back(decision);
        while self.decisions.len() > self.limit || self.entries > Self::ENTRIES && self.decisions.len() > 1 {
            let oldest = self.decisions.pop_front();
            self.entries -= oldest.map_or(0, |d| d.entries());
        }
    }

    /// The latest decision.
    #[must_use]
    pub fn last(&self) -> Option<&Decision> {
        self.decisions.back()
    }

    /// Newest first.
    pub fn newest_first(&self) -> impl Iterator<Item = &Decision> {
        self.decisions.iter().rev()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_decisions_leave_the_log_before_they_fill_the_memory() {
        let decision = |tick, shares| {
            let mut decision = Decision::new(tick, Timestamp::ZERO, Mode::None, false);
            decision.proposed = vec![0.0; shares];
            decision
        };
        let ticks = |log: &DecisionLog| log.newest_first().map(|d| d.tick).collect::<Vec<_>>();
        let mut log = DecisionLog::new(3);
        (1..=4).for_each(|tick| log.push(decision(tick, DecisionLog::ENTRIES / 10)));
        assert_eq!(ticks(&log), [4, 3, 2], "the number is the limit");
        log.push(decision(5, DecisionLog::ENTRIES * 8 / 10));
        assert_eq!(ticks(&log), [5, 4, 3], "just full");
        log.push(decision(6, DecisionLog::ENTRIES * 8 / 10));
        assert_eq!(ticks(&log), [6]);
        log.push(decision(7, DecisionLog::ENTRIES * 2));
        assert_eq!(ticks(&log), [7], "the latest stays whatever its size");
        log.push(decision(8, 1));
        assert_eq!(ticks(&log), [8]);
    }
}
