//! Should this request be tried again, tried twice, or tried elsewhere?
//!
//! - [`RetryPolicy`] decides after a failed attempt. Once the first byte of an answer has gone to the client the
//!   answer is always no.
//! - [`Hedge`] starts a second attempt when the first is slower than most, and [`Race`] settles who won.
//! - [`FallbackChain`] names other backends for requests that this one cannot serve.
//! - [`RetryBudget`] bounds all three, so that trying again never becomes the overload it answers.

pub mod budget;
pub mod fallback;
pub mod hedge;
pub mod policy;
pub mod quantile;

pub use budget::{BudgetSettings, RetryBudget, RetryTicket};
pub use fallback::{Alternative, FallbackCause, FallbackChain, FallbackDecision, FallbackSettings};
pub use hedge::{Hedge, HedgeDecision, HedgeSettings, Race};
pub use policy::{Attempt, Idempotence, Progress, RetryDecision, RetryPolicy, StopReason};
pub use quantile::LatencyQuantile;
