//! In which unit is this number of a gateway?
//!
//! Requests and tokens are plain `u64`; money is [`PicoDollars`], an integer, so that sums are exact; time in
//! settings is a `Duration` written in milliseconds.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Money: 10⁻¹² US dollars. A token at $0.10 per million costs 100,000; the most is $18.4 million.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PicoDollars(pub u64);

impl PicoDollars {
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

/// A `Duration` written as whole milliseconds: `#[serde(with = "units::millis", rename = "..._ms")]`.
pub(crate) mod millis {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer};

    pub(crate) fn serialize<S: Serializer>(value: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(u64::try_from(value.as_millis()).unwrap_or(u64::MAX))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        u64::deserialize(deserializer).map(Duration::from_millis)
    }
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
