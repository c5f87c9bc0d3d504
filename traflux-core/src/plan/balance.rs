//! How do algorithms weigh what they compare?

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::form::millis;
use super::range::{check, check_positive, in_millis};
use crate::error::PlanError;

/// What the algorithms leave open; a route may say some of it otherwise ([`RouteBalancePlan`]).
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct BalancePlan {
    /// What counts as load under `least-connections`; requests.
    pub load: LoadUnit,
    /// Which latency counts; that of the whole answer.
    pub objective: Objective,
    /// How many endpoints the load-aware algorithms compare, drawn by weight, from 1 to 16; 6. Two is the classic.
    pub choices: u32,
    /// Up to this many endpoints, at most 1024, are all compared instead; 16.
    pub compare_all_up_to: u32,
    /// One of how many requests may go to an idle endpoint not heard of for a while, to see whether it got better; 256,
    /// and 0 for none.
    pub probe_one_in: u32,
    /// How long an endpoint must be silent to be worth that; 1 s.
    #[serde(rename = "probe_after_ms", with = "millis")]
    #[cfg_attr(feature = "schema", schemars(with = "f64"))]
    pub probe_after: Duration,
    /// What a failure costs, in mean latencies; 10.
    pub failure_latencies: f64,
    /// The quantile of load above which an endpoint is hot under `hot-cold`, from 0.01 to 0.999; 0.84.
    pub hot_quantile: f64,
    /// How far a tier may fall before the next helps: it takes this many times the share of its weight that is open, at
    /// most all, from 1 to 100; 1.4, so below 71 %.
    pub overprovisioning: f64,
    /// Whether sessions yield to load; yes. Under `consistent-hash` they always do.
    pub bounded: bool,
    /// The most that an endpoint takes of sessions, as a multiple of its share of what is in flight, above 1; 2. With a
    /// handful in flight at each, chance alone goes beyond 1.25 every other moment, and a session that is sent away reads
    /// its prompt anew.
    pub load_factor: f64,
    /// Slots of the table of `consistent-hash`, at least, up to 2²⁴; 65,537. Rounded up to a prime and to 100 times the
    /// endpoints.
    pub table_slots: u32,
    /// How new endpoints begin.
    pub slow_start: SlowStartPlan,
    /// What `least-cost` asks of the cheapest.
    pub least_cost: CostPlan,
    /// How latencies and errors are learned.
    pub latency: LatencyPlan,
    /// Weights under `adaptive`.
    pub adaptive: AdaptivePlan,
}

impl Default for BalancePlan {
    fn default() -> Self {
        Self {
            load: LoadUnit::default(),
            objective: Objective::default(),
            choices: 6,
            compare_all_up_to: 16,
            probe_one_in: 256,
            probe_after: Duration::from_secs(1),
            failure_latencies: 10.0,
            hot_quantile: 0.84,
            overprovisioning: 1.4,
            bounded: true,
            load_factor: 2.0,
            table_slots: 65_537,
            slow_start: SlowStartPlan::default(),
            least_cost: CostPlan::default(),
            latency: LatencyPlan::default(),
            adaptive: AdaptivePlan::default(),
        }
    }
}

impl BalancePlan {
    /// The most endpoints that are drawn and compared.
    pub const MOST_CHOICES: u32 = 16;

    /// Checks the ranges.
    ///
    /// # Errors
    /// [`PlanError::Key`] for a value out of its range.
    pub fn validate(&self) -> Result<(), PlanError> {
        within("choices", f64::from(self.choices), 1.0, f64::from(Self::MOST_CHOICES))?;
        within("compare_all_up_to", f64::from(self.compare_all_up_to), 0.0, 1024.0)?;
        within("failure_latencies", self.failure_latencies, 0.0, 1e6)?;
        within("hot_quantile", self.hot_quantile, 0.01, 0.999)?;
        within("overprovisioning", self.overprovisioning, 1.0, 100.0)?;
        within("load_factor", self.load_factor, 1.0 + 1e-6, 1e6)?;
        within("table_slots", f64::from(self.table_slots), 1.0, f64::from(1 << 24))?;
        self.slow_start.validate().map_err(|error| error.under("slow_start"))?;
        self.least_cost.validate().map_err(|error| error.under("least_cost"))?;
        self.latency.validate().map_err(|error| error.under("latency"))?;
        self.adaptive.validate().map_err(|error| error.under("adaptive"))
    }

