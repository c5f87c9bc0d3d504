//! How is a selector learned from the matrices of networks?
//!
//! A few good choices of a teacher come first (imitation), then sets that the policy draws itself are judged by the
//! linear program. What is learned scores pairs by features of their paths, so that one policy fits any network of any
//! size; with [`TrainOptions::identities`] it also knows the pairs of its one network by name. Matrices that it does
//! not learn from say from time to time how good it is, and which of its checkpoints is the best.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Instant;

use serde::{Deserialize, Serialize};
use serde_json::json;
use traflux_core::{BaseRouting, EnvironmentError, GroupIx, Network};
use traflux_policy::bandit::{
    BanditConfig, BanditError, BanditMemory, BanditProgress, BanditStart, Scene, train_bandit,
};
use traflux_policy::checkpoint::Provenance;
use traflux_policy::learned::DEFAULT_MARGIN;
use traflux_policy::{ActionSpace, Checkpoint, LearnedPolicy, Mode, Parameters, SharedParameters};
use traflux_sim::te::{SelectionReward, evaluate as judge_all};
use traflux_te::{GreedyRelief, QuickChoice, SelectionEncoder};

use super::course::Course;
use super::error::EvaluateError;
use super::lesson::Lesson;
use super::limit::Limit;
use super::selector::SelectorKind;
use super::table::mean;

/// Where a checkpoint says how the quick choice is made that its policy was shown.
pub(super) const QUICK_CHOICE: &str = "quick_choice";
/// Where it says who was imitated.
pub(super) const TEACHER: &str = "teacher";
/// Where it says how far the training had come.
const CURVE: &str = "curve";
/// Where the newest says what the training needs to go on.
const MEMORY: &str = "memory";
/// Points of a learning curve.
const POINTS: usize = 20;
/// Less than this in the validation is no reason to prefer an earlier policy: a few hundred neighbouring matrices do
/// not tell such policies apart, and the later one has learned more.
pub(super) const INDIFFERENT: f64 = 5e-4;
/// Reports of the trainer between two of them.
const REPORTS: usize = 5;

/// How a selector is trained.
#[derive(Debug, Clone)]
pub struct TrainOptions {
    /// Whose choices are imitated; `None`: whoever proves to be the best teacher, see [`Lesson`].
    pub teacher: Option<SelectorKind>,
    /// How the quick choice is made that the policy is shown.
    pub quick_choice: QuickChoice,
    /// Updates on choices of the teacher; 0 leaves imitation out.
    pub example_updates: usize,
    /// Updates on sets that were drawn and judged.
    pub updates: usize,
    /// Whether every pair has weights of its own: better on this network, useless on any other.
    pub identities: bool,
    /// What is taken off for all traffic being chosen; in proportion for a part of it.
    pub disturbance_price: f64,
    /// Choices are judged on the matrix after.
    pub stale: bool,
    /// Width of the hidden layers.
    pub hidden: usize,
    /// Matrices per update.
    pub states: usize,
    /// Sets drawn for each of them.
    pub draws: usize,
    /// Step size at first.
    pub learning_rate: f64,
    /// What entropy counts at first.
    pub entropy: f64,
    /// Threads; they change how long it takes and nothing else.
    pub threads: usize,
    /// The command that is noted in the checkpoint.
    pub command: String,
}

impl Default for TrainOptions {
    fn default() -> Self {
        Self {
            teacher: None,
            quick_choice: QuickChoice::DEFAULT,
            example_updates: 300,
            updates: 1500,
            identities: true,
            disturbance_price: 0.05,
            stale: false,
            hidden: 16,
            states: 16,
            draws: 16,
            learning_rate: 2e-3,
            entropy: 0.02,
            threads: 1,
            command: String::new(),
        }
    }
}

impl TrainOptions {
    fn config(&self, seed: u64) -> BanditConfig {
        BanditConfig {
            seed,
            hidden: self.hidden,
            identities: self.identities,
            threads: self.threads,
            example_updates: self.example_updates,
            updates: self.updates,
            scenes: self.states,
            draws: self.draws,
            learning_rate: self.learning_rate,
            entropy_coefficient: self.entropy,
            example_coefficient: if self.example_updates > 0 { 0.1 } else { 0.0 },
            report_every: ((self.updates + self.example_updates) / (POINTS * REPORTS)).max(1),
            ..BanditConfig::default()
        }
    }

    fn reward(&self) -> SelectionReward {
        SelectionReward {
            disturbance_price: self.disturbance_price,
            stale: self.stale,
            ..SelectionReward::default()
        }
    }
}

