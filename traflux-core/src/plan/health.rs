//! Which endpoints are left out, and when do they come back?

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::form::millis;
use super::range::{check, check_positive, in_millis};
use crate::error::PlanError;

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
    /// Share of healthy endpoints below which all are used, 0 for never; 0.2.
    pub panic_threshold: f64,
    /// Whether a probe that passes ends an ejection early; no: an endpoint may well answer its probe and fail its work.
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

impl HealthPlan {
    /// Checks the ranges.
    ///
    /// # Errors
    /// [`PlanError::Key`] for a value out of its range.
    pub fn validate(&self) -> Result<(), PlanError> {
        self.probe.validate().map_err(|error| error.under("probe"))?;
        self.outlier.validate().map_err(|error| error.under("outlier"))?;
        self.breaker.validate().map_err(|error| error.under("breaker"))?;
        let threshold = self.panic_threshold;
        check((0.0..=1.0).contains(&threshold), "panic_threshold", threshold, "a share from 0 to 1")
    }
}

/// An active health check.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct ProbePlan {
    /// What is asked; `GET /health`.
    pub probe: ProbeKind,
    /// Time between questions to a healthy endpoint; 10 s.
    #[serde(rename = "interval_ms", with = "millis")]
    #[cfg_attr(feature = "schema", schemars(with = "f64"))]
    pub interval: Duration,
    /// Time between questions to one that is unhealthy or failed last; 2 s.
    #[serde(rename = "unhealthy_interval_ms", with = "millis")]
    #[cfg_attr(feature = "schema", schemars(with = "f64"))]
    pub unhealthy_interval: Duration,
    /// Time after which no answer is a failure; 2 s.
    #[serde(rename = "timeout_ms", with = "millis")]
    #[cfg_attr(feature = "schema", schemars(with = "f64"))]
    pub timeout: Duration,
    /// Successes in a row that make it healthy; 2.
    pub healthy_threshold: u32,
    /// Failures in a row that make it unhealthy; 3.
    pub unhealthy_threshold: u32,
    /// Random stretch of each interval, as a share of it; 0.1. Keeps many gateways from asking as one.
    pub jitter: f64,
    /// Whether an endpoint may be used before its first answer; yes.
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

