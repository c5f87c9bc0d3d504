//! What can go wrong between network, matrices and selectors?

use traflux_core::{EncodeError, NetworkError, PolicyError};
use traflux_lp::multicommodity::FlowError;
use traflux_te::TeError;

/// What can go wrong between network, matrices and selectors.
#[derive(Debug, thiserror::Error)]
pub enum EvaluateError {
    /// Network and matrices do not fit.
    #[error(transparent)]
    Network(#[from] NetworkError),
    /// A parameter of a generator or a metric.
    #[error(transparent)]
    Te(#[from] TeError),
    /// The solver.
    #[error(transparent)]
    Flow(#[from] FlowError),
    /// The observation.
    #[error(transparent)]
    Encode(#[from] EncodeError),
    /// A selector.
    #[error("{selector}: {source}")]
    Policy {
        /// Which one.
        selector: String,
        /// What it says.
        source: PolicyError,
    },
    /// The simulator.
    #[error(transparent)]
    Sim(#[from] traflux_sim::SimError),
    /// A training.
    #[error(transparent)]
    Train(#[from] traflux_policy::bandit::BanditError),
    /// A checkpoint that does not fit.
    #[error("checkpoint: {0}")]
    Checkpoint(String),
    /// Somebody who watches a training failed, for instance to write a file.
    #[error("{0}")]
    Watcher(String),
    /// Too few matrices.
    #[error("{what} needs {least} matrices, there are {found}")]
    TooFew {
        /// What needs them.
        what: String,
        /// How many it needs.
        least: usize,
        /// How many there are.
        found: usize,
    },
    /// A division of matrices, or a set of networks, of which nothing can be learned.
    #[error("{0}")]
    Split(String),
    /// Stopped, or late, before anything could be shown.
    #[error("stopped before {before}")]
    Stopped {
        /// What did not come to pass.
        before: &'static str,
    },
}

impl EvaluateError {
    /// A stable name.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Network(error) => error.code(),
            Self::Te(error) => error.code(),
            Self::Flow(error) => error.code(),
            Self::Encode(error) => error.code(),
            Self::Policy { source, .. } => source.code(),
            Self::Sim(error) => error.code(),
            Self::Train(error) => error.code(),
            Self::Checkpoint(_) => "te_checkpoint",
            Self::Watcher(_) => "te_watcher",
            Self::TooFew { .. } => "te_too_few",
            Self::Split(_) => "te_split",
            Self::Stopped { .. } => "te_stopped",
        }
    }

    /// Whether the same call may succeed later with nothing changed here.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Network(error) => error.is_transient(),
            Self::Te(error) => error.is_transient(),
            Self::Flow(error) => error.is_transient(),
            Self::Encode(error) => error.is_transient(),
            Self::Policy { source, .. } => source.is_transient(),
            Self::Sim(error) => error.is_transient(),
            Self::Train(error) => error.is_transient(),
            Self::Stopped { .. } => true,
            Self::Checkpoint(_) | Self::Watcher(_) | Self::TooFew { .. } | Self::Split(_) => false,
        }
    }
}
