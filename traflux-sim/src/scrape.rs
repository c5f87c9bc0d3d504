//! What does a controller get to see, and how old is it?
//!
//! Counters live at the source and are read at scrape instants only. A rate is the difference of the first
//! and the last scrape inside a window, over the time between them; its age is the time since the last. A percentile
//! comes from histogram buckets by linear interpolation, as `histogram_quantile` does. Requests that timed out never
//! entered the histogram.

use std::collections::VecDeque;
use std::time::Duration;

use traflux_core::{Latency, Measurements, Rate, Reading};

/// Histogram buckets of a route at most, the one above the last bound included.
pub(crate) const MAX_BUCKETS: usize = 24;
/// How long scrapes are kept.
const RETENTION_NS: u64 = 900_000_000_000;

/// Counters of one route, as a proxy exports them.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Counters {
    pub(crate) finished: u64,
    pub(crate) failed: u64,
    pub(crate) timed_out: u64,
    pub(crate) answered: u64,
    pub(crate) latency_seconds: f64,
    pub(crate) buckets: [u64; MAX_BUCKETS],
}

impl Counters {
    fn since(&self, earlier: &Self) -> Self {
        let mut buckets = self.buckets;
        for (now, before) in buckets.iter_mut().zip(&earlier.buckets) {
            *now -= before;
        }
        Self {
            finished: self.finished - earlier.finished,
            failed: self.failed - earlier.failed,
            timed_out: self.timed_out - earlier.timed_out,
            answered: self.answered - earlier.answered,
            latency_seconds: self.latency_seconds - earlier.latency_seconds,
            buckets,
        }
    }
}

/// One scrape of a source.
#[derive(Debug, Clone)]
struct Sample {
    at: u64,
    visible_at: u64,
    routes: Vec<Counters>,
    /// By route: whether its series were there.
    present: Vec<bool>,
    /// By route: whether the source sends requests there (not ejected).
    healthy: Vec<bool>,
}

/// The scrapes of one source.
#[derive(Debug, Clone, Default)]
pub(crate) struct ScrapeLog {
    samples: VecDeque<Sample>,
}

/// What happened on a route between two scrapes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Difference {
    pub(crate) counters: Counters,
    pub(crate) seconds: f64,
    pub(crate) age: Duration,
}

impl ScrapeLog {
    pub(crate) fn push(
        &mut self,
        at: u64,
        visible_at: u64,
        routes: &[Counters],
        present: impl Iterator<Item = bool>,
        healthy: impl Iterator<Item = bool>,
    ) {
        let old = self.samples.front().is_some_and(|s| s.at + RETENTION_NS < at);
        let mut sample = if old { self.samples.pop_front() } else { None }.unwrap_or_else(|| Sample {
            at,
            visible_at,
            routes: Vec::new(),
            present: Vec::new(),
            healthy: Vec::new(),
        });
        sample.at = at;
        sample.visible_at = visible_at;
        sample.routes.clear();
        sample.routes.extend_from_slice(routes);
        sample.present.clear();
        sample.present.extend(present);
        sample.healthy.clear();
        sample.healthy.extend(healthy);
        self.samples.push_back(sample);
    }

    /// The difference over the window that ends at `now`; `None` with fewer than two scrapes in it.
    pub(crate) fn difference(&self, route: usize, now: u64, window: u64) -> Option<Difference> {
        let from = now.saturating_sub(window);
        let begin = self.samples.partition_point(|s| s.at < from);
        let mut inside = self.samples.range(begin..).filter(|s| s.visible_at <= now && s.present[route]);
        let first = inside.next()?;
        let last = inside.next_back()?;
        if last.at <= first.at {
            return None;
        }
        Some(Difference {
            counters: last.routes[route].since(&first.routes[route]),
            seconds: (last.at - first.at) as f64 * 1e-9,
            age: Duration::from_nanos(now - last.at),
        })
    }

