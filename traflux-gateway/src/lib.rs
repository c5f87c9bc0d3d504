//! Which endpoint takes this request?
//!
//! A [`Picker`] answers per request, from what one client (a proxy, a gateway, a simulated source) knows by
//! itself: weights, its own requests in flight, the latencies it saw. Fleet-level weights come from above, every few
//! seconds; a picker is the layer below them.
//!
//! Time and randomness are arguments: a picker has a seed and no clock, so equal inputs give equal picks.
//!
//! ```
//! use traflux_core::Timestamp;
//! use traflux_gateway::{Candidate, PickerKind};
//!
//! let mut picker = PickerKind::SmoothWeighted.build(7);
//! picker.configure(&[Candidate::weighted(3), Candidate::weighted(1)]);
//! let picks: Vec<_> = (0..4).filter_map(|_| picker.pick(Timestamp::ZERO, &[0, 0])).collect();
//! assert_eq!(picks.iter().filter(|e| **e == 0).count(), 3);
//! ```

#[cfg(any(feature = "server", feature = "tower"))]
pub mod adapter;
pub mod affinity;
pub mod alias;
pub mod balance;
pub mod congestion;
pub mod engine;
pub mod error;
pub mod health;
pub mod identity;
pub mod least_request;
pub mod limit;
pub mod observe;
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
pub use engine::{Decision, End, Engine, EngineSettings, Explanation, Forward, Reason, Refusal, Waiting};
pub use error::GatewayError;
pub use identity::IdentityTable;
pub use least_request::LeastRequest;
pub use peak_ewma::{PeakEwma, PeakEwmaSettings};
pub use picker::{Candidate, Completion, Picker, PickerKind};
pub use request::{Client, Lookup, Request, TokenEstimate};
pub use rng::Rng;
pub use round_robin::RoundRobin;
pub use rule::{Condition, Finding, Matcher, Mismatch, Severity, review};
pub use units::PicoDollars;
pub use weighted::{SmoothWeighted, WeightedRandom};
pub use wire::{BodyKind, RequestFacts, SseParser, TokenEstimator, Usage, UsageReader};

// Queues.
pub use queue::{QueueSettings, RequestQueue};

// Limits
pub use limit::{Cost, Denial, DenialReason, Limiter, LimiterSettings, Reservation, TokenBucket};

// Congestion, health and retries.
pub use congestion::{
    BackendSignal, Ceiling, ClientHint, ConcurrencyLimit, ConcurrencySettings, CoolDown, CoolDownSettings,
    Feedback, FeedbackSettings, SignalSettings, Throttle, ThrottleSettings,
};
pub use health::{HealthGroup, HealthSettings, Outcome, Probe, ProbeSettings};
pub use retry::{
    BudgetSettings, FallbackChain, FallbackSettings, Hedge, HedgeSettings, RetryBudget, RetryPolicy,
};

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
