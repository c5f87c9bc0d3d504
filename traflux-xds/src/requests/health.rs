//! How does a cluster leave endpoints out?

use traflux_core::plan::health::{HealthPlan, ProbeKind};
use traflux_core::plan::requests::RequestPlan;

use super::support::Report;
use crate::proto::rich::*;
use crate::proto::*;

/// A share as Envoy's whole percent.
fn percent(share: f64) -> u32 {
    (share * 100.0).round().clamp(0.0, 100.0) as u32
}

fn is_whole_percent(share: f64) -> bool {
    (share * 100.0 - (share * 100.0).round()).abs() < 1e-9
}

/// Ejection by what requests show.
pub(crate) fn outlier(plan: &HealthPlan) -> OutlierDetection {
    let (outlier, breaker) = (&plan.outlier, &plan.breaker);
    // A threshold of 0 is none: it stays off by not being enforced.
    let enforced = |on: bool| uint32(if on { 100 } else { 0 });
    let local = outlier.consecutive_local_failures;
    let by_rate = outlier.success_rate_stdev_factor > 0.0;
    let by_share = outlier.failure_share <= 1.0;
    OutlierDetection {
        consecutive_5xx: uint32(outlier.consecutive_errors.max(1)),
        enforcing_consecutive_5xx: enforced(outlier.consecutive_errors > 0),
        consecutive_gateway_failure: uint32(outlier.consecutive_gateway_errors.max(1)),
        enforcing_consecutive_gateway_failure: enforced(outlier.consecutive_gateway_errors > 0),
        split_external_local_origin_errors: local > 0,
        consecutive_local_origin_failure: uint32(local.max(1)),
        enforcing_consecutive_local_origin_failure: enforced(local > 0),
        interval: duration(outlier.interval),
        enforcing_success_rate: enforced(by_rate),
        enforcing_local_origin_success_rate: enforced(by_rate && local > 0),
        success_rate_stdev_factor: uint32((outlier.success_rate_stdev_factor * 1000.0).round() as u32),
        success_rate_minimum_hosts: uint32(outlier.success_rate_min_endpoints),
        success_rate_request_volume: uint32(outlier.success_rate_min_requests),
        enforcing_failure_percentage: enforced(by_share),
        enforcing_failure_percentage_local_origin: enforced(by_share && local > 0),
        failure_percentage_threshold: uint32(percent(outlier.failure_share)),
        failure_percentage_minimum_hosts: uint32(outlier.failure_min_endpoints),
        failure_percentage_request_volume: uint32(outlier.failure_min_requests),
        max_ejection_percent: uint32(percent(outlier.max_ejected_share)),
        always_eject_one_host: Some(BoolValue { value: outlier.always_eject_one }),
        base_ejection_time: duration(breaker.base),
        max_ejection_time: duration(breaker.max),
        successful_active_health_check_uneject_host: Some(BoolValue { value: plan.probe_ends_ejection }),
        ..OutlierDetection::default()
    }
}

/// The question to endpoints.
pub(crate) fn probe(plan: &HealthPlan, http2: bool) -> HealthCheck {
    let probe = &plan.probe;
    let checker = match &probe.probe {
        ProbeKind::Http { path, method, host, expected_statuses } => {
            let method = if method.is_empty() { "GET" } else { method };
            health_check::HealthChecker::HttpHealthCheck(health_check::HttpHealthCheck {
                host: host.clone(),
                path: path.clone(),
                method: RequestMethod::from_str_name(&method.to_ascii_uppercase())
                    .unwrap_or(RequestMethod::Get)
                    .into(),
                // Envoy's ranges end before their end; by default only 200 is expected.
                expected_statuses: if expected_statuses.is_empty() {
                    &[(200, 299)][..]
                } else {
                    expected_statuses
                }
                .iter()
                .map(|(first, last)| Int64Range { start: i64::from(*first), end: i64::from(*last) + 1 })
                .collect(),
                codec_client_type: i32::from(http2),
                ..health_check::HttpHealthCheck::default()
            })
        }
        ProbeKind::Tcp => {
            health_check::HealthChecker::TcpHealthCheck(health_check::TcpHealthCheck::default())
        }
        ProbeKind::Grpc { service } => {
            health_check::HealthChecker::GrpcHealthCheck(health_check::GrpcHealthCheck {
                service_name: service.clone(),
                ..health_check::GrpcHealthCheck::default()
            })
        }
    };
    HealthCheck {
        timeout: duration(probe.timeout),
        interval: duration(probe.interval),
        unhealthy_interval: duration(probe.unhealthy_interval),
        // One that failed last, and one that is ill and passed, are asked as often as the ill.
        unhealthy_edge_interval: duration(probe.unhealthy_interval),
        healthy_edge_interval: duration(probe.unhealthy_interval),
        // Without them Envoy asks once a minute until there is traffic.
        no_traffic_interval: duration(probe.unhealthy_interval),
        no_traffic_healthy_interval: duration(probe.interval),
        interval_jitter_percent: percent(probe.jitter),
        unhealthy_threshold: uint32(probe.unhealthy_threshold),
        healthy_threshold: uint32(probe.healthy_threshold),
        health_checker: Some(checker),
        ..HealthCheck::default()
    }
}

