//! In which unit are the rates of a file?
//!
//! Files write rates in kbit/s, in Mbit/s, or as bytes counted over five minutes. A [`RateUnit`] converts them
//! once, on reading. Units that are a power of ten of bit/s move the decimal point of the *text*, so a number
//! that is written and read again is the same `f64`; any other unit may be off by one in the last place.

use std::fmt;
use std::str::FromStr;

use traflux_core::units::BitRate;

use super::error::{FormatError, Place};
use super::text::{decimal, parse_shifted, quoted};

/// How many bits in how many seconds one unit of a file's numbers is.
///
/// ```
/// use traflux_te::format::RateUnit;
///
/// let unit: RateUnit = "100 bytes / 5 min".parse()?;
/// assert_eq!(unit.bits_per_second(3.0), 8.0); // 3 · 800 bit / 300 s
/// assert_eq!("Mbit/s".parse::<RateUnit>()?, RateUnit::MEGABIT);
/// # Ok::<(), traflux_te::format::FormatError>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RateUnit {
    bits: f64,
    seconds: f64,
}

impl RateUnit {
    /// bit/s, also that of numbers without a unit.
    pub const BIT: Self = Self { bits: 1.0, seconds: 1.0 };
    /// kbit/s: 10³ bit/s.
    pub const KILOBIT: Self = Self { bits: 1e3, seconds: 1.0 };
    /// Mbit/s: 10⁶ bit/s.
    pub const MEGABIT: Self = Self { bits: 1e6, seconds: 1.0 };
    /// Gbit/s: 10⁹ bit/s.
    pub const GIGABIT: Self = Self { bits: 1e9, seconds: 1.0 };
    /// Tbit/s: 10¹² bit/s.
    pub const TERABIT: Self = Self { bits: 1e12, seconds: 1.0 };
    /// 100 bytes per 5 minutes: flow records of 1 in 100 packets over five-minute bins (Abilene).
    pub const HUNDRED_BYTES_PER_FIVE_MINUTES: Self = Self { bits: 800.0, seconds: 300.0 };

    /// `bits` per `seconds`; `None` unless both are finite and positive.
    #[must_use]
    pub fn new(bits: f64, seconds: f64) -> Option<Self> {
        let fine = |x: f64| x.is_finite() && x > 0.0;
        (fine(bits) && fine(seconds)).then_some(Self { bits, seconds })
    }

    /// `value` of this unit in bit/s.
    #[must_use]
    pub fn bits_per_second(self, value: f64) -> f64 {
        value * self.bits / self.seconds
    }

    /// The power of ten that this unit is.
    fn exponent(self) -> Option<i32> {
        const POWERS: [f64; 16] =
            [1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15];
        if self.seconds != 1.0 {
            return None;
        }
        POWERS.iter().position(|power| *power == self.bits).map(|at| at as i32)
    }

    /// The number that a text writes, in bit/s; not necessarily finite.
    pub(super) fn read(self, text: &str) -> Option<f64> {
        match self.exponent() {
            Some(exponent) => parse_shifted(text, exponent),
            None => text.parse().ok().map(|value| self.bits_per_second(value)),
        }
    }

    /// A rate in bit/s as a number of this unit that [`RateUnit::read`] turns back.
    pub(super) fn print(self, rate: f64) -> String {
        if let Some(exponent) = self.exponent() {
            return decimal(rate, -exponent);
        }
        let near = rate / self.bits * self.seconds;
        let candidates = [near, near.next_up(), near.next_down()];
        let best = candidates.into_iter().find(|c| self.bits_per_second(*c) == rate).unwrap_or(near);
        decimal(best, 0)
    }
}

impl fmt::Display for RateUnit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = [
            (Self::BIT, "bit/s"),
            (Self::KILOBIT, "kbit/s"),
            (Self::MEGABIT, "Mbit/s"),
            (Self::GIGABIT, "Gbit/s"),
            (Self::TERABIT, "Tbit/s"),
        ];
        match names.iter().find(|(unit, _)| unit == self) {
            Some((_, name)) => f.write_str(name),
            None => write!(f, "{} bit / {} s", decimal(self.bits, 0), decimal(self.seconds, 0)),
        }
    }
}

impl FromStr for RateUnit {
    type Err = FormatError;

    /// Takes `[number] (bit | byte with k, M, G, T) / [number] (s | min | h)`, `kbps` and the like, `MBITPERSEC`
    /// and the like, and the empty text or `unitless` for bit/s. A lone `b` is a bit, a lone `B` a byte.
    fn from_str(text: &str) -> Result<Self, FormatError> {
        parse(text.trim()).ok_or_else(|| FormatError::Unit { place: Place::START, found: quoted(text) })
    }
}

/// A rate with its unit, such as `10Gbit/s` or `622 Mbps`, as the command line takes it.
///
/// # Errors
/// [`FormatError::Unit`].
pub fn parse_rate(text: &str) -> Result<BitRate, FormatError> {
    let unit: RateUnit = text.parse()?;
    let rate = unit.bits_per_second(1.0);
    BitRate::new(rate).map_err(|_| FormatError::Unit { place: Place::START, found: quoted(text) })
}

