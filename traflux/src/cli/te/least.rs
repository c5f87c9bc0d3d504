//! What is the least utilisation of the fullest link, on small networks and on large ones?

use traflux_core::{Network, TrafficMatrix};
use traflux_lp::multicommodity::check::{verify, verify_large};
use traflux_lp::multicommodity::{FlowError, FlowProblem, LargeSolver, MinMaxSolver};

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

    /// The utilisation reached, checked.
    pub(super) fn of(&mut self, problem: &FlowProblem<'_>) -> Result<f64, Failure> {
        Ok(match &self.large {
            Some(solver) => {
                let solution = solver.solve(problem, None)?;
                verify_large(problem, &solution).map_err(FlowError::from)?;
                solution.utilization
            }
            None => {
                let solution = self.exact.solve(problem, None)?;
                verify(problem, None, &solution).map_err(FlowError::from)?;
                solution.utilization
            }
        })
    }

    /// Of all pairs over all paths.
    pub(super) fn of_all(&mut self, network: &Network, demands: &TrafficMatrix) -> Result<f64, Failure> {
        self.of(&FlowProblem::all(network, demands)?)
    }
}
