//! What can be set about balancing?

use std::time::Duration;

use serde::{Deserialize, Serialize};
use traflux_core::plan::routing::Algorithm;

use crate::error::GatewayError;
use crate::units::millis;

/// What counts as load.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LoadUnit {
    /// Requests in flight.
    #[default]
    Requests,
    /// Tokens in flight.
    Tokens,
}

/// Which number stands for an endpoint's time to first token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
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

/// How latencies and errors are learned; one for all pools, because endpoints are shared.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LatencySettings {
    /// Which number stands for the time to first token.
    pub estimate: Estimate,
    /// Time constant of averages.
    #[serde(rename = "decay_ms", with = "millis")]
    pub decay: Duration,
    /// The most answers that a latency average remembers.
    pub samples: u32,
    /// The most answers that an error ratio remembers.
    pub error_samples: u32,
    /// The percentile for [`Estimate::Percentile`], as a share in (0, 1).
    pub percentile: f32,
    /// Prompt tokens that take as long as everything else before the first token.
    pub prompt_base_tokens: u32,
}

impl Default for LatencySettings {
    fn default() -> Self {
        Self {
            estimate: Estimate::default(),
            decay: Duration::from_secs(5),
            samples: 256,
            error_samples: 20,
            percentile: 0.9,
            prompt_base_tokens: 1000,
        }
    }
}

impl LatencySettings {
    /// Checks ranges.
    ///
    /// # Errors
    /// [`GatewayError::Setting`] for a value out of range.
    pub fn validate(&self) -> Result<(), GatewayError> {
        within("decay_ms", self.decay.as_secs_f64() * 1e3, 1.0, 1e9)?;
        within("samples", f64::from(self.samples), 2.0, 1e6)?;
        within("error_samples", f64::from(self.error_samples), 2.0, 1e6)?;
        within("percentile", f64::from(self.percentile), 0.01, 0.999)?;
        within("prompt_base_tokens", f64::from(self.prompt_base_tokens), 1.0, 1e9)
    }
}

/// How a pool chooses.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BalanceSettings {
    /// The algorithm.
    pub algorithm: Algorithm,
    /// What counts as load.
    pub load: LoadUnit,
    /// How many endpoints the load-aware algorithms compare, by weight at random; two is the classic.
    pub choices: u32,
    /// Up to this many endpoints are all compared instead.
    pub compare_all_up_to: u32,
    /// One of how many requests may go to an endpoint not heard of for a while, to see whether it got
    /// better; 0 for none.
    pub probe_one_in: u32,
    /// How long an endpoint must be silent and idle to be worth a probe.
    #[serde(rename = "probe_after_ms", with = "millis")]
    pub probe_after: Duration,
    /// What a failure costs, in mean latencies of the pool.
    pub failure_latencies: f32,
    /// The quantile of load above which an endpoint is hot.
    pub hot_quantile: f32,
    /// Limits of [`Algorithm::LeastCost`].
    pub cost: CostSettings,
    /// The ramp of new and recovered endpoints.
    pub slow_start: SlowStart,
    /// Overflow between tiers: a tier takes this many times the share of its weight that is eligible, at most all
    /// (1.4: the next tier helps when less than 1/1.4 = 71 % is).
    pub overprovisioning: f32,
    /// Whether sessions yield to load, whatever the algorithm; yes. [`Algorithm::ConsistentHash`] always does.
    pub bounded: bool,
    /// Bounded load: an endpoint takes at most this many times its share of what is in flight; 2. With a handful in
    /// flight at each, chance alone goes beyond 1.25 every other moment, and a session that is sent away reads its
    /// prompt anew.
    pub load_factor: f32,
    /// Slots of a Maglev table, at least: rounded up to a prime and to 100 times the endpoints.
    pub table_slots: u32,
}

impl Default for BalanceSettings {
    fn default() -> Self {
        Self {
            algorithm: Algorithm::default(),
            load: LoadUnit::default(),
            choices: 6,
            compare_all_up_to: 16,
            probe_one_in: 256,
            probe_after: Duration::from_secs(1),
            failure_latencies: 10.0,
            hot_quantile: 0.84,
            cost: CostSettings::default(),
            slow_start: SlowStart::default(),
            overprovisioning: 1.4,
            bounded: true,
            load_factor: 2.0,
            table_slots: 65_537,
        }
    }
}

impl BalanceSettings {
    /// The defaults with another algorithm.
    #[must_use]
    pub fn of(algorithm: Algorithm) -> Self {
        Self { algorithm, ..Self::default() }
    }