fn parse(text: &str) -> Option<RateUnit> {
    if text.is_empty() || text.eq_ignore_ascii_case("unitless") {
        return Some(RateUnit::BIT);
    }
    let lower = text.to_ascii_lowercase();
    // Positions in the lower-case copy are those of the text: only ASCII letters change, and keep their length.
    let (amount, time) = if let Some(at) = text.find('/') {
        (&text[..at], &text[at + 1..])
    } else if let Some(at) = lower.find("per") {
        (&text[..at], &text[at + 3..])
    } else {
        (text.strip_suffix("ps")?, "s")
    };
    let (bits, unit) = number_and_word(amount)?;
    let (seconds, duration) = number_and_word(time)?;
    let seconds_each = match duration.to_ascii_lowercase().as_str() {
        "s" | "sec" | "second" | "seconds" => 1.0,
        "min" | "minute" | "minutes" => 60.0,
        "h" | "hour" | "hours" => 3600.0,
        _ => return None,
    };
    RateUnit::new(bits * bits_of(unit)?, seconds * seconds_each)
}

/// How many bits a word such as `kbit`, `MB` or `bytes` stands for.
fn bits_of(word: &str) -> Option<f64> {
    let lower = word.to_ascii_lowercase();
    let (prefix, bits) = if let Some(prefix) = lower.strip_suffix("bits").or(lower.strip_suffix("bit")) {
        (prefix, 1.0)
    } else if let Some(prefix) = lower.strip_suffix("bytes").or(lower.strip_suffix("byte")) {
        (prefix, 8.0)
    } else {
        let prefix = lower.strip_suffix('b')?;
        (prefix, if word.ends_with('B') { 8.0 } else { 1.0 })
    };
    let scale = match prefix {
        "" => 1.0,
        "k" | "kilo" => 1e3,
        "m" | "mega" => 1e6,
        "g" | "giga" => 1e9,
        "t" | "tera" => 1e12,
        _ => return None,
    };
    Some(bits * scale)
}

/// A number, 1 where there is none, and the word behind it.
fn number_and_word(text: &str) -> Option<(f64, &str)> {
    let text = text.trim();
    if !text.starts_with(|c: char| c.is_ascii_digit() || c == '.') {
        return Some((1.0, text));
    }
    let longest = text.char_indices().map(|(at, c)| at + c.len_utf8()).take(40).collect::<Vec<_>>();
    longest.iter().rev().find_map(|end| {
        let number: f64 = text[..*end].parse().ok()?;
        number.is_finite().then(|| (number, text[*end..].trim()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_understood_in_the_ways_that_people_write_them() {
        for (text, bits, seconds) in [
            ("", 1.0, 1.0),
            ("unitless", 1.0, 1.0),
            ("bit/s", 1.0, 1.0),
            ("bps", 1.0, 1.0),
            ("kbps", 1e3, 1.0),
            ("Kbit/s", 1e3, 1.0),
            ("kb/s", 1e3, 1.0),
            ("kB/s", 8e3, 1.0),
            ("MBps", 8e6, 1.0),
            ("MBITPERSEC", 1e6, 1.0),
            ("bits per second", 1.0, 1.0),
            ("Gbit/s", 1e9, 1.0),
            ("10Gbit/s", 1e10, 1.0),
            ("2.5 Tbps", 2.5e12, 1.0),
            ("1e3 bit/s", 1e3, 1.0),
            ("100 bytes / 5 min", 800.0, 300.0),
            ("100B/5min", 800.0, 300.0),
            ("byte/h", 8.0, 3600.0),
        ] {
            assert_eq!(text.parse::<RateUnit>().unwrap(), RateUnit { bits, seconds }, "{text}");
        }
        for text in [
            "furlong",
            "kbit",
            "xbit/s",
            "bit/",
            "0 bit/s",
            "-1 bit/s",
            "bit/0 s",
            "inf bit/s",
            "é/s",
            "1é/é",
        ] {
            assert_eq!(text.parse::<RateUnit>().unwrap_err().code(), "format_unit", "{text}");
        }
    }

    #[test]
    fn a_unit_that_is_printed_reads_as_itself() {
        for unit in [RateUnit::BIT, RateUnit::TERABIT, RateUnit::HUNDRED_BYTES_PER_FIVE_MINUTES] {
            assert_eq!(unit.to_string().parse::<RateUnit>().unwrap(), unit);
        }
        assert_eq!(RateUnit::HUNDRED_BYTES_PER_FIVE_MINUTES.to_string(), "800 bit / 300 s");
    }

    #[test]
    fn a_capacity_may_carry_its_number() {
        assert_eq!(parse_rate("10Gbit/s").unwrap(), BitRate::gigabits_per_second(10.0));
        assert_eq!(parse_rate("fast").unwrap_err().code(), "format_unit");
    }

    #[test]
    fn powers_of_ten_move_the_decimal_point_without_rounding() {
        // 0.1 + 0.2 has 17 digits; as kbit/s it must come back bit by bit.
        for rate in [0.1 + 0.2, 9.92e9, 1.0 / 3.0, 5e-324, f64::MAX, 0.0] {
            for unit in [RateUnit::BIT, RateUnit::KILOBIT, RateUnit::MEGABIT, RateUnit::TERABIT] {
                assert_eq!(unit.read(&unit.print(rate)), Some(rate), "{rate} in {unit}");
            }
        }
        let odd = RateUnit::HUNDRED_BYTES_PER_FIVE_MINUTES;
        let again = odd.read(&odd.print(1e9 / 7.0)).unwrap();
        assert!((again / (1e9 / 7.0) - 1.0).abs() <= f64::EPSILON);
    }
}
