//! Which limits are there, and in which unit?

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::meter::Refill;
use super::setting_error;
use crate::error::GatewayError;
use crate::units::{PicoDollars, millis};

/// What a limit counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// Requests.
    #[default]
    Requests,
    /// Tokens of the prompt.
    InputTokens,
    /// Tokens of the answer.
    OutputTokens,
    /// Tokens of prompt and answer.
    TotalTokens,
    /// Money, in 10⁻¹² dollars.
    PicoDollars,
}

/// What a request takes of each unit: an estimate when it is reserved, the truth when it is settled. An upper
/// bound as the estimate (the token limit of the answer) keeps every budget exactly; a smaller one may be exceeded
/// by what the requests in flight take beyond it, and time repays that.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Cost {
    /// Requests, as a rule one.
    pub requests: u64,
    /// Tokens of the prompt.
    pub input_tokens: u64,
    /// Tokens of the answer.
    pub output_tokens: u64,
    /// Money.
    pub price: PicoDollars,
}

impl Cost {
    /// Nothing at all.
    pub const NOTHING: Self = Self { requests: 0, input_tokens: 0, output_tokens: 0, price: PicoDollars(0) };

    /// One request without tokens or price.
    pub const REQUEST: Self = Self { requests: 1, ..Self::NOTHING };

    /// The number of one unit.
    #[inline]
    #[must_use]
    pub const fn amount(&self, unit: Unit) -> u64 {
        match unit {
            Unit::Requests => self.requests,
            Unit::InputTokens => self.input_tokens,
            Unit::OutputTokens => self.output_tokens,
            Unit::TotalTokens => self.input_tokens.saturating_add(self.output_tokens),
            Unit::PicoDollars => self.price.0,
        }
    }
}

/// How a limit counts.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum LimitRule {
    /// `amount` per period, evenly, and at most `burst` at once.
    TokenBucket {
        /// Units per period; zero never refills.
        amount: u64,
        /// Length of the period.
        #[serde(rename = "period_ms", with = "millis")]
        period: Duration,
        /// The most at once, at least 1.
        burst: u64,
    },
    /// `amount` in each aligned period. Across a boundary twice the amount may go within a moment.
    FixedWindow {
        /// Units per period.
        amount: u64,
        /// Length of the period.
        #[serde(rename = "period_ms", with = "millis")]
        period: Duration,
        /// Where periods begin, from the epoch.
        #[serde(rename = "offset_ms", with = "millis", default)]
        offset: Duration,
    },
    /// `amount` in each calendar month. Days and weeks of the calendar are a `FixedWindow` with an offset.
    CalendarMonth {
        /// Units per month.
        amount: u64,
        /// How far the clock by which months begin is ahead of UTC, in minutes, -720 to 840.
        #[serde(default)]
        utc_offset_minutes: i32,
    },
    /// `amount` in any stretch of one period; units come back up to a sixteenth of the period late.
    SlidingWindow {
        /// Units per period.
        amount: u64,
        /// Length of the period.
        #[serde(rename = "period_ms", with = "millis")]
        period: Duration,
    },
    /// `amount` per period, one after another: each takes its turn when all before it have flowed, however large it is.
    Pacing {
        /// Units per period, at least 1.
        amount: u64,
        /// Length of the period.
        #[serde(rename = "period_ms", with = "millis")]
        period: Duration,
    },
    /// As pacing, but at a rate that climbs from `amount / cold_factor` to `amount` per period within `ramp` under load,
    /// and falls back in as much idle time.
    WarmUp {
        /// Units per period when warm, at least 1.
        amount: u64,
        /// Length of the period.
        #[serde(rename = "period_ms", with = "millis")]
        period: Duration,
        /// Time from cold to warm.
        #[serde(rename = "ramp_ms", with = "millis")]
        ramp: Duration,
        /// How many times as slow it is when cold; above 1.
        cold_factor: f64,
    },
    /// `amount` at the same time: given back when the reservation ends.
    InFlight {
        /// The most at the same time.
        amount: u64,
    },
}

impl Default for LimitRule {
    /// A hundred at the same time: needs no knowledge of a rate.
    fn default() -> Self {
        Self::InFlight { amount: 100 }
    }
}

impl LimitRule {
    /// Refill and burst of the kinds that are metered.
    pub(super) fn refill(self) -> Option<(Refill, u64)> {
        match self {
            Self::TokenBucket { amount, period, burst } => {
                Some((Refill::Continuous { amount, period }, burst))
            }
            Self::FixedWindow { amount, period, offset } => {
                Some((Refill::Aligned { amount, period, offset }, amount))
            }
            Self::CalendarMonth { amount, utc_offset_minutes } => {
                Some((Refill::Monthly { amount, utc_offset_minutes }, amount))
            }
            Self::Pacing { amount, period } => Some((Refill::Continuous { amount, period }, 1)),
            Self::SlidingWindow { .. } | Self::WarmUp { .. } | Self::InFlight { .. } => None,
        }
    }
}

/// One limit.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LimitSettings {
    /// Its name: in refusals, metrics and the level store.
    pub name: String,
    /// The scope whose keys have a level each; none: one level for all.
    pub scope: Option<String>,
    /// What it counts.
    pub unit: Unit,
    /// How it counts.
    pub rule: LimitRule,
    /// How long a request may wait for its turn, see [`Limiter::reserve_ahead`](super::Limiter::reserve_ahead); of
    /// limits that fill with time alone.
    #[serde(rename = "max_wait_ms", with = "millis")]
    pub max_wait: Duration,
}

