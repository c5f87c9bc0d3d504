//! In which unit is this number?
//!
//! Every public quantity with a dimension is a newtype over `f64` in one base unit, finite and not
//! negative by construction. Conversion happens where data enters; the inside of the loop never converts.

use std::fmt;
use std::ops::{Add, AddAssign, Div, Mul};
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A number that is not a valid quantity: NaN, infinite or negative.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
#[error("{quantity} must be finite and not negative, got {value}")]
pub struct UnitError {
    /// What the number was meant to be.
    pub quantity: &'static str,
    /// The number.
    pub value: f64,
}

macro_rules! quantity {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, PartialOrd, Default, Serialize, Deserialize)]
        #[serde(try_from = "f64", into = "f64")]
        pub struct $name(f64);

        impl $name {
            /// Nothing.
            pub const ZERO: Self = Self(0.0);

            /// Takes a number in the base unit.
            ///
            /// # Errors
            /// [`UnitError`] when it is NaN, infinite or negative.
            pub fn new(value: f64) -> Result<Self, UnitError> {
                if value.is_finite() && value >= 0.0 {
                    Ok(Self(value + 0.0))
                } else {
                    Err(UnitError { quantity: $what, value })
                }
            }

            /// The nearest valid quantity: NaN and negative numbers become zero, infinity the largest number.
            #[must_use]
            pub fn saturating(value: f64) -> Self {
                Self(if value.is_nan() { 0.0 } else { value.clamp(0.0, f64::MAX) })
            }

            /// The number in the base unit.
            #[must_use]
            pub const fn get(self) -> f64 {
                self.0
            }

            /// The larger of two.
            #[must_use]
            pub fn max(self, other: Self) -> Self {
                Self(self.0.max(other.0))
            }

            /// The smaller of two.
            #[must_use]
            pub fn min(self, other: Self) -> Self {
                Self(self.0.min(other.0))
            }

            /// The difference, zero where `other` is larger.
            #[must_use]
            pub fn saturating_sub(self, other: Self) -> Self {
                Self((self.0 - other.0).max(0.0))
            }
        }

        impl TryFrom<f64> for $name {
            type Error = UnitError;
            fn try_from(value: f64) -> Result<Self, UnitError> {
                Self::new(value)
            }
        }

        impl From<$name> for f64 {
            fn from(value: $name) -> f64 {
                value.0
            }
        }

        impl Add for $name {
            type Output = Self;
            fn add(self, other: Self) -> Self {
                Self::saturating(self.0 + other.0)
            }
        }

        impl AddAssign for $name {
            fn add_assign(&mut self, other: Self) {
                *self = *self + other;
            }
        }

        impl std::iter::Sum for $name {
            fn sum<I: Iterator<Item = Self>>(iter: I) -> Self {
                iter.fold(Self::ZERO, Add::add)
            }
        }

        /// Scales by a dimensionless factor, saturating.
        impl Mul<f64> for $name {
            type Output = Self;
            fn mul(self, factor: f64) -> Self {
                Self::saturating(self.0 * factor)
            }
        }

        /// The ratio of two quantities, 0/0 = 0.
        impl Div for $name {
            type Output = f64;
            fn div(self, other: Self) -> f64 {
                if self.0 == 0.0 { 0.0 } else { self.0 / other.0 }
            }
        }
    };
}

quantity!(
    /// Events per second: requests for a flow or an endpoint, the resource's own unit (tokens, bytes) elsewhere.
    Rate,
    "a rate"
);
quantity!(
    /// Time that somebody waits, in seconds.
    Latency,
    "a latency"
);
quantity!(
    /// US dollars per million requests.
    UnitPrice,
    "a price per million requests"
);
quantity!(
    /// US dollars per hour, for what is paid whether it is used or not.
    HourlyPrice,
    "a price per hour"
);

quantity!(
    /// Bits per second: capacity of a link, demand between two nodes.
    BitRate,
    "a bit rate"
);

impl BitRate {
    /// `value` bits per second.
    ///
    /// # Panics
    /// When `value` is NaN, infinite or negative; see [`BitRate::new`] for data from outside.
    #[must_use]
    pub fn bits_per_second(value: f64) -> Self {
        Self::new(value).unwrap_or_else(|error| panic!("{error}"))
    }

    /// `value` gigabits (10⁹ bits) per second.
    ///
    /// # Panics
    /// When `value` is NaN, infinite or negative.
    #[must_use]
    pub fn gigabits_per_second(value: f64) -> Self {
        Self::bits_per_second(value * 1e9)
    }
}

impl Rate {
    /// `value` events per second.
    ///
    /// # Panics
    /// When `value` is NaN, infinite or negative; see [`Rate::new`] for data from outside.
    #[must_use]
    pub fn per_second(value: f64) -> Self {
        Self::new(value).unwrap_or_else(|error| panic!("{error}"))
    }
}

impl Latency {
    /// `value` milliseconds.
    ///
    /// # Panics
    /// When `value` is NaN, infinite or negative; see [`Latency::new`] for data from outside.
    #[must_use]
    pub fn millis(value: f64) -> Self {
        Self::new(value * 1e-3).unwrap_or_else(|error| panic!("{error}"))
    }

