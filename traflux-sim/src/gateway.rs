//! What does the gateway's engine do to requests that differ, tenants that compete and backends that fail?
//!
//! A [`Scenario`] says which backends, which requests and what goes wrong; [`scenarios`] is the list that is
//! measured. An [`Arm`] is the real [`Engine`](traflux_gateway::Engine), called as an adapter calls it, or the
//! algorithm of another balancer; [`play`] lets it decide for every request in virtual time, and an [`Outcome`] says
//! how it went.
//!
//! ```
//! use traflux_core::plan::routing::Algorithm;
//! use traflux_sim::gateway::{Arm, play, quantile, scenarios};
//!
//! let mut scenario = scenarios().remove(0);
//! scenario.seconds = 60.0;
//! let outcome = play(&scenario, 0.7, 1, &Arm::engine(Algorithm::Adaptive))?;
//! assert_eq!(outcome.unanswered, 0);
//! assert!(quantile(&outcome.first_token, 0.5) < 0.5);
//! # Ok::<(), traflux_gateway::GatewayError>(())
//! ```

pub mod arm;
pub mod arrival;
mod backend;
pub mod client;
pub mod compare;
mod engine;
pub mod outcome;
pub mod peer;
pub mod play;
pub mod scenario;
pub mod scenarios;

pub use arm::Arm;
pub use arrival::Arrival;
pub use outcome::{Outcome, quantile};
pub use peer::Peer;
pub use play::play;
pub use scenario::{Fault, Load, Loads, RateLimit, Scenario, Server, Tenant, Trouble};
pub use scenarios::scenarios;
