//! Where do requests wait until there is room?

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use traflux_core::Timestamp;

use super::admission::Admission;
use super::compile::Compiled;
use super::decision::{Decision, Reason, Refusal};
use super::forward::resume;
use super::{Engine, Shared};
use crate::error::GatewayError;
use crate::queue::{self, Dequeued, Dropped, Item, Outlook, QueueSettings, RequestQueue, Ticket};

/// The queue of all requests that want the same backends.
#[derive(Debug)]
pub(super) struct Room {
    /// Whose room it is, sorted.
    pub(super) backends: Vec<String>,
    pub(super) settings: QueueSettings,
    /// Requests that wait, to be read without the lock. Relaxed: who sees an old number acts as a moment earlier, and
    /// the next end of a request looks again.
    count: AtomicUsize,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    queue: RequestQueue,
    /// Admissions of those that wait, by the payload of their item.
    waiting: Vec<Option<Admission>>,
    free: Vec<usize>,
    /// Decisions that nobody has fetched yet.
    ready: VecDeque<(Ticket, Decision)>,
    dropped: Vec<Dropped>,
}

/// A request that waits. Dropping it gives up its place.
#[must_use = "a request that is dropped gives up its place"]
pub struct Waiting {
    room: Arc<Room>,
    ticket: Ticket,
    outlook: Outlook,
    given_up: bool,
}

impl Waiting {
    /// Its number, by which [`Engine::take_ready`] calls it.
    #[must_use]
    pub fn ticket(&self) -> (usize, Ticket) {
        (Arc::as_ptr(&self.room) as usize, self.ticket)
    }

    /// What was before it when it began to wait.
    #[must_use]
    pub const fn outlook(&self) -> Outlook {
        self.outlook
    }

    /// What is before it now; `None` once it has left.
    #[must_use]
    pub fn outlook_now(&self, now: Timestamp) -> Option<Outlook> {
        self.room.lock().queue.outlook(now, self.ticket)
    }
}

impl std::fmt::Debug for Waiting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Waiting")
            .field("ticket", &self.ticket)
            .field("outlook", &self.outlook)
            .finish_non_exhaustive()
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if std::mem::replace(&mut self.given_up, true) {
            return;
        }
        let mut inner = self.room.lock();
        inner.queue.cancel(self.ticket);
        // A decision that came too late ends with the guard's scope, outside the lock.
        let at = inner.ready.iter().position(|(ticket, _)| *ticket == self.ticket);
        let late = at.and_then(|at| inner.ready.remove(at));
        self.room.recount(&inner);
        drop(inner);
        drop(late);
    }
}

impl Room {
    pub(super) fn new(backends: Vec<String>, settings: &QueueSettings) -> Result<Self, GatewayError> {
        let inner = Inner {
            queue: RequestQueue::new(settings)?,
            waiting: Vec::new(),
            free: Vec::new(),
            ready: VecDeque::new(),
            dropped: Vec::new(),
        };
        Ok(Self {
            backends,
            settings: settings.clone(),
            count: AtomicUsize::new(0),
            inner: Mutex::new(inner),
        })
    }

    /// Whether anybody waits.
    pub(super) fn is_waiting(&self) -> bool {
        self.count.load(Ordering::Relaxed) > 0
    }

    /// How much waits in a band.
    pub(super) fn band_load(&self, band: u8) -> queue::QueueLoad {
        self.lock().queue.band_load(band)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn recount(&self, inner: &Inner) {
        self.count.store(inner.queue.load().items as usize, Ordering::Relaxed);
    }
}

impl Inner {
    fn keep(&mut self, admission: Admission) -> usize {
        match self.free.pop() {
            Some(at) => {
                self.waiting[at] = Some(admission);
                at
            }
            None => {
                self.waiting.push(Some(admission));
                self.waiting.len() - 1
            }
        }
    }

    fn fetch(&mut self, at: u64) -> Option<Admission> {
        let at = usize::try_from(at).ok()?;
        let admission = self.waiting.get_mut(at)?.take();
        self.free.push(at);
        admission
    }

