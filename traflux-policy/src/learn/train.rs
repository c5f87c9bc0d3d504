//! How is a policy made from an environment?
//!
//! Several environments are stepped under the current parameters, then one update is made; every few updates the
//! policy is evaluated as it would ship (frozen, with its fallback) on seeds it never trains on, and the best
//! parameters so far are kept. Best is chosen on one set of seeds and reported on another, so that the
//! choice does not flatter the report. Equal configurations give bit-identical results, whatever the threads.

use serde::{Deserialize, Serialize};
use traflux_core::{
    Environment, EnvironmentError, Observation, ObservationSpace, Policy, PolicyError, Transition,
};

use super::learner::{LearnError, LearnStats, Learner, LearnerConfig};
use crate::checkpoint::{Checkpoint, CheckpointError, Provenance};
use crate::distribution::ActionSpace;
use crate::heuristics::{AllCritical, TopK};
use crate::learned::{LearnedPolicy, Mode};
use crate::parameters::{NetworkShape, Parameters};
use crate::random::RandomActor;
use crate::shared::SharedParameters;

/// Seeds of training have this bit, those of evaluation must not: no episode is in both.
const TRAINING_BIT: u64 = 1 << 63;
/// So many updates in a row may be rejected before training gives up.
const REJECTED_IN_A_ROW: usize = 5;

/// The policy that a trained one is compared with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Baseline {
    /// [`TopK`] with the same K and the neutral headroom.
    #[default]
    TopK,
    /// [`AllCritical`] with the neutral headroom.
    AllCritical,
    /// [`RandomActor`].
    Random,
}

/// Settings of a training.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TrainConfig {
    /// Seed of everything: parameters, exploration, order of minibatches, episodes.
    pub seed: u64,
    /// Updates.
    pub iterations: usize,
    /// Environments stepped side by side.
    pub environments: usize,
    /// Threads that step them.
    pub threads: usize,
    /// Steps per environment and update.
    pub steps: usize,
    /// Width of the network's hidden layers.
    pub hidden: usize,
    /// What the policy may do.
    pub actions: ActionSpace,
    /// The learner.
    pub learner: LearnerConfig,
    /// The learning rate falls linearly to this fraction of it.
    pub final_rate: f64,
    /// Updates between evaluations.
    pub evaluate_every: usize,
    /// Seeds on which the best parameters are chosen, below 2^63.
    pub validation_seeds: Vec<u64>,
    /// Seeds on which the result is reported, below 2^63.
    pub test_seeds: Vec<u64>,
    /// Longest episode of an evaluation, in steps.
    pub evaluation_steps: usize,
    /// What the policy is compared with.
    pub baseline: Baseline,
    /// The command that is noted in the checkpoint.
    pub command: String,
}

impl Default for TrainConfig {
    fn default() -> Self {
        Self {
            seed: 0,
            iterations: 100,
            environments: 8,
            threads: 2,
            steps: 32,
            hidden: 32,
            actions: ActionSpace::default(),
            learner: LearnerConfig::default(),
            final_rate: 0.1,
            evaluate_every: 10,
            validation_seeds: (1000..1008).collect(),
            test_seeds: (2000..2016).collect(),
            evaluation_steps: 1000,
            baseline: Baseline::TopK,
            command: String::new(),
        }
    }
}

/// Returns of whole episodes, one per seed.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Evaluation {
    /// Sum of rewards of each episode, in the order of seeds.
    pub returns: Vec<f64>,
    /// Fraction of decisions that the fallback took, because the state was outside the range of training.
    pub fallback_ratio: f64,
}

impl Evaluation {
    /// Mean return.
    #[must_use]
    pub fn mean(&self) -> f64 {
        self.returns.iter().sum::<f64>() / self.returns.len().max(1) as f64
    }

    /// Mean of the paired differences to another evaluation on the same seeds, and the half-width of its
    /// 95 % interval (normal approximation).
    #[must_use]
    pub fn gain_over(&self, other: &Self) -> (f64, f64) {
        let differences: Vec<f64> = self.returns.iter().zip(&other.returns).map(|(a, b)| a - b).collect();
        let count = differences.len().max(1) as f64;
        let mean = differences.iter().sum::<f64>() / count;
        let variance = differences.iter().map(|d| (d - mean).powi(2)).sum::<f64>() / (count - 1.0).max(1.0);
        (mean, 1.96 * (variance / count).sqrt())
    }
}

