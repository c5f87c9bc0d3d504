//! Which parameters may change while the controller runs?

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};

use super::command::CommandError;
use crate::config::{Config, ConfigError};

/// Parameters that may change while the controller runs; what is not set stays. `null` sets a parameter that
/// may be without a value back to none.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ParameterPatch {
    /// How many endpoints a policy may choose; `null`: as when `policy.k` is not set.
    #[serde(deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    pub k: Option<Option<usize>>,
    /// Utilisation that may be used freely, in [0.05, 1].
    pub max_utilization: Option<f64>,
    /// What saving 10 ms on a million requests is worth, in dollars; `null`: price plays no part.
    #[serde(deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    pub usd_per_million_for_10_ms: Option<Option<f64>>,
    /// Most dollars per hour of marginal price; `null`: no limit.
    #[serde(deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    pub budget_usd_per_hour: Option<Option<f64>>,
    /// Milliseconds of latency that one failed request is worth.
    pub error_ms: Option<f64>,
    /// Milliseconds of latency that moving one request is worth.
    pub churn_ms: Option<f64>,
    /// Least demand headroom.
    pub headroom: Option<f64>,
    /// Least share of a healthy endpoint.
    pub min_share: Option<f64>,
    /// Greatest share of any endpoint.
    pub max_share: Option<f64>,
    /// Share that an endpoint in breach keeps.
    pub probe_share: Option<f64>,
    /// Fraction of endpoints below which health is taken for a fault of the measurement.
    pub min_healthy: Option<f64>,
    /// How much a share may move per second.
    pub step_per_s: Option<f64>,
    /// Learning rate; needs a policy that learns.
    pub learning_rate: Option<f64>,
}

/// The parameters in force.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct Parameters {
    /// How many endpoints a policy may choose; `null`: all.
    pub k: Option<usize>,
    /// Utilisation that may be used freely.
    pub max_utilization: f64,
    /// What saving 10 ms on a million requests is worth, in dollars; `null`: price plays no part.
    pub usd_per_million_for_10_ms: Option<f64>,
    /// Most dollars per hour of marginal price; `null`: no limit.
    pub budget_usd_per_hour: Option<f64>,
    /// Milliseconds of latency that one failed request is worth.
    pub error_ms: f64,
    /// Milliseconds of latency that moving one request is worth.
    pub churn_ms: f64,
    /// Least demand headroom.
    pub headroom: f64,
    /// Least share of a healthy endpoint.
    pub min_share: f64,
    /// Greatest share of any endpoint.
    pub max_share: f64,
    /// Share that an endpoint in breach keeps.
    pub probe_share: f64,
    /// Fraction of endpoints below which health is taken for a fault of the measurement.
    pub min_healthy: f64,
    /// How much a share may move per second.
    pub step_per_s: f64,
    /// Learning rate; `null` without a policy that learns.
    pub learning_rate: Option<f64>,
}

impl Parameters {
    /// The parameters of a configuration. How many endpoints may be chosen and how fast is learned is known to
    /// the policy alone.
    pub(super) fn of(config: &Config, k: Option<usize>, learning_rate: Option<f64>) -> Self {
        let objective = &config.objective;
        let guard = &config.control.guard;
        Self {
            k,
            max_utilization: objective.max_utilization,
            usd_per_million_for_10_ms: objective.usd_per_million_for_10_ms,
            budget_usd_per_hour: objective.budget_usd_per_hour,
            error_ms: objective.error_ms,
            churn_ms: objective.churn_ms,
            headroom: objective.headroom,
            min_share: guard.min_share,
            max_share: guard.max_share,
            probe_share: guard.probe_share,
            min_healthy: guard.min_healthy,
            step_per_s: guard.step_per_s,
            learning_rate,
        }
    }
}

