//! How much of its allowance has one key used?
//!
//! A token bucket as the generic cell rate algorithm (ITU-T I.371, annex A), in units instead of time: a
//! [`BucketCell`] holds the cumulative consumption `C`, its [`Meter`] the cumulative allowance `G(t)`.
//!
//! ```text
//! level        U = max(0, C − G(t))                 what is used of the burst
//! charge n:    allowed when U + n ≤ burst; then C ← max(C, G(t)) + n
//! debit n:     always; U may exceed the burst: debt, which time repays
//! ```
//!
//! One compare-and-swap of one word decides. Hence over any window `w` and any interleaving of threads, what is
//! charged is at most `burst + rate·w` (+ 1 tick): the level starts at 0 or more, ends at the burst or less, and
//! falls by no more than `G(t + w) − G(t)`. A thread whose clock is behind sees a higher level, never a lower.
//!
//! # Refunds
//!
//! A charge of `n` at `t₀` of which `e` turns out unused must be given back at `t` without any window being
//! granted more than if it had never been taken. By the reflection map (Skorokhod) the exact answer is `min(e,
//! inf U over [t₀, t])` on the path of what was really used: whatever drained from an empty bucket in between
//! would have been lost. A running infimum per reservation is too much for two words, so the cell takes the
//! larger of two lower bounds of it:
//!
//! - `n − (G(t) − G(t₀))`: the charge itself is part of the level, and only time drained it;
//! - `C₀ − (refunds since t₀) − G(t)`, with `C₀` the consumption just after the charge: later charges only
//!   raise the level, time and refunds lower it. Without the middle term a refund could be paid from
//!   what another refund has already returned, and a later charge would go free.
//!
//! Both are exact while no time passes; the second one is, too, while no other refund comes between, however
//! busy the key. What they miss is quota not given back, never quota given twice. Of a refund `e`, all comes
//! back in about `level / (rate + refunds per second)`; a reservation held for longer than that gets less.
//!
//! # Order of memory
//!
//! `consumed` decides, in one atomic order. The other words serve refunds:
//!
//! - `latest`, the highest `G(t)` of any charge, is raised before the charge's compare-and-swap. A refund reads
//!   `consumed` (acquire), then `latest`, counts from the later of that and its own clock, and retries when
//!   `consumed` has changed: a thread whose clock is behind, or that was preempted, gives back no more for it.
//! - `refunding` lets one refund of a cell at a time through, for some ten nanoseconds. Charges only raise
//!   `consumed`, so that without another refund in between an unchanged `consumed` means that no charge was
//!   made since it was read: with two refunds at once it could fall back to an old value after a charge at a later
//!   time, and the comparison would let a refund of that old time pass.
//! - `returned` counts refunds (release) after `consumed` fell. A charge reads it (acquire) before its
//!   compare-and-swap: a refund it sees there has already lowered the `consumed` it is about to read, so
//!   `C₀ + returned₀` is never too high.

use std::sync::atomic::{AtomicU64, Ordering};

use super::meter::Meter;

/// The highest level in ticks that debt reaches; more is forgiven. At least four times the largest burst.
const MOST_LEVEL: u64 = 1 << 62;

/// An atomic 64-bit word. Tests put one here that explores interleavings.
pub(crate) trait Word {
    fn load(&self, order: Ordering) -> u64;
    fn replace(&self, old: u64, new: u64) -> Result<u64, u64>;
    fn store(&self, value: u64, order: Ordering);
    /// Lets others run who are waited for.
    fn pause();
}

impl Word for AtomicU64 {
    #[inline]
    fn load(&self, order: Ordering) -> u64 {
        self.load(order)
    }
    #[inline]
    fn replace(&self, old: u64, new: u64) -> Result<u64, u64> {
        // Sequentially consistent for who charges without holding its key, see `keys`.
        self.compare_exchange_weak(old, new, Ordering::SeqCst, Ordering::Acquire)
    }
    #[inline]
    fn store(&self, value: u64, order: Ordering) {
        self.store(value, order);
    }
    #[cold]
    fn pause() {
        std::thread::yield_now();
    }
}

