//! How does a concurrency limit follow latency and drops?
//!
//! Each window of samples yields a new limit. All algorithms leave it alone while less than half of it is
//! used, for then latency says nothing about it. The gradient raises it only while four fifths are used: a limit far
//! above what is in flight lets the first seconds of a burst queue up at the backend.
//!
//! The latency of a window is the geometric mean of its samples. Work in requests to models varies by orders of
//! magnitude, and the arithmetic mean of 50 such samples is mostly far below the true one and now and then far
//! above: ratios of it lead limits astray. Where logarithms have standard deviation 1.5, the arithmetic mean left
//! a simulated server 9 % (gradient) and 25 % (Vegas) idle at twice its capacity, the geometric mean 2 to 5 %.

use std::time::Duration;

use traflux_core::plan::congestion::{AimdPlan, ConcurrencyAlgorithm, Gradient2Plan, GradientPlan};

use super::baseline::Baseline;

/// What one window of samples says.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct WindowSummary {
    /// Geometric mean of latencies in nanoseconds; `None` without a success.
    pub(crate) latency: Option<f64>,
    /// The most requests in flight.
    pub(crate) in_flight: u32,
    /// Requests refused or timed out.
    pub(crate) drops: u32,
}

/// An algorithm at work.
#[derive(Debug)]
pub(crate) enum Controller {
    Fixed,
    Aimd(AimdPlan),
    Vegas { baseline: Baseline },
    Gradient { settings: GradientPlan, baseline: Baseline },
    Gradient2 { settings: Gradient2Plan, long: Option<f64>, windows: u32 },
}

/// Factor after a window with drops, for the algorithms that go by latency.
const DROP_DECREASE: f64 = 0.9;
/// Share of the limit that must be in flight for the gradient to raise it.
const GROWS_WHEN_USED: f64 = 0.8;

impl Controller {
    pub(crate) fn new(algorithm: &ConcurrencyAlgorithm) -> Self {
        match algorithm {
            ConcurrencyAlgorithm::Fixed => Self::Fixed,
            ConcurrencyAlgorithm::Aimd(settings) => Self::Aimd(*settings),
            ConcurrencyAlgorithm::Vegas(v) => {
                Self::Vegas { baseline: Baseline::new(v.probe_share, v.probe_samples, v.probe_interval) }
            }
            ConcurrencyAlgorithm::Gradient(g) => Self::Gradient {
                settings: *g,
                baseline: Baseline::new(g.probe_share, g.probe_samples, g.probe_interval),
            },
            ConcurrencyAlgorithm::Gradient2(settings) => {
                Self::Gradient2 { settings: *settings, long: None, windows: 0 }
            }
        }
    }

    /// Takes in one latency. Algorithms without a baseline need only windows.
    #[inline]
    pub(crate) fn observe(&mut self, now: u64, in_flight: u32, limit: f64, latency: f64) {
        if let Self::Vegas { baseline } | Self::Gradient { baseline, .. } = self {
            baseline.observe(now, in_flight, limit, latency);
        }
    }

    /// The limit to keep now, given the limit it works with.
    pub(crate) fn effective(&self, limit: f64) -> f64 {
        match self {
            Self::Vegas { baseline } | Self::Gradient { baseline, .. } => baseline.limit(limit),
            _ => limit,
        }
    }

    /// Whether this latency counts as a drop.
    pub(crate) fn is_drop(&self, latency: Duration) -> bool {
        matches!(self, Self::Aimd(AimdPlan { latency_limit: Some(most), .. }) if latency > *most)
    }

