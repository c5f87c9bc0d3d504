//! What is kept of a request once its texts are gone?
//!
//! Names are turned into numbers and keys at the door, so that a request can wait, be tried again and be settled
//! without its head.
//!
//! What is kept takes a kilobyte, too much to be handed from function to function; and a new box for each request
//! would be an allocation. So boxes are used again: each thread keeps some of those that ended on it, and nothing but
//! the handle, an [`Admission`], moves.

use std::cell::RefCell;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::time::Duration;

use arrayvec::ArrayVec;
use traflux_core::Timestamp;

use super::forward::{Hedging, Hold, Tried, Turn};
use super::waiting::Room;
use crate::affinity::AffinityKey;
use crate::limit::{Holds, Key, LimitIx, MOST_LIMITS};
use crate::request::TokenEstimate;
use crate::retry::{Idempotence, RetryTicket};

/// The most beginnings of a prompt that are looked for: those of 256 blocks.
pub(super) const MOST_KEYS: usize = 16;

/// The most boxes that a thread keeps: a megabyte.
const MOST_KEPT: usize = 1024;

thread_local! {
    // The boxes are what is kept: they are handed out as they are.
    #[expect(clippy::vec_box)]
    static FREE: RefCell<Vec<Box<Kept>>> = const { RefCell::new(Vec::new()) };
}

/// A request as far as its way depends on it, and what it holds there.
#[derive(Debug)]
pub(super) struct Admission {
    /// `None` only while it is dropped.
    kept: Option<Box<Kept>>,
}

/// What stands in the box.
#[derive(Debug)]
pub(super) struct Kept {
    /// By which the log calls it, once somebody was given it.
    pub(super) number: Option<u64>,
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
    /// Its place at a backend; `None` before there is one, and once that has ended.
    pub(super) hold: Option<Hold>,
    pub(super) send_after: Duration,
    /// Leave of the budget for an attempt that is not the first.
    pub(super) leave: Option<RetryTicket>,
    /// Where it waited, and was charged its estimate against the share of its tenant.
    pub(super) waited_in: Option<Arc<Room>>,
    /// Limits that hold, whoever serves.
    pub(super) limits: ArrayVec<(LimitIx, Key), MOST_LIMITS>,
    /// What it holds of its limits.
    pub(super) reserved: Holds,
    /// When it may go and where, while it has a turn that has not come.
    pub(super) turn: Option<Turn>,
    pub(super) tried: Tried,
    pub(super) hedging: Hedging,
    /// Limits that count each backend apart: position among the compiled limits and what comes before the name of
    /// the backend in the key.
    pub(super) by_backend: ArrayVec<(u16, Option<Box<str>>), MOST_LIMITS>,
    /// What keeps a session together; empty without one.
    pub(super) session: ArrayVec<AffinityKey, MOST_KEYS>,
}

impl Kept {
    fn new() -> Self {
        Self {
            number: None,
            route: 0,
            model: 0,
            tenant: 0,
            band: 0,
            stream: false,
            idempotence: Idempotence::NonIdempotent,
            tokens: TokenEstimate::default(),
            bytes: 0,
            deadline: None,
            arrived: Timestamp::ZERO,
            hold: None,
            send_after: Duration::ZERO,
            leave: None,
            waited_in: None,
            limits: ArrayVec::new(),
            reserved: Holds::default(),
            turn: None,
            tried: Tried::new(),
            hedging: Hedging::default(),
            by_backend: ArrayVec::new(),
            session: ArrayVec::new(),
        }
    }

    /// The same request without anything that it holds.
    pub(super) fn another(&self) -> Admission {
        let mut another = Admission::blank();
        another.route = self.route;
        another.model = self.model;
        another.tenant = self.tenant;
        another.band = self.band;
        another.stream = self.stream;
        another.idempotence = self.idempotence;
        another.tokens = self.tokens;
        another.bytes = self.bytes;
        another.deadline = self.deadline;
        another.arrived = self.arrived;
        another.limits.clone_from(&self.limits);
        another.tried.clone_from(&self.tried);
        another.by_backend.clone_from(&self.by_backend);
        another.session.clone_from(&self.session);
        another
    }

    /// Forgets the request; plain numbers stay until the next one writes its own.
    fn clear(&mut self) {
        self.number = None;
        self.hold = None;
        self.send_after = Duration::ZERO;
        self.leave = None;
        self.waited_in = None;
        self.limits.clear();
        self.reserved = Holds::default();
        self.turn = None;
        self.tried.clear();
        self.hedging = Hedging::default();
        self.by_backend.clear();
        self.session.clear();
    }
}

impl Admission {
    /// One of which nothing is known yet.
    pub(super) fn blank() -> Self {
        // A thread that is being torn down keeps none.
        let free = FREE.try_with(|free| free.borrow_mut().pop()).ok().flatten();
        Self { kept: Some(free.unwrap_or_else(|| Box::new(Kept::new()))) }
    }
}

impl Deref for Admission {
    type Target = Kept;

    #[inline]
    fn deref(&self) -> &Kept {
        match &self.kept {
            Some(kept) => kept,
            None => unreachable!("taken out in drop alone"),
        }
    }
}

impl DerefMut for Admission {
    #[inline]
    fn deref_mut(&mut self) -> &mut Kept {
        match &mut self.kept {
            Some(kept) => kept,
            None => unreachable!("taken out in drop alone"),
        }
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        let Some(mut kept) = self.kept.take() else { return };
        kept.clear();
        let _ = FREE.try_with(|free| {
            let mut free = free.borrow_mut();
            if free.len() < MOST_KEPT {
                free.push(kept);
            }
        });
    }
}
