//! Which pairs of a network should be rerouted, and how do ways to choose them compare?
//!
//! [`SelectorKind`] names the ways, [`evaluate`](evaluate::evaluate) plays them on matrices, and
//! [`Comparison`] holds what came of it, as a table, as CSV and as a page. [`study`](study::study) trains selectors on
//! one network or many, by several seeds, and [`Study`] holds their learning curves and tests.

pub(crate) mod chart;
pub mod course;
mod error;
pub mod evaluate;
mod judge;
mod lesson;
mod limit;
pub(crate) mod page;
mod score;
mod selector;
pub mod study;
mod study_page;
mod table;
pub mod train;

pub use course::Case;
pub use evaluate::{
    ArmScore, Comparison, EvaluateError, EvaluateOptions, Gain, LARGE, LARGE_TOLERANCE, TrainedArm, evaluate,
};
pub use lesson::{FRACTIONS, Lesson, Trial};
pub use limit::Limit;
pub use selector::SelectorKind;
pub use study::{Fold, Part, Run, RunName, Study, StudyOptions, Watch, study};
pub use traflux_te::*;
pub use train::{Earlier, TrainOptions, TrainPoint, Trained};
