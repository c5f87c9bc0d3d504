//! What may be asked of the running controller from outside?
//!
//! Only the service's loop touches the controller: whoever wants something sends a [`Command`] and waits for
//! the reply between two ticks.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use super::parameters::{ParameterPatch, Parameters};
use crate::config::ServiceConfig;

/// A request to train.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct TrainRequest {
    /// Gradient updates on the experience at hand; unset: one.
    pub updates: Option<usize>,
}

/// What came of a request to train.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct TrainReply {
    /// Transitions at hand.
    pub transitions: u64,
    /// Gradient updates made.
    pub updates: u64,
    /// Version of the parameters in use after them.
    pub parameters_version: u64,
}

/// Why a command was refused.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum CommandError {
    /// A value is out of its limits.
    #[error("{key}: {problem}")]
    Invalid {
        /// The key.
        key: String,
        /// What is wrong, with the value and its limits.
        problem: String,
    },
    /// The command makes no sense in this mode.
    #[error("{what} needs {needs}")]
    NotAvailable {
        /// What was asked.
        what: &'static str,
        /// What it needs.
        needs: &'static str,
    },
    /// The controller is shutting down or did not answer in time.
    #[error("controller did not answer within {limit_ms} ms")]
    NoAnswer {
        /// The limit.
        limit_ms: u64,
    },
}

impl CommandError {
    /// A stable name.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Invalid { .. } => "command_invalid",
            Self::NotAvailable { .. } => "command_not_available",
            Self::NoAnswer { .. } => "command_no_answer",
        }
    }

    /// Whether trying again may help.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::NoAnswer { .. })
    }
}

/// Where a reply goes.
pub type Reply<T> = oneshot::Sender<Result<T, CommandError>>;

/// Something asked of the controller.
#[derive(Debug)]
pub enum Command {
    /// Stop moving traffic.
    Freeze(Reply<()>),
    /// Move traffic again.
    Resume(Reply<()>),
    /// Read the parameters.
    Parameters(Reply<Parameters>),
    /// Change parameters: all of the patch or nothing.
    Patch(ParameterPatch, Reply<Parameters>),
    /// Replace services and endpoints.
    Services(Vec<ServiceConfig>, Reply<()>),
    /// Train on the experience at hand.
    Train(TrainRequest, Reply<TrainReply>),
}