/// One point of the learning curve.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TrainPoint {
    /// Updates made.
    pub update: usize,
    /// Sets judged.
    pub rewards: u64,
    /// Seconds of training, validation left out; 0 for points that were read from a checkpoint.
    #[serde(skip)]
    pub seconds: f64,
    /// Mean reward of the sets drawn since the last point.
    pub mean_reward: Option<f64>,
    /// Mean of `PR_U` on the matrices of the validation, each network counting alike; `None` without any.
    pub validation: Option<f64>,
    /// Its 5th percentile over all of them.
    pub validation_p5: Option<f64>,
}

/// What one training came to.
#[derive(Debug, Clone)]
pub struct Trained {
    /// Its seed.
    pub seed: u64,
    /// The policy that was best in the validation; of those about as good the newest.
    pub best: Checkpoint,
    /// The policy in the end.
    pub last: Checkpoint,
    /// After how many updates it was best.
    pub best_update: usize,
    /// How it went.
    pub curve: Vec<TrainPoint>,
    /// Updates made, those after the last point of the curve included.
    pub updates: usize,
    /// Sets judged, likewise.
    pub rewards: u64,
    /// Seconds of training since it was begun or gone on with, validation left out.
    pub seconds: f64,
    /// Sets judged per second of training; `None` where none were.
    pub rewards_per_second: Option<f64>,
    /// Whether all updates were made.
    pub finished: bool,
}

/// A training that was left, to be gone on with.
#[derive(Debug, Clone)]
pub struct Earlier {
    /// Where it was left.
    pub last: Checkpoint,
    /// The best by then.
    pub best: Checkpoint,
}

/// Told how a training goes.
pub(super) trait Observer: Sync {
    /// The part that is done.
    fn progress(&self, done: f64);
    /// A new point of the curve with the policy there, and again if it is the best so far.
    fn point(
        &self,
        point: &TrainPoint,
        last: &Checkpoint,
        best: Option<&Checkpoint>,
    ) -> Result<(), EvaluateError>;
}

