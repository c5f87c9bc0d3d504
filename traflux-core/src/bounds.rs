//! Between which limits may each share lie after this tick?
//!
//! The optimiser plans inside these bounds and the guard enforces them, from one function, so that the guard
//! has nothing to correct while the optimiser works. Where bounds contradict each other, this order decides:
//! the row sums to one; health; cap; floor; step.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::estimate::Health;
use crate::topology::{RouteIx, Topology};

/// Limits on shares and on their change.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct GuardConfig {
    /// Least share of a healthy endpoint of the active tiers; at most `0.5 / n` of a flow's `n` endpoints.
    pub min_share: f64,
    /// Share that an endpoint in breach keeps, so that its recovery can be seen.
    pub probe_share: f64,
    /// Share that an unhealthy endpoint keeps, for the same reason; its requests may fail. 0: none.
    pub unhealthy_share: f64,
    /// Greatest share of any endpoint; raised where the row could not sum to one otherwise.
    pub max_share: f64,
    /// How much a share may rise or fall per second.
    pub step_per_s: f64,
    /// How much the share of an endpoint in breach may fall per second.
    pub drain_per_s: f64,
    /// Most time that one step may make use of, so that a pause or a clock jump allows no leap.
    pub max_elapsed_s: f64,
    /// Where fewer than this fraction of a flow's endpoints are not unhealthy, health is taken for a fault of
    /// the measurement and the static split applies.
    pub min_healthy: f64,
    /// N−1: the loss of any one domain must leave the others at most this utilised. `None`: not asked for.
    pub survive_domain_loss: Option<f64>,
}

impl Default for GuardConfig {
    fn default() -> Self {
        Self {
            min_share: 0.01,
            probe_share: 0.01,
            unhealthy_share: 0.001,
            max_share: 1.0,
            step_per_s: 0.02,
            drain_per_s: 0.1,
            max_elapsed_s: 15.0,
            min_healthy: 0.34,
            survive_domain_loss: None,
        }
    }
}

impl GuardConfig {
    /// Checks that every number makes sense.
    ///
    /// # Errors
    /// The name of the field, its value and its limits.
    pub fn check(&self) -> Result<(), (&'static str, f64, &'static str)> {
        let share = |v: f64| v.is_finite() && (0.0..=1.0).contains(&v);
        let rules = [
            ("min_share", self.min_share, share(self.min_share) && self.min_share <= 0.5, "[0, 0.5]"),
            ("probe_share", self.probe_share, share(self.probe_share) && self.probe_share <= 0.5, "[0, 0.5]"),
            (
                "unhealthy_share",
                self.unhealthy_share,
                share(self.unhealthy_share) && self.unhealthy_share <= self.probe_share,
                "[0, probe_share]",
            ),
            ("max_share", self.max_share, share(self.max_share) && self.max_share > 0.0, "(0, 1]"),
            ("step_per_s", self.step_per_s, share(self.step_per_s) && self.step_per_s > 0.0, "(0, 1]"),
            ("drain_per_s", self.drain_per_s, share(self.drain_per_s) && self.drain_per_s > 0.0, "(0, 1]"),
            (
                "max_elapsed_s",
                self.max_elapsed_s,
                self.max_elapsed_s.is_finite() && self.max_elapsed_s > 0.0 && self.max_elapsed_s <= 3600.0,
                "(0, 3600]",
            ),
            ("min_healthy", self.min_healthy, share(self.min_healthy), "[0, 1]"),
        ];
        match rules.iter().find(|(_, _, ok, _)| !ok) {
            Some((name, value, _, limits)) => Err((name, *value, limits)),
            None => match self.survive_domain_loss {
                Some(v) if !(v.is_finite() && v > 0.0 && v <= 2.0) => {
                    Err(("survive_domain_loss", v, "(0, 2]"))
                }
                _ => Ok(()),
            },
        }
    }
}

/// Bounds of one flow's shares.
#[derive(Debug, Clone, PartialEq)]
pub struct RowBounds {
    /// Least shares.
    pub lower: Vec<f64>,
    /// Greatest shares.
    pub upper: Vec<f64>,
    /// Too few endpoints are healthy: the static split applies and health does not bind.
    pub panic: bool,
}

