//! Where do requests wait until there is room?

use std::cmp::Reverse;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use traflux_core::plan::queue::QueuePlan;
use traflux_core::{PlanError, Timestamp};

use super::admission::Admission;
use super::compile::Compiled;
use super::decision::{Decision, Reason, Refusal};
use super::forward::{Forward, Later, place};
use super::{Engine, Shared, logged};
use crate::error::GatewayError;
use crate::limit::{Key, KeyTable};
use crate::observe::TenantIx;
use crate::queue::{self, Dequeued, Dropped, Item, Outlook, RequestQueue, Ticket, Waits};

/// The queue of all requests that want the same backends.
#[derive(Debug)]
pub(super) struct Room {
    /// Whose room it is, sorted.
    pub(super) backends: Vec<String>,
    pub(super) plan: QueuePlan,
    /// Requests that wait, to be read without the lock. Relaxed: who sees an old number acts as a moment earlier, and
    /// the next end of a request looks again.
    count: AtomicUsize,
    /// Decisions to be fetched. Relaxed, as above.
    ready: AtomicUsize,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    queue: RequestQueue,
    /// Admissions of those that wait, by the payload of their item, with the plan under which they came.
    waiting: Vec<Option<(Arc<Compiled>, Admission)>>,
    free: Vec<usize>,
    /// Decisions that nobody has fetched yet.
    ready: VecDeque<(Ticket, Decision)>,
    dropped: Vec<Dropped>,
}

/// Where one request stands in a queue.
pub(super) struct Position {
    pub(super) waits: Waits,
    pub(super) rule: Arc<str>,
    pub(super) tenant: u32,
    pub(super) outlook: Outlook,
}

/// A request that waits. Dropping it gives up its place.
#[must_use = "a request that is dropped gives up its place"]
pub struct Waiting {
    room: Arc<Room>,
    ticket: Ticket,
    outlook: Outlook,
    given_up: bool,
    /// Its engine and its number, where there is a log.
    pub(super) logged: Option<(Arc<Shared>, u64)>,
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
        if self.logged.is_some() {
            logged::left(self);
        } else {
            self.left_now();
        }
    }
}

impl Waiting {
    pub(super) fn left_now(&mut self) {
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
        if let Some((_, Decision::Forward(mut forward))) = late {
            forward.never_sent();
        }
    }
}

impl Room {
    pub(super) fn new(
        backends: Vec<String>,
        plan: &QueuePlan,
        tenants: &KeyTable,
    ) -> Result<Self, GatewayError> {
        let inner = Inner {
            queue: queue(plan, tenants)?,
            waiting: Vec::new(),
            free: Vec::new(),
            ready: VecDeque::new(),
            dropped: Vec::new(),
        };
        Ok(Self {
            backends,
            plan: plan.clone(),
            count: AtomicUsize::new(0),
            ready: AtomicUsize::new(0),
            inner: Mutex::new(inner),
        })
    }

    /// Whether anybody waits.
    pub(super) fn is_waiting(&self) -> bool {
        self.count.load(Ordering::Relaxed) > 0
    }

    /// Corrects what a tenant was charged when its request left the queue.
    pub(super) fn settle(&self, band: u8, tenant: u32, charged: u64, used: u64) {
        self.lock().queue.settle(band, self.tenant(tenant), charged, used);
    }

    /// The number of a tenant in the queue: those beyond what is told apart share one place.
    fn tenant(&self, tenant: u32) -> u32 {
        tenant.min(self.plan.max_tenants - 1)
    }

    /// How much waits in a band.
    pub(super) fn band_load(&self, band: u8) -> queue::QueueLoad {
        self.lock().queue.band_load(band)
    }