/// What a charge must remember so that a part of it can be given back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Receipt {
    /// `G(t₀)`.
    pub(super) start: u64,
    /// `C₀ + refunds until t₀`.
    pub(super) finish: u64,
}

/// Why a charge was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shortfall {
    /// So many ticks must drain first.
    Ticks(u64),
    /// It is above the burst: it never fits.
    AboveBurst,
}

/// Consumption of one key: four words, half a cache line, all zero when new.
#[derive(Debug, Default)]
#[repr(align(32))]
pub struct BucketCell<W = AtomicU64> {
    consumed: W,
    latest: W,
    /// Ticks that refunds gave back. Only who holds `refunding` writes it.
    returned: W,
    /// 1 while somebody gives back.
    refunding: W,
}

// `Word` is private so that nobody builds on it; the public cell is that of `AtomicU64`.
#[allow(private_bounds)]
impl<W: Word> BucketCell<W> {
    /// Charges `units` at a moment where the meter has granted `granted` ticks, if they fit.
    ///
    /// # Errors
    /// The [`Shortfall`]; nothing is charged then.
    #[inline]
    pub fn charge(&self, meter: &Meter, granted: u64, units: u64) -> Result<Receipt, Shortfall> {
        let cost = meter.ticks(units).ok_or(Shortfall::AboveBurst)?;
        self.charge_below(granted, cost, meter.burst_ticks())
    }

    /// Charges `cost` ticks if the level is at most `most` afterwards.
    #[inline]
    pub(super) fn charge_below(&self, granted: u64, cost: u64, most: u64) -> Result<Receipt, Shortfall> {
        self.charge_to_level(granted, cost, most).map(|(receipt, _)| receipt)
    }

    /// The same, with the level after it.
    #[inline]
    pub(super) fn charge_to_level(
        &self,
        granted: u64,
        cost: u64,
        most: u64,
    ) -> Result<(Receipt, u64), Shortfall> {
        let returned = self.returned.load(Ordering::Acquire);
        let mut consumed = self.consumed.load(Ordering::Relaxed);
        loop {
            let level = level(consumed, granted) + cost;
            if level > most {
                return Err(Shortfall::Ticks(level - most));
            }
            self.raise_latest(granted);
            let next = granted.wrapping_add(level);
            match self.consumed.replace(consumed, next) {
                Ok(_) => {
                    return Ok((Receipt { start: granted, finish: next.wrapping_add(returned) }, level));
                }
                Err(seen) => consumed = seen,
            }
        }
    }

    /// Whether `units` would fit now, without charging them.
    ///
    /// # Errors
    /// The [`Shortfall`].
    #[inline]
    pub fn fits(&self, meter: &Meter, granted: u64, units: u64) -> Result<(), Shortfall> {
        let cost = meter.ticks(units).ok_or(Shortfall::AboveBurst)?;
        let level = self.level(granted) + cost;
        if level > meter.burst_ticks() {
            return Err(Shortfall::Ticks(level - meter.burst_ticks()));
        }
        Ok(())
    }

    /// Charges `ticks` whatever the level: debt beyond the burst, up to 2⁶² ticks.
    pub fn debit(&self, granted: u64, ticks: u64) {
        self.raise_latest(granted);
        let mut consumed = self.consumed.load(Ordering::Relaxed);
        loop {
            let level = level(consumed, granted).saturating_add(ticks).min(MOST_LEVEL);
            match self.consumed.replace(consumed, granted.wrapping_add(level)) {
                Ok(_) => return,
                Err(seen) => consumed = seen,
            }
        }
    }

    /// Gives back `excess` of the `charged` ticks of a receipt, or what of them has not drained for certain (see
    /// the module). Returns the ticks given back.
    pub fn give_back(&self, granted: u64, receipt: Receipt, charged: u64, excess: u64) -> u64 {
        if excess == 0 {
            return 0;
        }
        while self.refunding.replace(0, 1).is_err() {
            W::pause();
        }
        let ticks = self.give_back_alone(granted, receipt, charged, excess);
        self.refunding.store(0, Ordering::Release);
        ticks
    }

