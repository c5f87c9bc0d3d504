//! Which question does this tick put to the solver?
//!
//! From estimates, the policy's action and the split in force to a [`SplitProblem`]. Here the choice of K
//! becomes a limit on churn that never traps traffic: what is in breach may move whether it was chosen or
//! not, and every flow that touches a movable route has somewhere to move to.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::action::Action;
use crate::bounds::{GuardConfig, row_bounds};
use crate::estimate::{Estimate, Health};
use crate::guard::{route_health, tiers_in_use};
use crate::problem::{Objective, ProblemResource, ProblemRoute, SplitProblem, TwoStage};
use crate::split::Split;
use crate::topology::{FlowIx, GroupIx, Topology};
use crate::units::Latency;

/// Parameters of the question that no measurement changes.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AssembleConfig {
    /// The two-stage objective.
    pub objective: TwoStage,
    /// Seconds of delay that one failed request is worth.
    pub error_seconds: f64,
    /// Least headroom: the solver plans for at least `demand · (1 + headroom)`, whatever the policy says.
    pub headroom: f64,
    /// Plan for the upper end of the demand band, not its middle.
    pub hedge_demand: bool,
    /// Time limit of the solver, in milliseconds.
    pub deadline_ms: f64,
}

impl Default for AssembleConfig {
    fn default() -> Self {
        Self {
            objective: TwoStage { churn_seconds: 0.002, ..TwoStage::default() },
            error_seconds: 2.0,
            headroom: 0.1,
            hedge_demand: true,
            deadline_ms: 1000.0,
        }
    }
}

/// Why a route may move in this tick.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CriticalReason {
    /// Its endpoint is in breach of its objective, or unhealthy.
    Breach,
    /// Its endpoint would be above the wanted utilisation with the split in force.
    Saturated,
    /// Its tier went out of use while it carried traffic.
    Tier,
    /// The policy chose its group.
    Chosen,
    /// A flow with movable routes needed somewhere to move to.
    Receiver,
}

impl CriticalReason {
    /// A stable name for metrics and logs.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Chosen => "chosen",
            Self::Breach => "breach",
            Self::Saturated => "saturated",
            Self::Receiver => "receiver",
            Self::Tier => "tier",
        }
    }
}

/// A question with what led to it.
#[derive(Debug, Clone, PartialEq)]
pub struct Assembled {
    /// The question.
    pub problem: SplitProblem,
    /// By route: why it may move; `None` for a frozen route.
    pub critical: Vec<Option<CriticalReason>>,
    /// Health by route.
    pub health: Vec<Health>,
    /// By route: whether its tier may carry traffic.
    pub active: Vec<bool>,
}

impl Assembled {
    /// The groups that may move, each with its first reason, in group order.
    #[must_use]
    pub fn critical_groups(&self, topology: &Topology) -> Vec<(GroupIx, CriticalReason)> {
        (0..topology.groups().len())
            .filter_map(|ix| {
                let group = GroupIx::from(ix);
                topology
                    .routes_of(group)
                    .iter()
                    .filter_map(|r| self.critical[r.ix()])
                    .min()
                    .map(|r| (group, r))
            })
            .collect()
    }
}

