//! When is whose turn, after a rest?
//!
//! Turns one after another as in pacing, at a rate that climbs from `rate / c` to `rate` within the warm-up time `w` and
//! falls back when idle: a backend that has scaled down, or lost its caches, is not met by everything at once.
//!
//! The scheme of Guava's `SmoothWarmingUp` with Sentinel's general cold factor `c`: idle time stores permits, up to `m`;
//! a permit taken from above the threshold `h` costs more time the more are stored,
//!
//! ```text
//! s = 1/rate      h = w / (s·(c − 1))      m = h + 2w / (s·(1 + c))
//! interval(x) = s                               for x ≤ h stored permits
//!             = s + (x − h)·s·(c − 1)/(m − h)   above
//! ```
//!
//! and the time of `n` permits is the integral of the interval from `x − n` to `x`. From cold, the way from `m` down to
//! `h` takes exactly `w`; so does the way back in idle time. `f64` arithmetic: equal inputs give equal outputs. Turns are
//! kept in 2⁻³² ns and rounded up, so that the rate is kept however high it is.

use super::setting_error;
use crate::error::GatewayError;

/// Parts of a nanosecond in which turns are kept.
const PARTS: f64 = (1_u64 << 32) as f64;
/// A turn that takes longer than a hundred years never ends.
const LONGEST_NS: f64 = 3.2e18;

/// Rate and warm-up, ready to use.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct WarmUp {
    /// Nanoseconds of a unit when warm.
    stable_ns: f64,
    threshold: f64,
    most: f64,
    slope: f64,
    idle_ns_per_unit: f64,
}

/// The turns of one key; new ones are cold.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct WarmUpCell {
    /// Units taken from the store: zero when cold.
    taken: f64,
    /// When the next turn is, in 2⁻³² ns since the epoch.
    next: u128,
    /// The latest moment of a charge.
    latest_ns: u64,
}

/// What a charge must remember to be given back.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Turn {
    /// Units that came from the store.
    pub(super) stored: f64,
    /// When its time has flowed.
    pub(super) end_ns: u64,
}

impl WarmUp {
    /// `amount` units per `period_ns` when warm.
    ///
    /// # Errors
    /// [`GatewayError::Setting`] for a period of zero or a cold factor that is not above 1.
    pub(super) fn new(
        limit: &str,
        amount: u64,
        period_ns: u64,
        ramp_ns: u64,
        cold_factor: f64,
    ) -> Result<Self, GatewayError> {
        if period_ns == 0 {
            return Err(setting_error(limit, "period_ms", 0, "more than 0"));
        }
        if !(cold_factor > 1.0 && cold_factor <= 1e6) {
            return Err(setting_error(limit, "cold_factor", cold_factor, "above 1 and at most 10^6"));
        }
        let stable_ns = period_ns as f64 / amount.max(1) as f64;
        let ramp_ns = (ramp_ns as f64).max(1.0);
        let threshold = ramp_ns / (stable_ns * (cold_factor - 1.0));
        let most = threshold + 2.0 * ramp_ns / (stable_ns * (1.0 + cold_factor));
        Ok(Self {
            stable_ns,
            threshold,
            most,
            slope: stable_ns * (cold_factor - 1.0) / (most - threshold),
            idle_ns_per_unit: ramp_ns / most,
        })
    }

    /// Nanoseconds until the next turn.
    pub(super) fn wait(&self, cell: &WarmUpCell, now_ns: u64) -> u64 {
        let wait = cell.next.saturating_sub(parts(now_ns));
        u64::try_from(wait.div_ceil(1 << 32)).unwrap_or(u64::MAX)
    }

    /// Takes the next turn, whenever it is; `None` for one that would never end.
    pub(super) fn charge(&self, cell: &mut WarmUpCell, now_ns: u64, units: u64) -> Option<Turn> {
        self.rest(cell, now_ns);
        let units = units as f64;
        let stored = units.min((self.most - cell.taken).max(0.0));
        let cost = self.time_of(self.most - cell.taken, stored) + (units - stored) * self.stable_ns;
        if cost > LONGEST_NS {
            return None;
        }
        cell.taken += stored;
        cell.next += (cost * PARTS).ceil() as u128;
        cell.latest_ns = cell.latest_ns.max(now_ns);
        let end_ns = u64::try_from(cell.next.div_ceil(1 << 32)).unwrap_or(u64::MAX);
        Some(Turn { stored, end_ns })
    }

    /// Gives back `back` of the `units` of a turn: what of its time has not flowed yet makes room for those who come
    /// later. A moment of zero stands for that of the last charge.
    pub(super) fn give_back(&self, cell: &mut WarmUpCell, now_ns: u64, turn: Turn, units: u64, back: u64) {
        let now_ns = now_ns.max(cell.latest_ns);
        self.rest(cell, now_ns);
        let (units, back) = (units as f64, back as f64);
        // Units beyond the store were charged last, so they are given back first.
        let beyond = back.min(units - turn.stored);
        let stored = (back - beyond).min(cell.taken);
        let time = beyond * self.stable_ns + self.time_of(self.most - cell.taken + stored, stored);
        cell.taken -= stored;
        let left = parts(turn.end_ns).saturating_sub(parts(now_ns));
        let time = ((time * PARTS).floor() as u128).min(left);
        cell.next = cell.next.saturating_sub(time).max(parts(now_ns));
    }

