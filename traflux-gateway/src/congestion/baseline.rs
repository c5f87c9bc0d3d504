//! How long does an answer take when nothing queues?
//!
//! Neither the smallest latency ever (one tiny request fixes it for ever, and where work varies it lies far
//! below the mean) nor a long average (it drifts up with a standing queue) tells. The mean latency at reduced
//! load does. Load often falls to half that share of the limit by itself; where it has not for an `interval`, the limit is lowered to that share until enough samples are in, in the way of Envoy's
//! adaptive concurrency filter and of BBR's ProbeRTT, but by a share and not to a handful.

use std::time::Duration;

use crate::units::duration_nanos;

/// The logarithm to base 2 of a number of at least 1, with straight lines between powers of two: an `f64` read
/// as an integer. Off by up to 0.086, alike in the values compared, and three instructions.
#[inline]
pub(crate) fn logarithm(nanos: u64) -> f64 {
    const MANTISSA: f64 = (1u64 << 52) as f64;
    (nanos.max(1) as f64).to_bits() as f64 / MANTISSA - 1023.0
}

/// The inverse of [`logarithm`].
pub(crate) fn exponential(logarithm: f64) -> f64 {
    const MANTISSA: f64 = (1u64 << 52) as f64;
    f64::from_bits(((logarithm + 1023.0) * MANTISSA) as u64)
}

/// The geometric mean of latencies at reduced load, in nanoseconds, and the probe for it.
#[derive(Debug)]
pub(crate) struct Baseline {
    share: f64,
    samples: u32,
    interval: u64,
    value: Option<f64>,
    measured_at: u64,
    probing_since: Option<u64>,
    /// Of logarithms.
    sum: f64,
    count: u32,
    /// When the first sample of this measurement came.
    first: Option<u64>,
    /// Arithmetic mean of all latencies, in nanoseconds.
    mean: f64,
}

impl Baseline {
    pub(crate) fn new(share: f64, samples: u32, interval: Duration) -> Self {
        Self {
            share,
            samples: samples.max(1),
            interval: duration_nanos(interval).max(1),
            value: None,
            measured_at: 0,
            probing_since: None,
            sum: 0.0,
            count: 0,
            first: None,
            mean: 0.0,
        }
    }

    /// The baseline, once there is one.
    pub(crate) fn value(&self) -> Option<f64> {
        self.value
    }

    /// The limit to keep now: the given one, or a share of it while probing.
    pub(crate) fn limit(&self, limit: f64) -> f64 {
        if self.is_probing() { limit * self.share } else { limit }
    }

    fn is_probing(&self) -> bool {
        self.probing_since.is_some() || self.value.is_none()
    }

    /// Takes in the logarithm of the latency of a request that found so many in flight, itself included.
    pub(crate) fn observe(&mut self, now: u64, in_flight: u32, limit: f64, latency: f64) {
        // An arithmetic mean of some hundred samples, for the time it takes to settle.
        self.mean += (exponential(latency) - self.mean) / 128.0;
        // Without a probe only half that load counts. Otherwise a limit once too high would take latencies with
        // a queue for the baseline, rise by them, and never be probed.
        let share = if self.is_probing() { self.share } else { 0.5 * self.share };
        if f64::from(in_flight) > (limit * share).max(1.0) {
            return;
        }
        // The first answers after any start are the fast ones; two mean latencies later the slow come in too.
        let first = *self.first.get_or_insert(now);
        if (now.saturating_sub(first) as f64) < 2.0 * self.mean {
            return;
        }
        self.sum += latency;
        self.count += 1;
        if self.count >= self.samples {
            self.finish(now);
        }
    }

    /// Starts a probe when the baseline is old, ends one that takes too long. Called about once per window.
    pub(crate) fn tick(&mut self, now: u64) {
        match self.probing_since {
            // Traffic is too thin for a full probe: what came in must do.
            Some(since) if now.saturating_sub(since) > self.interval / 4 => self.finish(now),
            None if self.value.is_some() && now.saturating_sub(self.measured_at) > self.interval => {
                self.probing_since = Some(now);
                (self.sum, self.count, self.first) = (0.0, 0, None);
            }
            _ => {}
        }
    }

    fn finish(&mut self, now: u64) {
        if self.count > 0 {
            let mean = exponential(self.sum / f64::from(self.count));
            // Half the weight to what was known, for a probe is a small sample; all to the first.
            self.value = Some(self.value.map_or(mean, |value| 0.5 * (value + mean)));
        }
        (self.sum, self.count, self.first) = (0.0, 0, None);
        (self.measured_at, self.probing_since) = (now, None);
    }
}
