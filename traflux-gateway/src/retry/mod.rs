//! Should this request be tried again, tried twice, or tried elsewhere?
//!
//! - [`decide`] says what follows a failed attempt, as a [`RetryPlan`] has it. Once the first byte of an answer has gone to the client the
//!   answer is always no.
//! - [`Hedge`] says when a second attempt is sent because the first is slower than most.
//! - [`Fallback`] is another backend for requests that those before it cannot serve.
//! - [`RetryBudget`] bounds all three, so that trying again never becomes the overload it answers.

pub mod budget;
pub mod fallback;
pub mod hedge;
pub mod policy;
pub mod quantile;

pub use budget::{RetryBudget, RetryTicket};
pub use fallback::{Fallback, FallbackLeave, fallback_cause};
pub use hedge::Hedge;
pub use policy::{Attempt, Idempotence, Progress, RetryDecision, StopReason, decide};
pub use quantile::LatencyQuantile;
pub use traflux_core::plan::retry::{BudgetPlan, RetryCause, RetryPlan};
