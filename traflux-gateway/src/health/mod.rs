//! Which endpoints are fit to serve?
//!
//! - [`Probe`] asks them: an active check as a state machine, the I/O of which is done outside.
//! - an [`OutlierPlan`] watches what they do: errors in a row, success rates that stand out.
//! - [`Breaker`] keeps one away and lets it back: ejected, on trial, returning by growing shares.
//! - [`HealthGroup`] puts these together for the endpoints of one backend and model, bounds how many are away
//!   at once, and in a panic, when too few would be left, uses all.
//!
//! Lack of capacity is not ill health: 429, 529, a refusal with `Retry-After` and time spent in queues of
//! our own never count here (see [`Outcome`]).

pub mod breaker;
pub mod group;
pub mod outlier;
pub mod panic;
pub mod probe;

pub use crate::outcome::Outcome;
pub use breaker::{Breaker, BreakerState, Entry};
pub use group::{Eligibility, HealthEvent, HealthGroup, Reason};
pub use outlier::EjectionCause;
pub use panic::is_panicking;
pub use probe::{NextProbe, Probe, ProbeResult, ProbeState};
pub use traflux_core::plan::health::{BreakerPlan, HealthPlan, OutlierPlan, ProbeKind, ProbePlan};
