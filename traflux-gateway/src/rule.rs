//! Which of many conditions hold for a request?
//!
//! [`Matcher`] compiles [`MatchPlan`](traflux_core::plan::matching::MatchPlan)s once, [`Matcher::first`] and
//! [`Matcher::each`] answer without allocation, [`Mismatch`] says why one does not hold, and [`review`] finds
//! rules that can never match before the first request comes.

mod bits;
mod clients;
mod condition;
mod matcher;
mod path;
mod report;
mod subsume;

pub use condition::{Condition, Mismatch};
pub use matcher::Matcher;
pub(crate) use report::order;
pub use report::{Finding, Severity, review};
pub(crate) use subsume::excludes;
