//! How sure is it that learning pays, and where?
//!
//! One training says little: [`study`] trains by several seeds, with and without parts of the method, and where asked
//! leaves each network out in turn and is judged on that one alone. Every policy is then played on matrices that no
//! part of the training has seen, beside selectors that learn nothing.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use traflux_core::TrafficMatrix;
use traflux_policy::Checkpoint;
use traflux_sim::te::TrafficSeries;

use super::course::{Case, Course, solved};
use super::error::EvaluateError;
use super::evaluate::{EvaluateOptions, TrainedArm, evaluate};
use super::lesson::{Lesson, Trial, attempt, best, candidates};
use super::limit::Limit;
use super::score::Comparison;
use super::selector::SelectorKind;
use super::table::mean;
use super::train::{Earlier, Observer, TrainOptions, TrainPoint, Trained, train};

/// Parts of the work before, during and after the trainings, for the progress.
const PREPARED: f64 = 0.15;
/// How much a trial counts beside a training.
const TRIAL: f64 = 0.3;
const TRAINED: f64 = 0.85;
/// After a request to stop, the test may take this long.
const LAST: Duration = Duration::from_secs(60);

/// A part of the method that can be left out to see what it is worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// The choices of the teacher.
    Imitation,
    /// The sets that are drawn and judged.
    Reinforcement,
    /// The weights of every pair.
    Identities,
}

impl Part {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Imitation, Self::Reinforcement, Self::Identities];

    /// The name on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Imitation => "imitation",
            Self::Reinforcement => "reinforcement",
            Self::Identities => "identities",
        }
    }

    fn leave_out(self, options: &mut TrainOptions) {
        match self {
            Self::Imitation => options.example_updates = 0,
            Self::Reinforcement => options.updates = 0,
            Self::Identities => options.identities = false,
        }
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Part {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|part| part.name() == text)
            .ok_or_else(|| format!("`{text}` is none of {}", Self::ALL.map(Self::name).join(", ")))
    }
}

/// What to train and beside what to judge it.
#[derive(Debug, Clone)]
pub struct StudyOptions {
    /// How to train.
    pub train: TrainOptions,
    /// One training each.
    pub seeds: Vec<u64>,
    /// Beside the whole method, the method without each of these.
    pub without: Vec<Part>,
    /// Trains without each group of cases in turn and tests on that one.
    pub leave_one_out: bool,
    /// Selectors that learn nothing.
    pub rivals: Vec<SelectorKind>,
    /// Whether a fixed set is one of them.
    pub fixed_set: bool,
    /// Neighbouring matrices that are drawn together for intervals.
    pub block: usize,
    /// Whether policies leave the choice to greedy relief outside the range of their training, in the test.
    pub fallback: bool,
    /// When to end with what there is.
    pub limit: Limit,
}

/// Which training of a study.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunName {
    /// The group left out, if one is.
    pub left_out: Option<String>,
    /// The part of the method left out, if one is.
    pub without: Option<Part>,
    /// Its seed.
    pub seed: u64,
}

impl RunName {
    /// All trainings that differ only in their seed.
    #[must_use]
    pub fn family(&self) -> String {
        self.without.map_or_else(|| "learned".to_owned(), |part| format!("without {part}"))
    }

    /// The name with the group that was left out.
    pub(super) fn long(&self) -> String {
        self.left_out.as_ref().map_or_else(|| self.to_string(), |group| format!("without {group}: {self}"))
    }
}

impl fmt::Display for RunName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, seed {}", self.family(), self.seed)
    }
}

/// One training of a study.
#[derive(Debug, Clone)]
pub struct Run {
    /// Which.
    pub name: RunName,
    /// What it came to.
    pub trained: Trained,
}

/// All that was trained on the same matrices.
#[derive(Debug, Clone)]
pub struct Fold {
    /// The group of cases that was left out, if one was.
    pub left_out: Option<String>,
    /// Means of `PR_U` on the matrices of the validation, each network counting alike: of the bound and of every
    /// rival. Empty without a validation.
    pub rivals: Vec<(String, f64)>,
    /// What was learned from.
    pub lesson: Lesson,
    /// The lessons among which it was chosen; empty where there was no choice or no validation.
    pub trials: Vec<Trial>,
    /// The trainings.
    pub runs: Vec<Run>,
    /// By name of the case: everybody on the matrices set aside.
    pub tests: Vec<(String, Comparison)>,
}

