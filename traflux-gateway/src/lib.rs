//! Where does this request go, now or later, and if nowhere, why?
//!
//! An [`Engine`] takes requests through a plan; every part can be used alone:
//!
//! | module | question |
//! |---|---|
//! | [`rule`] | which of many conditions hold for a request? |
//! | [`balance`], [`affinity`] | which endpoint, and does a session stay where it was? |
//! | [`limit`] | may it go now, and if not, when? |
//! | [`queue`] | which request goes next, and which is not worth waiting? |
//! | [`congestion`], [`health`] | how much may a backend be asked for, and is it fit to serve? |
//! | [`retry`] | what follows a failed attempt? |
//! | [`observe`] | what does the gateway see of itself? |
//! | [`decision_log`] | what was decided, and would it be decided so again? |
//! | [`wire`], [`identity`] | what do bodies say about tokens, and who asks? |
//!
//! Time and randomness are arguments: nothing here has a clock or does I/O, so equal calls give equal decisions.
//!
//! The pickers at the root ([`Picker`]) are those of one client that is used by one thread, as the simulator plays
//! them.

#[cfg(any(feature = "server", feature = "tower"))]
pub mod adapter;
pub mod affinity;
pub mod alias;
pub mod balance;
pub mod congestion;
pub mod decision_log;
pub mod engine;
pub mod error;
pub mod health;
pub mod identity;
pub mod least_request;
pub mod limit;
pub mod observe;
pub mod outcome;
pub mod peak_ewma;
pub mod picker;
pub mod queue;
pub mod request;
pub mod retry;
pub mod rng;
pub mod round_robin;
pub mod rule;
#[cfg(feature = "server")]
pub mod server;
#[cfg(feature = "tower")]
pub mod tower;
pub mod units;
pub mod weighted;
pub mod wire;

pub use affinity::{AffinityKey, Maglev, PinTable, Session};
pub use alias::AliasTable;
pub use balance::{Algorithm, BalanceSettings, EndpointTable, PickRequest, Pool};
pub use engine::{
    BackendReading, Decision, End, Engine, EngineSettings, Explanation, Forward, Later, ProbeQuestion,
    ProbeStatus, Reason, Refusal, Waiting,
};
pub use error::GatewayError;
pub use identity::IdentityTable;
pub use least_request::LeastRequest;
pub use outcome::Outcome;
pub use peak_ewma::{PeakEwma, PeakEwmaSettings};
pub use picker::{Candidate, Completion, Picker, PickerKind};
pub use request::{Client, Lookup, Request, TokenEstimate};
pub use rng::Rng;
pub use round_robin::RoundRobin;
pub use rule::{Condition, Finding, Matcher, Mismatch, Severity, review};
pub use units::PicoDollars;
pub use weighted::{SmoothWeighted, WeightedRandom};
pub use wire::{BodyKind, RequestFacts, SseParser, TokensPlan, Usage, UsageReader};

// Queues.
pub use queue::{QueuePlan, RequestQueue};

// Limits
pub use limit::{Cost, Denial, DenialReason, Limiter, LimiterSettings, Reservation, TokenBucket};

// Congestion, health and retries.
pub use congestion::{
    BackendSignal, Ceiling, ClientHint, ConcurrencyLimit, ConcurrencyPlan, CoolDown, CoolDownPlan, Feedback,
    FeedbackPlan, SignalPlan, Throttle, ThrottlePlan,
};
pub use health::{HealthGroup, HealthPlan, Probe, ProbePlan};
pub use retry::{BudgetPlan, Fallback, Hedge, RetryBudget, RetryPlan};

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

#[cfg(all(doctest, feature = "server", feature = "tower"))]
#[doc = include_str!("../../docs/gateway-embedding.md")]
struct Embedding;
