//! May one more go, for one limit and no key?
//!
//! The smallest use of a [`Meter`]: one word, one compare-and-swap, no reservation. Everything keyed, combined or
//! refundable is a [`Limiter`](super::Limiter).

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use traflux_core::Timestamp;

use super::bucket::level;
use super::meter::{Meter, Refill};
use super::nanos;
use crate::error::GatewayError;

/// A token bucket: `amount` units per `period`, at most `burst` at once.
///
/// ```
/// use std::time::Duration;
/// use traflux_core::Timestamp;
/// use traflux_gateway::limit::{Check, TokenBucket};
///
/// let start = Timestamp::ZERO;
/// let bucket = TokenBucket::new(10, Duration::from_secs(1), 2, start)?;
/// assert_eq!(bucket.check(start, 2), Check::Allowed);
/// assert!(matches!(bucket.check(start, 1), Check::Wait(wait) if wait.as_millis() == 100));
/// assert_eq!(bucket.check(start + Duration::from_millis(101), 1), Check::Allowed);
/// # Ok::<(), traflux_gateway::GatewayError>(())
/// ```
#[derive(Debug)]
pub struct TokenBucket {
    meter: Meter,
    consumed: AtomicU64,
}

/// Answer of a limit to one charge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Check {
    /// Charged.
    Allowed,
    /// Not charged; it fits after this time if nothing else is charged, and not a nanosecond earlier.
    Wait(Duration),
    /// Not charged; it is above the burst, or the limit never refills: no waiting helps.
    Never,
    /// Not charged; the table of keys is full of keys in use.
    NoRoom,
}

impl TokenBucket {
    /// A full bucket.
    ///
    /// # Errors
    /// [`GatewayError::Setting`] for a period of zero or more than 200 years or a burst of zero.
    pub fn new(amount: u64, period: Duration, burst: u64, now: Timestamp) -> Result<Self, GatewayError> {
        let meter = Meter::new(Refill::Continuous { amount, period }, burst, nanos(now));
        let meter = meter.map_err(|error| {
            let value = format!("{amount} per {period:?}, burst {burst}");
            GatewayError::setting(error.setting, value, error.expected)
        })?;
        Ok(Self { meter, consumed: AtomicU64::new(0) })
    }

    /// Charges `units`, or says when they fit.
    #[inline]
    pub fn check(&self, now: Timestamp, units: u64) -> Check {
        self.check_at(nanos(now), units)
    }

    /// [`check`](Self::check) for clocks that count nanoseconds: the moment as nanoseconds since the epoch.
    #[inline]
    pub fn check_at(&self, now_ns: u64, units: u64) -> Check {
        let Some(cost) = self.meter.ticks(units) else { return Check::Never };
        let granted = self.meter.granted(now_ns);
        // One word: its own modification order is all that the decision rests on, so relaxed is enough.
        let mut consumed = self.consumed.load(Ordering::Relaxed);
        loop {
            let level = level(consumed, granted) + cost;
            if level > self.meter.burst_ticks() {
                return self.wait(now_ns, level - self.meter.burst_ticks());
            }
            let next = granted.wrapping_add(level);
            match self.consumed.compare_exchange_weak(consumed, next, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return Check::Allowed,
                Err(seen) => consumed = seen,
            }
        }
    }

    /// Units that would be allowed now.
    #[must_use]
    pub fn remaining(&self, now: Timestamp) -> u64 {
        let level = level(self.consumed.load(Ordering::Relaxed), self.meter.granted(nanos(now)));
        self.meter.units(self.meter.burst_ticks().saturating_sub(level))
    }

    #[cold]
    fn wait(&self, now_ns: u64, ticks: u64) -> Check {
        self.meter.time_until(now_ns, ticks).map_or(Check::Never, |ns| Check::Wait(Duration::from_nanos(ns)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_busy_second_at_any_rate_grants_the_burst_and_the_rate_within_one_unit() {
        for rate in [1u64, 10, 999_983, 150_000_000, 600_000_000] {
            let bucket = TokenBucket::new(rate, Duration::from_secs(1), rate, Timestamp::ZERO).unwrap();
            let (mut granted, batch) = (0, (rate / 1_000).max(1));
            for step in 0..=10_000u64 {
                let now = Timestamp::new(Duration::from_nanos(step * 100_000));
                while bucket.check(now, batch) == Check::Allowed {
                    granted += batch;
                }
                while rate < 1_000_000 && bucket.check(now, 1) == Check::Allowed {
                    granted += 1;
                }
            }
            let rest = bucket.remaining(Timestamp::from_secs_f64(1.0));
            assert!((2 * rate).abs_diff(granted + rest) <= 1, "{granted} + {rest} at {rate}/s");
        }
    }

    #[test]
    fn above_the_burst_no_waiting_helps() {
        let bucket = TokenBucket::new(1, Duration::from_secs(1), 5, Timestamp::ZERO).unwrap();
        assert_eq!(bucket.check(Timestamp::ZERO, 6), Check::Never);
        assert_eq!(bucket.remaining(Timestamp::ZERO), 5);
    }
}
