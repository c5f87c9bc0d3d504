//! A series of matrices as an environment: at each step a policy chooses the pairs that may move.

use std::ops::Range;
use std::sync::Arc;

use traflux_core::{Action, Environment, EnvironmentError, Observation, ObservationSpace, Reward, Step};
use traflux_lp::multicommodity::select::SelectionEvaluator;
use traflux_te::SelectionEncoder;

use super::series::{SelectionReward, TrafficSeries};
use crate::error::SimError;

/// How a series is played.
#[derive(Debug, Clone, PartialEq)]
pub struct EnvironmentSettings {
    /// The matrices that are played.
    pub matrices: Range<usize>,
    /// Steps of an episode.
    pub steps: usize,
    /// How choices are rewarded.
    pub reward: SelectionReward,
}

/// Plays matrices one after the other from a place that the seed chooses, around the end.
///
/// The traffic does not answer to what is chosen, so an episode only ends by its length. How many pairs may be chosen is
/// a matter of the encoder; an action with more is refused.
#[derive(Debug, Clone)]
pub struct NetworkEnvironment {
    series: Arc<TrafficSeries>,
    encoder: SelectionEncoder,
    evaluator: SelectionEvaluator,
    settings: EnvironmentSettings,
    at: usize,
    /// Steps left; 0 before `reset`.
    left: usize,
}

impl NetworkEnvironment {
    /// An environment on a series; the encoder must be one for its network and base.
    ///
    /// # Errors
    /// [`SimError::Series`] when there is not one matrix to play.
    pub fn new(
        series: Arc<TrafficSeries>,
        encoder: SelectionEncoder,
        settings: EnvironmentSettings,
    ) -> Result<Self, SimError> {
        let steps = series.steps(settings.reward.stale);
        if settings.matrices.is_empty() || settings.matrices.end > steps {
            let Range { start, end } = settings.matrices;
            return Err(SimError::Series { start, end, steps });
        }
        let evaluator = series.evaluator();
        Ok(Self { series, encoder, evaluator, settings, at: 0, left: 0 })
    }

    fn observe(&mut self) -> Result<Observation, EnvironmentError> {
        let demands = &self.series.matrices()[self.at];
        self.encoder.encode(demands).map_err(failed)
    }
}

fn failed(error: impl std::fmt::Display) -> EnvironmentError {
    EnvironmentError::Failed { reason: error.to_string() }
}

impl Environment for NetworkEnvironment {
    fn space(&self) -> ObservationSpace {
        self.encoder.space()
    }

    fn reset(&mut self, seed: u64) -> Result<Observation, EnvironmentError> {
        // The finaliser of SplitMix64: neighbouring seeds begin far apart.
        let mut hash = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let Range { start, end } = self.settings.matrices;
        self.at = start + ((hash ^ (hash >> 31)) % (end - start) as u64) as usize;
        self.left = self.settings.steps;
        self.encoder.reset();
        // Solvers that are kept warm may differ by rounding; episodes of one seed must not.
        self.evaluator.forget();
        self.observe()
    }

    fn step(&mut self, action: &Action) -> Result<Step, EnvironmentError> {
        if self.left == 0 {
            return Err(EnvironmentError::NeedsReset);
        }
        let pairs = self.series.network().pair_count();
        let (chosen, limit) = (action.critical.len(), self.encoder.count());
        if chosen > limit {
            return Err(EnvironmentError::Action { reason: format!("{chosen} pairs, limit {limit}") });
        }
        if let Some(pair) = action.critical.iter().find(|pair| pair.ix() >= pairs) {
            return Err(EnvironmentError::Action { reason: format!("pair {} of {pairs}", pair.ix()) });
        }
        let reward = &self.settings.reward;
        let total =
            self.series.reward(&mut self.evaluator, self.at, &action.critical, reward).map_err(failed)?;
        let price = reward.disturbance_price;
        let share = if price == 0.0 {
            0.0
        } else {
            let demands = &self.series.matrices()[self.at];
            traflux_te::selected_share(self.series.network(), demands, &action.critical)
        };
        self.left -= 1;
        self.at += 1;
        if self.at == self.settings.matrices.end {
            self.at = self.settings.matrices.start;
            self.encoder.reset();
        }
        Ok(Step {
            observation: self.observe()?,
            reward: Reward {
                total,
                terms: vec![
                    ("worth".to_owned(), total + price * share),
                    ("disturbance".to_owned(), -price * share),
                ],
            },
            terminated: false,
            truncated: self.left == 0,
            info: Vec::new(),
        })
    }
}
