//! How much of a provider's quota is left for us?
//!
//! A [`Ceiling`] is a quota learned from response headers. What a response states is old when it arrives:
//! requests sent after its own may not be counted in it. So every take counts up one number, `taken`; a
//! response carries the [`Mark`] that `taken` reached with its own request, and the stated rest bounds
//! everything beyond that mark:
//!
//! `taken ≤ mark + remaining`
//!
//! Nothing is double counted and nothing forgotten, whatever is in flight. Without knowledge the ceiling lets
//! everything pass.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use traflux_core::Timestamp;

use super::feedback::{Quota, Refill};
use crate::units::{duration_nanos, nanos};

/// The height that a ceiling's count reached with one take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[must_use = "responses are matched with takes by their mark"]
pub struct Mark {
    after: u64,
    amount: u64,
}

/// The learned rest of one quota of one provider.
///
/// ```
/// use std::time::Duration;
/// use traflux_core::Timestamp;
/// use traflux_gateway::congestion::{Ceiling, Feedback, FeedbackPlan, Resource};
///
/// let ceiling = Ceiling::default();
/// let now = Timestamp::ZERO;
/// let first = ceiling.take(now, 1).unwrap();
/// let second = ceiling.take(now, 1).unwrap();
/// let headers: [(&[u8], &[u8]); 2] = [(b"ratelimit-remaining", b"2"), (b"ratelimit-reset", b"30")];
/// let quota = Feedback::read(headers, Duration::ZERO, &FeedbackPlan::default()).quota(Resource::Requests).unwrap();
/// ceiling.learn(now, first, &quota);
/// // Two were left after the first, and the second has been sent since.
/// assert!(ceiling.take(now, 1).is_ok());
/// assert_eq!(ceiling.take(now, 1), Err(Duration::from_secs(30)));
/// ```
#[derive(Debug)]
pub struct Ceiling {
    /// All that was ever taken. Relaxed: only its own value matters.
    taken: AtomicU64,
    /// The height that `taken` may reach; `u64::MAX` while nothing is known. Written under the lock. Relaxed:
    /// a reader that sees an old height acts as if it had come a moment earlier.
    height: AtomicU64,
    known: Mutex<Option<Known>>,
}

#[derive(Debug, Clone, Copy)]
struct Known {
    mark: u64,
    limit: Option<u64>,
    /// Height at `since`.
    base: u64,
    /// Nanoseconds since the epoch.
    since: u64,
    reset_at: u64,
    /// How long until the quota after the next is reset, as good as known.
    window: u64,
    /// Units per nanosecond, zero where all comes back at the reset.
    rate: f64,
}

impl Default for Ceiling {
    fn default() -> Self {
        Self { taken: AtomicU64::new(0), height: AtomicU64::new(u64::MAX), known: Mutex::new(None) }
    }
}

impl Ceiling {
    /// Takes an amount.
    ///
    /// # Errors
    /// The time after which it is worth another try, when not enough is left.
    #[inline]
    pub fn take(&self, now: Timestamp, amount: u64) -> Result<Mark, Duration> {
        loop {
            let taken = self.taken.load(Ordering::Relaxed);
            let after = taken.saturating_add(amount);
            if after > self.height.load(Ordering::Relaxed) {
                self.refill(now, taken, amount)?;
                continue;
            }
            if self.taken.compare_exchange_weak(taken, after, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
                return Ok(Mark { after, amount });
            }
        }
    }

    /// Corrects a take once its true amount is known: 0 for a request never sent.
    pub fn settle(&self, mark: Mark, actual: u64) {
        if actual > mark.amount {
            self.taken.fetch_add(actual - mark.amount, Ordering::Relaxed);
        } else if actual < mark.amount && self.height.load(Ordering::Relaxed) != u64::MAX {
            let mut known = self.lock();
            if let Some(known) = known.as_mut() {
                known.base = known.base.saturating_add(mark.amount - actual);
                self.height.store(
                    self.height.load(Ordering::Relaxed).saturating_add(mark.amount - actual),
                    Ordering::Relaxed,
                );
            }
        }
    }

    /// Takes in what the response to the request of `mark` says. Responses overtaken by one to a later
    /// request are ignored.
    pub fn learn(&self, now: Timestamp, mark: Mark, quota: &Quota) {
        let Some(remaining) = quota.remaining else { return };
        let now = nanos(now);
        let mut known = self.lock();
        if known.as_ref().is_some_and(|known| known.mark > mark.after && now < known.reset_at) {
            return;
        }
        let base = mark.after.saturating_add(remaining);
        let reset = quota.reset.map(duration_nanos);
        let before = known.map_or(0, |known| known.window);
        let window =
            quota.window.map(duration_nanos).or(reset.map(|reset| reset.max(before))).unwrap_or(before);
        let rate = match (quota.refill, quota.limit, reset) {
            (Refill::Continuous, Some(limit), Some(reset)) if limit > remaining && reset > 0 => {
                (limit - remaining) as f64 / reset as f64
            }
            _ => 0.0,
        };
        *known = Some(Known {
            mark: mark.after,
            limit: quota.limit,
            base,
            since: now,
            reset_at: now.saturating_add(reset.unwrap_or(window)),
            window,
            rate,
        });
        self.height.store(base, Ordering::Relaxed);
    }

    /// How much may be taken at once; `None` while nothing is known.
    #[must_use]
    pub fn left(&self, now: Timestamp) -> Option<u64> {
        let taken = self.taken.load(Ordering::Relaxed);
        // An attempt at more than there can ever be brings the height up to date.
        let _ = self.refill(now, taken, u64::MAX);
        let height = self.height.load(Ordering::Relaxed);
        (height != u64::MAX).then(|| height.saturating_sub(taken))
    }

