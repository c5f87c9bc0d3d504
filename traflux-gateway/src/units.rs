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
