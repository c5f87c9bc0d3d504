//! How does one limit charge one slot?
//!
//! A [`Limit`] is one rule with its cells, one per slot of its scope; the ways to count answer the same five
//! questions here: does it fit, charge it, give it back, what is the level, is it idle.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::bucket::{BucketCell, Receipt, Shortfall};
use super::keys::KeyTable;
use super::meter::Meter;
use super::setting_error;
use super::settings::{LimitRule, LimitSettings, Unit};
use super::sliding::{SlidingCell, SlidingWindow};
use super::warm_up::{Turn, WarmUp, WarmUpCell};
use crate::error::GatewayError;

/// One cell per slot, made at once: chunks made when first touched would cost two dependent loads at every step.
#[derive(Debug)]
pub(super) struct Cells<T>(Arc<[T]>);

impl<T> Clone for Cells<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T: Default> Cells<T> {
    fn new(count: usize) -> Self {
        Self((0..count).map(|_| T::default()).collect())
    }

    #[inline]
    fn at(&self, slot: usize) -> &T {
        &self.0[slot]
    }
}

/// The buckets of a limit, one per slot.
#[derive(Debug, Clone)]
pub(super) enum Buckets {
    /// In the entries of the keys, beside their names.
    First(Arc<KeyTable>),
    Own(Cells<BucketCell>),
}

impl Buckets {
    fn new(slots: usize, keys: Option<&Arc<KeyTable>>) -> Self {
        match keys {
            Some(keys) if keys.take_first() => Self::First(Arc::clone(keys)),
            _ => Self::Own(Cells::new(slots)),
        }
    }

    #[inline]
    fn at(&self, slot: usize) -> &BucketCell {
        match self {
            Self::First(keys) => keys.first(slot),
            Self::Own(cells) => cells.at(slot),
        }
    }

    /// New buckets as full as these, by another meter.
    fn in_other_ticks(&self, slots: usize, old: &Meter, new: &Meter, now_ns: u64) -> Self {
        let cells: Cells<BucketCell> = Cells::new(slots);
        for slot in 0..slots {
            let used = old.units_up(self.at(slot).level(old.granted(now_ns)));
            if used > 0 {
                cells.at(slot).debit(new.granted(now_ns), new.ticks_of_any(used));
            }
        }
        Self::Own(cells)
    }
}

/// One rule with its cells.
#[derive(Debug, Clone)]
pub(super) struct Limit {
    pub(super) name: Arc<str>,
    pub(super) unit: Unit,
    pub(super) scope: Option<usize>,
    pub(super) rule: LimitRule,
    /// How far ahead it may be charged, in nanoseconds.
    pub(super) ahead_ns: u64,
    pub(super) counting: Counting,
}

#[derive(Debug, Clone)]
pub(super) enum Counting {
    /// Paced: a charge fits when all before it have flowed, whatever it is; else: up to the burst.
    Metered {
        meter: Meter,
        paced: bool,
        cells: Buckets,
    },
    Sliding {
        window: SlidingWindow,
        cells: Cells<Mutex<SlidingCell>>,
    },
    WarmUp {
        rate: WarmUp,
        cells: Cells<Mutex<WarmUpCell>>,
    },
    InFlight {
        most: u64,
        cells: Cells<AtomicU64>,
    },
}

/// Why a charge does not fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refused {
    /// It fits after so many nanoseconds.
    Wait(u64),
    /// It never does.
    Never,
    /// It does when a reservation ends.
    InFlight,
}

/// How full a limit is for one key: what metrics and rate-limit headers say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LimitLevel {
    /// The most at once, in the unit of the limit.
    pub limit: u64,
    /// What is used of it, rounded up; above the limit in debt.
    pub used: u64,
    /// What would be allowed now.
    pub remaining: u64,
    /// When nothing is used any more if nothing more is charged; `None` where time alone does not do it.
    pub reset: Option<Duration>,
}

impl LimitLevel {
    /// What is used beyond the limit.
    #[must_use]
    pub fn debt(&self) -> u64 {
        self.used.saturating_sub(self.limit)
    }
}

