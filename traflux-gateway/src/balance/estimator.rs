//! What does an endpoint do on average, told by one machine word?
//!
//! Every estimator here is one `AtomicU64`, a 32-bit float beside a 32-bit clock or counter, so that a reader sees a
//! value with its own time. Updates load and store without a loop: of two threads that update at the same
//! moment one sample may be lost, which an average of many does not notice. All orderings are `Relaxed`: a
//! word depends on no other memory.
//!
//! Time is counted in ticks of 2²⁰ ns (1.05 ms) that wrap after 52 days; differences are taken modulo 2³² and
//! what looks negative counts as zero.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use traflux_core::Timestamp;

/// Seconds in a tick: 2²⁰ ns.
const TICK_SECONDS: f32 = 1.048_576e-3;

/// A moment in ticks, modulo 2³².
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tick(u32);

impl Tick {
    /// The tick of a moment.
    #[inline]
    #[must_use]
    pub fn of(now: Timestamp) -> Self {
        let since = now.since_epoch();
        // Wrapping: only differences count.
        let nanos = since.as_secs().wrapping_mul(1_000_000_000).wrapping_add(u64::from(since.subsec_nanos()));
        Self((nanos >> 20) as u32)
    }

    /// Seconds since an earlier tick, zero where time went backwards.
    #[inline]
    #[must_use]
    pub fn seconds_since(self, earlier: Self) -> f32 {
        let ticks = self.0.wrapping_sub(earlier.0) as i32;
        ticks.max(0) as f32 * TICK_SECONDS
    }
}

fn pack(value: f32, low: u32) -> u64 {
    (u64::from(value.to_bits()) << 32) | u64::from(low)
}

fn unpack(word: u64) -> (f32, u32) {
    (f32::from_bits((word >> 32) as u32), word as u32)
}

/// How an average forgets: by time, but never slower than by count.
///
/// A sample after `Δt` has the share `α = clamp(x / (1 + x), least, ½)`, `x = Δt / τ`: exponential
/// forgetting `1 − e^(−x)` to first order, in arithmetic that is the same on every machine. Where samples are
/// dense, `least` bounds the memory to `1 / least` samples, so that a busy endpoint's change shows within them
/// instead of within `τ`; where they are rare, ½ keeps one odd sample from being the whole truth.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Forgetting {
    seconds: f32,
    least: f32,
    /// Up to this many seconds a sample has the least share for certain, so that no division is needed where samples
    /// are dense.
    dense: f32,
}

impl Forgetting {
    /// Time constant `τ` and the most samples that are remembered.
    #[must_use]
    pub fn new(tau: Duration, samples: u32) -> Self {
        let (seconds, least) = (tau.as_secs_f32().max(1e-6), 1.0 / samples.clamp(2, 1 << 20) as f32);
        // A thousandth less than where `x / (1 + x)` is `least`: no rounding comes near.
        Self { seconds, least, dense: 0.999 * seconds * least / (1.0 - least) }
    }

    #[inline]
    fn share(self, elapsed: f32) -> f32 {
        if elapsed <= self.dense {
            return self.least;
        }
        let x = elapsed / self.seconds;
        (x / (1.0 + x)).clamp(self.least, 0.5)
    }
}

/// A mean that forgets, of positive numbers; nothing until the first sample.
#[derive(Debug, Default)]
pub struct DecayingMean(AtomicU64);

impl DecayingMean {
    /// The mean, and when it was last updated; `None` before the first sample.
    #[inline]
    #[must_use]
    pub fn read(&self) -> Option<(f32, Tick)> {
        let (value, tick) = unpack(self.0.load(Relaxed));
        (value > 0.0).then_some((value, Tick(tick)))
    }

    /// The mean, zero before the first sample.
    #[inline]
    #[must_use]
    pub fn value(&self) -> f32 {
        unpack(self.0.load(Relaxed)).0
    }

    /// Takes in a sample; what is not a finite number is left out, and zero counts as the least positive number.
    #[inline]
    pub fn record(&self, now: Tick, sample: f32, forgetting: Forgetting) {
        let sample = sample.max(f32::MIN_POSITIVE);
        if !sample.is_finite() {
            return;
        }
        let value = match self.read() {
            None => sample,
            Some((mean, at)) => {
                (mean + forgetting.share(now.seconds_since(at)) * (sample - mean)).max(f32::MIN_POSITIVE)
            }
        };
        self.0.store(pack(value, now.0), Relaxed);
    }

    /// Forgets everything.
    pub fn reset(&self) {
        self.0.store(0, Relaxed);
    }
}

/// A ratio of events that forgets: zero before the first sample.
#[derive(Debug, Default)]
pub struct DecayingRatio(AtomicU64);

