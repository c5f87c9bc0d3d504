//! How much has a limit allowed until now?
//!
//! A [`Meter`] turns time into a cumulative allowance `G(t)`: an exact, deterministic function of the clock
//! alone, the same for all keys of a limit. A [`BucketCell`](super::BucketCell) adds what one key consumed.
//!
//! `G` counts *ticks*. A tick is a power of two of units, chosen once per limit so that about 2⁻⁵ ticks flow per
//! nanosecond: fine enough that a burst of one at 1/s means one second between two grants, coarse enough that
//! the 64-bit counters may wrap (all arithmetic is modulo 2⁶⁴, differences are signed) after no less than 4.6
//! years without a single charge. Up to 6·10¹⁰ units/s a unit is a whole number of ticks, so counting is exact;
//! above (pico-dollars beyond $5,400 a day) a tick is up to a few thousand units and charges round up.
//!
//! For a continuous refill, with the rate `r` in ticks per nanosecond as a 6.58-bit fixed-point number rounded
//! down,
//!
//! ```text
//! G(t) = G(a) + ⌊(t − a) · r / 2⁵⁸⌋
//! ```
//!
//! with one multiplication and no division. The rounding of `r` loses less than one tick in nine years; over
//! any window `w` it holds that `G(t + w) − G(t) ≤ rate · w + 1` tick. There is no period per unit that could
//! be rounded to whole nanoseconds, which is what makes cell-period limiters grant 11 % too much at 150
//! million units per second.
//!
//! An aligned refill (fixed windows, calendar months) is the same thing with steps: `G(t) = G(a) + (window(t) −
//! window(a)) · amount`. Everything built on a meter, reservations, debt and refunds, works for it unchanged.
//!
//! A change of rate or burst while running makes `G` a continuous function with a bend: [`Meter::changed`]
//! anchors the new rate at the value the old one reached, so that every level stays what it was, no cell is
//! touched and reservations in flight stay valid.

use std::time::Duration;

/// Binary places of the rate in ticks per nanosecond.
const RATE_PLACES: u32 = 58;

/// The greatest burst in ticks: level, debt and cost then add up without overflow.
const MOST_BURST_TICKS: u64 = 1 << 60;

const NANOS_PER_DAY: u64 = 86_400_000_000_000;
const NANOS_PER_MINUTE: i64 = 60_000_000_000;

/// How an allowance comes in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refill {
    /// Evenly: `amount` in each `period`, at every moment its part of it. A zero amount never refills.
    Continuous {
        /// Units per period.
        amount: u64,
        /// Length of a period.
        period: Duration,
    },
    /// All of `amount` at once, whenever the time since the epoch is `offset` after a multiple of `period`.
    Aligned {
        /// Units per period.
        amount: u64,
        /// Length of a period.
        period: Duration,
        /// Where the first period begins.
        offset: Duration,
    },
    /// All of `amount` at once at the first moment of each calendar month.
    Monthly {
        /// Units per month.
        amount: u64,
        /// How far the clock by which months begin is ahead of UTC, in minutes.
        utc_offset_minutes: i32,
    },
}

impl Refill {
    /// Amount, and the shortest time in which it comes, in nanoseconds.
    fn amount_and_period(self) -> (u64, u64) {
        match self {
            Self::Continuous { amount, period } | Self::Aligned { amount, period, .. } => {
                (amount, u64::try_from(period.as_nanos()).unwrap_or(u64::MAX))
            }
            Self::Monthly { amount, .. } => (amount, 28 * NANOS_PER_DAY),
        }
    }
}

/// Cumulative allowance of a limit as a function of time, and its burst.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Meter {
    /// A unit is `2^up / 2^down` ticks; one of the two is zero.
    up: u32,
    down: u32,
    /// The highest level, in ticks.
    burst: u64,
    /// The largest charge, in units.
    largest: u64,
    /// Ticks of one unit, which is what most charges are.
    one: u64,
    /// `G` at the anchor.
    anchor_ticks: u64,
    flow: Flow,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flow {
    Continuous { anchor_ns: u64, per_ns: u64 },
    Aligned { anchor_window: u64, period_ns: u64, offset_ns: u64, step: u64 },
    Monthly { anchor_window: u64, step: u64, ahead_ns: i64 },
}

