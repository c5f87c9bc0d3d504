//! How much is one more sample worth, when samples come irregularly and clocks jump?

use std::time::Duration;

use crate::units::Timestamp;

/// `1 − e^(−step/constant)`: the weight of a sample after `step` seconds.
pub(super) fn weight(step: f64, constant: f64) -> f64 {
    if constant <= 0.0 { 1.0 } else { -(-step / constant).exp_m1() }
}

/// When the newest sample was taken.
///
/// The same sample is collected again and again until a new one is scraped; only the first collection
/// teaches something.
#[derive(Debug, Clone, Default)]
pub(super) struct Clock {
    sampled: Option<Timestamp>,
}

impl Clock {
    /// Takes a sample collected at `at` with the given age: seconds since the one before, `None` when it is
    /// the same one. The first sample, and the first after a clock that jumped backwards, count as a step
    /// of zero.
    pub(super) fn advance(&mut self, at: Timestamp, age: Duration) -> Option<f64> {
        let sampled = Timestamp::new(at.since_epoch().saturating_sub(age));
        let Some(before) = self.sampled else {
            self.sampled = Some(sampled);
            return Some(0.0);
        };
        // Ages are measured with a jitter of some milliseconds; a jump is more than that.
        const JITTER: Duration = Duration::from_millis(50);
        if sampled + JITTER < before {
            if before.since(sampled) > Duration::from_secs(5) {
                self.sampled = Some(sampled);
                return Some(0.0);
            }
            return None;
        }
        if sampled <= before + JITTER {
            return None;
        }
        self.sampled = Some(sampled);
        Some(sampled.since(before).as_secs_f64())
    }

    /// Time since the newest sample, `None` before the first.
    pub(super) fn age(&self, at: Timestamp) -> Option<Duration> {
        self.sampled.map(|sampled| at.since(sampled))
    }

    /// When the newest sample was taken, in seconds.
    pub(super) fn sampled(&self) -> Option<f64> {
        self.sampled.map(Timestamp::as_secs_f64)
    }
}

/// Largest values of the last moments: what a windowed latency may still remember.
#[derive(Debug, Clone, Default)]
pub(super) struct Recent {
    samples: Vec<(f64, f64)>,
}

impl Recent {
    /// Adds a value at a time and forgets those older than `span`.
    pub(super) fn push(&mut self, time: f64, value: f64, span: f64) {
        if self.samples.last().is_some_and(|(last, _)| *last > time) {
            self.samples.clear();
        }
        self.samples.retain(|(t, _)| time - t <= span);
        // 256 samples are 4 minutes at one a second; a faster source loses detail, not correctness.
        if self.samples.len() >= 256 {
            self.samples.remove(0);
        }
        self.samples.push((time, value));
    }

    /// The largest value.
    pub(super) fn max(&self) -> f64 {
        self.samples.iter().map(|(_, v)| *v).fold(0.0, f64::max)
    }

    /// The smallest value.
    pub(super) fn min(&self) -> f64 {
        self.samples.iter().map(|(_, v)| *v).fold(f64::INFINITY, f64::min)
    }
}
