//! Which pairs would a quick choice take, and how sure is it of each?
//!
//! Pairs are chosen in a few rounds. Prices of links are the slopes of the norm `(Σ_l u_l^β)^(1/β)`, which is near the
//! maximum utilisation `U`; with `c` capacities, `d` demands and `f` the fractions of the base,
//!
//! ```text
//! y_l      = (u_l / U)^(β − 1) / c_l,                     β = 4, 8, 16, 32 as pairs are chosen
//! relief_p = d_p (Σ_l f_pl y_l − dist_p(y))
//! ```
//!
//! The pairs of the greatest relief move to their cheapest path one after the other, each as far as the norm falls (a
//! step of Frank and Wolfe 1956); one that has nothing to gain any more is passed over. Some of those chosen earlier
//! move again before prices are set anew. It is the idea of [`GreedyRelief`](crate::GreedyRelief) with one search per
//! round for all pairs together, so that a policy can look at the result in every step: [`SelectionEncoder`] shows it.
//!
//! In the end pairs are exchanged, with `β` from 32 to 128: the eight of the greatest relief outside are tried in the
//! places of the eight of the least inside, an exchange stays if the norm really falls, and prices are set anew after
//! four, until none is found. Where much traffic has to move evenly it is worth a percent: the last pairs settle which
//! links are full, and some of the first then relieve others.
//!
//! The other way, [`QuickChoice::Fractions`], relaxes the choice: fractions of pairs may leave, `K` in sum.

use ndarray::{Array1, Array2};
use serde::{Deserialize, Serialize};
use traflux_core::{
    BaseRouting, EncodeError, GroupIx, Network, Observation, ObservationSpace, TrafficMatrix,
};

use crate::encode::NetworkEncoder;
use crate::quick::Chooser;

/// Names of the features that [`SelectionEncoder`] adds.
pub mod feature {
    /// The fraction of its demand that the quick choice moves, in [0, 1].
    pub const FRACTION: &str = "fraction";
    /// Relief in the last round over the greatest of all pairs then, in [0, 1].
    pub const LAST_RELIEF: &str = "last_relief";
    /// Relief of each round over the greatest of all pairs then, mean over the rounds, in [0, 1].
    pub const MEAN_RELIEF: &str = "mean_relief";
    /// `K / (K + i)` for the pair that comes `i`th, from 0: the quick choice in its order, then all others by mean
    /// relief. 1 for the first, near 0.5 for the last of `K`; 0 without any relief.
    pub const PLACE: &str = "place";

    /// The added features of a pair in the order of columns.
    pub const PAIR: [&str; 4] = [FRACTION, LAST_RELIEF, MEAN_RELIEF, PLACE];

    /// Of the network: what the quick choice leaves of `U`, in [0, 1].
    pub const REACHED: &str = "reached";
    /// Of the network: fraction of pairs that may be chosen, `K` over their number.
    pub const BUDGET: &str = "budget";

    /// The added features of the network in their order.
    pub const CONTEXT: [&str; 2] = [REACHED, BUDGET];
}

/// How the quick choice is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum QuickChoice {
    /// Whole pairs in this many rounds at most, then exchanges: nearest to the best set where much traffic has to move
    /// evenly.
    Rounds(usize),
    /// Fractions of pairs, in this many steps: smoother from one matrix to the next, and so easier to learn from
    /// where traffic has a history.
    Fractions(usize),
}

impl QuickChoice {
    /// In up to 24 rounds: fewer pairs than that are chosen one by one.
    pub const DEFAULT: Self = Self::Rounds(24);
}

impl Default for QuickChoice {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// A [`NetworkEncoder`] that also shows what a quick choice of `K` pairs would be.
///
/// ```
/// use traflux_core::BitRate;
/// use traflux_te::generate::{BackboneConfig, TrafficModel, backbone};
/// use traflux_te::{SelectionEncoder, ecmp, share_of_pairs};
///
/// let network = backbone(&BackboneConfig::default(), 1)?;
/// let demands = TrafficModel::Exponential { mean: BitRate::gigabits_per_second(1.0) }.matrix(&network, 2)?;
/// let count = share_of_pairs(&network, 0.1);
/// let mut encoder = SelectionEncoder::new(&network, &ecmp(&network)?, count);
/// let observation = encoder.encode(&demands)?;
/// assert_eq!(observation.groups.ncols(), encoder.space().group_features.len());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct SelectionEncoder {
    encoder: NetworkEncoder,
    chooser: Chooser,
    count: usize,
    quick: QuickChoice,
    inner: Observation,
    order: Vec<(f32, u32)>,
}