/// A setting that a meter cannot have: its key and what it may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MeterError {
    /// The key of the setting.
    pub setting: &'static str,
    /// What it may be.
    pub expected: &'static str,
}

impl Meter {
    /// The meter that starts at `now_ns` nanoseconds since the epoch, full.
    ///
    /// # Errors
    /// [`MeterError`] for a period of zero or of more than 200 years, a burst of zero, or a combination that 64 bits
    /// cannot hold (burst above 10¹⁸ ticks).
    pub fn new(refill: Refill, burst: u64, now_ns: u64) -> Result<Self, MeterError> {
        let (amount, period) = checked(refill, burst)?;
        let (up, down) = scale(amount, period, burst);
        let blank = Self {
            up,
            down,
            burst: 0,
            largest: 0,
            one: 0,
            anchor_ticks: 0,
            flow: Flow::Continuous { anchor_ns: now_ns, per_ns: 0 },
        };
        blank.changed(refill, burst, now_ns)
    }

    /// This meter with another refill and burst from `now_ns` on. Levels, debts and reservations stay as they are.
    ///
    /// # Errors
    /// [`MeterError`] as for [`Meter::new`], and where the rate grows so much (at least 2,000-fold for limits that
    /// began below 30 million units per second, 60-fold above) that the tick chosen at the start is too fine.
    pub fn changed(&self, refill: Refill, burst: u64, now_ns: u64) -> Result<Self, MeterError> {
        let (amount, period) = checked(refill, burst)?;
        let out_of_scale = |setting| MeterError { setting, expected: "less growth than the scale allows" };
        let burst_ticks = (u128::from(burst) << self.up) >> self.down;
        if burst_ticks == 0 || burst_ticks > u128::from(MOST_BURST_TICKS) {
            return Err(out_of_scale("burst"));
        }
        let step = u64::try_from((u128::from(amount) << self.up) >> self.down).ok();
        let step = step.filter(|s| *s <= MOST_BURST_TICKS).ok_or(out_of_scale("amount"));
        let per_ns = ticks_per_nano(amount, period, self.up, self.down).ok_or(out_of_scale("amount"))?;
        let flow = match refill {
            Refill::Continuous { .. } => Flow::Continuous { anchor_ns: now_ns, per_ns },
            Refill::Aligned { offset, .. } => {
                let offset_ns = u64::try_from(offset.as_nanos()).unwrap_or(u64::MAX) % period;
                let anchor_window = aligned_window(now_ns, period, offset_ns);
                Flow::Aligned { anchor_window, period_ns: period, offset_ns, step: step? }
            }
            Refill::Monthly { utc_offset_minutes, .. } => {
                let ahead_ns = i64::from(utc_offset_minutes) * NANOS_PER_MINUTE;
                let anchor_window = month(now_ns.saturating_add_signed(ahead_ns));
                Flow::Monthly { anchor_window, step: step?, ahead_ns }
            }
        };
        let burst_ticks = burst_ticks as u64;
        Ok(Self {
            burst: burst_ticks,
            largest: (burst_ticks << self.down) >> self.up,
            one: ((1 << self.up) + ((1 << self.down) - 1)) >> self.down,
            anchor_ticks: self.granted(now_ns),
            flow,
            ..*self
        })
    }

    /// `G`: ticks allowed until `now_ns`, modulo 2⁶⁴; before the anchor, what it was there.
    #[inline]
    #[must_use]
    pub fn granted(&self, now_ns: u64) -> u64 {
        let since = match self.flow {
            Flow::Continuous { anchor_ns, per_ns } => {
                let elapsed = now_ns.saturating_sub(anchor_ns);
                ((u128::from(elapsed) * u128::from(per_ns)) >> RATE_PLACES) as u64
            }
            Flow::Aligned { anchor_window, period_ns, offset_ns, step } => {
                aligned_window(now_ns, period_ns, offset_ns).saturating_sub(anchor_window).wrapping_mul(step)
            }
            Flow::Monthly { anchor_window, step, ahead_ns } => {
                let month = month(now_ns.saturating_add_signed(ahead_ns));
                month.saturating_sub(anchor_window).wrapping_mul(step)
            }
        };
        self.anchor_ticks.wrapping_add(since)
    }