    /// The number of milliseconds.
    #[must_use]
    pub fn as_millis(self) -> f64 {
        self.0 * 1e3
    }

    /// The number of seconds.
    #[must_use]
    pub const fn as_secs(self) -> f64 {
        self.0
    }
}

impl From<Duration> for Latency {
    fn from(value: Duration) -> Self {
        Self(value.as_secs_f64())
    }
}

impl UnitPrice {
    /// `value` dollars per million requests.
    ///
    /// # Panics
    /// When `value` is NaN, infinite or negative; see [`UnitPrice::new`] for data from outside.
    #[must_use]
    pub fn per_million(value: f64) -> Self {
        Self::new(value).unwrap_or_else(|error| panic!("{error}"))
    }

    /// The price of moving `bytes_per_request` bytes at `dollars_per_gigabyte` (10⁹ bytes), saturating.
    #[must_use]
    pub fn of_egress(bytes_per_request: f64, dollars_per_gigabyte: f64) -> Self {
        // $/GB × bytes/request × 1e6 requests / 1e9 bytes.
        Self::saturating(bytes_per_request * dollars_per_gigabyte * 1e-3)
    }

    /// Dollars per request.
    #[must_use]
    pub fn per_request(self) -> f64 {
        self.0 * 1e-6
    }
}

impl HourlyPrice {
    /// `value` dollars per hour.
    ///
    /// # Panics
    /// When `value` is NaN, infinite or negative; see [`HourlyPrice::new`] for data from outside.
    #[must_use]
    pub fn per_hour(value: f64) -> Self {
        Self::new(value).unwrap_or_else(|error| panic!("{error}"))
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.1}/s", self.0)
    }
}

/// With the largest of the prefixes k, M, G, T that leaves a number of at least 1.
impl fmt::Display for BitRate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (scale, prefix) = match self.0 {
            x if x >= 1e12 => (1e-12, "T"),
            x if x >= 1e9 => (1e-9, "G"),
            x if x >= 1e6 => (1e-6, "M"),
            x if x >= 1e3 => (1e-3, "k"),
            _ => (1.0, ""),
        };
        write!(f, "{:.2} {prefix}bit/s", self.0 * scale)
    }
}

impl fmt::Display for Latency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.1} ms", self.as_millis())
    }
}

impl fmt::Display for UnitPrice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "${:.2}/1M", self.0)
    }
}

impl fmt::Display for HourlyPrice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "${:.2}/h", self.0)
    }
}

/// A moment, as time since the Unix epoch (or since the start of a simulation). Time is always an argument.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Hash, Serialize, Deserialize)]
pub struct Timestamp(Duration);

impl Timestamp {
    /// The epoch.
    pub const ZERO: Self = Self(Duration::ZERO);

    /// The moment `since_epoch` after the epoch.
    #[must_use]
    pub const fn new(since_epoch: Duration) -> Self {
        Self(since_epoch)
    }

    /// The moment `seconds` after the epoch; what is not a valid duration saturates.
    #[must_use]
    pub fn from_secs_f64(seconds: f64) -> Self {
        if seconds.is_nan() || seconds <= 0.0 {
            return Self::ZERO;
        }
        Self(Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX))
    }

    /// Time since the epoch.
    #[must_use]
    pub const fn since_epoch(self) -> Duration {
        self.0
    }

    /// Seconds since the epoch.
    #[must_use]
    pub fn as_secs_f64(self) -> f64 {
        self.0.as_secs_f64()
    }

    /// Time from `earlier` to this moment, zero when the clock went backwards.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

impl Add<Duration> for Timestamp {
    type Output = Self;
    fn add(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(duration))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantity_is_never_negative_nan_or_infinite() {
        for bad in [-1.0, f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            assert!(Rate::new(bad).is_err());
            assert!(Rate::saturating(bad).get().is_finite());
            assert!((Rate::per_second(1.0) * bad).get() >= 0.0);
        }
        assert_eq!(Rate::new(-0.0).unwrap().get().to_bits(), 0.0f64.to_bits());
    }

    #[test]
    fn twenty_kilobytes_at_nine_cents_a_gigabyte_cost_a_dollar_eighty_per_million() {
        assert!((UnitPrice::of_egress(20e3, 0.09).get() - 1.80).abs() < 1e-12);
    }

    #[test]
    fn a_clock_that_jumps_back_gives_zero_elapsed_time() {
        let now = Timestamp::from_secs_f64(10.0);
        assert_eq!(now.since(Timestamp::from_secs_f64(20.0)), Duration::ZERO);
        assert_eq!(Timestamp::from_secs_f64(f64::NAN), Timestamp::ZERO);
    }

    #[test]
    fn a_quantity_reads_from_json_only_when_it_is_valid() {
        assert_eq!(serde_json::from_str::<Rate>("12.5").unwrap(), Rate::per_second(12.5));
        assert!(serde_json::from_str::<Rate>("-1").is_err());
    }
}
