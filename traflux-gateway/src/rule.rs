//! Which of many conditions hold for a request?
//!
//! [`Matcher`] compiles [`MatchPlan`](traflux_core::plan::matching::MatchPlan)s once, [`Matcher::first`] and
//! [`Matcher::each`] answer without allocation, [`Mismatch`] says why one does not hold, and [`review`] finds
//! rules that can never match before the first request comes. Whoever asks the engine about requests of HTTP gives paths
//! their one form first ([`normal_path`]), as the gateway and the Tower layer do.

mod bits;
mod clients;
mod condition;
mod form;
mod matcher;
mod path;
mod report;
mod subsume;

pub use condition::{Condition, Mismatch};
pub use form::normal_path;
pub use matcher::Matcher;
pub(crate) use report::order;
pub use report::{Finding, Severity, review};
pub(crate) use subsume::excludes;