impl DecayingRatio {
    /// The ratio, in [0, 1].
    #[inline]
    #[must_use]
    pub fn value(&self) -> f32 {
        unpack(self.0.load(Relaxed)).0
    }

    /// The ratio, and when it was last updated.
    #[inline]
    #[must_use]
    pub fn read(&self) -> (f32, Tick) {
        let (ratio, tick) = unpack(self.0.load(Relaxed));
        (ratio, Tick(tick))
    }

    /// Takes in whether the event happened.
    #[inline]
    pub fn record(&self, now: Tick, happened: bool, forgetting: Forgetting) {
        let (ratio, tick) = unpack(self.0.load(Relaxed));
        if ratio == 0.0 && !happened {
            // The common case stays zero at the cost of a store.
            self.0.store(pack(0.0, now.0), Relaxed);
            return;
        }
        let share = forgetting.share(now.seconds_since(Tick(tick)));
        let sample = if happened { 1.0 } else { 0.0 };
        self.0.store(pack(ratio + share * (sample - ratio), now.0), Relaxed);
    }

    /// Forgets everything.
    pub fn reset(&self) {
        self.0.store(0, Relaxed);
    }
}

/// Peak-EWMA, as in Finagle: jumps to a sample above it at once, forgets exponentially below it and while
/// nothing is heard: `v ← v·d + s·(1 − d)`, `d = e^(−Δt/τ)`.
#[derive(Debug, Default)]
pub struct PeakMean(AtomicU64);

impl PeakMean {
    /// The value as it counts now; `None` before the first sample.
    #[inline]
    #[must_use]
    pub fn at(&self, now: Tick, tau: Duration) -> Option<f32> {
        let (value, tick) = unpack(self.0.load(Relaxed));
        (value > 0.0).then(|| value * fading(now.seconds_since(Tick(tick)), tau))
    }

    /// Takes in a sample.
    #[inline]
    pub fn record(&self, now: Tick, sample: f32, tau: Duration) {
        let sample = sample.max(f32::MIN_POSITIVE);
        if !sample.is_finite() {
            return;
        }
        let (value, tick) = unpack(self.0.load(Relaxed));
        let next = if sample >= value {
            sample
        } else {
            let d = fading(now.seconds_since(Tick(tick)), tau);
            value * d + sample * (1.0 - d)
        };
        self.0.store(pack(next.max(f32::MIN_POSITIVE), now.0), Relaxed);
    }

    /// Forgets everything.
    pub fn reset(&self) {
        self.0.store(0, Relaxed);
    }
}

#[inline]
fn fading(elapsed: f32, tau: Duration) -> f32 {
    (-elapsed / tau.as_secs_f32().max(1e-6)).exp()
}

/// A quantile of positive samples in constant space.
///
/// Stochastic approximation in the logarithm (H. Robbins and S. Monro 1951; with constant steps it is the
/// frugal quantile of Q. Ma, S. Muthukrishnan and M. Sandler, 2013): a sample above multiplies the estimate by
/// `1 + η q`, one below divides it by `1 + η (1 − q)`, so that it rests where a share `q` of samples is
/// below. The step `η` shrinks from 1 as `2/n` to 0.05: it follows a change of scale by a factor of two within some
/// 14 / q samples upwards and 14 / (1 − q) downwards, and varies by a few per cent at rest.
#[derive(Debug, Default)]
pub struct StreamingQuantile(AtomicU64);

impl StreamingQuantile {
    const LEAST_STEP: f32 = 0.05;

    /// The estimate, `None` before the first sample.
    #[inline]
    #[must_use]
    pub fn value(&self) -> Option<f32> {
        let (value, _) = unpack(self.0.load(Relaxed));
        (value > 0.0).then_some(value)
    }

    /// Takes in a sample for the quantile `q` in (0, 1).
    #[inline]
    pub fn record(&self, sample: f32, q: f32) {
        let sample = sample.max(f32::MIN_POSITIVE);
        if !sample.is_finite() {
            return;
        }
        let (value, count) = unpack(self.0.load(Relaxed));
        let next = if value <= 0.0 {
            sample
        } else {
            let step = (2.0 / (count as f32 + 1.0)).clamp(Self::LEAST_STEP, 1.0);
            let moved =
                if sample > value { value * (1.0 + step * q) } else { value / (1.0 + step * (1.0 - q)) };
            moved.clamp(f32::MIN_POSITIVE, f32::MAX)
        };
        self.0.store(pack(next, count.saturating_add(1)), Relaxed);
    }

