//! What may be put in force?
//!
//! [`WeightGuard`] takes any proposal, NaN included, and gives a split that keeps the bounds of
//! [`crate::bounds`]: the nearest one in the Euclidean sense. What it changed, and why, is in
//! [`Guarded::actions`].

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::bounds::{GuardConfig, RowBounds, active_tiers, row_bounds};
use crate::estimate::{Estimate, Health};
use crate::ladder::Rung;
use crate::split::Split;
use crate::stages::Guard;
use crate::topology::{FlowIx, RouteIx, Topology};

/// What the guard knows beside the proposal.
#[derive(Debug, Clone, Copy)]
pub struct GuardContext<'a> {
    /// The topology.
    pub topology: &'a Topology,
    /// The split in force.
    pub current: &'a Split,
    /// The static split that the ladder of failure ends in.
    pub fallback: &'a Split,
    /// Health by route.
    pub health: &'a [Health],
    /// Whether the tier of each route may carry traffic; empty: all.
    pub active: &'a [bool],
    /// Estimates, where there are any; needed for N−1.
    pub estimate: Option<&'a Estimate>,
    /// Where the ladder of failure stands.
    pub rung: Rung,
    /// Time since the split in force was decided; limits how far this one may go.
    pub elapsed: Duration,
}

/// Why a share differs from the proposal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GuardReason {
    /// The proposal was not a row of finite, non-negative numbers; the row in force stays.
    NotFinite,
    /// The row did not sum to one and was scaled.
    Sum,
    /// Raised to the floor.
    Floor,
    /// Lowered to the cap.
    Cap,
    /// Moved less than proposed: step limit.
    Step,
    /// Lowered because the endpoint is in breach or unhealthy, or its tier is not in use.
    Health,
    /// Too few endpoints are healthy to believe it: the static split applies.
    MinHealthy,
    /// Blended with the static split because the loss of one domain would overload the rest.
    DomainLoss,
    /// Held because metrics are missing.
    Hold,
    /// On the way to the static split because metrics are missing for long.
    Ramp,
}

impl GuardReason {
    /// A stable name for metrics and logs.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::NotFinite => "not_finite",
            Self::Sum => "sum",
            Self::Floor => "floor",
            Self::Cap => "cap",
            Self::Step => "step",
            Self::Health => "health",
            Self::MinHealthy => "min_healthy",
            Self::DomainLoss => "domain_loss",
            Self::Hold => "hold",
            Self::Ramp => "ramp",
        }
    }
}

/// One change the guard made.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct GuardAction {
    /// The route, or `None` for the whole split.
    pub route: Option<RouteIx>,
    /// Why.
    pub reason: GuardReason,
    /// Share proposed (0 where it was not a number).
    pub proposed: f64,
    /// Share given.
    pub given: f64,
}

/// A split that may be put in force, and what was changed to make it so.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Guarded {
    /// The split.
    pub split: Split,
    /// The changes.
    pub actions: Vec<GuardAction>,
}

/// The guard of endpoint weights.
#[derive(Debug, Clone)]
pub struct WeightGuard {
    config: GuardConfig,
    /// The split from which a ramp to the static one began.
    ramp_from: Option<Split>,
}

/// A difference smaller than this is rounding, not a decision.
const NOTICEABLE: f64 = 1e-6;
/// A thousandth of the rounding of a share.
const NEGLIGIBLE: f64 = 1e-19;

impl WeightGuard {
    /// A guard with the given limits; see [`GuardConfig::check`].
    #[must_use]
    pub fn new(config: GuardConfig) -> Self {
        Self { config, ramp_from: None }
    }

    /// The limits.
    #[must_use]
    pub fn config(&self) -> &GuardConfig {
        &self.config
    }

    /// Replaces the limits.
    pub fn set_config(&mut self, config: GuardConfig) {
        self.config = config;
    }

    fn ramp(&mut self, context: &GuardContext<'_>, progress: f64) -> Guarded {
        let from = match &self.ramp_from {
            Some(split) if split.generation() == context.current.generation() => split,
            _ => self.ramp_from.insert(context.current.clone()),
        };
        let split = from.blend(context.fallback, progress);
        let moved = split.churn(context.current);
        let action = GuardAction { route: None, reason: GuardReason::Ramp, proposed: moved, given: moved };
        Guarded { split, actions: vec![action] }
    }
}

