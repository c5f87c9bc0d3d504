//! Which pairs does the relaxation move?

use traflux_core::{Action, BaseRouting, GroupIx, Network, Observation, Policy, PolicyError};

use super::{FractionalBound, best, failed, open, read};

/// The pairs of which the [fractional optimum](FractionalBound) moves the largest shares; of equal shares the
/// larger demand first.
#[derive(Debug, Clone)]
pub struct RelaxAndRound {
    network: Network,
    count: usize,
    fractional: FractionalBound,
}

impl RelaxAndRound {
    /// Chooses at most `count` pairs.
    #[must_use]
    pub fn new(network: &Network, base: &BaseRouting, count: usize) -> Self {
        Self { network: network.clone(), count, fractional: FractionalBound::new(network, base) }
    }
}

impl Policy for RelaxAndRound {
    fn act(&mut self, observation: &Observation) -> Result<Action, PolicyError> {
        let demands = read(&self.network, observation)?;
        self.fractional.forget();
        let solution = self.fractional.solve_among(&demands, &open(observation), self.count, None);
        let moved = solution.map_err(failed)?.moved;
        let pairs = demands.pairs().zip(moved).enumerate().filter(|(_, (_, share))| *share > 0.0);
        // Shares that differ by rounding only are ties.
        let pairs = pairs.map(|(pair, (demand, share))| ((share * 1e9).round(), demand, GroupIx::from(pair)));
        Ok(Action::choose(best(pairs.collect(), self.count)))
    }
}