/// Trains one selector on one or several courses, all of the lesson.
///
/// # Errors
/// [`EvaluateError`]; [`EvaluateError::Stopped`] when the limit is reached before the first point of the curve.
pub(super) fn train(
    courses: &[&Course<'_>],
    options: &TrainOptions,
    lesson: Lesson,
    seed: u64,
    earlier: Option<Earlier>,
    limit: &Limit,
    observer: &dyn Observer,
) -> Result<Trained, EvaluateError> {
    let session = Session { courses, options, lesson, seed };
    let mut trained = match earlier {
        Some(earlier) => Some(session.read(earlier)?),
        None => None,
    };
    let reached = trained.as_ref().and_then(|t| t.curve.last()).map_or(0, |point| point.update);
    let total = options.example_updates + options.updates;
    if let Some(done) = trained.take_if(|_| reached >= total) {
        return Ok(Trained { finished: true, ..done });
    }
    let start = trained.as_ref().map(|trained| remembered(&trained.last)).transpose()?;
    let rewards_before = trained.as_ref().and_then(|t| t.curve.last()).map_or(0, |point| point.rewards);
    let config = options.config(seed);
    let mut scenes: Vec<Scene> = Vec::new();
    let mut places: Vec<(usize, usize)> = Vec::new();
    for (course, of) in courses.iter().enumerate() {
        places.extend((0..of.scenes.len()).map(|at| (course, at)));
        scenes.extend(of.scenes.iter().cloned());
    }
    let reward = options.reward();
    // Scenes and sets.
    let (judged, sets_judged) = (AtomicUsize::new(0), AtomicU64::new(0));
    let all = (total * config.scenes).max(1) as f64;
    let before = (config.example_updates.max(reached) * config.scenes) as f64;
    let judge = |scene: usize, sets: &[Vec<GroupIx>]| {
        if limit.reached() {
            return Err(EnvironmentError::Failed { reason: "stopped".to_owned() });
        }
        let (course, at) = places[scene];
        let failed = |error: traflux_sim::SimError| EnvironmentError::Failed { reason: error.to_string() };
        let rewards = courses[course].series.rewards(at, sets, &reward).map_err(failed)?;
        sets_judged.fetch_add(sets.len() as u64, Ordering::Relaxed);
        let done = judged.fetch_add(1, Ordering::Relaxed) + 1;
        if done.is_multiple_of(config.scenes) {
            observer.progress((before + done as f64) / all);
        }
        Ok(rewards)
    };
    let began = Instant::now();
    let (mut aside, mut shown, mut updates) = (0.0, 0.0, reached);
    let mut failure = None;
    let result = train_bandit(&config, &scenes, &judge, start, &mut |now: BanditProgress<'_>| {
        updates = now.update;
        observer.progress(now.update as f64 / total.max(1) as f64);
        if now.rewards == 0 {
            shown = began.elapsed().as_secs_f64() - aside;
        }
        if now.update.is_multiple_of(REPORTS * config.report_every) || now.update == now.updates {
            let paused = Instant::now();
            let seconds = began.elapsed().as_secs_f64() - aside;
            failure = session.point(&mut trained, now, seconds, observer).err();
            aside += paused.elapsed().as_secs_f64();
        }
        if failure.is_some() || limit.reached() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    if let Some(error) = failure {
        return Err(error);
    }
    let finished = match result {
        Ok(_) => true,
        Err(BanditError::Judge(_) | BanditError::Stopped { .. }) if limit.reached() => false,
        Err(error) => return Err(error.into()),
    };
    // Examples are shown before the first set is judged; their time is not that of rewards.
    let seconds = began.elapsed().as_secs_f64() - aside;
    let rewards = sets_judged.into_inner();
    let rewards_per_second = (rewards > 0).then(|| rewards as f64 / (seconds - shown).max(1e-9));
    // Since the last report more may have been judged; the first batch of all only measures how far rewards differ.
    let measured = usize::from(reached <= config.example_updates);
    let batches = (judged.into_inner() / config.scenes.max(1)).saturating_sub(measured);
    let judged_updates = config.example_updates.max(reached) + batches;
    let updates = if rewards > 0 { updates.max(judged_updates) } else { updates };
    let rewards = rewards_before + rewards;
    match trained {
        Some(trained) => Ok(Trained { updates, rewards, seconds, rewards_per_second, finished, ..trained }),
        None => Err(EvaluateError::Stopped { before: "the first point of the learning curve" }),
    }
}

/// Where a training that was left goes on.
fn remembered(last: &Checkpoint) -> Result<BanditStart, EvaluateError> {
    let memory: Result<BanditMemory, _> =
        serde_json::from_value(last.provenance.hyper_parameters[MEMORY].clone());
    let memory = memory.map_err(|error| {
        EvaluateError::Checkpoint(format!("it cannot be gone on with: its memory: {error}"))
    })?;
    Ok(BanditStart { parameters: last.parameters.clone(), memory: Some(memory) })
}

/// What all points of one training have in common.
struct Session<'a> {
    courses: &'a [&'a Course<'a>],
    options: &'a TrainOptions,
    lesson: Lesson,
    seed: u64,
}

impl Session<'_> {
    fn point(
        &self,
        trained: &mut Option<Trained>,
        now: BanditProgress<'_>,
        seconds: f64,
        observer: &dyn Observer,
    ) -> Result<(), EvaluateError> {
        let (validation, validation_p5) = self.validation(now.parameters)?;
        let (update, rewards) = (now.update, now.rewards);
        let [mean_reward, validation, validation_p5] =
            [now.mean_reward, validation, validation_p5].map(|value| value.map(short));
        let point = TrainPoint { update, rewards, seconds, mean_reward, validation, validation_p5 };
        let mut curve = trained.as_mut().map(|t| std::mem::take(&mut t.curve)).unwrap_or_default();
        let before = curve.iter().filter_map(|point| point.validation).fold(f64::NEG_INFINITY, f64::max);
        // Without a validation the newest is the best that is known.
        let best = validation.is_none_or(|validation| validation >= before - INDIFFERENT);
        curve.push(point);
        let policy = self.checkpoint(now.parameters, &curve);
        let mut last = policy.clone();
        if update < now.updates {
            last.provenance.hyper_parameters[MEMORY] = json!(now.memory);
        }
        observer.point(&curve[curve.len() - 1], &last, best.then_some(&policy))?;
        *trained = Some(match trained.take() {
            Some(earlier) if !best => Trained { last, curve, ..earlier },
            _ => Trained {
                seed: self.seed,
                best: policy,
                last,
                best_update: update,
                curve,
                updates: update,
                rewards,
                seconds,
                rewards_per_second: None,
                finished: false,
            },
        });
        Ok(())
    }

    /// Mean over the courses and 5th percentile over all matrices.
    fn validation(&self, parameters: &Parameters) -> Result<(Option<f64>, Option<f64>), EvaluateError> {
        let shared = SharedParameters::new(parameters.clone());
        let (mut means, mut all) = (Vec::new(), Vec::new());
        for course in self.courses.iter().filter(|course| !course.validate.is_empty()) {
            let mut policy = learned(shared.clone(), &course.encoder)?;
            let mut encoder = course.encoder.clone();
            let (series, stale) = (&course.series, self.options.stale);
            let ratios =
                judge_all(series, course.validate.clone(), &mut encoder, &mut policy, stale)?.ratios();
            means.push(mean(&ratios));
            all.extend(ratios);
        }
        all.sort_by(f64::total_cmp);
        Ok(((!means.is_empty()).then(|| mean(&means)), all.get(all.len() / 20).copied()))
    }

    fn checkpoint(&self, parameters: &Parameters, curve: &[TrainPoint]) -> Checkpoint {
        let encoder = &self.courses[0].encoder;
        let mut settings = self.settings();
        settings[CURVE] = json!(curve);
        Checkpoint {
            parameters: parameters.clone(),
            observations: encoder.space(),
            actions: ActionSpace { critical: encoder.count(), ..ActionSpace::default() },
            provenance: Provenance {
                command: self.options.command.clone(),
                seed: self.seed,
                steps: curve.last().map_or(0, |point| point.rewards),
                hyper_parameters: settings,
            },
        }
    }

    /// What a training goes on with only if it is the same.
    fn settings(&self) -> serde_json::Value {
        let cases = self.courses.iter().map(|course| {
            let case = course.case;
            json!({"name": case.name, "pairs": case.network.pair_count(), "count": case.count,
                   "train": case.train, "validate": case.validate})
        });
        json!({
            // How many threads it took is no part of what was made.
            "training": BanditConfig { threads: 1, ..self.options.config(self.seed) },
            "reward": self.options.reward(),
            (TEACHER): self.lesson.teacher.name(),
            "networks": cases.collect::<Vec<_>>(),
            (QUICK_CHOICE): self.lesson.quick_choice,
        })
    }

    /// Takes an earlier training in, if it is this one.
    fn read(&self, earlier: Earlier) -> Result<Trained, EvaluateError> {
        let found = &earlier.last.provenance.hyper_parameters;
        if let Some(settings) = self.settings().as_object() {
            for (name, expected) in settings {
                if found[name] != *expected {
                    let text =
                        format!("it cannot be gone on with: {name} was {}, is {expected}", found[name]);
                    return Err(EvaluateError::Checkpoint(text));
                }
            }
        }
        let broken = |error: serde_json::Error| EvaluateError::Checkpoint(format!("its curve: {error}"));
        let curve: Vec<TrainPoint> = serde_json::from_value(found[CURVE].clone()).map_err(broken)?;
        let of_best: Vec<TrainPoint> =
            serde_json::from_value(earlier.best.provenance.hyper_parameters[CURVE].clone())
                .map_err(broken)?;
        Ok(Trained {
            seed: self.seed,
            best_update: of_best.last().map_or(0, |point| point.update),
            best: earlier.best,
            last: earlier.last,
            updates: curve.last().map_or(0, |point| point.update),
            rewards: curve.last().map_or(0, |point| point.rewards),
            seconds: 0.0,
            curve,
            rewards_per_second: None,
            finished: false,
        })
    }
}