impl Guard for WeightGuard {
    fn constrain(&mut self, context: &GuardContext<'_>, proposed: &[f64]) -> Guarded {
        if let Rung::Ramp { progress } = context.rung {
            return self.ramp(context, progress);
        }
        self.ramp_from = None;
        let hold = |reason| Guarded {
            split: context.current.clone(),
            actions: vec![GuardAction { route: None, reason, proposed: 0.0, given: 0.0 }],
        };
        if context.rung != Rung::Normal {
            return hold(GuardReason::Hold);
        }
        let current = context.current.shares();
        let mut actions = Vec::new();
        let proposed = if proposed.len() == current.len() {
            proposed
        } else {
            let action =
                GuardAction { route: None, reason: GuardReason::NotFinite, proposed: 0.0, given: 0.0 };
            actions.push(action);
            current
        };
        let mut wanted = clean(context, proposed, &mut actions);
        if let Some(limit) = self.config.survive_domain_loss {
            spread_domains(context, limit, &mut wanted, &mut actions);
        }
        let mut shares = wanted.clone();
        for flow in 0..context.current.flows() {
            let range = context.current.range(FlowIx::from(flow));
            let health = &context.health[range.clone()];
            let all = vec![true; range.len()];
            let active = if context.active.is_empty() { &all } else { &context.active[range.clone()] };
            let bounds = row_bounds(&self.config, health, active, &current[range.clone()], context.elapsed);
            let row = &mut shares[range.clone()];
            if bounds.panic {
                row.copy_from_slice(&context.fallback.shares()[range.clone()]);
                actions.push(GuardAction {
                    route: None,
                    reason: GuardReason::MinHealthy,
                    proposed: 0.0,
                    given: 0.0,
                });
            }
            project(row, &bounds);
            report(&self.config, range.start, &wanted[range], row, &bounds, health, &mut actions);
        }
        let split = Split::new(context.current.generation(), context.current.offsets().to_vec(), shares);
        // A projection onto valid bounds is a valid row; should it ever not be, the plan in force is safe.
        match split {
            Ok(split) => Guarded { split, actions },
            Err(_) => hold(GuardReason::NotFinite),
        }
    }
}

/// The routes of each flow whose tier may carry traffic, from the estimates.
#[must_use]
pub fn tiers_in_use(
    topology: &Topology,
    estimate: &Estimate,
    current: &Split,
    max_utilization: f64,
) -> Vec<bool> {
    let capacity: Vec<f64> = estimate.resources.iter().map(|r| r.capacity_lower.get()).collect();
    let demand: Vec<f64> = estimate.flows.iter().map(|f| f.upper.get()).collect();
    let usable: Vec<bool> = route_health(topology, estimate).iter().map(|h| h.may_receive()).collect();
    active_tiers(topology, &capacity, &demand, &usable, current.shares(), max_utilization)
}

/// The worse of a route's own health and that of the first resource it consumes.
#[must_use]
pub fn route_health(topology: &Topology, estimate: &Estimate) -> Vec<Health> {
    let rank = |h: Health| match h {
        Health::Unhealthy => 0,
        Health::Degraded => 1,
        Health::Unknown => 2,
        Health::Healthy => 3,
    };
    topology
        .routes()
        .iter()
        .enumerate()
        .map(|(ix, route)| {
            let own = estimate.routes.get(ix).map_or(Health::Unknown, |r| r.health);
            let first = route
                .consumption
                .first()
                .and_then(|c| estimate.resources.get(c.resource.ix()))
                .map_or(Health::Unknown, |r| r.health);
            match (own, first) {
                // Never measured here says nothing against what is known of the endpoint.
                (Health::Unknown, other) => other,
                (own, other) if rank(own) <= rank(other) => own,
                (_, other) => other,
            }
        })
        .collect()
}

/// Rows of finite, non-negative numbers that sum to one; a row that is not keeps what is in force.
fn clean(context: &GuardContext<'_>, proposed: &[f64], actions: &mut Vec<GuardAction>) -> Vec<f64> {
    let mut wanted = proposed.to_vec();
    for flow in 0..context.current.flows() {
        let range = context.current.range(FlowIx::from(flow));
        let row = &mut wanted[range.clone()];
        let sum: f64 = row.iter().sum();
        if row.iter().any(|w| !w.is_finite() || *w < 0.0) || !sum.is_finite() || sum <= 0.0 {
            row.copy_from_slice(&context.current.shares()[range.clone()]);
            actions.push(GuardAction {
                route: Some(RouteIx::from(range.start)),
                reason: GuardReason::NotFinite,
                proposed: 0.0,
                given: row[0],
            });
        } else if sum != 1.0 {
            if (sum - 1.0).abs() > NOTICEABLE {
                actions.push(GuardAction {
                    route: Some(RouteIx::from(range.start)),
                    reason: GuardReason::Sum,
                    proposed: sum,
                    given: 1.0,
                });
            }
            row.iter_mut().for_each(|w| *w /= sum);
        }
    }
    wanted
}

/// The nearest row inside the bounds: `w = clamp(p − τ, lower, upper)` with the `τ` at which it sums to one.
fn project(row: &mut [f64], bounds: &RowBounds) {
    let at = |row: &[f64], tau: f64| {
        let mut sum = 0.0;
        for ((p, l), u) in row.iter().zip(&bounds.lower).zip(&bounds.upper) {
            sum += (p - tau).max(*l).min(*u);
        }
        sum
    };
    // Shares and bounds lie in [0, 1], so every share is at a bound outside this interval.
    let (mut low, mut high) = (-1.0, 1.0);
    while high - low > NEGLIGIBLE {
        let middle = 0.5 * (low + high);
        if middle == low || middle == high {
            break;
        }
        if at(row, middle) >= 1.0 {
            low = middle;
        } else {
            high = middle;
        }
    }
    for (p, (l, u)) in row.iter_mut().zip(bounds.lower.iter().zip(&bounds.upper)) {
        *p = (*p - low).clamp(*l, *u);
    }
    // What bisection and rounding left goes where there is room.
    let mut rest = 1.0 - row.iter().sum::<f64>();
    for (p, (l, u)) in row.iter_mut().zip(bounds.lower.iter().zip(&bounds.upper)) {
        let moved = (*p + rest).clamp(*l, *u) - *p;
        *p += moved;
        rest -= moved;
    }
}

