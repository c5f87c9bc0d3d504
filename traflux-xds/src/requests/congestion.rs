//! Which filters shed load by what comes back, and who waits?

use traflux_core::plan::congestion::{ConcurrencyAlgorithm, CongestionPlan};
use traflux_core::plan::queue::QueuePlan;

use super::support::Report;
use crate::proto::rich::*;
use crate::proto::*;

/// The filters for throttling and for the limit on requests in flight.
pub(crate) fn filters(plan: &CongestionPlan, report: &mut Report) -> Vec<(String, Any)> {
    let mut filters = Vec::new();
    report.exact_if(
        plan.pass_load_reports,
        "congestion.pass_load_reports",
        "headers of answers pass",
        "clients get the load reports of backends",
    );
    report.unsupported(
        "congestion.cool_down",
        "Envoy goes on asking a backend that refuses for lack of capacity, whatever `Retry-After` says",
    );
    report.unsupported("congestion.signal", "load reports of backends count for their weights at most");
    report.unsupported("congestion.feedback", "Envoy does not read what backends say of their limits");
    if let Some(throttle) = &plan.throttle {
        report.approximated(
            "congestion.throttle",
            "admission_control",
            "one for all backends, with the first band's tolerance for all; 503 with Retry-After counts as any 503",
        );
        let tolerance = throttle.tolerance.first().copied().unwrap_or(2.0).max(1.0);
        // Refusals for lack of capacity are what is not accepted.
        let accepted = [(100, 429), (430, 503), (504, 529), (530, 600)];
        let filter = AdmissionControl {
            sampling_window: duration(throttle.window),
            // p = (requests − accepts / threshold) / (requests + 1): the threshold is 1 / K.
            sr_threshold: runtime_percent(100.0 / tolerance),
            aggression: Some(RuntimeDouble { default_value: 1.0, runtime_key: "traflux.aggression".into() }),
            rps_threshold: Some(RuntimeUInt32 {
                default_value: (throttle.min_requests as f64 / throttle.window.as_secs_f64()).ceil() as u32,
                runtime_key: "traflux.rps_threshold".into(),
            }),
            max_rejection_probability: runtime_percent(throttle.max_probability * 100.0),
            evaluation_criteria: Some(admission_control::EvaluationCriteria::SuccessCriteria(
                admission_control::SuccessCriteria {
                    http_criteria: Some(admission_control::success_criteria::HttpCriteria {
                        http_success_status: accepted
                            .iter()
                            .map(|(start, end)| Int32Range { start: *start, end: *end })
                            .collect(),
                    }),
                    ..admission_control::SuccessCriteria::default()
                },
            )),
            ..AdmissionControl::default()
        };
        filters.push(("envoy.filters.http.admission_control".to_owned(), pack_any(filter)));
    } else {
        report.absent("congestion.throttle", "no filter: requests that a backend would refuse go to it");
    }
    if let Some(concurrency) = &plan.concurrency {
        match &concurrency.algorithm {
            ConcurrencyAlgorithm::Fixed => {
                report.unsupported(
                    "congestion.concurrency",
                    "use `pool.max_requests`, a bound for each cluster",
                );
            }
            ConcurrencyAlgorithm::Aimd(_)
            | ConcurrencyAlgorithm::Vegas(_)
            | ConcurrencyAlgorithm::Gradient2(_) => {
                report.unsupported(
                    "congestion.concurrency",
                    "Envoy adapts by the gradient controller alone: no limit is set",
                );
            }
            ConcurrencyAlgorithm::Gradient(gradient) => {
                report.approximated(
                    "congestion.concurrency",
                    "adaptive_concurrency",
                    "one for all backends and models; the baseline is measured at three requests in flight, by the median of \
                     whole answers; `initial`, `band_shares`, `smoothing`, `probe_share` and `window_samples` have no \
                     counterpart",
                );
                let params = GradientControllerConfig {
                    sample_aggregate_percentile: Some(Percent { value: 50.0 }),
                    concurrency_limit_params: Some(
                        gradient_controller_config::ConcurrencyLimitCalculationParams {
                            max_concurrency_limit: uint32(concurrency.max.max(1)),
                            min_concurrency_limit: uint32(concurrency.min.max(1)),
                            concurrency_update_interval: duration(concurrency.window),
                        },
                    ),
                    min_rtt_calc_params: Some(gradient_controller_config::MinimumRttCalculationParams {
                        interval: duration(gradient.probe_interval),
                        request_count: uint32(gradient.probe_samples.max(1)),
                        buffer: Some(Percent {
                            value: ((gradient.tolerance - 1.0) * 100.0).clamp(0.0, 100.0),
                        }),
                        ..gradient_controller_config::MinimumRttCalculationParams::default()
                    }),
                };
                let filter = AdaptiveConcurrency {
                    concurrency_controller_config: Some(
                        adaptive_concurrency::ConcurrencyControllerConfig::GradientControllerConfig(params),
                    ),
                    concurrency_limit_exceeded_status: Some(HttpStatus { code: 503 }),
                    ..AdaptiveConcurrency::default()
                };
                filters.push(("envoy.filters.http.adaptive_concurrency".to_owned(), pack_any(filter)));
            }
        }
    } else {
        report.absent(
            "congestion.concurrency",
            "no filter: `pool.max_requests` is the only bound on requests in flight",
        );
    }
    filters
}

/// Says that nobody waits.
pub(crate) fn queue_report(queue: &QueuePlan, report: &mut Report) {
    if queue.max_waiting == 0 {
        report.native("queue", "Envoy lets nobody wait either");
    } else {
        report.unsupported(
            "queue",
            "Envoy has no queue of requests: what finds no room is refused at once, but for `pool.max_pending` that wait for \
             a connection, first come, first served",
        );
    }
}

fn runtime_percent(value: f64) -> Option<RuntimePercent> {
    Some(RuntimePercent { default_value: Some(Percent { value }), runtime_key: "traflux.percent".into() })
}
