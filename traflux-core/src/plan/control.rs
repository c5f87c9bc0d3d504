//! How does a controller move the weights of rules under `adaptive`?

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::form::millis;
use crate::bounds::GuardConfig;
use crate::error::PlanError;

/// A controller beside the engine: it observes the backends of rules under `adaptive`, forecasts demand, infers
/// capacity, and solves for the shares of least latency and price that capacity and health allow.
///
/// The words and defaults are those of the controller's own configuration.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct ControlPlan {
    /// What the controller does with its decisions.
    pub mode: ControlMode,
    /// Time between decisions.
    #[serde(rename = "interval_ms", with = "millis")]
    #[cfg_attr(feature = "schema", schemars(with = "f64"))]
    pub interval: Duration,
    /// Time over which rates and latencies are measured; best some intervals.
    #[serde(rename = "window_ms", with = "millis")]
    #[cfg_attr(feature = "schema", schemars(with = "f64"))]
    pub window: Duration,
    /// Requests per second that a backend can serve, by name. Of one that is not named half as much again is assumed
    /// as it served at most within the last hour: it is loaded further step by step, until its latency, its failures
    /// or its refusals (429) show the limit.
    pub capacity_rps: BTreeMap<String, f64>,
    /// How many backends may move at a time; those in breach move beside them. Without it all, or as many as the
    /// checkpoint was trained to choose.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub k: Option<usize>,
    /// File of a trained policy, for mode `frozen` and to be watched in mode `shadow`. Without it mode `frozen` takes
    /// the one that comes with the program.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub checkpoint: Option<String>,
    /// Utilisation of the capacity counted on that may be used freely.
    pub max_utilization: f64,
    /// What saving 10 ms on a million requests is worth, in dollars. `null`: price plays no part.
    pub usd_per_million_for_10_ms: Option<f64>,
    /// Most dollars per hour.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub budget_usd_per_hour: Option<f64>,
    /// 95th percentile of latency above which a backend that lost capacity counts as degraded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p95_limit_ms: Option<f64>,
    /// Least share of a healthy backend, so that it goes on to be measured.
    pub min_share: f64,
    /// How much a share may rise or fall per second. What is in breach is left five times as fast.
    pub step_per_s: f64,
}

/// What a controller does with its decisions.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum ControlMode {
    /// No policy: estimators, solver and guard alone. Everything may move, or the K worst where `k` is set.
    #[default]
    None,
    /// A trained policy whose parameters do not change.
    Frozen,
    /// Decides and says so, moves nothing.
    Shadow,
}

impl Default for ControlPlan {
    fn default() -> Self {
        let guard = GuardConfig::default();
        Self {
            mode: ControlMode::None,
            interval: Duration::from_secs(5),
            // Four intervals. What is read from a scrape every 15 s needs a minute; counters at hand do not.
            window: Duration::from_secs(20),
            capacity_rps: BTreeMap::new(),
            k: None,
            checkpoint: None,
            max_utilization: 0.8,
            usd_per_million_for_10_ms: Some(1.0),
            budget_usd_per_hour: None,
            p95_limit_ms: None,
            min_share: guard.min_share,
            step_per_s: guard.step_per_s,
        }
    }
}

/// The longest interval: an engine forgets weights that are not renewed for 30 s.
const LONGEST_INTERVAL: Duration = Duration::from_secs(15);

impl ControlPlan {
    /// Limits on shares and steps: the usual ones, with what the plan says.
    #[must_use]
    pub fn guard(&self) -> GuardConfig {
        GuardConfig {
            min_share: self.min_share,
            step_per_s: self.step_per_s,
            drain_per_s: (5.0 * self.step_per_s).min(1.0),
            ..GuardConfig::default()
        }
    }

    /// Checks what types cannot say; `backends` are the names that the plan knows.
    ///
    /// # Errors
    /// [`PlanError::Key`] with the path of the key, the value and its limit.
    pub(super) fn validate(&self, backends: &BTreeSet<&str>) -> Result<(), PlanError> {
        let wrong =
            |key: &str, problem: String| Err(PlanError::Key { path: format!("control.{key}"), problem });
        if !(Duration::from_millis(100)..=LONGEST_INTERVAL).contains(&self.interval) {
            return wrong("interval_ms", format!("{:?} is outside [100 ms, 15 s]", self.interval));
        }
        if self.window < self.interval || self.window > Duration::from_secs(3600) {
            return wrong("window_ms", format!("{:?} is outside [interval_ms, 1 h]", self.window));
        }
        if self.k == Some(0) {
            return wrong("k", "0 backends could never move".into());
        }
        for (name, capacity) in &self.capacity_rps {
            if !backends.contains(name.as_str()) {
                return wrong(&format!("capacity_rps.{name}"), "no backend has this name".into());
            }
            if !(*capacity > 0.0 && *capacity <= 1e9) {
                return wrong(&format!("capacity_rps.{name}"), format!("{capacity} is outside (0, 1e9]"));
            }
        }
        let numbers = [
            ("max_utilization", Some(self.max_utilization), 0.01, 1.0),
            ("usd_per_million_for_10_ms", self.usd_per_million_for_10_ms, 1e-6, 1e9),
            ("budget_usd_per_hour", self.budget_usd_per_hour, 0.0, 1e9),
            ("p95_limit_ms", self.p95_limit_ms, 0.001, 3.6e6),
        ];
        for (key, value, least, most) in numbers {
            if let Some(value) = value.filter(|value| !(least..=most).contains(value)) {
                return wrong(key, format!("{value} is outside [{least}, {most}]"));
            }
        }
        match self.guard().check() {
            Ok(()) => Ok(()),
            Err((key, value, limits)) => wrong(key, format!("{value} is outside {limits}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::requests::RequestPlan;

    fn problem(control: &str) -> Option<String> {
        let json =
            format!(r#"{{"routing": {{"default": {{"backend": ["a", "b"]}}}}, "control": {control}}}"#);
        let plan: RequestPlan = serde_json::from_str(&json).unwrap_or_else(|e| panic!("{e}"));
        plan.validate().err().map(|error| error.to_string())
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_its_path() {
        for (control, expected) in [
            (r#"{"interval_ms": 20}"#, "control.interval_ms: 20ms is outside [100 ms, 15 s]"),
            (r#"{"window_ms": 1000}"#, "control.window_ms: 1s is outside [interval_ms, 1 h]"),
            (r#"{"k": 0}"#, "control.k: 0 backends could never move"),
            (r#"{"capacity_rps": {"c": 10}}"#, "control.capacity_rps.c: no backend has this name"),
            (r#"{"capacity_rps": {"a": 0}}"#, "control.capacity_rps.a: 0 is outside (0, 1e9]"),
            (r#"{"max_utilization": 1.5}"#, "control.max_utilization: 1.5 is outside [0.01, 1]"),
            (r#"{"step_per_s": 0}"#, "control.step_per_s: 0 is outside (0, 1]"),
            (r#"{"min_share": 0.6}"#, "control.min_share: 0.6 is outside [0, 0.5]"),
        ] {
            assert_eq!(problem(control).as_deref(), Some(expected));
        }
        assert_eq!(problem(r#"{"capacity_rps": {"a": 10}, "usd_per_million_for_10_ms": null}"#), None);
    }
}
