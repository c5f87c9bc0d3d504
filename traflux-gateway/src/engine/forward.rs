//! How does a request find its place, and what is settled when it has ended?

use std::sync::Arc;
use std::time::Duration;

use arrayvec::ArrayVec;
use traflux_core::Timestamp;
use traflux_core::plan::routing::{Algorithm, FallbackCause};

use super::Shared;
use super::admission::Admission;
use super::compile::{Compiled, Route, RouteMember, RoutePool};
use super::counters::{FORWARDED, WAITING};
use super::decision::{Decision, Reason, Refusal};
use super::waiting;
use crate::balance::{Answer, PickRequest};
use crate::congestion::{Feedback, Mark, Resource, Sample, Slot, Verdict};
use crate::health::Entry;
use crate::limit::{Cost, DenialReason, Reservation};
use crate::observe::{RequestRecord, TenantIx};
use crate::outcome::Outcome;
use crate::retry::{
    self, Attempt, FallbackLeave, Idempotence, Progress, RetryDecision, RetryTicket, fallback_cause,
};
use crate::units::{PicoDollars, unit_draw};
use crate::wire::Usage;

/// Endpoints that are asked for room before the next route.
const MOST_ASKED: usize = 8;
/// Endpoints that are looked at when those were busy.
const MOST_LOOKED_AT: usize = 256;

/// How a request ended.
#[derive(Debug, Clone, Copy)]
pub struct End<'a> {
    /// What came of it.
    pub outcome: Outcome,
    /// What it used; `None` where the answer did not say. Then a success is settled as reserved and a failure as
    /// nothing.
    pub usage: Option<Usage>,
    /// What the answer's headers said about the provider's limits.
    pub feedback: &'a Feedback,
}

impl End<'_> {
    /// An end of which no more is known.
    #[must_use]
    pub const fn of(outcome: Outcome) -> Self {
        Self { outcome, usage: None, feedback: &Feedback::NONE }
    }
}

/// A request's way to a backend. Tell it of the first byte, then finish it or try again.
#[must_use = "a forward that is dropped is cancelled"]
pub struct Forward {
    shared: Arc<Shared>,
    compiled: Arc<Compiled>,
    admission: Admission,
    /// `None` once it has ended.
    hold: Option<Hold>,
    tried: Tried,
    send_after: Duration,
    /// Leave of the budget for an attempt that is not the first.
    leave: Option<RetryTicket>,
    /// Where it waited, and was charged its estimate against the share of its tenant.
    waited_in: Option<Arc<waiting::Room>>,
    hedging: Hedging,
}

/// Routes and positions that were tried.
type Tried = ArrayVec<(u32, u32), MOST_ASKED>;

/// Attempts of one request at once.
#[derive(Debug, Clone, Copy, Default)]
struct Hedging {
    /// Attempts that were begun because this one or one before it was late.
    begun: u8,
    /// When the last of them was, or could not be.
    last: Option<Timestamp>,
    /// Whether this one was begun because another was late.
    is_second: bool,
    /// Whether another was quicker.
    overtaken: bool,
}

/// All that a request holds.
#[derive(Debug)]
struct Hold {
    route: u32,
    position: u32,
    ahead: u32,
    sent: Timestamp,
    first_token: Option<Duration>,
    slot: Slot,
    reservation: Reservation,
    requests_mark: Mark,
    tokens_mark: Mark,
    entry: Entry,
    /// Leave of the budget of a backend that stands in for others.
    leave: Option<FallbackLeave>,
}

/// Why nobody has room.
#[derive(Debug, Clone, Copy)]
pub(super) struct Blocked {
    reason: Reason,
    limit: Option<crate::limit::LimitIx>,
    retry_after: Option<Duration>,
}

impl Blocked {
    const fn of(reason: Reason) -> Self {
        Self { reason, limit: None, retry_after: None }
    }

    /// Whether waiting for others to end may help.
    pub(super) const fn may_wait(&self) -> bool {
        matches!(self.reason, Reason::Saturated)
    }

    pub(super) fn refusal(&self, compiled: &Compiled, route: u32) -> Refusal {
        Refusal {
            limit: self.limit.and_then(|ix| compiled.limit_name(ix)),
            retry_after: self.retry_after,
            ..compiled.refusal(Some(route), self.reason)
        }
    }
}