impl Limit {
    /// A limit whose cells are all new, one for each slot of the keys of its scope.
    pub(super) fn new(
        settings: &LimitSettings,
        scope: Option<usize>,
        keys: Option<&Arc<KeyTable>>,
        now_ns: u64,
    ) -> Result<Self, GatewayError> {
        let slots = keys.map_or(1, |keys| keys.capacity());
        let counting = match settings.rule {
            LimitRule::SlidingWindow { amount, period } => Counting::Sliding {
                window: SlidingWindow::new(amount, period_ns(period)),
                cells: Cells::new(slots),
            },
            LimitRule::InFlight { amount } => Counting::InFlight { most: amount, cells: Cells::new(slots) },
            LimitRule::WarmUp { .. } => {
                Counting::WarmUp { rate: warm_up(settings)?, cells: Cells::new(slots) }
            }
            rule => {
                let meter = meter(settings, rule, now_ns)?;
                let paced = matches!(rule, LimitRule::Pacing { .. });
                Counting::Metered { meter, paced, cells: Buckets::new(slots, keys) }
            }
        };
        Ok(Self {
            name: settings.name.as_str().into(),
            unit: settings.unit,
            scope,
            rule: settings.rule,
            ahead_ns: period_ns(settings.max_wait),
            counting,
        })
    }

    /// This limit under new settings, with the same cells, from a moment on. `None` where it counts in another way or
    /// another unit, so that levels mean something else.
    pub(super) fn changed(
        &self,
        settings: &LimitSettings,
        keys: Option<&Arc<KeyTable>>,
        now_ns: u64,
    ) -> Result<Option<Self>, GatewayError> {
        if self.unit != settings.unit {
            return Ok(None);
        }
        let counting = match (&self.counting, settings.rule) {
            (Counting::Sliding { cells, .. }, LimitRule::SlidingWindow { amount, period }) if matches!(self.rule, LimitRule::SlidingWindow { period: old, .. } if old == period) =>
            {
                let window = SlidingWindow::new(amount, period_ns(period));
                Counting::Sliding { window, cells: cells.clone() }
            }
            (Counting::InFlight { cells, .. }, LimitRule::InFlight { amount }) => {
                Counting::InFlight { most: amount, cells: cells.clone() }
            }
            (Counting::WarmUp { cells, .. }, LimitRule::WarmUp { .. }) => {
                Counting::WarmUp { rate: warm_up(settings)?, cells: cells.clone() }
            }
            (Counting::Metered { meter, cells, .. }, rule) => {
                let Some((refill, burst)) = rule.refill() else { return Ok(None) };
                let (meter, cells) = if rule == self.rule {
                    (*meter, cells.clone())
                } else if let Ok(changed) = meter.changed(refill, burst, now_ns) {
                    (changed, cells.clone())
                } else {
                    // Ticks that suit the old rate do not suit the new one.
                    let changed = self::meter(settings, rule, now_ns)?;
                    let slots = keys.map_or(1, |keys| keys.capacity());
                    (changed, cells.in_other_ticks(slots, meter, &changed, now_ns))
                };
                let paced = matches!(rule, LimitRule::Pacing { .. });
                Counting::Metered { meter, paced, cells }
            }
            _ => return Ok(None),
        };
        let ahead_ns = period_ns(settings.max_wait);
        Ok(Some(Self { rule: settings.rule, ahead_ns, counting, ..self.clone() }))
    }

    /// Whether a charge fits; nothing is written, except that a sliding window forgets what is old. Always inlined, as the
    /// charge: a few instructions for each limit of each request.
    #[inline(always)]
    pub(super) fn fits(&self, slot: usize, now_ns: u64, units: u64) -> Result<(), Refused> {
        match &self.counting {
            Counting::Metered { meter, paced: false, cells } => cells
                .at(slot)
                .fits(meter, meter.granted(now_ns), units)
                .map_err(|shortfall| refused(meter, now_ns, shortfall)),
            _ => self.fits_otherwise(slot, now_ns, units),
        }
    }

    /// The same for what is not a plain bucket: a function of its own, so that buckets do not pay for it.
    #[inline(never)]
    fn fits_otherwise(&self, slot: usize, now_ns: u64, units: u64) -> Result<(), Refused> {
        match &self.counting {
            Counting::Metered { meter, cells, .. } => match cells.at(slot).level(meter.granted(now_ns)) {
                0 => Ok(()),
                before => Err(refused(meter, now_ns, Shortfall::Ticks(before))),
            },
            Counting::Sliding { window, cells } => {
                window.fits(&mut lock(cells.at(slot)), now_ns, units).map_err(wait)
            }
            Counting::WarmUp { rate, cells } => match rate.wait(&lock(cells.at(slot)), now_ns) {
                0 => Ok(()),
                wait => Err(Refused::Wait(wait)),
            },
            Counting::InFlight { most, cells } => {
                in_flight_fits(*most, cells.at(slot).load(Ordering::Relaxed), units).map(|_| ())
            }
        }
    }

