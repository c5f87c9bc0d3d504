//! What is learned from, what says which checkpoint is best, and what is set aside?
//!
//! ```text
//! matrices   0 ................ train ............... end
//!            learned from | validation |  …  | test
//! ```
//!
//! Matrices of one network follow each other in time, so nothing is shuffled: what is judged comes after what is
//! learned from.

use std::ops::Range;
use std::sync::Arc;

use traflux_core::{Network, TrafficMatrix};
use traflux_policy::bandit::Scene;
use traflux_sim::te::{TrafficSeries, scenes_of};
use traflux_te::{SelectionEncoder, ecmp};

use super::error::EvaluateError;
use super::lesson::Lesson;
use super::limit::Limit;

/// One network with its matrices, to learn from and to be judged on.
#[derive(Debug, Clone)]
pub struct Case {
    /// Its name.
    pub name: String,
    /// Cases of one group are left out together, as different traffic on one network has to be.
    pub group: String,
    /// The network.
    pub network: Network,
    /// Its matrices, in the order of time.
    pub matrices: Vec<TrafficMatrix>,
    /// Most pairs that may be rerouted.
    pub count: usize,
    /// How many of the first matrices belong to the training.
    pub train: usize,
    /// How many of them, the last, are not learned from but say which checkpoint is best.
    pub validate: usize,
    /// How many of the last matrices are set aside for the result.
    pub test: usize,
}

impl Case {
    /// Checks that there is something to learn from and that nothing is used twice.
    ///
    /// # Errors
    /// [`EvaluateError::TooFew`] and [`EvaluateError::Split`].
    pub fn check(&self, stale: bool) -> Result<(), EvaluateError> {
        let (name, found, stale) = (&self.name, self.matrices.len(), usize::from(stale));
        let least = self.train + self.test;
        if found < least {
            let what = format!("{name}: training on {} and testing on {}", self.train, self.test);
            return Err(EvaluateError::TooFew { what, least, found });
        }
        let (learned, needed) = (self.train.saturating_sub(self.validate), 1 + stale);
        for (what, count) in [("learn from", learned), ("test on", self.test)] {
            if count < needed {
                return Err(EvaluateError::Split(format!(
                    "{name}: {count} matrices to {what}, at least {needed} needed; of {found}, {} are for training, \
                     of these {} for validation, and {} for the test",
                    self.train, self.validate, self.test
                )));
            }
        }
        if self.validate > 0 && self.validate < needed {
            return Err(EvaluateError::Split(format!(
                "{name}: {} matrices for validation, must be none or at least {needed}",
                self.validate
            )));
        }
        Ok(())
    }

    /// Matrices that are learned from.
    pub(super) fn learned(&self) -> &[TrafficMatrix] {
        &self.matrices[..self.train - self.validate]
    }

    /// All matrices up to the end of the validation.
    pub(super) fn training(&self) -> &[TrafficMatrix] {
        &self.matrices[..self.train]
    }

    /// The matrices set aside, with those of the training as history before them.
    pub(super) fn test(&self, history: bool) -> Vec<TrafficMatrix> {
        let before = if history { self.training() } else { &[] };
        before.iter().chain(&self.matrices[self.matrices.len() - self.test..]).cloned().collect()
    }
}

/// A case, ready to be learned from in one way.
#[derive(Debug)]
pub(super) struct Course<'a> {
    pub(super) case: &'a Case,
    pub(super) series: Arc<TrafficSeries>,
    pub(super) encoder: SelectionEncoder,
    pub(super) scenes: Vec<Scene>,
    pub(super) validate: Range<usize>,
}

/// Solves for the optima of all matrices up to the end of the validation.
pub(super) fn solved(case: &Case) -> Result<Arc<TrafficSeries>, EvaluateError> {
    let base = ecmp(&case.network)?;
    Ok(Arc::new(TrafficSeries::new(case.network.clone(), base, case.training().to_vec())?))
}

impl<'a> Course<'a> {
    /// Encodes what is learned from, and asks the teacher if examples are needed.
    pub(super) fn new(
        case: &'a Case,
        series: Arc<TrafficSeries>,
        lesson: Lesson,
        examples: bool,
        stale: bool,
        limit: &Limit,
        progress: &dyn Fn(f64),
    ) -> Result<Self, EvaluateError> {
        let (network, base) = (series.network(), series.base());
        let mut encoder =
            SelectionEncoder::new(network, base, case.count).with_quick_choice(lesson.quick_choice);
        // With stale choices the last matrix of a part is only met, so that no part touches the next.
        let end = |end: usize| end - usize::from(stale);
        let observations = scenes_of(&series, 0..end(case.train - case.validate), &mut encoder)?;
        let kind = lesson.teacher;
        let mut teacher = examples.then(|| kind.policy(network, base, case.count));
        let total = observations.len() as f64;
        let mut scenes = Vec::with_capacity(observations.len());
        for (ix, observation) in observations.into_iter().enumerate() {
            progress(ix as f64 / total);
            let mut example = Vec::new();
            if let Some(teacher) = &mut teacher {
                if limit.reached() {
                    return Err(EvaluateError::Stopped { before: "anything was learned" });
                }
                let refused = |source| EvaluateError::Policy { selector: kind.name().to_owned(), source };
                example = teacher.act(&observation).map_err(refused)?.critical;
            }
            scenes.push(Scene { observation, count: case.count, example });
        }
        let validate = if case.validate == 0 { 0..0 } else { case.train - case.validate..end(case.train) };
        Ok(Self { case, series, encoder, scenes, validate })
    }
}