/// Bounds of one row.
///
/// `health`, `active` (whether the tier may carry traffic) and `current` are by route of the row. The result
/// always holds a row: `Σ lower ≤ 1 ≤ Σ upper`, `0 ≤ lower ≤ upper ≤ 1`.
#[must_use]
pub fn row_bounds(
    config: &GuardConfig,
    health: &[Health],
    active: &[bool],
    current: &[f64],
    elapsed: Duration,
) -> RowBounds {
    let n = current.len();
    let elapsed = elapsed.as_secs_f64().min(config.max_elapsed_s);
    let step = config.step_per_s * elapsed;
    let drain = (config.drain_per_s * elapsed).max(step);
    let most_floor = 0.5 / n as f64;
    let floor = config.min_share.min(most_floor);
    let probe = config.probe_share.min(most_floor);
    let usable = (0..n).filter(|ix| health[*ix] != Health::Unhealthy).count();
    let panic = (usable as f64) < config.min_healthy * n as f64 || usable == 0;
    let any_active = active.iter().any(|a| *a);
    let receiver = |ix: usize| health[ix].may_receive() && (active[ix] || !any_active);
    let any_receiver = (0..n).any(receiver);

    // What health, cap and floor want, before the step limit.
    let (mut lower, mut upper) = (vec![0.0; n], vec![0.0; n]);
    for ix in 0..n {
        let cap = config.max_share.max(floor);
        let in_use = active[ix] || !any_active;
        let state = if panic { Health::Unknown } else { health[ix] };
        (lower[ix], upper[ix]) = match state {
            Health::Healthy | Health::Unknown if in_use || panic => (floor, cap),
            Health::Healthy | Health::Unknown => (0.0, 0.0),
            // In breach: never more than it has, unless nothing else can take it.
            Health::Degraded if any_receiver => (probe, current[ix].max(probe)),
            Health::Degraded => (probe, cap),
            Health::Unhealthy => (config.unhealthy_share.min(probe), probe),
        };
    }
    raise_to_hold(&mut upper, |ix| !matches!(health[ix], Health::Unhealthy) || panic);

    // Whatever is drained must be able to land: receivers may rise as fast as others drain.
    let drained = |ix: usize| !receiver(ix) && current[ix] > probe;
    let draining = if panic { 0 } else { (0..n).filter(|ix| drained(*ix)).count() };

    // The step limit gives way to health, cap and floor.
    let (wanted_lower, wanted_upper) = (lower.clone(), upper.clone());
    for ix in 0..n {
        let leaving = !panic && !receiver(ix);
        let down = if leaving { drain } else { step };
        let others = draining - usize::from(draining > 0 && drained(ix));
        let up = if others > 0 { drain } else { step };
        lower[ix] = (current[ix] - down).max(wanted_lower[ix]);
        upper[ix] = (current[ix] + up).min(wanted_upper[ix]);
        // Above what it may have: down as far as one step goes. Below its floor: up at once, a floor is small.
        upper[ix] = upper[ix].max(lower[ix]);
    }
    relax(&mut lower, &wanted_lower, true);
    relax(&mut upper, &wanted_upper, false);
    for ix in 0..n {
        lower[ix] = lower[ix].min(upper[ix]);
    }
    // Rounding may leave the sums a hair on the wrong side.
    let excess = lower.iter().sum::<f64>() - 1.0;
    if excess > 0.0 {
        let sum = 1.0 + excess;
        lower.iter_mut().for_each(|l| *l /= sum);
    }
    raise_to_hold(&mut upper, |_| true);
    RowBounds { lower, upper, panic }
}

/// Capacity must exceed demand by this factor before a tier that carries traffic is given up: without it a
/// demand near the limit would fill and drain a tier in turn.
const TIER_HYSTERESIS: f64 = 0.9;

