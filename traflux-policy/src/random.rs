//! What is the worst that an untrained policy does?
//!
//! The random actor draws arbitrary sets, headrooms and multipliers. Behind the solver and the guard it must be
//! harmless, and a learned policy that does not beat it has learned nothing.

use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use traflux_core::{Action, ActionBounds, GroupIx, Observation, Policy, PolicyError};

/// Draws every part of its actions at random; groups that should not be chosen too.
#[derive(Debug, Clone)]
pub struct RandomActor {
    rng: ChaCha8Rng,
    bounds: ActionBounds,
}

impl RandomActor {
    /// An actor whose actions depend on the seed and the number of groups alone.
    #[must_use]
    pub fn new(seed: u64, bounds: ActionBounds) -> Self {
        Self { rng: ChaCha8Rng::seed_from_u64(seed), bounds }
    }
}

impl Policy for RandomActor {
    fn act(&mut self, observation: &Observation) -> Result<Action, PolicyError> {
        let groups = observation.len();
        let mut order: Vec<GroupIx> = (0..groups).map(GroupIx::from).collect();
        for last in (1..groups).rev() {
            order.swap(last, self.rng.random_range(0..=last));
        }
        order.truncate(self.rng.random_range(0..=groups));
        let ActionBounds { headroom_max, multiplier_min, multiplier_max } = self.bounds;
        let headroom = headroom_max * self.rng.random::<f64>();
        // Logarithmic, so that halving is as frequent as doubling.
        let (low, high) = (multiplier_min.max(1e-3).ln(), multiplier_max.max(1e-3).ln());
        let cost_multipliers =
            (0..groups).map(|_| (low + (high - low) * self.rng.random::<f64>()).exp()).collect();
        let action = Action { headroom, cost_multipliers, ..Action::choose(order) };
        Ok(action.clamped(&self.bounds, groups))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::{Array1, Array2};

    fn observation(groups: usize) -> Observation {
        Observation {
            groups: Array2::zeros((groups, 1)),
            context: Array1::zeros(0),
            mask: vec![true; groups],
        }
    }

    #[test]
    fn equal_seeds_act_alike_and_every_action_is_inside_the_bounds() {
        let bounds = ActionBounds::default();
        let (mut a, mut b) = (RandomActor::new(3, bounds), RandomActor::new(3, bounds));
        let mut sizes = std::collections::BTreeSet::new();
        for step in 0..200 {
            let state = observation(step % 7);
            let action = a.act(&state).unwrap();
            assert_eq!(action, b.act(&state).unwrap());
            assert_eq!(action.clone().clamped(&bounds, state.len()), action);
            sizes.insert(action.critical.len());
        }
        assert_eq!(sizes.into_iter().collect::<Vec<_>>(), [0, 1, 2, 3, 4, 5, 6]);
    }
}
