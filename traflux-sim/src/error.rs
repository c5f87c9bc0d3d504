//! What went wrong, in variants that a caller can act on.

use traflux_core::{
    ActuateError, EncodeError, NetworkError, ObserveError, PlanError, PolicyError, TopologyError,
};
use traflux_lp::multicommodity::FlowError;

/// An error of this crate.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum SimError {
    /// A scenario that is not YAML.
    #[error("scenario is not valid YAML: {reason}")]
    Syntax {
        /// The parser's words, with line and column.
        reason: String,
    },
    /// A key of a scenario that is unknown, missing or out of range.
    #[error("scenario, at `{path}`: {problem}")]
    Scenario {
        /// Path of the key.
        path: String,
        /// What is wrong, with value and limit.
        problem: String,
    },
    /// A built-in scenario was asked for by a name that none has.
    #[error("unknown scenario `{name}`, expected one of {expected}")]
    UnknownScenario {
        /// The name.
        name: String,
        /// The names there are.
        expected: String,
    },
    /// A scenario whose fleet does not hold together.
    #[error(transparent)]
    Topology(#[from] TopologyError),
    /// Weights that do not fit the fleet.
    #[error(transparent)]
    Weights(#[from] PlanError),
    /// The controller under test could not observe.
    #[error(transparent)]
    Observe(#[from] ObserveError),
    /// The controller under test could not act.
    #[error(transparent)]
    Actuate(#[from] ActuateError),
    /// A network and its traffic do not belong together.
    #[error(transparent)]
    Network(#[from] NetworkError),
    /// The best flows could not be found.
    #[error(transparent)]
    Flow(#[from] FlowError),
    /// An encoder refused a matrix.
    #[error(transparent)]
    Encode(#[from] EncodeError),
    /// The policy under test failed.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// A part of a series of matrices that is empty or not there.
    #[error("matrices {start}..{end} cannot be played, {steps} can be judged")]
    Series {
        /// The first.
        start: usize,
        /// The first that is not asked for.
        end: usize,
        /// How many can be judged.
        steps: usize,
    },
    /// The controller under test failed in a way of its own.
    #[error("arm `{arm}` failed at {at_s:.1} s: {reason}")]
    Arm {
        /// Which.
        arm: String,
        /// Virtual time.
        at_s: f64,
        /// Why.
        reason: String,
    },
}

impl SimError {
    /// A stable name for metrics and bindings.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Syntax { .. } => "sim_syntax",
            Self::Scenario { .. } => "sim_scenario",
            Self::UnknownScenario { .. } => "sim_unknown_scenario",
            Self::Topology(error) => error.code(),
            Self::Weights(error) => error.code(),
            Self::Observe(error) => error.code(),
            Self::Actuate(error) => error.code(),
            Self::Network(error) => error.code(),
            Self::Flow(error) => error.code(),
            Self::Encode(error) => error.code(),
            Self::Policy(error) => error.code(),
            Self::Series { .. } => "sim_series",
            Self::Arm { .. } => "sim_arm",
        }
    }

    /// Whether the same call may succeed later with nothing changed here: a simulation repeats itself.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        false
    }

    pub(crate) fn scenario(path: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::Scenario { path: path.into(), problem: problem.into() }
    }
}
