//! The network of CFR-RL, so that its figures can be reproduced (Zhang et al., JSAC 2020).
//!
//! The matrix of demands over its greatest entry is an image of `n × n`. A convolution of 3 × 3 with 128 filters and a
//! fully connected layer of 128, both with leaky rectifiers, lead to one score per pair; `π` is their softmax. `K`
//! pairs are drawn from `π` without replacement, and the probability of the set is taken for the product of those
//! of its members:
//!
//! ```text
//! loss = − mean A Σ_{i ∈ set} ln π_i − c_e H(π),   A = r − b
//! ```
//!
//! with the mean reward seen so far in the same state as `b`, or the value of a second network of the same shape. In
//! the end the `K` most probable pairs are chosen. Such a network knows the pairs of one topology only.
//!
//! Where the paper is silent: Adam, weights by Glorot and Bengio (2010), rewards divided by the mean of the first
//! update, so that the coefficient of entropy does not depend on the unit of capacities.

use burn::module::{Module, Param};
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::nn::{Linear, PaddingConfig2d};
use burn::optim::{AdamConfig, GradientsParams, ModuleOptimizer};
use burn::tensor::activation::{leaky_relu, log_softmax};
use burn::tensor::{Device, Tensor, TensorData};
use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use serde::{Deserialize, Serialize};
use traflux_core::network::column::DEMAND;
use traflux_core::{Action, GroupIx, Observation, Policy, PolicyError};

use super::batch::tensor;
use super::model::{BLOCKED, values};
use crate::bandit::{BanditError, Scene, SetJudge};
use crate::distribution::Chooser;
use crate::parameters::uniform;

/// Slope of the rectifiers below zero, that of Keras in the reference.
const SLOPE: f64 = 0.2;
const KERNEL: usize = 3;

/// What a reward is compared with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ConvolutionBaseline {
    /// The mean of the rewards seen so far in the same state: REINFORCE as in the paper.
    #[default]
    AverageReward,
    /// The value of a second network: actor and critic.
    Critic,
}

/// Settings of the paper.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ConvolutionConfig {
    /// Seed of weights, order and draws.
    pub seed: u64,
    /// Filters of the convolution.
    pub filters: usize,
    /// Width of the fully connected layer.
    pub hidden: usize,
    /// Updates.
    pub updates: usize,
    /// States per update.
    pub scenes: usize,
    /// Sets drawn per state and update.
    pub draws: usize,
    /// Step size at first.
    pub learning_rate: f64,
    /// What it is multiplied by every [`ConvolutionConfig::decay_every`] updates.
    pub decay: f64,
    /// See [`ConvolutionConfig::decay`].
    pub decay_every: usize,
    /// Least step size.
    pub least_rate: f64,
    /// `c_e`.
    pub entropy_coefficient: f64,
    /// `b`.
    pub baseline: ConvolutionBaseline,
    /// Updates between reports.
    pub report_every: usize,
}

impl Default for ConvolutionConfig {
    fn default() -> Self {
        Self {
            seed: 0,
            filters: 128,
            hidden: 128,
            updates: 1000,
            scenes: 20,
            draws: 10,
            learning_rate: 1e-3,
            decay: 0.96,
            decay_every: 500,
            least_rate: 1e-4,
            entropy_coefficient: 0.1,
            baseline: ConvolutionBaseline::AverageReward,
            report_every: 100,
        }
    }
}

/// Told from time to time, and after the last update.
#[derive(Debug)]
pub struct ConvolutionProgress<'a> {
    /// Updates made.
    pub update: usize,
    /// Sets judged.
    pub rewards: u64,
    /// Mean reward of the last update.
    pub mean_reward: f64,
    /// Mean entropy of `π` in the last update.
    pub entropy: f64,
    /// The policy as it is now.
    pub policy: &'a ConvolutionPolicy,
}

#[derive(Module, Debug)]
struct Tower {
    convolution: Conv2d,
    hidden: Linear,
    out: Linear,
}

