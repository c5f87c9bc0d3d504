//! A seeded simulator of a multi-cloud fleet: what would this controller have done to these clients?
//!
//! A [`Scenario`] says which fleet, which clients and what happens; a [`Fleet`] plays it request by request in
//! virtual time; [`SharedFleet`] lets the real controller observe and act on it; an [`Outcome`] says how it
//! went; [`report`] compares.
//!
//! ```
//! use traflux_core::Timestamp;
//! use traflux_sim::{Fleet, Scenario};
//!
//! let scenario = Scenario::built_in("steady")?;
//! let mut fleet = Fleet::new(&scenario, 1)?;
//! fleet.advance(Timestamp::from_secs_f64(60.0));
//! assert!(fleet.census().succeeded > 10_000);
//! # Ok::<(), traflux_sim::SimError>(())
//! ```

pub mod arms;
pub mod compare;
pub mod condition;
pub mod distribution;
pub mod error;
pub mod fleet;
pub mod fluid;
pub mod gateway;
pub mod histogram;
mod load;
pub mod outcome;
pub mod process;
pub mod random;
pub mod report;
pub mod scenario;
mod scrape;
pub mod shared;
pub mod te;

pub use arms::{ArmController, Baseline, CostAware, CriticalRow, cost_aware_weights, run_arm};
pub use compare::{ArmResult, Interval, paired_difference};
pub use condition::{WindowSpan, windows};
pub use distribution::ServiceTime;
pub use error::SimError;
pub use fleet::{Census, EndpointTruth, Fleet};
pub use fluid::{FluidFleet, SharedFluid};
pub use histogram::LatencyHistogram;
pub use outcome::{Minute, Outcome, QUIET, WindowOutcome};
pub use process::{Effect, Process, TargetKind};
pub use random::{RandomSettings, random_scenario};
pub use report::Report;
pub use scenario::{Cloud, Endpoint, MetricsSettings, OutlierDetection, Scenario, Source, WEIGHT_TOTAL};
pub use shared::SharedFleet;

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