/// To nine digits: few enough that a file holds the number exactly.
fn short(value: f64) -> f64 {
    (value * 1e9).round() / 1e9
}

/// Whether two checkpoints were made alike, but for the seed.
#[must_use]
pub fn same_training(one: &Checkpoint, other: &Checkpoint) -> bool {
    let settings = |checkpoint: &Checkpoint| {
        let mut settings = checkpoint.provenance.hyper_parameters.clone();
        if let Some(settings) = settings.as_object_mut() {
            settings.remove(CURVE);
            settings.remove(MEMORY);
        }
        settings["training"]["seed"] = json!(0);
        settings
    };
    let made_here = |checkpoint: &Checkpoint| checkpoint.provenance.hyper_parameters["training"].is_object();
    made_here(one) && made_here(other) && settings(one) == settings(other)
}

/// The policy of parameters, most probable choice, for what an encoder shows.
fn learned(parameters: SharedParameters, encoder: &SelectionEncoder) -> Result<LearnedPolicy, EvaluateError> {
    let actions = ActionSpace { critical: encoder.count(), ..ActionSpace::default() };
    LearnedPolicy::new(parameters, &encoder.space(), actions, Mode::Frozen)
        .map(|policy| policy.with_margin(None))
        .map_err(|source| EvaluateError::Policy { selector: "learned".to_owned(), source })
}

/// A trained selector, and the encoder that shows it what it was trained on. Outside the range of its training it
/// acts as [`GreedyRelief`] if `fallback` is set.
///
/// # Errors
/// [`EvaluateError::Checkpoint`] when it was trained on other features, or for other pairs.
pub(crate) fn from_checkpoint(
    checkpoint: &Checkpoint,
    network: &Network,
    base: &BaseRouting,
    count: usize,
    fallback: bool,
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
    let policy = learned(SharedParameters::new(checkpoint.parameters.clone()), &encoder)?;
    if !fallback {
        return Ok((policy, encoder));
    }
    let plain = Box::new(GreedyRelief::new(network, base, count));
    Ok((policy.with_margin(Some(DEFAULT_MARGIN)).with_fallback(plain), encoder))
}