fn report(
    config: &GuardConfig,
    first: usize,
    wanted: &[f64],
    given: &[f64],
    bounds: &RowBounds,
    health: &[Health],
    actions: &mut Vec<GuardAction>,
) {
    let floor = config.min_share.min(0.5 / given.len() as f64);
    for ix in 0..given.len() {
        if (given[ix] - wanted[ix]).abs() <= NOTICEABLE {
            continue;
        }
        let at_lower = given[ix] <= bounds.lower[ix] + NOTICEABLE && wanted[ix] < bounds.lower[ix];
        let at_upper = given[ix] >= bounds.upper[ix] - NOTICEABLE && wanted[ix] > bounds.upper[ix];
        let reason = if at_lower {
            if bounds.lower[ix] <= floor + NOTICEABLE { GuardReason::Floor } else { GuardReason::Step }
        } else if at_upper {
            if !health[ix].may_receive() {
                GuardReason::Health
            } else if bounds.upper[ix] >= config.max_share - NOTICEABLE {
                GuardReason::Cap
            } else {
                GuardReason::Step
            }
        } else {
            // Neither bound: it only took what others could not have.
            continue;
        };
        actions.push(GuardAction {
            route: Some(RouteIx::from(first + ix)),
            reason,
            proposed: wanted[ix],
            given: given[ix],
        });
    }
}

/// N−1: when domain `d` dies, its traffic spreads over the others in proportion. Blends towards the static
/// split until no survivor exceeds `limit`, as far as that helps.
fn spread_domains(
    context: &GuardContext<'_>,
    limit: f64,
    wanted: &mut Vec<f64>,
    actions: &mut Vec<GuardAction>,
) {
    let Some(estimate) = context.estimate else { return };
    let blend = |weight: f64| -> Vec<f64> {
        let fallback = context.fallback.shares();
        wanted.iter().zip(fallback).map(|(w, f)| w + (f - w) * weight).collect()
    };
    let worst = |shares: &[f64]| worst_after_domain_loss(context.topology, estimate, shares);
    let before = worst(wanted);
    if before <= limit {
        return;
    }
    // Where even the static split exceeds the limit, a little more than what that reaches is enough: the whole
    // static split would give up everything else for nothing.
    let limit = limit.max(worst(context.fallback.shares()) * 1.02);
    let (mut low, mut high) = (0.0, 1.0);
    for _ in 0..30 {
        let middle = 0.5 * (low + high);
        if worst(&blend(middle)) <= limit {
            high = middle;
        } else {
            low = middle;
        }
    }
    let spread = blend(high);
    let after = worst(&spread);
    if after < before {
        actions.push(GuardAction {
            route: None,
            reason: GuardReason::DomainLoss,
            proposed: before,
            given: after,
        });
        *wanted = spread;
    }
}

/// Highest utilisation of any endpoint after the loss of any one domain, when each flow's traffic to that
/// domain spreads over its other routes in proportion to their shares.
#[must_use]
pub fn worst_after_domain_loss(topology: &Topology, estimate: &Estimate, shares: &[f64]) -> f64 {
    let domains: std::collections::BTreeSet<&str> =
        topology.resources().iter().filter_map(|r| r.domain.as_deref()).collect();
    if domains.len() < 2 {
        return 0.0;
    }
    let domain_of = |ix: usize| {
        let first = topology.routes()[ix].consumption.first();
        first.and_then(|c| topology.resources()[c.resource.ix()].domain.as_deref())
    };
    let mut worst = 0.0f64;
    for lost in domains {
        let mut load: Vec<f64> = estimate.resources.iter().map(|r| r.background.get()).collect();
        for (flow, range) in topology.flow_offsets().windows(2).map(|w| w[0]..w[1]).enumerate() {
            let kept: f64 =
                range.clone().filter(|ix| domain_of(*ix) != Some(lost)).map(|ix| shares[ix]).sum();
            let demand = estimate.flows[flow].upper.get();
            if kept <= 0.0 {
                // All in the lost domain: nothing is left, unless nothing else could have served it.
                if demand > 0.0 && range.clone().any(|ix| domain_of(ix) != Some(lost)) {
                    return f64::INFINITY;
                }
                continue;
            }
            for ix in range.filter(|ix| domain_of(*ix) != Some(lost)) {
                for c in &topology.routes()[ix].consumption {
                    load[c.resource.ix()] += demand * shares[ix] / kept * c.per_request;
                }
            }
        }
        for (resource, load) in estimate.resources.iter().zip(&load) {
            let capacity = resource.capacity_lower.get();
            if *load > 0.0 {
                worst = worst.max(if capacity > 0.0 { load / capacity } else { f64::INFINITY });
            }
        }
    }
    worst
}