impl Tower {
    fn new(
        nodes: usize,
        outputs: usize,
        config: &ConvolutionConfig,
        random: &mut ChaCha8Rng,
        device: &Device,
    ) -> Self {
        let mut convolution = Conv2dConfig::new([1, config.filters], [KERNEL, KERNEL])
            .with_padding(PaddingConfig2d::Same)
            .init(device);
        let mut weights = |inputs: usize, outputs: usize, count: usize| -> Vec<f32> {
            let bound = (6.0 / (inputs + outputs) as f32).sqrt();
            (0..count).map(|_| bound * (2.0 * uniform(random) - 1.0)).collect()
        };
        let field = KERNEL * KERNEL;
        let data = weights(field, field * config.filters, field * config.filters);
        convolution.weight =
            Param::from_data(TensorData::new(data, [config.filters, 1, KERNEL, KERNEL]), device);
        convolution.bias =
            Some(Param::from_data(TensorData::new(vec![0.0f32; config.filters], [config.filters]), device));
        let mut linear = |inputs: usize, outputs: usize| Linear {
            weight: Param::from_data(
                TensorData::new(weights(inputs, outputs, inputs * outputs), [inputs, outputs]),
                device,
            ),
            bias: Some(Param::from_data(TensorData::new(vec![0.0f32; outputs], [outputs]), device)),
        };
        let hidden = linear(nodes * nodes * config.filters, config.hidden);
        let out = linear(config.hidden, outputs);
        Self { convolution, hidden, out }
    }

    /// `[batch, 1, nodes, nodes]` to `[batch, outputs]`.
    fn forward(&self, matrices: Tensor<4>) -> Tensor<2> {
        let [batch, ..] = matrices.dims();
        let seen = leaky_relu(self.convolution.forward(matrices), SLOPE);
        let [_, channels, rows, columns] = seen.dims();
        let hidden = self.hidden.forward(seen.reshape([batch, channels * rows * columns]));
        self.out.forward(leaky_relu(hidden, SLOPE))
    }
}

/// A trained network of the paper; it chooses the most probable pairs.
#[derive(Debug, Clone)]
pub struct ConvolutionPolicy {
    tower: Tower,
    nodes: usize,
    count: usize,
    device: Device,
}

impl ConvolutionPolicy {
    fn scores(&self, observation: &Observation) -> Vec<f32> {
        let image = tensor(image(observation, self.nodes), [1, 1, self.nodes, self.nodes], &self.device);
        values(self.tower.forward(image))
    }

    /// How many numbers were trained, without those of a critic.
    #[must_use]
    pub fn parameters(&self) -> usize {
        self.tower.num_params()
    }
}

impl Policy for ConvolutionPolicy {
    fn act(&mut self, observation: &Observation) -> Result<Action, PolicyError> {
        let pairs = self.nodes * (self.nodes - 1);
        if observation.len() != pairs || observation.mask.len() != pairs {
            let reason = format!("{} pairs, trained for {pairs}", observation.len());
            return Err(PolicyError::Failed { reason });
        }
        if observation.groups.ncols() == 0 {
            return Err(PolicyError::Shape { expected: DEMAND + 1, found: observation.groups.ncols() });
        }
        let scores = self.scores(observation);
        if let Some(value) = scores.iter().find(|score| !score.is_finite()) {
            return Err(PolicyError::NotFinite { what: "score", value: f64::from(*value) });
        }
        Ok(Action::choose(Chooser::default().top(&scores, &observation.mask, self.count, None)))
    }
}