/// Decides for a request that was let in.
pub(super) fn decide(
    shared: &Arc<Shared>,
    compiled: Arc<Compiled>,
    admission: Admission,
    now: Timestamp,
) -> Decision {
    let route = &compiled.routes[admission.route as usize];
    route.budget.request(now);
    let mut next = route.fallback;
    while let Some(fallback) = next.map(|ix| &compiled.routes[ix as usize]) {
        if let Some(entry) = &fallback.entry {
            entry.request(now);
        }
        next = fallback.fallback;
    }
    let room = route.rooms[admission.model as usize].map(|ix| Arc::clone(&compiled.rooms[ix as usize]));
    // Nobody overtakes those who wait.
    let decision = if let Some(room) = room.as_ref().filter(|room| room.is_waiting()) {
        waiting::enqueue(shared, &compiled, room, admission, now)
    } else {
        match resume(shared, &compiled, admission, now) {
            Ok(forward) => return Decision::Forward(forward),
            Err((blocked, admission)) => match room.filter(|_| blocked.may_wait()) {
                Some(room) => waiting::enqueue(shared, &compiled, &room, admission, now),
                None => Decision::Refuse(blocked.refusal(&compiled, admission.route)),
            },
        }
    };
    compiled.count(
        route.decider,
        match &decision {
            Decision::Forward(_) => FORWARDED,
            Decision::Wait(_) => WAITING,
            Decision::Refuse(refusal) => refusal.reason.code(),
        },
    );
    decision
}

/// Looks for a place for a request, and counts it when there is one.
#[expect(clippy::result_large_err, reason = "a box would be an allocation for each request")]
pub(super) fn resume(
    shared: &Arc<Shared>,
    compiled: &Arc<Compiled>,
    admission: Admission,
    now: Timestamp,
) -> Result<Forward, (Blocked, Admission)> {
    match attempt(shared, compiled, &admission, &Tried::new(), None, now) {
        Ok(hold) => {
            let forward = Forward {
                shared: Arc::clone(shared),
                compiled: Arc::clone(compiled),
                admission,
                hold: Some(hold),
                tried: Tried::new(),
                send_after: Duration::ZERO,
                leave: None,
                waited_in: None,
                hedging: Hedging::default(),
            };
            if let Some((_, member, _)) = forward.member() {
                let decider = compiled.routes[forward.admission.route as usize].decider;
                let mut recorder = compiled.counters.metrics.recorder();
                recorder.decision(decider, compiled.counters.reason(FORWARDED));
                recorder.pick(member.picks);
            }
            Ok(forward)
        }
        Err(blocked) => Err((blocked, admission)),
    }
}

/// Walks the route and those that it falls back to, because an attempt failed or because those before cannot serve.
fn attempt(
    shared: &Shared,
    compiled: &Compiled,
    admission: &Admission,
    tried: &Tried,
    failed: Option<FallbackCause>,
    now: Timestamp,
) -> Result<Hold, Blocked> {
    let mut blocked = Blocked::of(Reason::NoModel);
    let mut next = Some(admission.route);
    while let Some(ix) = next {
        let route = &compiled.routes[ix as usize];
        next = route.fallback;
        let Some(pool) = &route.pools[admission.model as usize] else { continue };
        let entry = route.entry.as_deref();
        let mut leave = None;
        if let Some(entry) = entry {
            if !entry.takes(failed.unwrap_or_else(|| blocked.cause())) {
                continue;
            }
            leave = entry.try_enter(now);
            if leave.is_none() {
                blocked = blocked.or(Blocked::of(Reason::Saturated));
                continue;
            }
        }
        match attempt_route(shared, compiled, admission, (ix, route, pool), tried, now) {
            Ok(mut hold) => {
                hold.leave = leave;
                return Ok(hold);
            }
            Err(other) => {
                if let (Some(entry), Some(leave)) = (entry, leave) {
                    entry.give_back(leave);
                }
                // What a limit of the client's refuses, no other backend can cure.
                if matches!(other.reason, Reason::Limited | Reason::TooLarge | Reason::TooManyKeys) {
                    return Err(other);
                }
                blocked = blocked.or(other);
            }
        }
    }
    Err(blocked)
}

