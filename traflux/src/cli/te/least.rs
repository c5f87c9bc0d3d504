//! What is the least utilisation of the fullest link, on small networks and on large ones?

use traflux_core::{Network, TrafficMatrix};
use traflux_lp::multicommodity::{FlowProblem, LargeSolver, MinMaxSolver};

use super::solve::LARGE;
use crate::cli::Failure;

/// Solves one problem after the other: exactly, beyond [`LARGE`] nodes to the tolerance of the solver for these.
#[derive(Debug)]
pub(super) struct Least {
    exact: MinMaxSolver,
    large: Option<LargeSolver>,
}

impl Least {
    pub(super) fn new(network: &Network) -> Self {
        let large = (network.nodes().len() > LARGE).then(LargeSolver::default);
        Self { exact: MinMaxSolver::new(network), large }
    }

    /// The utilisation reached.
    pub(super) fn of(&mut self, problem: &FlowProblem<'_>) -> Result<f64, Failure> {
        Ok(match &self.large {
            Some(solver) => solver.solve(problem, None)?.utilization,
            None => self.exact.solve(problem, None)?.utilization,
        })
    }

    /// Of all pairs over all paths.
    pub(super) fn of_all(&mut self, network: &Network, demands: &TrafficMatrix) -> Result<f64, Failure> {
        self.of(&FlowProblem::all(network, demands)?)
    }
}
