//! How does the controller run as a service?
//!
//! [`run`] puts the real stages together, Prometheus in front and Envoy behind, ticks them, and answers the
//! HTTP API. One task owns the controller; everybody else sends it a [`Command`].

mod assemble;
mod command;
mod discovery;
mod export;
mod learner;
mod parameters;
mod policy;
mod prepare;
mod run;
mod save;
mod source;
mod state;

pub use assemble::{Assembly, Brought, Given, Learns};
pub use command::{Command, CommandError, Reply, TrainReply, TrainRequest};
pub(crate) use export::record;
pub use parameters::{ParameterPatch, Parameters};
pub use prepare::{Prepared, prepare};
pub use run::{RunError, run};
pub(crate) use source::http_options;
pub use state::{ServiceState, TrainingView};
