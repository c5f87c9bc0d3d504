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
    shortest_step: u64,
    tokens: f64,
    seconds: f64,
    /// Tokens since `last`.
    recent: u64,
    steps: u32,
    last: u64,
    busy: bool,
}

impl RateMeter {
    pub(super) fn new(memory_seconds: f64) -> Self {
        Self {
            memory: memory_seconds,
            shortest_step: (memory_seconds * 1e9 / 1024.0) as u64,
            tokens: 0.0,
            seconds: 0.0,
            recent: 0,
            steps: 0,
            last: 0,
            busy: false,
        }
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
    pub(super) fn end(&mut self, now: u64) {
        if self.busy {
            self.fold(now);
            self.busy = false;
        }
    }

    /// Tokens left.
    #[inline]
    pub(super) fn leave(&mut self, now: u64, tokens: u64) {
        if !self.busy {
            return;
        }
        self.recent += tokens;
        self.steps = self.steps.saturating_add(1);
        if now.saturating_sub(self.last) >= self.shortest_step {
            self.fold(now);
        }
    }

    fn fold(&mut self, now: u64) {
        let step = now.saturating_sub(self.last) as i64 as f64 * 1e-9;
        let keep = self.memory / (self.memory + step);
        self.tokens = self.tokens * keep + self.recent as i64 as f64;
        self.seconds = self.seconds * keep + step;
        (self.recent, self.last) = (0, now.max(self.last));
    }

    /// Seconds per token, more where nothing has left for a while; `None` before it is known, and once what left is
    /// forgotten.
    #[inline]
    pub(super) fn seconds_per_token(&self, now: u64) -> Option<f64> {
        // Nothing is recent while nothing waits. As i64: one instruction each.
        let idle = if self.busy { now.saturating_sub(self.last) as i64 as f64 * 1e-9 } else { 0.0 };
        let seconds = self.seconds + idle;
        let tokens = self.tokens + self.recent as i64 as f64;
        let known = self.steps >= WARM && seconds > 0.0 && tokens > 0.0;
        known.then(|| seconds / tokens).filter(|rate| rate.is_finite())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_forgotten_altogether_is_not_known_rather_than_nothing() {
        let mut meter = RateMeter::new(10.0);
        meter.begin(0);
        (1..=32u64).for_each(|k| meter.leave(k * 1_000_000_000, 1));
        assert!(meter.seconds_per_token(32_000_000_000).is_some());
        for k in 1..60u64 {
            // Something waits for three years, and nothing leaves.
            let now = k * 100_000_000_000_000_000;
            meter.end(now);
            meter.begin(now);
            assert!(meter.seconds_per_token(now).is_none_or(|rate| rate.is_finite()), "{k}");
        }
        assert_eq!(meter.seconds_per_token(6_000_000_000_000_000_000), None);
    }

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
        meter.end(30_000_000_000);
        let later = 1.0 / meter.seconds_per_token(90_000_000_000).unwrap();
        assert!(later < stalled, "a stall is remembered: {later}");
        for k in 0..10_000u64 {
            let now = 90_000_000_000 + k * 5_000_000_000;
            meter.begin(now);
            meter.leave(now + 10_000_000, 50);
            meter.end(now + 10_000_000);
        }
        let rate = 1.0 / meter.seconds_per_token(1 << 60).unwrap();
        assert!((rate / 5_000.0 - 1.0).abs() < 0.01, "{rate}");
    }
}