/// One point of the learning curve.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CurvePoint {
    /// Updates made before.
    pub iteration: usize,
    /// Environment steps before.
    pub steps: u64,
    /// Mean return on the validation seeds.
    pub mean_return: f64,
    /// The baseline's on the same seeds.
    pub baseline_return: f64,
    /// Fraction of decisions that the fallback took.
    pub fallback_ratio: f64,
}

/// Told after every update.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TrainProgress {
    /// Updates made.
    pub iteration: usize,
    /// Updates to make.
    pub iterations: usize,
    /// Environment steps made.
    pub steps: u64,
    /// Mean return of the exploring episodes that ended since the last update.
    pub mean_return: Option<f64>,
    /// What the update did; `None` when it was rejected.
    pub stats: Option<LearnStats>,
    /// The evaluation, where there was one.
    pub evaluation: Option<CurvePoint>,
}

/// What training came to.
#[derive(Debug, Clone, Serialize)]
pub struct TrainReport {
    /// The best parameters, ready to save.
    #[serde(skip)]
    pub checkpoint: Checkpoint,
    /// Environment steps made.
    pub steps: u64,
    /// Updates that were rejected.
    pub rejected: usize,
    /// Evaluations over time.
    pub curve: Vec<CurvePoint>,
    /// After how many updates the best parameters were had.
    pub best_iteration: usize,
    /// Returns of the best parameters on the test seeds.
    pub test: Evaluation,
    /// Returns of the baseline on the test seeds.
    pub test_baseline: Evaluation,
}

/// A training that could not go on.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// An environment failed.
    #[error(transparent)]
    Environment(#[from] EnvironmentError),
    /// A policy failed.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// The learner failed, more often than can be borne.
    #[error(transparent)]
    Learn(#[from] LearnError),
    /// The result cannot be saved.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// A setting is outside its range.
    #[error("{setting} is {value}, must be {range}")]
    Setting {
        /// Which one.
        setting: &'static str,
        /// Its value.
        value: u64,
        /// What is allowed.
        range: &'static str,
    },
}

impl TrainError {
    /// A stable name for metrics and bindings.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Environment(error) => error.code(),
            Self::Policy(error) => error.code(),
            Self::Learn(error) => error.code(),
            Self::Checkpoint(error) => error.code(),
            Self::Setting { .. } => "train_setting",
        }
    }

    /// Whether the same call may succeed later with nothing changed here; a training is deterministic.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        false
    }
}

type Boxed = Box<dyn Environment + Send>;
type MakeEnvironment<'a> = &'a dyn Fn(u64) -> Boxed;