/// What a study came to.
#[derive(Debug, Clone)]
pub struct Study {
    /// One, or one for each group left out.
    pub folds: Vec<Fold>,
    /// Whether it ended before all was trained.
    pub stopped: bool,
}

/// Told how a study goes.
pub trait Watch: Sync {
    /// The part of all that is done, and what is going on.
    fn progress(&self, done: f64, what: &str);

    /// A new point of a learning curve with the policy there and what it takes to go on, and the policy alone if it is
    /// the best of its training so far.
    ///
    /// # Errors
    /// Whatever should end the study.
    fn point(
        &self,
        name: &RunName,
        point: &TrainPoint,
        last: &Checkpoint,
        best: Option<&Checkpoint>,
    ) -> Result<(), EvaluateError>;

    /// An earlier state of a training to go on from.
    ///
    /// # Errors
    /// Whatever should end the study.
    fn earlier(&self, _name: &RunName) -> Result<Option<Earlier>, EvaluateError> {
        Ok(None)
    }
}

/// Trains and tests on all cases.
///
/// # Errors
/// [`EvaluateError`]; [`EvaluateError::Stopped`] when the limit is reached before anything was learned.
pub fn study(cases: &[Case], options: &StudyOptions, watch: &dyn Watch) -> Result<Study, EvaluateError> {
    for case in cases {
        case.check(options.train.stale)?;
    }
    let groups = groups(cases);
    if options.leave_one_out && groups.len() < 2 {
        return Err(EvaluateError::Split("to leave one out, two networks are needed".to_owned()));
    }
    let wide = options.leave_one_out || groups.len() > 1;
    if wide && options.train.identities {
        return Err(EvaluateError::Split("pairs can be known by name on one network only".to_owned()));
    }
    for without in variants(options) {
        let settings = of(&options.train, without);
        if settings.example_updates + settings.updates == 0 {
            let left = without.map_or_else(String::new, |part| format!(" without {part}"));
            return Err(EvaluateError::Split(format!("no updates are left to learn by{left}")));
        }
    }
    let folds: Vec<Option<&str>> =
        if options.leave_one_out { groups.iter().copied().map(Some).collect() } else { vec![None] };
    let variants: Vec<Option<Part>> = variants(options).collect();
    let mut study = Study { folds: Vec::new(), stopped: false };
    let lessons = candidates(cases, &options.train);
    let trials = if lessons.len() > 1 { lessons.len() as f64 * TRIAL } else { 0.0 };
    let work = folds.len() as f64 * ((variants.len() * options.seeds.len()) as f64 + trials);
    let at = |done: f64| PREPARED + (TRAINED - PREPARED) * done / work;
    let mut begun = 0.0;
    let mut school = School { cases, options, watch, solved: Vec::new(), prepared: Vec::new() };
    for left_out in folds {
        let kept = |case: &Case| left_out.is_none_or(|group| case.group != group);
        let name = |without: Option<Part>, seed: u64| RunName {
            left_out: left_out.map(str::to_owned),
            without,
            seed,
        };
        let mut fold = Fold {
            left_out: left_out.map(str::to_owned),
            rivals: Vec::new(),
            lesson: lessons[0],
            trials: Vec::new(),
            runs: Vec::new(),
            tests: Vec::new(),
        };
        let earlier = options.seeds.iter().map(|seed| watch.earlier(&name(None, *seed)));
        let earlier = earlier.collect::<Result<Vec<_>, _>>()?;
        let settled = earlier.iter().flatten().find_map(|earlier| Lesson::of(&earlier.last));
        if let Some(lesson) = settled.filter(|lesson| lessons.contains(lesson)) {
            fold.lesson = lesson;
        } else if lessons.len() > 1 && cases.iter().any(|case| kept(case) && case.validate > 0) {
            for lesson in &lessons {
                let courses = school.courses(*lesson, &kept)?;
                let (from, what) = (begun, format!("trial of {}", lesson.name()));
                let told = |done: f64| watch.progress(at(from + TRIAL * done), &what);
                fold.trials.extend(attempt(*lesson, &courses, &options.train, &options.limit, &told)?);
                begun += TRIAL;
            }
            fold.lesson = best(&fold.trials).unwrap_or(lessons[0]);
        }
        for without in &variants {
            let settings = of(&options.train, *without);
            let courses = school.courses(fold.lesson, &kept)?;
            for seed in &options.seeds {
                let name = name(*without, *seed);
                let observer = Told { watch, name: &name, from: at(begun), to: at(begun + 1.0) };
                begun += 1.0;
                let earlier = watch.earlier(&name)?;
                if options.limit.reached() && earlier.is_none() {
                    study.stopped = true;
                    continue;
                }
                match train(&courses, &settings, fold.lesson, *seed, earlier, &options.limit, &observer) {
                    Ok(trained) => {
                        study.stopped |= !trained.finished;
                        fold.runs.push(Run { name, trained });
                    }
                    Err(EvaluateError::Stopped { .. }) => study.stopped = true,
                    Err(error) => return Err(error),
                }
            }
        }
        if !fold.runs.is_empty() {
            study.folds.push(fold);
        }
    }
    if study.folds.is_empty() {
        return Err(EvaluateError::Stopped { before: "the first point of a learning curve" });
    }
    judge(&mut study, cases, options, watch)?;
    watch.progress(1.0, "done");
    Ok(study)
}

