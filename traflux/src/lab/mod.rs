//! What would the controller have done to these clients?
//!
//! Here the real controller meets the simulated fleet: as arms of a comparison ([`arms`]), as an environment
//! to train in ([`environment`]), and as the demonstration ([`demo`]).

pub mod arms;
pub mod compare;
pub mod demo;
pub mod environment;
#[cfg(feature = "learn")]
pub mod train;

pub use arms::{ArmKind, LoopArm, controller};
pub use compare::{Comparison, compare};
pub use environment::FleetEnvironment;