/// Trains the network of the paper. All scenes are of one topology and have one row per ordered pair of nodes.
///
/// Equal arguments give equal policies as long as the back end adds in the same order, which one thread does.
///
/// # Errors
/// [`BanditError`].
pub fn train_convolution(
    config: &ConvolutionConfig,
    scenes: &[Scene],
    judge: &dyn SetJudge,
    progress: &mut dyn FnMut(ConvolutionProgress<'_>),
) -> Result<ConvolutionPolicy, BanditError> {
    let (nodes, count) = check(config, scenes)?;
    let pairs = nodes * (nodes - 1);
    let device = Device::flex().autodiff();
    let mut random = ChaCha8Rng::seed_from_u64(config.seed);
    let mut actor = Tower::new(nodes, pairs, config, &mut random, &device);
    let mut critic = Tower::new(nodes, 1, config, &mut random, &device);
    let mut actor_adam: ModuleOptimizer = AdamConfig::new().with_epsilon(1e-7).init();
    let mut critic_adam: ModuleOptimizer = AdamConfig::new().with_epsilon(1e-7).init();
    let mut chooser = Chooser::default();
    // Sum and number of the rewards seen in each state.
    let mut past = vec![(0.0f64, 0.0f64); scenes.len()];
    let (mut rewards, mut unit) = (0u64, None);
    let policy =
        |actor: &Tower| ConvolutionPolicy { tower: actor.valid(), nodes, count, device: Device::flex() };
    for update in 0..config.updates {
        let chosen: Vec<usize> = (0..config.scenes).map(|_| random.random_range(0..scenes.len())).collect();
        let images: Vec<f32> = chosen.iter().flat_map(|at| image(&scenes[*at].observation, nodes)).collect();
        let images: Tensor<4> = tensor(images, [config.scenes, 1, nodes, nodes], &device);
        let closed = chosen.iter().flat_map(|at| &scenes[*at].observation.mask);
        let closed = closed.map(|open| if *open { 0.0 } else { BLOCKED }).collect();
        let logits = actor.forward(images.clone()) + tensor(closed, [config.scenes, pairs], &device);
        let scores = values(logits.clone());
        let value = match config.baseline {
            ConvolutionBaseline::Critic => Some(critic.forward(images)),
            ConvolutionBaseline::AverageReward => None,
        };
        let foreseen = value.clone().map(values);

        let mut earned = Vec::with_capacity(config.scenes * config.draws);
        let mut sets = Vec::with_capacity(earned.capacity());
        for (row, at) in chosen.iter().enumerate() {
            let mask = &scenes[*at].observation.mask;
            let row = &scores[row * pairs..(row + 1) * pairs];
            let drawn: Vec<Vec<GroupIx>> =
                (0..config.draws).map(|_| chooser.top(row, mask, count, Some(&mut random))).collect();
            earned.extend(judge.judge(*at, &drawn)?);
            sets.extend(drawn);
        }
        rewards += earned.len() as u64;
        let mean_reward = earned.iter().sum::<f64>() / earned.len() as f64;
        let unit = *unit.get_or_insert(mean_reward.abs().max(f64::MIN_POSITIVE));
        let mut weights = vec![0.0f32; config.scenes * pairs];
        let mut means = vec![0.0f32; config.scenes];
        for (row, at) in chosen.iter().enumerate() {
            let part = row * config.draws..(row + 1) * config.draws;
            let sum: f64 = earned[part.clone()].iter().sum();
            means[row] = (sum / config.draws as f64 / unit) as f32;
            past[*at].0 += sum;
            past[*at].1 += config.draws as f64;
            let baseline = match &foreseen {
                Some(values) => f64::from(values[row]),
                None => past[*at].0 / past[*at].1 / unit,
            };
            for (set, reward) in sets[part.clone()].iter().zip(&earned[part]) {
                let advantage = (reward / unit - baseline) / config.draws as f64;
                for pair in set {
                    weights[row * pairs + pair.ix()] += advantage as f32;
                }
            }
        }
        let log = log_softmax(logits, 1);
        let gained = (log.clone() * tensor(weights, [config.scenes, pairs], &device)).sum_dim(1).mean();
        let entropy = (log.clone().exp() * log).sum_dim(1).mean().neg();
        let seen_entropy = f64::from(values(entropy.clone())[0]);
        let loss = gained.neg() - entropy * config.entropy_coefficient;
        let decays = (update / config.decay_every.max(1)) as f64;
        let rate = (config.learning_rate * config.decay.powf(decays)).max(config.least_rate);
        let gradients = GradientsParams::from_grads(loss.backward(), &actor);
        actor = actor_adam.step(rate, actor, gradients);
        if let Some(value) = value {
            let target: Tensor<2> = tensor(means, [config.scenes, 1], &device);
            let loss = (value - target).square().mean();
            let gradients = GradientsParams::from_grads(loss.backward(), &critic);
            critic = critic_adam.step(rate, critic, gradients);
        }
        if (update + 1) % config.report_every.max(1) == 0 || update + 1 == config.updates {
            let policy = policy(&actor);
            let (update, entropy) = (update + 1, seen_entropy);
            progress(ConvolutionProgress { update, rewards, mean_reward, entropy, policy: &policy });
        }
    }
    Ok(policy(&actor))
}

/// Demands by rows over the greatest.
fn image(observation: &Observation, nodes: usize) -> Vec<f32> {
    let demands = observation.groups.column(DEMAND);
    let greatest = demands.iter().copied().fold(f32::MIN_POSITIVE, f32::max);
    let mut image = vec![0.0; nodes * nodes];
    for (pair, demand) in demands.iter().enumerate() {
        let (source, rest) = (pair / (nodes - 1), pair % (nodes - 1));
        image[source * nodes + rest + usize::from(rest >= source)] = demand / greatest;
    }
    image
}

/// Nodes, and pairs to choose.
fn check(config: &ConvolutionConfig, scenes: &[Scene]) -> Result<(usize, usize), BanditError> {
    let positive = [
        ("filters", config.filters),
        ("hidden", config.hidden),
        ("updates", config.updates),
        ("scenes", config.scenes),
        ("draws", config.draws),
    ];
    if let Some((setting, _)) = positive.into_iter().find(|(_, value)| *value == 0) {
        return Err(BanditError::Setting { setting, value: 0.0, range: "at least 1" });
    }
    let rates = [
        ("learning_rate", config.learning_rate),
        ("decay", config.decay),
        ("least_rate", config.least_rate),
        ("entropy_coefficient", config.entropy_coefficient),
    ];
    if let Some((setting, value)) = rates.into_iter().find(|(_, v)| !(v.is_finite() && *v >= 0.0)) {
        return Err(BanditError::Setting { setting, value, range: "finite and not negative" });
    }
    let Some(first) = scenes.first() else {
        return Err(BanditError::Setting { setting: "number of scenes", value: 0.0, range: "at least 1" });
    };
    let pairs = first.observation.len();
    let nodes = (1..=pairs).find(|nodes| nodes * (nodes - 1) >= pairs).unwrap_or(0);
    for (at, scene) in scenes.iter().enumerate() {
        let problem = |problem| Err(BanditError::Scene { scene: at, problem });
        let seen = &scene.observation;
        if pairs == 0 || nodes * (nodes - 1) != pairs || seen.len() != pairs || scene.count != first.count {
            return problem("is not one row per ordered pair of the same nodes, or has another count");
        }
        if seen.mask.len() != pairs || !seen.mask.contains(&true) || seen.groups.ncols() == 0 {
            return problem("has no demand, a mask of another length, or no pair that may be chosen");
        }
        if !seen.groups.column(DEMAND).iter().all(|demand| demand.is_finite()) {
            return problem("has a demand that is not finite");
        }
    }
    Ok((nodes, first.count))
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::{Array1, Array2};

    fn scenes() -> Vec<Scene> {
        let scene = |best: usize| Scene {
            observation: Observation {
                groups: Array2::from_shape_fn((12, 1), |(i, _)| if i == best { 3.0 } else { 0.1 }),
                context: Array1::zeros(0),
                mask: vec![true; 12],
            },
            count: 2,
            example: Vec::new(),
        };
        (0..12).map(scene).collect()
    }

    fn judge(at: usize, sets: &[Vec<GroupIx>]) -> Result<Vec<f64>, traflux_core::EnvironmentError> {
        Ok(sets.iter().map(|set| if set.contains(&GroupIx::from(at)) { 1.0 } else { 0.0 }).collect())
    }

    #[test]
    fn the_network_of_the_paper_learns_to_choose_the_pair_that_pays() {
        for baseline in [ConvolutionBaseline::AverageReward, ConvolutionBaseline::Critic] {
            let config = ConvolutionConfig {
                filters: 4,
                hidden: 16,
                updates: 150,
                scenes: 12,
                draws: 4,
                learning_rate: 5e-3,
                entropy_coefficient: 0.01,
                baseline,
                ..ConvolutionConfig::default()
            };
            let scenes = scenes();
            let mut policy = train_convolution(&config, &scenes, &judge, &mut |_| {}).unwrap();
            let found = (0..12).filter(|at| {
                policy.act(&scenes[*at].observation).unwrap().critical.contains(&GroupIx::from(*at))
            });
            // Two of twelve by chance.
            let found = found.count();
            assert!(found >= 9, "{baseline:?}: {found} of 12");
        }
    }

    #[test]
    fn the_actor_of_abilene_has_the_size_of_the_reference() {
        let mut random = ChaCha8Rng::seed_from_u64(1);
        let config = ConvolutionConfig::default();
        let tower = Tower::new(12, 132, &config, &mut random, &Device::flex());
        // 9 · 128 + 128, 18432 · 128 + 128, 128 · 132 + 132: the 2.38 million of the reference code.
        assert_eq!(tower.num_params(), 2_377_732);
    }
}
