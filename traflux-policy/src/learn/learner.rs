//! How do transitions become an update?
//!
//! Advantage actor-critic with generalised advantage estimation, and the clipped objective of proximal policy
//! optimisation (Schulman et al., 2017) so that a batch may be used for several epochs and may be a little
//! old: with `ρ = π(a|s) / π_then(a|s)`, normalised advantages `A`, returns `R` in the critic's scale,
//!
//! ```text
//! loss = − mean min(ρ A, clip(ρ, 1 ± ε) A) + c_v mean (v − R)² − c_e mean H
//! ```
//!
//! With one epoch on fresh transitions `ρ = 1`, and this *is* advantage actor-critic. `H` is the entropy of the
//! first choice of the ordered set plus that of the Gaussian latents, a lower bound of the whole in closed form.
//!
//! Returns are scaled by what the first batch says of rewards, so that one learning rate fits any reward.
//! An update with a loss, gradient or weight that is not finite is rejected: the last good parameters stay.

use burn::optim::{AdamConfig, GradientsParams, ModuleOptimizer};
use burn::tensor::activation::log_softmax;
use burn::tensor::{Device, Tensor};
use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use serde::{Deserialize, Serialize};
use traflux_core::Transition;

use super::batch::{Actions, Padded, tensor, usable};
use super::model::{ActorCritic, values};
use crate::buffer::{Targets, advantages, continues};
use crate::network::Workspace;
use crate::parameters::Parameters;
use crate::range::InputRange;
use crate::shared::SharedParameters;

/// `½ ln(2π)`, and with one half more the entropy of a unit Gaussian.
const HALF_LN_TAU: f64 = 0.918_938_533_204_672_7;
/// Ratios beyond `e^±10` only overflow; clipping has long made their gradient zero.
const LOG_RATIO_LIMIT: f64 = 10.0;

/// Settings of a learner.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LearnerConfig {
    /// Step size of Adam.
    pub learning_rate: f64,
    /// `γ`: what the next learning step counts, in [0, 1).
    pub discount: f64,
    /// `λ` of generalised advantage estimation, in [0, 1].
    pub lambda: f64,
    /// Passes over each batch; 1 is plain advantage actor-critic.
    pub epochs: usize,
    /// Transitions per gradient step.
    pub minibatch: usize,
    /// `ε`: how far the probability of an action may move in one update.
    pub clip: f64,
    /// `c_v`.
    pub value_coefficient: f64,
    /// `c_e`.
    pub entropy_coefficient: f64,
    /// Greatest norm of all gradients together.
    pub max_gradient_norm: f64,
    /// Ends the epochs of a batch when the policy has moved this far (mean Kullback–Leibler divergence).
    pub target_divergence: f64,
    /// Seed of the order of minibatches.
    pub seed: u64,
}

impl Default for LearnerConfig {
    fn default() -> Self {
        Self {
            learning_rate: 1e-3,
            discount: 0.9,
            lambda: 0.95,
            epochs: 4,
            minibatch: 64,
            clip: 0.2,
            value_coefficient: 0.5,
            entropy_coefficient: 0.003,
            max_gradient_norm: 0.5,
            target_divergence: 0.05,
            seed: 0,
        }
    }
}

/// What one update did.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct LearnStats {
    /// Version of the parameters that it published.
    pub version: u64,
    /// Transitions that it learned from.
    pub transitions: usize,
    /// Transitions that it could not use: actions of a fallback or another policy, numbers not finite.
    pub unusable: usize,
    /// Gradient steps taken.
    pub updates: usize,
    /// Step size used.
    pub learning_rate: f64,
    /// Mean reward of the transitions.
    pub mean_reward: f64,
    /// Mean loss of the actor.
    pub policy_loss: f64,
    /// Mean loss of the critic, in its own scale.
    pub value_loss: f64,
    /// Mean entropy.
    pub entropy: f64,
    /// Mean norm of the gradients before clipping.
    pub gradient_norm: f64,
    /// Mean divergence from the policy that acted, after the last epoch.
    pub divergence: f64,
    /// Share of the variance of returns that the critic had predicted; 1 is all.
    pub explained_variance: f64,
}