impl Blocked {
    /// Why another backend is looked for.
    const fn cause(&self) -> FallbackCause {
        match self.reason {
            Reason::NoModel => FallbackCause::NoModel,
            Reason::NoBackend => FallbackCause::Unhealthy,
            _ => FallbackCause::Capacity,
        }
    }

    /// The more hopeful of two: room comes back sooner than health, health sooner than a model.
    fn or(self, other: Self) -> Self {
        let rank = |b: &Self| match b.reason {
            Reason::NoModel => 0,
            Reason::NoBackend => 1,
            _ => 2,
        };
        let wait = match (self.retry_after, other.retry_after) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        let better = if rank(&self) >= rank(&other) { self } else { other };
        Self { retry_after: wait, ..better }
    }
}

fn attempt_route(
    shared: &Shared,
    compiled: &Compiled,
    admission: &Admission,
    (route_ix, route, pool): (u32, &Route, &RoutePool),
    tried: &Tried,
    now: Timestamp,
) -> Result<Hold, Blocked> {
    let mut excluded: ArrayVec<u32, { 2 * MOST_ASKED }> =
        tried.iter().filter(|(route, _)| *route == route_ix).map(|(_, position)| *position).collect();
    let mut blocked = Blocked::of(Reason::NoBackend);
    let small = |tokens: u64| u32::try_from(tokens).unwrap_or(u32::MAX);
    // Endpoints that are coming back take a part of their share, unless nobody else is there.
    let mut spared: ArrayVec<u32, MOST_ASKED> = ArrayVec::new();
    let mut lenient = false;
    for _ in 0..2 * MOST_ASKED {
        let draw = shared.draw();
        let pick = PickRequest {
            excluded: &excluded,
            prompt_tokens: small(admission.tokens.input),
            output_tokens: small(admission.tokens.output),
            ..PickRequest::new(now, draw)
        };
        let position = match (&route.session, admission.session.is_empty()) {
            // Once the endpoint of its session was asked in vain, a request goes elsewhere and its session stays.
            (Some(session), false) if excluded.is_empty() => {
                session.pick_prefix(&pool.pool, &pick, &admission.session).map(|placed| placed.position)
            }
            _ => pool.pool.pick(&pick),
        };
        let Some(position) = position else {
            if lenient || spared.is_empty() {
                break;
            }
            lenient = true;
            excluded.retain(|position| !spared.contains(position));
            continue;
        };
        if !lenient
            && let Some(health) = &pool.health
            && unit_draw(draw.rotate_left(16)) >= health.eligibility(now, position).share
        {
            if spared.try_push(position as u32).is_err() || excluded.try_push(position as u32).is_err() {
                break;
            }
            continue;
        }
        match take(compiled, admission, pool, position, draw.rotate_left(32), now) {
            Ok(taken) => return Ok(hold(admission, pool, route_ix, position, taken, now)),
            Err(refused) if refused.limit.is_some_and(|ix| !compiled.is_by_backend(ix)) => {
                return Err(refused);
            }
            Err(refused) => {
                blocked = blocked.or(Blocked { reason: Reason::Saturated, ..refused });
                if excluded.try_push(position as u32).is_err() {
                    break;
                }
            }
        }
    }
    // Nearly all are busy: whoever has room is found by looking at them in turn.
    let len = pool.members.len();
    if len > excluded.len() {
        let draw = shared.draw();
        for step in 0..len.min(MOST_LOOKED_AT) {
            let position = (draw as usize % len + step) % len;
            let state = &pool.members[position].state;
            let has_room = state.concurrency.in_flight()
                < state.concurrency.ceiling(usize::from(admission.band))
                && state.cool_down.left(now).is_none();
            if !has_room || !pool.pool.is_open(position) || excluded.contains(&(position as u32)) {
                continue;
            }
            match take(compiled, admission, pool, position, draw.rotate_left(32), now) {
                Ok(taken) => return Ok(hold(admission, pool, route_ix, position, taken, now)),
                Err(refused) if refused.limit.is_some_and(|ix| !compiled.is_by_backend(ix)) => {
                    return Err(refused);
                }
                Err(refused) => blocked = blocked.or(Blocked { reason: Reason::Saturated, ..refused }),
            }
        }
    }
    Err(blocked)
}

