//! What does a model server say of its load, whatever it says?

use traflux_core::Timestamp;
use traflux_gateway::congestion::exposition::server_metrics;
use traflux_gateway::congestion::orca::load_report;
use traflux_gateway::congestion::{BackendSignal, LoadReport, SignalPlan};

/// An ORCA header or trailer, or a page of metrics.
pub fn check(data: &[u8]) {
    let pages = [Some(server_metrics(data, None)), Some(server_metrics(data, Some("m"))), load_report(data)];
    for report in pages.into_iter().flatten() {
        use_report(report);
    }
}

fn use_report(report: LoadReport) {
    let numbers = [
        report.waiting,
        report.running,
        report.cache_use,
        report.application_utilization,
        report.cpu_utilization,
        report.memory_utilization,
        report.requests_per_second,
        report.errors_per_second,
    ];
    for number in numbers.into_iter().flatten() {
        assert!(number.is_finite() && number >= 0.0, "{report:?}");
    }
    let signal = BackendSignal::new(&SignalPlan::default());
    let now = Timestamp::from_secs_f64(1e6);
    for in_flight in [0, 1, u32::MAX] {
        signal.report(now, report, in_flight);
        for limit in [0, 1, u32::MAX] {
            let saturation = signal.saturation(now, in_flight, limit);
            assert!(!saturation.is_nan() && saturation >= 0.0, "{saturation} of {report:?}");
            let _ = signal.is_saturated(now, in_flight, limit);
        }
        assert!((0.0..=1.0).contains(&signal.trust(now)));
    }
}