    /// Nanoseconds from `now_ns` until `ticks` more than at `now_ns` have been allowed, exactly: one nanosecond
    /// earlier there are fewer. `None` where that never happens.
    #[must_use]
    pub fn time_until(&self, now_ns: u64, ticks: u64) -> Option<u64> {
        if ticks == 0 {
            return Some(0);
        }
        let target = self.granted(now_ns).wrapping_sub(self.anchor_ticks).checked_add(ticks)?;
        let at = match self.flow {
            Flow::Continuous { per_ns: 0, .. } => return None,
            Flow::Continuous { anchor_ns, per_ns } => {
                // ⌊e·r / 2⁵⁸⌋ ≥ target exactly when e ≥ ⌈target·2⁵⁸ / r⌉.
                let elapsed = (u128::from(target) << RATE_PLACES).div_ceil(u128::from(per_ns));
                u128::from(anchor_ns) + elapsed
            }
            Flow::Aligned { step: 0, .. } | Flow::Monthly { step: 0, .. } => return None,
            Flow::Aligned { anchor_window, period_ns, offset_ns, step } => {
                let window = u128::from(anchor_window) + u128::from(target.div_ceil(step));
                (window * u128::from(period_ns) + u128::from(offset_ns)).saturating_sub(u128::from(period_ns))
            }
            Flow::Monthly { anchor_window, step, ahead_ns } => {
                let first = first_of_month(anchor_window.checked_add(target.div_ceil(step))?)?;
                u128::from(first.saturating_add_signed(-ahead_ns))
            }
        };
        u64::try_from(at.saturating_sub(u128::from(now_ns))).ok()
    }

    /// Ticks of a charge, `None` when it is above the burst.
    #[inline]
    #[must_use]
    pub fn ticks(&self, units: u64) -> Option<u64> {
        if units == 1 {
            // A burst is at least one unit.
            return Some(self.one);
        }
        (units <= self.largest).then(|| self.ticks_of_any(units))
    }

    /// Ticks of any number of units, rounded up, at most 2⁶².
    #[inline]
    #[must_use]
    pub fn ticks_of_any(&self, units: u64) -> u64 {
        if units <= self.largest {
            return ((units << self.up) + ((1 << self.down) - 1)) >> self.down;
        }
        (u128::from(units) << self.up).div_ceil(1 << self.down).min(1 << 62) as u64
    }

    /// Units of a number of ticks, rounded down.
    #[must_use]
    pub fn units(&self, ticks: u64) -> u64 {
        u64::try_from((u128::from(ticks) << self.down) >> self.up).unwrap_or(u64::MAX)
    }

    /// Units of a number of ticks, rounded up.
    #[must_use]
    pub fn units_up(&self, ticks: u64) -> u64 {
        u64::try_from((u128::from(ticks) << self.down).div_ceil(1 << self.up)).unwrap_or(u64::MAX)
    }

    /// The highest level, in ticks.
    #[inline]
    #[must_use]
    pub fn burst_ticks(&self) -> u64 {
        self.burst
    }

    /// The largest charge that is ever allowed, in units.
    #[must_use]
    pub const fn burst_units(&self) -> u64 {
        self.largest
    }
}

fn checked(refill: Refill, burst: u64) -> Result<(u64, u64), MeterError> {
    let (amount, period) = refill.amount_and_period();
    if period == 0 || period > 200 * 366 * NANOS_PER_DAY {
        return Err(MeterError { setting: "period_ms", expected: "more than 0 and at most 200 years" });
    }
    if burst == 0 {
        return Err(MeterError { setting: "burst", expected: "at least 1" });
    }
    if amount == 0 && !matches!(refill, Refill::Continuous { .. }) {
        return Err(MeterError { setting: "amount", expected: "at least 1" });
    }
    Ok((amount, period))
}

/// `(up, down)`: 2⁻⁵ ticks per nanosecond if a tick can be one unit or less, else whole ticks per unit if the
/// rate still fits well into six bits, else about one tick per nanosecond.
fn scale(amount: u64, period_ns: u64, burst: u64) -> (u32, u32) {
    let log_rate = if amount == 0 {
        -30
    } else {
        let per_ns = (u128::from(amount) << 64) / u128::from(period_ns);
        per_ns.max(1).ilog2() as i32 - 64
    };
    let by_rate = if log_rate <= -6 {
        -6 - log_rate
    } else if log_rate <= 4 {
        0
    } else {
        -1 - log_rate
    };
    let by_burst = 59 - burst.ilog2() as i32;
    let shift = by_rate.min(by_burst).clamp(-40, 40);
    if shift >= 0 { (shift as u32, 0) } else { (0, shift.unsigned_abs()) }
}

