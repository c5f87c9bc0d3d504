//! What did a solver answer, and is it true?
//!
//! Every answer is recomputed from the problem alone before it is shown, see [`traflux_lp::multicommodity::check`].

use traflux_core::{BaseRouting, PathShare};
use traflux_lp::multicommodity::check::{
    FlowCheckError, verify, verify_concurrent, verify_delay, verify_large, verify_total,
};
use traflux_lp::multicommodity::{
    ConcurrentFlow, DelayCurve, DelaySolution, FlowProblem, FlowSolution, FlowStatus, LargeSolution,
    TotalFlow,
};

/// The solution of one problem for one objective.
#[derive(Debug, Clone)]
pub(super) enum Answer {
    /// The least utilisation.
    Exact(FlowSolution),
    /// The same to a tolerance.
    Large(LargeSolution),
    /// The least delay by this curve.
    Delay(DelaySolution, DelayCurve),
    /// The greatest common factor.
    Concurrent(ConcurrentFlow),
    /// The most traffic.
    Total(TotalFlow),
}

impl Answer {
    /// Recomputes paths, shares, loads, value and bound. `base`: what commodities may partly stay on.
    pub(super) fn check(
        &self,
        problem: &FlowProblem<'_>,
        base: Option<&BaseRouting>,
    ) -> Result<(), FlowCheckError> {
        match self {
            Self::Exact(solution) => verify(problem, base, solution),
            Self::Large(solution) => verify_large(problem, solution),
            Self::Delay(solution, curve) => verify_delay(problem, curve, solution),
            Self::Concurrent(solution) => verify_concurrent(problem, solution),
            Self::Total(solution) => verify_total(problem, solution),
        }
    }

    /// Value of the objective.
    pub(super) fn value(&self) -> f64 {
        match self {
            Self::Exact(solution) => solution.utilization,
            Self::Large(solution) => solution.utilization,
            Self::Delay(solution, _) => solution.cost,
            Self::Concurrent(solution) => solution.factor,
            Self::Total(solution) => solution.total,
        }
    }

    /// No solution is better than this.
    pub(super) fn bound(&self) -> f64 {
        match self {
            Self::Exact(solution) => solution.lower_bound,
            Self::Large(solution) => solution.lower_bound,
            Self::Delay(solution, _) => solution.lower_bound,
            Self::Concurrent(solution) => solution.upper_bound,
            Self::Total(solution) => solution.upper_bound,
        }
    }

    pub(super) fn status(&self) -> FlowStatus {
        match self {
            Self::Exact(solution) => solution.status,
            Self::Large(solution) => solution.status,
            Self::Delay(solution, _) => solution.status,
            Self::Concurrent(solution) => solution.status,
            Self::Total(solution) => solution.status,
        }
    }

    pub(super) fn iterations(&self) -> usize {
        match self {
            Self::Exact(solution) => solution.iterations,
            Self::Large(solution) => solution.iterations,
            Self::Delay(solution, _) => solution.iterations,
            Self::Concurrent(solution) => solution.iterations,
            Self::Total(solution) => solution.iterations,
        }
    }

    /// Load of each link in bit/s.
    pub(super) fn loads(&self) -> &[f64] {
        match self {
            Self::Exact(solution) => &solution.loads,
            Self::Large(solution) => &solution.loads,
            Self::Delay(solution, _) => &solution.loads,
            Self::Concurrent(solution) => &solution.loads,
            Self::Total(solution) => &solution.loads,
        }
    }

    /// The paths of a commodity.
    pub(super) fn paths(&self, commodity: usize) -> Vec<PathShare> {
        match self {
            Self::Exact(solution) => solution.paths[commodity].clone(),
            Self::Large(solution) => solution.paths.shares(commodity),
            Self::Delay(solution, _) => solution.paths[commodity].clone(),
            Self::Concurrent(solution) => solution.paths[commodity].clone(),
            Self::Total(solution) => solution.paths[commodity].clone(),
        }
    }

    /// Part of a commodity that stays on the base.
    pub(super) fn base_share(&self, commodity: usize) -> f64 {
        match self {
            Self::Exact(solution) => solution.base_share[commodity],
            _ => 0.0,
        }
    }
}

