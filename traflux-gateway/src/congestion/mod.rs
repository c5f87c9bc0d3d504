//! How much may this backend be asked for right now?
//!
//! Four sources answer, each in a file of its own, and the smallest answer counts:
//!
//! | source | type | what it yields |
//! |---|---|---|
//! | latency and drops seen here | [`ConcurrencyLimit`] | a limit on requests in flight, per backend and model |
//! | refusals seen here | [`Throttle`] | the share of each priority band to turn away before it is sent |
//! | what the backend measures of itself | [`BackendSignal`] | saturation, fading to local knowledge when old |
//! | what the backend says in response headers | [`Feedback`] | a [`CoolDown`] and a [`Ceiling`] |
//!
//! In the other direction a [`ClientHint`] tells clients when to come back and what they have left.
//!
//! A refusal for lack of capacity (429, a full local queue) belongs here and never counts as ill health.

pub(crate) mod algorithm;
pub(crate) mod baseline;
pub mod ceiling;
pub mod concurrency;
pub mod cooldown;
pub mod date;
pub mod duration_text;
pub mod exposition;
pub mod feedback;
pub mod hint;
pub mod orca;
pub mod signal;
pub(crate) mod sliding;
pub(crate) mod structured;
pub mod throttle;

pub use ceiling::{Ceiling, Mark};
pub use concurrency::{ConcurrencyLimit, Full, Sample, Slot};
pub use cooldown::CoolDown;
pub use feedback::{Feedback, Quota, Refill, Resource, Wait};
pub use hint::{ClientHint, HeaderStyle, Level};
pub use signal::{BackendSignal, LoadReport};
pub use throttle::{Throttle, Verdict};
pub use traflux_core::plan::congestion::{
    AimdPlan, ConcurrencyAlgorithm, ConcurrencyPlan, CoolDownPlan, FeedbackPlan, Gradient2Plan, GradientPlan,
    MAX_BANDS, SignalPlan, ThrottlePlan, VegasPlan,
};

/// Spreads settings by band over all bands: the last value given holds for the rest.
pub(crate) fn by_band(values: &[f64], default: f64) -> [f64; MAX_BANDS] {
    let last = values.last().copied().unwrap_or(default);
    std::array::from_fn(|band| values.get(band).copied().unwrap_or(last))
}