/// Builds the question of one tick.
///
/// # Panics
/// When estimate, split and topology are not of one shape; the controller checks generations before.
#[must_use]
pub fn assemble(
    topology: &Topology,
    estimate: &Estimate,
    action: &Action,
    current: &Split,
    guard: &GuardConfig,
    config: &AssembleConfig,
    elapsed: Duration,
) -> Assembled {
    assert_eq!(estimate.routes.len(), topology.routes().len(), "one estimate per route");
    assert_eq!(current.shares().len(), topology.routes().len(), "one share per route");
    let health = route_health(topology, estimate);
    let active = tiers_in_use(topology, estimate, current, config.objective.max_utilization);
    let headroom = config.headroom.max(action.headroom);
    let demand: Vec<f64> = estimate
        .flows
        .iter()
        .map(|f| {
            let hedge = if config.hedge_demand { f.upper.get() } else { 0.0 };
            (f.demand.get() * (1.0 + headroom)).max(hedge)
        })
        .collect();
    let mut critical =
        chosen_or_forced(topology, estimate, action, current, &health, &active, &demand, config);
    add_receivers(topology, estimate, &health, &active, &mut critical);

    let mut routes = Vec::with_capacity(topology.routes().len());
    for flow in 0..topology.flows().len() {
        let range = topology.route_range(FlowIx::from(flow));
        let row = &current.shares()[range.clone()];
        let bounds = row_bounds(guard, &health[range.clone()], &active[range.clone()], row, elapsed);
        // Frozen shares must leave room for the movable ones' bounds; where not, the whole flow may move.
        let (mut lower, mut upper) = (0.0, 0.0);
        for ix in 0..row.len() {
            let movable = critical[range.start + ix].is_some();
            lower += if movable { bounds.lower[ix] } else { row[ix] };
            upper += if movable { bounds.upper[ix] } else { row[ix] };
        }
        let thaw = lower > 1.0 + 1e-12 || upper < 1.0 - 1e-12;
        for ix in 0..row.len() {
            let at = range.start + ix;
            if thaw && critical[at].is_none() {
                critical[at] = Some(CriticalReason::Receiver);
            }
            let movable = critical[at].is_some();
            let route = &topology.routes()[at];
            let state = &estimate.routes[at];
            let failing = route
                .consumption
                .first()
                .map_or(0.0, |c| estimate.resources[c.resource.ix()].error_ratio.clamp(0.0, 1.0));
            routes.push(ProblemRoute {
                lower: if movable { bounds.lower[ix] } else { row[ix] },
                upper: if movable { bounds.upper[ix] } else { row[ix] },
                previous: row[ix],
                delay: state.delay.as_secs() + failing * config.error_seconds,
                price: state.price.per_request(),
                consumption: route.consumption.iter().map(|c| (c.resource.ix(), c.per_request)).collect(),
            });
        }
    }
    let names: std::collections::BTreeSet<&str> =
        topology.resources().iter().filter_map(|r| r.domain.as_deref()).collect();
    let domains: std::collections::BTreeMap<&str, usize> =
        names.into_iter().enumerate().map(|(ix, name)| (name, ix)).collect();
    let domain_ix = |name: &Option<String>| name.as_deref().and_then(|name| domains.get(name).copied());
    let mut multipliers = vec![1.0; topology.resources().len()];
    for (ix, group) in topology.groups().iter().enumerate() {
        if let Some(resource) = group.resource {
            multipliers[resource.ix()] = action.multiplier(GroupIx::from(ix));
        }
    }
    let resources = topology
        .resources()
        .iter()
        .zip(&estimate.resources)
        .zip(multipliers)
        .map(|((resource, state), multiplier)| ProblemResource {
            capacity: state.capacity_lower.get(),
            background: state.background.get(),
            curve: (state.curve.service_time() > Latency::ZERO).then_some(state.curve),
            multiplier,
            domain: domain_ix(&resource.domain),
        })
        .collect();
    let mut objective = config.objective;
    objective.survive_domain_loss = objective.survive_domain_loss.or(guard.survive_domain_loss);
    let problem = SplitProblem {
        generation: topology.generation(),
        flow_offsets: topology.flow_offsets().to_vec(),
        demand,
        routes,
        resources,
        objective: Objective::TwoStage(objective),
        deadline: Duration::from_secs_f64(config.deadline_ms.clamp(1.0, 60_000.0) * 1e-3),
    };
    Assembled { problem, critical, health, active }
}