fn hold(
    admission: &Admission,
    pool: &RoutePool,
    route: u32,
    position: usize,
    (slot, reservation, requests_mark, tokens_mark, entry): Taken,
    now: Timestamp,
) -> Hold {
    Hold {
        route,
        position: position as u32,
        ahead: pool.pool.start(position, admission.tokens.total()),
        sent: now,
        first_token: None,
        slot,
        reservation,
        requests_mark,
        tokens_mark,
        entry,
        leave: None,
    }
}

type Taken = (Slot, Reservation, Mark, Mark, Entry);

/// Takes everything that a request needs at one endpoint, or nothing.
fn take(
    compiled: &Compiled,
    admission: &Admission,
    pool: &RoutePool,
    position: usize,
    draw: u64,
    now: Timestamp,
) -> Result<Taken, Blocked> {
    let member = &pool.members[position];
    let state = &member.state;
    let busy = |retry_after| Blocked { reason: Reason::Saturated, limit: None, retry_after };
    if let Some(left) = state.cool_down.left(now) {
        return Err(busy(Some(left)));
    }
    let concurrency = &state.concurrency;
    // What the backend says of itself only: our own count has its limit just below.
    if state.signal.is_saturated(now, concurrency.in_flight(), u32::MAX) {
        return Err(busy(None));
    }
    let band = usize::from(admission.band);
    let slot = state.concurrency.try_acquire(band).map_err(|_| busy(None))?;
    let tokens = admission.tokens;
    let requests_mark = match state.requests_left.take(now, 1) {
        Ok(mark) => mark,
        Err(wait) => {
            state.concurrency.release(slot);
            return Err(busy(Some(wait)));
        }
    };
    let tokens_mark = match state.tokens_left.take(now, tokens.total()) {
        Ok(mark) => mark,
        Err(wait) => {
            state.requests_left.settle(requests_mark, 0);
            state.concurrency.release(slot);
            return Err(busy(Some(wait)));
        }
    };
    let reserved = compiled.limits_at(admission, &state.name, now).map_err(Blocked::of).and_then(|limits| {
        let cost = cost(member, tokens.input, 0, tokens.output);
        compiled.limiter.reserve(now, &limits, &cost).map_err(|denial| Blocked {
            reason: match denial.reason {
                DenialReason::TooLarge => Reason::TooLarge,
                DenialReason::StaleKey | DenialReason::NoSuchLimit => Reason::TooManyKeys,
                DenialReason::Wait(_) | DenialReason::InFlight => Reason::Limited,
            },
            limit: Some(denial.limit),
            retry_after: match denial.reason {
                DenialReason::Wait(wait) => Some(wait),
                _ => None,
            },
        })
    });
    // Throttling counts what would be sent, so it comes after all that could keep the request here; the trial of a
    // breaker comes last, because one that is entered has to end.
    let entered = reserved.and_then(|reservation| {
        let entry = match state.throttle.decide(now, band, draw) {
            Verdict::Reject { .. } => None,
            Verdict::Send => match &pool.health {
                Some(health) => health.try_enter(now, position),
                None => Some(Entry::Normal),
            },
        };
        match entry {
            Some(entry) => Ok((reservation, entry)),
            None => {
                reservation.cancel(now);
                Err(busy(None))
            }
        }
    });
    match entered {
        Ok((reservation, entry)) => Ok((slot, reservation, requests_mark, tokens_mark, entry)),
        Err(blocked) => {
            state.tokens_left.settle(tokens_mark, 0);
            state.requests_left.settle(requests_mark, 0);
            state.concurrency.release(slot);
            Err(blocked)
        }
    }
}

fn cost(member: &RouteMember, input: u64, cached: u64, output: u64) -> Cost {
    let small = |tokens: u64| u32::try_from(tokens).unwrap_or(u32::MAX);
    let price = member.price.expected(small(input), small(cached), small(output));
    Cost { requests: 1, input_tokens: input, output_tokens: output, price }
}