impl ProbePlan {
    /// Checks the ranges.
    ///
    /// # Errors
    /// [`PlanError::Key`] for an interval or timeout of zero, a threshold of zero, a jitter outside [0, 1], a path that
    /// does not begin with `/`, or a range of statuses that is none.
    pub fn validate(&self) -> Result<(), PlanError> {
        check_positive("interval_ms", self.interval)?;
        check_positive("unhealthy_interval_ms", self.unhealthy_interval)?;
        check_positive("timeout_ms", self.timeout)?;
        check(self.healthy_threshold > 0, "healthy_threshold", self.healthy_threshold, "at least 1")?;
        check(self.unhealthy_threshold > 0, "unhealthy_threshold", self.unhealthy_threshold, "at least 1")?;
        check((0.0..=1.0).contains(&self.jitter), "jitter", self.jitter, "a share from 0 to 1")?;
        if let ProbeKind::Http { path, expected_statuses, .. } = &self.probe {
            check(path.starts_with('/'), "probe.path", format_args!("`{path}`"), "a path beginning with /")?;
            for (ix, (first, last)) in expected_statuses.iter().enumerate() {
                let holds = *first >= 100 && first <= last && *last <= 599;
                let key = format!("probe.expected_statuses[{ix}]");
                check(holds, &key, format_args!("{first} to {last}"), "a range within 100 to 599")?;
            }
        }
        Ok(())
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

impl ProbeKind {
    /// Whether an HTTP status is one of those expected.
    #[must_use]
    pub fn expects(&self, status: u16) -> bool {
        match self {
            Self::Http { expected_statuses, .. } if !expected_statuses.is_empty() => {
                expected_statuses.iter().any(|(first, last)| (*first..=*last).contains(&status))
            }
            _ => (200..=299).contains(&status),
        }
    }
}

/// What requests show of an endpoint that behaves worse than it should.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct OutlierPlan {
    /// Failures of any kind in a row that eject, 0 for never; 5.
    pub consecutive_errors: u32,
    /// Failures in a row to reach the endpoint or what is behind it (502, 503, 504, no connection, no answer) that
    /// eject, 0 for never; 0.
    pub consecutive_gateway_errors: u32,
    /// Failures in a row without any answer that eject, 0 for never; 0.
    pub consecutive_local_failures: u32,
    /// How often rates are judged; 10 s.
    #[serde(rename = "interval_ms", with = "millis")]
    #[cfg_attr(feature = "schema", schemars(with = "f64"))]
    pub interval: Duration,
    /// Standard deviations below the mean at which a success rate stands out, 0 for never; 1.9.
    pub success_rate_stdev_factor: f64,
    /// Endpoints with enough requests below which success rates are not compared; 5.
    pub success_rate_min_endpoints: u32,
    /// Requests in the interval below which an endpoint's success rate does not count; 100.
    pub success_rate_min_requests: u32,
    /// Share of failures that ejects, in (0, 1]; above 1 for never; 0.85.
    pub failure_share: f64,
    /// Endpoints with enough requests below which failure shares are not judged; 1.
    pub failure_min_endpoints: u32,
    /// Requests in the interval below which an endpoint's failure share does not count; 20.
    pub failure_min_requests: u32,
    /// Share of endpoints that may be away at once, in [0, 1]; 0.5.
    pub max_ejected_share: f64,
    /// Whether one endpoint may be away even where that is more than the share; no.
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

impl OutlierPlan {
    /// Checks the ranges.
    ///
    /// # Errors
    /// [`PlanError::Key`] for an interval of zero, or a factor or share that is negative or not a number.
    pub fn validate(&self) -> Result<(), PlanError> {
        check_positive("interval_ms", self.interval)?;
        let factor = self.success_rate_stdev_factor;
        check((0.0..=100.0).contains(&factor), "success_rate_stdev_factor", factor, "0 to 100")?;
        let share = self.failure_share;
        check(share > 0.0 && share.is_finite(), "failure_share", share, "a share above 0")?;
        let share = self.max_ejected_share;
        check((0.0..=1.0).contains(&share), "max_ejected_share", share, "a share from 0 to 1")
    }

    /// How many of `total` endpoints may be away at once.
    #[must_use]
    pub fn max_ejected(&self, total: usize) -> usize {
        // A hair more, lest 0.3 of 10 be 2.
        let most = (self.max_ejected_share * total as f64 + 1e-9) as usize;
        most.max(usize::from(self.always_eject_one)).min(total)
    }
}

/// How an ejected endpoint is kept away and comes back.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct BreakerPlan {
    /// Length of the first ejection; 5 s.
    #[serde(rename = "base_ms", with = "millis")]
    #[cfg_attr(feature = "schema", schemars(with = "f64"))]
    pub base: Duration,
    /// The longest ejection; 5 min.
    #[serde(rename = "max_ms", with = "millis")]
    #[cfg_attr(feature = "schema", schemars(with = "f64"))]
    pub max: Duration,
    /// Time without ejection that takes one off the count; 60 s.
    #[serde(rename = "decay_ms", with = "millis")]
    #[cfg_attr(feature = "schema", schemars(with = "f64"))]
    pub decay: Duration,
    /// Trial requests at once while half open; 1.
    pub trials: u32,
    /// Trials that must pass; 2.
    pub trials_to_pass: u32,
    /// Time after which a trial that never ended no longer counts as open; 60 s.
    #[serde(rename = "trial_timeout_ms", with = "millis")]
    #[cfg_attr(feature = "schema", schemars(with = "f64"))]
    pub trial_timeout: Duration,
    /// Time in which the full share returns; 15 s.
    #[serde(rename = "ramp_ms", with = "millis")]
    #[cfg_attr(feature = "schema", schemars(with = "f64"))]
    pub ramp: Duration,
    /// Share with which the return begins, in (0, 1]; 0.1.
    pub first_share: f64,
    /// Failures in a row that end the return; 2.
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

impl BreakerPlan {
    /// Checks the ranges.
    ///
    /// # Errors
    /// [`PlanError::Key`] for a base of zero or above the maximum, a decay of zero, a number of trials or failures of
    /// zero, or a share outside (0, 1].
    pub fn validate(&self) -> Result<(), PlanError> {
        let (base, max) = (in_millis(self.base), in_millis(self.max));
        check(
            base > 0.0 && base <= max,
            "base_ms",
            base,
            format_args!("more than 0, at most max_ms ({max})"),
        )?;
        check_positive("decay_ms", self.decay)?;
        check(self.trials > 0, "trials", self.trials, "at least 1")?;
        check(self.trials_to_pass > 0, "trials_to_pass", self.trials_to_pass, "at least 1")?;
        check(self.relapse > 0, "relapse", self.relapse, "at least 1")?;
        let share = self.first_share;
        check(share > 0.0 && share <= 1.0, "first_share", share, "a share above 0, at most 1")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_that_may_be_away_is_rounded_down() {
        let of = |share, total| {
            OutlierPlan { max_ejected_share: share, ..OutlierPlan::default() }.max_ejected(total)
        };
        assert_eq!((of(0.5, 1), of(0.5, 2), of(0.5, 3), of(0.3, 10), of(1.0, 7)), (0, 1, 1, 3, 7));
    }
}
