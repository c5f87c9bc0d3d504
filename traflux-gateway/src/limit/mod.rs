//! May this request go now, and if not, when?
//!
//! Limits by rate (token bucket, aligned and sliding windows, calendar months) and by what is in flight, in
//! requests, tokens or dollars, for all requests or per key. In order of size:
//!
//! - [`TokenBucket`]: one limit, no keys, one compare-and-swap;
//! - [`Pacer`]: a time to wait instead of a refusal;
//! - [`Limiter`]: many limits and keys; [`Limiter::reserve`] takes an estimate from several limits, all or none, and the
//!   [`Reservation`] is settled with the truth when the request has ended.
//!
//! [`meter`] says why counting is exact at any rate, [`bucket`] why no window ever grants more than its burst
//! and rate, [`keys`] how the number of keys stays bounded. Levels are those of one process: limits that hold
//! over several processes need a share of the rate each. [`store`] keeps levels over a restart.
//!
//! Time is an argument. A clock that jumps back sees levels as they were at the later time, never lower ones.

pub mod bucket;
mod cells;
pub mod keys;
pub mod lease;
pub mod limiter;
pub mod meter;
pub mod pacer;
pub mod reservation;
pub mod settings;
pub mod sliding;
pub mod store;
pub mod token_bucket;
mod warm_up;

use std::borrow::Cow;
use std::fmt::Display;

use traflux_core::Timestamp;

use crate::error::GatewayError;

pub use bucket::{BucketCell, Receipt, Shortfall};
pub use cells::LimitLevel;
pub use keys::{Key, KeyTable};
pub use lease::{LeaseEnd, LeaseExpiry, LeaseId, Leases};
pub use limiter::{LimitIx, Limiter, ScopeIx};
pub use meter::{Meter, MeterError, Refill};
pub use pacer::{Pace, Pacer};
pub(crate) use reservation::Holds;
pub use reservation::{Denial, DenialReason, MOST_LIMITS, Reservation};
pub use settings::{Cost, LimitRule, LimitSettings, LimiterSettings, ScopeSettings, Unit};
pub use sliding::{SlidingCell, SlidingWindow};
pub use store::{Levels, SavedLevel};
pub use token_bucket::{Check, TokenBucket};

/// Nanoseconds since the epoch, saturating after 584 years.
#[inline]
pub(crate) fn nanos(now: Timestamp) -> u64 {
    let time = now.since_epoch();
    time.as_secs().saturating_mul(1_000_000_000).saturating_add(u64::from(time.subsec_nanos()))
}

fn setting_error(
    limit: &str,
    setting: &'static str,
    value: impl Display,
    expected: &'static str,
) -> GatewayError {
    let setting = if limit.is_empty() { setting.into() } else { Cow::Owned(format!("{limit}.{setting}")) };
    GatewayError::setting(setting, value, expected)
}
