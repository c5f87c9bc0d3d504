//! What goes into a queue, and what comes out?

use std::time::Duration;

use traflux_core::Timestamp;

use super::room::Bound;

/// A request that wants to wait.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Item {
    /// Whose request, a number of the caller; see [`RequestQueue::set_tenant`](super::RequestQueue::set_tenant).
    pub tenant: u32,
    /// The band, an index into [`QueuePlan::bands`](super::QueuePlan::bands).
    pub band: u8,
    /// The tokens that it is expected to cost, less than 2³²; 0 counts as 1.
    pub cost_tokens: u64,
    /// The bytes that are held for it, less than 2³².
    pub bytes: u64,
    /// When it must be done.
    pub deadline: Option<Timestamp>,
    /// How long it is expected to take once dispatched; counts only with a deadline.
    pub service: Duration,
    /// What it is worth, in any unit, the same for all; for [`Order::ValueDensity`](super::Order::ValueDensity).
    pub value: u32,
    /// Anything, given back when the request leaves.
    pub payload: u64,
}

/// Names one waiting request, for as long as it waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ticket(u64);

impl Ticket {
    pub(super) fn new(slot: u32, generation: u32) -> Self {
        Self(u64::from(generation) << 32 | u64::from(slot))
    }

    pub(super) fn slot(self) -> usize {
        (self.0 & u64::from(u32::MAX)) as usize
    }

    pub(super) fn generation(self) -> u32 {
        (self.0 >> 32) as u32
    }

    /// As a number, for callers that cannot hold the type.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The ticket of a number from [`get`](Self::get); any other number names no request.
    #[must_use]
    pub const fn from_number(number: u64) -> Self {
        Self(number)
    }
}

/// Whether a request waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// It waits.
    Waits {
        /// Its name.
        ticket: Ticket,
        /// What is before it.
        outlook: Outlook,
    },
    /// It does not.
    Refused {
        /// Why.
        reason: Refusal,
        /// After which time a retry may do better; `None` where that is not known, or never.
        retry_after: Option<Duration>,
    },
}

impl Admission {
    /// The ticket of what waits.
    #[must_use]
    pub const fn ticket(&self) -> Option<Ticket> {
        match self {
            Self::Waits { ticket, .. } => Some(*ticket),
            Self::Refused { .. } => None,
        }
    }
}

/// Why a request was refused at the door.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// The queue is full.
    Full(Bound),
    /// The tenant holds its part of the queue.
    TenantFull(Bound),
    /// It is larger than its band may ever hold.
    TooLarge(Bound),
    /// It would not be done by its deadline.
    Deadline,
    /// It would wait longer than its band allows.
    MaxWait,
    /// Its band is overloaded and it would wait longer than the target.
    Shed,
    /// There is no such band.
    UnknownBand,
    /// The tenant is beyond `max_tenants`, or a group of tenants.
    UnknownTenant,
}

impl Refusal {
    /// A stable name for metrics and bindings.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::Full(_) => "queue_full",
            Self::TenantFull(_) => "queue_tenant_full",
            Self::TooLarge(_) => "queue_too_large",
            Self::Deadline => "queue_deadline_infeasible",
            Self::MaxWait => "queue_wait_infeasible",
            Self::Shed => "queue_shed",
            Self::UnknownBand => "queue_unknown_band",
            Self::UnknownTenant => "queue_unknown_tenant",
        }
    }
}

/// What is before a waiting request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Outlook {
    /// Requests before it, as far as is known now: exact in a band served first come, first served without
    /// tenants, while nothing behind was cancelled; else an estimate.
    pub position: u32,
    /// Their tokens.
    pub tokens_before: u64,
    /// When it starts, counted from now, at the measured rate of service; `None` before that is known.
    pub starts_in: Option<Duration>,
}

/// A request that waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Waits {
    /// Its name.
    pub ticket: Ticket,
    /// What the caller gave.
    pub payload: u64,
    /// Whose it is.
    pub tenant: u32,
    /// Its band.
    pub band: u8,
    /// What it will be charged.
    pub cost_tokens: u64,
    /// How long it has waited.
    pub waited: Duration,
}

/// What is next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dequeued {
    /// Send this.
    Request(Dispatched),
    /// This one is next, but costs more than the budget. It keeps its place, so that large requests do not starve.
    OverBudget {
        /// Its name.
        ticket: Ticket,
        /// What it costs.
        cost_tokens: u64,
        /// What the caller gave.
        payload: u64,
    },
    /// Nothing waits.
    Empty,
}

impl Dequeued {
    /// The request to send.
    #[must_use]
    pub const fn request(&self) -> Option<&Dispatched> {
        match self {
            Self::Request(request) => Some(request),
            Self::OverBudget { .. } | Self::Empty => None,
        }
    }
}

/// A request that goes out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dispatched {
    /// Its name; no longer valid.
    pub ticket: Ticket,
    /// What the caller gave.
    pub payload: u64,
    /// Whose it is.
    pub tenant: u32,
    /// Its band.
    pub band: u8,
    /// What it was charged.
    pub cost_tokens: u64,
    /// How long it waited.
    pub waited: Duration,
}

/// A request that left without being sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dropped {
    /// Its name; no longer valid.
    pub ticket: Ticket,
    /// What the caller gave.
    pub payload: u64,
    /// Whose it is.
    pub tenant: u32,
    /// Its band.
    pub band: u8,
    /// Why.
    pub reason: DropReason,
    /// How long it waited.
    pub waited: Duration,
}

/// Why a waiting request was dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DropReason {
    /// It could not be done by its deadline any more.
    Deadline,
    /// It waited as long as its band allows.
    MaxWait,
    /// It waited longer than the target of its overloaded band.
    Shed,
    /// A request of a better band took its place.
    PushedOut,
    /// The queue was closed.
    Closed,
}

impl DropReason {
    /// A stable name for metrics and bindings.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::Deadline => "queue_deadline_missed",
            Self::MaxWait => "queue_waited_too_long",
            Self::Shed => "queue_shed_late",
            Self::PushedOut => "queue_pushed_out",
            Self::Closed => "queue_closed",
        }
    }
}

/// How much waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct QueueLoad {
    /// Requests.
    pub items: u64,
    /// Bytes held for them.
    pub bytes: u64,
    /// Their expected tokens.
    pub tokens: u64,
}