impl Forward {
    /// The same, for a request that waited.
    pub(super) fn after_waiting(self, room: Arc<waiting::Room>) -> Self {
        let mut forward = self;
        forward.waited_in = Some(room);
        forward
    }

    /// Name of the backend.
    #[must_use]
    pub fn backend(&self) -> &str {
        self.member().map_or("", |(_, member, _)| &member.state.name)
    }

    /// Base URL of the endpoint; empty for a backend that is known by its name alone.
    #[must_use]
    pub fn url(&self) -> &str {
        self.member().map_or("", |(_, member, _)| &member.url)
    }

    /// Name of the rule.
    #[must_use]
    pub fn rule(&self) -> &str {
        &self.compiled.routes[self.admission.route as usize].name
    }

    /// The algorithm that chose.
    #[must_use]
    pub fn algorithm(&self) -> Algorithm {
        self.compiled.routes[self.admission.route as usize].algorithm
    }

    /// Which attempt it is, from 1.
    #[must_use]
    pub fn attempt(&self) -> usize {
        self.tried.len() + 1
    }

    /// How long the request has been here, queue and earlier attempts included.
    #[must_use]
    pub fn age(&self, now: Timestamp) -> Duration {
        now.since(self.admission.arrived)
    }

    /// The first byte of the answer has come: what limits on requests in flight learn from, and the end of all
    /// trying again.
    pub fn first_byte(&mut self, now: Timestamp) {
        let Some((pool, member, hold)) = parts(&self.compiled, &self.admission, &mut self.hold) else {
            return;
        };
        if hold.first_token.is_some() {
            return;
        }
        let after = now.since(hold.sent);
        hold.first_token = Some(after);
        if let Some(hedge) = &pool.hedge {
            hedge.observe(after);
        }
        member.state.concurrency.observe(now, &hold.slot, Sample::Latency(after));
        // Not at the end: a stream that is open was taken on long ago.
        member.state.throttle.accepted(now, usize::from(self.admission.band));
        if self.admission.stream
            && let Some(endpoint) = pool.pool.endpoint(hold.position as usize)
        {
            let prompt = u32::try_from(self.admission.tokens.input).unwrap_or(u32::MAX);
            endpoint.record_first_token(now, after, prompt, hold.ahead);
        }
    }

    /// Settles everything.
    pub fn finish(mut self, now: Timestamp, end: &End<'_>) {
        self.end(now, end);
        self.make_room(now);
    }

    /// How long to wait before sending: nothing at the first attempt, a random back-off at later ones.
    #[must_use]
    pub const fn send_after(&self) -> Duration {
        self.send_after
    }

    /// Settles this attempt and, where the policy and the budget of the rule allow, finds a place for another one,
    /// elsewhere if there is an elsewhere. Refused after the first byte.
    pub fn retry(mut self, now: Timestamp, end: &End<'_>) -> Decision {
        let Some(hold) = &self.hold else { return self.exhausted(now) };
        let place = (hold.route, hold.position);
        let progress = match (hold.first_token, end.outcome) {
            (Some(_), _) => Progress::Streaming,
            (None, Outcome::ConnectFailure) => Progress::Unsent,
            (None, _) => Progress::Sent,
        };
        let in_flight = self.member().map_or(0, |(_, member, _)| member.state.concurrency.in_flight());
        self.end(now, end);
        let failed = Attempt {
            number: self.tried.len() as u32 + 1,
            outcome: end.outcome,
            progress,
            idempotence: self.admission.idempotence,
            retry_after: end.feedback.retry_after.map(|wait| wait.wait),
            should_retry: end.feedback.should_retry,
            time_left: self.admission.deadline.map(|deadline| deadline.since(now)),
            elsewhere: self.has_elsewhere(fallback_cause(end.outcome)),
        };
        let decided = retry::decide(&self.compiled.plan.retry, &failed, self.shared.draw());
        let RetryDecision::Retry { after, elsewhere } = decided else { return self.exhausted(now) };
        let budget = &self.compiled.routes[self.admission.route as usize].budget;
        let Some(leave) = budget.try_retry(now, in_flight) else { return self.exhausted(now) };
        self.leave = Some(leave);
        if self.tried.try_push(place).is_err() {
            return self.exhausted(now);
        }
        let none = Tried::new();
        let excluded = if elsewhere { &self.tried } else { &none };
        let cause = fallback_cause(end.outcome);
        match attempt(&self.shared, &self.compiled, &self.admission, excluded, cause, now) {
            Ok(hold) => {
                self.hold = Some(Hold { sent: now + after, ..hold });
                self.hedging = Hedging::default();
                self.send_after = after;
                if let Some((_, member, _)) = self.member() {
                    let mut recorder = self.compiled.counters.metrics.recorder();
                    recorder.retries(member.series, 1);
                    recorder.pick(member.picks);
                }
                Decision::Forward(self)
            }
            Err(_) => self.exhausted(now),
        }
    }