    /// Raises the height by what came back since; fails with a wait where that is not enough.
    #[cold]
    fn refill(&self, now: Timestamp, taken: u64, amount: u64) -> Result<(), Duration> {
        let now = nanos(now);
        let mut guard = self.lock();
        let Some(known) = guard.as_mut() else {
            self.height.store(u64::MAX, Ordering::Relaxed);
            return Ok(());
        };
        if now >= known.reset_at {
            let (Some(limit), true) = (known.limit, known.window > 0) else {
                // Nothing says how much a window holds: all is open until the next response.
                *guard = None;
                self.height.store(u64::MAX, Ordering::Relaxed);
                return Ok(());
            };
            known.base = taken.saturating_add(limit);
            known.since = now;
            known.reset_at = now.saturating_add(known.window);
            if known.rate > 0.0 {
                known.rate = limit as f64 / known.window as f64;
            }
        }
        let back = known.rate * now.saturating_sub(known.since) as f64;
        let mut height = known.base.saturating_add(back as u64);
        // A full bucket gains nothing more: counting starts anew from here.
        if let Some(limit) = known.limit
            && height > known.base.max(taken.saturating_add(limit))
        {
            height = known.base.max(taken.saturating_add(limit));
            (known.base, known.since) = (height, now);
        }
        self.height.store(height, Ordering::Relaxed);
        let after = taken.saturating_add(amount);
        if after <= height {
            return Ok(());
        }
        // Taking nothing, or more than a window holds, is let through when the window is full: waiting
        // longer would not help.
        let full = known.limit.is_some_and(|limit| amount > limit && height >= taken.saturating_add(limit));
        if full && amount != u64::MAX {
            self.height.store(after, Ordering::Relaxed);
            return Ok(());
        }
        let until_reset = known.reset_at.saturating_sub(now);
        let wait = if known.rate > 0.0 {
            let missing = (after - height) as f64;
            ((missing / known.rate) as u64).saturating_add(1).min(until_reset)
        } else {
            until_reset
        };
        Err(Duration::from_nanos(wait.max(1)))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Known>> {
        // A panic elsewhere cannot leave the state half written: it is assigned as a whole.
        self.known.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::congestion::feedback::Resource;

    fn at(milliseconds: u64) -> Timestamp {
        Timestamp::new(Duration::from_millis(milliseconds))
    }

    fn quota(limit: u64, remaining: u64, reset: u64, refill: Refill) -> Quota {
        Quota {
            resource: Resource::Tokens,
            limit: Some(limit),
            remaining: Some(remaining),
            reset: Some(Duration::from_millis(reset)),
            window: None,
            refill,
        }
    }

    #[test]
    fn nothing_known_means_everything_passes() {
        let ceiling = Ceiling::default();
        assert_eq!(ceiling.left(at(0)), None);
        for _ in 0..1000 {
            let _ = ceiling.take(at(0), 1_000_000).unwrap();
        }
    }

    #[test]
    fn requests_sent_after_the_one_answered_count_against_its_rest() {
        let ceiling = Ceiling::default();
        let first = ceiling.take(at(0), 100).unwrap();
        for _ in 0..3 {
            let _ = ceiling.take(at(1), 100).unwrap();
        }
        ceiling.learn(at(10), first, &quota(1000, 500, 60_000, Refill::AtReset));
        assert_eq!(ceiling.left(at(10)), Some(200));
        assert_eq!(ceiling.take(at(10), 300), Err(Duration::from_secs(60)));
        assert!(ceiling.take(at(60_010), 300).is_ok());
        assert_eq!(ceiling.left(at(60_011)), Some(700));
    }

    #[test]
    fn an_overtaken_response_changes_nothing() {
        let ceiling = Ceiling::default();
        let older = ceiling.take(at(0), 10).unwrap();
        let newer = ceiling.take(at(0), 10).unwrap();
        ceiling.learn(at(5), newer, &quota(100, 80, 1_000, Refill::AtReset));
        ceiling.learn(at(6), older, &quota(100, 90, 1_000, Refill::AtReset));
        assert_eq!(ceiling.left(at(6)), Some(80));
    }

    #[test]
    fn a_bucket_that_refills_evenly_tells_the_wait_for_an_amount() {
        let ceiling = Ceiling::default();
        let mark = ceiling.take(at(0), 1).unwrap();
        // 600 of 600 missing come back in 60 s: 10 per second.
        ceiling.learn(at(0), mark, &quota(600, 0, 60_000, Refill::Continuous));
        let wait = ceiling.take(at(0), 50).unwrap_err();
        assert!((wait.as_secs_f64() - 5.0).abs() < 1e-6, "{wait:?}");
        assert!(ceiling.take(at(5_001), 50).is_ok());
        assert!(ceiling.take(at(5_001), 2).is_err());
    }

    #[test]
    fn a_request_that_was_never_sent_gives_its_amount_back() {
        let ceiling = Ceiling::default();
        let mark = ceiling.take(at(0), 1).unwrap();
        ceiling.learn(at(0), mark, &quota(100, 10, 1_000, Refill::AtReset));
        let taken = ceiling.take(at(0), 10).unwrap();
        assert!(ceiling.take(at(0), 1).is_err());
        ceiling.settle(taken, 0);
        assert_eq!(ceiling.left(at(0)), Some(10));
    }

    #[test]
    fn more_than_a_window_holds_passes_when_the_window_is_full() {
        let ceiling = Ceiling::default();
        let mark = ceiling.take(at(0), 1).unwrap();
        ceiling.learn(at(0), mark, &quota(100, 10, 1_000, Refill::AtReset));
        assert!(ceiling.take(at(0), 150).is_err());
        assert!(ceiling.take(at(1_000), 150).is_ok());
        assert!(ceiling.take(at(1_000), 1).is_err());
    }
}