    /// Charges what fits.
    #[inline(always)]
    pub(super) fn charge(&self, slot: usize, now_ns: u64, units: u64) -> Result<Receipt, Refused> {
        match &self.counting {
            Counting::Metered { meter, paced: false, cells } => cells
                .at(slot)
                .charge(meter, meter.granted(now_ns), units)
                .map_err(|shortfall| refused(meter, now_ns, shortfall)),
            _ => self.charge_otherwise(slot, now_ns, units),
        }
    }

    /// The same for what is not a plain bucket.
    #[inline(never)]
    fn charge_otherwise(&self, slot: usize, now_ns: u64, units: u64) -> Result<Receipt, Refused> {
        match &self.counting {
            Counting::Metered { meter, cells, .. } => {
                let cost = turn_ticks(meter, units)?;
                cells
                    .at(slot)
                    .charge_below(meter.granted(now_ns), cost, cost)
                    .map_err(|shortfall| refused(meter, now_ns, shortfall))
            }
            Counting::Sliding { window, cells } => {
                let part = window.charge(&mut lock(cells.at(slot)), now_ns, units).map_err(wait)?;
                Ok(Receipt { start: part, finish: 0 })
            }
            Counting::WarmUp { rate, cells } => {
                turn(rate, &mut lock(cells.at(slot)), now_ns, units, 0).map(|(receipt, _)| receipt)
            }
            Counting::InFlight { most, cells } => {
                let cell = cells.at(slot);
                // Acquire: the end of a reservation that made the room comes before this charge.
                let mut count = cell.load(Ordering::Relaxed);
                loop {
                    let next = in_flight_fits(*most, count, units)?;
                    match cell.compare_exchange_weak(count, next, Ordering::AcqRel, Ordering::Relaxed) {
                        Ok(_) => return Ok(Receipt::default()),
                        Err(seen) => count = seen,
                    }
                }
            }
        }
    }

    /// Charges what fits now or within the longest wait, and says after how many nanoseconds it fits: when as much
    /// has flowed as is charged beyond what is allowed at once. Who comes later is charged behind it, so turns come in the
    /// order of charges and nobody overtakes.
    pub(super) fn charge_ahead(
        &self,
        slot: usize,
        now_ns: u64,
        units: u64,
    ) -> Result<(Receipt, u64), Refused> {
        if let Counting::WarmUp { rate, cells } = &self.counting {
            return turn(rate, &mut lock(cells.at(slot)), now_ns, units, self.ahead_ns);
        }
        let Counting::Metered { meter, paced, cells } = &self.counting else {
            return self.charge(slot, now_ns, units).map(|receipt| (receipt, 0));
        };
        let granted = meter.granted(now_ns);
        let flows = meter.granted(now_ns.saturating_add(self.ahead_ns)).wrapping_sub(granted);
        let (cost, at_once) = if *paced {
            let cost = turn_ticks(meter, units)?;
            (cost, cost)
        } else {
            (meter.ticks(units).ok_or(Refused::Never)?, meter.burst_ticks())
        };
        let flows = flows.min(MOST_AHEAD_TICKS);
        let (receipt, level) =
            cells.at(slot).charge_to_level(granted, cost, at_once + flows).map_err(|shortfall| {
                let beyond = match shortfall {
                    Shortfall::Ticks(ticks) => Shortfall::Ticks(ticks + flows),
                    Shortfall::AboveBurst => Shortfall::AboveBurst,
                };
                refused(meter, now_ns, beyond)
            })?;
        // What flows within the longest wait has flowed after it.
        let wait = meter.time_until(now_ns, level.saturating_sub(at_once)).unwrap_or(self.ahead_ns);
        Ok((receipt, wait))
    }

    /// Charges whatever the level. What is in flight is given back by a reservation alone, so nothing there.
    pub(super) fn debit(&self, slot: usize, now_ns: u64, units: u64) {
        match &self.counting {
            Counting::Metered { meter, cells, .. } => {
                cells.at(slot).debit(meter.granted(now_ns), meter.ticks_of_any(units));
            }
            Counting::Sliding { window, cells } => {
                window.debit(&mut lock(cells.at(slot)), now_ns, units);
            }
            Counting::WarmUp { rate, cells } => {
                // One that would never end is forgiven.
                let _ = rate.charge(&mut lock(cells.at(slot)), now_ns, units);
            }
            Counting::InFlight { .. } => {}
        }
    }