    /// When another attempt should begin beside this one, if no byte of an answer has come by then; `None` where none
    /// may, because the plan asks for no hedging, the request must not be acted on twice, or there are enough.
    #[must_use]
    pub fn hedge_at(&self) -> Option<Timestamp> {
        let (pool, _, hold) = self.member()?;
        let hedge = pool.hedge.as_ref()?;
        let may = hold.first_token.is_none()
            && self.admission.idempotence == Idempotence::Idempotent
            && u32::from(self.hedging.begun) + 1 < hedge.plan().max_attempts
            && pool.members.len() > self.tried.len() + 1;
        may.then(|| self.hedging.last.unwrap_or(hold.sent) + hedge.delay())
    }

    /// Begins another attempt of this request at another endpoint of its route, where [`hedge_at`](Self::hedge_at), the
    /// budget for retries, limits and room allow; `None` where they do not, which is final for this attempt. Both are
    /// to be finished: the first that answers as usual, the others by [`overtaken`](Self::overtaken).
    pub fn hedge(&mut self, now: Timestamp) -> Option<Self> {
        let second = self.hedge_at().and_then(|_| self.second(now));
        self.hedging.last = Some(now);
        match &second {
            Some(_) => self.hedging.begun += 1,
            None => self.hedging.begun = u8::MAX - 1,
        }
        second
    }

    fn second(&mut self, now: Timestamp) -> Option<Self> {
        let (pool, member, hold) = self.member()?;
        let route = &self.compiled.routes[hold.route as usize];
        let budget = &self.compiled.routes[self.admission.route as usize].budget;
        let (place, in_flight) = ((hold.route, hold.position), member.state.concurrency.in_flight());
        let mut tried = self.tried.clone();
        tried.try_push(place).ok()?;
        let entry = match &route.entry {
            None => None,
            Some(entry) => Some((entry, entry.try_enter(now)?)),
        };
        let leave = budget.try_retry(now, in_flight);
        let found = leave.map(|leave| {
            let way = (place.0, route, pool);
            (attempt_route(&self.shared, &self.compiled, &self.admission, way, &tried, now), leave)
        });
        let (hold, leave) = match found {
            Some((Ok(hold), leave)) => (hold, leave),
            other => {
                if let Some((_, leave)) = other {
                    budget.give_back(leave);
                }
                if let Some((entry, leave)) = entry {
                    entry.give_back(leave);
                }
                return None;
            }
        };
        let second = Self {
            shared: Arc::clone(&self.shared),
            compiled: Arc::clone(&self.compiled),
            admission: self.admission.clone(),
            hold: Some(Hold { leave: entry.map(|(_, leave)| leave), ..hold }),
            tried,
            send_after: Duration::ZERO,
            leave: Some(leave),
            waited_in: None,
            hedging: Hedging { begun: u8::MAX - 1, is_second: true, ..Hedging::default() },
        };
        if let Some((_, member, hold)) = second.member() {
            let mut recorder = self.compiled.counters.metrics.recorder();
            recorder.retries(member.series, 1);
            recorder.pick(member.picks);
            // A later attempt of either goes to neither.
            let _ = self.tried.try_push((hold.route, hold.position));
        }
        Some(second)
    }

