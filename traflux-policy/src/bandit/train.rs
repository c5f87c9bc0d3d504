//! The loop: draw sets, have them judged, step.
//!
//! For each state of an update, `S` sets are drawn from the policy and judged at once. With rewards `r_s`, each is
//! compared with the mean of the others (Kool, van Hoof and Welling 2019), which leaves the gradient unbiased, and
//! `σ`, the running deviation of these differences, makes one learning rate fit any reward:
//!
//! ```text
//! A_s  = (r_s − mean_{t≠s} r_t) / σ
//! loss = − mean A_s ln P(set_s) − c_e H + c_x X + c_v (v − mean r)²
//! ```
//!
//! `P` is the probability of an ordered set and `H` the entropy of its first choice, see
//! [`distribution`](crate::distribution); `X` is the loss of an example, a set known to be good:
//! `−mean_{i ∈ set} ln (e^{s_i} / (e^{s_i} + Σ_{j ∉ set} e^{s_j}))`. Training may begin with examples alone. What it
//! comes to is the running average of all parameters (Polyak and Juditsky 1992), which is better than the last.
//!
//! Every state has random numbers of its own and gradients are added in the order of states: equal arguments give
//! bit-identical parameters, whatever the threads.

use std::ops::ControlFlow;

use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use serde::{Deserialize, Serialize};
use traflux_core::{EnvironmentError, GroupIx, Observation};

use super::adam::{Adam, blend};
use super::gradient::{GradientWorkspace, Gradients};
use super::memory::BanditMemory;
use super::objective::Weights;
use crate::distribution::Chooser;
use crate::parameters::{NetworkShape, Parameters};
use crate::range::InputRange;

/// How fast `σ` follows.
const DEVIATION_RATE: f64 = 0.05;

/// One state to choose in.
#[derive(Debug, Clone, PartialEq)]
pub struct Scene {
    /// What the policy sees.
    pub observation: Observation,
    /// How many groups it chooses.
    pub count: usize,
    /// A set known to be good, the best group first; empty where none is known.
    pub example: Vec<GroupIx>,
}

/// Says what sets are worth.
pub trait SetJudge: Sync {
    /// The reward of each set in the scene at a position. Equal arguments must give equal rewards.
    ///
    /// # Errors
    /// [`EnvironmentError`], which ends the training.
    fn judge(&self, scene: usize, sets: &[Vec<GroupIx>]) -> Result<Vec<f64>, EnvironmentError>;
}

impl<F> SetJudge for F
where
    F: Fn(usize, &[Vec<GroupIx>]) -> Result<Vec<f64>, EnvironmentError> + Sync,
{
    fn judge(&self, scene: usize, sets: &[Vec<GroupIx>]) -> Result<Vec<f64>, EnvironmentError> {
        self(scene, sets)
    }
}

/// Settings of a training.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BanditConfig {
    /// Seed of parameters, order and draws.
    pub seed: u64,
    /// Width of the network's hidden layers.
    pub hidden: usize,
    /// Whether every group has a bias of its own: for scenes that all show the same groups.
    pub identities: bool,
    /// Threads; they change how long it takes and nothing else.
    pub threads: usize,
    /// Updates on examples alone, before any set is judged.
    pub example_updates: usize,
    /// Updates on judged sets.
    pub updates: usize,
    /// States per update.
    pub scenes: usize,
    /// `S`: sets judged per state, at least 2.
    pub draws: usize,
    /// Step size of Adam at first; it falls linearly.
    pub learning_rate: f64,
    /// The part of it that is left in the end.
    pub final_rate: f64,
    /// `c_e` at first; it falls linearly to nothing.
    pub entropy_coefficient: f64,
    /// `c_x`: what examples count beside judged sets.
    pub example_coefficient: f64,
    /// `c_v`.
    pub value_coefficient: f64,
    /// Greatest norm of all gradients together.
    pub max_gradient_norm: f64,
    /// How many of the last updates the averaged parameters remember, about.
    pub average_over: usize,
    /// Updates between reports.
    pub report_every: usize,
}

