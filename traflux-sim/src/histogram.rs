//! How are latencies distributed, to about one percent?
//!
//! Log-linear buckets (the layout of HDR histograms): each doubling of a microsecond count is cut into 64
//! equal pieces, so a quantile is off by at most 1/64 of its value. The mean is exact.

use traflux_core::Latency;

const SUB_BITS: u32 = 6;
const SUB: u64 = 1 << SUB_BITS;
/// Microseconds beyond this (about 4.7 hours) share the last bucket.
const MAX_MICROS: u64 = (1 << 34) - 1;
const BUCKETS: usize = ((34 - SUB_BITS as usize) + 1) * SUB as usize;

/// Counts of latencies.
#[derive(Debug, Clone, PartialEq)]
pub struct LatencyHistogram {
    counts: Vec<u32>,
    count: u64,
    sum_seconds: f64,
    largest_seconds: f64,
}

impl Default for LatencyHistogram {
    fn default() -> Self {
        Self { counts: vec![0; BUCKETS], count: 0, sum_seconds: 0.0, largest_seconds: 0.0 }
    }
}

impl LatencyHistogram {
    /// Takes in one latency in nanoseconds.
    #[inline]
    pub fn record_nanos(&mut self, nanos: u64) {
        self.counts[Self::bucket(nanos / 1000)] += 1;
        self.count += 1;
        let seconds = nanos as f64 * 1e-9;
        self.sum_seconds += seconds;
        self.largest_seconds = self.largest_seconds.max(seconds);
    }

    /// How many were taken in.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Exact mean; zero when empty.
    #[must_use]
    pub fn mean(&self) -> Latency {
        Latency::saturating(if self.count == 0 { 0.0 } else { self.sum_seconds / self.count as f64 })
    }

    /// The latency that a share `q` in [0, 1] of requests does not exceed; zero when empty.
    /// Never above the largest.
    #[must_use]
    pub fn quantile(&self, q: f64) -> Latency {
        let rank = ((q.clamp(0.0, 1.0) * self.count as f64).ceil() as u64).max(1);
        let mut seen = 0;
        for (bucket, count) in self.counts.iter().enumerate() {
            seen += u64::from(*count);
            if seen >= rank {
                let (low, width) = Self::span(bucket);
                let middle = (low as f64 + width as f64 / 2.0) * 1e-6;
                return Latency::saturating(middle.min(self.largest_seconds));
            }
        }
        Latency::ZERO
    }

    /// Adds another histogram.
    pub fn merge(&mut self, other: &Self) {
        for (a, b) in self.counts.iter_mut().zip(&other.counts) {
            *a += b;
        }
        self.count += other.count;
        self.sum_seconds += other.sum_seconds;
        self.largest_seconds = self.largest_seconds.max(other.largest_seconds);
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.counts.fill(0);
        self.count = 0;
        self.sum_seconds = 0.0;
        self.largest_seconds = 0.0;
    }

    #[inline]
    fn bucket(micros: u64) -> usize {
        let micros = micros.min(MAX_MICROS);
        if micros < SUB {
            return micros as usize;
        }
        let octave = 63 - micros.leading_zeros() - SUB_BITS;
        ((u64::from(octave) << SUB_BITS) + (micros >> octave)) as usize
    }

    fn span(bucket: usize) -> (u64, u64) {
        let bucket = bucket as u64;
        if bucket < SUB {
            return (bucket, 1);
        }
        let octave = (bucket >> SUB_BITS) - 1;
        ((bucket - (octave << SUB_BITS)) << octave, 1 << octave)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_within_a_sixty_fourth_and_the_mean_is_exact() {
        let mut histogram = LatencyHistogram::default();
        for micros in 1..=100_000u64 {
            histogram.record_nanos(micros * 1000);
        }
        assert!((histogram.mean().as_secs() - 0.050_000_5).abs() < 1e-9);
        for q in [0.01, 0.5, 0.95, 0.99, 1.0] {
            let exact = q * 0.1;
            let found = histogram.quantile(q).as_secs();
            assert!((found - exact).abs() <= exact / 64.0 + 1e-6, "{q}: {found}");
        }
    }

    #[test]
    fn every_bucket_holds_what_falls_into_it() {
        for micros in (0..20_000).chain([1 << 20, (1 << 30) + 12345, MAX_MICROS, u64::MAX]) {
            let bucket = LatencyHistogram::bucket(micros);
            let (low, width) = LatencyHistogram::span(bucket);
            let capped = micros.min(MAX_MICROS);
            assert!((low..low + width).contains(&capped), "{micros} in {bucket}: {low}+{width}");
            assert!(bucket < BUCKETS);
        }
    }
}
