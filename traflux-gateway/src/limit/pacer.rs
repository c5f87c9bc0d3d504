//! How long shall this request wait so that traffic flows evenly?
//!
//! A limit refuses, a [`Pacer`] delays: it answers with the time to wait and never blocks.

use std::time::Duration;

use traflux_core::Timestamp;

use super::bucket::{BucketCell, Shortfall};
use super::meter::{Meter, Refill};
use super::{nanos, setting_error};
use crate::error::GatewayError;

/// Answer of a pacer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pace {
    /// The request has its turn after this time (zero: now).
    After(Duration),
    /// Its turn would come only after this time, which is above the longest wait. It took no turn.
    TooLate(Duration),
}

/// Uniform spacing: a request of `n` units starts when all units before it have flowed, and holds the way free
/// for `n / rate` after it. A leaky bucket that is read as a meter with queue: turns are given in the order of calls, exact
/// at any rate as in [`Meter`].
#[derive(Debug)]
pub struct Pacer {
    meter: Meter,
    longest_ticks: u64,
    cell: BucketCell,
    jitter_ns: u64,
}

impl Pacer {
    /// A pacer at `amount` units per `period` whose turns wait at most `longest_wait`. Up to `jitter` is added to each
    /// delay by the draw of the caller, so that equal clients do not beat together.
    ///
    /// # Errors
    /// [`GatewayError::Setting`] for a rate of zero, or a longest wait in which more than 2⁵⁹ ticks flow (half a year
    /// at the least).
    pub fn new(
        amount: u64,
        period: Duration,
        longest_wait: Duration,
        jitter: Duration,
        now: Timestamp,
    ) -> Result<Self, GatewayError> {
        if amount == 0 {
            return Err(setting_error("pacer", "amount", 0, "at least 1"));
        }
        let meter = Meter::new(Refill::Continuous { amount, period }, amount, nanos(now))
            .map_err(|e| setting_error("pacer", e.setting, format!("{amount} per {period:?}"), e.expected))?;
        let wait_ns = u64::try_from(longest_wait.as_nanos()).unwrap_or(u64::MAX);
        let end = nanos(now).saturating_add(wait_ns);
        let longest_ticks = meter.granted(end).wrapping_sub(meter.granted(nanos(now)));
        if wait_ns > 1 << 53 || longest_ticks > 1 << 59 {
            let value = format!("{longest_wait:?}");
            return Err(setting_error("pacer", "longest_wait_ms", value, "at most 100 days"));
        }
        let jitter_ns = u64::try_from(jitter.as_nanos()).unwrap_or(u64::MAX);
        Ok(Self { meter, longest_ticks, cell: BucketCell::default(), jitter_ns })
    }

    /// Takes a turn of `units`. `draw` (64 random bits) places the jitter; zero means none.
    pub fn turn(&self, now: Timestamp, units: u64, draw: u64) -> Pace {
        let now_ns = nanos(now);
        let granted = self.meter.granted(now_ns);
        let cost = self.meter.ticks_of_any(units).min(1 << 59);
        // What is before this one must flow within the longest wait; its own cost comes after it.
        match self.cell.charge_below(granted, cost, self.longest_ticks + cost) {
            Ok(receipt) => {
                let before = super::bucket::level(receipt.finish, granted) - cost;
                let delay = self.meter.time_until(now_ns, before).unwrap_or(u64::MAX);
                let jitter = (u128::from(draw) * u128::from(self.jitter_ns)) >> 64;
                Pace::After(Duration::from_nanos(delay.saturating_add(jitter as u64)))
            }
            Err(Shortfall::Ticks(ticks)) => {
                let ticks = ticks + self.longest_ticks;
                let wait = self.meter.time_until(now_ns, ticks).unwrap_or(u64::MAX);
                Pace::TooLate(Duration::from_nanos(wait))
            }
            Err(Shortfall::AboveBurst) => Pace::TooLate(Duration::MAX),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(nanos: u64) -> Timestamp {
        Timestamp::new(Duration::from_nanos(nanos))
    }

    #[test]
    fn turns_are_a_period_apart_and_stop_at_the_longest_wait() {
        let (second, wait) = (Duration::from_secs(1), Duration::from_millis(35));
        let pacer = Pacer::new(100, second, wait, Duration::ZERO, at(0)).unwrap();
        for turn in 0..4u64 {
            let Pace::After(delay) = pacer.turn(at(0), 1, u64::MAX) else { panic!("turn {turn}") };
            assert!(delay.as_nanos().abs_diff(u128::from(turn) * 10_000_000) <= 64, "{delay:?}");
        }
        assert!(matches!(pacer.turn(at(0), 1, 0), Pace::TooLate(wait) if wait.as_millis() == 40));
        // An idle time stores nothing: two at once are still a period apart.
        assert_eq!(pacer.turn(at(1_000_000_000), 1, 0), Pace::After(Duration::ZERO));
        let Pace::After(delay) = pacer.turn(at(1_000_000_000), 1, 0) else { panic!("within the wait") };
        assert!(delay.as_nanos().abs_diff(10_000_000) <= 64, "{delay:?}");
    }

    #[test]
    fn jitter_is_a_share_of_its_bound() {
        let second = Duration::from_secs(1);
        let pacer = Pacer::new(1, second, second, Duration::from_millis(8), at(0)).unwrap();
        assert_eq!(pacer.turn(at(0), 1, 1 << 63), Pace::After(Duration::from_millis(4)));
    }
}