/// An update that was not made.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum LearnError {
    /// No transition could be used.
    #[error("none of {transitions} transitions can be learned from")]
    NothingToLearn {
        /// How many there were.
        transitions: usize,
    },
    /// The update diverged and was rejected; the last good parameters stay in use.
    #[error("update rejected: {what} is {value}")]
    Diverged {
        /// Which number.
        what: &'static str,
        /// Its value.
        value: f64,
    },
    /// The learner's thread has ended or could not be started.
    #[error("the learner does not run: {reason}")]
    NotRunning {
        /// Why.
        reason: String,
    },
    /// A setting is outside its range.
    #[error("{setting} is {value}, must be in {range}")]
    Setting {
        /// Which one.
        setting: &'static str,
        /// Its value.
        value: f64,
        /// What is allowed.
        range: &'static str,
    },
}

impl LearnError {
    /// A stable name for metrics and bindings.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::NothingToLearn { .. } => "learn_nothing",
            Self::Diverged { .. } => "learn_diverged",
            Self::NotRunning { .. } => "learn_not_running",
            Self::Setting { .. } => "learn_setting",
        }
    }

    /// Whether the same call may succeed later with nothing changed here.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::NothingToLearn { .. } | Self::Diverged { .. })
    }
}

impl LearnerConfig {
    /// Checks every setting.
    ///
    /// # Errors
    /// [`LearnError::Setting`] for the first that is outside its range.
    pub fn check(&self) -> Result<(), LearnError> {
        let unit = |v: f64| (0.0..=1.0).contains(&v);
        let not_negative = |v: f64| v.is_finite() && v >= 0.0;
        let checks: [(&'static str, f64, bool, &'static str); 10] = [
            ("learning_rate", self.learning_rate, learning_rate_is_valid(self.learning_rate), "(0, 1]"),
            ("discount", self.discount, unit(self.discount) && self.discount < 1.0, "[0, 1)"),
            ("lambda", self.lambda, unit(self.lambda), "[0, 1]"),
            ("epochs", self.epochs as f64, (1..=100).contains(&self.epochs), "[1, 100]"),
            ("minibatch", self.minibatch as f64, self.minibatch >= 1, "[1, ∞)"),
            ("clip", self.clip, unit(self.clip) && self.clip > 0.0, "(0, 1]"),
            ("value_coefficient", self.value_coefficient, not_negative(self.value_coefficient), "[0, ∞)"),
            (
                "entropy_coefficient",
                self.entropy_coefficient,
                not_negative(self.entropy_coefficient),
                "[0, ∞)",
            ),
            (
                "max_gradient_norm",
                self.max_gradient_norm,
                not_negative(self.max_gradient_norm) && self.max_gradient_norm > 0.0,
                "(0, ∞)",
            ),
            ("target_divergence", self.target_divergence, self.target_divergence > 0.0, "(0, ∞]"),
        ];
        match checks.into_iter().find(|(_, _, valid, _)| !valid) {
            Some((setting, value, _, range)) => Err(LearnError::Setting { setting, value, range }),
            None => Ok(()),
        }
    }
}

fn learning_rate_is_valid(rate: f64) -> bool {
    rate > 0.0 && rate <= 1.0
}

pub(super) fn check_learning_rate(rate: f64) -> Result<(), LearnError> {
    if learning_rate_is_valid(rate) {
        Ok(())
    } else {
        Err(LearnError::Setting { setting: "learning_rate", value: rate, range: "(0, 1]" })
    }
}

/// Learns from transitions and publishes what it learned.
pub struct Learner {
    config: LearnerConfig,
    shared: SharedParameters,
    /// The last good parameters, equal to the model's.
    good: Parameters,
    /// `None` after a rejected update: rebuilt from the good parameters.
    trained: Option<(ActorCritic, ModuleOptimizer)>,
    device: Device,
    rng: ChaCha8Rng,
    workspace: Workspace,
    calibrated: bool,
    transitions: u64,
}

impl std::fmt::Debug for Learner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Learner")
            .field("config", &self.config)
            .field("shape", &self.good.shape)
            .field("transitions", &self.transitions)
            .finish_non_exhaustive()
    }
}

/// One usable transition with what the update needs of it.
struct Sample<'a> {
    transition: &'a Transition,
    advantage: f32,
    target: f32,
}

/// Sums over gradient steps.
#[derive(Default)]
struct Losses {
    policy: f64,
    value: f64,
    entropy: f64,
    gradient_norm: f64,
    divergence: f64,
    updates: usize,
}

