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

use traflux_core::plan::health::OutlierPlan;

use crate::outcome::Outcome;

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
    pub(crate) fn record(&self, plan: &OutlierPlan, outcome: Outcome) -> Option<EjectionCause> {
        if outcome.is_healthy() {
            if self.errors.load(Ordering::Relaxed) != 0 {
                self.forget_rows();
            }
            self.window.fetch_add(ONE_REQUEST + 1, Ordering::Relaxed);
            None
        } else if outcome.is_failure() {
            self.fail(plan, outcome)
        } else {
            None
        }
    }

    #[cold]
    fn fail(&self, plan: &OutlierPlan, outcome: Outcome) -> Option<EjectionCause> {
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
        let by_local = row(&self.local, local, plan.consecutive_local_failures);
        let by_gateway = row(&self.gateway, gateway, plan.consecutive_gateway_errors);
        let by_errors = row(&self.errors, true, plan.consecutive_errors);
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
pub(crate) fn judge(plan: &OutlierPlan, windows: &[(u32, u32)], mut eject: impl FnMut(usize, EjectionCause)) {
    let rates = |least: u32| {
        windows
            .iter()
            .enumerate()
            .filter(move |(_, (requests, _))| *requests >= least.max(1))
            .map(|(ix, (requests, successes))| (ix, f64::from(*successes) / f64::from(*requests)))
    };
    let mut found: Vec<(f64, usize, EjectionCause)> = Vec::new();
    let compared = rates(plan.success_rate_min_requests).count();
    if plan.success_rate_stdev_factor > 0.0 && compared >= plan.success_rate_min_endpoints.max(2) as usize {
        let n = compared as f64;
        let of = || rates(plan.success_rate_min_requests).map(|(_, rate)| rate);
        let mean = of().sum::<f64>() / n;
        let variance = of().map(|rate| (rate - mean) * (rate - mean)).sum::<f64>() / n;
        let threshold = mean - plan.success_rate_stdev_factor * variance.sqrt();
        found.extend(
            rates(plan.success_rate_min_requests)
                .filter(|(_, rate)| *rate < threshold)
                .map(|(ix, rate)| (rate, ix, EjectionCause::SuccessRate)),
        );
    }
    if rates(plan.failure_min_requests).count() >= plan.failure_min_endpoints.max(1) as usize {
        found.extend(
            rates(plan.failure_min_requests)
                .filter(|(_, rate)| 1.0 - rate >= plan.failure_share)
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
        let plan = OutlierPlan {
            consecutive_gateway_errors: 3,
            consecutive_local_failures: 2,
            ..OutlierPlan::default()
        };
        let watch = Watch::default();
        let record = |outcome| watch.record(&plan, outcome);
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
        let plan = OutlierPlan { failure_share: 2.0, ..OutlierPlan::default() };
        judge(&plan, &windows, |ix, cause| found.push((ix, cause)));
        assert_eq!(found, [(4, EjectionCause::SuccessRate)]);
        found.clear();
        judge(&plan, &windows[..4], |ix, cause| found.push((ix, cause)));
        assert!(found.is_empty());
    }

    #[test]
    fn the_worst_endpoint_is_judged_first() {
        let mut found = Vec::new();
        judge(&OutlierPlan::default(), &[(20, 3), (20, 0), (20, 4), (19, 0)], |ix, _| found.push(ix));
        assert_eq!(found, [1, 0]);
    }
}