    /// The limit after a window.
    pub(crate) fn next(&mut self, now: u64, window: WindowSummary, limit: f64) -> f64 {
        let busy = f64::from(window.in_flight) * 2.0 >= limit;
        if let Self::Vegas { baseline } | Self::Gradient { baseline, .. } = self {
            baseline.tick(now);
        }
        match self {
            Self::Fixed => limit,
            Self::Aimd(settings) if window.drops > 0 => limit * settings.decrease,
            Self::Aimd(settings) if busy => limit + settings.increase,
            Self::Aimd(_) => limit,
            _ if window.drops > 0 => limit * DROP_DECREASE,
            Self::Vegas { baseline } => match (baseline.value(), window.latency) {
                (Some(base), Some(latency)) if busy && baseline.limit(limit) == limit => {
                    let log = limit.log10().max(1.0);
                    let queue = limit * (1.0 - base / latency).max(0.0);
                    if queue <= log {
                        limit + 6.0 * log
                    } else if queue < 3.0 * log {
                        limit + log
                    } else if queue > 6.0 * log {
                        limit - log
                    } else {
                        limit
                    }
                }
                _ => limit,
            },
            Self::Gradient { settings, baseline } => match (baseline.value(), window.latency) {
                // While probing, latency is low because the limit is.
                (Some(base), Some(latency)) if busy && baseline.limit(limit) == limit => {
                    let gradient = (settings.tolerance * base / latency.max(1.0)).clamp(0.5, 2.0);
                    let step = settings.smoothing * (gradient * limit + limit.sqrt() - limit);
                    let is_used = f64::from(window.in_flight) >= GROWS_WHEN_USED * limit;
                    if is_used { limit + step } else { limit + step.min(0.0) }
                }
                _ => limit,
            },
            Self::Gradient2 { settings, long, windows } => {
                let Some(short) = window.latency else { return limit };
                // A plain mean at first, then an exponential one of the same reach.
                *windows = (*windows + 1).min(settings.long_windows);
                let average =
                    long.map_or(short, |long| long + (short - long) * 2.0 / (f64::from(*windows) + 1.0));
                // After a fall of latency the long average catches up fast.
                let average = if average > 2.0 * short { average * 0.95 } else { average };
                *long = Some(average);
                if !busy {
                    return limit;
                }
                let gradient = (settings.tolerance * average / short.max(1.0)).clamp(0.5, 1.0);
                limit + settings.smoothing * (gradient * limit + settings.queue - limit)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn aimd_adds_one_and_takes_a_tenth() {
        let mut aimd = Controller::new(&ConcurrencyAlgorithm::Aimd(AimdPlan::default()));
        let window = WindowSummary { latency: Some(1e6), in_flight: 20, drops: 0 };
        assert_eq!(aimd.next(0, window, 20.0), 21.0);
        assert_eq!(aimd.next(0, WindowSummary { drops: 3, ..window }, 20.0), 18.0);
        assert_eq!(aimd.next(0, WindowSummary { in_flight: 9, ..window }, 20.0), 20.0);
    }

    #[test]
    fn the_gradient_raises_a_limit_that_is_used_and_lowers_one_that_is_half_used() {
        let gradient = |in_flight, latency: f64| {
            let mut gradient = Controller::new(&ConcurrencyAlgorithm::Gradient(GradientPlan::default()));
            for sample in 0..200u64 {
                gradient.observe(
                    sample * 10_000_000,
                    1,
                    20.0,
                    super::super::baseline::logarithm(100_000_000),
                );
            }
            gradient.next(2_000_000_000, WindowSummary { latency: Some(latency), in_flight, drops: 0 }, 20.0)
        };
        // 20 + 0.4·(1.25·20 + √20 − 20), and with three times the baseline 20 + 0.4·(½·20 + √20 − 20).
        assert!((gradient(16, 1e8) - 23.789).abs() < 1e-3, "{}", gradient(16, 1e8));
        assert_eq!(gradient(15, 1e8), 20.0, "three quarters are used");
        assert!((gradient(10, 3e8) - 17.789).abs() < 1e-3, "{}", gradient(10, 3e8));
        assert_eq!(gradient(9, 3e8), 20.0, "less than half is used");
    }

    #[test]
    fn gradient2_shrinks_in_proportion_to_a_jump_of_latency() {
        let mut gradient = Controller::new(&ConcurrencyAlgorithm::Gradient2(Gradient2Plan::default()));
        let window = |latency| WindowSummary { latency: Some(latency), in_flight: 100, drops: 0 };
        for _ in 0..600 {
            gradient.next(0, window(1e8), 100.0);
        }
        // long ≈ 1e8·(1 + 3·2/601) ≈ 1.01e8, gradient = max(½, 1.5·1.01/4) = ½: 100 + 0.2·(50 + 4 − 100).
        assert!((gradient.next(0, window(4e8), 100.0) - 90.8).abs() < 1e-9);
    }
}