/// A solution that does not keep what it claims: a fault of the solver, never of the input.
#[derive(Debug, thiserror::Error)]
#[error("matrix {matrix}: the solution fails its check: {source} ({})", source.code())]
pub(super) struct Refuted {
    /// Position of the matrix, from 0.
    pub(super) matrix: usize,
    pub(super) source: FlowCheckError,
}

#[cfg(test)]
mod tests {
    use traflux_core::{BitRate, Network};
    use traflux_lp::multicommodity::{
        LargeSolver, MinMaxSolver, Preference, least_delay, max_concurrent_flow, max_total_flow,
    };
    use traflux_te::ecmp;
    use traflux_te::generate::{BackboneConfig, TrafficModel, backbone};

    use super::*;

    fn network() -> Network {
        backbone(&BackboneConfig { nodes: 9, ..BackboneConfig::default() }, 5).unwrap()
    }

    fn code(result: Result<(), FlowCheckError>) -> &'static str {
        result.err().map_or("fine", |error| error.code())
    }

    #[test]
    fn what_is_not_true_is_refused_for_every_objective() {
        let network = network();
        let model = TrafficModel::Exponential { mean: BitRate::gigabits_per_second(0.5) };
        let demands = model.matrix(&network, 1).unwrap();
        let problem = FlowProblem::all(&network, &demands).unwrap();
        let curve = DelayCurve::queueing(20);
        let exact = MinMaxSolver::new(&network).solve(&problem, None).unwrap();
        let large = LargeSolver { tolerance: 1e-3, ..LargeSolver::default() }.solve(&problem, None).unwrap();
        let delay = least_delay(&problem, &curve, None).unwrap();
        let concurrent = max_concurrent_flow(&problem, None).unwrap();
        let total = max_total_flow(&problem, None).unwrap();
        let answers = [
            Answer::Exact(exact.clone()),
            Answer::Large(large.clone()),
            Answer::Delay(delay.clone(), curve.clone()),
            Answer::Concurrent(concurrent.clone()),
            Answer::Total(total.clone()),
        ];
        for answer in &answers {
            assert_eq!(code(answer.check(&problem, None)), "fine", "{answer:?}");
        }
        // The value a little better than the flows are.
        let praised = [
            Answer::Exact(FlowSolution { utilization: exact.utilization * (1.0 - 1e-6), ..exact.clone() }),
            Answer::Large(LargeSolution { utilization: large.utilization * (1.0 - 1e-6), ..large }),
            Answer::Delay(DelaySolution { cost: delay.cost * (1.0 - 1e-6), ..delay }, curve),
            Answer::Concurrent(ConcurrentFlow { factor: concurrent.factor * (1.0 + 1e-6), ..concurrent }),
            Answer::Total(TotalFlow { total: total.total * (1.0 + 1e-6), ..total }),
        ];
        for answer in &praised {
            assert_eq!(code(answer.check(&problem, None)), "flow_check_value", "{answer:?}");
        }
        let mut lost = exact.clone();
        lost.paths[3].clear();
        assert_eq!(code(Answer::Exact(lost).check(&problem, None)), "flow_check_shares");
        let mut astray = exact.clone();
        astray.paths[3][0].links.pop();
        assert_eq!(code(Answer::Exact(astray).check(&problem, None)), "flow_check_path");
        let proven = FlowSolution { lower_bound: exact.lower_bound * 1.5, ..exact };
        let refuted = Answer::Exact(proven).check(&problem, None).unwrap_err();
        let told = Refuted { matrix: 7, source: refuted }.to_string();
        assert!(
            told.starts_with("matrix 7: the solution fails its check: lower bound is stated as"),
            "{told}"
        );
    }

    #[test]
    fn what_stays_on_ecmp_is_followed_there() {
        let network = network();
        let base = ecmp(&network).unwrap();
        let model = TrafficModel::Exponential { mean: BitRate::gigabits_per_second(0.5) };
        let problem_of = model.matrix(&network, 2).unwrap();
        let problem = FlowProblem::all(&network, &problem_of).unwrap();
        let mut solver = MinMaxSolver::new(&network);
        let solution = solver.solve_preferring(&problem, Preference::LeastRerouted(&base), None).unwrap();
        assert!(solution.base_share.iter().any(|share| *share > 0.0));
        let answer = Answer::Exact(solution);
        assert_eq!(code(answer.check(&problem, Some(&base))), "fine");
        assert_eq!(code(answer.check(&problem, None)), "flow_check_shares");
    }
}
