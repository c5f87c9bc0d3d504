//! How much may be used, of what, by whom, and in which time?

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::form::{FromText, millis, one_or_many, text_or_map};
use super::limit_key;
use super::matching::MatchPlan;
use super::range::{check, check_positive, in_millis};
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
    /// The period; a minute. None with `calendar`, whose windows have lengths of their own.
    #[serde(default = "minute", rename = "period_ms", with = "millis")]
    #[cfg_attr(feature = "schema", schemars(with = "f64"))]
    pub period: Duration,
    /// How long after a multiple of the period since 1970, in UTC, each period begins, less than the period; 0. Of
    /// `fixed_window` alone.
    #[serde(default, rename = "offset_ms", with = "millis::option", skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(with = "Option<f64>"))]
    pub offset: Option<Duration>,
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
    /// The most keys that are told apart at a time, at most 2²⁴; 10,000. Idle ones make room, and a request whose key finds
    /// none is refused. Each takes about 105 bytes from the start, each further limit of the same `by` 32. Of limits of
    /// the same `by` the largest number holds; a reload keeps what there is, and one that asks for more is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_keys: Option<u32>,
    /// Which requests; every one without it.
    #[serde(default, rename = "match", skip_serializing_if = "MatchPlan::is_any")]
    pub matches: MatchPlan,
    /// Other amounts for some keys, by the key as metrics print it: `acme`, or `acme/gpt-5` for two scopes. In all parts
    /// but the last a slash is written `\/` and a backslash `\\`; the backend is always the last part.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub overrides: BTreeMap<String, f64>,
    /// How long a request may wait for its turn; without it, one that does not fit is refused at once. Of token buckets,
    /// fixed and calendar windows, pacing and warm-up, at most a day: the others do not say whose turn is when.
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
    /// Keys that a limit tells apart where it does not say.
    pub const USUAL_MAX_KEYS: u32 = 10_000;

    /// Whether `burst` means something: for token buckets of anything but what is in flight.
    #[must_use]
    pub const fn has_burst(&self) -> bool {
        matches!(self.shape, LimitShape::TokenBucket) && !matches!(self.unit, LimitUnit::Concurrency)
    }

    /// The time in which `amount` comes: the period, or the mean length of a window of the calendar.
    #[must_use]
    pub const fn usual_period(&self) -> Duration {
        match self.shape {
            LimitShape::Calendar(calendar) => calendar.every.mean_length(),
            _ => self.period,
        }
    }

    /// Checks the periods, the number of keys and the overrides, and that each key of the plan stands where it means
    /// something.
    ///
    /// # Errors
    /// [`PlanError::Key`] for a period of zero, an override of a key that no request has, a key that another shape has,
    /// or a parameter of the shape out of range.
    pub(crate) fn validate(&self) -> Result<(), PlanError> {
        if let Some(keys) = self.max_keys {
            check(!self.by.is_empty(), "max_keys", keys, "none without `by`")?;
            check((1..=1 << 24).contains(&keys), "max_keys", keys, "1 to 16777216")?;
        }
        for key in self.overrides.keys() {
            self.check_override(key)?;
        }
        let counts_in_flight = self.unit == LimitUnit::Concurrency;
        // Concurrency has no rate, and the other shapes say themselves how much may be used at once.
        if let Some(burst) = self.burst.filter(|_| !self.has_burst()) {
            let of = if counts_in_flight { "unit: concurrency" } else { self.shape.name() };
            let expected = format_args!("none with `{of}`: only `token_bucket` has one");
            return check(false, "burst", burst, expected);
        }
        let period = in_millis(self.period);
        check(!self.period.is_zero(), "period_ms", period, "more than 0: a period of 0 ms has no rate")?;
        if let Some(offset) = self.offset {
            let of = if counts_in_flight { "unit: concurrency" } else { self.shape.name() };
            let has_one = matches!(self.shape, LimitShape::FixedWindow) && !counts_in_flight;
            let expected = format_args!("none with `{of}`: only `fixed_window` has one");
            check(has_one, "offset_ms", in_millis(offset), expected)?;
            let expected = format_args!("less than period_ms ({period})");
            check(offset < self.period, "offset_ms", in_millis(offset), expected)?;
        }
        match self.shape {
            LimitShape::WarmUp(warm_up) => warm_up.validate().map_err(|error| error.under("shape.warm_up")),
            LimitShape::Calendar(calendar) => {
                check(!counts_in_flight, "shape", "calendar", "none with `unit: concurrency`")?;
                let expected = "none with `calendar`, whose windows have lengths of their own";
                check(self.period == minute(), "period_ms", period, expected)?;
                calendar.validate().map_err(|error| error.under("shape.calendar"))
            }
            _ => Ok(()),
        }
    }

    /// Whether some request has this key.
    fn check_override(&self, key: &str) -> Result<(), PlanError> {
        let key_shown = format_args!("`{key}`");
        check(!self.by.is_empty(), "overrides", key_shown, "none without `by`")?;
        let (last, first): (Vec<_>, Vec<_>) = self.by.iter().partition(|s| **s == LimitScope::Backend);
        let names: Vec<_> = first.into_iter().chain(last).map(LimitScope::name).collect();
        let expected = format_args!("`{}`, in all but the last part `\\/` for a slash", names.join("/"));
        check(limit_key::split(key, names.len()).is_some(), "overrides", key_shown, expected)
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
    /// Periods that begin at multiples of the period since 1970, in UTC, or `offset_ms` later; up to twice the amount
    /// around a border.
    FixedWindow,
    /// Days, weeks or months of the calendar, all of the amount at the beginning of each.
    Calendar(CalendarPlan),
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
            Self::Calendar(_) => "calendar",
            Self::SlidingWindow => "sliding_window",
            Self::Pacing => "pacing",
            Self::WarmUp(_) => "warm_up",
        }
    }
}