    /// Ends a charge of `units` of which `actual` were used: gives back the rest, or charges what is beyond. `now_ns`
    /// zero stands for the moment of the last charge.
    #[inline]
    pub(super) fn end(&self, slot: usize, now_ns: u64, receipt: Receipt, units: u64, actual: u64) {
        if actual != units || matches!(self.counting, Counting::InFlight { .. }) {
            self.end_otherwise(slot, now_ns, receipt, units, actual);
        }
    }

    /// The same where something is to be done.
    fn end_otherwise(&self, slot: usize, now_ns: u64, receipt: Receipt, units: u64, actual: u64) {
        match &self.counting {
            Counting::InFlight { cells, .. } => {
                cells.at(slot).fetch_sub(units, Ordering::AcqRel);
            }
            _ if actual > units => self.debit_beyond(slot, now_ns, units, actual),
            Counting::Metered { meter, cells, .. } => {
                let charged = meter.ticks_of_any(units);
                let excess = charged - meter.ticks_of_any(actual);
                cells.at(slot).give_back(meter.granted(now_ns), receipt, charged, excess);
            }
            Counting::Sliding { window, cells } => {
                window.give_back(&mut lock(cells.at(slot)), now_ns, receipt.start, units - actual);
            }
            Counting::WarmUp { rate, cells } => {
                let turn = Turn { stored: f64::from_bits(receipt.start), end_ns: receipt.finish };
                rate.give_back(&mut lock(cells.at(slot)), now_ns, turn, units, units - actual);
            }
        }
    }

    /// Charges the difference in ticks, so that the sum is that of one charge of `actual`.
    fn debit_beyond(&self, slot: usize, now_ns: u64, units: u64, actual: u64) {
        if let Counting::Metered { meter, cells, .. } = &self.counting {
            let ticks = meter.ticks_of_any(actual) - meter.ticks_of_any(units);
            cells.at(slot).debit(meter.granted(now_ns), ticks);
        } else {
            self.debit(slot, now_ns, actual - units);
        }
    }

    /// Whether the cell is as good as new.
    pub(super) fn is_idle(&self, slot: usize, now_ns: u64) -> bool {
        match &self.counting {
            Counting::Metered { meter, cells, .. } => cells.at(slot).is_idle(meter.granted(now_ns)),
            Counting::Sliding { window, cells } => window.used(&mut lock(cells.at(slot)), now_ns) == 0,
            Counting::WarmUp { rate, cells } => rate.is_idle(&lock(cells.at(slot)), now_ns),
            Counting::InFlight { cells, .. } => cells.at(slot).load(Ordering::Acquire) == 0,
        }
    }

    /// The most at once.
    pub(super) const fn most(&self) -> u64 {
        match &self.counting {
            Counting::Metered { meter, .. } => meter.burst_units(),
            Counting::Sliding { window, .. } => window.amount,
            Counting::WarmUp { .. } => 1,
            Counting::InFlight { most, .. } => *most,
        }
    }

    /// How full it is.
    pub(super) fn level(&self, slot: usize, now_ns: u64) -> LimitLevel {
        match &self.counting {
            Counting::Metered { meter, cells, .. } => {
                let level = cells.at(slot).level(meter.granted(now_ns));
                LimitLevel {
                    limit: meter.burst_units(),
                    used: meter.units_up(level),
                    remaining: meter.units(meter.burst_ticks().saturating_sub(level)),
                    reset: meter.time_until(now_ns, level).map(Duration::from_nanos),
                }
            }
            Counting::Sliding { window, cells } => {
                let mut cell = lock(cells.at(slot));
                let used = window.used(&mut cell, now_ns);
                LimitLevel {
                    limit: window.amount,
                    used,
                    remaining: window.amount.saturating_sub(used),
                    reset: Some(Duration::from_nanos(window.time_to_empty(&mut cell, now_ns))),
                }
            }
            Counting::WarmUp { rate, cells } => {
                let cell = lock(cells.at(slot));
                let used = rate.used(&cell, now_ns);
                LimitLevel {
                    limit: 1,
                    used,
                    remaining: u64::from(used == 0),
                    reset: Some(Duration::from_nanos(rate.wait(&cell, now_ns))),
                }
            }
            Counting::InFlight { most, cells } => {
                let used = cells.at(slot).load(Ordering::Relaxed);
                let reset = (used == 0).then_some(Duration::ZERO);
                LimitLevel { limit: *most, used, remaining: most.saturating_sub(used), reset }
            }
        }
    }