/// `⌊amount · 2^(58 + up − down) / period⌋`, `None` where it does not fit into 64 bits.
fn ticks_per_nano(amount: u64, period_ns: u64, up: u32, down: u32) -> Option<u64> {
    let (amount, period) = (u128::from(amount), u128::from(period_ns));
    let places = RATE_PLACES + up - down;
    if places <= 64 {
        return u64::try_from((amount << places) / period).ok();
    }
    // Long division in two digits: 58 + 40 places do not fit into 128 bits beside a 64-bit amount.
    let (high, rest) = ((amount << 64) / period, (amount << 64) % period);
    let extra = places - 64;
    let low = (rest << extra) / period;
    high.checked_shl(extra).filter(|h| h >> extra == high).and_then(|h| u64::try_from(h + low).ok())
}

/// The number of the window that contains a moment, from 1 on so that none is negative before the offset.
#[inline]
fn aligned_window(now_ns: u64, period_ns: u64, offset_ns: u64) -> u64 {
    match now_ns.checked_sub(offset_ns) {
        Some(since) => since / period_ns + 1,
        None => 0,
    }
}

/// Months since January 1970 of a moment, both by one clock. Days to civil date after E. Reingold and N. Dershowitz,
/// *Calendrical Calculations*, with years that begin in March so that the leap day comes last.
fn month(now_ns: u64) -> u64 {
    let day = now_ns / NANOS_PER_DAY + 719_468;
    let era = day / 146_097;
    let day_of_era = day % 146_097;
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * day_of_year + 2) / 153;
    // March 0000 is month 0 here; January 1970 is month 1970·12 − 2.
    (era * 400 + year_of_era) * 12 + march_month - (1970 * 12 - 2)
}

