//! Which pairs does the quick choice of [`selection`](crate::selection) take, used as it is?

use traflux_core::{Action, BaseRouting, GroupIx, Network, Observation, Policy, PolicyError};

use super::relief::add_loads;
use super::{check, check_pairs, demand};
use crate::QuickChoice;
use crate::quick::Chooser;
use crate::relief::keep;

/// The quick choice as a selector: pairs chosen in rounds by the slope of a smooth maximum, then exchanged while that
/// helps, as [`QuickChoice::Rounds`] says.
///
/// Those that would move come first, then those of the greatest relief. Pairs that gain nothing are not chosen, so there
/// may be fewer than asked for.
#[derive(Debug, Clone)]
pub struct QuickSelector {
    count: usize,
    rounds: usize,
    base: BaseRouting,
    inverse_capacities: Vec<f64>,
    chooser: Chooser,
    demands: Vec<f64>,
    utilizations: Vec<f64>,
    order: Vec<(f32, u32)>,
}

impl QuickSelector {
    /// The rounds of [`QuickChoice::default`].
    pub const ROUNDS: usize = match QuickChoice::DEFAULT {
        QuickChoice::Rounds(rounds) | QuickChoice::Fractions(rounds) => rounds,
    };

    /// Chooses `count` pairs.
    ///
    /// # Panics
    /// When the base is one of another network.
    #[must_use]
    pub fn new(network: &Network, base: &BaseRouting, count: usize) -> Self {
        Self {
            count,
            rounds: Self::ROUNDS,
            base: keep(network, base),
            inverse_capacities: network.links().iter().map(|link| 1.0 / link.capacity.get()).collect(),
            chooser: Chooser::new(network),
            demands: Vec::new(),
            utilizations: Vec::new(),
            order: Vec::new(),
        }
    }
}

impl Policy for QuickSelector {
    fn act(&mut self, observation: &Observation) -> Result<Action, PolicyError> {
        check(observation)?;
        check_pairs(observation, self.base.pair_count())?;
        self.utilizations.clear();
        self.utilizations.resize(self.inverse_capacities.len(), 0.0);
        add_loads(&self.base, observation, &mut self.utilizations);
        for (utilization, inverse) in self.utilizations.iter_mut().zip(&self.inverse_capacities) {
            *utilization *= inverse;
        }
        // A pair that may not be chosen loads its links and has nothing to gain.
        let open = |pair: usize| if observation.mask[pair] { demand(observation, pair) } else { 0.0 };
        self.demands.clear();
        self.demands.extend((0..observation.len()).map(|pair| f64::from(open(pair))));
        self.chooser.begin(self.base.pair_count(), &self.utilizations);
        self.chooser.choose(&self.base, &self.demands, self.count, self.rounds);
        self.chooser.rank(&mut self.order);
        let chosen = self.order.iter().take(self.count).map(|(_, pair)| GroupIx(*pair));
        Ok(Action::choose(chosen.collect()))
    }
}