    /// Units whose time is still to flow, at the present interval, rounded up.
    pub(super) fn used(&self, cell: &WarmUpCell, now_ns: u64) -> u64 {
        let stored = (self.most - cell.taken).max(0.0);
        let interval = self.stable_ns + self.slope * (stored - self.threshold).max(0.0);
        (self.wait(cell, now_ns) as f64 / interval).ceil() as u64
    }

    /// Units that flow in so many nanoseconds when warm.
    pub(super) fn flow(&self, elapsed_ns: u64) -> u64 {
        (elapsed_ns as f64 / self.stable_ns) as u64
    }

    /// Whether the cell is as good as new: cold.
    pub(super) fn is_idle(&self, cell: &WarmUpCell, now_ns: u64) -> bool {
        let mut rested = *cell;
        self.rest(&mut rested, now_ns);
        rested.taken <= 0.0 && rested.next <= parts(now_ns)
    }

    /// Idle time cools.
    fn rest(&self, cell: &mut WarmUpCell, now_ns: u64) {
        let now = parts(now_ns);
        if now > cell.next {
            let idle = (now - cell.next) as f64 / PARTS;
            cell.taken = (cell.taken.min(self.most) - idle / self.idle_ns_per_unit).max(0.0);
            cell.next = now;
        }
    }

    /// Integral of the interval from `stored − taken` to `stored`.
    fn time_of(&self, stored: f64, taken: f64) -> f64 {
        let above = (stored - self.threshold).max(0.0);
        let from_above = taken.min(above);
        let mean = self.stable_ns + self.slope * (above - from_above / 2.0);
        from_above * mean + (taken - from_above) * self.stable_ns
    }
}

fn parts(ns: u64) -> u128 {
    u128::from(ns) << 32
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn warm_up(amount: u64, ramp_s: u64) -> WarmUp {
        WarmUp::new("l", amount, SECOND, ramp_s * SECOND, 3.0).unwrap()
    }

    /// Moments of turns of one unit, each asked for when the one before has come.
    fn turns(rate: &WarmUp, cell: &mut WarmUpCell, from_ns: u64, until_ns: u64) -> Vec<u64> {
        let (mut now, mut starts) = (from_ns, Vec::new());
        while now < until_ns {
            now += rate.wait(cell, now);
            rate.charge(cell, now, 1).unwrap();
            starts.push(now);
        }
        starts
    }

    #[test]
    fn from_cold_the_rate_climbs_to_full_within_the_warm_up_time() {
        let (rate, mut cell) = (warm_up(100, 10), WarmUpCell::default());
        let starts = turns(&rate, &mut cell, 0, 20 * SECOND);
        let gap = |ix: usize| (starts[ix + 1] - starts[ix]) as f64 / 1e6;
        assert!((gap(0) - 30.0).abs() < 0.1, "a cold interval is three times 10 ms: {}", gap(0));
        let warm = starts.iter().position(|s| *s >= 10 * SECOND).unwrap();
        assert!((gap(warm + 1) - 10.0).abs() < 0.1, "{}", gap(warm + 1));
        // m − h = 2w/(s(1 + c)) = 500 permits take the first 10 s.
        assert!(warm.abs_diff(500) <= 1, "{warm}");
        assert!(!rate.is_idle(&cell, 20 * SECOND) && rate.is_idle(&cell, 31 * SECOND), "cold after a rest");
    }

    #[test]
    fn the_rate_is_kept_however_high_it_is() {
        // A period of whole nanoseconds would grant 11 % too much here.
        let (rate, mut cell) = (warm_up(150_000_000, 1), WarmUpCell::default());
        for _ in 0..3_000 {
            rate.charge(&mut cell, 0, 1_000_000).unwrap();
        }
        // From cold, 2w/(s(1 + c)) = 75 million units take the first second.
        let expected = SECOND as f64 + (3e9 - 75e6) / 150e6 * 1e9;
        assert!((rate.wait(&cell, 0) as f64 / expected - 1.0).abs() < 1e-9, "{}", rate.wait(&cell, 0));
    }

    #[test]
    fn what_is_given_back_at_once_was_never_charged() {
        let rate = warm_up(10, 2);
        for (units, before) in [(1, 0), (7, 3), (500, 0), (100_000, 20)] {
            let mut cell = WarmUpCell::default();
            rate.charge(&mut cell, 5 * SECOND, before).unwrap();
            let was = cell;
            let turn = rate.charge(&mut cell, 5 * SECOND, units).unwrap();
            rate.give_back(&mut cell, 5 * SECOND, turn, units, units);
            assert!((cell.taken - was.taken).abs() < 1e-9, "{units}");
            assert!(cell.next.abs_diff(was.next) < 1 << 34, "{units}: within 4 ns");
            // A smaller charge is the same as a larger one of which the rest came back.
            let turn = rate.charge(&mut cell, 5 * SECOND, units).unwrap();
            rate.give_back(&mut cell, 5 * SECOND, turn, units, units - 1);
            let mut other = was;
            rate.charge(&mut other, 5 * SECOND, 1).unwrap();
            assert!(cell.next.abs_diff(other.next) < 1 << 34, "{units}: within 4 ns");
        }
    }

    #[test]
    fn time_that_has_flowed_does_not_come_back() {
        let (rate, mut cell) = (warm_up(1, 1), WarmUpCell::default());
        let first = rate.charge(&mut cell, 0, 1).unwrap();
        let end = first.end_ns;
        rate.charge(&mut cell, end, 1).unwrap();
        let wait = rate.wait(&cell, end);
        rate.give_back(&mut cell, 0, first, 1, 1);
        assert_eq!(rate.wait(&cell, end), wait, "the second is just having its turn");
    }
}