    /// Settles an attempt that is given up because another one of the same request was quicker. What it did not use
    /// comes back whole, and that the endpoint takes longer than this is learned.
    pub fn overtaken(mut self, now: Timestamp) {
        self.hedging.overtaken = true;
        self.end(now, &End::of(Outcome::Cancelled));
        self.make_room(now);
    }

    /// Whether an endpoint is left that was not tried and takes what failed.
    fn has_elsewhere(&self, cause: Option<FallbackCause>) -> bool {
        let mut next = Some(self.admission.route);
        while let Some(ix) = next {
            let route = &self.compiled.routes[ix as usize];
            let takes =
                route.entry.as_ref().is_none_or(|entry| cause.is_some_and(|cause| entry.takes(cause)));
            if let Some(pool) = route.pools[self.admission.model as usize].as_ref().filter(|_| takes) {
                let tried = self.tried.iter().filter(|(route, _)| *route == ix).count();
                if pool.members.len() > tried + usize::from(ix == self.admission.route) {
                    return true;
                }
            }
            next = route.fallback;
        }
        false
    }

    fn exhausted(self, now: Timestamp) -> Decision {
        let route = self.admission.route;
        self.compiled.count(self.compiled.routes[route as usize].decider, Reason::Exhausted.code());
        let refusal = self.compiled.refusal(Some(route), Reason::Exhausted);
        self.make_room(now);
        Decision::Refuse(refusal)
    }

    fn member(&self) -> Option<(&RoutePool, &RouteMember, &Hold)> {
        let hold = self.hold.as_ref()?;
        let pool =
            self.compiled.routes[hold.route as usize].pools[self.admission.model as usize].as_deref()?;
        Some((pool, &pool.members[hold.position as usize], hold))
    }

