//! How much may be used, of what, by whom, and in which time?

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::form::{millis, one_or_many};
use super::matching::MatchPlan;
use super::range::{check, check_positive};
use crate::error::PlanError;

/// A limit on the requests that match it, counted apart for each key.
///
/// Limits hold per process: two gateways grant twice as much.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct LimitPlan {
    /// Unique among the limits; a label of metrics and refusals.
    pub name: String,
    /// What is counted.
    pub unit: LimitUnit,
    /// How much: of the unit per period, or at once for `concurrency`. Dollars may be broken.
    pub amount: f64,
    /// The period.
    #[serde(default = "minute", rename = "period_ms", with = "millis")]
    #[cfg_attr(feature = "schema", schemars(with = "f64"))]
    pub period: Duration,
    /// The most that may be used at once after a rest; `amount` without it. Of `token_bucket` alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub burst: Option<f64>,
    /// How the amount is spread over time.
    #[serde(default)]
    pub shape: LimitShape,
    /// What is counted apart; everything together when empty.
    #[serde(default, deserialize_with = "one_or_many", skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(feature = "schema", schemars(with = "super::form::OneOrManySchema<LimitScope>"))]
    pub by: Vec<LimitScope>,
    /// Which requests; every one without it.
    #[serde(default, rename = "match", skip_serializing_if = "MatchPlan::is_any")]
    pub matches: MatchPlan,
    /// Other amounts for some keys, by the key as metrics print it: `acme`, or `acme/gpt-5` for two scopes. In all parts
    /// but the last a slash is written `\/` and a backslash `\\`; the backend is always the last part.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub overrides: BTreeMap<String, f64>,
    /// How long a request may wait for its turn; without it, one that does not fit is refused at once. Of token buckets,
    /// fixed windows, pacing and warm-up, at most a day: the others do not say whose turn is when.
    #[serde(
        default,
        rename = "max_wait_ms",
        with = "millis::option",
        skip_serializing_if = "Option::is_none"
    )]
    #[cfg_attr(feature = "schema", schemars(with = "Option<f64>"))]
    pub max_wait: Option<Duration>,
    /// Whether its levels are kept over a restart: by `traflux gateway` in `server.levels_file`, elsewhere by who calls
    /// the engine.
    #[serde(default)]
    pub persistent: bool,
}

impl LimitPlan {
    /// Whether `burst` means something: for token buckets of anything but what is in flight.
    #[must_use]
    pub const fn has_burst(&self) -> bool {
        matches!(self.shape, LimitShape::TokenBucket) && !matches!(self.unit, LimitUnit::Concurrency)
    }
}

const fn minute() -> Duration {
    Duration::from_secs(60)
}

/// What a limit counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum LimitUnit {
    /// Requests.
    Requests,
    /// Tokens read.
    InputTokens,
    /// Tokens written.
    OutputTokens,
    /// Tokens read and written.
    Tokens,
    /// Dollars, by the price of the backend that serves.
    Dollars,
    /// Requests in flight.
    Concurrency,
}

impl LimitUnit {
    /// Its name in configuration and metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Requests => "requests",
            Self::InputTokens => "input_tokens",
            Self::OutputTokens => "output_tokens",
            Self::Tokens => "tokens",
            Self::Dollars => "dollars",
            Self::Concurrency => "concurrency",
        }
    }
}

/// How a limit spreads its amount over time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum LimitShape {
    /// A bucket that refills steadily: in any time *w* at most burst + amount · *w* / period.
    #[default]
    TokenBucket,
    /// Periods that begin at multiples of the period since 1970, in UTC; up to twice the amount around a border.
    FixedWindow,
    /// At most the amount in any window of one period.
    SlidingWindow,
    /// Evenly spaced, one after another, those that come early waiting up to `max_wait_ms`.
    Pacing,
    /// As pacing, but slower after a rest: the rate climbs to the full one under load and falls back when idle.
    WarmUp(WarmUpPlan),
}

impl LimitShape {
    /// Its name in configuration.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::TokenBucket => "token_bucket",
            Self::FixedWindow => "fixed_window",
            Self::SlidingWindow => "sliding_window",
            Self::Pacing => "pacing",
            Self::WarmUp(_) => "warm_up",
        }
    }
}

/// How fast a paced limit warms up.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct WarmUpPlan {
    /// Time from cold to warm under full load, and from warm to cold without any; 30 s.
    #[serde(rename = "ramp_ms", with = "millis")]
    #[cfg_attr(feature = "schema", schemars(with = "f64"))]
    pub ramp: Duration,
    /// How many times as far apart requests are when cold, above 1 and at most 1000; 3.
    pub cold_factor: f64,
}

impl Default for WarmUpPlan {
    fn default() -> Self {
        Self { ramp: Duration::from_secs(30), cold_factor: 3.0 }
    }
}

impl WarmUpPlan {
    /// Checks the ranges.
    ///
    /// # Errors
    /// [`PlanError::Key`] for a time of zero or a factor out of its range.
    pub fn validate(&self) -> Result<(), PlanError> {
        check_positive("ramp_ms", self.ramp)?;
        let factor = self.cold_factor;
        check(factor > 1.0 && factor <= 1000.0, "cold_factor", factor, "more than 1, at most 1000")
    }
}

/// What a limit counts apart.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum LimitScope {
    /// The client's tenant.
    Tenant,
    /// The client's API key, by its name.
    Key,
    /// The client's user.
    User,
    /// The client's tier.
    UserTier,
    /// The model asked for.
    Model,
    /// The backend that serves.
    Backend,
    /// A header.
    Header(String),
}