/// The first nanosecond of a month counted as in [`month`].
fn first_of_month(month: u64) -> Option<u64> {
    let months = month.checked_add(1970 * 12 - 2)?;
    let (year, march_month) = (months / 12, months % 12);
    let days = (year * 365 + year / 4 - year / 100 + year / 400) + (153 * march_month + 2) / 5;
    days.checked_sub(719_468)?.checked_mul(NANOS_PER_DAY)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn per_second(amount: u64) -> Meter {
        let refill = Refill::Continuous { amount, period: Duration::from_secs(1) };
        Meter::new(refill, amount.max(1), 0).unwrap()
    }

    #[test]
    fn after_a_year_the_allowance_is_within_one_unit_of_the_rate_times_the_time() {
        for rate in [1, 3, 7, 1_000, 6_666_667, 150_000_000, 300_000_000, 600_000_000] {
            let meter = per_second(rate);
            for seconds in [1, 59, 86_400, 365 * 86_400] {
                let exact = u128::from(rate) * seconds;
                let ticks = u128::from(meter.granted(seconds as u64 * SECOND));
                let units = ticks >> meter.up;
                assert!(units <= exact && exact - units <= 1, "{units} of {exact}");
                assert_eq!(meter.down, 0, "whole ticks at {rate}/s");
            }
        }
    }

    #[test]
    fn the_wait_is_exact_to_the_nanosecond() {
        for rate in [1, 7, 1_000, 150_000_000, 600_000_000, 40_000_000_000] {
            let meter = per_second(rate);
            for now in [0, 1, 999_999_999, 31 * SECOND + 17] {
                let ticks = meter.ticks(rate).unwrap();
                let wait = meter.time_until(now, ticks).unwrap();
                let gained = |wait: u64| meter.granted(now + wait).wrapping_sub(meter.granted(now));
                assert!(gained(wait) >= ticks && gained(wait - 1) < ticks);
            }
        }
    }

    #[test]
    fn an_aligned_meter_steps_at_multiples_of_the_period() {
        let refill = |amount| Refill::Aligned {
            amount,
            period: Duration::from_secs(60),
            offset: Duration::from_secs(10),
        };
        let meter = Meter::new(refill(5), 5, 65 * SECOND).unwrap();
        assert_eq!(meter.granted(70 * SECOND - 1), meter.granted(0));
        assert_eq!(meter.granted(70 * SECOND), meter.granted(0) + meter.ticks(5).unwrap());
        assert_eq!(meter.time_until(65 * SECOND, 1), Some(5 * SECOND));
        assert_eq!(meter.time_until(65 * SECOND, meter.ticks(5).unwrap() + 1), Some(65 * SECOND));
        let changed = meter.changed(refill(7), 7, 100 * SECOND).unwrap();
        assert_eq!(changed.granted(100 * SECOND), meter.granted(100 * SECOND));
        assert_eq!(changed.time_until(100 * SECOND, 1), Some(30 * SECOND));
    }

    #[test]
    fn a_month_begins_on_its_first_day_in_leap_years_too() {
        // 2024-02-29T00:00Z is day 19,782, 2024-03-01 day 19,783; 2000-02-29 is day 11,016.
        let (leap, march) = (19_782 * NANOS_PER_DAY, 19_783 * NANOS_PER_DAY);
        assert_eq!(month(leap), (2024 - 1970) * 12 + 1);
        assert_eq!(month(march), (2024 - 1970) * 12 + 2);
        assert_eq!(month(11_016 * NANOS_PER_DAY), 30 * 12 + 1);
        for m in 0..2_400 {
            let first = first_of_month(m).unwrap();
            assert_eq!(month(first), m);
            assert!(m == 0 || month(first - 1) == m - 1);
        }
        let monthly = |utc_offset_minutes| {
            Meter::new(Refill::Monthly { amount: 100, utc_offset_minutes }, 100, leap).unwrap()
        };
        let meter = monthly(0);
        assert_eq!(meter.time_until(leap, 1), Some(NANOS_PER_DAY));
        assert_eq!(meter.granted(march) - meter.granted(leap), meter.ticks(100).unwrap());
        // In Delhi, five and a half hours ahead, March begins at 18:30Z; in New York, five behind, at 05:00Z.
        let hour = NANOS_PER_DAY / 24;
        for (utc_offset_minutes, begins) in [(330, march - 5 * hour - hour / 2), (-300, march + 5 * hour)] {
            let meter = monthly(utc_offset_minutes);
            assert_eq!(meter.time_until(leap, 1), Some(begins - leap));
            assert_eq!(meter.granted(begins - 1), meter.granted(leap));
            assert_eq!(meter.granted(begins) - meter.granted(leap), meter.ticks(100).unwrap());
        }
        // Before 1970 by that clock, and at the end of time, nothing overflows.
        let first = Meter::new(Refill::Monthly { amount: 1, utc_offset_minutes: -720 }, 1, 0).unwrap();
        assert_eq!(first.time_until(0, 1), Some(31 * NANOS_PER_DAY + 12 * hour));
        assert!(monthly(840).granted(u64::MAX) > monthly(840).granted(leap));
    }

    #[test]
    fn a_change_of_rate_bends_the_allowance_but_never_jumps() {
        let meter = per_second(10);
        let refill = Refill::Continuous { amount: 1_000, period: Duration::from_secs(1) };
        let changed = meter.changed(refill, 50, 3 * SECOND).unwrap();
        assert_eq!(changed.granted(3 * SECOND), meter.granted(3 * SECOND));
        let gained = changed.granted(4 * SECOND) - changed.granted(3 * SECOND);
        assert!(changed.units_up(gained) == 1_000 && changed.burst_units() == 50);
        let refill = Refill::Continuous { amount: 1_000_000_000, period: Duration::from_secs(1) };
        assert_eq!(meter.changed(refill, 1, SECOND).unwrap_err().setting, "amount");
    }

    #[test]
    fn nonsense_is_an_error_and_no_panic() {
        let refill = |amount, period| Refill::Continuous { amount, period };
        assert!(Meter::new(refill(1, Duration::ZERO), 1, 0).is_err());
        assert!(Meter::new(refill(1, Duration::MAX), 1, 0).is_err());
        assert!(Meter::new(refill(1, Duration::from_secs(1)), 0, 0).is_err());
        let widest = Meter::new(refill(u64::MAX, Duration::from_nanos(1)), u64::MAX, u64::MAX);
        assert!(widest.is_ok() || widest.is_err());
        let never = Meter::new(refill(0, Duration::from_secs(1)), 10, 0).unwrap();
        assert_eq!(never.time_until(0, 1), None);
    }
}
