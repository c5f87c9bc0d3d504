//! Who is imitated, and what is the policy shown?
//!
//! The best choices are not the best lessons: on uniform traffic, which of many nearly equal pairs an exact solver takes
//! is not in the features, and imitating a rule that chooses a little worse gives a policy that chooses a good deal
//! better. So unless a teacher is named, a short training with each is tried where there is a choice, and the validation
//! says which one the long training gets. Trials have a seed of their own: what they find does not depend on that of a
//! training.

use traflux_policy::Checkpoint;
use traflux_te::QuickChoice;

use super::course::{Case, Course};
use super::error::EvaluateError;
use super::limit::Limit;
use super::selector::SelectorKind;
use super::train::{INDIFFERENT, Observer, QUICK_CHOICE, TEACHER, TrainOptions, TrainPoint, train};

/// The quick choice as fractions of pairs: smoother from one matrix to the next, further from the best set.
pub const FRACTIONS: QuickChoice = QuickChoice::Fractions(10);
/// Up to so many pairs the oracle is quick enough to be a teacher.
const ORACLE_PAIRS: usize = 1000;
/// A trial makes all updates on examples, and of those on judged sets one in so many,
const SHORTER: usize = 5;
/// but no more than this.
const MOST_UPDATES: usize = 300;
/// Seed of all trials.
const SEED: u64 = 0;

/// What a policy learns from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lesson {
    /// Whose choices are imitated.
    pub teacher: SelectorKind,
    /// How the quick choice is made that the policy is shown.
    pub quick_choice: QuickChoice,
}

impl Lesson {
    /// The lesson of a checkpoint; `None` when `traflux te train` did not make it.
    pub(super) fn of(checkpoint: &Checkpoint) -> Option<Self> {
        let settings = &checkpoint.provenance.hyper_parameters;
        Some(Self {
            teacher: settings[TEACHER].as_str()?.parse().ok()?,
            quick_choice: serde_json::from_value(settings[QUICK_CHOICE].clone()).ok()?,
        })
    }

    /// A name for tables.
    #[must_use]
    pub fn name(&self) -> String {
        let shown = match self.quick_choice {
            QuickChoice::Rounds(_) => "rounds",
            QuickChoice::Fractions(_) => "fractions",
        };
        format!("{}, {shown}", self.teacher)
    }
}

/// A lesson that was tried.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Trial {
    /// Which.
    pub lesson: Lesson,
    /// Mean of `PR_U` in the validation, at the best point of a short training.
    pub validation: f64,
}

/// The lessons to choose among, the one to take where nothing tells them apart first.
///
/// The teacher is the quick choice or, where all networks are small enough for that, the oracle.
pub(super) fn candidates(cases: &[Case], options: &TrainOptions) -> Vec<Lesson> {
    let small = cases.iter().all(|case| case.network.pair_count() <= ORACLE_PAIRS);
    let teachers = match options.teacher {
        Some(teacher) => vec![teacher],
        // On the matrix after, it counts more which pairs matter than which of them are easily told.
        None if small && options.example_updates > 0 && options.stale => {
            vec![SelectorKind::Oracle, SelectorKind::Quick]
        }
        None if small && options.example_updates > 0 => vec![SelectorKind::Quick, SelectorKind::Oracle],
        None => vec![SelectorKind::Quick],
    };
    let quick_choice = options.quick_choice;
    teachers.into_iter().map(|teacher| Lesson { teacher, quick_choice }).collect()
}

/// The best of some trials; of those about as good the first.
pub(super) fn best(trials: &[Trial]) -> Option<Lesson> {
    let greatest = trials.iter().map(|trial| trial.validation).fold(f64::NEG_INFINITY, f64::max);
    trials.iter().find(|trial| trial.validation >= greatest - INDIFFERENT).map(|trial| trial.lesson)
}

/// Tries one lesson on the courses made for it; `None` without a validation.
pub(super) fn attempt(
    lesson: Lesson,
    courses: &[&Course<'_>],
    options: &TrainOptions,
    limit: &Limit,
    progress: &(dyn Fn(f64) + Sync),
) -> Result<Option<Trial>, EvaluateError> {
    let updates = options.updates.div_ceil(SHORTER).min(MOST_UPDATES);
    let short = TrainOptions { updates, ..options.clone() };
    let trained = train(courses, &short, lesson, SEED, None, limit, &Unheard(progress))?;
    if !trained.finished {
        return Err(EvaluateError::Stopped { before: "a lesson was chosen" });
    }
    let best = trained.curve.iter().filter_map(|point| point.validation).reduce(f64::max);
    Ok(best.map(|validation| Trial { lesson, validation }))
}

/// Nobody is told of the points of a trial.
struct Unheard<'a>(&'a (dyn Fn(f64) + Sync));

impl Observer for Unheard<'_> {
    fn progress(&self, done: f64) {
        (self.0)(done);
    }

    fn point(&self, _: &TrainPoint, _: &Checkpoint, _: Option<&Checkpoint>) -> Result<(), EvaluateError> {
        Ok(())
    }
}
