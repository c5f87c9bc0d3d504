//! Which endpoint behaves worse than it should?
//!
//! Passive outlier detection after Envoy's: errors in a row are judged at once; every `interval`, so are the
//! success rates of endpoints with enough requests, against each other (below
//! `mean − stdev_factor · standard deviation`) and against a fixed share of failures.
//!
//! Defaults differ from Envoy's where those presume large clusters: at most half the endpoints are away (Envoy:
//! a tenth, which of two or three endpoints ejects none), and failure shares are judged from one endpoint and
//! 20 requests on (Envoy: off; 5 and 50).

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::error::{GatewayError, check};
use crate::outcome::Outcome;
use crate::units::duration_ms;

/// Parameters of outlier detection.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OutlierSettings {
    /// Failures of any kind in a row that eject, 0 for never; 5.
    pub consecutive_errors: u32,
    /// Failures in a row to reach the endpoint or what is behind it (502, 503, 504, no connection, no answer)
    /// that eject, 0 for never; 0.
    pub consecutive_gateway_errors: u32,
    /// Failures in a row without any answer that eject, 0 for never; 0.
    pub consecutive_local_failures: u32,
    /// How often rates are judged; 10 s.
    #[serde(rename = "interval_ms", with = "duration_ms")]
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

impl Default for OutlierSettings {
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

impl OutlierSettings {
    /// Checks the ranges.
    ///
    /// # Errors
    /// [`GatewayError::Setting`] for an interval of zero, or a factor or share that is negative or not
    /// a number.
    pub fn validate(&self) -> Result<(), GatewayError> {
        check(!self.interval.is_zero(), "interval_ms", self.interval, "more than 0")?;
        let factor = self.success_rate_stdev_factor;
        check((0.0..=100.0).contains(&factor), "success_rate_stdev_factor", factor, "from 0 to 100")?;
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

/// Why an endpoint was ejected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EjectionCause {
    /// Failures of any kind in a row.
    ConsecutiveErrors,
    /// Failures in a row to reach it.
    ConsecutiveGatewayErrors,
    /// Failures in a row without an answer.
    ConsecutiveLocalFailures,
    /// A success rate far below that of the others.
    SuccessRate,
    /// A share of failures above the limit.
    FailureShare,
    /// A trial failed, or it failed again while returning.
    Relapse,
}

impl EjectionCause {
    /// Its name in metrics and logs.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::ConsecutiveErrors => "consecutive_errors",
            Self::ConsecutiveGatewayErrors => "consecutive_gateway_errors",
            Self::ConsecutiveLocalFailures => "consecutive_local_failures",
            Self::SuccessRate => "success_rate",
            Self::FailureShare => "failure_share",
            Self::Relapse => "relapse",
        }
    }
}

/// What one endpoint did lately. On a cache line of its own, for neighbours are written by other threads.
/// Relaxed: the numbers are statistics, and a row of errors broken by a success on another thread at the same
/// moment may be seen either way.
#[derive(Debug, Default)]
#[repr(align(64))]
pub(crate) struct Watch {
    errors: AtomicU32,
    gateway: AtomicU32,
    local: AtomicU32,
    /// Requests in the upper half, successes in the lower.
    window: AtomicU64,
}

const ONE_REQUEST: u64 = 1 << 32;

impl Watch {
    /// Takes in the end of a request; tells when errors in a row call for ejection.
    #[inline]
    pub(crate) fn record(&self, settings: &OutlierSettings, outcome: Outcome) -> Option<EjectionCause> {
        if outcome.is_healthy() {
            if self.errors.load(Ordering::Relaxed) != 0 {
                self.forget_rows();
            }
            self.window.fetch_add(ONE_REQUEST + 1, Ordering::Relaxed);
            None
        } else if outcome.is_failure() {
            self.fail(settings, outcome)
        } else {
            None
        }
    }

    #[cold]
    fn fail(&self, settings: &OutlierSettings, outcome: Outcome) -> Option<EjectionCause> {
        self.window.fetch_add(ONE_REQUEST, Ordering::Relaxed);
        let row = |counter: &AtomicU32, counts: bool, most: u32| {
            if !counts {
                counter.store(0, Ordering::Relaxed);
                return false;
            }
            let row = counter.fetch_add(1, Ordering::Relaxed).saturating_add(1);
            most > 0 && row >= most
        };
        let local = outcome.is_local_origin();
        let gateway = local || outcome == Outcome::GatewayError;
        let by_local = row(&self.local, local, settings.consecutive_local_failures);
        let by_gateway = row(&self.gateway, gateway, settings.consecutive_gateway_errors);
        let by_errors = row(&self.errors, true, settings.consecutive_errors);
        if by_local {
            Some(EjectionCause::ConsecutiveLocalFailures)
        } else if by_gateway {
            Some(EjectionCause::ConsecutiveGatewayErrors)
        } else if by_errors {
            Some(EjectionCause::ConsecutiveErrors)
        } else {
            None
        }
    }