    /// The same with what a route says otherwise.
    #[must_use]
    pub fn with(&self, route: &RouteBalancePlan) -> Self {
        let mut plan = *self;
        plan.load = route.load.unwrap_or(plan.load);
        plan.objective = route.objective.unwrap_or(plan.objective);
        plan.choices = route.choices.unwrap_or(plan.choices);
        plan.compare_all_up_to = route.compare_all_up_to.unwrap_or(plan.compare_all_up_to);
        plan.load_factor = route.load_factor.unwrap_or(plan.load_factor);
        plan.slow_start = route.slow_start.unwrap_or(plan.slow_start);
        plan.least_cost = route.least_cost.unwrap_or(plan.least_cost);
        plan.adaptive.price_exponent = route.price_exponent.unwrap_or(plan.adaptive.price_exponent);
        plan
    }
}

/// What a route says otherwise than `balance` of the plan, by the same keys.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct RouteBalancePlan {
    /// What counts as load under `least-connections`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub load: Option<LoadUnit>,
    /// Which latency counts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub objective: Option<Objective>,
    /// How many endpoints the load-aware algorithms compare.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub choices: Option<u32>,
    /// Up to this many endpoints are all compared instead.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub compare_all_up_to: Option<u32>,
    /// The most that an endpoint takes of sessions.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub load_factor: Option<f64>,
    /// How much prices count under `adaptive`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub price_exponent: Option<f64>,
    /// How new endpoints begin.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slow_start: Option<SlowStartPlan>,
    /// What `least-cost` asks of the cheapest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub least_cost: Option<CostPlan>,
}

impl RouteBalancePlan {
    /// Checks the ranges.
    ///
    /// # Errors
    /// [`PlanError::Key`] for a value out of its range.
    pub fn validate(&self) -> Result<(), PlanError> {
        BalancePlan::default().with(self).validate().map_err(|error| match error {
            PlanError::Key { path, problem } => {
                PlanError::Key { path: path.trim_start_matches("adaptive.").to_owned(), problem }
            }
            error => error,
        })
    }
}

/// What counts as load.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum LoadUnit {
    /// Requests in flight.
    #[default]
    Requests,
    /// Tokens in flight, by the estimates of requests.
    Tokens,
}

/// Which latency the algorithms that look at it make small.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Objective {
    /// To the end of the answer: time to the first token and, for each token that is expected, time per token, which of
    /// a stream counts as a quarter.
    #[default]
    Answer,
    /// To the first token, of answers that are streamed; else to the end.
    FirstToken,
}

/// Which number stands for an endpoint's time to the first token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Estimate {
    /// The mean of latencies, each divided by the root of the load that its request met.
    #[default]
    Mean,
    /// Finagle's Peak-EWMA of latencies as they are.
    Peak,
    /// A percentile of what the mean is made of.
    Percentile,
}

/// How latencies and errors are learned; one for all routes, because they share endpoints. What was learned is forgotten
/// when it changes.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct LatencyPlan {
    /// Which number stands for the time to the first token; the mean.
    pub estimate: Estimate,
    /// The percentile under `estimate: percentile`, as a share from 0.01 to 0.999; 0.9.
    pub percentile: f64,
    /// Time constant of averages; 5 s.
    #[serde(rename = "decay_ms", with = "millis")]
    #[cfg_attr(feature = "schema", schemars(with = "f64"))]
    pub decay: Duration,
    /// The most answers that a latency average remembers, at least 2; 256.
    pub samples: u32,
    /// The most answers that an error ratio remembers, at least 2; 20.
    pub error_samples: u32,
    /// Prompt tokens that take as long as everything else before the first token; 1000.
    pub prompt_base_tokens: u32,
}

impl Default for LatencyPlan {
    fn default() -> Self {
        Self {
            estimate: Estimate::default(),
            percentile: 0.9,
            decay: Duration::from_secs(5),
            samples: 256,
            error_samples: 20,
            prompt_base_tokens: 1000,
        }
    }
}

impl LatencyPlan {
    /// Checks the ranges.
    ///
    /// # Errors
    /// [`PlanError::Key`] for a value out of its range.
    pub fn validate(&self) -> Result<(), PlanError> {
        within("percentile", self.percentile, 0.01, 0.999)?;
        within("decay_ms", in_millis(self.decay), 1.0, 1e9)?;
        within("samples", f64::from(self.samples), 2.0, 1e6)?;
        within("error_samples", f64::from(self.error_samples), 2.0, 1e6)?;
        within("prompt_base_tokens", f64::from(self.prompt_base_tokens), 1.0, 1e9)
    }
}

