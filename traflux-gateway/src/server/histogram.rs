//! How are latencies counted, from any thread, in little space?

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Buckets per doubling: a quantile is at most 1/32 too high.
const STEPS: u64 = 32;
const STEP_BITS: u32 = STEPS.trailing_zeros();
/// Nanoseconds up to 2⁴², over an hour; longer counts as that.
const BUCKETS: usize = ((42 - STEP_BITS as usize) + 1) * STEPS as usize;

/// Counts of durations in buckets of equal relative width.
#[derive(Debug)]
pub struct Histogram {
    /// Relaxed everywhere: counts are read after the fact, and none depends on another.
    counts: Box<[AtomicU64]>,
}

impl Default for Histogram {
    fn default() -> Self {
        Self::new()
    }
}

impl Histogram {
    /// An empty one.
    #[must_use]
    pub fn new() -> Self {
        Self { counts: (0..BUCKETS).map(|_| AtomicU64::new(0)).collect() }
    }

    /// Counts one.
    pub fn record(&self, duration: Duration) {
        let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        self.counts[bucket(nanos)].fetch_add(1, Ordering::Relaxed);
    }

    /// How many were counted.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.counts.iter().map(|count| count.load(Ordering::Relaxed)).sum()
    }

    /// The smallest bucket border that a `share` in [0, 1] of all lies below; `None` while empty.
    #[must_use]
    pub fn quantile(&self, share: f64) -> Option<Duration> {
        let counts: Vec<u64> = self.counts.iter().map(|count| count.load(Ordering::Relaxed)).collect();
        let total: u64 = counts.iter().sum();
        let rank = ((share * total as f64).ceil() as u64).clamp(1, total.max(1));
        let mut below = 0;
        for (ix, count) in counts.iter().enumerate() {
            below += count;
            if below >= rank {
                return Some(Duration::from_nanos(upper(ix)));
            }
        }
        None
    }

    /// Takes in the counts of another.
    pub fn merge(&self, other: &Self) {
        for (mine, theirs) in self.counts.iter().zip(&other.counts) {
            mine.fetch_add(theirs.load(Ordering::Relaxed), Ordering::Relaxed);
        }
    }
}

/// Below 32 ns each has its bucket; above, the five bits below the leading one choose among 32.
fn bucket(nanos: u64) -> usize {
    if nanos < STEPS {
        return nanos as usize;
    }
    let exponent = nanos.ilog2() - STEP_BITS;
    let ix = u64::from(exponent + 1) * STEPS + ((nanos >> exponent) - STEPS);
    (ix as usize).min(BUCKETS - 1)
}

/// The largest value of a bucket.
fn upper(ix: usize) -> u64 {
    let ix = ix as u64;
    if ix < STEPS {
        return ix;
    }
    let exponent = ix / STEPS - 1;
    ((STEPS + ix % STEPS + 1) << exponent) - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantile_is_at_most_a_thirty_second_too_high() {
        for nanos in (0..50_000).chain([1_000_000, 123_456_789, 60_000_000_000]) {
            let histogram = Histogram::new();
            histogram.record(Duration::from_nanos(nanos));
            let read = histogram.quantile(0.5).map_or(0, |d| d.as_nanos() as u64);
            assert!(read >= nanos && read - nanos <= nanos / STEPS, "{nanos} read as {read}");
        }
    }

    #[test]
    fn quantiles_of_a_thousand_values_are_where_they_belong() {
        let histogram = Histogram::new();
        (1..=1000).for_each(|ms| histogram.record(Duration::from_millis(ms)));
        let ms = |share| histogram.quantile(share).map_or(0.0, |d| d.as_secs_f64() * 1e3);
        assert!((500.0..=516.0).contains(&ms(0.5)), "{}", ms(0.5));
        assert!((990.0..=1021.0).contains(&ms(0.99)), "{}", ms(0.99));
        assert_eq!(histogram.count(), 1000);
        assert_eq!(Histogram::new().quantile(0.5), None);
    }
}
