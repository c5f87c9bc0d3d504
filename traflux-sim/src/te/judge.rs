//! What came of a choice of pairs?

use traflux_core::{GroupIx, Routing, TrafficMatrix};
use traflux_lp::multicommodity::select::SelectionEvaluator;
use traflux_te::{performance_ratio, selected_share};

use crate::error::SimError;

/// What came of one choice.
#[derive(Debug, Clone, PartialEq)]
pub struct Judgement {
    /// Maximum link utilisation.
    pub utilization: f64,
    /// `PR_U`: the least that any routing reaches over `utilization`, in (0, 1].
    pub performance_ratio: f64,
    /// Share of all traffic that belongs to the chosen pairs, moved or not: the rerouting disturbance of Zhang et
    /// al. (2020).
    pub selected_share: f64,
    /// Share of all traffic that left its base routing; of the optimal flows those that move least.
    pub moved_share: f64,
    /// Who left the base, over which paths.
    pub routing: Routing,
    /// Load of each link in bit/s.
    pub loads: Vec<f64>,
}

/// Judges a choice by the optimal flows that move the least traffic, over any paths of the chosen pairs.
///
/// They are those for the matrix `seen`; loads and shares are those on the matrix `met`, whose least maximum
/// utilisation is `optimal`. The two are the same unless the choice is old.
///
/// # Errors
/// [`SimError::Flow`] when the solver fails, [`SimError::Network`] for a matrix of another number of nodes.
pub fn judge(
    evaluator: &mut SelectionEvaluator,
    critical: &[GroupIx],
    seen: &TrafficMatrix,
    met: &TrafficMatrix,
    optimal: f64,
) -> Result<Judgement, SimError> {
    let outcome = evaluator.outcome(seen, critical)?;
    let (network, base) = (evaluator.network(), evaluator.base());
    let fresh = std::ptr::eq(seen, met);
    let loads = if fresh { outcome.loads } else { outcome.routing.loads(network, base, met) };
    let utilization = if fresh { outcome.utilization } else { network.max_utilization(&loads) };
    Ok(Judgement {
        utilization,
        // The optimum is exact to rounding only, and so is what is measured against it.
        performance_ratio: performance_ratio(optimal, utilization).min(1.0),
        selected_share: selected_share(network, met, critical),
        moved_share: outcome.routing.rerouted_share(network, met),
        routing: outcome.routing,
        loads,
    })
}
