//! Which pairs move when all may but none should?

use traflux_core::{Action, BaseRouting, Network, Observation, Policy, PolicyError};

use super::super::{FlowProblem, MinMaxSolver, Preference};
use super::evaluate::critical;
use super::{best, failed, open, read};

/// The pairs with the most traffic off the base when all pairs may leave it and, of all routings of the least
/// utilisation, the one that moves the least traffic is taken.
///
/// Where that moves no more than `count` pairs, they reach the optimum.
#[derive(Debug, Clone)]
pub struct LeastMoved {
    network: Network,
    base: BaseRouting,
    count: usize,
    solver: MinMaxSolver,
}

impl LeastMoved {
    /// Chooses at most `count` pairs.
    #[must_use]
    pub fn new(network: &Network, base: &BaseRouting, count: usize) -> Self {
        Self { network: network.clone(), base: base.clone(), count, solver: MinMaxSolver::new(network) }
    }
}

impl Policy for LeastMoved {
    fn act(&mut self, observation: &Observation) -> Result<Action, PolicyError> {
        let demands = read(&self.network, observation)?;
        let problem: FlowProblem<'_> =
            critical(&self.network, &self.base, &demands, &open(observation)).map_err(failed)?;
        self.solver.forget();
        let preference = Preference::LeastRerouted(&self.base);
        let solution = self.solver.solve_preferring(&problem, preference, None).map_err(failed)?;
        let moved = problem.commodities.iter().zip(&solution.base_share).map(|(commodity, stays)| {
            let pair = self.network.pair_ix(commodity.source, commodity.target);
            (commodity.demand * (1.0 - stays), commodity.demand, pair)
        });
        Ok(Action::choose(best(moved.filter(|(moved, ..)| *moved > 0.0).collect(), self.count)))
    }
}