    /// The same while nobody else gives back.
    fn give_back_alone(&self, granted: u64, receipt: Receipt, charged: u64, excess: u64) -> u64 {
        loop {
            let consumed = self.consumed.load(Ordering::Acquire);
            let latest = self.latest.load(Ordering::Acquire);
            let granted = if level(latest, granted) > 0 { latest } else { granted };
            let returned = self.returned.load(Ordering::Relaxed);
            let own = charged.saturating_sub(level(granted, receipt.start));
            let shared = level(receipt.finish.wrapping_sub(returned), granted);
            let ticks = excess.min(own.max(shared));
            if ticks == 0 {
                return 0;
            }
            if self.consumed.replace(consumed, consumed.wrapping_sub(ticks)).is_ok() {
                self.returned.store(returned.wrapping_add(ticks), Ordering::Release);
                return ticks;
            }
        }
    }

    /// `U` in ticks; above the burst it is debt.
    #[inline]
    #[must_use]
    pub fn level(&self, granted: u64) -> u64 {
        level(self.consumed.load(Ordering::Relaxed), granted)
    }

    /// Whether nothing is used; for whoever takes the cell from its key, see `keys`.
    pub(super) fn is_idle(&self, granted: u64) -> bool {
        level(self.consumed.load(Ordering::SeqCst), granted) == 0
    }

    #[inline]
    fn raise_latest(&self, granted: u64) {
        let mut latest = self.latest.load(Ordering::Relaxed);
        while level(granted, latest) > 0 {
            match self.latest.replace(latest, granted) {
                Ok(_) => return,
                Err(seen) => latest = seen,
            }
        }
    }
}

