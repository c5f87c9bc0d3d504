//! Who may be chosen just now?

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

/// One switch per position, read by picks and written by health, from any thread. All are open at first.
///
/// Orderings are `Relaxed`: a pick that just missed a change is one that came just before it.
#[derive(Debug)]
pub struct Eligibility {
    /// Set bits are closed.
    closed: Box<[AtomicU64]>,
    closed_count: AtomicU32,
    positions: usize,
}

impl Eligibility {
    /// All of `positions` open.
    #[must_use]
    pub fn new(positions: usize) -> Self {
        let closed = (0..positions.div_ceil(64)).map(|_| AtomicU64::new(0)).collect();
        Self { closed, closed_count: AtomicU32::new(0), positions }
    }

    /// Whether a position may be chosen; positions beyond the last may not.
    #[inline]
    #[must_use]
    pub fn is_open(&self, position: usize) -> bool {
        position < self.positions && self.closed[position / 64].load(Relaxed) >> (position % 64) & 1 == 0
    }

    /// Opens or closes a position; returns whether that was a change.
    pub fn set(&self, position: usize, open: bool) -> bool {
        if position >= self.positions {
            return false;
        }
        let word = &self.closed[position / 64];
        let bit = 1 << (position % 64);
        let changed = if open {
            word.fetch_and(!bit, Relaxed) & bit != 0
        } else {
            word.fetch_or(bit, Relaxed) & bit == 0
        };
        if changed && open {
            self.closed_count.fetch_sub(1, Relaxed);
        } else if changed {
            self.closed_count.fetch_add(1, Relaxed);
        }
        changed
    }

    /// Whether any is closed.
    #[inline]
    #[must_use]
    pub fn any_closed(&self) -> bool {
        self.closed_count.load(Relaxed) != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_closes_and_opens_once() {
        let eligibility = Eligibility::new(70);
        assert!(eligibility.is_open(69) && !eligibility.any_closed());
        assert!(eligibility.set(69, false));
        assert!(!eligibility.set(69, false));
        assert!(!eligibility.is_open(69) && eligibility.is_open(68) && eligibility.any_closed());
        assert!(eligibility.set(69, true));
        assert!(!eligibility.any_closed());
        assert!(!eligibility.set(70, false) && !eligibility.is_open(70) && !eligibility.is_open(1000));
        assert!(!eligibility.any_closed());
    }
}
