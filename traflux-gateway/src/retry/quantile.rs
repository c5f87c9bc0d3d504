//! How long do all but a few percent of answers take?
//!
//! A histogram of logarithmic buckets, 16 per octave (so within 1/16 of the true value), over the last one to
//! two `generation`s of samples. Recording is one atomic addition and a store.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use crate::units::duration_nanos;

const SUB_BITS: u32 = 4;
const SUB: usize = 1 << SUB_BITS;
/// From 2¹⁶ ns (65 µs) to 2⁴⁰ ns (18 min); what lies beyond counts at the ends.
const FIRST_OCTAVE: u32 = 16;
const OCTAVES: usize = 24;
const BUCKETS: usize = OCTAVES * SUB;

/// A quantile of latencies over recent samples.
#[derive(Debug)]
pub struct LatencyQuantile {
    quantile: f64,
    generation: u32,
    /// Relaxed throughout: statistics.
    buckets: Box<[AtomicU32]>,
    count: AtomicU32,
    /// Nanoseconds; 0 until there are samples enough.
    value: AtomicU64,
    median: AtomicU64,
    previous: Mutex<Previous>,
}

#[derive(Debug)]
struct Previous {
    counts: Box<[u32]>,
    /// How many samples the generation has that fills now.
    generation: u32,
}

/// Samples of the first generation where there is an [`early`](LatencyQuantile::early) value.
const FIRST: u32 = 16;

impl LatencyQuantile {
    /// The quantile, in (0, 1), taken anew after every `generation` samples.
    #[must_use]
    pub fn new(quantile: f64, generation: u32) -> Self {
        let generation = generation.max(1);
        Self::starting(quantile, generation, generation)
    }

    /// The same with a first value after 16 samples: generations double from there on until they have `generation`
    /// samples. A high quantile of so few is nearly their longest, so it is rather too low than too high.
    #[must_use]
    pub fn early(quantile: f64, generation: u32) -> Self {
        let generation = generation.max(1);
        Self::starting(quantile, generation, generation.min(FIRST))
    }

    fn starting(quantile: f64, generation: u32, first: u32) -> Self {
        Self {
            quantile: quantile.clamp(0.0, 1.0),
            generation,
            buckets: (0..BUCKETS).map(|_| AtomicU32::new(0)).collect(),
            // Counting up to a whole generation from wherever it starts costs a record nothing.
            count: AtomicU32::new(generation - first),
            value: AtomicU64::new(0),
            median: AtomicU64::new(0),
            previous: Mutex::new(Previous { counts: vec![0; BUCKETS].into(), generation: first }),
        }
    }