/// The policy's groups, and beyond them whatever must be able to lose traffic.
fn chosen_or_forced(
    topology: &Topology,
    estimate: &Estimate,
    action: &Action,
    current: &Split,
    health: &[Health],
    active: &[bool],
    demand: &[f64],
    config: &AssembleConfig,
) -> Vec<Option<CriticalReason>> {
    let routes = topology.routes();
    let mut load: Vec<f64> = estimate.resources.iter().map(|r| r.background.get()).collect();
    for (ix, route) in routes.iter().enumerate() {
        for c in &route.consumption {
            load[c.resource.ix()] += demand[route.flow.ix()] * current.shares()[ix] * c.per_request;
        }
    }
    let saturated: Vec<bool> = estimate
        .resources
        .iter()
        .zip(&load)
        .map(|(r, load)| *load > config.objective.max_utilization * r.capacity_lower.get())
        .collect();
    let mut chosen = vec![false; topology.groups().len()];
    for group in &action.critical {
        if let Some(flag) = chosen.get_mut(group.ix()) {
            *flag = true;
        }
    }
    routes
        .iter()
        .enumerate()
        .map(|(ix, route)| {
            let tier_changed = !active[ix] && current.shares()[ix] > 0.0;
            if matches!(health[ix], Health::Degraded | Health::Unhealthy) {
                Some(CriticalReason::Breach)
            } else if route.consumption.iter().any(|c| saturated[c.resource.ix()]) {
                Some(CriticalReason::Saturated)
            } else if tier_changed {
                Some(CriticalReason::Tier)
            } else if chosen[route.group.ix()] {
                Some(CriticalReason::Chosen)
            } else {
                None
            }
        })
        .collect()
}

/// Gives every flow that touches a movable route somewhere to move to: enough healthy routes, cheapest first,
/// that their spare capacity covers what the movable ones carry.
fn add_receivers(
    topology: &Topology,
    estimate: &Estimate,
    health: &[Health],
    active: &[bool],
    critical: &mut [Option<CriticalReason>],
) {
    let cost = |ix: usize| {
        let route = &topology.routes()[ix];
        let queueing: f64 = route
            .consumption
            .iter()
            .map(|c| {
                let resource = &estimate.resources[c.resource.ix()];
                resource.curve.latency(resource.load / resource.capacity_lower).as_secs()
            })
            .sum();
        estimate.routes[ix].delay.as_secs() + queueing
    };
    let spare = |ix: usize| {
        let spare = topology.routes()[ix].consumption.iter().map(|c| {
            let resource = &estimate.resources[c.resource.ix()];
            (resource.capacity_lower.saturating_sub(resource.load)).get() / c.per_request
        });
        let least = spare.fold(f64::INFINITY, f64::min);
        if least.is_finite() { least } else { 0.0 }
    };
    for flow in 0..topology.flows().len() {
        let range = topology.route_range(FlowIx::from(flow));
        if range.clone().all(|ix| critical[ix].is_none()) {
            continue;
        }
        let may_receive = |ix: usize| health[ix].may_receive() && active[ix];
        // What might have to leave: the load on what is in breach or saturated.
        let forced = |reason: CriticalReason| reason != CriticalReason::Chosen;
        let leaving: f64 = range
            .clone()
            .filter(|ix| critical[*ix].is_some_and(forced))
            .map(|ix| estimate.routes[ix].load.get())
            .sum();
        let receives = |ix: usize, reason: Option<CriticalReason>| {
            reason == Some(CriticalReason::Chosen) && may_receive(ix)
        };
        let mut room: f64 = range.clone().filter(|ix| receives(*ix, critical[*ix])).map(spare).sum();
        let mut receivers = range.clone().filter(|ix| receives(*ix, critical[*ix])).count();
        // What was chosen may have to give as well as take: one receiver alone could not give to itself.
        let needed = if receivers == 0 { 1 } else { 2 };
        let mut candidates: Vec<usize> =
            range.filter(|ix| critical[*ix].is_none() && may_receive(*ix)).collect();
        candidates.sort_by(|a, b| cost(*a).total_cmp(&cost(*b)).then(a.cmp(b)));
        let mut candidates = candidates.into_iter();
        while receivers < needed || room < leaving {
            let Some(ix) = candidates.next() else { break };
            critical[ix] = Some(CriticalReason::Receiver);
            receivers += 1;
            room += spare(ix);
        }
    }
}
