//! What follows a failed attempt?

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::form::millis;
use crate::error::PlanError;

/// Retries: which, how often, and how many more requests they may cost.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct RetryPlan {
    /// Attempts in all, the first included.
    pub max_attempts: u32,
    /// Time that one attempt has until its first byte; none of its own without it.
    #[serde(rename = "per_try_timeout_ms", with = "millis::option", skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(with = "Option<f64>"))]
    pub per_try_timeout: Option<Duration>,
    /// First bound of the random wait.
    #[serde(rename = "base_ms", with = "millis")]
    #[cfg_attr(feature = "schema", schemars(with = "f64"))]
    pub base: Duration,
    /// Largest bound of the random wait.
    #[serde(rename = "max_ms", with = "millis")]
    #[cfg_attr(feature = "schema", schemars(with = "f64"))]
    pub max: Duration,
    /// The longest stated wait that is sat out, rather than going elsewhere.
    #[serde(rename = "patience_ms", with = "millis")]
    #[cfg_attr(feature = "schema", schemars(with = "f64"))]
    pub patience: Duration,
    /// What is retried.
    pub retry_on: Vec<RetryCause>,
    /// What retries and hedges may cost.
    pub budget: BudgetPlan,
    /// Second attempts while the first still runs; none without it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hedge: Option<HedgePlan>,
}

impl Default for RetryPlan {
    fn default() -> Self {
        Self {
            max_attempts: 3,
            per_try_timeout: None,
            base: Duration::from_millis(50),
            max: Duration::from_secs(2),
            patience: Duration::from_secs(2),
            retry_on: vec![
                RetryCause::ConnectFailure,
                RetryCause::Reset,
                RetryCause::GatewayError,
                RetryCause::Limited,
            ],
            budget: BudgetPlan::default(),
            hedge: None,
        }
    }
}

/// When a second attempt is sent while the first still runs; the first to answer wins. Only for requests that may be
/// acted on twice: idempotent methods, those with an idempotency key, and models asked for text.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct HedgePlan {
    /// A fixed delay; goes before the quantile.
    #[serde(rename = "delay_ms", with = "millis::option", skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(with = "Option<f64>"))]
    pub delay: Option<Duration>,
    /// Quantile of times to the first byte after which an attempt counts as late, in (0, 1).
    pub quantile: f64,
    /// The shortest delay by the quantile.
    #[serde(rename = "min_delay_ms", with = "millis")]
    #[cfg_attr(feature = "schema", schemars(with = "f64"))]
    pub min_delay: Duration,
    /// The longest delay by the quantile.
    #[serde(rename = "max_delay_ms", with = "millis")]
    #[cfg_attr(feature = "schema", schemars(with = "f64"))]
    pub max_delay: Duration,
    /// The delay until enough first bytes were seen.
    #[serde(rename = "initial_delay_ms", with = "millis")]
    #[cfg_attr(feature = "schema", schemars(with = "f64"))]
    pub initial_delay: Duration,
    /// Attempts at once, the first included, from 1 to 8.
    pub max_attempts: u32,
}

impl Default for HedgePlan {
    fn default() -> Self {
        Self {
            delay: None,
            quantile: 0.95,
            min_delay: Duration::from_millis(50),
            max_delay: Duration::from_secs(30),
            initial_delay: Duration::from_secs(2),
            max_attempts: 2,
        }
    }
}

impl HedgePlan {
    /// Checks the ranges.
    ///
    /// # Errors
    /// [`PlanError::Key`] for a quantile outside (0, 1), delays out of order, or a number of attempts outside 1 to 8.
    pub fn validate(&self) -> Result<(), PlanError> {
        let wrong =
            |key: &str, problem: String| Err(PlanError::Key { path: format!("retry.hedge.{key}"), problem });
        if !(self.quantile > 0.0 && self.quantile < 1.0) {
            return wrong("quantile", format!("{} is outside (0, 1)", self.quantile));
        }
        if self.min_delay > self.max_delay {
            return wrong(
                "min_delay_ms",
                format!("{:?} is above max_delay_ms {:?}", self.min_delay, self.max_delay),
            );
        }
        if !(1..=8).contains(&self.max_attempts) {
            return wrong("max_attempts", format!("{} is outside 1 to 8", self.max_attempts));
        }
        Ok(())
    }
}

/// How an attempt ended that may be repeated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum RetryCause {
    /// Refused for lack of capacity or quota: 429, 529, 503 with `Retry-After`.
    Limited,
    /// The backend failed: 5xx but for the next.
    ServerError,
    /// A proxy could not reach what is behind it: 502, 503, 504.
    GatewayError,
    /// No connection: refused, unreachable, TLS failure.
    ConnectFailure,
    /// The connection broke before the answer was complete.
    Reset,
    /// No answer in time.
    Timeout,
}

/// Two bounds on retries, both of which hold.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct BudgetPlan {
    /// How far back requests and retries count.
    #[serde(rename = "window_ms", with = "millis")]
    #[cfg_attr(feature = "schema", schemars(with = "f64"))]
    pub window: Duration,
    /// Retries per request.
    pub ratio: f64,
    /// Retries per second allowed besides.
    pub min_per_second: f64,
    /// Retries in flight as a share of requests in flight.
    pub concurrency_share: f64,
    /// Retries in flight that are always allowed.
    pub min_concurrency: u32,
}

impl Default for BudgetPlan {
    fn default() -> Self {
        Self {
            window: Duration::from_secs(10),
            ratio: 0.2,
            min_per_second: 1.0,
            concurrency_share: 0.2,
            min_concurrency: 3,
        }
    }
}
