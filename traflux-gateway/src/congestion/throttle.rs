//! Which requests are turned away here, because the backend would turn them away anyway?
//!
//! Client-side adaptive throttling (Google, *Site Reliability Engineering*, 2016, ch. 21): over two minutes,
//! count the requests wanted and those the backend accepted; reject with probability
//!
//! `p = max(0, (requests − K · accepts) / (requests + 1))`.
//!
//! `K` is the tolerance: at 2, half the requests sent may be refused before any is held back here. Departures:
//! - Each priority band has its own `K`, and counts only traffic **at least as important as itself**. The
//!   lowest band sees all refusals and yields first; the highest is judged by its own fate and not throttled
//!   because of what was held back below it.
//! - Below [`min_requests`](ThrottlePlan::min_requests) in the window nothing is rejected: one failure out
//!   of one is no overload.
//! - `p` stays at or below [`max_probability`](ThrottlePlan::max_probability), so that recovery is seen
//!   even when every request is unwelcome.

use traflux_core::Timestamp;
use traflux_core::plan::congestion::{MAX_BANDS, ThrottlePlan};

use super::by_band;
use super::sliding::Sliding;
use crate::units::unit_draw;

const BUCKETS: usize = 24;

/// What to do with a request.
#[derive(Debug, Clone, Copy, PartialEq)]
#[must_use]
pub enum Verdict {
    /// Send it.
    Send,
    /// Turn it away.
    Reject {
        /// The probability it had to be turned away.
        probability: f64,
    },
}

/// Client-side throttling of one backend and model.
///
/// ```
/// use traflux_core::Timestamp;
/// use traflux_gateway::congestion::{Throttle, ThrottlePlan, Verdict};
///
/// let throttle = Throttle::new(&ThrottlePlan::default());
/// let now = Timestamp::ZERO;
/// for _ in 0..100 {
///     let _ = throttle.decide(now, 1, u64::MAX); // sent, and refused by the backend
/// }
/// assert!((throttle.probability(now, 1) - 0.95).abs() < 1e-12);
/// assert!(matches!(throttle.decide(now, 1, 0), Verdict::Reject { .. }));
/// ```
#[derive(Debug)]
pub struct Throttle {
    tolerance: [f64; MAX_BANDS],
    min_requests: u64,
    max_probability: f64,
    /// Requests at even, accepts at odd positions.
    counts: Sliding,
}

impl Throttle {
    /// One that has seen nothing.
    #[must_use]
    pub fn new(plan: &ThrottlePlan) -> Self {
        Self {
            tolerance: by_band(&plan.tolerance, 2.0),
            min_requests: plan.min_requests,
            max_probability: plan.max_probability,
            counts: Sliding::new(plan.window, BUCKETS, 2 * MAX_BANDS),
        }
    }

    /// Decides on a request, and counts it as wanted either way. `draw` is 64 random bits.
    #[inline]
    pub fn decide(&self, now: Timestamp, band: usize, draw: u64) -> Verdict {
        let band = band.min(MAX_BANDS - 1);
        let probability = self.probability(now, band);
        self.counts.add(2 * band, 1);
        if probability > 0.0 && unit_draw(draw) < probability {
            Verdict::Reject { probability }
        } else {
            Verdict::Send
        }
    }

    /// Takes in that the backend took a request on: it answered, be it with an error of the client's making.
    #[inline]
    pub fn accepted(&self, now: Timestamp, band: usize) {
        self.counts.advance(now);
        self.counts.add(2 * band.min(MAX_BANDS - 1) + 1, 1);
    }

    /// The probability that the next request of a band is turned away.
    #[inline]
    #[must_use]
    pub fn probability(&self, now: Timestamp, band: usize) -> f64 {
        let band = band.min(MAX_BANDS - 1);
        self.counts.advance(now);
        let (mut requests, mut accepts) = (0, 0);
        for counter in 0..=band {
            requests += self.counts.total(2 * counter);
            accepts += self.counts.total(2 * counter + 1);
        }
        if requests < self.min_requests {
            return 0.0;
        }
        let requests = requests as f64;
        ((requests - self.tolerance[band] * accepts as f64) / (requests + 1.0))
            .clamp(0.0, self.max_probability)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::Rng;

    fn at(milliseconds: u64) -> Timestamp {
        Timestamp::new(Duration::from_millis(milliseconds))
    }

    #[test]
    fn the_probability_is_that_of_the_formula() {
        let plan = ThrottlePlan { tolerance: vec![2.0], ..ThrottlePlan::default() };
        let throttle = Throttle::new(&plan);
        for step in 0..100 {
            let _ = throttle.decide(at(0), 0, u64::MAX);
            if step % 4 == 0 {
                throttle.accepted(at(0), 0);
            }
        }
        // (100 − 2·25) / 101
        assert!((throttle.probability(at(0), 0) - 50.0 / 101.0).abs() < 1e-12);
        assert_eq!(throttle.probability(at(125_000), 0), 0.0);
    }

    #[test]
    fn one_failure_out_of_one_throttles_nothing() {
        let throttle = Throttle::new(&ThrottlePlan::default());
        for _ in 0..19 {
            assert_eq!(throttle.decide(at(0), 7, 0), Verdict::Send);
        }
    }

    #[test]
    fn under_a_flood_of_low_priority_the_high_band_is_never_turned_away() {
        // 1000 requests/s are taken on; 300/s are important, 9,700/s are not.
        let throttle = Throttle::new(&ThrottlePlan::default());
        let mut rng = Rng::new(5);
        let (mut rejected_high, mut sent, mut taken_on) = (0, 0, 0);
        for second in 0..180u64 {
            let mut room = 1000;
            for step in 0..10_000u64 {
                let now = at(second * 1000 + step / 10);
                let band = if step % 100 < 3 { 0 } else { 3 };
                match throttle.decide(now, band, rng.next_u64()) {
                    Verdict::Reject { .. } => rejected_high += u32::from(band == 0),
                    Verdict::Send => {
                        // The backend does not tell bands apart and spreads its room over the second.
                        let due = 1000 - step / 10;
                        sent += u32::from(second >= 60);
                        if room >= due && room > 0 {
                            room -= 1;
                            throttle.accepted(now, band);
                            taken_on += u32::from(second >= 60);
                        }
                    }
                }
            }
        }
        assert_eq!(rejected_high, 0);
        // K = 1.1 leaves the backend with few requests to refuse, and busy: 120 s of 1000/s.
        assert!(f64::from(sent) / f64::from(taken_on) < 1.6, "{sent} sent, {taken_on} taken on");
        assert!(taken_on > 118_000, "{taken_on}");
    }
}