    /// Whether the source sent requests to the route at the last scrape seen.
    pub(crate) fn healthy(&self, route: usize, now: u64) -> Option<bool> {
        self.samples.iter().rev().find(|s| s.visible_at <= now).map(|s| s.healthy[route])
    }
}

/// Turns differences of one or several sources into measurements; the age is that of the oldest.
pub(crate) fn measure(differences: &[Difference], bounds_ms: &[f64], timeout_s: f64) -> Measurements {
    let Some(age) = differences.iter().map(|d| d.age).max() else {
        return Measurements::default();
    };
    let rate = |count: fn(&Counters) -> f64| -> f64 {
        differences.iter().map(|d| count(&d.counters) / d.seconds).sum()
    };
    let finished = rate(|c| c.finished as f64);
    let answered = rate(|c| c.answered as f64);
    let busy = rate(|c| c.latency_seconds);
    let timed_out = rate(|c| c.timed_out as f64);
    let reading = |value: f64| Reading::new(value, age);
    let ratio = |part: f64| (finished > 0.0).then(|| reading((part / finished).clamp(0.0, 1.0)));
    let mut buckets = [0.0; MAX_BUCKETS];
    for difference in differences {
        for (sum, count) in buckets.iter_mut().zip(&difference.counters.buckets) {
            *sum += *count as f64 / difference.seconds;
        }
    }
    Measurements {
        throughput: Some(Reading::new(Rate::saturating(finished), age)),
        latency_mean: (answered > 0.0).then(|| Reading::new(Latency::saturating(busy / answered), age)),
        latency_p95: interpolate(&buckets, bounds_ms, 0.95)
            .map(|ms| Reading::new(Latency::saturating(ms * 1e-3), age)),
        error_ratio: ratio(rate(|c| c.failed as f64)),
        censored_ratio: ratio(timed_out),
        concurrency: Some(reading((busy + timed_out * timeout_s).max(0.0))),
    }
}

/// The quantile of bucket counts in the unit of the bounds: linear inside a bucket, the last bound for what
/// lies above it; `None` when all are empty.
fn interpolate(buckets: &[f64], bounds: &[f64], q: f64) -> Option<f64> {
    let total: f64 = buckets.iter().sum();
    if total <= 0.0 {
        return None;
    }
    let rank = q * total;
    let mut below = 0.0;
    for (ix, count) in buckets.iter().enumerate() {
        if below + count >= rank && *count > 0.0 {
            let Some(upper) = bounds.get(ix) else { break };
            let lower = if ix == 0 { 0.0 } else { bounds[ix - 1] };
            return Some(lower + (upper - lower) * ((rank - below) / count).clamp(0.0, 1.0));
        }
        below += count;
    }
    bounds.last().copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_is_interpolated_inside_its_bucket() {
        // 90 below 100 ms, 10 between 100 and 250: the 95th is half way into the second bucket.
        assert_eq!(interpolate(&[90.0, 10.0, 0.0], &[100.0, 250.0], 0.95), Some(175.0));
        // All above the last bound: the last bound, as Prometheus answers.
        assert_eq!(interpolate(&[0.0, 0.0, 4.0], &[100.0, 250.0], 0.95), Some(250.0));
        assert_eq!(interpolate(&[0.0, 0.0, 0.0], &[100.0, 250.0], 0.95), None);
    }

    #[test]
    fn one_scrape_in_the_window_is_no_rate() {
        let mut log = ScrapeLog::default();
        let mut push = |at: u64, finished: u64| {
            let counters = Counters { finished, ..Counters::default() };
            log.push(at, at, &[counters], [true].into_iter(), [true].into_iter());
        };
        push(10, 100);
        push(25, 130);
        assert!(log.difference(0, 30, 15).is_none());
        let difference = log.difference(0, 30, 25).unwrap();
        assert_eq!(difference.counters.finished, 30);
        assert_eq!(difference.age, Duration::from_nanos(5));
    }
}
