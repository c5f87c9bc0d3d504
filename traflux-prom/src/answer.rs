//! What may Prometheus answer?
//!
//! Values travel as strings (`"NaN"`, `"+Inf"` are legal), timestamps as JSON numbers, a scalar as a bare
//! pair, and a native histogram under a key of its own. All of it becomes typed values here; what a number
//! *means*, and whether it can be used, is decided where it is read.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{self, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use traflux_core::Timestamp;

/// A successful answer to one query.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// The result.
    pub value: Value,
    /// What the server warns of (partial results of a federated query).
    pub warnings: Vec<String>,
    /// What the server remarks (a counter function on something that is no counter).
    pub infos: Vec<String>,
}

impl Answer {
    /// The samples of a vector; empty for every other type.
    #[must_use]
    pub fn samples(&self) -> &[Sample] {
        match &self.value {
            Value::Vector(samples) => samples,
            Value::Matrix(_) | Value::Scalar(_) | Value::String { .. } => &[],
        }
    }
}

/// The result of a query, by type.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// One sample per series.
    Vector(Vec<Sample>),
    /// Several points per series.
    Matrix(Vec<Series>),
    /// One number without labels.
    Scalar(Point),
    /// A text.
    String {
        /// When it was evaluated.
        at: Timestamp,
        /// The text.
        text: String,
    },
}

impl Value {
    /// The name of the type as Prometheus says it.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Vector(_) => "vector",
            Self::Matrix(_) => "matrix",
            Self::Scalar(_) => "scalar",
            Self::String { .. } => "string",
        }
    }
}

/// A number at a moment of the server's clock. NaN and ±Inf are kept.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Point {
    /// When it was evaluated.
    pub at: Timestamp,
    /// The number.
    pub value: f64,
}

/// One series of a vector.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// Its labels.
    pub labels: Labels,
    /// When it was evaluated, by the server's clock. Not when it was scraped: that is `timestamp(…)`.
    pub at: Timestamp,
    /// Its value.
    pub value: SampleValue,
}

impl Sample {
    /// The number, NaN and ±Inf included; `None` for a native histogram.
    #[must_use]
    pub fn number(&self) -> Option<f64> {
        match &self.value {
            SampleValue::Number(number) => Some(*number),
            SampleValue::Histogram(_) => None,
        }
    }
}

/// What a series holds.
#[derive(Debug, Clone, PartialEq)]
pub enum SampleValue {
    /// A number.
    Number(f64),
    /// A native histogram.
    Histogram(NativeHistogram),
}

/// One series of a matrix.
#[derive(Debug, Clone, PartialEq)]
pub struct Series {
    /// Its labels.
    pub labels: Labels,
    /// Its numbers.
    pub points: Vec<Point>,
    /// Its native histograms.
    pub histograms: Vec<(Timestamp, NativeHistogram)>,
}

/// A histogram with buckets of exponential width.
#[derive(Debug, Clone, PartialEq)]
pub struct NativeHistogram {
    /// Observations.
    pub count: f64,
    /// Sum of the observed values.
    pub sum: f64,
    /// Buckets that are not empty, in rising order.
    pub buckets: Vec<NativeBucket>,
}

/// One bucket of a native histogram.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct NativeBucket {
    /// Which bounds belong to it: 0 `(lower, upper]`, 1 `[lower, upper)`, 2 neither, 3 both.
    pub boundaries: u8,
    /// Lower bound.
    pub lower: f64,
    /// Upper bound.
    pub upper: f64,
    /// Observations in it.
    pub count: f64,
}

/// Labels of a series, in the order of the answer.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Labels(Vec<(Box<str>, Box<str>)>);

impl Labels {
    /// The value of a label.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(key, _)| &**key == name).map(|(_, value)| &**value)
    }

    /// All labels.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(key, value)| (&**key, &**value))
    }
}

impl<'a> FromIterator<(&'a str, &'a str)> for Labels {
    fn from_iter<I: IntoIterator<Item = (&'a str, &'a str)>>(labels: I) -> Self {
        Self(labels.into_iter().map(|(key, value)| (key.into(), value.into())).collect())
    }
}

/// The frame around every answer of the API, good or bad.
#[derive(Deserialize)]
pub(crate) struct Envelope {
    pub(crate) status: String,
    #[serde(default)]
    pub(crate) data: Option<Data>,
    #[serde(default, rename = "errorType")]
    pub(crate) error_type: String,
    #[serde(default)]
    pub(crate) error: String,
    #[serde(default)]
    pub(crate) warnings: Vec<String>,
    #[serde(default)]
    pub(crate) infos: Vec<String>,
}

