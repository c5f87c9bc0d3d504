//! In which units does the gateway count money, and how are durations written in configuration?

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
    }
}
