//! What follows a failed attempt?

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::form::millis;
use super::range::{check, check_positive, in_millis};
use crate::error::PlanError;

/// Retries: which, how often, and how many more requests they may cost.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct RetryPlan {
    /// Attempts in all, the first included; 3.
    pub max_attempts: u32,
    /// Time that one attempt has until its first byte; none of its own without it.
    #[serde(rename = "per_try_timeout_ms", with = "millis::option", skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(with = "Option<f64>"))]
    pub per_try_timeout: Option<Duration>,
    /// First bound of the random wait; 50 ms.
    #[serde(rename = "base_ms", with = "millis")]
    #[cfg_attr(feature = "schema", schemars(with = "f64"))]
    pub base: Duration,
    /// Largest bound of the random wait; 2 s.
    #[serde(rename = "max_ms", with = "millis")]
    #[cfg_attr(feature = "schema", schemars(with = "f64"))]
    pub max: Duration,
    /// The longest stated wait that is sat out, rather than going elsewhere; 2 s.
    #[serde(rename = "patience_ms", with = "millis")]
    #[cfg_attr(feature = "schema", schemars(with = "f64"))]
    pub patience: Duration,
    /// What is retried; all but timeouts. What may have been acted on is repeated only where acting twice does no harm.
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
            // An internal error of one backend is worth another.
            retry_on: vec![
                RetryCause::ConnectFailure,
                RetryCause::Reset,
                RetryCause::GatewayError,
                RetryCause::ServerError,
                RetryCause::Limited,
            ],
            budget: BudgetPlan::default(),
            hedge: None,
        }
    }
}

impl RetryPlan {
    /// Checks the ranges.
    ///
    /// # Errors
    /// [`PlanError::Key`] for no attempts, a per-try timeout of zero, a base above the maximum, or a budget out of range.
    pub fn validate(&self) -> Result<(), PlanError> {
        check((1..=100).contains(&self.max_attempts), "max_attempts", self.max_attempts, "1 to 100")?;
        if let Some(timeout) = self.per_try_timeout {
            check_positive("per_try_timeout_ms", timeout)?;
        }
        let (base, max) = (in_millis(self.base), in_millis(self.max));
        check(base <= max, "base_ms", base, format_args!("at most max_ms ({max})"))?;
        self.budget.validate().map_err(|error| error.under("budget"))?;
        self.hedge.map_or(Ok(()), |hedge| hedge.validate()).map_err(|error| error.under("hedge"))
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
        let quantile = self.quantile;
        check(quantile > 0.0 && quantile < 1.0, "quantile", quantile, "more than 0, less than 1")?;
        let (min, max) = (in_millis(self.min_delay), in_millis(self.max_delay));
        check(min <= max, "min_delay_ms", min, format_args!("at most max_delay_ms ({max})"))?;
        check((1..=8).contains(&self.max_attempts), "max_attempts", self.max_attempts, "1 to 8")
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
    /// How far back requests and retries count; 10 s.
    #[serde(rename = "window_ms", with = "millis")]
    #[cfg_attr(feature = "schema", schemars(with = "f64"))]
    pub window: Duration,
    /// Retries per request; 0.2.
    pub ratio: f64,
    /// Retries per second allowed besides; 1.
    pub min_per_second: f64,
    /// Retries in flight as a share of requests in flight; 0.2.
    pub concurrency_share: f64,
    /// Retries in flight that are always allowed; 3.
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

impl BudgetPlan {
    /// Checks the ranges.
    ///
    /// # Errors
    /// [`PlanError::Key`] for a window of zero, or a ratio, share or rate that is negative or out of reason.
    pub fn validate(&self) -> Result<(), PlanError> {
        check_positive("window_ms", self.window)?;
        check((0.0..=10.0).contains(&self.ratio), "ratio", self.ratio, "0 to 10")?;
        check(
            (0.0..=1e6).contains(&self.min_per_second),
            "min_per_second",
            self.min_per_second,
            "0 to 1000000",
        )?;
        let share = self.concurrency_share;
        check((0.0..=10.0).contains(&share), "concurrency_share", share, "0 to 10")
    }
}
