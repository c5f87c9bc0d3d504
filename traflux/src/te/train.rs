//! How is a selector learned from the matrices of a network?
//!
//! The first matrices are learned from, the others are set aside. A few good choices of an oracle come first (imitation),
//! then sets that the policy draws itself are judged by the linear program. What is learned scores pairs by features
//! of their paths, so that it fits any network; with [`TrainOptions::identities`] it also knows the pairs of this
//! one by name.

use std::time::Instant;

use serde::Serialize;
use traflux_core::{BaseRouting, EnvironmentError, GroupIx, Network, Policy, TrafficMatrix};
use traflux_lp::multicommodity::select::GreedyOracle;
use traflux_policy::bandit::{BanditConfig, BanditProgress, Scene, train_bandit};
use traflux_policy::checkpoint::Provenance;
use traflux_policy::{ActionSpace, Checkpoint, LearnedPolicy, Mode, Parameters, SharedParameters};
use traflux_sim::te::{SelectionReward, TrafficSeries, evaluate as judge_all, scenes_of};
use traflux_te::{QuickChoice, SelectionEncoder, ecmp};

use super::evaluate::EvaluateError;

/// Where a checkpoint says how the quick choice is made that its policy was shown.
const QUICK_CHOICE: &str = "quick_choice";
/// For a policy that knows its pairs: smoother over time, and so easier to learn from.
const QUICK_BY_NAME: QuickChoice = QuickChoice::Fractions(10);

/// How a selector is trained.
#[derive(Debug, Clone, Serialize)]
pub struct TrainOptions {
    /// Most pairs that may be rerouted.
    pub count: usize,
    /// The first matrices, from which it learns; the others are for the curve only.
    pub trained: usize,
    /// Seed of everything.
    pub seed: u64,
    /// Updates on examples of the oracle.
    pub example_updates: usize,
    /// Updates on sets that were drawn and judged.
    pub updates: usize,
    /// Whether every pair has weights of its own: better on this network, useless on any other.
    pub identities: bool,
    /// What is taken off for all traffic being chosen; in proportion for a part of it.
    pub disturbance_price: f64,
    /// Choices are judged on the matrix after.
    pub stale: bool,
    /// Threads; they change how long it takes and nothing else.
    pub threads: usize,
    /// The command that is noted in the checkpoint.
    pub command: String,
}

/// One point of the learning curve.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TrainPoint {
    /// Updates made.
    pub update: usize,
    /// Sets judged.
    pub rewards: u64,
    /// Seconds since the first set was judged or the first example shown.
    pub seconds: f64,
    /// Mean reward of the sets drawn since the last point.
    pub mean_reward: Option<f64>,
    /// Mean of `PR_U` on matrices that it does not learn from.
    pub unseen_mean: f64,
    /// Its 5th percentile.
    pub unseen_p5: f64,
}

/// What training came to.
#[derive(Debug, Clone)]
pub struct Trained {
    /// The policy, ready to save.
    pub checkpoint: Checkpoint,
    /// How it went.
    pub curve: Vec<TrainPoint>,
    /// Sets judged per second of training, evaluations for the curve left out.
    pub rewards_per_second: f64,
}

