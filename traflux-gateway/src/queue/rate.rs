//! How many tokens per second leave while something waits?
//!
//! `rate = T / D`: tokens and busy seconds, both forgotten with `m / (m + dt)` per step of `dt` (a memory of about
//! `m` seconds). Only time in which something waited counts: what leaves an empty queue says how much is asked for,
//! not how much the service can do.

/// Steps before the rate is believed.
const WARM: u32 = 16;

#[derive(Debug, Clone)]
pub(super) struct RateMeter {
    memory: f64,
    tokens: f64,
    seconds: f64,
    steps: u32,
    last: u64,
    busy: bool,
}

impl RateMeter {
    pub(super) fn new(memory_seconds: f64) -> Self {
        Self { memory: memory_seconds, tokens: 0.0, seconds: 0.0, steps: 0, last: 0, busy: false }
    }

    /// Something waits from now on.
    #[inline]
    pub(super) fn begin(&mut self, now: u64) {
        if !self.busy {
            (self.busy, self.last) = (true, now);
        }
    }

    /// Nothing waits any more.
    #[inline]
    pub(super) fn end(&mut self) {
        self.busy = false;
    }

    /// Tokens left.
    #[inline]
    pub(super) fn leave(&mut self, now: u64, tokens: u64) {
        if !self.busy {
            return;
        }
        let step = now.saturating_sub(self.last) as f64 * 1e-9;
        if step > 0.0 {
            let keep = self.memory / (self.memory + step);
            self.tokens *= keep;
            self.seconds = self.seconds * keep + step;
            self.last = now;
        }
        self.tokens += tokens as f64;
        self.steps = self.steps.saturating_add(1);
    }

    /// Seconds per token, more where nothing has left for a while; `None` before it is known.
    #[inline]
    pub(super) fn seconds_per_token(&self, now: u64) -> Option<f64> {
        let idle = if self.busy { now.saturating_sub(self.last) as f64 * 1e-9 } else { 0.0 };
        let seconds = self.seconds + idle;
        (self.steps >= WARM && seconds > 0.0).then(|| seconds / self.tokens)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_time_does_not_lower_the_rate_and_a_stall_does() {
        let mut meter = RateMeter::new(10.0);
        meter.begin(0);
        for k in 1..=1_000u64 {
            meter.leave(k * 10_000_000, 50);
        }
        let rate = 1.0 / meter.seconds_per_token(10_000_000_000).unwrap();
        // 50 tokens every 10 ms.
        assert!((rate / 5_000.0 - 1.0).abs() < 0.01, "{rate}");
        let stalled = 1.0 / meter.seconds_per_token(30_000_000_000).unwrap();
        assert!(stalled < 2_000.0, "{stalled}");
        meter.end();
        assert!((meter.seconds_per_token(90_000_000_000).unwrap() * 5_000.0 - 1.0).abs() < 0.01);
    }
}