    /// Checks ranges.
    ///
    /// # Errors
    /// [`GatewayError::Setting`] for a value out of range.
    pub fn validate(&self) -> Result<(), GatewayError> {
        within("choices", f64::from(self.choices), 1.0, super::choice::MOST_CHOICES as f64)?;
        within("compare_all_up_to", f64::from(self.compare_all_up_to), 0.0, 1024.0)?;
        within("failure_latencies", f64::from(self.failure_latencies), 0.0, 1e6)?;
        within("hot_quantile", f64::from(self.hot_quantile), 0.01, 0.999)?;
        within("overprovisioning", f64::from(self.overprovisioning), 1.0, 100.0)?;
        within("load_factor", f64::from(self.load_factor), 1.0 + 1e-6, 1e6)?;
        within("table_slots", f64::from(self.table_slots), 1.0, f64::from(1 << 24))?;
        self.cost.validate()?;
        self.slow_start.validate()
    }
}

/// What an endpoint must keep to be chosen for its price.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CostSettings {
    /// The most latency that may be expected.
    #[serde(rename = "latency_limit_ms", with = "millis")]
    pub latency_limit: Duration,
    /// The most answers that may fail, as a share.
    pub error_limit: f32,
    /// The least share of its quota that must be left.
    pub quota_reserve: f32,
}

impl Default for CostSettings {
    fn default() -> Self {
        Self { latency_limit: Duration::from_secs(30), error_limit: 0.2, quota_reserve: 0.02 }
    }
}

impl CostSettings {
    fn validate(&self) -> Result<(), GatewayError> {
        within("latency_limit_ms", self.latency_limit.as_secs_f64() * 1e3, 0.001, 1e9)?;
        within("error_limit", f64::from(self.error_limit), 0.0, 1.0)?;
        within("quota_reserve", f64::from(self.quota_reserve), 0.0, 1.0)
    }
}

/// How the weight of a new or recovered endpoint grows:
/// `weight · max(least_share, (time / window)^(1 / aggression))`, as in Envoy.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SlowStart {
    /// How long it takes; zero for none.
    #[serde(rename = "window_ms", with = "millis")]
    pub window: Duration,
    /// 1 grows in proportion to time, more grows faster at first.
    pub aggression: f32,
    /// The share of the weight to begin with.
    pub least_share: f32,
}

impl Default for SlowStart {
    fn default() -> Self {
        Self { window: Duration::ZERO, aggression: 1.0, least_share: 0.1 }
    }
}

impl SlowStart {
    fn validate(&self) -> Result<(), GatewayError> {
        within("window_ms", self.window.as_secs_f64() * 1e3, 0.0, 1e9)?;
        within("aggression", f64::from(self.aggression), 0.01, 100.0)?;
        within("least_share", f64::from(self.least_share), 0.001, 1.0)
    }

    /// The share of its weight that an endpoint has `age` after its start.
    #[inline]
    #[must_use]
    pub fn share(&self, age: Duration) -> f32 {
        if age >= self.window {
            return 1.0;
        }
        let time = age.as_secs_f32() / self.window.as_secs_f32();
        let grown = if self.aggression == 1.0 { time } else { time.powf(1.0 / self.aggression) };
        grown.max(self.least_share).min(1.0)
    }
}

/// Refuses what is not in `[least, most]`, or no number.
pub(crate) fn within(name: &'static str, value: f64, least: f64, most: f64) -> Result<(), GatewayError> {
    if value >= least && value <= most {
        return Ok(());
    }
    Err(GatewayError::setting(name, value, format!("{least} to {most}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_valid() {
        BalanceSettings::default().validate().unwrap();
        LatencySettings::default().validate().unwrap();
    }

    #[test]
    fn a_value_out_of_range_is_named_with_its_limits() {
        let settings = BalanceSettings { load_factor: 1.0, ..BalanceSettings::default() };
        let error = settings.validate().unwrap_err();
        assert!(
            matches!(error, GatewayError::Setting { ref setting, ref value, .. } if setting == "load_factor" && value == "1")
        );
        let nan = LatencySettings { percentile: f32::NAN, ..LatencySettings::default() };
        assert_eq!(nan.validate().unwrap_err().code(), "gateway_setting");
    }

    #[test]
    fn slow_start_grows_as_envoys_formula() {
        let ramp = SlowStart { window: Duration::from_secs(60), aggression: 2.0, least_share: 0.1 };
        assert_eq!(ramp.share(Duration::ZERO), 0.1);
        assert!((ramp.share(Duration::from_secs(15)) - 0.5).abs() < 1e-6, "(1/4)^(1/2)");
        assert_eq!(ramp.share(Duration::from_secs(60)), 1.0);
        assert_eq!(SlowStart::default().share(Duration::ZERO), 1.0);
    }
}