/// The whole method, then that without each part.
fn variants(options: &StudyOptions) -> impl Iterator<Item = Option<Part>> + '_ {
    std::iter::once(None).chain(options.without.iter().copied().map(Some))
}

/// Settings without a part of the method.
fn of(train: &TrainOptions, without: Option<Part>) -> TrainOptions {
    let mut settings = train.clone();
    if let Some(part) = without {
        part.leave_out(&mut settings);
    }
    settings
}

/// The names of all groups, in the order of their first case.
fn groups(cases: &[Case]) -> Vec<&str> {
    let mut groups: Vec<&str> = Vec::new();
    for case in cases {
        if !groups.contains(&case.group.as_str()) {
            groups.push(&case.group);
        }
    }
    groups
}

/// Cases as they are learned from, made when they are first needed.
struct School<'a> {
    cases: &'a [Case],
    options: &'a StudyOptions,
    watch: &'a dyn Watch,
    solved: Vec<Arc<TrafficSeries>>,
    prepared: Vec<(Lesson, Vec<Course<'a>>)>,
}

impl<'a> School<'a> {
    /// The courses of one lesson for the cases that are kept.
    fn courses(
        &mut self,
        lesson: Lesson,
        kept: &dyn Fn(&Case) -> bool,
    ) -> Result<Vec<&Course<'a>>, EvaluateError> {
        let (train, total) = (&self.options.train, self.cases.len() as f64);
        if self.solved.is_empty() {
            self.solved = self.cases.iter().map(solved).collect::<Result<_, _>>()?;
        }
        let known = self.prepared.iter().position(|(other, _)| *other == lesson);
        let at = match known {
            Some(at) => at,
            None => {
                let course = |(ix, (case, series)): (usize, (&'a Case, &Arc<TrafficSeries>))| {
                    let what = format!("examples of {}", lesson.name());
                    let at = |done: f64| self.watch.progress(PREPARED * (ix as f64 + done) / total, &what);
                    let (examples, limit) = (train.example_updates > 0, &self.options.limit);
                    Course::new(case, Arc::clone(series), lesson, examples, train.stale, limit, &at)
                };
                let courses = self.cases.iter().zip(&self.solved).enumerate().map(course);
                let courses = courses.collect::<Result<Vec<_>, _>>()?;
                self.prepared.push((lesson, courses));
                self.prepared.len() - 1
            }
        };
        Ok(self.prepared[at].1.iter().filter(|course| kept(course.case)).collect())
    }
}