/// Trains a policy. `make_env` is called with the seed of the episodes that the environment will be reset to
/// first; `progress` after every update.
///
/// # Errors
/// [`TrainError`].
pub fn train(
    config: &TrainConfig,
    make_env: MakeEnvironment<'_>,
    progress: &mut dyn FnMut(TrainProgress),
) -> Result<TrainReport, TrainError> {
    check(config)?;
    let mut workers = Vec::with_capacity(config.environments);
    let first = make_env(training_seed(config.seed, 0, 0));
    let space = first.space();
    let shape = NetworkShape {
        group_features: space.group_features.len(),
        context_features: space.context_features.len(),
        hidden: config.hidden,
        identities: 0,
    };
    let shared = SharedParameters::new(Parameters::seeded(shape, config.seed));
    let mut learner = Learner::new(LearnerConfig { seed: config.seed, ..config.learner }, shared.clone())?;
    let mut first = Some(first);
    for worker in 0..config.environments {
        let env = first.take().unwrap_or_else(|| make_env(training_seed(config.seed, worker, 0)));
        // Its own draws, apart from those of the episodes.
        let mode = Mode::Exploring { seed: training_seed(!config.seed, worker, 0) };
        let policy = LearnedPolicy::new(shared.clone(), &space, config.actions, mode)?.with_margin(None);
        workers.push(Worker {
            env,
            policy,
            state: None,
            seed: config.seed,
            worker,
            episodes: 0,
            earned: 0.0,
            ended: Vec::new(),
        });
    }

    let baseline = |seeds: &[u64]| {
        evaluate(
            make_env,
            &|seed| baseline_policy(config, &space, seed),
            seeds,
            config.evaluation_steps,
            config.threads,
        )
    };
    let validation_baseline = baseline(&config.validation_seeds)?.mean();
    let mut best: Option<(f64, usize, Parameters)> = None;
    let mut curve = Vec::new();
    let (mut steps, mut rejected, mut in_a_row) = (0u64, 0, 0);
    let mut point = |iteration: usize, steps: u64| -> Result<CurvePoint, TrainError> {
        let current = (*shared.load()).clone();
        let seen = evaluate_parameters(config, make_env, &space, &current, &config.validation_seeds)?;
        let mean = seen.mean();
        if best.as_ref().is_none_or(|(least, _, _)| mean > *least) {
            best = Some((mean, iteration, current));
        }
        let point = CurvePoint {
            iteration,
            steps,
            mean_return: mean,
            baseline_return: validation_baseline,
            fallback_ratio: seen.fallback_ratio,
        };
        curve.push(point.clone());
        Ok(point)
    };
    point(0, 0)?;
    for iteration in 1..=config.iterations {
        let done = (iteration - 1) as f64 / config.iterations as f64;
        learner.set_learning_rate(config.learner.learning_rate * (1.0 - done * (1.0 - config.final_rate)))?;
        let streams = collect(&mut workers, config.steps, config.threads)?;
        steps += streams.iter().map(|s| s.len() as u64).sum::<u64>();
        let streams: Vec<&[Transition]> = streams.iter().map(Vec::as_slice).collect();
        let stats = match learner.learn_streams(&streams) {
            Ok(stats) => {
                in_a_row = 0;
                Some(stats)
            }
            Err(error) => {
                rejected += 1;
                in_a_row += 1;
                if in_a_row == REJECTED_IN_A_ROW {
                    return Err(error.into());
                }
                None
            }
        };
        let due = iteration % config.evaluate_every == 0 || iteration == config.iterations;
        let evaluation = if due { Some(point(iteration, steps)?) } else { None };
        let ended: Vec<f64> = workers.iter_mut().flat_map(|w| std::mem::take(&mut w.ended)).collect();
        progress(TrainProgress {
            iteration,
            iterations: config.iterations,
            steps,
            mean_return: (!ended.is_empty()).then(|| ended.iter().sum::<f64>() / ended.len() as f64),
            stats,
            evaluation,
        });
    }
    let (_, best_iteration, parameters) = best.expect("iteration 0 was evaluated");
    let test = evaluate_parameters(config, make_env, &space, &parameters, &config.test_seeds)?;
    let test_baseline = baseline(&config.test_seeds)?;
    let provenance = Provenance {
        command: config.command.clone(),
        seed: config.seed,
        steps,
        hyper_parameters: serde_json::to_value(config).unwrap_or_default(),
    };
    let checkpoint = Checkpoint { parameters, observations: space, actions: config.actions, provenance };
    Ok(TrainReport { checkpoint, steps, rejected, curve, best_iteration, test, test_baseline })
}

/// Runs a policy for one whole episode per seed, at most `limit` steps each. `make_policy` is called with the
/// seed once per episode.
///
/// # Errors
/// [`TrainError::Environment`] and [`TrainError::Policy`].
pub fn evaluate(
    make_env: MakeEnvironment<'_>,
    make_policy: &dyn Fn(u64) -> Box<dyn Policy>,
    seeds: &[u64],
    limit: usize,
    threads: usize,
) -> Result<Evaluation, TrainError> {
    let mut episodes: Vec<(u64, Boxed, Box<dyn Policy>)> =
        seeds.iter().map(|seed| (*seed, make_env(*seed), make_policy(*seed))).collect();
    let returns = in_parallel(&mut episodes, threads, |(seed, env, policy)| {
        let mut state = env.reset(*seed)?;
        let mut total = 0.0;
        for _ in 0..limit {
            let step = env.step(&policy.act(&state)?)?;
            total += step.reward.total;
            if step.terminated || step.truncated {
                break;
            }
            state = step.observation;
        }
        Ok(total)
    })?;
    Ok(Evaluation { returns, fallback_ratio: 0.0 })
}

fn evaluate_parameters(
    config: &TrainConfig,
    make_env: MakeEnvironment<'_>,
    space: &ObservationSpace,
    parameters: &Parameters,
    seeds: &[u64],
) -> Result<Evaluation, TrainError> {
    let shared = SharedParameters::new(parameters.clone());
    let policies = std::cell::RefCell::new(Vec::new());
    // Checked once here, so that making one per seed cannot fail.
    LearnedPolicy::new(shared.clone(), space, config.actions, Mode::Frozen)?;
    let make = |_| -> Box<dyn Policy> {
        let policy = LearnedPolicy::new(shared.clone(), space, config.actions, Mode::Frozen)
            .expect("the same arguments were accepted above");
        policies.borrow_mut().push(policy.status());
        Box::new(policy)
    };
    let seen = evaluate(make_env, &make, seeds, config.evaluation_steps, config.threads)?;
    let policies = policies.into_inner();
    let decisions: u64 = policies.iter().map(|p| p.decisions()).sum();
    let fallbacks: u64 = policies.iter().map(|p| p.fallbacks()).sum();
    Ok(Evaluation { fallback_ratio: fallbacks as f64 / decisions.max(1) as f64, ..seen })
}

