//! When is a second attempt sent while the first still runs?
//!
//! Hedged requests (J. Dean, L. A. Barroso, "The tail at scale", CACM 56, 2013): once the first byte is later
//! than, say, 95 % of first bytes were, the same request goes to another endpoint; the first to answer wins and
//! the others are cancelled. With the delay at the 95th percentile this costs about 5 % more requests, and a
//! [`RetryBudget`](super::RetryBudget) bounds it when everything is late.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use traflux_core::Timestamp;

use super::policy::{Idempotence, Progress};
use super::quantile::LatencyQuantile;
use crate::error::{GatewayError, check};
use crate::units::duration_ms;

/// Parameters of [`Hedge`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HedgeSettings {
    /// Quantile of time to first byte after which a request is hedged, in (0, 1); 0.95.
    pub quantile: f64,
    /// The shortest delay, and the delay until enough is known; 50 ms.
    #[serde(rename = "min_delay_ms", with = "duration_ms")]
    pub min_delay: Duration,
    /// The longest delay; 30 s.
    #[serde(rename = "max_delay_ms", with = "duration_ms")]
    pub max_delay: Duration,
    /// Delay until enough first bytes were seen; 2 s.
    #[serde(rename = "initial_delay_ms", with = "duration_ms")]
    pub initial_delay: Duration,
    /// First bytes after which the quantile is taken anew; 200.
    pub samples: u32,
    /// Attempts at once, the first included; 2.
    pub max_attempts: u32,
}

impl Default for HedgeSettings {
    fn default() -> Self {
        Self {
            quantile: 0.95,
            min_delay: Duration::from_millis(50),
            max_delay: Duration::from_secs(30),
            initial_delay: Duration::from_secs(2),
            samples: 200,
            max_attempts: 2,
        }
    }
}

impl HedgeSettings {
    /// Checks the ranges.
    ///
    /// # Errors
    /// [`GatewayError::Setting`] for a quantile outside (0, 1), delays out of order, no samples, or a
    /// number of attempts outside 1 to 8.
    pub fn validate(&self) -> Result<(), GatewayError> {
        check(self.quantile > 0.0 && self.quantile < 1.0, "quantile", self.quantile, "above 0, below 1")?;
        check(self.min_delay <= self.max_delay, "min_delay_ms", self.min_delay, "at most max_delay_ms")?;
        check(self.samples > 0, "samples", self.samples, "at least 1")?;
        check((1..=8).contains(&self.max_attempts), "max_attempts", self.max_attempts, "from 1 to 8")
    }
}

/// What to do about a request that still runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum HedgeDecision {
    /// Look again at this moment.
    WaitUntil(Timestamp),
    /// Send another attempt now, given leave by a budget.
    Launch,
    /// Never.
    No,
}

/// When requests to one backend and model are hedged.
#[derive(Debug)]
pub struct Hedge {
    settings: HedgeSettings,
    first_bytes: LatencyQuantile,
}

impl Hedge {
    /// One that has seen nothing.
    #[must_use]
    pub fn new(settings: HedgeSettings) -> Self {
        Self { first_bytes: LatencyQuantile::new(settings.quantile, settings.samples), settings }
    }

    /// Takes in the time to the first byte of an attempt.
    #[inline]
    pub fn observe(&self, first_byte: Duration) {
        self.first_bytes.record(first_byte);
    }

    /// How long to wait for a first byte before another attempt.
    #[inline]
    #[must_use]
    pub fn delay(&self) -> Duration {
        let delay = self.first_bytes.value().unwrap_or(self.settings.initial_delay);
        delay.min(self.settings.max_delay).max(self.settings.min_delay)
    }

    /// Whether to send another attempt of a request that has so many, the last begun at `last_began`.
    pub fn decide(
        &self,
        now: Timestamp,
        last_began: Timestamp,
        attempts: u32,
        progress: Progress,
        idempotence: Idempotence,
    ) -> HedgeDecision {
        if attempts >= self.settings.max_attempts
            || progress == Progress::Streaming
            || idempotence == Idempotence::NonIdempotent
        {
            return HedgeDecision::No;
        }
        let due = last_began + self.delay();
        if now >= due { HedgeDecision::Launch } else { HedgeDecision::WaitUntil(due) }
    }
}

/// Which of the attempts of one request answers the client.
///
/// ```
/// use traflux_gateway::retry::Race;
///
/// let race = Race::default();
/// assert!(race.first_byte(1));
/// assert!(!race.first_byte(0), "cancel it: another attempt was first");
/// assert!(race.first_byte(1), "the winner goes on");
/// ```
#[derive(Debug, Default)]
pub struct Race {
    /// Number of the winner plus one. Relaxed: the exchange alone decides, and nothing is passed along with it.
    winner: AtomicU32,
}

impl Race {
    /// Takes in that an attempt has its first byte: whether it may pass it on. An attempt told no is to be
    /// cancelled.
    pub fn first_byte(&self, attempt: u32) -> bool {
        let mark = attempt.saturating_add(1);
        match self.winner.compare_exchange(0, mark, Ordering::Relaxed, Ordering::Relaxed) {
            Ok(_) => true,
            Err(winner) => winner == mark,
        }
    }

    /// The attempt that won.
    #[must_use]
    pub fn winner(&self) -> Option<u32> {
        self.winner.load(Ordering::Relaxed).checked_sub(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(milliseconds: u64) -> Timestamp {
        Timestamp::new(Duration::from_millis(milliseconds))
    }

    #[test]
    fn a_request_is_hedged_when_later_than_most() {
        let hedge = Hedge::new(HedgeSettings::default());
        assert_eq!(hedge.delay(), Duration::from_secs(2));
        for milliseconds in 1..=200 {
            hedge.observe(Duration::from_millis(milliseconds * 2));
        }
        // The 190th of 200 is 380 ms; its bucket ends within 1/16 above.
        let delay = hedge.delay();
        assert!((380..=404).contains(&delay.as_millis()), "{delay:?}");
        let decide =
            |now, attempts, progress, idempotence| hedge.decide(now, at(0), attempts, progress, idempotence);
        let (sent, idempotent) = (Progress::Sent, Idempotence::Idempotent);
        assert_eq!(decide(at(100), 1, sent, idempotent), HedgeDecision::WaitUntil(at(0) + delay));
        assert_eq!(decide(at(500), 1, sent, idempotent), HedgeDecision::Launch);
        assert_eq!(decide(at(500), 2, sent, idempotent), HedgeDecision::No);
        assert_eq!(decide(at(500), 1, Progress::Streaming, idempotent), HedgeDecision::No);
        assert_eq!(decide(at(500), 1, sent, Idempotence::NonIdempotent), HedgeDecision::No);
    }

    #[test]
    fn exactly_one_attempt_wins_under_threads() {
        for _ in 0..200 {
            let race = Race::default();
            let winners: u32 = std::thread::scope(|scope| {
                let threads: Vec<_> = (0..3)
                    .map(|ix| {
                        scope.spawn({
                            let race = &race;
                            move || u32::from(race.first_byte(ix))
                        })
                    })
                    .collect();
                threads.into_iter().map(|thread| thread.join().unwrap()).sum()
            });
            assert_eq!(winners, 1);
            assert!(race.winner().is_some());
        }
    }
}
