//! What may be asked of the running controller from outside?
//!
//! Only the service's loop touches the controller: whoever wants something sends a [`Command`] and waits for
//! the reply between two ticks.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use crate::config::ServiceConfig;

/// Parameters that may change while the controller runs; what is not set stays.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ParameterPatch {
    /// How many endpoints a policy may choose.
    pub k: Option<usize>,
    /// Utilisation that may be used freely, in [0.05, 1].
    pub max_utilization: Option<f64>,
    /// What saving 10 ms on a million requests is worth, in dollars.
    pub usd_per_million_for_10_ms: Option<f64>,
    /// Milliseconds of latency that one failed request is worth.
    pub error_ms: Option<f64>,
    /// Milliseconds of latency that moving one request is worth.
    pub churn_ms: Option<f64>,
    /// Least demand headroom.
    pub headroom: Option<f64>,
    /// Least share of a healthy endpoint.
    pub min_share: Option<f64>,
    /// Greatest share of any endpoint.
    pub max_share: Option<f64>,
    /// How much a share may move per second.
    pub step_per_s: Option<f64>,
    /// Learning rate; needs a policy that learns.
    pub learning_rate: Option<f64>,
}

/// The parameters in force.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct Parameters {
    /// How many endpoints a policy may choose; `null`: all.
    pub k: Option<usize>,
    /// Utilisation that may be used freely.
    pub max_utilization: f64,
    /// What saving 10 ms on a million requests is worth, in dollars; `null`: price plays no part.
    pub usd_per_million_for_10_ms: Option<f64>,
    /// Milliseconds of latency that one failed request is worth.
    pub error_ms: f64,
    /// Milliseconds of latency that moving one request is worth.
    pub churn_ms: f64,
    /// Least demand headroom.
    pub headroom: f64,
    /// Least share of a healthy endpoint.
    pub min_share: f64,
    /// Greatest share of any endpoint.
    pub max_share: f64,
    /// How much a share may move per second.
    pub step_per_s: f64,
    /// Learning rate; `null` without a policy that learns.
    pub learning_rate: Option<f64>,
}

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
