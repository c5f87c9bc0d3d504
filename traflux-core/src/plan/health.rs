//! Which endpoints are left out, and when do they come back?

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::form::millis;

/// Health of endpoints, by what requests show and by asking.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct HealthPlan {
    /// Questions to endpoints of routes with `health_check: true`.
    pub probe: ProbePlan,
    /// What ejects an endpoint.
    pub outlier: OutlierPlan,
    /// How it is kept away and comes back.
    pub breaker: BreakerPlan,
    /// Share of healthy endpoints below which all are used, 0 for never.
    pub panic_threshold: f64,
    /// Whether a probe that passes ends an ejection early.
    pub probe_ends_ejection: bool,
}

impl Default for HealthPlan {
    fn default() -> Self {
        Self {
            probe: ProbePlan::default(),
            outlier: OutlierPlan::default(),
            breaker: BreakerPlan::default(),
            panic_threshold: 0.2,
            probe_ends_ejection: false,
        }
    }
}

/// An active health check.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct ProbePlan {
    /// What is asked.
    pub probe: ProbeKind,
    /// Time between questions to a healthy endpoint.
    #[serde(rename = "interval_ms", with = "millis")]
    #[cfg_attr(feature = "schema", schemars(with = "f64"))]
    pub interval: Duration,
    /// Time between questions to one that is unhealthy or failed last.
    #[serde(rename = "unhealthy_interval_ms", with = "millis")]
    #[cfg_attr(feature = "schema", schemars(with = "f64"))]
    pub unhealthy_interval: Duration,
    /// Time after which no answer is a failure.
    #[serde(rename = "timeout_ms", with = "millis")]
    #[cfg_attr(feature = "schema", schemars(with = "f64"))]
    pub timeout: Duration,
    /// Successes in a row that make it healthy.
    pub healthy_threshold: u32,
    /// Failures in a row that make it unhealthy.
    pub unhealthy_threshold: u32,
    /// Random stretch of each interval, as a share of it.
    pub jitter: f64,
    /// Whether an endpoint may be used before its first answer.
    pub assume_healthy: bool,
}

impl Default for ProbePlan {
    fn default() -> Self {
        Self {
            probe: ProbeKind::Http {
                path: "/health".into(),
                method: String::new(),
                host: String::new(),
                expected_statuses: Vec::new(),
            },
            interval: Duration::from_secs(10),
            unhealthy_interval: Duration::from_secs(2),
            timeout: Duration::from_secs(2),
            healthy_threshold: 2,
            unhealthy_threshold: 3,
            jitter: 0.1,
            assume_healthy: true,
        }
    }
}

/// What a probe asks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum ProbeKind {
    /// An HTTP request.
    Http {
        /// Path and query.
        path: String,
        /// Method; `GET` when empty.
        #[serde(default)]
        method: String,
        /// Host header; the endpoint's own when empty.
        #[serde(default)]
        host: String,
        /// Statuses that count as success, as pairs of first and last; 200 to 299 when empty.
        #[serde(default)]
        expected_statuses: Vec<(u16, u16)>,
    },
    /// A TCP connection.
    Tcp,
    /// `grpc.health.v1.Health/Check`.
    Grpc {
        /// The service asked about; the whole server when empty.
        #[serde(default)]
        service: String,
    },
}

/// What requests show of an endpoint that behaves worse than it should.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct OutlierPlan {
    /// Failures of any kind in a row that eject, 0 for never.
    pub consecutive_errors: u32,
    /// Failures in a row to reach the endpoint or what is behind it that eject, 0 for never.
    pub consecutive_gateway_errors: u32,
    /// Failures in a row without any answer that eject, 0 for never.
    pub consecutive_local_failures: u32,
    /// How often rates are judged.
    #[serde(rename = "interval_ms", with = "millis")]
    #[cfg_attr(feature = "schema", schemars(with = "f64"))]
    pub interval: Duration,
    /// Standard deviations below the mean at which a success rate stands out, 0 for never.
    pub success_rate_stdev_factor: f64,
    /// Endpoints with enough requests below which success rates are not compared.
    pub success_rate_min_endpoints: u32,
    /// Requests in the interval below which an endpoint's success rate does not count.
    pub success_rate_min_requests: u32,
    /// Share of failures that ejects, in (0, 1]; above 1 for never.
    pub failure_share: f64,
    /// Endpoints with enough requests below which failure shares are not judged.
    pub failure_min_endpoints: u32,
    /// Requests in the interval below which an endpoint's failure share does not count.
    pub failure_min_requests: u32,
    /// Share of endpoints that may be away at once, in [0, 1].
    pub max_ejected_share: f64,
    /// Whether one endpoint may be away even where that is more than the share.
    pub always_eject_one: bool,
}

impl Default for OutlierPlan {
    fn default() -> Self {
        Self {
            consecutive_errors: 5,
            consecutive_gateway_errors: 0,
            consecutive_local_failures: 0,
            interval: Duration::from_secs(10),
            success_rate_stdev_factor: 1.9,
            success_rate_min_endpoints: 5,
            success_rate_min_requests: 100,
            failure_share: 0.85,
            failure_min_endpoints: 1,
            failure_min_requests: 20,
            max_ejected_share: 0.5,
            always_eject_one: false,
        }
    }
}

/// How an ejected endpoint is kept away and comes back.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct BreakerPlan {
    /// Length of the first ejection.
    #[serde(rename = "base_ms", with = "millis")]
    #[cfg_attr(feature = "schema", schemars(with = "f64"))]
    pub base: Duration,
    /// The longest ejection.
    #[serde(rename = "max_ms", with = "millis")]
    #[cfg_attr(feature = "schema", schemars(with = "f64"))]
    pub max: Duration,
    /// Time without ejection that takes one off the count.
    #[serde(rename = "decay_ms", with = "millis")]
    #[cfg_attr(feature = "schema", schemars(with = "f64"))]
    pub decay: Duration,
    /// Trial requests at once while half open.
    pub trials: u32,
    /// Trials that must pass.
    pub trials_to_pass: u32,
    /// Time after which a trial that never ended no longer counts as open.
    #[serde(rename = "trial_timeout_ms", with = "millis")]
    #[cfg_attr(feature = "schema", schemars(with = "f64"))]
    pub trial_timeout: Duration,
    /// Time in which the full share returns.
    #[serde(rename = "ramp_ms", with = "millis")]
    #[cfg_attr(feature = "schema", schemars(with = "f64"))]
    pub ramp: Duration,
    /// Share with which the return begins, in (0, 1].
    pub first_share: f64,
    /// Failures in a row that end the return.
    pub relapse: u32,
}

impl Default for BreakerPlan {
    fn default() -> Self {
        Self {
            base: Duration::from_secs(5),
            max: Duration::from_secs(300),
            decay: Duration::from_secs(60),
            trials: 1,
            trials_to_pass: 2,
            trial_timeout: Duration::from_secs(60),
            ramp: Duration::from_secs(15),
            first_share: 0.1,
            relapse: 2,
        }
    }
}