    pub(crate) fn forget_rows(&self) {
        self.errors.store(0, Ordering::Relaxed);
        self.gateway.store(0, Ordering::Relaxed);
        self.local.store(0, Ordering::Relaxed);
    }

    /// Requests and successes since the last call.
    pub(crate) fn take_window(&self) -> (u32, u32) {
        let window = self.window.swap(0, Ordering::Relaxed);
        ((window >> 32) as u32, window as u32)
    }
}

/// Judges the windows of all endpoints, and calls `eject` for those that stand out, worst first.
pub(crate) fn judge(
    settings: &OutlierSettings,
    windows: &[(u32, u32)],
    mut eject: impl FnMut(usize, EjectionCause),
) {
    let rates = |least: u32| {
        windows
            .iter()
            .enumerate()
            .filter(move |(_, (requests, _))| *requests >= least.max(1))
            .map(|(ix, (requests, successes))| (ix, f64::from(*successes) / f64::from(*requests)))
    };
    let mut found: Vec<(f64, usize, EjectionCause)> = Vec::new();
    let compared = rates(settings.success_rate_min_requests).count();
    if settings.success_rate_stdev_factor > 0.0
        && compared >= settings.success_rate_min_endpoints.max(2) as usize
    {
        let n = compared as f64;
        let of = || rates(settings.success_rate_min_requests).map(|(_, rate)| rate);
        let mean = of().sum::<f64>() / n;
        let variance = of().map(|rate| (rate - mean) * (rate - mean)).sum::<f64>() / n;
        let threshold = mean - settings.success_rate_stdev_factor * variance.sqrt();
        found.extend(
            rates(settings.success_rate_min_requests)
                .filter(|(_, rate)| *rate < threshold)
                .map(|(ix, rate)| (rate, ix, EjectionCause::SuccessRate)),
        );
    }
    if rates(settings.failure_min_requests).count() >= settings.failure_min_endpoints.max(1) as usize {
        found.extend(
            rates(settings.failure_min_requests)
                .filter(|(_, rate)| 1.0 - rate >= settings.failure_share)
                .map(|(ix, rate)| (rate, ix, EjectionCause::FailureShare)),
        );
    }
    found.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
    found.into_iter().for_each(|(_, ix, cause)| eject(ix, cause));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_success_starts_the_row_anew_and_kinds_are_counted_apart() {
        let settings = OutlierSettings {
            consecutive_gateway_errors: 3,
            consecutive_local_failures: 2,
            ..OutlierSettings::default()
        };
        let watch = Watch::default();
        let record = |outcome| watch.record(&settings, outcome);
        for _ in 0..4 {
            assert_eq!(record(Outcome::ServerError), None);
        }
        assert_eq!(record(Outcome::Success), None);
        assert_eq!(record(Outcome::Timeout), None);
        assert_eq!(record(Outcome::GatewayError), None);
        assert_eq!(record(Outcome::GatewayError), Some(EjectionCause::ConsecutiveGatewayErrors));
        assert_eq!(record(Outcome::Success), None);
        assert_eq!(record(Outcome::Reset), None);
        assert_eq!(record(Outcome::Limited), None);
        assert_eq!(record(Outcome::ConnectFailure), Some(EjectionCause::ConsecutiveLocalFailures));
        assert_eq!(watch.take_window(), (11, 2));
    }

    #[test]
    fn a_success_rate_far_below_the_mean_stands_out() {
        // Rates 0.99 four times and 0.80: mean 0.952, standard deviation 0.076, threshold 0.8076.
        let windows = [(100, 99), (100, 99), (100, 99), (100, 99), (100, 80), (99, 0)];
        let mut found = Vec::new();
        let settings = OutlierSettings { failure_share: 2.0, ..OutlierSettings::default() };
        judge(&settings, &windows, |ix, cause| found.push((ix, cause)));
        assert_eq!(found, [(4, EjectionCause::SuccessRate)]);
        found.clear();
        judge(&settings, &windows[..4], |ix, cause| found.push((ix, cause)));
        assert!(found.is_empty());
    }

    #[test]
    fn the_worst_endpoint_is_judged_first() {
        let mut found = Vec::new();
        judge(&OutlierSettings::default(), &[(20, 3), (20, 0), (20, 4), (19, 0)], |ix, _| found.push(ix));
        assert_eq!(found, [1, 0]);
    }

    #[test]
    fn the_number_that_may_be_away_is_rounded_down() {
        let of = |share, total| {
            OutlierSettings { max_ejected_share: share, ..OutlierSettings::default() }.max_ejected(total)
        };
        assert_eq!((of(0.5, 1), of(0.5, 2), of(0.5, 3), of(0.3, 10), of(1.0, 7)), (0, 1, 1, 3, 7));
    }
}