    /// Takes in a latency.
    #[inline]
    pub fn record(&self, latency: Duration) {
        // Of two samples that come at the same moment one may be lost: a quantile of many does not notice, and a
        // locked addition would be half the cost.
        let bucket = &self.buckets[bucket(duration_nanos(latency))];
        bucket.store(bucket.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
        if self.count.fetch_add(1, Ordering::Relaxed) + 1 == self.generation {
            self.turn();
        }
    }

    /// The quantile; `None` before the first generation is full.
    #[inline]
    #[must_use]
    pub fn value(&self) -> Option<Duration> {
        let value = self.value.load(Ordering::Relaxed);
        (value > 0).then(|| Duration::from_nanos(value))
    }

    /// How long half of them take; `None` before the first generation is full.
    #[inline]
    #[must_use]
    pub fn median(&self) -> Option<Duration> {
        let median = self.median.load(Ordering::Relaxed);
        (median > 0).then(|| Duration::from_nanos(median))
    }

    #[cold]
    fn turn(&self) {
        let mut previous = self.previous.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let next = previous.generation.saturating_mul(2).min(self.generation);
        previous.generation = next;
        let previous = &mut previous.counts;
        // Both generations, summed where the one before was; who waits for a latency must not wait for memory.
        for (sum, bucket) in previous.iter_mut().zip(&self.buckets) {
            *sum = sum.saturating_add(bucket.load(Ordering::Relaxed));
        }
        self.count.store(self.generation - next, Ordering::Relaxed);
        let all = previous.iter().map(|sum| u64::from(*sum)).sum::<u64>() as f64;
        for (quantile, value) in [(self.quantile, &self.value), (0.5, &self.median)] {
            let rank = (all * quantile).ceil().max(1.0) as u64;
            let mut below = 0;
            let reached = previous.iter().position(|sum| {
                below += u64::from(*sum);
                below >= rank
            });
            if let Some(ix) = reached {
                value.store(upper_bound(ix), Ordering::Relaxed);
            }
        }
        for (past, bucket) in previous.iter_mut().zip(&self.buckets) {
            // As a record does: what comes between the two may be lost.
            *past = bucket.load(Ordering::Relaxed);
            bucket.store(0, Ordering::Relaxed);
        }
    }
}

fn bucket(nanos: u64) -> usize {
    let nanos = nanos.max(1 << FIRST_OCTAVE);
    let octave = nanos.ilog2();
    let sub = (nanos >> (octave - SUB_BITS)) as usize & (SUB - 1);
    ((octave - FIRST_OCTAVE) as usize * SUB + sub).min(BUCKETS - 1)
}

fn upper_bound(ix: usize) -> u64 {
    let octave = FIRST_OCTAVE + (ix / SUB) as u32;
    ((SUB + ix % SUB + 1) as u64) << (octave - SUB_BITS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Rng;

    #[test]
    fn the_quantile_of_exponential_latencies_is_found_within_a_tenth() {
        let quantile = LatencyQuantile::new(0.95, 2_000);
        assert_eq!(quantile.value(), None);
        let mut rng = Rng::new(1);
        for _ in 0..4_000 {
            quantile.record(Duration::from_secs_f64(0.2 * rng.exponential()));
        }
        // −ln 0.05 · 0.2 s; up to 1/16 more by the bucket, 3 % by chance.
        let (value, truth) = (quantile.value().unwrap().as_secs_f64(), 0.2 * 20f64.ln());
        assert!((0.93..1.12).contains(&(value / truth)), "{value} for {truth}");
        let (median, truth) = (quantile.median().unwrap().as_secs_f64(), 0.2 * 2f64.ln());
        assert!((0.93..1.12).contains(&(median / truth)), "{median} for {truth}");
    }

    #[test]
    fn an_early_value_comes_after_sixteen_samples_and_the_usual_ones_follow() {
        let quantile = LatencyQuantile::early(0.99, 100);
        let record = |count: u32, millis: u64| {
            (0..count).for_each(|_| quantile.record(Duration::from_millis(millis)));
            quantile.value().map(|value| value.as_millis())
        };
        assert_eq!(record(15, 100), None);
        let first = record(1, 100).unwrap();
        assert!((100..107).contains(&first), "{first}");
        // 32, 64 and from then on 100 more at a time.
        assert_eq!(record(31, 400), Some(first));
        assert!((400..427).contains(&record(1, 400).unwrap()));
        assert!((400..427).contains(&record(63, 200).unwrap()));
        assert!((400..427).contains(&record(1, 200).unwrap()), "one generation back");
        assert!((400..427).contains(&record(99, 200).unwrap()));
        assert!((200..214).contains(&record(1, 200).unwrap()), "all of the last two generations");
    }

    #[test]
    fn every_latency_lies_in_a_bucket_that_holds_it() {
        for nanos in [0, 1, 65_536, 65_537, 1_000_000, 999_999_999, 1 << 39, u64::MAX] {
            let ix = bucket(nanos);
            if ((1 << FIRST_OCTAVE)..(1 << 40)).contains(&nanos) {
                let lower = if ix == 0 { 1 << FIRST_OCTAVE } else { upper_bound(ix - 1) };
                assert!(lower <= nanos && nanos < upper_bound(ix), "{nanos} in {ix}");
            }
        }
    }
}