impl Learner {
    /// A learner that goes on from the shared parameters.
    ///
    /// # Errors
    /// [`LearnError::Setting`].
    pub fn new(config: LearnerConfig, shared: SharedParameters) -> Result<Self, LearnError> {
        config.check()?;
        let good = (*shared.load()).clone();
        if good.shape.identities != 0 {
            let value = good.shape.identities as f64;
            return Err(LearnError::Setting { setting: "identities", value, range: "[0, 0]" });
        }
        Ok(Self {
            config,
            // Parameters that were trained before carry the scale of their critic.
            calibrated: good.value_scale != 1.0 || good.value_shift != 0.0,
            good,
            shared,
            trained: None,
            device: Device::flex().autodiff(),
            rng: ChaCha8Rng::seed_from_u64(config.seed),
            workspace: Workspace::default(),
            transitions: 0,
        })
    }

    /// The settings.
    #[must_use]
    pub fn config(&self) -> &LearnerConfig {
        &self.config
    }

    /// Where it publishes.
    #[must_use]
    pub fn shared(&self) -> &SharedParameters {
        &self.shared
    }

    /// How many transitions it has learned from.
    #[must_use]
    pub fn transitions(&self) -> u64 {
        self.transitions
    }

    /// Changes the step size from the next update on.
    ///
    /// # Errors
    /// [`LearnError::Setting`] outside (0, 1].
    pub fn set_learning_rate(&mut self, rate: f64) -> Result<(), LearnError> {
        check_learning_rate(rate)?;
        self.config.learning_rate = rate;
        Ok(())
    }

    /// Learns from transitions of one stream, in order. Where one does not begin in the state in which the one
    /// before it ended, the stream was cut and nothing is credited across.
    ///
    /// Equal learners and equal transitions give bit-identical parameters.
    ///
    /// # Errors
    /// [`LearnError::NothingToLearn`] and [`LearnError::Diverged`]; the parameters in use stay.
    pub fn learn(&mut self, transitions: &[Transition]) -> Result<LearnStats, LearnError> {
        self.learn_streams(&[transitions])
    }

    /// Learns from several streams at once, such as those of parallel environments.
    ///
    /// # Errors
    /// As [`learn`](Self::learn).
    pub fn learn_streams(&mut self, streams: &[&[Transition]]) -> Result<LearnStats, LearnError> {
        let total: usize = streams.iter().map(|s| s.len()).sum();
        let shape = self.good.shape;
        let streams: Vec<Vec<&Transition>> = streams
            .iter()
            .map(|stream| {
                stream.iter().filter(|t| usable(t, shape.group_features, shape.context_features)).collect()
            })
            .collect();
        let count: usize = streams.iter().map(Vec::len).sum();
        if count == 0 {
            return Err(LearnError::NothingToLearn { transitions: total });
        }
        let before = self.good.clone();
        let was_calibrated = self.calibrated;
        match self.update(&streams, count) {
            Ok(mut stats) => {
                stats.unusable = total - count;
                self.transitions += count as u64;
                stats.version = self.shared.publish(self.good.clone());
                Ok(stats)
            }
            Err(error) => {
                self.good = before;
                self.calibrated = was_calibrated;
                // Adam's moments are as suspect as the weights: both start again from the last good set.
                self.trained = None;
                Err(error)
            }
        }
    }

    fn update(&mut self, streams: &[Vec<&Transition>], count: usize) -> Result<LearnStats, LearnError> {
        let all = || streams.iter().flatten();
        let mean_reward = all().map(|t| t.reward.total).sum::<f64>() / count as f64;
        if !self.calibrated {
            self.calibrate(streams, count, mean_reward);
        }
        let shape = self.good.shape;
        let range = self
            .good
            .range
            .get_or_insert_with(|| InputRange::empty(shape.group_features, shape.context_features));
        all().for_each(|t| range.extend(&t.observation));

        let targets: Vec<Targets> = streams.iter().map(|stream| self.targets(stream)).collect();
        let explained_variance = explained(&targets);
        let samples = self.samples(streams, &targets, count)?;
        let (model, optimizer) = self.trained.take().unwrap_or_else(|| {
            (
                ActorCritic::from_parameters(&self.good, &self.device),
                AdamConfig::new().with_epsilon(1e-7).init(),
            )
        });
        let (model, optimizer, losses) = self.epochs(model, optimizer, &samples)?;
        let learned = model.to_parameters(&self.good);
        if !learned.is_finite() {
            return Err(LearnError::Diverged { what: "a weight", value: f64::NAN });
        }
        self.good = learned;
        self.trained = Some((model, optimizer));
        let steps = losses.updates.max(1) as f64;
        Ok(LearnStats {
            version: 0,
            transitions: count,
            unusable: 0,
            updates: losses.updates,
            learning_rate: self.config.learning_rate,
            mean_reward,
            policy_loss: losses.policy / steps,
            value_loss: losses.value / steps,
            entropy: losses.entropy / steps,
            gradient_norm: losses.gradient_norm / steps,
            divergence: losses.divergence,
            explained_variance,
        })
    }

