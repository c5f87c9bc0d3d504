//! What can come of a request?

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::forward::{Forward, Later};
use super::waiting::Waiting;

/// What to do with a request.
#[derive(Debug)]
#[must_use = "a forward that is dropped is cancelled"]
pub enum Decision {
    /// Send it.
    Forward(Forward),
    /// Let it wait; [`Engine::take_ready`](super::Engine::take_ready) says when it goes on.
    Wait(Waiting),
    /// Let it have its turn later: a limit that the plan lets it wait for has no room before.
    Later(Later),
    /// Answer it yourself.
    Refuse(Refusal),
}

impl Decision {
    /// The way to a backend, where there is one.
    pub fn forward(self) -> Option<Forward> {
        match self {
            Self::Forward(forward) => Some(forward),
            Self::Wait(_) | Self::Later(_) | Self::Refuse(_) => None,
        }
    }
}

/// Why a request is not sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Why.
    pub reason: Reason,
    /// The rule that decided, where one did.
    pub rule: Option<Arc<str>>,
    /// The limit that refused, for reasons of limits.
    pub limit: Option<Arc<str>>,
    /// When it makes sense to come back; `None` where time alone does not help, or nothing is known.
    pub retry_after: Option<Duration>,
}

/// Why a request is not sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reason {
    /// No rule matches and there is no default route.
    NoRoute,
    /// No backend of the route serves the model.
    NoModel,
    /// The request is longer than the context of its model is at any backend of the route.
    ContextExceeded,
    /// All backends of the route are ill, drained or of weight 0.
    NoBackend,
    /// All backends of the route have no room.
    Saturated,
    /// A limit has nothing left for now.
    Limited,
    /// The request is larger than a limit ever allows.
    TooLarge,
    /// More keys are in use than the table of a limit holds.
    TooManyKeys,
    /// The queue has no room, or the request would come too late.
    Queue(crate::queue::Refusal),
    /// It waited in the queue in vain.
    Dropped(crate::queue::DropReason),
    /// No attempt is left after failures.
    Exhausted,
}

impl Reason {
    /// The status that a client is answered with.
    #[must_use]
    pub const fn status(self) -> u16 {
        match self {
            Self::NoRoute | Self::NoModel => 404,
            Self::Limited => 429,
            Self::TooLarge | Self::ContextExceeded => 413,
            Self::Exhausted => 502,
            Self::NoBackend | Self::Saturated | Self::TooManyKeys | Self::Queue(_) | Self::Dropped(_) => 503,
        }
    }

    /// Whether there was no room, rather than no right to more.
    #[must_use]
    pub const fn is_capacity(self) -> bool {
        matches!(self, Self::Saturated | Self::NoBackend | Self::Queue(_) | Self::Dropped(_))
    }

    /// All names that [`code`](Self::code) gives.
    pub fn codes() -> impl Iterator<Item = &'static str> {
        use crate::queue::{Bound, DropReason, Refusal as Queue};
        let own = [
            Self::NoRoute,
            Self::NoModel,
            Self::ContextExceeded,
            Self::NoBackend,
            Self::Saturated,
            Self::Limited,
            Self::TooLarge,
            Self::TooManyKeys,
            Self::Exhausted,
        ];
        let queue = [
            Queue::Full(Bound::Items),
            Queue::TenantFull(Bound::Items),
            Queue::TooLarge(Bound::Items),
            Queue::Deadline,
            Queue::MaxWait,
            Queue::Shed,
            Queue::UnknownBand,
            Queue::UnknownTenant,
        ];
        let dropped = [DropReason::Deadline, DropReason::MaxWait, DropReason::Shed, DropReason::PushedOut];
        own.into_iter()
            .chain(queue.into_iter().map(Self::Queue))
            .chain(dropped.into_iter().map(Self::Dropped))
            .map(Self::code)
    }

    /// A stable name for metrics, logs and bindings.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::NoRoute => "no_route",
            Self::NoModel => "no_model",
            Self::ContextExceeded => "context_exceeded",
            Self::NoBackend => "no_backend",
            Self::Saturated => "saturated",
            Self::Limited => "limited",
            Self::TooLarge => "too_large",
            Self::TooManyKeys => "too_many_keys",
            Self::Queue(refusal) => refusal.code(),
            Self::Dropped(reason) => reason.code(),
            Self::Exhausted => "exhausted",
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.reason {
            Reason::NoRoute => f.write_str("no rule matches and there is no default route")?,
            Reason::NoModel => f.write_str("no backend of this route serves the model")?,
            Reason::ContextExceeded => {
                f.write_str(
                    "the request is longer than the context of the model at any backend of this route",
                )?;
            }
            Reason::NoBackend => f.write_str("no backend of this route is in service")?,
            Reason::Saturated => f.write_str("no backend of this route has room")?,
            Reason::Limited => f.write_str("a limit is used up")?,
            Reason::TooLarge => f.write_str("the request is larger than a limit allows")?,
            Reason::TooManyKeys => f.write_str("too many clients at once")?,
            Reason::Queue(_) => f.write_str("the queue has no place for it in time")?,
            Reason::Dropped(_) => f.write_str("it waited in the queue in vain")?,
            Reason::Exhausted => f.write_str("every attempt failed")?,
        }
        if let Some(limit) = &self.limit {
            write!(f, " (`{limit}`)")?;
        }
        if let Some(wait) = self.retry_after {
            write!(f, "; try again in {:.3} s", wait.as_secs_f64())?;
        }
        Ok(())
    }
}
