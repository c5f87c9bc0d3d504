//! Who has room for this request?

use std::time::Duration;

use arrayvec::ArrayVec;
use traflux_core::Timestamp;
use traflux_core::plan::routing::FallbackCause;

use super::{Blocked, Hold, MOST_ASKED, Turn};
use crate::balance::{LoadUnit, PickRequest};
use crate::congestion::{Mark, Slot, Verdict};
use crate::engine::admission::Kept;
use crate::engine::compile::{Compiled, Route, RouteMember, RoutePool};
use crate::engine::decision::Reason;
use crate::health::Entry;
use crate::limit::{Cost, DenialReason};
use crate::units::unit_draw;

/// Endpoints that are looked at when those that were chosen were busy.
const MOST_LOOKED_AT: usize = 256;

/// Walks the route and those that it falls back to, because an attempt failed or because those before cannot serve;
/// `elsewhere` leaves out endpoints that were tried.
pub(super) fn attempt(
    compiled: &Compiled,
    admission: &mut Kept,
    elsewhere: bool,
    failed: Option<FallbackCause>,
    now: Timestamp,
) -> Result<(), Blocked> {
    let mut blocked = Blocked::of(Reason::NoModel);
    let mut next = Some(admission.route);
    while let Some(ix) = next {
        let route = &compiled.routes[ix as usize];
        next = route.fallback;
        let Some(pool) = &route.pools[admission.model as usize] else {
            blocked = blocked.or(Blocked::of(compiled.unserved(route, admission.model)));
            continue;
        };
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
        match attempt_route(compiled, admission, (ix, route, pool), elsewhere, now) {
            Ok(()) => {
                if let Some(hold) = &mut admission.hold {
                    hold.leave = leave;
                }
                return Ok(());
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
            Reason::ContextExceeded => FallbackCause::Context,
            Reason::NoBackend => FallbackCause::Unhealthy,
            _ => FallbackCause::Capacity,
        }
    }

    /// The more hopeful of two: room comes back sooner than health, health sooner than a longer context or a model.
    fn or(self, other: Self) -> Self {
        let rank = |b: &Self| match b.reason {
            Reason::NoModel => 0,
            Reason::ContextExceeded => 1,
            Reason::NoBackend => 2,
            _ => 3,
        };
        let wait = match (self.retry_after, other.retry_after) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        let better = if rank(&self) >= rank(&other) { self } else { other };
        Self { retry_after: wait, ..better }
    }
}

pub(super) fn attempt_route(
    compiled: &Compiled,
    admission: &mut Kept,
    (route_ix, route, pool): (u32, &Route, &RoutePool),
    elsewhere: bool,
    now: Timestamp,
) -> Result<(), Blocked> {
    let mut excluded: ArrayVec<u32, { 2 * MOST_ASKED }> = ArrayVec::new();
    if elsewhere {
        let here = admission.tried.iter().filter(|(route, _)| *route == route_ix);
        excluded.extend(here.map(|(_, position)| *position));
    }
    let mut blocked = Blocked::of(Reason::NoBackend);
    let small = |tokens: u64| u32::try_from(tokens).unwrap_or(u32::MAX);
    // Endpoints that are coming back take a part of their share, unless nobody else is there.
    let mut spared: ArrayVec<u32, MOST_ASKED> = ArrayVec::new();
    let mut lenient = false;
    for _ in 0..2 * MOST_ASKED {
        let draw = compiled.shared.draw();
        let pick = PickRequest {
            excluded: &excluded,
            prompt_tokens: small(admission.tokens.input),
            output_tokens: small(admission.tokens.output),
            stream: admission.stream,
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
        match ask(compiled, admission, pool, (route_ix, position), draw.rotate_left(32), now) {
            Ok(()) => return Ok(()),
            Err(refused) if is_final(compiled, &refused) => return Err(refused),
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
        let draw = compiled.shared.draw();
        for step in 0..len.min(MOST_LOOKED_AT) {
            let position = (draw as usize % len + step) % len;
            let state = &pool.members[position].state;
            let has_room = state.concurrency.in_flight()
                < state.concurrency.ceiling(usize::from(admission.band))
                && state.cool_down.left(now).is_none();
            if !has_room || !pool.pool.is_open(position) || excluded.contains(&(position as u32)) {
                continue;
            }
            match ask(compiled, admission, pool, (route_ix, position), draw.rotate_left(32), now) {
                Ok(()) => return Ok(()),
                Err(refused) if is_final(compiled, &refused) => return Err(refused),
                Err(refused) => blocked = blocked.or(Blocked { reason: Reason::Saturated, ..refused }),
            }
        }
    }
    Err(blocked)
}

/// Gives a request its place at one endpoint, or says what it lacks there; a turn that it has is noted.
#[inline]
pub(super) fn ask(
    compiled: &Compiled,
    admission: &mut Kept,
    pool: &RoutePool,
    (route, position): (u32, usize),
    draw: u64,
    now: Timestamp,
) -> Result<(), Blocked> {
    match take(compiled, admission, pool, position, draw, now) {
        Ok(taken) => {
            hold(admission, pool, route, position, taken, now);
            Ok(())
        }
        Err(blocked) => {
            if blocked.has_turn {
                admission.turn = Some(Turn::new(route, position, now, &blocked));
            }
            Err(blocked)
        }
    }
}

#[inline]
fn hold(
    admission: &mut Kept,
    pool: &RoutePool,
    route: u32,
    position: usize,
    (slot, requests_mark, tokens_mark, entry): Taken,
    now: Timestamp,
) {
    let held_tokens = match pool.pool.settings().load {
        LoadUnit::Tokens => admission.tokens.total(),
        LoadUnit::Requests => 0,
    };
    admission.hold = Some(Hold {
        route,
        position: position as u32,
        ahead: pool.pool.start(position, held_tokens),
        held_tokens,
        sent: now,
        first_token: None,
        slot: Some(slot),
        requests_mark,
        tokens_mark,
        entry,
        leave: None,
    });
}

/// Whether no other endpoint can cure it: a turn was taken, or a limit refused that counts all backends together.
fn is_final(compiled: &Compiled, blocked: &Blocked) -> bool {
    blocked.has_turn || blocked.limit.is_some_and(|ix| !compiled.is_by_backend(ix))
}

type Taken = (Slot, Mark, Mark, Entry);

/// Takes everything that a request needs at one endpoint, or nothing.
#[inline]
fn take(
    compiled: &Compiled,
    admission: &mut Kept,
    pool: &RoutePool,
    position: usize,
    draw: u64,
    now: Timestamp,
) -> Result<Taken, Blocked> {
    let member = &pool.members[position];
    let state = &member.state;
    let busy = |retry_after| Blocked { retry_after, ..Blocked::of(Reason::Saturated) };
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
    let entered = reserve(compiled, admission, member, now).and_then(|()| {
        // Throttling counts what would be sent, so it comes after all that could keep the request here; the trial of a
        // breaker comes last, because one that is entered has to end.
        let entry = match state.throttle.decide(now, band, draw) {
            Verdict::Reject { .. } => None,
            Verdict::Send => match &pool.health {
                Some(health) => health.try_enter(now, position),
                None => Some(Entry::Normal),
            },
        };
        entry.ok_or_else(|| {
            compiled.limiter.settle(now, &mut admission.reserved, &Cost::NOTHING);
            busy(None)
        })
    });
    match entered {
        Ok(entry) => Ok((slot, requests_mark, tokens_mark, entry)),
        Err(blocked) => {
            state.tokens_left.settle(tokens_mark, 0);
            state.requests_left.settle(requests_mark, 0);
            state.concurrency.release(slot);
            Err(blocked)
        }
    }
}

/// Reserves of all limits that hold, those of the backend among them.
#[inline]
fn reserve(
    compiled: &Compiled,
    admission: &mut Kept,
    member: &RouteMember,
    now: Timestamp,
) -> Result<(), Blocked> {
    if !admission.reserved.is_empty() {
        // Its turn has come: it has reserved before.
        return Ok(());
    }
    let here;
    let limits = if admission.by_backend.is_empty() {
        &admission.limits
    } else {
        here = compiled.limits_at(admission, &member.state.name, now).map_err(Blocked::of)?;
        &here
    };
    let cost = cost(member, admission.tokens.input, 0, admission.tokens.output);
    let Err(denial) = compiled.limiter.reserve_into(now, limits, &cost, &mut admission.reserved) else {
        return Ok(());
    };
    // Another attempt beside one that runs is worth no waiting.
    let may_wait = compiled.is_patient && !admission.hedging.is_second();
    if !may_wait || !matches!(denial.reason, DenialReason::Wait(_)) {
        return Err(Blocked::by(denial));
    }
    match compiled.limiter.reserve_ahead_into(now, limits, &cost, &mut admission.reserved) {
        Err(denial) => Err(Blocked::by(denial)),
        // Others gave back in between.
        Ok(Duration::ZERO) => Ok(()),
        Ok(wait) => {
            let blocked = Blocked { retry_after: Some(wait), ..Blocked::by(denial) };
            if admission.deadline.is_some_and(|deadline| now + wait > deadline) {
                compiled.limiter.settle(now, &mut admission.reserved, &Cost::NOTHING);
                return Err(blocked);
            }
            Err(Blocked { has_turn: true, ..blocked })
        }
    }
}

pub(super) fn cost(member: &RouteMember, input: u64, cached: u64, output: u64) -> Cost {
    let small = |tokens: u64| u32::try_from(tokens).unwrap_or(u32::MAX);
    let price = member.price.expected(small(input), small(cached), small(output));
    Cost { requests: 1, input_tokens: input, output_tokens: output, price }
}
