//! Which settings of the algorithms does Envoy have?

use traflux_core::plan::balance::BalancePlan;

use super::support::Report;

/// Says how the settings are expressed.
pub(crate) fn report(plan: &BalancePlan, report: &mut Report) {
    if plan.adaptive != BalancePlan::default().adaptive {
        report.unsupported(
            "balance.adaptive",
            "Envoy adapts no weights: neither latency, errors nor prices count",
        );
    }
}