    /// What is left now of `used` units at an earlier moment: for levels that come back from a store.
    pub(super) fn left_of(&self, used: u64, then_ns: u64, now_ns: u64) -> u64 {
        match (&self.counting, self.rule) {
            (Counting::Metered { .. }, rule) => {
                let Some(Ok(meter)) = rule.refill().map(|(refill, burst)| Meter::new(refill, burst, then_ns))
                else {
                    return used;
                };
                used.saturating_sub(meter.units(meter.granted(now_ns.max(then_ns))))
            }
            (Counting::WarmUp { rate, .. }, _) => {
                used.saturating_sub(rate.flow(now_ns.saturating_sub(then_ns)))
            }
            (Counting::Sliding { .. }, LimitRule::SlidingWindow { period, .. }) => {
                let period = period_ns(period);
                // As if all had been charged at the moment of the snapshot.
                if now_ns.saturating_sub(then_ns) < period.saturating_add(period / 16) { used } else { 0 }
            }
            _ => 0,
        }
    }
}

fn meter(settings: &LimitSettings, rule: LimitRule, now_ns: u64) -> Result<Meter, GatewayError> {
    let error = |setting, expected| setting_error(&settings.name, setting, format!("{rule:?}"), expected);
    let (refill, burst) = rule.refill().ok_or_else(|| error("rule", "a metered rule"))?;
    Meter::new(refill, burst, now_ns).map_err(|e| error(e.setting, e.expected))
}

fn warm_up(settings: &LimitSettings) -> Result<WarmUp, GatewayError> {
    let LimitRule::WarmUp { amount, period, ramp, cold_factor } = settings.rule else {
        return Err(setting_error(&settings.name, "rule", format!("{:?}", settings.rule), "warm-up"));
    };
    WarmUp::new(&settings.name, amount, period_ns(period), period_ns(ramp), cold_factor)
}

/// Takes the next turn of a warm-up, where it comes within `ahead_ns`; with the time until then.
fn turn(
    rate: &WarmUp,
    cell: &mut WarmUpCell,
    now_ns: u64,
    units: u64,
    ahead_ns: u64,
) -> Result<(Receipt, u64), Refused> {
    let wait = rate.wait(cell, now_ns);
    if wait > ahead_ns {
        return Err(Refused::Wait(wait));
    }
    let turn = rate.charge(cell, now_ns, units).ok_or(Refused::Never)?;
    Ok((Receipt { start: turn.stored.to_bits(), finish: turn.end_ns }, wait))
}

/// The most ticks that are charged ahead: half of what a level may reach.
const MOST_AHEAD_TICKS: u64 = 1 << 60;

/// Ticks of a turn, which may be of any size that 64 bits hold.
fn turn_ticks(meter: &Meter, units: u64) -> Result<u64, Refused> {
    Some(meter.ticks_of_any(units)).filter(|ticks| *ticks <= 1 << 59).ok_or(Refused::Never)
}

#[cold]
fn refused(meter: &Meter, now_ns: u64, shortfall: Shortfall) -> Refused {
    match shortfall {
        Shortfall::Ticks(ticks) => meter.time_until(now_ns, ticks).map_or(Refused::Never, Refused::Wait),
        Shortfall::AboveBurst => Refused::Never,
    }
}

fn wait(wait: Option<u64>) -> Refused {
    wait.map_or(Refused::Never, Refused::Wait)
}

#[inline]
fn in_flight_fits(most: u64, count: u64, units: u64) -> Result<u64, Refused> {
    if units > most {
        return Err(Refused::Never);
    }
    count.checked_add(units).filter(|next| *next <= most).ok_or(Refused::InFlight)
}

fn lock<T>(cell: &Mutex<T>) -> MutexGuard<'_, T> {
    cell.lock().unwrap_or_else(PoisonError::into_inner)
}

fn period_ns(period: Duration) -> u64 {
    u64::try_from(period.as_nanos()).unwrap_or(u64::MAX)
}
