//! How often did this happen in the last two minutes?
//!
//! Several counters over one sliding window, cut into buckets. Adding is one atomic addition; the window moves
//! under a lock that is taken once per bucket.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use traflux_core::Timestamp;

use crate::units::{duration_nanos, nanos};

/// Counters over the same sliding window.
#[derive(Debug)]
pub(crate) struct Sliding {
    /// Nanoseconds.
    width: u64,
    /// When the current bucket ends, in nanoseconds since the epoch. Written under the lock. Relaxed: who
    /// sees an old end takes the lock and looks again.
    end: AtomicU64,
    counters: Box<[Counter]>,
    history: Mutex<History>,
}

/// Relaxed throughout: counts are statistics, no other memory hangs on them.
#[derive(Debug, Default)]
struct Counter {
    current: AtomicU64,
    past: AtomicU64,
}

#[derive(Debug)]
struct History {
    /// By closed bucket, then counter.
    closed: Vec<u64>,
    next: usize,
}

impl Sliding {
    /// A window of so many buckets: the current one and `buckets − 1` closed ones.
    pub(crate) fn new(window: Duration, buckets: usize, counters: usize) -> Self {
        let buckets = buckets.max(2);
        Self {
            width: (duration_nanos(window) / buckets as u64).max(1),
            end: AtomicU64::new(0),
            counters: (0..counters).map(|_| Counter::default()).collect(),
            history: Mutex::new(History { closed: vec![0; (buckets - 1) * counters], next: 0 }),
        }
    }

    /// Moves the window to now; never back.
    #[inline]
    pub(crate) fn advance(&self, now: Timestamp) {
        let now = nanos(now);
        if now >= self.end.load(Ordering::Relaxed) {
            self.rotate(now);
        }
    }

    #[inline]
    pub(crate) fn add(&self, counter: usize, amount: u64) {
        self.counters[counter].current.fetch_add(amount, Ordering::Relaxed);
    }

    /// Takes back one that was just added; one that has left the current bucket meanwhile stays.
    pub(crate) fn take_back(&self, counter: usize) {
        let current = &self.counters[counter].current;
        let _ = current.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |count| count.checked_sub(1));
    }

    #[inline]
    pub(crate) fn total(&self, counter: usize) -> u64 {
        let Counter { current, past } = &self.counters[counter];
        past.load(Ordering::Relaxed).saturating_add(current.load(Ordering::Relaxed))
    }

    #[cold]
    fn rotate(&self, now: u64) {
        let mut history = self.history.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let end = self.end.load(Ordering::Relaxed);
        if now < end {
            return;
        }
        let count = self.counters.len();
        let buckets = history.closed.len() / count.max(1);
        let steps = (1 + (now - end) / self.width).min(buckets as u64 + 1);
        for _ in 0..steps {
            let at = history.next * count;
            for (counter, closed) in self.counters.iter().zip(&mut history.closed[at..at + count]) {
                let value = counter.current.swap(0, Ordering::Relaxed);
                // Nobody else writes it: the history is locked.
                let past = counter.past.load(Ordering::Relaxed).wrapping_add(value).wrapping_sub(*closed);
                counter.past.store(past, Ordering::Relaxed);
                *closed = value;
            }
            history.next = (history.next + 1) % buckets.max(1);
        }
        self.end.store((now / self.width).saturating_add(1).saturating_mul(self.width), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Timestamp {
        Timestamp::new(Duration::from_secs(seconds))
    }

    #[test]
    fn a_count_is_forgotten_after_the_window_and_not_before() {
        let sliding = Sliding::new(Duration::from_secs(10), 10, 2);
        sliding.advance(at(100));
        sliding.add(0, 5);
        sliding.advance(at(105));
        sliding.add(0, 2);
        sliding.add(1, 1);
        assert_eq!((sliding.total(0), sliding.total(1)), (7, 1));
        sliding.advance(at(109));
        assert_eq!(sliding.total(0), 7);
        sliding.advance(at(110));
        assert_eq!(sliding.total(0), 2);
        // The clock steps back: nothing moves.
        sliding.advance(at(90));
        assert_eq!(sliding.total(0), 2);
        sliding.advance(at(10_000));
        assert_eq!((sliding.total(0), sliding.total(1)), (0, 0));
    }
}