fn baseline_policy(config: &TrainConfig, space: &ObservationSpace, seed: u64) -> Box<dyn Policy> {
    let actions = config.actions;
    match config.baseline {
        Baseline::TopK => Box::new(TopK::new(actions.critical, actions.neutral_headroom, space)),
        Baseline::AllCritical => Box::new(AllCritical::new(actions.neutral_headroom)),
        Baseline::Random => Box::new(RandomActor::new(seed, actions.bounds)),
    }
}

/// One environment with the policy that explores it.
struct Worker {
    env: Boxed,
    policy: LearnedPolicy,
    state: Option<Observation>,
    seed: u64,
    worker: usize,
    episodes: u64,
    earned: f64,
    ended: Vec<f64>,
}

impl Worker {
    fn collect(&mut self, steps: usize) -> Result<Vec<Transition>, TrainError> {
        let mut transitions = Vec::with_capacity(steps);
        for _ in 0..steps {
            let observation = match self.state.take() {
                Some(state) => state,
                None => {
                    let seed = training_seed(self.seed, self.worker, self.episodes);
                    self.episodes += 1;
                    self.env.reset(seed)?
                }
            };
            let action = self.policy.act(&observation)?;
            let step = self.env.step(&action)?;
            self.earned += step.reward.total;
            if step.terminated || step.truncated {
                self.ended.push(std::mem::take(&mut self.earned));
            } else {
                self.state = Some(step.observation.clone());
            }
            transitions.push(Transition {
                observation,
                action,
                reward: step.reward,
                next_observation: step.observation,
                terminated: step.terminated,
                truncated: step.truncated,
            });
        }
        Ok(transitions)
    }
}

fn collect(workers: &mut [Worker], steps: usize, threads: usize) -> Result<Vec<Vec<Transition>>, TrainError> {
    in_parallel(workers, threads, |worker| worker.collect(steps))
}

/// Applies `work` to every item, in contiguous parts on several threads; results keep the order of items.
fn in_parallel<T: Send, R: Send>(
    items: &mut [T],
    threads: usize,
    work: impl Fn(&mut T) -> Result<R, TrainError> + Sync,
) -> Result<Vec<R>, TrainError> {
    if threads <= 1 || items.len() <= 1 {
        return items.iter_mut().map(work).collect();
    }
    let part = items.len().div_ceil(threads);
    let work = &work;
    let parts: Vec<Result<Vec<R>, TrainError>> = std::thread::scope(|scope| {
        let running: Vec<_> = items
            .chunks_mut(part)
            .map(|items| scope.spawn(move || items.iter_mut().map(work).collect()))
            .collect();
        running
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    });
    let mut results = Vec::with_capacity(items.len());
    for part in parts {
        results.extend(part?);
    }
    Ok(results)
}

/// A seed of a training episode: scattered (SplitMix64's finaliser), and never one of an evaluation.
fn training_seed(seed: u64, worker: usize, episode: u64) -> u64 {
    let mut x = seed
        .wrapping_mul(0x9e37_79b9_7f4a_7c15)
        .wrapping_add((worker as u64).wrapping_mul(0xd1b5_4a32_d192_ed03))
        .wrapping_add(episode.wrapping_mul(0x8cb9_2ba7_2f3d_8dd7));
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (x ^ (x >> 31)) | TRAINING_BIT
}

fn check(config: &TrainConfig) -> Result<(), TrainError> {
    let positive = [
        ("iterations", config.iterations),
        ("environments", config.environments),
        ("steps", config.steps),
        ("hidden", config.hidden),
        ("evaluate_every", config.evaluate_every),
        ("evaluation_steps", config.evaluation_steps),
        ("validation_seeds", config.validation_seeds.len()),
        ("test_seeds", config.test_seeds.len()),
    ];
    if let Some((setting, _)) = positive.into_iter().find(|(_, value)| *value == 0) {
        return Err(TrainError::Setting { setting, value: 0, range: "at least 1" });
    }
    let all = config.validation_seeds.iter().chain(&config.test_seeds);
    if let Some(seed) = all.into_iter().find(|seed| **seed >= TRAINING_BIT) {
        return Err(TrainError::Setting { setting: "an evaluation seed", value: *seed, range: "below 2^63" });
    }
    Ok(())
}
