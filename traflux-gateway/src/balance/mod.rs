//! Which endpoint takes this request, from any thread?
//!
//! An [`EndpointTable`] keeps the shared state of endpoints by name. A [`Pool`] is an immutable choice among some
//! of them: weights, tiers, prices and an [`Algorithm`]. It picks through `&self`, in constant time, without
//! locks or allocation; a change of weights makes another pool over the same endpoints, so nothing learned is lost.
//!
//! Time and randomness are arguments: equal calls in equal order give equal picks.
//!
//! ```
//! use std::time::Duration;
//! use traflux_core::Timestamp;
//! use traflux_gateway::balance::{
//!     Answer, BalanceSettings, EndpointTable, LatencyPlan, Member, Outcome, PickRequest, Pool,
//! };
//!
//! let now = Timestamp::ZERO;
//! let endpoints = EndpointTable::new(&LatencyPlan::default());
//! let members = ["east", "west"].map(|name| Member::new(endpoints.endpoint(name, now), 1));
//! let pool = Pool::new(BalanceSettings::default(), members, 7)?;
//!
//! let position = pool.pick(&PickRequest::new(now, 42)).ok_or("nothing is open")?;
//! let ahead = pool.start(position, 0);
//! // … the request runs …
//! let later = Timestamp::new(Duration::from_millis(80));
//! pool.finish(later, position, &Answer::plain(Outcome::Success, Duration::from_millis(80), ahead));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! | question | module |
//! |---|---|
//! | what is known of an endpoint | [`endpoint`], [`estimator`] |
//! | what can be set | [`settings`] |
//! | who is among the choices | [`pool`], [`tier`], [`eligibility`] |
//! | who is chosen | [`choice`] |
//! | in which order weights take turns | [`schedule`] |
//! | what weights follow from latency, errors and price | [`adaptive`] |

pub mod adaptive;
pub mod choice;
pub mod eligibility;
pub mod endpoint;
pub mod estimator;
pub mod pool;
pub mod pool_picker;
pub mod schedule;
pub mod settings;
pub mod tier;

pub use crate::outcome::Outcome;
pub use adaptive::{AdaptiveWeights, Reading, SetWeights};
pub use choice::PickRequest;
pub use eligibility::Eligibility;
pub use endpoint::{Answer, Endpoint, EndpointTable};
pub use pool::{Member, Pool, Price};
pub use pool_picker::PoolPicker;
pub use settings::BalanceSettings;
pub use traflux_core::plan::balance::{
    AdaptivePlan, BalancePlan, CostPlan, Estimate, LatencyPlan, LoadUnit, Objective, RouteBalancePlan,
    SlowStartPlan,
};
pub use traflux_core::plan::routing::Algorithm;
