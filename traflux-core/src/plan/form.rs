//! How does a plan read what people write in short?
//!
//! `backend: a` beside `backend: [a, b]`, `path: /v1` beside `path: { exact: /v1 }`: one value or a list, a
//! text or a map. The long form is what is written back.

use std::fmt;
use std::marker::PhantomData;

use serde::de::value::{MapAccessDeserializer, SeqAccessDeserializer};
use serde::de::{Deserialize, Deserializer, Error, IntoDeserializer, MapAccess, SeqAccess, Visitor};

/// A type whose short form is a text.
pub(crate) trait FromText: Sized {
    /// What the short form means, for error messages.
    const EXPECTED: &'static str;

    /// Reads the short form.
    fn from_text(text: &str) -> Result<Self, String>;
}

/// Reads `T` from its short form or, as `Long`, from a map.
pub(crate) fn text_or_map<'de, T, Long, D>(deserializer: D) -> Result<T, D::Error>
where
    T: FromText,
    Long: Deserialize<'de> + TryInto<T, Error = String>,
    D: Deserializer<'de>,
{
    struct TextOrMap<T, Long>(PhantomData<(T, Long)>);

    impl<'de, T, Long> Visitor<'de> for TextOrMap<T, Long>
    where
        T: FromText,
        Long: Deserialize<'de> + TryInto<T, Error = String>,
    {
        type Value = T;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(T::EXPECTED)
        }

        fn visit_str<E: Error>(self, text: &str) -> Result<T, E> {
            T::from_text(text).map_err(E::custom)
        }

        fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
            Long::deserialize(MapAccessDeserializer::new(map))?.try_into().map_err(A::Error::custom)
        }
    }

    deserializer.deserialize_any(TextOrMap::<T, Long>(PhantomData))
}

/// Reads a list, or one value as a list of one.
pub(crate) fn one_or_many<'de, T, D>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    T: Deserialize<'de>,
    D: Deserializer<'de>,
{
    struct OneOrMany<T>(PhantomData<T>);

    impl<'de, T: Deserialize<'de>> Visitor<'de> for OneOrMany<T> {
        type Value = Vec<T>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("one value or a list")
        }

        fn visit_str<E: Error>(self, text: &str) -> Result<Vec<T>, E> {
            T::deserialize(text.into_deserializer()).map(|one| vec![one])
        }

        fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Vec<T>, A::Error> {
            T::deserialize(MapAccessDeserializer::new(map)).map(|one| vec![one])
        }

        fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<Vec<T>, A::Error> {
            Vec::deserialize(SeqAccessDeserializer::new(seq))
        }
    }

    deserializer.deserialize_any(OneOrMany(PhantomData))
}

/// Reads and writes a `Duration` as whole or broken milliseconds.
pub mod millis {
    use std::time::Duration;

    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    /// The longest that a plan may say: a hundred years.
    const LONGEST_MS: f64 = 100.0 * 365.0 * 86_400.0 * 1000.0;

    /// Writes milliseconds.
    ///
    /// # Errors
    /// Whatever the serialiser says.
    pub fn serialize<S: Serializer>(value: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        let whole = value.as_secs().saturating_mul(1000).saturating_add(u64::from(value.subsec_millis()));
        let broken = value.subsec_nanos() % 1_000_000;
        if broken == 0 {
            whole.serialize(serializer)
        } else {
            (whole as f64 + f64::from(broken) * 1e-6).serialize(serializer)
        }
    }

    /// Reads milliseconds.
    ///
    /// # Errors
    /// A number that is negative, not finite or beyond a hundred years.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        let millis = f64::deserialize(deserializer)?;
        if !(0.0..=LONGEST_MS).contains(&millis) {
            return Err(D::Error::custom(format!("{millis} ms is outside [0, {LONGEST_MS}]")));
        }
        // Rounded, because 1500.001 ms is no exact number of seconds in binary; apart, because whole milliseconds of
        // years and their millionth parts do not fit one `f64`.
        let broken = Duration::from_nanos((millis.fract() * 1e6).round() as u64);
        Ok(Duration::from_millis(millis.trunc() as u64) + broken)
    }

    /// The same for what may be absent.
    pub mod option {
        use std::time::Duration;

        use serde::{Deserialize, Deserializer, Serialize, Serializer};

        #[derive(Serialize, Deserialize)]
        struct Millis(#[serde(with = "super")] Duration);

        /// Writes milliseconds or nothing.
        ///
        /// # Errors
        /// Whatever the serialiser says.
        pub fn serialize<S: Serializer>(value: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
            value.map(Millis).serialize(serializer)
        }

        /// Reads milliseconds or nothing.
        ///
        /// # Errors
        /// A number that is negative, not finite or beyond a hundred years.
        pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
            Ok(Option::<Millis>::deserialize(deserializer)?.map(|millis| millis.0))
        }
    }
}

/// The schema of a short or long form.
#[cfg(feature = "schema")]
#[derive(schemars::JsonSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "only its schema is used")]
pub(crate) enum OneOrManySchema<T> {
    /// One value.
    One(T),
    /// A list.
    Many(Vec<T>),
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde::{Deserialize, Serialize};

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Millis(#[serde(with = "super::millis")] Duration);

    #[test]
    fn a_duration_that_was_written_reads_the_same_however_long() {
        for text in
            ["0", "0.1", "1500.001", "9007199254.740993", "3153599999999.1", "3153599999999", "3153600000000"]
        {
            let first: Millis = serde_json::from_str(text).unwrap_or_else(|e| panic!("{text}: {e}"));
            let json = serde_json::to_string(&first).unwrap_or_default();
            let second: Millis = serde_json::from_str(&json).unwrap_or_else(|e| panic!("{json}: {e}"));
            assert_eq!(first, second, "{text} was written as {json}");
        }
        let read = |text| serde_json::from_str::<Millis>(text).map(|millis| millis.0).ok();
        assert_eq!(read("1500.001"), Some(Duration::from_nanos(1_500_001_000)));
        assert_eq!(read("3153599999999"), Some(Duration::from_millis(3_153_599_999_999)));
        assert_eq!(read("-1"), None);
    }
}