impl Default for BanditConfig {
    fn default() -> Self {
        Self {
            seed: 0,
            hidden: 24,
            identities: false,
            threads: 1,
            example_updates: 0,
            updates: 1000,
            scenes: 16,
            draws: 16,
            learning_rate: 2e-3,
            final_rate: 0.05,
            entropy_coefficient: 0.003,
            example_coefficient: 0.0,
            value_coefficient: 0.5,
            max_gradient_norm: 1.0,
            average_over: 100,
            report_every: 100,
        }
    }
}

/// Told from time to time, and after the last update.
#[derive(Debug)]
pub struct BanditProgress<'a> {
    /// Updates made, those on examples included.
    pub update: usize,
    /// Updates to make.
    pub updates: usize,
    /// Sets judged.
    pub rewards: u64,
    /// Mean reward of the sets drawn since the last report; `None` where none were.
    pub mean_reward: Option<f64>,
    /// Mean loss of the examples since the last report; `None` where there were none.
    pub example_loss: Option<f64>,
    /// Mean entropy of the first choice in the last update.
    pub entropy: f64,
    /// Norm of the last gradient before it was limited.
    pub gradient_norm: f64,
    /// The averaged parameters.
    pub parameters: &'a Parameters,
    /// What the training would need to go on from here.
    pub memory: BanditMemory,
}

/// Where a training starts that does not start from nothing.
#[derive(Debug, Clone, PartialEq)]
pub struct BanditStart {
    /// The averaged parameters.
    pub parameters: Parameters,
    /// With what an earlier training with equal arguments remembered it goes on as if it had never been left; `None`
    /// trains anew from these parameters.
    pub memory: Option<BanditMemory>,
}

/// What training came to.
#[derive(Debug, Clone, PartialEq)]
pub struct BanditReport {
    /// The averaged parameters.
    pub parameters: Parameters,
    /// Sets judged.
    pub rewards: u64,
    /// Updates without a step, because the gradient was not finite.
    pub rejected: usize,
}

/// A training that could not begin or go on.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum BanditError {
    /// A reward could not be had.
    #[error(transparent)]
    Judge(#[from] EnvironmentError),
    /// Somebody who watched it asked to stop.
    #[error("stopped after {update} updates")]
    Stopped {
        /// Updates made.
        update: usize,
    },
    /// A setting is outside its range.
    #[error("{setting} is {value}, must be {range}")]
    Setting {
        /// Which one.
        setting: &'static str,
        /// Its value.
        value: f64,
        /// What is allowed.
        range: &'static str,
    },
    /// Scenes that do not fit each other or hold what cannot be learned from.
    #[error("scene {scene} {problem}")]
    Scene {
        /// Its position.
        scene: usize,
        /// What is wrong with it.
        problem: &'static str,
    },
}

impl BanditError {
    /// A stable name for metrics and bindings.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Judge(error) => error.code(),
            Self::Stopped { .. } => "bandit_stopped",
            Self::Setting { .. } => "bandit_setting",
            Self::Scene { .. } => "bandit_scene",
        }
    }

    /// Whether the same call may succeed later with nothing changed here; a training is deterministic.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        false
    }
}

