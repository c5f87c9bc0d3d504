//! How does the controller run as a service?
//!
//! [`run`] puts the real stages together, Prometheus in front and Envoy behind, ticks them, and answers the
//! HTTP API. One task owns the controller; everybody else sends it a [`Command`].

mod command;
mod discovery;
mod export;
mod learner;
mod policy;
mod run;
mod source;
mod state;

pub use command::{Command, CommandError, ParameterPatch, Parameters, Reply, TrainReply, TrainRequest};
pub use run::{RunError, run};
pub(crate) use source::http_options;
pub use state::{ServiceState, TrainingView};
