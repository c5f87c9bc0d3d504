//! Traflux's own metrics of one tick.

use std::time::Duration;

use traflux_prom::Exporter;

use crate::controller::{Controller, Decision};

/// Writes one tick into the exporter.
pub(crate) fn record(exporter: &Exporter, controller: &Controller, decision: &Decision, took: Duration) {
    let topology = &controller.fleet().topology;
    let evidence = controller.evidence();
    exporter.record_tick(took);
    for failure in &decision.failures {
        exporter.record_stage_error(failure.stage, failure.code);
    }
    exporter.record_rung(decision.rung);
    exporter.record_telemetry(evidence.telemetry.as_ref(), Some(controller.stale_for()));
    exporter.record_shares(topology, controller.current());
    if let Ok(weights) = controller.weights() {
        exporter.record_weights(topology, &weights);
    }
    exporter.record_guard(&evidence.guard);
    if decision.pushed {
        exporter.record_plan_change();
    }
    if let Some(estimate) = &evidence.estimate {
        exporter.record_estimate(topology, estimate);
    }
    if let Some(solution) = &evidence.solution {
        exporter.record_solution(solution, evidence.solve_time);
    }
    if let Some(reward) = &decision.reward {
        exporter.record_reward(reward);
    }
}