/// Which windows of the calendar. In short, a text: `month`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema), schemars(with = "CalendarSchema"))]
pub struct CalendarPlan {
    /// What begins anew.
    pub every: CalendarWindow,
    /// How far the clock by which windows begin is ahead of UTC, in minutes, -720 to 840; 0. The same in summer and
    /// winter: a clock that is put forward in spring is not followed.
    pub utc_offset_minutes: i32,
}

/// A window of the calendar.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum CalendarWindow {
    /// From midnight to midnight.
    Day,
    /// From Monday to Monday.
    Week,
    /// From the first of a month to the first of the next.
    Month,
}

impl CalendarWindow {
    /// Its length; of months the mean over the 400 years in which the calendar repeats.
    #[must_use]
    pub const fn mean_length(self) -> Duration {
        const DAY_S: u64 = 86_400;
        Duration::from_secs(match self {
            Self::Day => DAY_S,
            Self::Week => 7 * DAY_S,
            Self::Month => 146_097 * DAY_S / 4_800,
        })
    }
}

#[derive(Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
struct CalendarForm {
    /// What begins anew.
    every: CalendarWindow,
    /// How far the clock by which windows begin is ahead of UTC, in minutes, -720 to 840; 0. The same in summer and
    /// winter: a clock that is put forward in spring is not followed.
    #[serde(default)]
    utc_offset_minutes: i32,
}

/// The schema of windows of the calendar.
#[cfg(feature = "schema")]
#[derive(schemars::JsonSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "only its schema is used")]
enum CalendarSchema {
    /// By UTC.
    Short(CalendarWindow),
    /// By another clock.
    Long(CalendarForm),
}

impl TryFrom<CalendarForm> for CalendarPlan {
    type Error = String;

    fn try_from(form: CalendarForm) -> Result<Self, String> {
        Ok(Self { every: form.every, utc_offset_minutes: form.utc_offset_minutes })
    }
}

impl FromText for CalendarPlan {
    const EXPECTED: &'static str = "`day`, `week` or `month`, or a map with `every` and `utc_offset_minutes`";

    fn from_text(text: &str) -> Result<Self, String> {
        let every = match text {
            "day" => CalendarWindow::Day,
            "week" => CalendarWindow::Week,
            "month" => CalendarWindow::Month,
            _ => return Err(format!("`{text}` is none of `day`, `week` and `month`")),
        };
        Ok(Self { every, utc_offset_minutes: 0 })
    }
}

impl<'de> Deserialize<'de> for CalendarPlan {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        text_or_map::<Self, CalendarForm, D>(deserializer)
    }
}

impl CalendarPlan {
    /// Checks the range.
    ///
    /// # Errors
    /// [`PlanError::Key`] for a clock that is nowhere on Earth.
    pub fn validate(&self) -> Result<(), PlanError> {
        let minutes = self.utc_offset_minutes;
        check((-720..=840).contains(&minutes), "utc_offset_minutes", minutes, "-720 to 840")
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

impl LimitScope {
    /// Its name, that of a header behind a colon.
    #[must_use]
    pub fn name(&self) -> Cow<'static, str> {
        Cow::Borrowed(match self {
            Self::Tenant => "tenant",
            Self::Key => "key",
            Self::User => "user",
            Self::UserTier => "user_tier",
            Self::Model => "model",
            Self::Backend => "backend",
            Self::Header(name) => return Cow::Owned(format!("header:{name}")),
        })
    }
}