/// Plays everybody on the validation and on what was set aside.
fn judge(
    study: &mut Study,
    cases: &[Case],
    options: &StudyOptions,
    watch: &dyn Watch,
) -> Result<(), EvaluateError> {
    let folds = study.folds.len() as f64;
    let mut last = None;
    for (ix, fold) in study.folds.iter_mut().enumerate() {
        let tested: Vec<&Case> = cases
            .iter()
            .filter(|case| fold.left_out.as_ref().is_none_or(|group| case.group == *group))
            .collect();
        let kept: Vec<&Case> = cases
            .iter()
            .filter(|case| fold.left_out.as_ref().is_none_or(|group| case.group != *group))
            .collect();
        let total = (kept.len() + tested.len()) as f64;
        let part = |at: usize, done: f64| {
            let within = (at as f64 + done) / total;
            watch.progress(TRAINED + (1.0 - TRAINED) * (ix as f64 + within) / folds, "test");
        };
        // Who asked to stop does not want to wait for rivals.
        let early = study.stopped;
        let limit = if early {
            last.get_or_insert_with(|| Limit::after(LAST)).clone()
        } else {
            options.limit.clone()
        };
        let fixed_set = options.fixed_set && !early;
        let plain = EvaluateOptions {
            selectors: if early { vec![SelectorKind::TopKCritical] } else { options.rivals.clone() },
            stale: options.train.stale,
            block: options.block,
            fallback: options.fallback,
            limit,
            ..EvaluateOptions::default()
        };
        if !early {
            let mut sums: Vec<(String, Vec<f64>)> = Vec::new();
            for (at, case) in kept.iter().enumerate().filter(|(_, case)| case.validate > 0) {
                let history = if fixed_set { case.learned().len() } else { 0 };
                let matrices =
                    if fixed_set { case.training() } else { &case.training()[case.learned().len()..] };
                let settings = EvaluateOptions { count: case.count, history, ..plain.clone() };
                let played = evaluate(&case.network, matrices, &settings, &mut |done| part(at, done));
                let Some(played) = unless_stopped(played)? else {
                    // Means over some of the networks would not be those of the learned.
                    study.stopped = true;
                    sums.clear();
                    break;
                };
                let bound = (!played.bound.is_empty()).then(|| ("(bound)".to_owned(), mean(&played.bound)));
                let arms = played.arms.iter().map(|arm| (arm.name.clone(), mean(&arm.performance)));
                for (name, value) in bound.into_iter().chain(arms) {
                    match sums.iter_mut().find(|(known, _)| *known == name) {
                        Some((_, values)) => values.push(value),
                        None => sums.push((name, vec![value])),
                    }
                }
            }
            fold.rivals = sums.into_iter().map(|(name, values)| (name, mean(&values))).collect();
        }
        let several = fold.runs.len() > 1;
        let trained: Vec<TrainedArm> = fold
            .runs
            .iter()
            .map(|run| TrainedArm {
                name: if several { run.name.to_string() } else { run.name.family() },
                family: run.name.family(),
                checkpoint: run.trained.best.clone(),
            })
            .collect();
        for (at, case) in tested.iter().enumerate() {
            let settings = EvaluateOptions {
                count: case.count,
                history: if fixed_set { case.train } else { 0 },
                trained: trained.clone(),
                ..plain.clone()
            };
            let play = |settings: &EvaluateOptions, matrices: &[TrafficMatrix]| {
                let played =
                    evaluate(&case.network, matrices, settings, &mut |done| part(kept.len() + at, done));
                unless_stopped(played)
            };
            let mut played = play(&settings, &case.test(fixed_set))?;
            if played.is_none() && !early {
                // What was learned is tested all the same, alone.
                study.stopped = true;
                let limit = last.get_or_insert_with(|| Limit::after(LAST)).clone();
                let selectors = vec![SelectorKind::TopKCritical];
                played =
                    play(&EvaluateOptions { selectors, history: 0, limit, ..settings }, &case.test(false))?;
            }
            fold.tests.extend(played.map(|played| (case.name.clone(), played)));
        }
    }
    Ok(())
}

/// `None` when the limit came before anything was played.
fn unless_stopped<T>(result: Result<T, EvaluateError>) -> Result<Option<T>, EvaluateError> {
    match result {
        Err(EvaluateError::Stopped { .. }) => Ok(None),
        result => result.map(Some),
    }
}

/// One training tells the watcher of all.
struct Told<'a> {
    watch: &'a dyn Watch,
    name: &'a RunName,
    from: f64,
    to: f64,
}

impl Observer for Told<'_> {
    fn progress(&self, done: f64) {
        self.watch.progress(self.from + done * (self.to - self.from), &self.name.long());
    }

    fn point(
        &self,
        point: &TrainPoint,
        last: &Checkpoint,
        best: Option<&Checkpoint>,
    ) -> Result<(), EvaluateError> {
        self.watch.point(self.name, point, last, best)
    }
}