/// Trains a selector. `progress` is called with the part that is done and the newest point of the curve.
///
/// # Errors
/// [`EvaluateError`]; [`EvaluateError::TooFew`] when no matrix is left beside those it learns from.
pub fn train(
    network: &Network,
    matrices: &[TrafficMatrix],
    options: &TrainOptions,
    progress: &mut dyn FnMut(f64, Option<&TrainPoint>),
) -> Result<Trained, EvaluateError> {
    let least = options.trained.max(1) + 2;
    if matrices.len() < least {
        return Err(EvaluateError::TooFew { what: "training", least, found: matrices.len() });
    }
    let base = ecmp(network)?;
    let series = TrafficSeries::new(network.clone(), base.clone(), matrices.to_vec())?;
    let quick = if options.identities { QUICK_BY_NAME } else { QuickChoice::default() };
    let mut encoder = SelectionEncoder::new(network, &base, options.count).with_quick_choice(quick);
    let seen = 0..options.trained.max(1);
    let unseen = seen.end..series.steps(options.stale);
    let observations = scenes_of(&series, seen, &mut encoder)?;
    let mut oracle = GreedyOracle::new(network, &base, options.count);
    let mut scenes = Vec::with_capacity(observations.len());
    let total = observations.len() as f64;
    for (ix, observation) in observations.into_iter().enumerate() {
        progress(0.3 * ix as f64 / total, None);
        let refused = |source| EvaluateError::Policy { selector: "oracle".to_owned(), source };
        let example = oracle.act(&observation).map_err(refused)?.critical;
        scenes.push(Scene { observation, count: options.count, example });
    }
    let reward = SelectionReward {
        disturbance_price: options.disturbance_price,
        stale: options.stale,
        ..SelectionReward::default()
    };
    let config = BanditConfig {
        seed: options.seed,
        hidden: 16,
        identities: options.identities,
        threads: options.threads,
        example_updates: options.example_updates,
        updates: options.updates,
        entropy_coefficient: 0.02,
        example_coefficient: 0.1,
        report_every: ((options.updates + options.example_updates) / 20).max(1),
        ..BanditConfig::default()
    };
    let judge = |at: usize, sets: &[Vec<GroupIx>]| {
        let failed = |error: traflux_sim::SimError| EnvironmentError::Failed { reason: error.to_string() };
        series.rewards(at, sets, &reward).map_err(failed)
    };
    let began = Instant::now();
    let mut aside = 0.0;
    let mut curve: Vec<TrainPoint> = Vec::new();
    let mut failure = None;
    let report = train_bandit(&config, &scenes, &judge, None, &mut |now: BanditProgress<'_>| {
        let paused = Instant::now();
        match unseen_ratios(&series, unseen.clone(), &encoder, now.parameters, options.stale) {
            Ok((unseen_mean, unseen_p5)) => {
                let point = TrainPoint {
                    update: now.update,
                    rewards: now.rewards,
                    seconds: began.elapsed().as_secs_f64() - aside,
                    mean_reward: now.mean_reward,
                    unseen_mean,
                    unseen_p5,
                };
                progress(0.3 + 0.7 * now.update as f64 / now.updates.max(1) as f64, Some(&point));
                curve.push(point);
            }
            Err(error) => failure = Some(error),
        }
        aside += paused.elapsed().as_secs_f64();
    })?;
    if let Some(error) = failure {
        return Err(error);
    }
    // Examples are shown before the first set is judged; their time is not that of rewards.
    let shown = curve.iter().take_while(|point| point.rewards == 0).last().map_or(0.0, |point| point.seconds);
    let seconds = began.elapsed().as_secs_f64() - aside - shown;
    let checkpoint = Checkpoint {
        parameters: report.parameters,
        observations: encoder.space(),
        actions: ActionSpace { critical: options.count, ..ActionSpace::default() },
        provenance: Provenance {
            command: options.command.clone(),
            seed: options.seed,
            steps: report.rewards,
            // How many threads it took is no part of what was made.
            hyper_parameters: serde_json::json!({
                "training": BanditConfig { threads: 1, ..config },
                "reward": reward,
                (QUICK_CHOICE): quick,
            }),
        },
    };
    Ok(Trained { checkpoint, curve, rewards_per_second: report.rewards as f64 / seconds.max(1e-9) })
}

/// Mean and 5th percentile of `PR_U` on matrices that were set aside.
fn unseen_ratios(
    series: &TrafficSeries,
    matrices: std::ops::Range<usize>,
    encoder: &SelectionEncoder,
    parameters: &Parameters,
    stale: bool,
) -> Result<(f64, f64), EvaluateError> {
    let mut policy = learned(SharedParameters::new(parameters.clone()), encoder)?;
    let judged = judge_all(series, matrices, &mut encoder.clone(), &mut policy, stale)?;
    let mut ratios = judged.ratios();
    ratios.sort_by(f64::total_cmp);
    let mean = ratios.iter().sum::<f64>() / ratios.len().max(1) as f64;
    Ok((mean, ratios.get(ratios.len() / 20).copied().unwrap_or(1.0)))
}

/// The policy of parameters, most probable choice, for what an encoder shows.
fn learned(parameters: SharedParameters, encoder: &SelectionEncoder) -> Result<LearnedPolicy, EvaluateError> {
    let actions = ActionSpace { critical: encoder.count(), ..ActionSpace::default() };
    LearnedPolicy::new(parameters, &encoder.space(), actions, Mode::Frozen)
        .map(|policy| policy.with_margin(None))
        .map_err(|source| EvaluateError::Policy { selector: "learned".to_owned(), source })
}

/// A trained selector, and the encoder that shows it what it was trained on.
///
/// # Errors
/// [`EvaluateError::Checkpoint`] when it was trained on other features, or for other pairs.
pub(super) fn from_checkpoint(
    checkpoint: &Checkpoint,
    network: &Network,
    base: &BaseRouting,
    count: usize,
) -> Result<(LearnedPolicy, SelectionEncoder), EvaluateError> {
    let made = &checkpoint.provenance.hyper_parameters[QUICK_CHOICE];
    let quick = serde_json::from_value(made.clone())
        .map_err(|_| EvaluateError::Checkpoint("it was not made by `traflux te train`".to_owned()))?;
    let encoder = SelectionEncoder::new(network, base, count).with_quick_choice(quick);
    checkpoint.check_space(&encoder.space()).map_err(|e| EvaluateError::Checkpoint(e.to_string()))?;
    let bound = checkpoint.parameters.shape().identities;
    if bound != 0 && bound != network.pair_count() {
        return Err(EvaluateError::Checkpoint(format!(
            "it knows the {bound} pairs of the network it was trained on by name, this one has {}",
            network.pair_count()
        )));
    }
    Ok((learned(SharedParameters::new(checkpoint.parameters.clone()), &encoder)?, encoder))
}
