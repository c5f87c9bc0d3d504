//! When is a second attempt sent while the first still runs?
//!
//! Hedged requests (J. Dean, L. A. Barroso, "The tail at scale", CACM 56, 2013): once the first byte is later
//! than, say, 95 % of first bytes were, the same request goes to another endpoint; the first to answer wins and
//! the others are given up. With the delay at the 95th percentile this costs about 5 % more requests, and a
//! [`RetryBudget`](super::RetryBudget) bounds it when everything is late.
//!
//! A first attempt that lost took longer than the delay, and is [taken in](Hedge::observe) as having taken the time
//! until it lost. If it were left out, only quick first bytes would be counted, the delay would shrink, and more and
//! more requests would be hedged.

use std::time::Duration;

use traflux_core::plan::retry::HedgePlan;

use super::quantile::LatencyQuantile;

/// First bytes after which the quantile is taken anew.
const SAMPLES: u32 = 200;

/// How late an answer is that is hedged, for requests of one route and model.
#[derive(Debug)]
pub struct Hedge {
    plan: HedgePlan,
    first_bytes: LatencyQuantile,
}

impl Hedge {
    /// One that has seen nothing.
    #[must_use]
    pub fn new(plan: HedgePlan) -> Self {
        Self { first_bytes: LatencyQuantile::new(plan.quantile, SAMPLES), plan }
    }

    /// What it was made of.
    #[must_use]
    pub const fn plan(&self) -> &HedgePlan {
        &self.plan
    }

    /// Takes in the time to the first byte of an attempt, or until another was quicker.
    #[inline]
    pub fn observe(&self, first_byte: Duration) {
        self.first_bytes.record(first_byte);
    }

    /// How long to wait for a first byte before another attempt.
    #[inline]
    #[must_use]
    pub fn delay(&self) -> Duration {
        match (self.plan.delay, self.first_bytes.value()) {
            (Some(fixed), _) => fixed,
            (None, None) => self.plan.initial_delay,
            (None, Some(late)) => late.min(self.plan.max_delay).max(self.plan.min_delay),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_hedged_when_later_than_most() {
        let hedge = Hedge::new(HedgePlan::default());
        assert_eq!(hedge.delay(), Duration::from_secs(2));
        for milliseconds in 1..=200 {
            hedge.observe(Duration::from_millis(milliseconds * 2));
        }
        // The 190th of 200 is 380 ms; its bucket ends within 1/16 above.
        let delay = hedge.delay();
        assert!((380..=404).contains(&delay.as_millis()), "{delay:?}");
        for _ in 0..400 {
            hedge.observe(Duration::from_millis(1));
        }
        assert_eq!(hedge.delay(), Duration::from_millis(50), "no sooner than min_delay_ms");
    }

    #[test]
    fn a_fixed_delay_goes_before_what_was_seen() {
        let fixed = Some(Duration::from_millis(30));
        let hedge = Hedge::new(HedgePlan { delay: fixed, ..HedgePlan::default() });
        (0..400).for_each(|_| hedge.observe(Duration::from_millis(900)));
        assert_eq!(hedge.delay(), Duration::from_millis(30));
    }
}
