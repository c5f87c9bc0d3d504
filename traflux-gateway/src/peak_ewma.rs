//! Peak-EWMA: of two endpoints drawn by weight, the one with less latency × requests in flight.
//!
//! The load of an endpoint is `ewma · (in flight + 1)`. The average jumps to a latency above it at once (the
//! peak) and forgets exponentially in time below it: `ewma ← ewma·d + latency·(1 − d)`, `d = e^(−Δt/τ)`. The
//! scheme of Finagle's Peak-EWMA balancer. Departure: a failure counts as at least
//! [`failure_latency`](PeakEwmaSettings::failure_latency), because fast errors would otherwise attract traffic.

use std::time::Duration;

use traflux_core::Timestamp;

use crate::alias::AliasTable;
use crate::picker::{Candidate, Completion, Picker};
use crate::rng::Rng;
use crate::weighted::open_weights;

/// Parameters of [`PeakEwma`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PeakEwmaSettings {
    /// `τ`: the time in which an old latency loses all but 1/e of its say.
    pub decay: Duration,
    /// What an endpoint that never answered is taken for.
    pub initial_latency: Duration,
    /// The least that a failure counts for.
    pub failure_latency: Duration,
}

impl Default for PeakEwmaSettings {
    fn default() -> Self {
        Self {
            decay: Duration::from_secs(10),
            initial_latency: Duration::from_millis(30),
            failure_latency: Duration::from_secs(1),
        }
    }
}

/// Power of two choices on peak-sensitive latency × requests in flight.
#[derive(Debug, Clone)]
pub struct PeakEwma {
    settings: PeakEwmaSettings,
    table: AliasTable,
    averages: Vec<Average>,
    rng: Rng,
}

#[derive(Debug, Clone, Copy)]
struct Average {
    seconds: f64,
    at: Timestamp,
}

impl PeakEwma {
    /// A picker without endpoints yet.
    #[must_use]
    pub fn new(seed: u64, settings: PeakEwmaSettings) -> Self {
        Self { settings, table: AliasTable::default(), averages: Vec::new(), rng: Rng::new(seed) }
    }

    /// The average of an endpoint as it counts now: it fades while nothing is heard, so that an endpoint once
    /// slow is tried again.
    fn average(&self, now: Timestamp, endpoint: usize) -> f64 {
        let Average { seconds, at } = self.averages[endpoint];
        seconds * self.fading(now.since(at))
    }

    fn fading(&self, elapsed: Duration) -> f64 {
        (-elapsed.as_secs_f64() / self.settings.decay.as_secs_f64().max(1e-9)).exp()
    }
}

impl Picker for PeakEwma {
    fn configure(&mut self, candidates: &[Candidate]) {
        self.table.rebuild(open_weights(candidates));
        let seconds = self.settings.initial_latency.as_secs_f64();
        self.averages.resize(candidates.len(), Average { seconds, at: Timestamp::ZERO });
    }

    fn pick(&mut self, now: Timestamp, in_flight: &[u32]) -> Option<usize> {
        let (a, b) = self.table.draw_two(&mut self.rng)?;
        if a == b {
            return Some(a);
        }
        let load = |ix: usize| self.average(now, ix) * (f64::from(in_flight[ix]) + 1.0);
        Some(if load(b) < load(a) { b } else { a })
    }

    fn observe(&mut self, now: Timestamp, endpoint: usize, latency: Duration, completion: Completion) {
        let Some(average) = self.averages.get(endpoint).copied() else { return };
        let latency = match completion {
            Completion::Success => latency,
            Completion::Failure => latency.max(self.settings.failure_latency),
        }
        .as_secs_f64();
        let fading = self.fading(now.since(average.at));
        let seconds = if latency > average.seconds {
            latency
        } else {
            average.seconds * fading + latency * (1.0 - fading)
        };
        self.averages[endpoint] = Average { seconds, at: now.max(average.at) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: f64) -> Timestamp {
        Timestamp::from_secs_f64(seconds)
    }

    #[test]
    fn a_peak_counts_at_once_and_fades_by_1_over_e_in_one_decay_time() {
        let mut picker = PeakEwma::new(1, PeakEwmaSettings::default());
        picker.configure(&[Candidate::weighted(1)]);
        picker.observe(at(1.0), 0, Duration::from_secs(2), Completion::Success);
        assert!((picker.average(at(1.0), 0) - 2.0).abs() < 1e-12);
        picker.observe(at(11.0), 0, Duration::ZERO, Completion::Success);
        assert!((picker.average(at(11.0), 0) - 2.0 / std::f64::consts::E).abs() < 1e-12);
    }

    #[test]
    fn fast_errors_repel_traffic() {
        let mut picker = PeakEwma::new(1, PeakEwmaSettings::default());
        picker.configure(&[Candidate::weighted(1); 2]);
        for step in 0..100 {
            let now = at(f64::from(step) * 0.01);
            picker.observe(now, 0, Duration::from_millis(1), Completion::Failure);
            picker.observe(now, 1, Duration::from_millis(100), Completion::Success);
        }
        assert!((0..50).all(|_| picker.pick(at(1.0), &[0, 0]) == Some(1)));
    }
}