/// Trains a policy on scenes; `start` is where to go on from, instead of untrained parameters. `progress` may end it.
///
/// ```
/// use std::ops::ControlFlow;
///
/// use ndarray::{Array1, Array2};
/// use traflux_core::{GroupIx, Observation};
/// use traflux_policy::bandit::{BanditConfig, Scene, train_bandit};
///
/// // Of four groups the one with the greatest first feature is worth choosing.
/// let scene = |best: usize| Scene {
///     observation: Observation {
///         groups: Array2::from_shape_fn((4, 2), |(i, j)| if j == 0 && i == best { 1.0 } else { 0.0 }),
///         context: Array1::zeros(1),
///         mask: vec![true; 4],
///     },
///     count: 1,
///     example: Vec::new(),
/// };
/// let scenes: Vec<Scene> = (0..4).map(scene).collect();
/// let judge = |at: usize, sets: &[Vec<GroupIx>]| {
///     Ok(sets.iter().map(|set| if set[0].ix() == at { 1.0 } else { 0.0 }).collect())
/// };
/// let config = BanditConfig { updates: 400, scenes: 4, hidden: 8, ..BanditConfig::default() };
/// let mut last = 0.0;
/// train_bandit(&config, &scenes, &judge, None, &mut |p| {
///     last = p.mean_reward.unwrap_or(0.0);
///     ControlFlow::Continue(())
/// })?;
/// assert!(last > 0.5, "a random choice earns 0.25: {last}");
/// # Ok::<(), traflux_policy::bandit::BanditError>(())
/// ```
///
/// # Errors
/// [`BanditError`].
pub fn train_bandit(
    config: &BanditConfig,
    scenes: &[Scene],
    judge: &dyn SetJudge,
    start: Option<BanditStart>,
    progress: &mut dyn FnMut(BanditProgress<'_>) -> ControlFlow<()>,
) -> Result<BanditReport, BanditError> {
    check(config)?;
    let shape = shape_of(config, scenes)?;
    let (start, memory) = start.map_or((None, None), |start| (Some(start.parameters), start.memory));
    let mut average = match start {
        Some(parameters) if parameters.shape == shape => parameters,
        Some(parameters) => {
            let value = parameters.shape.parameters() as f64;
            let range = "of the network that the scenes and settings ask for";
            return Err(BanditError::Setting { setting: "number of parameters at the start", value, range });
        }
        None => Parameters::seeded(shape, config.seed),
    };
    let range =
        average.range.get_or_insert_with(|| InputRange::empty(shape.group_features, shape.context_features));
    scenes.iter().for_each(|scene| range.extend(&scene.observation));

    let mut workers: Vec<Worker> = (0..config.threads.max(1)).map(|_| Worker::default()).collect();
    let mut slots: Vec<Slot> = (0..config.scenes).map(|_| Slot::new(&average)).collect();
    let mut order = Order::new(config.seed, scenes.len());
    let mut adam = Adam::new(&average);
    let mut parameters = average.clone();
    let mut gradients = Gradients::zero(&parameters);
    let mut deviation = None;
    let (mut rewards, mut rejected) = (0, 0);
    let mut seen = Seen::default();
    let updates = config.example_updates + config.updates;
    let mut reached = 0;
    if let Some(memory) = memory {
        let deviates = memory.deviation.map(f64::from_bits);
        if memory.update > updates
            || deviates.is_some_and(|deviation| !deviation.is_finite())
            || !memory.restore(&mut parameters, &mut adam)
        {
            let (setting, value) = ("updates that an earlier training remembers", memory.update as f64);
            let range = "of such a network and no more than are to be made";
            return Err(BanditError::Setting { setting, value, range });
        }
        reached = memory.update;
        (rewards, rejected, deviation) = (memory.rewards, memory.rejected, deviates);
        (0..reached * config.scenes).for_each(|_| {
            order.next();
        });
    }
    for update in reached..updates {
        let judged = update >= config.example_updates;
        let done = update as f64 / updates as f64;
        let (from, of) =
            if judged { (config.example_updates, config.updates) } else { (0, config.example_updates) };
        let in_phase = (update - from) as f64 / of as f64;
        for slot in &mut slots {
            slot.scene = order.next();
        }
        let mut terms = Terms {
            draws: if judged { config.draws } else { 0 },
            deviation: deviation.unwrap_or(0.0),
            example: if judged { config.example_coefficient } else { 1.0 },
            entropy: if judged { config.entropy_coefficient * (1.0 - in_phase) } else { 0.0 },
            value: if judged { config.value_coefficient } else { 0.0 },
            seed: config.seed,
            update: update as u64,
        };
        if judged && deviation.is_none() {
            // Only to learn how far rewards differ: with σ = 0 no set counts.
            run(&mut workers, &mut slots, &parameters, scenes, judge, &terms)?;
            rewards += (config.draws * slots.len()) as u64;
            let first = spread(&slots);
            deviation = Some(first);
            terms.deviation = first;
        }
        run(&mut workers, &mut slots, &parameters, scenes, judge, &terms)?;
        rewards += (terms.draws * slots.len()) as u64;
        if let Some(deviation) = &mut deviation {
            *deviation += DEVIATION_RATE * (spread(&slots) - *deviation);
        }
        gradients.clear();
        for slot in &slots {
            gradients.add(&slot.gradients);
        }
        let rate = config.learning_rate * (1.0 - done * (1.0 - config.final_rate));
        let norm = adam.step(&mut parameters, &gradients, rate, config.max_gradient_norm);
        rejected += usize::from(!norm.is_finite());
        let remembered = (update + 1).min(config.average_over.max(1));
        blend(&mut average, &parameters, 1.0 / remembered as f32);
        seen.add(&slots, judged);
        if (update + 1) % config.report_every.max(1) == 0 || update + 1 == updates {
            let past = std::mem::take(&mut seen);
            let mut memory = BanditMemory::new(&parameters, &adam);
            (memory.update, memory.rewards, memory.rejected) = (update + 1, rewards, rejected);
            memory.deviation = deviation.map(f64::to_bits);
            let wish = progress(BanditProgress {
                update: update + 1,
                updates,
                rewards,
                mean_reward: past.mean_reward(),
                example_loss: past.example_loss(),
                entropy: slots.iter().map(|slot| slot.entropy).sum::<f64>() / slots.len() as f64,
                gradient_norm: norm,
                parameters: &average,
                memory,
            });
            if wish.is_break() && update + 1 < updates {
                return Err(BanditError::Stopped { update: update + 1 });
            }
        }
    }
    Ok(BanditReport { parameters: average, rewards, rejected })
}

fn check(config: &BanditConfig) -> Result<(), BanditError> {
    let unit = |v: f64| (0.0..=1.0).contains(&v);
    let not_negative = |v: f64| v.is_finite() && v >= 0.0;
    let checks: [(&'static str, f64, bool, &'static str); 10] = [
        ("hidden", config.hidden as f64, (1..=4096).contains(&config.hidden), "in [1, 4096]"),
        ("threads", config.threads as f64, config.threads >= 1, "at least 1"),
        ("scenes", config.scenes as f64, config.scenes >= 1, "at least 1"),
        ("draws", config.draws as f64, config.draws >= 2, "at least 2"),
        (
            "learning_rate",
            config.learning_rate,
            unit(config.learning_rate) && config.learning_rate > 0.0,
            "in (0, 1]",
        ),
        ("final_rate", config.final_rate, unit(config.final_rate), "in [0, 1]"),
        (
            "entropy_coefficient",
            config.entropy_coefficient,
            not_negative(config.entropy_coefficient),
            "finite and not negative",
        ),
        (
            "example_coefficient",
            config.example_coefficient,
            not_negative(config.example_coefficient),
            "finite and not negative",
        ),
        (
            "value_coefficient",
            config.value_coefficient,
            not_negative(config.value_coefficient),
            "finite and not negative",
        ),
        (
            "max_gradient_norm",
            config.max_gradient_norm,
            not_negative(config.max_gradient_norm) && config.max_gradient_norm > 0.0,
            "finite and positive",
        ),
    ];
    match checks.into_iter().find(|(_, _, valid, _)| !valid) {
        Some((setting, value, _, range)) => Err(BanditError::Setting { setting, value, range }),
        None => Ok(()),
    }
}

fn shape_of(config: &BanditConfig, scenes: &[Scene]) -> Result<NetworkShape, BanditError> {
    let Some(first) = scenes.first() else {
        return Err(BanditError::Setting { setting: "number of scenes", value: 0.0, range: "at least 1" });
    };
    let shape = NetworkShape {
        group_features: first.observation.groups.ncols(),
        context_features: first.observation.context.len(),
        hidden: config.hidden,
        identities: if config.identities { first.observation.len() } else { 0 },
    };
    for (at, scene) in scenes.iter().enumerate() {
        let seen = &scene.observation;
        let problem = |problem| Err(BanditError::Scene { scene: at, problem });
        if seen.groups.ncols() != shape.group_features || seen.context.len() != shape.context_features {
            return problem("has other features than the first");
        }
        if config.identities && seen.len() != shape.identities {
            return problem("has another number of groups than the first, but groups are to have identities");
        }
        if seen.mask.len() != seen.len() {
            return problem("has a mask of another length");
        }
        if !seen.mask.contains(&true) {
            return problem("has no group that may be chosen");
        }
        if !seen.groups.iter().chain(&seen.context).all(|value| value.is_finite()) {
            return problem("has a feature that is not finite");
        }
        let mut open = seen.mask.clone();
        let mut take = |g: &GroupIx| open.get_mut(g.ix()).is_some_and(|open| std::mem::replace(open, false));
        if !scene.example.iter().all(&mut take) {
            return problem("has an example of groups that may not be chosen, or one twice");
        }
    }
    Ok(shape)
}

/// What counts in one update.
struct Terms {
    draws: usize,
    deviation: f64,
    example: f64,
    entropy: f64,
    value: f64,
    seed: u64,
    update: u64,
}

/// One state of an update and what came of it.
struct Slot {
    scene: usize,
    gradients: Gradients,
    rewards: Vec<f64>,
    example_loss: Option<f64>,
    entropy: f64,
}

impl Slot {
    fn new(parameters: &Parameters) -> Self {
        let gradients = Gradients::zero(parameters);
        Self { scene: 0, gradients, rewards: Vec::new(), example_loss: None, entropy: 0.0 }
    }
}

/// Memory of one thread.
#[derive(Default)]
struct Worker {
    workspace: GradientWorkspace,
    weights: Weights,
    chooser: Chooser,
    derivatives: Vec<f64>,
}

impl Worker {
    fn run(
        &mut self,
        place: usize,
        slot: &mut Slot,
        parameters: &Parameters,
        scenes: &[Scene],
        judge: &dyn SetJudge,
        terms: &Terms,
        share: f64,
    ) -> Result<(), EnvironmentError> {
        let scene = &scenes[slot.scene];
        let mask = &scene.observation.mask;
        slot.gradients.clear();
        slot.rewards.clear();
        slot.example_loss = None;
        let (scores, value) = self.workspace.forward(parameters, &scene.observation);
        self.weights.set(scores, mask);
        self.derivatives.clear();
        self.derivatives.resize(scores.len(), 0.0);
        let mut by_value = 0.0;
        if terms.draws > 0 {
            let mut random = ChaCha8Rng::seed_from_u64(terms.seed);
            random.set_stream((terms.update << 20) + place as u64 + 1);
            let chooser = &mut self.chooser;
            let sets: Vec<Vec<GroupIx>> =
                (0..terms.draws).map(|_| chooser.top(scores, mask, scene.count, Some(&mut random))).collect();
            slot.rewards = judge.judge(slot.scene, &sets)?;
            if slot.rewards.len() != sets.len() || slot.rewards.iter().any(|r| !r.is_finite()) {
                let reason =
                    format!("{} rewards for {} sets, or one not finite", slot.rewards.len(), sets.len());
                return Err(EnvironmentError::Failed { reason });
            }
            let count = sets.len() as f64;
            let sum: f64 = slot.rewards.iter().sum();
            if terms.deviation > 0.0 {
                let mut rest = 0.0;
                for (set, reward) in sets.iter().zip(&slot.rewards) {
                    let advantage = (reward - (sum - reward) / (count - 1.0)) / terms.deviation;
                    let factor = share * advantage / count;
                    self.weights.add_set(set, factor, &mut rest, &mut self.derivatives);
                }
                self.weights.add_rest(rest, &mut self.derivatives);
            }
            by_value = share * terms.value * 2.0 * (f64::from(value) - sum / count);
        }
        slot.entropy = self.weights.add_entropy(share * terms.entropy, &mut self.derivatives);
        if terms.example > 0.0 && !scene.example.is_empty() {
            let loss = self.weights.add_example(&scene.example, share * terms.example, &mut self.derivatives);
            slot.example_loss = Some(loss);
        }
        let by_scores: Vec<f32> = self.derivatives.iter().map(|d| *d as f32).collect();
        self.workspace.backward(parameters, &by_scores, by_value as f32, &mut slot.gradients);
        Ok(())
    }
}

/// Runs all slots, spread over the workers.
fn run(
    workers: &mut [Worker],
    slots: &mut [Slot],
    parameters: &Parameters,
    scenes: &[Scene],
    judge: &dyn SetJudge,
    terms: &Terms,
) -> Result<(), EnvironmentError> {
    let share = 1.0 / slots.len() as f64;
    let per_worker = slots.len().div_ceil(workers.len());
    if let [worker] = workers {
        return slots
            .iter_mut()
            .enumerate()
            .try_for_each(|(place, slot)| worker.run(place, slot, parameters, scenes, judge, terms, share));
    }
    std::thread::scope(|scope| {
        let parts = workers.iter_mut().zip(slots.chunks_mut(per_worker)).enumerate();
        let threads: Vec<_> = parts
            .map(|(part, (worker, slots))| {
                scope.spawn(move || {
                    slots.iter_mut().enumerate().try_for_each(|(at, slot)| {
                        let place = part * per_worker + at;
                        worker.run(place, slot, parameters, scenes, judge, terms, share)
                    })
                })
            })
            .collect();
        // The error of the first part counts, whichever thread was first.
        threads
            .into_iter()
            .try_for_each(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    })
}

/// Root mean square of what each reward differs from the mean of the others.
fn spread(slots: &[Slot]) -> f64 {
    let (mut squares, mut count) = (0.0, 0.0);
    for slot in slots {
        let (n, sum) = (slot.rewards.len() as f64, slot.rewards.iter().sum::<f64>());
        for reward in &slot.rewards {
            squares += (reward - (sum - reward) / (n - 1.0)).powi(2);
            count += 1.0;
        }
    }
    if count > 0.0 { f64::sqrt(squares / count) } else { 0.0 }
}

/// Goes through all scenes in a random order, then in another.
struct Order {
    random: ChaCha8Rng,
    order: Vec<usize>,
    next: usize,
}

impl Order {
    fn new(seed: u64, scenes: usize) -> Self {
        Self { random: ChaCha8Rng::seed_from_u64(seed), order: (0..scenes).collect(), next: scenes }
    }

    fn next(&mut self) -> usize {
        if self.next == self.order.len() {
            for last in (1..self.order.len()).rev() {
                self.order.swap(last, self.random.random_range(0..=last));
            }
            self.next = 0;
        }
        self.next += 1;
        self.order[self.next - 1]
    }
}

/// Sums since the last report.
#[derive(Default)]
struct Seen {
    reward: f64,
    rewards: f64,
    loss: f64,
    losses: f64,
}

impl Seen {
    fn add(&mut self, slots: &[Slot], judged: bool) {
        for slot in slots {
            if judged {
                self.reward += slot.rewards.iter().sum::<f64>();
                self.rewards += slot.rewards.len() as f64;
            }
            if let Some(loss) = slot.example_loss {
                self.loss += loss;
                self.losses += 1.0;
            }
        }
    }

    fn mean_reward(&self) -> Option<f64> {
        (self.rewards > 0.0).then(|| self.reward / self.rewards)
    }

    fn example_loss(&self) -> Option<f64> {
        (self.losses > 0.0).then(|| self.loss / self.losses)
    }
}
