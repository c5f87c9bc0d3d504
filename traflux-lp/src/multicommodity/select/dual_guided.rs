//! Which pairs would the prices of the fullest links send elsewhere?

use traflux_core::{Action, BaseRouting, GroupIx, Network, Observation, Policy, PolicyError, TrafficMatrix};

use super::super::{FlowError, MinMaxSolver};
use super::evaluate::critical;
use super::gains::Gains;
use super::{best, failed, open, read};

/// Grows a set in rounds: solve for the pairs chosen so far, and add those for which
///
/// ```text
/// g_p = d_p (Σ_l f_pl y_l − dist_p(y))
/// ```
///
/// is largest under the prices `y` of the links, the rate at which the utilisation falls when the pair starts to
/// leave. Each round adds an equal part of the pairs; it ends early when no pair has a gain, which proves that the
/// set reaches the optimum over all pairs.
#[derive(Debug, Clone)]
pub struct DualGuidedGreedy {
    network: Network,
    base: BaseRouting,
    count: usize,
    rounds: usize,
    solver: MinMaxSolver,
    gains: Gains,
}

/// Gains below this, relative to the utilisation, are none.
pub(super) const NO_GAIN: f64 = 1e-9;

impl DualGuidedGreedy {
    /// The number of rounds unless said otherwise.
    pub const ROUNDS: usize = 4;

    /// Chooses at most `count` pairs.
    #[must_use]
    pub fn new(network: &Network, base: &BaseRouting, count: usize) -> Self {
        Self {
            network: network.clone(),
            base: base.clone(),
            count,
            rounds: Self::ROUNDS,
            solver: MinMaxSolver::new(network),
            gains: Gains::new(network),
        }
    }

    /// Takes another number of rounds, at least 1: more are better and slower.
    #[must_use]
    pub fn with_rounds(mut self, rounds: usize) -> Self {
        self.rounds = rounds.max(1);
        self
    }

    /// The set for absolute demands.
    pub(super) fn choose(
        &mut self,
        demands: &TrafficMatrix,
        mut open: Vec<GroupIx>,
    ) -> Result<Vec<GroupIx>, FlowError> {
        self.solver.forget();
        let count = self.count.min(open.len());
        let mut chosen: Vec<GroupIx> = Vec::with_capacity(count);
        for round in 0..self.rounds {
            let problem = critical(&self.network, &self.base, demands, &chosen)?;
            let solution = self.solver.solve(&problem, None)?;
            let gains = self.gains.of(&self.network, &self.base, demands, &solution.link_prices);
            let least = NO_GAIN * solution.utilization;
            let candidates = open.iter().map(|pair| (gains[pair.ix()], 0.0, *pair));
            let candidates: Vec<_> = candidates.filter(|(gain, ..)| *gain > least).collect();
            let wanted = (count - chosen.len()).div_ceil(self.rounds - round);
            let added = best(candidates, wanted);
            if added.is_empty() {
                break;
            }
            open.retain(|pair| !added.contains(pair));
            chosen.extend(added);
        }
        Ok(chosen)
    }
}

impl Policy for DualGuidedGreedy {
    fn act(&mut self, observation: &Observation) -> Result<Action, PolicyError> {
        let demands = read(&self.network, observation)?;
        Ok(Action::choose(self.choose(&demands, open(observation)).map_err(failed)?))
    }
}
