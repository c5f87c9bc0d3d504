//! Which pairs of a network should be rerouted, and how do ways to choose them compare?
//!
//! [`SelectorKind`] names the ways, [`evaluate`](evaluate::evaluate) plays them on matrices, and
//! [`Comparison`] holds what came of it, as a table, as CSV and as a page.

pub mod evaluate;
mod page;
mod selector;
mod table;
pub mod train;

pub use evaluate::{ArmScore, Comparison, EvaluateError, EvaluateOptions, evaluate};
pub use selector::SelectorKind;
pub use traflux_te::*;
pub use train::{TrainOptions, TrainPoint, Trained, train};
