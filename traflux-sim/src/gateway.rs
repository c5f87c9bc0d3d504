//! What does the gateway's engine do to requests that differ, tenants that compete and backends that fail?
//!
//! A [`Scenario`] says which backends, which requests and what goes wrong; [`scenarios`] is the list that is
//! measured.

pub mod scenario;
pub mod scenarios;

pub use scenario::{Fault, Load, Loads, RateLimit, Scenario, Server, Tenant, Trouble};
pub use scenarios::scenarios;
