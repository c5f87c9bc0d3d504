//! How many in the last period, whenever it is asked?
//!
//! A sliding window never lets more than its amount through in *any* stretch of one period, where a token
//! bucket allows burst + rate · period and an aligned window twice its amount across a boundary. A
//! [`SlidingCell`] counts in [`SUB_WINDOWS`] parts of the period and keeps one more than those, so that a stretch
//! that begins inside a part is covered whole: units come back between one period and one period plus a
//! sixteenth after they were charged.

/// Parts of a period.
pub const SUB_WINDOWS: u64 = 16;

const KEPT: usize = SUB_WINDOWS as usize + 1;

/// Units of one key by part of the period; guarded by a lock of the caller.
#[derive(Debug, Clone)]
pub struct SlidingCell {
    /// Number of the newest part, counted from the epoch.
    newest: u64,
    total: u64,
    counts: [u64; KEPT],
}

impl Default for SlidingCell {
    fn default() -> Self {
        Self { newest: 0, total: 0, counts: [0; KEPT] }
    }
}

/// Amount and period of a sliding window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SlidingWindow {
    /// The most units in any period.
    pub amount: u64,
    /// Nanoseconds of a part: a sixteenth of the period, rounded up.
    part_ns: u64,
}

impl SlidingWindow {
    /// At most `amount` in any `period_ns` nanoseconds.
    #[must_use]
    pub fn new(amount: u64, period_ns: u64) -> Self {
        Self { amount, part_ns: period_ns.div_ceil(SUB_WINDOWS).max(1) }
    }

    /// Charges `units` if they fit; returns the part they were charged to.
    ///
    /// # Errors
    /// The nanoseconds until they fit, `None` when they never do.
    pub fn charge(&self, cell: &mut SlidingCell, now_ns: u64, units: u64) -> Result<u64, Option<u64>> {
        self.fits(cell, now_ns, units)?;
        Ok(self.debit(cell, now_ns, units))
    }

    /// Whether `units` fit.
    ///
    /// # Errors
    /// The nanoseconds until they fit, `None` when they never do.
    pub fn fits(&self, cell: &mut SlidingCell, now_ns: u64, units: u64) -> Result<(), Option<u64>> {
        if units > self.amount {
            return Err(None);
        }
        self.advance(cell, now_ns);
        let mut excess = cell.total.saturating_add(units).saturating_sub(self.amount);
        if excess == 0 {
            return Ok(());
        }
        let oldest = cell.newest.saturating_sub(SUB_WINDOWS);
        for part in oldest..=cell.newest {
            let count = cell.counts[slot(part)];
            if count >= excess {
                let leaves_at = (part + KEPT as u64).saturating_mul(self.part_ns);
                return Err(Some(leaves_at.saturating_sub(now_ns)));
            }
            excess -= count;
        }
        Err(None)
    }

    /// Charges `units` whatever the total; returns the part.
    pub fn debit(&self, cell: &mut SlidingCell, now_ns: u64, units: u64) -> u64 {
        self.advance(cell, now_ns);
        let room = u64::MAX - cell.total;
        cell.counts[slot(cell.newest)] += units.min(room);
        cell.total += units.min(room);
        cell.newest
    }

    /// Gives back `units` of those charged to a part; exact, and nothing where the part has left the window.
    pub fn give_back(&self, cell: &mut SlidingCell, now_ns: u64, part: u64, units: u64) -> u64 {
        self.advance(cell, now_ns);
        if part > cell.newest || cell.newest - part > SUB_WINDOWS {
            return 0;
        }
        let count = &mut cell.counts[slot(part)];
        let units = units.min(*count);
        *count -= units;
        cell.total -= units;
        units
    }

    /// Units in the window.
    pub fn used(&self, cell: &mut SlidingCell, now_ns: u64) -> u64 {
        self.advance(cell, now_ns);
        cell.total
    }

    /// Nanoseconds until the window is empty if nothing more is charged.
    pub fn time_to_empty(&self, cell: &mut SlidingCell, now_ns: u64) -> u64 {
        self.advance(cell, now_ns);
        let last = (cell.newest.saturating_sub(SUB_WINDOWS)..=cell.newest)
            .rev()
            .find(|part| cell.counts[slot(*part)] > 0);
        last.map_or(0, |p| (p + KEPT as u64).saturating_mul(self.part_ns).saturating_sub(now_ns))
    }

    /// Forgets what is older than the window. A clock that went backwards charges the newest part.
    fn advance(&self, cell: &mut SlidingCell, now_ns: u64) {
        let part = now_ns / self.part_ns;
        if part <= cell.newest {
            return;
        }
        if part - cell.newest >= KEPT as u64 {
            cell.counts = [0; KEPT];
            cell.total = 0;
        } else {
            for gone in cell.newest + 1..=part {
                let count = &mut cell.counts[slot(gone)];
                cell.total -= *count;
                *count = 0;
            }
        }
        cell.newest = part;
    }
}

fn slot(part: u64) -> usize {
    (part % KEPT as u64) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;

    #[test]
    fn no_stretch_of_one_period_ever_holds_more_than_the_amount() {
        let (window, period) = (SlidingWindow::new(20, 1_600), 1_600);
        let mut rng = Rng::new(3);
        let (mut cell, mut grants, mut now) = (SlidingCell::default(), Vec::new(), 0);
        for _ in 0..20_000 {
            now += rng.below(60) as u64;
            let units = 1 + rng.below(4) as u64;
            match window.charge(&mut cell, now, units) {
                Ok(part) if rng.below(4) == 0 => {
                    assert_eq!(window.give_back(&mut cell, now + 30, part, units), units);
                }
                Ok(_) => grants.push((now, units)),
                Err(wait) => {
                    let wait = wait.unwrap();
                    let mut later = cell.clone();
                    assert!(window.fits(&mut later, now + wait - 1, units).is_err());
                    assert!(window.fits(&mut later, now + wait, units).is_ok());
                }
            }
        }
        let (mut first, mut sum, mut most) = (0, 0, 0);
        for (at, units) in &grants {
            sum += units;
            while grants[first].0 + period <= *at {
                sum -= grants[first].1;
                first += 1;
            }
            most = most.max(sum);
        }
        assert!(most <= 20 && grants.len() > 3_000, "{most} {}", grants.len());
    }

    #[test]
    fn units_come_back_within_a_sixteenth_after_the_period() {
        let (window, mut cell) = (SlidingWindow::new(5, 1_600), SlidingCell::default());
        window.charge(&mut cell, 150, 5).unwrap();
        let wait = window.charge(&mut cell, 150, 1).unwrap_err().unwrap();
        assert!((1_600..=1_700).contains(&wait), "{wait}");
        assert_eq!(window.charge(&mut cell, 150, 6).unwrap_err(), None);
        assert_eq!(window.time_to_empty(&mut cell, 150), wait);
    }
}
