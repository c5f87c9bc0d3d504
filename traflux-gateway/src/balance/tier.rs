//! Which tier serves, when the first is not whole?
//!
//! Envoy's priority levels: the health of a tier is `h = min(1, o · open weight / weight)` with the
//! overprovisioning factor `o`; tiers take their health in order until all of the load is taken, and where
//! their healths do not add up to 1, each takes its part of the sum.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use traflux_core::Timestamp;

use super::endpoint::nanos;
use super::schedule::smooth_order;
use crate::affinity::Maglev;
use crate::alias::AliasTable;

/// Endpoints of one priority.
#[derive(Debug)]
pub(crate) struct Tier {
    pub(crate) number: u8,
    /// Positions of positive weight, ascending.
    pub(crate) positions: Box<[u32]>,
    pub(crate) table: AliasTable,
    /// The turns of round robin; empty for algorithms without.
    pub(crate) order: Box<[u32]>,
    pub(crate) turn: AtomicU64,
    pub(crate) maglev: Option<Maglev>,
    pub(crate) total_weight: u64,
    /// Picks whose upper 32 bits are below this, of 2³², and not below the tiers before, belong here.
    up_to: AtomicU64,
    /// When the open member came that came first, in nanoseconds.
    oldest: AtomicU64,
}

impl Tier {
    pub(crate) fn new(
        number: u8,
        members: &[(u32, u32)],
        turns: Option<Vec<u32>>,
        phase: u64,
        maglev: Option<Maglev>,
    ) -> Self {
        let mut table = AliasTable::default();
        table.rebuild(members.iter().copied());
        let order: Box<[u32]> = match turns {
            Some(weights) => {
                smooth_order(&weights).into_iter().map(|local| members[local as usize].0).collect()
            }
            None => Box::default(),
        };
        let turn = phase.checked_rem(order.len() as u64).unwrap_or(0);
        Self {
            number,
            positions: members.iter().map(|(position, _)| *position).collect(),
            table,
            order,
            turn: AtomicU64::new(turn),
            maglev,
            total_weight: members.iter().map(|(_, weight)| u64::from(*weight)).sum(),
            up_to: AtomicU64::new(0),
            oldest: AtomicU64::new(0),
        }
    }

    /// When the open member came that came first.
    pub(crate) fn oldest(&self) -> Timestamp {
        // Relaxed, as with the split: who sees an older number ramps as a moment earlier.
        Timestamp::new(Duration::from_nanos(self.oldest.load(Relaxed)))
    }

    /// Sets when that was.
    pub(crate) fn set_oldest(&self, started: Timestamp) {
        self.oldest.store(nanos(started), Relaxed);
    }
}

/// Sets how the load splits over tiers, from the share of its weight that each has open.
pub(crate) fn split_load(tiers: &[Tier], open: &[f64], overprovisioning: f32) {
    let health = |ix: usize| (open[ix] * f64::from(overprovisioning)).min(1.0);
    let sum: f64 = (0..tiers.len()).map(health).sum();
    // With less than all of the load taken, healths are scaled up to it.
    let scale = if sum < 1.0 && sum > 0.0 { 1.0 / sum } else { 1.0 };
    let mut taken = 0.0;
    for (ix, tier) in tiers.iter().enumerate() {
        taken = f64::min(1.0, taken + health(ix) * scale);
        tier.up_to.store((taken * (1u64 << 32) as f64).round() as u64, Relaxed);
    }
}

/// The tier that a draw falls to: the first where nothing is open at all.
#[inline]
pub(crate) fn drawn(tiers: &[Tier], draw: u64) -> usize {
    if tiers.len() <= 1 {
        return 0;
    }
    let point = draw >> 32;
    tiers.iter().position(|tier| point < tier.up_to.load(Relaxed)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shares(open: &[f64]) -> Vec<f64> {
        let tiers: Vec<Tier> = open.iter().map(|_| Tier::new(0, &[(0, 1)], None, 0, None)).collect();
        split_load(&tiers, open, 1.4);
        let mut last = 0;
        let share = |tier: &Tier| {
            let up_to = tier.up_to.load(Relaxed);
            let share = (up_to - last) as f64 / (1u64 << 32) as f64;
            last = up_to;
            share
        };
        tiers.iter().map(share).collect()
    }

    #[test]
    fn load_overflows_as_in_envoys_table() {
        // From the table of Envoy's documentation of priority levels: (healthy per cent of P=0, P=1, P=2) → load.
        for (open, expected) in [
            ([1.0, 1.0, 1.0], [1.0, 0.0, 0.0]),
            ([0.72, 0.72, 1.0], [1.0, 0.0, 0.0]),
            ([0.5, 0.5, 1.0], [0.7, 0.3, 0.0]),
            ([0.25, 0.25, 1.0], [0.35, 0.35, 0.3]),
            ([0.25, 0.25, 0.2], [0.357, 0.357, 0.286]),
            ([0.0, 0.0, 0.0], [0.0, 0.0, 0.0]),
        ] {
            for (share, expected) in shares(&open).into_iter().zip(expected) {
                assert!((share - expected).abs() < 0.001, "{open:?}: {share}, expected {expected}");
            }
        }
    }
}