    fn end(&mut self, now: Timestamp, end: &End<'_>) {
        if let Some(leave) = self.leave.take() {
            self.compiled.routes[self.admission.route as usize].budget.finish(leave);
        }
        let Some(hold) = self.hold.take() else { return };
        let pool = &self.compiled.routes[hold.route as usize].pools[self.admission.model as usize];
        // A hold was made from this very pool.
        let Some(pool) = pool.as_deref() else { return };
        let member = &pool.members[hold.position as usize];
        let state = &member.state;
        let total = now.since(hold.sent);
        let (begun, outcome) = (hold.first_token.is_some(), end.outcome);
        let overtaken = self.hedging.overtaken && !begun;
        if let (Some(entry), Some(leave)) = (&self.compiled.routes[hold.route as usize].entry, hold.leave) {
            entry.leave(leave);
        }
        if let Some(hedge) = pool.hedge.as_ref().filter(|_| overtaken && !self.hedging.is_second) {
            hedge.observe(total);
        }
        if !begun {
            let sample = match outcome {
                // It takes at least as long.
                _ if overtaken && !self.hedging.is_second => Some(Sample::Latency(total)),
                Outcome::Success | Outcome::ClientError => Some(Sample::Latency(total)),
                // A quota that is used up says nothing about load; the cool-down and the ceilings know of it.
                Outcome::Limited if end.feedback.wait(&self.compiled.settings.feedback).is_some() => None,
                outcome if outcome.is_overload() => Some(Sample::Dropped),
                _ => None,
            };
            if let Some(sample) = sample {
                state.concurrency.observe(now, &hold.slot, sample);
            }
        }
        state.concurrency.release(hold.slot);
        if outcome == Outcome::Success {
            state.service.record(total);
        }
        let band = usize::from(self.admission.band);
        // What the client gave up was not refused either.
        if !begun && (outcome.is_accepted() || outcome.is_given_up()) {
            state.throttle.accepted(now, band);
        }
        match outcome {
            Outcome::Limited => {
                let wait = end.feedback.wait(&self.compiled.settings.feedback);
                state.cool_down.refused(now, wait, self.shared.draw());
            }
            outcome if outcome.is_healthy() => state.cool_down.served(now),
            _ => {}
        }
        if let Some(quota) = end.feedback.quota(Resource::Requests) {
            state.requests_left.learn(now, hold.requests_mark, &quota);
        }
        if let Some(quota) = end.feedback.quota(Resource::Tokens) {
            state.tokens_left.learn(now, hold.tokens_mark, &quota);
        }
        if let Some(health) = &pool.health {
            health.record(now, hold.position as usize, hold.entry, outcome);
            // Only failures and trials change who may be chosen.
            if outcome.is_failure() || hold.entry != Entry::Normal {
                pool.follow_health(now);
            }
        }
        let tokens = self.admission.tokens;
        let used = match (end.usage, outcome) {
            (Some(usage), _) => Some(usage),
            (None, Outcome::Success) => None,
            // Of a stream that broke or was left, some was used; how much is not known.
            (None, _) if begun => None,
            (None, _) => Some(Usage::default()),
        };
        let small = |tokens: u64| u32::try_from(tokens).unwrap_or(u32::MAX);
        let (output, prompt, counted, price) = match used {
            _ if overtaken => {
                hold.reservation.cancel(now);
                state.tokens_left.settle(hold.tokens_mark, 0);
                (0, small(tokens.input), Usage::default(), PicoDollars::ZERO)
            }
            Some(usage) => {
                let actual = cost(member, usage.input, usage.cached, usage.output);
                hold.reservation.settle(now, &actual);
                state.tokens_left.settle(hold.tokens_mark, usage.input.saturating_add(usage.output));
                (small(usage.output), small(usage.input.saturating_sub(usage.cached)), usage, actual.price)
            }
            None => {
                let kept = cost(member, tokens.input, 0, tokens.output);
                hold.reservation.keep();
                (0, small(tokens.input), Usage { input: tokens.input, ..Usage::default() }, kept.price)
            }
        };
        self.compiled.counters.metrics.recorder().request(&RequestRecord {
            outcome,
            input_tokens: counted.input,
            cached_tokens: counted.cached,
            output_tokens: counted.output,
            cost: price,
            duration: total,
            time_to_first_token: hold.first_token.filter(|_| self.admission.stream),
            ..RequestRecord::new(member.series)
        });
        let used = counted.input.saturating_add(counted.output);
        if let Some(room) = self.waited_in.take() {
            room.settle(self.admission.band, self.admission.tenant, tokens.total(), used);
        }
        self.compiled.used.record(TenantIx(self.admission.tenant), used, price);
        if let Some(endpoint) = pool.pool.endpoint(hold.position as usize).filter(|_| overtaken) {
            endpoint.record_at_least(now, total, prompt, hold.ahead);
        }
        pool.pool.finish(
            now,
            hold.position as usize,
            &Answer {
                outcome,
                total,
                first_token: hold.first_token.filter(|_| self.admission.stream),
                first_token_recorded: begun && self.admission.stream,
                prompt_tokens: prompt,
                output_tokens: output,
                ahead: hold.ahead,
                held_tokens: tokens.total(),
            },
        );
    }

    /// Lets go on who waited for this place.
    fn make_room(&self, now: Timestamp) {
        let route = &self.compiled.routes[self.admission.route as usize];
        let Some(room) = route.rooms[self.admission.model as usize] else { return };
        let room = &self.compiled.rooms[room as usize];
        if room.is_waiting() {
            waiting::pump(&self.shared, room, now);
        }
    }
}

fn parts<'a>(
    compiled: &'a Compiled,
    admission: &Admission,
    hold: &'a mut Option<Hold>,
) -> Option<(&'a RoutePool, &'a RouteMember, &'a mut Hold)> {
    let hold = hold.as_mut()?;
    let pool = compiled.routes[hold.route as usize].pools[admission.model as usize].as_deref()?;
    Some((pool, &pool.members[hold.position as usize], hold))
}

impl std::fmt::Debug for Forward {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Forward")
            .field("rule", &self.rule())
            .field("backend", &self.backend())
            .field("url", &self.url())
            .field("attempt", &self.attempt())
            .finish_non_exhaustive()
    }
}

/// Whoever drops it has gone away without a word.
impl Drop for Forward {
    fn drop(&mut self) {
        if let Some(hold) = &self.hold {
            let last_known = hold.sent + hold.first_token.unwrap_or_default();
            self.end(last_known, &End::of(Outcome::Cancelled));
            self.make_room(last_known);
        }
    }
}