    /// Forgets everything.
    pub fn reset(&self) {
        self.0.store(0, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;

    fn tick(seconds: f64) -> Tick {
        Tick::of(Timestamp::from_secs_f64(seconds))
    }

    #[test]
    fn ticks_survive_their_wrap_and_a_clock_that_goes_backwards() {
        let wrap = (1u64 << 52) as f64 / 1e9;
        let elapsed = tick(wrap + 1.0).seconds_since(tick(wrap - 1.0));
        assert!((elapsed - 2.0).abs() < 0.003, "{elapsed}");
        assert_eq!(tick(5.0).seconds_since(tick(6.0)), 0.0);
    }

    #[test]
    fn the_mean_moves_half_way_after_one_time_constant() {
        let mean = DecayingMean::default();
        assert_eq!(mean.read(), None);
        let forgetting = Forgetting::new(Duration::from_secs(10), 1000);
        mean.record(tick(100.0), 2.0, forgetting);
        assert_eq!(mean.value(), 2.0);
        mean.record(tick(110.0), 1.0, forgetting);
        assert!((mean.value() - 1.5).abs() < 1e-3, "{}", mean.value());
    }

    #[test]
    fn dense_samples_are_remembered_by_count() {
        let mean = DecayingMean::default();
        let forgetting = Forgetting::new(Duration::from_secs(1000), 100);
        mean.record(tick(1.0), 10.0, forgetting);
        for _ in 0..100 {
            mean.record(tick(1.0), 20.0, forgetting);
        }
        // 20 − 10 (1 − 1/100)^100 = 16.34
        assert!((mean.value() - 16.34).abs() < 0.01, "{}", mean.value());
    }

    #[test]
    fn a_dense_sample_has_the_same_share_without_a_division() {
        for (seconds, samples) in [(10, 128), (10, 2), (1, 1 << 20), (3_600, 256)] {
            let forgetting = Forgetting::new(Duration::from_secs(seconds), samples);
            for step in 0..2_000 {
                let elapsed = forgetting.dense * step as f32 / 1_000.0;
                let x = elapsed / forgetting.seconds;
                assert_eq!(forgetting.share(elapsed), (x / (1.0 + x)).clamp(forgetting.least, 0.5));
            }
            // With two samples the least share is the greatest, too.
            let more = forgetting.share(1.01 * forgetting.dense);
            assert!(more > forgetting.least || samples == 2, "{seconds} s, {samples}");
        }
    }

    #[test]
    fn a_peak_counts_at_once_and_fades_by_1_over_e_in_one_time_constant() {
        let peak = PeakMean::default();
        let tau = Duration::from_secs(10);
        peak.record(tick(1.0), 0.5, tau);
        peak.record(tick(1.0), 2.0, tau);
        assert_eq!(peak.at(tick(1.0), tau), Some(2.0));
        let faded = peak.at(tick(11.0), tau).unwrap();
        assert!((faded - 2.0 / std::f32::consts::E).abs() < 1e-3, "{faded}");
    }

    #[test]
    fn the_ratio_finds_a_share_of_failures() {
        let ratio = DecayingRatio::default();
        let forgetting = Forgetting::new(Duration::from_secs(10), 1000);
        let mut rng = Rng::new(4);
        for step in 0..100_000 {
            ratio.record(tick(f64::from(step) * 1e-3), rng.uniform() < 0.2, forgetting);
        }
        // Standard error of 1000 to 2000 samples: 0.4 / √2000 = 0.009.
        assert!((ratio.value() - 0.2).abs() < 0.04, "{}", ratio.value());
    }

    #[test]
    fn the_quantile_settles_on_exponential_samples_and_follows_their_scale() {
        for (q, expected) in [(0.5, 0.693), (0.9, 2.303), (0.99, 4.605)] {
            let quantile = StreamingQuantile::default();
            let mut rng = Rng::new(9);
            let mut settled = |scale: f64| {
                for _ in 0..30_000 {
                    quantile.record((rng.exponential() * scale) as f32, q);
                }
                let mut sum = 0.0;
                for _ in 0..30_000 {
                    quantile.record((rng.exponential() * scale) as f32, q);
                    sum += f64::from(quantile.value().unwrap());
                }
                sum / 30_000.0
            };
            for scale in [1.0, 30.0, 0.2] {
                let found = settled(scale) / scale;
                assert!((found / expected - 1.0).abs() < 0.12, "{q}: {found}, expected {expected}");
            }
        }
    }

    #[test]
    fn what_is_no_number_changes_nothing() {
        let mean = DecayingMean::default();
        let forgetting = Forgetting::new(Duration::from_secs(10), 100);
        mean.record(tick(1.0), 1.0, forgetting);
        mean.record(tick(2.0), f32::INFINITY, forgetting);
        assert_eq!(mean.value(), 1.0);
        mean.record(tick(3.0), f32::NAN, forgetting);
        assert!(mean.value() > 0.0 && mean.value() <= 1.0);
    }
}
