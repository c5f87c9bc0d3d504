//! When may a backend that refused for lack of capacity be asked again?
//!
//! After the wait it stated, or after `base · 2^(strikes − 1)` where it stated none, each stretched at random by
//! up to a `spread` so that many callers do not return as one. Then its share grows evenly from `first_share`
//! to 1 within `ramp`. Refusals of requests sent before the first refusal are one strike with it.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use traflux_core::Timestamp;
use traflux_core::plan::congestion::CoolDownPlan;

use super::feedback::Wait;
use crate::units::{duration_nanos, nanos, unit_draw};

/// The cool-down of one backend and model.
#[derive(Debug)]
pub struct CoolDown {
    plan: CoolDownPlan,
    /// Nanoseconds since the epoch; 0 when never refused. Relaxed: a reader that sees the old value sends one
    /// more request, as if it had come before the refusal.
    until: AtomicU64,
    strikes: AtomicU32,
}

impl CoolDown {
    /// One that is not cooling.
    #[must_use]
    pub fn new(plan: &CoolDownPlan) -> Self {
        Self { plan: *plan, until: AtomicU64::new(0), strikes: AtomicU32::new(0) }
    }

    /// Takes in a refusal, with the wait it stated if any, and tells until when to stay away. `draw` is 64
    /// random bits.
    pub fn refused(&self, now: Timestamp, stated: Option<Wait>, draw: u64) -> Timestamp {
        let at = nanos(now);
        let cooling = self.until.load(Ordering::Relaxed) > at;
        let strikes = if cooling {
            self.strikes.load(Ordering::Relaxed).max(1)
        } else {
            self.strikes.fetch_add(1, Ordering::Relaxed) + 1
        };
        let wait = match stated {
            Some(stated) => stated.wait,
            None => self.plan.base.saturating_mul(1 << (strikes - 1).min(20)).min(self.plan.max),
        };
        let wait = duration_nanos(wait) as f64 * (1.0 + self.plan.spread * unit_draw(draw));
        let until = at.saturating_add(wait as u64);
        let before = self.until.fetch_max(until, Ordering::Relaxed);
        Timestamp::new(Duration::from_nanos(before.max(until)))
    }

    /// Takes in a request that was served: strikes are forgotten, unless it was sent before the refusal.
    #[inline]
    pub fn served(&self, now: Timestamp) {
        if self.strikes.load(Ordering::Relaxed) > 0 && nanos(now) >= self.until.load(Ordering::Relaxed) {
            self.strikes.store(0, Ordering::Relaxed);
        }
    }

    /// Time left to stay away, `None` when it may be asked.
    #[must_use]
    pub fn left(&self, now: Timestamp) -> Option<Duration> {
        let left = self.until.load(Ordering::Relaxed).saturating_sub(nanos(now));
        (left > 0).then(|| Duration::from_nanos(left))
    }

    /// The share of its usual traffic that it may have now, in [0, 1].
    #[inline]
    #[must_use]
    pub fn share(&self, now: Timestamp) -> f64 {
        let until = self.until.load(Ordering::Relaxed);
        if until == 0 {
            return 1.0;
        }
        let now = nanos(now);
        if now < until {
            return 0.0;
        }
        let progress = (now - until) as f64 / (duration_nanos(self.plan.ramp) as f64).max(1.0);
        (self.plan.first_share + (1.0 - self.plan.first_share) * progress).min(1.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(milliseconds: u64) -> Timestamp {
        Timestamp::new(Duration::from_millis(milliseconds))
    }

    fn stated(seconds: u64) -> Option<Wait> {
        let wait = Duration::from_secs(seconds);
        Some(Wait { wait, stated: wait })
    }

    #[test]
    fn a_stated_wait_is_never_cut_short_and_the_share_returns_step_by_step() {
        let cool_down = CoolDown::new(&CoolDownPlan::default());
        assert_eq!(cool_down.share(at(0)), 1.0);
        cool_down.refused(at(0), stated(10), 0);
        assert_eq!(cool_down.left(at(4_000)), Some(Duration::from_secs(6)));
        assert_eq!(cool_down.share(at(9_999)), 0.0);
        assert!((cool_down.share(at(10_000)) - 0.1).abs() < 1e-12);
        assert!((cool_down.share(at(12_500)) - 0.55).abs() < 1e-12);
        assert_eq!(cool_down.share(at(15_000)), 1.0);
        // A shorter wait, stated later by a straggler, does not shorten it.
        cool_down.refused(at(20_000), stated(10), u64::MAX);
        cool_down.refused(at(20_100), stated(1), 0);
        assert!(cool_down.left(at(30_500)).is_some());
    }

    #[test]
    fn refusals_of_one_moment_are_one_strike_and_guesses_double() {
        let cool_down = CoolDown::new(&CoolDownPlan::default());
        for _ in 0..50 {
            cool_down.refused(at(0), None, 0);
        }
        assert_eq!(cool_down.left(at(0)), Some(Duration::from_secs(1)));
        cool_down.served(at(500)); // sent before the refusal
        cool_down.refused(at(1_000), None, 0);
        assert_eq!(cool_down.left(at(1_000)), Some(Duration::from_secs(2)));
        cool_down.served(at(3_000));
        cool_down.refused(at(3_001), None, 0);
        assert_eq!(cool_down.left(at(3_001)), Some(Duration::from_secs(1)));
    }
}
