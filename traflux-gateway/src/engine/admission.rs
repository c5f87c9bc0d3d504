//! What is kept of a request once its texts are gone?
//!
//! Names are turned into numbers and keys at the door, so that a request can wait, be tried again and be settled
//! without its head.

use arrayvec::ArrayVec;
use traflux_core::Timestamp;

use crate::affinity::AffinityKey;
use crate::limit::{Key, LimitIx, MOST_LIMITS};
use crate::request::TokenEstimate;
use crate::retry::Idempotence;

/// The most blocks of a prompt that are looked for.
pub(super) const MOST_BLOCKS: usize = 16;

/// A request as far as its way depends on it.
#[derive(Debug, Clone)]
pub(super) struct Admission {
    /// Position of the route.
    pub(super) route: u32,
    /// Position of the model, see `Compiled::model`.
    pub(super) model: u32,
    /// Number of the tenant.
    pub(super) tenant: u32,
    pub(super) band: u8,
    pub(super) stream: bool,
    pub(super) idempotence: Idempotence,
    pub(super) tokens: TokenEstimate,
    /// Held for it while it waits.
    pub(super) bytes: u64,
    pub(super) deadline: Option<Timestamp>,
    pub(super) arrived: Timestamp,
    /// Limits that hold, whoever serves.
    pub(super) limits: ArrayVec<(LimitIx, Key), MOST_LIMITS>,
    /// Limits that count each backend apart: position among the compiled limits and what comes before the name of
    /// the backend in the key.
    pub(super) by_backend: ArrayVec<(u16, Option<Box<str>>), MOST_LIMITS>,
    /// What keeps a session together; empty without one.
    pub(super) session: ArrayVec<AffinityKey, MOST_BLOCKS>,
}
