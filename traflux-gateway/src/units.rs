//! In which units does the gateway count money, and how are durations written in configuration?
//! In which unit is this number of a gateway?
//!
//! Requests and tokens are plain `u64`; money is [`PicoDollars`], an integer, so that sums are exact; time in
//! settings is a `Duration` written in milliseconds.

use std::fmt;

use serde::{Deserialize, Serialize};

/// An amount of money in 10⁻¹² dollars, so that the price of one token is an integer. At most $18.4 million.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PicoDollars(u64);

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

    /// In dollars, rounded to the nearest `f64`.
    #[must_use]
    pub fn as_dollars(self) -> f64 {
        self.0 as f64 * 1e-12
    }
}

impl fmt::Display for PicoDollars {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "${}.{:012}", self.0 / 1_000_000_000_000, self.0 % 1_000_000_000_000)
    }
}

/// A [`Duration`](std::time::Duration) as a number of milliseconds, for keys that end in `_ms`.
pub mod millis {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer, de::Error as _};

    /// Writes milliseconds, with a fraction where there is one.
    ///
    /// # Errors
    /// Those of the serializer.
    pub fn serialize<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        let whole = duration.as_millis();
        match u64::try_from(whole) {
            Ok(whole) if duration.subsec_nanos().is_multiple_of(1_000_000) => serializer.serialize_u64(whole),
            _ => serializer.serialize_f64(duration.as_secs_f64() * 1e3),
        }
    }

    /// Reads milliseconds.
    ///
    /// # Errors
    /// Where the number is negative, not finite or too large.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        let millis = f64::deserialize(deserializer)?;
        // Rounded, because 1500.001 ms is no exact number of seconds in binary.
        let nanos = (millis * 1e6).round();
        if !(0.0..1.8e19).contains(&nanos) {
            return Err(D::Error::custom(format!("duration is {millis} ms, expected 0 to 1.8e13")));
        }
        Ok(Duration::from_nanos(nanos as u64))
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
    use std::time::Duration;

    use super::*;

    #[derive(Serialize, Deserialize, PartialEq, Debug)]
    struct Wait {
        #[serde(with = "millis")]
        wait_ms: Duration,
    }

    #[test]
    fn a_duration_goes_through_milliseconds_and_back() {
        for nanos in [0, 1_000_000, 1_500_000, 86_400_000_000_000, 123_456_789] {
            let wait = Wait { wait_ms: Duration::from_nanos(nanos) };
            let text = serde_json::to_string(&wait).unwrap();
            assert_eq!(serde_json::from_str::<Wait>(&text).unwrap(), wait, "{text}");
        }
        assert_eq!(
            serde_json::to_string(&Wait { wait_ms: Duration::from_secs(2) }).unwrap(),
            r#"{"wait_ms":2000}"#
        );
        assert!(serde_json::from_str::<Wait>(r#"{"wait_ms":-1}"#).is_err());
    }

    #[test]
    fn money_is_written_exactly() {
        assert_eq!(PicoDollars::new(1_000_000_000_001).to_string(), "$1.000000000001");
        assert_eq!(PicoDollars::new(2_500_000_000_000).as_dollars(), 2.5);
    use super::*;

    #[test]
    fn a_million_tokens_at_ten_cents_per_million_cost_ten_cents() {
        let price = PicoDollars::per_token(100_000);
        assert_eq!(price.times(1_000_000).to_string(), "$0.1");
        assert_eq!(PicoDollars::dollars(12).to_string(), "$12");
        assert_eq!(PicoDollars(1).to_string(), "$0.000000000001");
//! How are moments and durations counted inside, and written in configuration?

use std::time::Duration;

use traflux_core::Timestamp;

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

/// Serialises a [`Duration`] as milliseconds, a fraction where it is not whole.
pub(crate) mod duration_ms {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(crate) fn serialize<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        if duration.subsec_nanos().is_multiple_of(1_000_000) {
            serializer.serialize_u64(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
        } else {
            serializer.serialize_f64(duration.as_secs_f64() * 1e3)
        }
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        let milliseconds = f64::deserialize(deserializer)?;
        Duration::try_from_secs_f64(milliseconds / 1e3)
            .map_err(|_| D::Error::custom(format!("{milliseconds} ms is not a duration")))
    }
}

/// Serialises an optional [`Duration`] as milliseconds or null.
pub(crate) mod optional_duration_ms {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer};

    #[derive(Deserialize)]
    struct Milliseconds(#[serde(with = "super::duration_ms")] Duration);

    pub(crate) fn serialize<S: Serializer>(
        duration: &Option<Duration>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        match duration {
            Some(duration) => super::duration_ms::serialize(duration, serializer),
            None => serializer.serialize_none(),
        }
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Duration>, D::Error> {
        Ok(Option::<Milliseconds>::deserialize(deserializer)?.map(|milliseconds| milliseconds.0))
    }
}