    /// Turns requests that left in vain into refusals.
    fn refuse_dropped(&mut self, compiled: &Compiled) {
        let mut dropped = std::mem::take(&mut self.dropped);
        for late in dropped.drain(..) {
            let route = self.fetch(late.payload).map(|admission| admission.route);
            let reason = Reason::Dropped(late.reason);
            compiled.count_refusal(route.filter(|ix| (*ix as usize) < compiled.routes.len()), reason);
            let refusal = compiled.refusal(route, reason);
            self.ready.push_back((late.ticket, Decision::Refuse(refusal)));
        }
        self.dropped = dropped;
    }
}

/// Lets a request wait, or says why not.
pub(super) fn enqueue(
    shared: &Arc<Shared>,
    compiled: &Arc<Compiled>,
    room: &Arc<Room>,
    admission: Admission,
    now: Timestamp,
) -> Decision {
    let route = admission.route;
    let mut inner = room.lock();
    let item = Item {
        tenant: admission.tenant,
        band: admission.band,
        cost_tokens: admission.tokens.total(),
        deadline: admission.deadline,
        payload: inner.keep(admission) as u64,
        ..Item::default()
    };
    let mut dropped = std::mem::take(&mut inner.dropped);
    let answer = inner.queue.enqueue(now, &item, &mut dropped);
    inner.dropped = dropped;
    inner.refuse_dropped(compiled);
    let decision = match answer {
        queue::Admission::Waits { ticket, outlook } => {
            Decision::Wait(Waiting { room: Arc::clone(room), ticket, outlook, given_up: false })
        }
        queue::Admission::Refused { reason, retry_after } => {
            inner.fetch(item.payload);
            let refusal = compiled.refusal(Some(route), Reason::Queue(reason));
            Decision::Refuse(Refusal { retry_after, ..refusal })
        }
    };
    room.recount(&inner);
    drop(inner);
    // Those before it may have left without a word: whoever has room goes on.
    pump(shared, room, now);
    decision
}

/// Sends those who wait as long as there is room.
pub(super) fn pump(shared: &Arc<Shared>, room: &Arc<Room>, now: Timestamp) {
    let compiled = shared.compiled.load_full();
    let mut inner = room.lock();
    loop {
        // One look at a possible place before anybody gives up theirs.
        if inner.queue.load().items == 0 || !has_place(&compiled, room, now) {
            break;
        }
        let mut dropped = std::mem::take(&mut inner.dropped);
        let next = inner.queue.dequeue(now, u64::MAX, &mut dropped);
        inner.dropped = dropped;
        inner.refuse_dropped(&compiled);
        let Dequeued::Request(next) = next else { break };
        let Some(admission) = inner.fetch(next.payload) else { continue };
        compiled.counters.metrics.recorder().queue_wait(compiled.counters.band(next.band), next.waited);
        if admission.route as usize >= compiled.routes.len() {
            let refusal = compiled.refusal(None, Reason::NoRoute);
            inner.ready.push_back((next.ticket, Decision::Refuse(refusal)));
            continue;
        }
        let decision = match resume(shared, &compiled, admission, now) {
            Ok(forward) => Decision::Forward(forward),
            Err((blocked, admission)) => Decision::Refuse(blocked.refusal(&compiled, admission.route)),
        };
        inner.ready.push_back((next.ticket, decision));
    }
    room.recount(&inner);
}

/// Whether a backend of a room could take a request.
fn has_place(compiled: &Compiled, room: &Room, now: Timestamp) -> bool {
    compiled
        .routes
        .iter()
        .filter(|route| route.room.is_some_and(|ix| compiled.rooms[ix as usize].backends == room.backends))
        .any(|route| {
            route.pools.iter().flatten().any(|pool| {
                pool.members.iter().enumerate().any(|(position, member)| {
                    let state = &member.state;
                    pool.pool.is_open(position)
                        && state.cool_down.left(now).is_none()
                        && state.concurrency.in_flight() < state.concurrency.ceiling(0)
                })
            })
        })
}

impl Engine {
    /// The next decision for somebody who waits: its number, and where it goes or why it does not. Ask after every
    /// [`finish`](super::Forward::finish) and after [`upkeep`](Self::upkeep).
    pub fn take_ready(&self) -> Option<((usize, Ticket), Decision)> {
        let compiled = self.shared.compiled.load();
        compiled.rooms.iter().find_map(|room| {
            let (ticket, decision) = room.lock().ready.pop_front()?;
            Some(((Arc::as_ptr(room) as usize, ticket), decision))
        })
    }
}

/// Sends away who waited too long, and lets go on whom there is room for again.
pub(super) fn look_after(shared: &Arc<Shared>, compiled: &Compiled, now: Timestamp) {
    for room in &compiled.rooms {
        let mut inner = room.lock();
        let mut dropped = std::mem::take(&mut inner.dropped);
        inner.queue.expire(now, &mut dropped);
        inner.dropped = dropped;
        inner.refuse_dropped(compiled);
        room.recount(&inner);
        drop(inner);
        pump(shared, room, now);
    }
}