    /// Sets the critic's scale from rewards, as if they were independent: with the discount `γ` times the
    /// probability of going on, returns have mean `r̄ / (1 − γ)` and deviation `s / √(1 − γ²)`.
    fn calibrate(&mut self, streams: &[Vec<&Transition>], count: usize, mean: f64) {
        let all = || streams.iter().flatten();
        let variance = all().map(|t| (t.reward.total - mean).powi(2)).sum::<f64>() / count as f64;
        let goes_on = all().filter(|t| !t.terminated).count() as f64 / count as f64;
        let discount = self.config.discount * goes_on;
        let shift = mean / (1.0 - discount);
        // Constant rewards have no deviation: then a tenth of their size is a scale that learns.
        let scale = (variance / (1.0 - discount * discount)).sqrt().max(0.1 * mean.abs()).max(1e-3);
        if shift.is_finite() && scale.is_finite() {
            (self.good.value_shift, self.good.value_scale) = (shift as f32, scale as f32);
            self.calibrated = true;
        }
    }

    fn targets(&mut self, stream: &[&Transition]) -> Targets {
        let (good, workspace) = (&self.good, &mut self.workspace);
        let mut value = |observation| f64::from(good.forward(observation, workspace).value);
        let values: Vec<f64> = stream.iter().map(|t| value(&t.observation)).collect();
        let goes_on = continues(stream);
        let next_values: Vec<f64> = (0..stream.len())
            .map(|t| if goes_on[t] { values[t + 1] } else { value(&stream[t].next_observation) })
            .collect();
        advantages(stream, &values, &next_values, &goes_on, self.config.discount, self.config.lambda)
    }