    /// All that waits; first the `most` requests that have waited longest, and what is before those.
    pub(super) fn reading(&self, now: Timestamp, most: usize) -> (Vec<Waits>, Vec<Position>) {
        let inner = self.lock();
        let mut all: Vec<Waits> = inner.queue.each(now).collect();
        let longest = |waits: &Waits| (Reverse(waits.waited), waits.ticket);
        if most < all.len() {
            all.select_nth_unstable_by_key(most, longest);
        }
        let shown = most.min(all.len());
        all[..shown].sort_unstable_by_key(longest);
        let position = |waits: &Waits| {
            let at = usize::try_from(waits.payload).ok()?;
            let (compiled, admission) = inner.waiting.get(at)?.as_ref()?;
            Some(Position {
                waits: *waits,
                rule: Arc::clone(&compiled.routes[admission.route as usize].name),
                tenant: admission.tenant,
                outlook: inner.queue.outlook(now, waits.ticket)?,
            })
        };
        let positions = all[..shown].iter().filter_map(position).collect();
        drop(inner);
        (all, positions)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn recount(&self, inner: &Inner) {
        self.count.store(inner.queue.load().items as usize, Ordering::Relaxed);
        self.ready.store(inner.ready.len(), Ordering::Relaxed);
    }
}

/// A queue in which the tenants and groups of the plan have their weights.
fn queue(plan: &QueuePlan, tenants: &KeyTable) -> Result<RequestQueue, GatewayError> {
    let mut queue = RequestQueue::new(plan)?;
    let number = |kind: &str, name: &str| {
        // A group is a tenant without requests of its own, under a name that no tenant has.
        let found = if kind == "groups" {
            tenants.insert(&format!("\n{name}"), |_| false)
        } else {
            tenants.insert(name, |_| false)
        };
        let number = found.map(Key::slot).filter(|slot| *slot < plan.max_tenants);
        number.ok_or_else(|| PlanError::Key {
            path: format!("queue.{kind}.{name}"),
            problem: format!(
                "has no place among {} tenants",
                tenants.capacity().min(plan.max_tenants as usize)
            ),
        })
    };
    let all = plan
        .groups
        .iter()
        .map(|share| ("groups", share))
        .chain(plan.tenants.iter().map(|share| ("tenants", share)));
    for (kind, (name, share)) in all {
        let group = share.group.as_deref().map(|group| number("groups", group)).transpose()?;
        queue.set_tenant(number(kind, name)?, group, share.weight)?;
    }
    Ok(queue)
}

impl Inner {
    fn keep(&mut self, admission: (Arc<Compiled>, Admission)) -> usize {
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

    /// Who is next, or a request that costs at most so much; late ones become refusals.
    fn dequeue(&mut self, now: Timestamp, budget: u64) -> Dequeued {
        let mut dropped = std::mem::take(&mut self.dropped);
        let next = self.queue.dequeue(now, budget, &mut dropped);
        self.dropped = dropped;
        self.refuse_dropped();
        next
    }

    /// Takes an admission out while its request keeps its place.
    fn borrow(&mut self, at: u64) -> Option<(Arc<Compiled>, Admission)> {
        self.waiting.get_mut(usize::try_from(at).ok()?)?.take()
    }

    fn give_back(&mut self, at: u64, admission: (Arc<Compiled>, Admission)) {
        if let Some(slot) = usize::try_from(at).ok().and_then(|at| self.waiting.get_mut(at)) {
            *slot = Some(admission);
        }
    }

    fn fetch(&mut self, at: u64) -> Option<(Arc<Compiled>, Admission)> {
        let at = usize::try_from(at).ok()?;
        let admission = self.waiting.get_mut(at)?.take();
        self.free.push(at);
        admission
    }

    /// Turns requests that left in vain into refusals.
    fn refuse_dropped(&mut self) {
        let mut dropped = std::mem::take(&mut self.dropped);
        for late in dropped.drain(..) {
            let Some((compiled, admission)) = self.fetch(late.payload) else { continue };
            let reason = Reason::Dropped(late.reason);
            compiled.count_refusal(Some(admission.route), reason);
            compiled.used.refused(TenantIx(admission.tenant), admission.tokens.total());
            let refusal = compiled.refusal(Some(admission.route), reason);
            self.ready.push_back((late.ticket, Decision::Refuse(refusal)));
        }
        self.dropped = dropped;
    }
}

/// Lets a request wait, or says why not.
pub(super) fn enqueue(
    compiled: &Arc<Compiled>,
    room: &Arc<Room>,
    admission: Admission,
    now: Timestamp,
) -> Decision {
    let route = admission.route;
    let mut inner = room.lock();
    let item = Item {
        tenant: room.tenant(admission.tenant),
        band: admission.band,
        cost_tokens: admission.tokens.total(),
        bytes: admission.bytes,
        deadline: admission.deadline,
        service: compiled.service(&admission, now),
        value: compiled.routes[route as usize].value,
        payload: inner.keep((Arc::clone(compiled), admission)) as u64,
    };
    let mut dropped = std::mem::take(&mut inner.dropped);
    let answer = inner.queue.enqueue(now, &item, &mut dropped);
    inner.dropped = dropped;
    inner.refuse_dropped();
    let decision = match answer {
        queue::Admission::Waits { ticket, outlook } => {
            Decision::Wait(Waiting { room: Arc::clone(room), ticket, outlook, given_up: false, logged: None })
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
    pump(room, now);
    decision
}

/// Sends those who wait, in their order, as long as there is room for the next.
pub(super) fn pump(room: &Arc<Room>, now: Timestamp) {
    let mut inner = room.lock();
    // Nobody leaves the queue before there is a place for them.
    while let Dequeued::OverBudget { payload, .. } = inner.dequeue(now, 0) {
        let Some((compiled, mut admission)) = inner.borrow(payload) else { break };
        let decision = match place(&compiled, &mut admission, now) {
            Ok(()) => Decision::Forward(Forward::after_waiting(&compiled, admission, room)),
            Err(blocked) if blocked.has_turn() => {
                let forward = Forward::after_waiting(&compiled, admission, room);
                Decision::Later(Later::of(forward))
            }
            Err(blocked) if blocked.may_wait() => {
                inner.give_back(payload, (compiled, admission));
                break;
            }
            Err(blocked) => Decision::Refuse(blocked.refusal(&compiled, admission.route)),
        };
        inner.fetch(payload);
        let Dequeued::Request(next) = inner.dequeue(now, u64::MAX) else {
            // Not reached: the same request is next at the same time. A forward must not end under the lock.
            drop(inner);
            drop(decision);
            return;
        };
        compiled.counters.metrics.recorder().queue_wait(compiled.counters.band(next.band), next.waited);
        inner.ready.push_back((next.ticket, decision));
    }
    room.recount(&inner);
}

impl Engine {
    /// The next decision for somebody who waits: its number, and where it goes or why it does not. Ask after every
    /// [`finish`](super::Forward::finish) and after [`upkeep`](Self::upkeep).
    pub fn take_ready(&self) -> Option<((usize, Ticket), Decision)> {
        match &self.shared.log {
            None => self.take_ready_now(),
            Some(log) => logged::take_ready(self, log),
        }
    }

    pub(super) fn take_ready_now(&self) -> Option<((usize, Ticket), Decision)> {
        self.compiled.load().all_rooms().find_map(|room| {
            if room.ready.load(Ordering::Relaxed) == 0 {
                return None;
            }
            let mut inner = room.lock();
            let (ticket, decision) = inner.ready.pop_front()?;
            room.recount(&inner);
            Some(((Arc::as_ptr(&room) as usize, ticket), decision))
        })
    }
}

/// Sends away who waited too long, and lets go on whom there is room for again.
pub(super) fn look_after(compiled: &Compiled, now: Timestamp) {
    for room in compiled.all_rooms() {
        let mut inner = room.lock();
        let mut dropped = std::mem::take(&mut inner.dropped);
        inner.queue.expire(now, &mut dropped);
        inner.dropped = dropped;
        inner.refuse_dropped();
        room.recount(&inner);
        drop(inner);
        pump(&room, now);
    }
}