/// What an endpoint must keep to be chosen for its price.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct CostPlan {
    /// The most latency that may be expected; 30 s.
    #[serde(rename = "latency_limit_ms", with = "millis")]
    #[cfg_attr(feature = "schema", schemars(with = "f64"))]
    pub latency_limit: Duration,
    /// The most answers that may fail, as a share; 0.2.
    pub error_limit: f64,
    /// The least share of its quota that must be left; 0.02.
    pub quota_reserve: f64,
}

impl Default for CostPlan {
    fn default() -> Self {
        Self { latency_limit: Duration::from_secs(30), error_limit: 0.2, quota_reserve: 0.02 }
    }
}

impl CostPlan {
    /// Checks the ranges.
    ///
    /// # Errors
    /// [`PlanError::Key`] for a value out of its range.
    pub fn validate(&self) -> Result<(), PlanError> {
        within("latency_limit_ms", in_millis(self.latency_limit), 0.001, 1e9)?;
        within("error_limit", self.error_limit, 0.0, 1.0)?;
        within("quota_reserve", self.quota_reserve, 0.0, 1.0)
    }
}

/// How the weight of an endpoint grows that is new or whose probe passes again:
/// `weight · max(least_share, (time / window)^(1 / aggression))`, as in Envoy. One that comes back from an ejection goes by
/// `health.breaker.ramp_ms` instead.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct SlowStartPlan {
    /// How long it takes; 0, none.
    #[serde(rename = "window_ms", with = "millis")]
    #[cfg_attr(feature = "schema", schemars(with = "f64"))]
    pub window: Duration,
    /// How it grows, from 0.01 to 100: in proportion to time with 1, the default, faster at first with more.
    pub aggression: f64,
    /// The share of the weight to begin with, from 0.001 to 1; 0.1.
    pub least_share: f64,
}

impl Default for SlowStartPlan {
    fn default() -> Self {
        Self { window: Duration::ZERO, aggression: 1.0, least_share: 0.1 }
    }
}

impl SlowStartPlan {
    /// Checks the ranges.
    ///
    /// # Errors
    /// [`PlanError::Key`] for a value out of its range.
    pub fn validate(&self) -> Result<(), PlanError> {
        within("window_ms", in_millis(self.window), 0.0, 1e9)?;
        within("aggression", self.aggression, 0.01, 100.0)?;
        within("least_share", self.least_share, 0.001, 1.0)
    }

    /// The share of its weight that an endpoint has `age` after its start.
    #[inline]
    #[must_use]
    pub fn share(&self, age: Duration) -> f64 {
        if age >= self.window {
            return 1.0;
        }
        let time = age.as_secs_f64() / self.window.as_secs_f64();
        let grown = if self.aggression == 1.0 { time } else { time.powf(1.0 / self.aggression) };
        grown.max(self.least_share).min(1.0)
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

fn within(key: &str, value: f64, least: f64, most: f64) -> Result<(), PlanError> {
    check((least..=most).contains(&value), key, value, format_args!("{least} to {most}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slow_start_grows_as_envoys_formula() {
        let ramp = SlowStartPlan { window: Duration::from_secs(60), aggression: 2.0, least_share: 0.1 };
        assert_eq!(ramp.share(Duration::ZERO), 0.1);
        assert!((ramp.share(Duration::from_secs(15)) - 0.5).abs() < 1e-12, "(1/4)^(1/2)");
        assert_eq!(ramp.share(Duration::from_secs(60)), 1.0);
        assert_eq!(SlowStartPlan::default().share(Duration::ZERO), 1.0);
    }

    #[test]
    fn a_route_changes_what_it_names() {
        let slow_start = SlowStartPlan { window: Duration::from_secs(1), ..SlowStartPlan::default() };
        let plan = BalancePlan { choices: 2, ..BalancePlan::default() };
        let route = RouteBalancePlan {
            load: Some(LoadUnit::Tokens),
            slow_start: Some(slow_start),
            price_exponent: Some(2.0),
            ..RouteBalancePlan::default()
        };
        let adaptive = AdaptivePlan { price_exponent: 2.0, ..AdaptivePlan::default() };
        assert_eq!(plan.with(&route), BalancePlan { load: LoadUnit::Tokens, slow_start, adaptive, ..plan });
    }
}