impl ParameterPatch {
    /// The configuration with all of the patch.
    ///
    /// # Errors
    /// [`CommandError::Invalid`] for the first value that is out of its limits.
    pub(super) fn applied_to(&self, config: &Config) -> Result<Config, CommandError> {
        fn set<T: Copy>(target: &mut T, value: Option<T>) {
            if let Some(value) = value {
                *target = value;
            }
        }
        let mut config = config.clone();
        let objective = &mut config.objective;
        set(&mut objective.max_utilization, self.max_utilization);
        set(&mut objective.usd_per_million_for_10_ms, self.usd_per_million_for_10_ms);
        set(&mut objective.budget_usd_per_hour, self.budget_usd_per_hour);
        set(&mut objective.error_ms, self.error_ms);
        set(&mut objective.churn_ms, self.churn_ms);
        set(&mut objective.headroom, self.headroom);
        let guard = &mut config.control.guard;
        set(&mut guard.min_share, self.min_share);
        set(&mut guard.max_share, self.max_share);
        set(&mut guard.probe_share, self.probe_share);
        set(&mut guard.min_healthy, self.min_healthy);
        set(&mut guard.step_per_s, self.step_per_s);
        set(&mut config.policy.k, self.k);
        set(&mut config.policy.learning_rate, self.learning_rate);
        config.check_replaced().map_err(|problem| invalid("parameters", problem))?;
        Ok(config)
    }
}

/// A refusal that names the key of the configuration, or else what was asked for.
pub(super) fn invalid(what: &str, problem: ConfigError) -> CommandError {
    match problem {
        ConfigError::Key { path, problem } => CommandError::Invalid { key: path, problem },
        other => CommandError::Invalid { key: what.to_owned(), problem: other.to_string() },
    }
}

/// Reads a value that is there, `null` included: what is left out does not come here.
fn given<'de, T: Deserialize<'de>, D: Deserializer<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn config() -> Config {
        Config::parse(
            "sources: [{ name: eu }]\n\
             services: [{ name: s, endpoints: [{ name: a, address: \"10.0.0.1:80\", capacity_rps: 1 }] }]\n\
             metrics: { prometheus: { url: \"http://127.0.0.1:9\" } }\n",
        )
        .unwrap()
    }

    #[test]
    fn every_parameter_of_the_loop_reaches_the_controller_and_is_read_back() {
        for (key, value) in [
            ("max_utilization", json!(0.7)),
            ("usd_per_million_for_10_ms", json!(5.0)),
            ("budget_usd_per_hour", json!(12.0)),
            ("error_ms", json!(900.0)),
            ("churn_ms", json!(7.0)),
            ("headroom", json!(0.3)),
            ("min_share", json!(0.02)),
            ("max_share", json!(0.9)),
            ("probe_share", json!(0.03)),
            ("min_healthy", json!(0.5)),
            ("step_per_s", json!(0.05)),
        ] {
            let patch: ParameterPatch = serde_json::from_value(json!({ key: value })).unwrap();
            let before = config();
            let after = patch.applied_to(&before).unwrap();
            assert_ne!(after.control(), before.control(), "{key}");
            let read = serde_json::to_value(Parameters::of(&after, None, None)).unwrap();
            assert_eq!(read[key], value, "{key}");
        }
    }

    #[test]
    fn null_takes_a_value_away_and_silence_keeps_it() {
        let set: ParameterPatch =
            serde_json::from_value(json!({ "budget_usd_per_hour": 12, "k": 3 })).unwrap();
        let with = set.applied_to(&config()).unwrap();
        let kept = ParameterPatch::default().applied_to(&with).unwrap();
        assert_eq!((kept.objective.budget_usd_per_hour, kept.policy.k), (Some(12.0), Some(3)));
        let clear = json!({ "budget_usd_per_hour": null, "usd_per_million_for_10_ms": null, "k": null });
        let clear: ParameterPatch = serde_json::from_value(clear).unwrap();
        let without = clear.applied_to(&with).unwrap();
        assert_eq!(without.control().assemble.objective.budget_per_hour, None);
        assert_eq!(without.control().assemble.objective.seconds_per_dollar, 0.0);
        assert_eq!(without.policy.k, None);
    }

    #[test]
    fn a_value_out_of_its_limits_is_refused_with_its_key() {
        let patch = ParameterPatch { min_healthy: Some(1.5), ..ParameterPatch::default() };
        let refused = patch.applied_to(&config()).unwrap_err();
        assert_eq!(refused.to_string(), "control.guard.min_healthy: 1.5 is outside [0, 1]");
    }
}
