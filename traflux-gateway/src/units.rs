//! In which unit is this number of a gateway?
//!
//! Requests and tokens are plain `u64`; money is [`PicoDollars`], an integer, so that sums are exact; time in
//! settings is a `Duration` written in milliseconds, and nanoseconds since the epoch inside.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use traflux_core::Timestamp;

pub use traflux_core::plan::form::millis;

/// Money: 10⁻¹² US dollars. A token at $0.10 per million costs 100,000; the most is $18.4 million.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PicoDollars(pub u64);

impl PicoDollars {
    /// Nothing.
    pub const ZERO: Self = Self(0);

    /// So many 10⁻¹² dollars.
    #[must_use]
    pub const fn new(pico_dollars: u64) -> Self {
        Self(pico_dollars)
    }

    /// The number of 10⁻¹² dollars.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// Whole dollars, saturating.
    #[must_use]
    pub const fn dollars(dollars: u64) -> Self {
        Self(dollars.saturating_mul(1_000_000_000_000))
    }

    /// The price of one token at so many whole micro-dollars per million tokens: one micro-dollar per million
    /// is exactly one pico-dollar each. Saturating.
    #[must_use]
    pub const fn per_token(micro_dollars_per_million: u64) -> Self {
        Self(micro_dollars_per_million)
    }

    /// This price for `count` pieces, saturating.
    #[must_use]
    pub const fn times(self, count: u64) -> Self {
        Self(self.0.saturating_mul(count))
    }

    /// In dollars, rounded to the nearest `f64`.
    #[must_use]
    pub fn as_dollars(self) -> f64 {
        self.0 as f64 * 1e-12
    }
}

/// In dollars with all twelve decimals that are not zero.
impl fmt::Display for PicoDollars {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, part) = (self.0 / 1_000_000_000_000, self.0 % 1_000_000_000_000);
        if part == 0 {
            return write!(f, "${whole}");
        }
        write!(f, "${whole}.{}", format!("{part:012}").trim_end_matches('0'))
    }
}

/// Nanoseconds since the epoch, saturating after 584 years.
#[inline]
pub(crate) fn nanos(now: Timestamp) -> u64 {
    duration_nanos(now.since_epoch())
}

/// Nanoseconds of a duration, saturating after 584 years.
#[inline]
pub(crate) fn duration_nanos(duration: Duration) -> u64 {
    duration.as_secs().saturating_mul(1_000_000_000).saturating_add(u64::from(duration.subsec_nanos()))
}

/// A uniform number in [0, 1) from 64 random bits.
#[inline]
pub(crate) fn unit_draw(draw: u64) -> f64 {
    (draw >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_million_tokens_at_ten_cents_per_million_cost_ten_cents() {
        let price = PicoDollars::per_token(100_000);
        assert_eq!(price.times(1_000_000).to_string(), "$0.1");
        assert_eq!(PicoDollars::dollars(12).to_string(), "$12");
        assert_eq!(PicoDollars(1).to_string(), "$0.000000000001");
    }
}