    fn samples<'a>(
        &self,
        streams: &[Vec<&'a Transition>],
        targets: &[Targets],
        count: usize,
    ) -> Result<Vec<Sample<'a>>, LearnError> {
        let all = || targets.iter().flat_map(|t| &t.advantages);
        let mean = all().sum::<f64>() / count as f64;
        let deviation = (all().map(|a| (a - mean).powi(2)).sum::<f64>() / count as f64).sqrt();
        if !deviation.is_finite() {
            return Err(LearnError::Diverged { what: "the advantages' deviation", value: deviation });
        }
        let (shift, scale) = (f64::from(self.good.value_shift), f64::from(self.good.value_scale));
        let pairs = streams
            .iter()
            .zip(targets)
            .flat_map(|(stream, targets)| stream.iter().zip(targets.advantages.iter().zip(&targets.returns)));
        Ok(pairs
            .map(|(transition, (advantage, target))| Sample {
                transition,
                advantage: ((advantage - mean) / (deviation + 1e-8)) as f32,
                target: ((target - shift) / scale) as f32,
            })
            .collect())
    }

    fn epochs(
        &mut self,
        mut model: ActorCritic,
        mut optimizer: ModuleOptimizer,
        samples: &[Sample<'_>],
    ) -> Result<(ActorCritic, ModuleOptimizer, Losses), LearnError> {
        let mut losses = Losses::default();
        let mut order: Vec<usize> = (0..samples.len()).collect();
        for _ in 0..self.config.epochs {
            for last in (1..order.len()).rev() {
                order.swap(last, self.rng.random_range(0..=last));
            }
            let (mut divergence, mut parts) = (0.0, 0.0);
            // Even parts: a last minibatch of a few transitions would step on noise.
            let pieces = order.len().div_ceil(self.config.minibatch);
            for piece in order.chunks(order.len().div_ceil(pieces)) {
                let chosen: Vec<&Sample<'_>> = piece.iter().map(|ix| &samples[*ix]).collect();
                let (loss, terms) = self.loss(&model, &chosen);
                let value = f64::from(values(loss.clone())[0]);
                if !value.is_finite() {
                    return Err(LearnError::Diverged { what: "the loss", value });
                }
                let mut gradients = GradientsParams::from_grads(loss.backward(), &model);
                let norm = model.clip(&mut gradients, self.config.max_gradient_norm);
                if !norm.is_finite() {
                    return Err(LearnError::Diverged { what: "the gradient's norm", value: norm });
                }
                model = optimizer.step(self.config.learning_rate, model, gradients);
                losses.policy += terms[0];
                losses.value += terms[1];
                losses.entropy += terms[2];
                losses.gradient_norm += norm;
                losses.updates += 1;
                divergence += terms[3] * piece.len() as f64;
                parts += piece.len() as f64;
            }
            losses.divergence = divergence / parts;
            if losses.divergence > self.config.target_divergence {
                break;
            }
        }
        Ok((model, optimizer, losses))
    }

    /// The loss of a minibatch, and policy loss, value loss, entropy and divergence as numbers.
    fn loss(&self, model: &ActorCritic, samples: &[&Sample<'_>]) -> (Tensor<1>, [f64; 4]) {
        let config = &self.config;
        let batch = samples.len();
        let transitions: Vec<&Transition> = samples.iter().map(|s| s.transition).collect();
        let column = |value: &dyn Fn(&Sample<'_>) -> f32| -> Tensor<1> {
            tensor(samples.iter().map(|s| value(s)).collect(), [batch], &self.device)
        };
        let states =
            Padded::new(&transitions.iter().map(|t| &t.observation).collect::<Vec<_>>(), &self.device);
        let width = states.width;
        let actions = Actions::new(&transitions, width, &self.device);
        let out = model.forward(&self.good.shape, states.groups, states.context, states.present);
        let log_std = model.log_std();
        let headroom_log_std = log_std.clone().narrow(0, 0, 1);
        let multiplier_log_std = log_std.narrow(0, 1, 1);

        let log_probability = {
            let [_, places, _] = actions.chosen.dims();
            let spread = |values: Tensor<2>| -> Tensor<3> {
                values.reshape([batch, 1, width]).expand([batch, places, width])
            };
            let open = log_softmax(spread(out.scores.clone()) + actions.blocked, 2);
            let set: Tensor<1> = (open * actions.chosen.clone()).sum_dim(2).sum_dim(1).reshape([batch]);
            let means: Tensor<2> =
                (spread(out.multipliers) * actions.chosen).sum_dim(2).reshape([batch, places]);
            let log_std = multiplier_log_std.clone().reshape([1, 1]).expand([batch, places]);
            let multipliers = gaussian(actions.multipliers, means, log_std) * actions.taken.clone();
            let headroom = gaussian(actions.headroom, out.headroom, headroom_log_std.clone().expand([batch]));
            set + multipliers.sum_dim(1).reshape([batch]) + headroom
        };
        let then = column(&|s| s.transition.action.log_probability as f32);
        let log_ratio = (log_probability - then).clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT);
        let ratio = log_ratio.clone().exp();
        let advantage = column(&|s| s.advantage);
        let clipped = ratio.clone().clamp(1.0 - config.clip, 1.0 + config.clip) * advantage.clone();
        let policy = (ratio.clone() * advantage).min_pair(clipped).mean().neg();
        let value = (out.value - column(&|s| s.target)).square().mean();
        let first = log_softmax(out.scores + actions.closed, 1);
        let choice = (first.clone().exp() * first).sum_dim(1).mean().neg();
        // E[(ρ − 1) − ln ρ], which is never negative, unlike the plain mean of −ln ρ.
        let divergence = (ratio - 1.0 - log_ratio).mean();
        let multipliers = actions.taken.sum_dim(1).mean();
        let entropy = choice
            + (headroom_log_std + 0.5 + HALF_LN_TAU)
            + (multiplier_log_std + 0.5 + HALF_LN_TAU) * multipliers;
        let scalar = |tensor: &Tensor<1>| f64::from(values(tensor.clone())[0]);
        let terms = [scalar(&policy), scalar(&value), scalar(&entropy), scalar(&divergence)];
        let loss = policy + value * config.value_coefficient - entropy * config.entropy_coefficient;
        (loss, terms)
    }
}

/// Log-density of Gaussians.
fn gaussian<const D: usize>(value: Tensor<D>, mean: Tensor<D>, log_std: Tensor<D>) -> Tensor<D> {
    let z = (value - mean) * log_std.clone().neg().exp();
    z.square() * -0.5 - log_std - HALF_LN_TAU
}

/// `1 − Var(returns − values) / Var(returns)`; 0 where returns do not vary.
fn explained(targets: &[Targets]) -> f64 {
    let variance = |values: Vec<f64>| {
        let mean = values.iter().sum::<f64>() / values.len().max(1) as f64;
        values.iter().map(|v| (v - mean).powi(2)).sum::<f64>()
    };
    let total = variance(targets.iter().flat_map(|t| t.returns.clone()).collect());
    // Advantage is return minus value: what the critic did not explain.
    let left = variance(targets.iter().flat_map(|t| t.advantages.clone()).collect());
    if total > 0.0 { 1.0 - left / total } else { 0.0 }
}
