//! How do algorithms weigh what they compare?

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::form::millis;
use super::range::{check, check_positive};
use crate::error::PlanError;

/// Settings of the algorithms, one for all routes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct BalancePlan {
    /// Weights under `adaptive`.
    pub adaptive: AdaptivePlan,
}

impl BalancePlan {
    /// Checks the ranges.
    ///
    /// # Errors
    /// [`PlanError::Key`] for a value out of its range.
    pub fn validate(&self) -> Result<(), PlanError> {
        self.adaptive.validate().map_err(|error| error.under("adaptive"))
    }
}

/// What weights under `adaptive` follow while no controller sets them: an endpoint of weight `b`, latency `l`, error
/// ratio `e` and price `p` counts `b · (least l / l)^latency_exponent · (1 − e)^error_exponent · (least p / p)^price_exponent`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct AdaptivePlan {
    /// How much latency counts in weights, from 0 to 4; 0: every choice compares it anyway.
    pub latency_exponent: f64,
    /// How much errors count in weights, from 0 to 16; 0: every choice counts what they cost anyway.
    pub error_exponent: f64,
    /// How much the price of a typical request (1000 tokens read, 300 written) counts, from 0 (not at all) to 8; 0.5: an
    /// endpoint four times as dear as an idle other is preferred where it is more than twice as fast. An endpoint without
    /// a price counts as the cheapest.
    pub price_exponent: f64,
    /// The share of failed answers from which on an endpoint counts as dear as the dearest, in (0, 1]; 0.2. Below it its
    /// price rises in proportion: what is cheap and fails is no bargain.
    pub error_limit: f64,
    /// The most that what is observed may change a share in one update, as a share of itself, from 0.001 to 10; 0.25.
    pub step: f64,
    /// The least share, of an even one, from 0 to 1; 0.05.
    pub least_share: f64,
    /// How often weights are computed; 5 s.
    #[serde(rename = "every_ms", with = "millis")]
    #[cfg_attr(feature = "schema", schemars(with = "f64"))]
    pub every: Duration,
    /// How long weights of a controller count; 30 s.
    #[serde(rename = "fresh_for_ms", with = "millis")]
    #[cfg_attr(feature = "schema", schemars(with = "f64"))]
    pub fresh_for: Duration,
}

impl Default for AdaptivePlan {
    fn default() -> Self {
        Self {
            latency_exponent: 0.0,
            error_exponent: 0.0,
            price_exponent: 0.5,
            error_limit: 0.2,
            step: 0.25,
            least_share: 0.05,
            every: Duration::from_secs(5),
            fresh_for: Duration::from_secs(30),
        }
    }
}

impl AdaptivePlan {
    /// Checks the ranges.
    ///
    /// # Errors
    /// [`PlanError::Key`] for an exponent, step or share out of its range, or an interval of zero.
    pub fn validate(&self) -> Result<(), PlanError> {
        let within = |key, value: f64, least, most| {
            check((least..=most).contains(&value), key, value, format_args!("{least} to {most}"))
        };
        within("latency_exponent", self.latency_exponent, 0.0, 4.0)?;
        within("error_exponent", self.error_exponent, 0.0, 16.0)?;
        within("price_exponent", self.price_exponent, 0.0, 8.0)?;
        let limit = self.error_limit;
        check(limit > 0.0 && limit <= 1.0, "error_limit", limit, "a share above 0, at most 1")?;
        within("step", self.step, 0.001, 10.0)?;
        within("least_share", self.least_share, 0.0, 1.0)?;
        check_positive("every_ms", self.every)
    }
}