/// A kind of key: tenant, API key, model, backend.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ScopeSettings {
    /// Its name.
    pub name: String,
    /// The most keys at a time; idle ones make room. The scope takes about 105 bytes for each from the start, each of
    /// its limits but the first 32, a sliding window 168.
    pub max_keys: usize,
}

impl Default for ScopeSettings {
    fn default() -> Self {
        Self { name: String::new(), max_keys: 10_000 }
    }
}

/// All limits of a [`Limiter`](super::Limiter).
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LimiterSettings {
    /// Kinds of keys.
    pub scopes: Vec<ScopeSettings>,
    /// Limits.
    pub limits: Vec<LimitSettings>,
}

impl LimiterSettings {
    /// Checks names; rates and bursts are checked where a limiter is made.
    ///
    /// # Errors
    /// [`GatewayError::Setting`] for a name that is empty or not unique, an unknown scope, a scope without
    /// room, more than 65,535 limits or scopes, or an amount or period of zero.
    pub fn validate(&self) -> Result<(), GatewayError> {
        if self.limits.len() > usize::from(u16::MAX) {
            return Err(setting_error("", "limits", self.limits.len(), "at most 65535"));
        }
        if self.scopes.len() > usize::from(u16::MAX) {
            return Err(setting_error("", "scopes", self.scopes.len(), "at most 65535"));
        }
        let names = self.scopes.iter().map(|s| s.name.as_str());
        unique(names)?;
        unique(self.limits.iter().map(|l| l.name.as_str()))?;
        for scope in &self.scopes {
            if !(1..=1 << 24).contains(&scope.max_keys) {
                return Err(setting_error(&scope.name, "max_keys", scope.max_keys, "from 1 to 16777216"));
            }
        }
        for limit in &self.limits {
            if let Some(scope) = &limit.scope
                && !self.scopes.iter().any(|s| s.name == *scope)
            {
                return Err(setting_error(&limit.name, "scope", scope, "the name of a scope"));
            }
            if limit.max_wait > LONGEST_WAIT {
                let value = limit.max_wait.as_secs_f64() * 1e3;
                return Err(setting_error(&limit.name, "max_wait_ms", value, "at most 86400000, a day"));
            }
            match limit.rule {
                LimitRule::SlidingWindow { .. } | LimitRule::InFlight { .. } if !limit.max_wait.is_zero() => {
                    let value = limit.max_wait.as_secs_f64() * 1e3;
                    let expected = "0: a sliding window or what is in flight does not say whose turn is when";
                    return Err(setting_error(&limit.name, "max_wait_ms", value, expected));
                }
                LimitRule::SlidingWindow { amount, period } => {
                    if period.is_zero() {
                        return Err(setting_error(&limit.name, "period_ms", 0, "at least 1"));
                    }
                    positive(&limit.name, amount)?;
                }
                LimitRule::CalendarMonth { utc_offset_minutes, .. }
                    if !(-720..=840).contains(&utc_offset_minutes) =>
                {
                    let (limit, key) = (&limit.name, "utc_offset_minutes");
                    return Err(setting_error(limit, key, utc_offset_minutes, "-720 to 840"));
                }
                LimitRule::InFlight { amount }
                | LimitRule::Pacing { amount, .. }
                | LimitRule::WarmUp { amount, .. } => {
                    positive(&limit.name, amount)?;
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// The longest wait for a turn.
const LONGEST_WAIT: Duration = Duration::from_secs(86_400);

fn positive(limit: &str, amount: u64) -> Result<(), GatewayError> {
    if amount == 0 { Err(setting_error(limit, "amount", 0, "at least 1")) } else { Ok(()) }
}

fn unique<'a>(names: impl Iterator<Item = &'a str>) -> Result<(), GatewayError> {
    let mut names: Vec<_> = names.collect();
    names.sort_unstable();
    if names.first().is_some_and(|n| n.is_empty()) {
        return Err(setting_error("", "name", "empty", "a name"));
    }
    match names.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(pair) => Err(setting_error(pair[0], "name", pair[0], "a name of its own")),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_read_from_json_and_refuse_keys_they_do_not_know() {
        let text = r#"{
            "scopes": [{"name": "tenant", "max_keys": 100}],
            "limits": [
                {"name": "tpm", "scope": "tenant", "unit": "total_tokens",
                 "rule": {"token_bucket": {"amount": 100000, "period_ms": 60000, "burst": 20000}}},
                {"name": "month", "unit": "pico_dollars", "rule": {"calendar_month": {"amount": 5}}}
            ]}"#;
        let settings: LimiterSettings = serde_json::from_str(text).unwrap();
        settings.validate().unwrap();
        assert_eq!(settings.limits[0].unit, Unit::TotalTokens);
        let nowhere = text.replace(r#"{"amount": 5}"#, r#"{"amount": 5, "utc_offset_minutes": 841}"#);
        let nowhere: LimiterSettings = serde_json::from_str(&nowhere).unwrap();
        assert_eq!(
            nowhere.validate().unwrap_err().to_string(),
            "`month.utc_offset_minutes` is 841, expected -720 to 840"
        );
        let again = serde_json::to_string(&settings).unwrap();
        assert_eq!(serde_json::from_str::<LimiterSettings>(&again).unwrap(), settings);
        let wrong = text.replace("\"burst\": 20000", "\"burst\": 20000, \"bursts\": 1");
        assert!(serde_json::from_str::<LimiterSettings>(&wrong).is_err());
        let wrong: LimiterSettings =
            serde_json::from_str(&text.replace(": \"tenant\", \"unit\"", ": \"user\", \"unit\"")).unwrap();
        assert_eq!(wrong.validate().unwrap_err().code(), "gateway_setting");
    }
}