/// Which routes' tiers may carry traffic: all tiers up to the first one at which the capacity that may be
/// counted on covers the service's demand at the wanted utilisation.
///
/// `capacity` is by resource, `demand` by flow, `usable` and `current` (shares in force) by route.
#[must_use]
pub fn active_tiers(
    topology: &Topology,
    capacity: &[f64],
    demand: &[f64],
    usable: &[bool],
    current: &[f64],
    max_utilization: f64,
) -> Vec<bool> {
    let routes = topology.routes();
    if topology.groups().iter().all(|g| g.tier == 0) {
        return vec![true; routes.len()];
    }
    // By service: its demand, and by tier its resources and whether the tier carries traffic.
    #[derive(Default)]
    struct Tiers {
        demand: f64,
        by_tier: BTreeMap<u8, (BTreeSet<usize>, bool)>,
    }
    let mut services: BTreeMap<&str, Tiers> = BTreeMap::new();
    for (flow, demand) in topology.flows().iter().zip(demand) {
        services.entry(&flow.service).or_default().demand += demand;
    }
    let service_of = |ix: usize| topology.flows()[routes[ix].flow.ix()].service.as_str();
    for ix in 0..routes.len() {
        let tiers = services.entry(service_of(ix)).or_default();
        let tier = tiers.by_tier.entry(topology.tier(RouteIx::from(ix))).or_default();
        if let (true, Some(first)) = (usable[ix], routes[ix].consumption.first()) {
            tier.0.insert(first.resource.ix());
        }
        tier.1 |= current[ix] > 0.0;
    }
    let last_tier: BTreeMap<&str, u8> = services
        .into_iter()
        .map(|(service, tiers)| {
            let highest = tiers.by_tier.keys().next_back().copied().unwrap_or(0);
            let mut sum = 0.0;
            let last = tiers.by_tier.iter().find_map(|(tier, (resources, _))| {
                sum += resources.iter().map(|r| capacity[*r]).sum::<f64>();
                let above_carries = tiers
                    .by_tier
                    .range(tier.saturating_add(1)..)
                    .filter(|(other, _)| *other > tier)
                    .any(|(_, (_, carries))| *carries);
                let margin = if above_carries { TIER_HYSTERESIS } else { 1.0 };
                (sum > 0.0 && sum * max_utilization * margin >= tiers.demand).then_some(*tier)
            });
            (service, last.unwrap_or(highest))
        })
        .collect();
    (0..routes.len()).map(|ix| topology.tier(RouteIx::from(ix)) <= last_tier[service_of(ix)]).collect()
}

/// Raises upper bounds, of the allowed routes first and then of all, until a row can sum to one.
fn raise_to_hold(upper: &mut [f64], allowed: impl Fn(usize) -> bool) {
    for pass in 0..2 {
        let sum: f64 = upper.iter().sum();
        if sum >= 1.0 {
            return;
        }
        let open: Vec<usize> = (0..upper.len()).filter(|ix| pass == 1 || allowed(*ix)).collect();
        let room: f64 = open.iter().map(|ix| 1.0 - upper[*ix]).sum();
        if room <= 0.0 {
            continue;
        }
        let factor = ((1.0 - sum) / room * (1.0 + 1e-12)).min(1.0);
        for ix in open {
            upper[ix] += (1.0 - upper[ix]) * factor;
        }
    }
}

/// Moves step-limited bounds towards the wanted ones just as far as the row needs to sum to one.
fn relax(limited: &mut [f64], wanted: &[f64], is_lower: bool) {
    let sum: f64 = limited.iter().sum();
    let violated = if is_lower { sum - 1.0 } else { 1.0 - sum };
    if violated <= 0.0 {
        return;
    }
    let room = |l: f64, w: f64| if is_lower { (l - w).max(0.0) } else { (w - l).max(0.0) };
    let total: f64 = limited.iter().zip(wanted).map(|(l, w)| room(*l, *w)).sum();
    if total <= 0.0 {
        return;
    }
    let factor = (violated / total * (1.0 + 1e-12)).min(1.0);
    for (l, w) in limited.iter_mut().zip(wanted) {
        let change = room(*l, *w) * factor;
        *l += if is_lower { -change } else { change };
    }
}