impl SelectionEncoder {
    /// Prepares to encode matrices for the choice of `count` pairs.
    ///
    /// # Panics
    /// When the base is one of another network.
    #[must_use]
    pub fn new(network: &Network, base: &BaseRouting, count: usize) -> Self {
        Self {
            encoder: NetworkEncoder::new(network, base),
            chooser: Chooser::new(network),
            count,
            quick: QuickChoice::default(),
            inner: Observation::default(),
            order: Vec::new(),
        }
    }

    /// Makes the quick choice in another way; the cost is in proportion to the rounds or steps. Policies are to be
    /// used with the way they were trained with. With 0 nothing is chosen and the added features are 0.
    #[must_use]
    pub fn with_quick_choice(mut self, quick: QuickChoice) -> Self {
        self.quick = quick;
        self
    }

    /// How many pairs are to be chosen.
    #[must_use]
    pub fn count(&self) -> usize {
        self.count
    }

    /// Shape of the observations.
    #[must_use]
    pub fn space(&self) -> ObservationSpace {
        let mut space = self.encoder.space();
        space.group_features.extend(feature::PAIR.map(str::to_owned));
        space.context_features.extend(feature::CONTEXT.map(str::to_owned));
        space
    }

    /// Forgets the last matrix.
    pub fn reset(&mut self) {
        self.order.clear();
        self.encoder.reset();
    }

    /// Encodes one matrix.
    ///
    /// # Errors
    /// [`EncodeError::Shape`] for a matrix of another number of nodes.
    pub fn encode(&mut self, demands: &TrafficMatrix) -> Result<Observation, EncodeError> {
        let mut observation = Observation::default();
        self.encode_into(demands, &mut observation)?;
        Ok(observation)
    }

    /// The same in the memory of an earlier observation, whatever it holds.
    ///
    /// # Errors
    /// [`EncodeError::Shape`] for a matrix of another number of nodes; the observation is then as before.
    pub fn encode_into(
        &mut self,
        demands: &TrafficMatrix,
        observation: &mut Observation,
    ) -> Result<(), EncodeError> {
        self.encoder.encode_into(demands, &mut self.inner)?;
        let (base, demands, utilizations) = self.encoder.problem();
        self.chooser.begin(base.pair_count(), utilizations);
        match self.quick {
            QuickChoice::Rounds(rounds) => self.chooser.choose(base, demands, self.count, rounds),
            QuickChoice::Fractions(steps) => {
                self.chooser.divide(base, demands, utilizations, self.count, steps);
            }
        }
        let reached = self.chooser.reached(utilizations);
        self.chooser.rank(&mut self.order);
        let (pairs, known) = self.inner.groups.dim();
        let columns = known + feature::PAIR.len();
        if observation.groups.dim() != (pairs, columns) || !observation.groups.is_standard_layout() {
            observation.groups = Array2::zeros((pairs, columns));
        }
        let context = self.inner.context.len() + feature::CONTEXT.len();
        if observation.context.len() != context {
            observation.context = Array1::zeros(context);
        }
        observation.mask.clone_from(&self.inner.mask);
        let quick = &self.chooser;
        if let (Some(rows), Some(inner)) = (observation.groups.as_slice_mut(), self.inner.groups.as_slice()) {
            let rows = rows.chunks_exact_mut(columns).zip(inner.chunks_exact(known));
            for (pair, (row, inner)) in rows.enumerate() {
                row[..known].copy_from_slice(inner);
                let added = [quick.fractions[pair], quick.reliefs[pair], quick.mean_reliefs[pair], 0.0];
                row[known..].copy_from_slice(&added);
            }
        }
        let count = self.count.max(1) as f32;
        for (at, (_, pair)) in self.order.iter().enumerate() {
            observation.groups[[*pair as usize, known + 3]] = count / (count + at as f32);
        }
        for (value, inner) in observation.context.iter_mut().zip(&self.inner.context) {
            *value = *inner;
        }
        observation.context[context - 2] = reached.min(1.0) as f32;
        observation.context[context - 1] = self.count as f32 / pairs.max(1) as f32;
        Ok(())
    }

    /// What the quick choice for the last matrix is: at most as many pairs as are to be chosen, best first; those that
    /// would move, then those of the greatest relief. A set of its own, to learn from or to be used as it is; as
    /// a selector, [`QuickSelector`](crate::QuickSelector).
    #[must_use]
    pub fn quick(&self) -> Vec<GroupIx> {
        self.order.iter().take(self.count).map(|(_, pair)| GroupIx(*pair)).collect()
    }
}