/// `max(0, consumed − granted)`, modulo 2⁶⁴.
#[inline]
pub(super) fn level(consumed: u64, granted: u64) -> u64 {
    (consumed.wrapping_sub(granted) as i64).max(0) as u64
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::meter::Refill;
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn meter(amount: u64, burst: u64) -> Meter {
        let refill = Refill::Continuous { amount, period: Duration::from_secs(1) };
        Meter::new(refill, burst, 0).unwrap()
    }

    #[test]
    fn a_burst_of_one_at_one_per_second_leaves_a_second_between_grants() {
        let (meter, cell) = (meter(1, 1), BucketCell::<AtomicU64>::default());
        let half = meter.granted(SECOND / 2);
        assert!(cell.charge(&meter, half, 1).is_ok());
        assert!(cell.charge(&meter, meter.granted(SECOND), 1).is_err(), "half a second is not enough");
        let Err(Shortfall::Ticks(short)) = cell.charge(&meter, half, 1) else { panic!("refused") };
        let wait = meter.time_until(SECOND / 2, short).unwrap();
        assert!(wait.abs_diff(SECOND) <= 64, "{wait}");
        assert!(cell.charge(&meter, meter.granted(SECOND / 2 + wait - 1), 1).is_err());
        assert!(cell.charge(&meter, meter.granted(SECOND / 2 + wait), 1).is_ok());
    }

    #[test]
    fn debt_is_repaid_by_time_alone() {
        let (meter, cell) = (meter(10, 10), BucketCell::<AtomicU64>::default());
        cell.debit(meter.granted(0), meter.ticks_of_any(30));
        assert_eq!(meter.units_up(cell.level(meter.granted(0))), 30);
        assert!(cell.charge(&meter, meter.granted(2 * SECOND), 1).is_err());
        assert!(cell.charge(&meter, meter.granted(2 * SECOND + SECOND / 9), 1).is_ok());
        cell.debit(meter.granted(3 * SECOND), u64::MAX);
        cell.debit(meter.granted(3 * SECOND), u64::MAX);
        assert_eq!(cell.level(meter.granted(3 * SECOND)), MOST_LEVEL);
    }

    #[test]
    fn a_refund_is_never_paid_from_what_another_refund_returned() {
        // Rate 1/s, burst 10. At 0 s: A and B take 5 each, A gives all back. At 5 s what B took has drained and D
        // takes 10. B gives back: nothing is left of its 5, so E must not get any.
        let (meter, cell) = (meter(1, 10), BucketCell::<AtomicU64>::default());
        let (five, zero) = (meter.ticks_of_any(5), meter.granted(0));
        let a = cell.charge(&meter, zero, 5).unwrap();
        let b = cell.charge(&meter, zero, 5).unwrap();
        assert_eq!(cell.give_back(zero, a, five, five), five);
        let later = meter.granted(5 * SECOND + 64);
        assert!(cell.charge(&meter, later, 10).is_ok());
        assert_eq!(cell.give_back(later, b, five, five), 0);
        assert!(cell.charge(&meter, later, 1).is_err());
    }

    #[test]
    fn a_refund_on_a_busy_key_comes_back_whole_after_its_own_time_to_drain() {
        let (meter, cell) = (meter(10, 100), BucketCell::<AtomicU64>::default());
        let ten = meter.ticks_of_any(10);
        cell.charge(&meter, meter.granted(0), 80).unwrap();
        let receipt = cell.charge(&meter, meter.granted(0), 10).unwrap();
        let later = meter.granted(5 * SECOND);
        assert_eq!(cell.give_back(later, receipt, ten, ten), ten);
        assert_eq!(meter.units_up(cell.level(later)), 31, "80 − 50, and a tick of rounding");
    }

    mod interleavings {
        use super::*;
        use shuttle::sync::Arc;
        use shuttle::sync::atomic::AtomicU64 as Explored;
        use shuttle::thread;

        impl Word for Explored {
            fn load(&self, order: Ordering) -> u64 {
                self.load(order)
            }
            fn replace(&self, old: u64, new: u64) -> Result<u64, u64> {
                self.compare_exchange(old, new, Ordering::AcqRel, Ordering::Acquire)
            }
            fn store(&self, value: u64, order: Ordering) {
                self.store(value, order);
            }
            fn pause() {
                thread::yield_now();
            }
        }

        fn cell() -> Arc<BucketCell<Explored>> {
            let word = || Explored::new(0);
            Arc::new(BucketCell { consumed: word(), latest: word(), returned: word(), refunding: word() })
        }

        #[test]
        fn cancelling_in_any_order_restores_the_level_exactly() {
            shuttle::check_random(
                || {
                    let (meter, cell) = (meter(1, 6), cell());
                    let threads: Vec<_> = (1..=3)
                        .map(|units| {
                            let cell = Arc::clone(&cell);
                            thread::spawn(move || {
                                let charged = meter.ticks_of_any(units);
                                let receipt = cell.charge(&meter, meter.granted(0), units).unwrap();
                                cell.give_back(meter.granted(0), receipt, charged, charged)
                            })
                        })
                        .collect();
                    let returned: u64 = threads.into_iter().map(|t| t.join().unwrap()).sum();
                    assert_eq!(returned, meter.ticks_of_any(6));
                    assert_eq!(cell.level(meter.granted(0)), 0);
                },
                1_000,
            );
        }

        #[test]
        fn what_is_kept_never_exceeds_the_burst() {
            // Three threads at clocks 0 s, 2 s and 4 s charge, and give all back one second later; kept charges at 5 s
            // and whatever interleaving went before must fit into the burst.
            shuttle::check_random(
                || {
                    let (meter, cell) = (meter(1, 10), cell());
                    let threads: Vec<_> = [0, 2, 4]
                        .into_iter()
                        .map(|at| {
                            let cell = Arc::clone(&cell);
                            thread::spawn(move || {
                                let charged = meter.ticks_of_any(4);
                                let Ok(receipt) = cell.charge(&meter, meter.granted(at * SECOND), 4) else {
                                    return;
                                };
                                thread::yield_now();
                                cell.give_back(meter.granted((at + 1) * SECOND), receipt, charged, charged);
                            })
                        })
                        .collect();
                    let keeper = {
                        let cell = Arc::clone(&cell);
                        thread::spawn(move || {
                            let now = meter.granted(5 * SECOND);
                            (0..12).filter(|_| cell.charge(&meter, now, 1).is_ok()).count()
                        })
                    };
                    let kept = keeper.join().unwrap();
                    for thread in threads {
                        thread.join().unwrap();
                    }
                    let now = meter.granted(5 * SECOND);
                    let after = (0..12).filter(|_| cell.charge(&meter, now, 1).is_ok()).count();
                    assert!(kept + after <= 10, "{kept} + {after}");
                },
                2_000,
            );
        }
    }
}
