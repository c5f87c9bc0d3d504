//! Who says what a choice is worth, on small networks and on large ones?

use std::num::NonZeroUsize;

use traflux_core::{BaseRouting, GroupIx, Network, Rerouting, Routing, TrafficMatrix};
use traflux_lp::multicommodity::check::verify_large;
use traflux_lp::multicommodity::select::SelectionEvaluator;
use traflux_lp::multicommodity::{FlowError, FlowProblem, LargeSolver};
use traflux_sim::te::{Judgement, judge};
use traflux_te::{performance_ratio, selected_share};

use super::error::EvaluateError;
use super::limit::Limit;

/// Judges choices exactly, or to a tolerance.
#[derive(Debug, Clone)]
pub(super) enum Judge {
    /// Of equally even flows those that move the least traffic.
    Exact(Box<SelectionEvaluator>),
    /// Any flows within the tolerance. What they move says nothing.
    Near { network: Network, base: BaseRouting, solver: LargeSolver },
}

impl Judge {
    /// `tolerance`: the relative gap that is good enough; 0 is exact.
    pub(super) fn new(network: &Network, base: &BaseRouting, tolerance: f64) -> Self {
        if tolerance <= 0.0 {
            return Self::Exact(Box::new(SelectionEvaluator::new(network, base)));
        }
        let threads = std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
        Self::Near {
            network: network.clone(),
            base: base.clone(),
            solver: LargeSolver { tolerance, threads },
        }
    }

    /// The least maximum utilisation; of the tolerance the lower end, so that nothing looks better than it is.
    pub(super) fn optimum(&mut self, demands: &TrafficMatrix, limit: &Limit) -> Result<f64, EvaluateError> {
        Ok(match self {
            Self::Exact(evaluator) => evaluator.optimum(demands)?,
            Self::Near { network, solver, .. } => {
                let problem = FlowProblem::all(network, demands)?;
                let solution = solver.solve(&problem, limit.deadline())?;
                verify_large(&problem, &solution).map_err(FlowError::from)?;
                solution.lower_bound
            }
        })
    }

    /// The least that so many pairs can leave; `None` where it is not known.
    pub(super) fn bound(
        &mut self,
        demands: &TrafficMatrix,
        count: usize,
    ) -> Result<Option<f64>, EvaluateError> {
        Ok(match self {
            Self::Exact(evaluator) => Some(evaluator.lower_bound(demands, count)?),
            Self::Near { .. } => None,
        })
    }

    /// Flows made for `seen` on the matrix `met`, see [`judge`]. `moved_share` is NaN where it is not known.
    pub(super) fn judge(
        &mut self,
        critical: &[GroupIx],
        seen: &TrafficMatrix,
        met: &TrafficMatrix,
        optimal: f64,
        limit: &Limit,
    ) -> Result<Judgement, EvaluateError> {
        let (network, base, solver) = match self {
            Self::Exact(evaluator) => return Ok(judge(evaluator, critical, seen, met, optimal)?),
            Self::Near { network, base, solver } => (network, base, solver),
        };
        let problem = FlowProblem::critical(network, base, seen, critical)?;
        let routing = if problem.commodities.is_empty() {
            Routing::default()
        } else {
            let flows = solver.solve(&problem, limit.deadline())?;
            verify_large(&problem, &flows).map_err(FlowError::from)?;
            let reroutings = problem.commodities.iter().enumerate().map(|(at, commodity)| Rerouting {
                pair: network.pair_ix(commodity.source, commodity.target),
                base_share: 0.0,
                paths: flows.paths.shares(at),
            });
            Routing::new(network, reroutings.collect())?
        };
        let loads = routing.loads(network, base, met);
        let utilization = network.max_utilization(&loads);
        Ok(Judgement {
            utilization,
            performance_ratio: performance_ratio(optimal, utilization).min(1.0),
            selected_share: selected_share(network, met, critical),
            moved_share: if critical.is_empty() { 0.0 } else { f64::NAN },
            routing,
            loads,
        })
    }
}