/// Says how the settings are expressed.
pub(crate) fn report(plan: &RequestPlan, report: &mut Report) {
    let (health, default) = (&plan.health, HealthPlan::default());
    let (probe, probe0) = (&health.probe, &default.probe);
    if probe.probe != probe0.probe {
        let method_known = match &probe.probe {
            ProbeKind::Http { method, .. } => {
                method.is_empty() || RequestMethod::from_str_name(&method.to_ascii_uppercase()).is_some()
            }
            _ => true,
        };
        report.exact_if(
            method_known,
            "health.probe.probe",
            "health_checks",
            "the method is not one that Envoy asks with: GET is used",
        );
    }
    for field in
        ["interval_ms", "timeout_ms", "healthy_threshold", "unhealthy_threshold", "unhealthy_interval_ms"]
    {
        report.native(format!("health.probe.{field}"), "health_checks");
    }
    if probe.jitter != probe0.jitter {
        report.exact_if(
            is_whole_percent(probe.jitter),
            "health.probe.jitter",
            "interval_jitter_percent",
            "rounded to whole percent",
        );
    }
    if !probe.assume_healthy {
        report.native("health.probe.assume_healthy", "Envoy waits for the first answer");
    }
    outlier_report(plan, report);
    if health.panic_threshold != default.panic_threshold {
        report.native("health.panic_threshold", "healthy_panic_threshold");
    }
    if health.probe_ends_ejection {
        report.native("health.probe_ends_ejection", "successful_active_health_check_uneject_host");
    }
}

fn outlier_report(plan: &RequestPlan, report: &mut Report) {
    let at = |field: &str| format!("health.outlier.{field}");
    let outlier = &plan.health.outlier;
    let local = outlier.consecutive_local_failures > 0;
    let split = "with consecutive_local_failures set, failures without an answer no longer count here";
    for field in ["consecutive_errors", "consecutive_gateway_errors"] {
        report.exact_if(!local, at(field), "outlier_detection", split);
    }
    report.exact_if(
        !local,
        at("consecutive_local_failures"),
        "consecutive_local_origin_failure",
        "a connection that comes about ends the row: connections that are refused add up, answers that never come do not",
    );
    for field in [
        "interval_ms",
        "success_rate_min_endpoints",
        "success_rate_min_requests",
        "failure_min_endpoints",
        "failure_min_requests",
        "always_eject_one",
    ] {
        report.native(at(field), "outlier_detection");
    }
    let exact = (outlier.success_rate_stdev_factor * 1000.0).fract().abs() < 1e-9;
    report.exact_if(exact, at("success_rate_stdev_factor"), "outlier_detection", "rounded to thousandths");
    for (field, share) in
        [("failure_share", outlier.failure_share), ("max_ejected_share", outlier.max_ejected_share)]
    {
        let exact = is_whole_percent(share) || share > 1.0;
        report.exact_if(exact, at(field), "outlier_detection", "rounded to whole percent");
    }
    let breaker = "health.breaker";
    for field in ["base_ms", "max_ms"] {
        report.approximated(
            format!("{breaker}.{field}"),
            "base_ejection_time, max_ejection_time",
            "an ejection lasts base times their number, where the plan doubles it each time",
        );
    }
    for field in ["ramp_ms", "first_share"] {
        report.approximated(
            format!("{breaker}.{field}"),
            "slow_start_config",
            "in clusters that are probed, after a probe passed; not after an ejection",
        );
    }
    for field in ["decay_ms", "trials", "trials_to_pass", "trial_timeout_ms", "relapse"] {
        report.unsupported(
            format!("{breaker}.{field}"),
            "Envoy has no trials: an ejected endpoint returns at once",
        );
    }
}
