//! What happened to every request, and how does a stretch of time look?

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// One request, from the moment at which it was due.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sample {
    /// When it was due, which is what a client that does not wait for others would have seen.
    pub due: Instant,
    /// From then to its answer, milliseconds.
    pub latency_ms: f64,
    /// Position of its source.
    pub source: usize,
    /// Name of its service.
    pub service: &'static str,
    /// The endpoint that says it answered.
    pub endpoint: Option<usize>,
    /// The answer.
    pub outcome: Outcome,
}

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Outcome {
    /// With this status.
    Status(u16),
    /// Without an answer, and why.
    Lost(&'static str),
}

impl Outcome {
    fn is_success(self) -> bool {
        matches!(self, Self::Status(200..=299))
    }
}

/// All requests.
#[derive(Debug, Default)]
pub(crate) struct Timeline(Mutex<Vec<Sample>>);

/// Some of the requests: by service, by source, by time due.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stretch {
    /// Service, or all.
    pub service: Option<&'static str>,
    /// Source, or all.
    pub source: Option<usize>,
    /// From here on.
    pub from: Instant,
    /// To here.
    pub to: Instant,
}

/// What they come to.
#[derive(Debug, Clone, Default)]
pub(crate) struct Summary {
    /// How many.
    pub count: usize,
    /// Of those, the ones without an answer in 2xx.
    pub failed: usize,
    /// Failures by kind.
    pub failures: BTreeMap<Outcome, usize>,
    /// Answers by endpoint.
    pub by_endpoint: BTreeMap<usize, usize>,
    latencies_ms: Vec<f64>,
}

impl Timeline {
    /// Adds a request.
    pub(crate) fn record(&self, sample: Sample) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(sample);
    }

    /// Looks at a stretch.
    pub(crate) fn summary(&self, stretch: Stretch) -> Summary {
        let mut summary = Summary::default();
        let samples = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for sample in samples.iter() {
            let of_interest = stretch.service.is_none_or(|s| s == sample.service)
                && stretch.source.is_none_or(|s| s == sample.source)
                && (stretch.from..stretch.to).contains(&sample.due);
            if !of_interest {
                continue;
            }
            summary.count += 1;
            summary.latencies_ms.push(sample.latency_ms);
            if !sample.outcome.is_success() {
                summary.failed += 1;
                *summary.failures.entry(sample.outcome).or_default() += 1;
            }
            if let Some(endpoint) = sample.endpoint {
                *summary.by_endpoint.entry(endpoint).or_default() += 1;
            }
        }
        summary.latencies_ms.sort_by(f64::total_cmp);
        summary
    }
}

impl Summary {
    /// A percentile of the latency in milliseconds, nearest rank; 0 without requests.
    pub(crate) fn percentile_ms(&self, percent: f64) -> f64 {
        let rank = (self.latencies_ms.len() as f64 * percent / 100.0).ceil() as usize;
        self.latencies_ms.get(rank.saturating_sub(1)).copied().unwrap_or(0.0)
    }

    /// Failures in words.
    pub(crate) fn describe_failures(&self) -> String {
        let words = self.failures.iter().map(|(outcome, count)| match outcome {
            Outcome::Status(status) => format!("{count} × {status}"),
            Outcome::Lost(why) => format!("{count} × {why}"),
        });
        words.collect::<Vec<_>>().join(", ")
    }
}

/// Largest distance, in standard deviations of the binomial distribution, between counts and the shares they
/// should follow. A share of 0 that got requests is infinitely far.
pub(crate) fn worst_deviation(counts: &[usize], shares: &[f64]) -> f64 {
    let n: usize = counts.iter().sum();
    let n = n as f64;
    counts
        .iter()
        .zip(shares)
        .map(|(count, share)| {
            let sigma = (n * share * (1.0 - share)).sqrt();
            let off = (*count as f64 - n * share).abs();
            if off < 1e-9 { 0.0 } else { off / sigma }
        })
        .fold(0.0, f64::max)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn deviation_is_counted_in_binomial_standard_deviations() {
        // n = 100, p = 0.5: sigma 5.
        assert_eq!(worst_deviation(&[60, 40], &[0.5, 0.5]), 2.0);
        assert_eq!(worst_deviation(&[100, 0], &[1.0, 0.0]), 0.0);
        assert_eq!(worst_deviation(&[99, 1], &[1.0, 0.0]), f64::INFINITY);
    }

    #[test]
    fn a_stretch_holds_its_own_requests_only() {
        let timeline = Timeline::default();
        let start = Instant::now();
        for (ms, service, status) in [(0, "web", 200), (10, "web", 504), (20, "pay", 200), (30, "web", 200)] {
            timeline.record(Sample {
                due: start + Duration::from_millis(ms),
                latency_ms: ms as f64,
                source: 0,
                service,
                endpoint: (status == 200).then_some(1),
                outcome: Outcome::Status(status),
            });
        }
        let to = start + Duration::from_millis(30);
        let summary = timeline.summary(Stretch { service: Some("web"), source: None, from: start, to });
        assert_eq!((summary.count, summary.failed), (2, 1));
        assert_eq!(summary.describe_failures(), "1 × 504");
        assert_eq!(summary.percentile_ms(95.0), 10.0);
        assert_eq!(summary.by_endpoint.get(&1), Some(&1));
    }
}