#[derive(Deserialize)]
#[serde(tag = "resultType", content = "result", rename_all = "lowercase")]
pub(crate) enum Data {
    Vector(Vec<Sample>),
    Matrix(Vec<Series>),
    Scalar(Point),
    String(Pair<String>),
}

impl From<Data> for Value {
    fn from(data: Data) -> Self {
        match data {
            Data::Vector(samples) => Self::Vector(samples),
            Data::Matrix(series) => Self::Matrix(series),
            Data::Scalar(point) => Self::Scalar(point),
            Data::String(pair) => Self::String { at: pair.0, text: pair.1 },
        }
    }
}

/// `[seconds, value]`.
pub(crate) struct Pair<T>(Timestamp, T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Pair<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (seconds, value) = <(f64, T)>::deserialize(deserializer)?;
        Ok(Self(Timestamp::from_secs_f64(seconds), value))
    }
}

/// A number in a string.
struct Number(f64);

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl Visitor<'_> for Text {
            type Value = Number;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number in a string")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Number, E> {
                // `parse` reads "NaN", "+Inf" and "-Inf" as Prometheus writes them.
                text.parse().map(Number).map_err(|_| E::invalid_value(de::Unexpected::Str(text), &self))
            }
        }
        deserializer.deserialize_str(Text)
    }
}

impl<'de> Deserialize<'de> for Point {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Pair(at, Number(value)) = Pair::deserialize(deserializer)?;
        Ok(Self { at, value })
    }
}

impl<'de> Deserialize<'de> for Labels {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Map;
        impl<'de> Visitor<'de> for Map {
            type Value = Labels;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map of labels")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Labels, A::Error> {
                let mut labels = Vec::with_capacity(map.size_hint().unwrap_or(4));
                while let Some((key, value)) = map.next_entry::<Cow<'de, str>, Cow<'de, str>>()? {
                    labels.push((key.into(), value.into()));
                }
                Ok(Labels(labels))
            }
        }
        deserializer.deserialize_map(Map)
    }
}

impl<'de> Deserialize<'de> for NativeHistogram {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct Raw {
            count: Number,
            sum: Number,
            #[serde(default)]
            buckets: Vec<NativeBucket>,
        }
        let raw = Raw::deserialize(deserializer)?;
        Ok(Self { count: raw.count.0, sum: raw.sum.0, buckets: raw.buckets })
    }
}

impl<'de> Deserialize<'de> for NativeBucket {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Tuple;
        impl<'de> Visitor<'de> for Tuple {
            type Value = NativeBucket;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("[boundaries, lower, upper, count]")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<NativeBucket, A::Error> {
                let missing = |ix| de::Error::invalid_length(ix, &self);
                let boundaries = seq.next_element()?.ok_or_else(|| missing(0))?;
                let Number(lower) = seq.next_element()?.ok_or_else(|| missing(1))?;
                let Number(upper) = seq.next_element()?.ok_or_else(|| missing(2))?;
                let Number(count) = seq.next_element()?.ok_or_else(|| missing(3))?;
                while seq.next_element::<IgnoredAny>()?.is_some() {}
                Ok(NativeBucket { boundaries, lower, upper, count })
            }
        }
        deserializer.deserialize_seq(Tuple)
    }
}

impl<'de> Deserialize<'de> for Sample {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct Raw {
            metric: Labels,
            #[serde(default)]
            value: Option<Point>,
            #[serde(default)]
            histogram: Option<Pair<NativeHistogram>>,
        }
        let raw = Raw::deserialize(deserializer)?;
        let (at, value) = match (raw.value, raw.histogram) {
            (Some(point), _) => (point.at, SampleValue::Number(point.value)),
            (None, Some(Pair(at, histogram))) => (at, SampleValue::Histogram(histogram)),
            (None, None) => return Err(de::Error::custom("a sample has neither `value` nor `histogram`")),
        };
        Ok(Self { labels: raw.metric, at, value })
    }
}

impl<'de> Deserialize<'de> for Series {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct Raw {
            metric: Labels,
            #[serde(default)]
            values: Vec<Point>,
            #[serde(default)]
            histograms: Vec<Pair<NativeHistogram>>,
        }
        let raw = Raw::deserialize(deserializer)?;
        let histograms = raw.histograms.into_iter().map(|Pair(at, histogram)| (at, histogram)).collect();
        Ok(Self { labels: raw.metric, points: raw.values, histograms })
    }
}
