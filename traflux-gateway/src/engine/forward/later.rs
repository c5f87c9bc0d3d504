//! What of a request whose turn under a limit has not come?
//!
//! It has reserved ahead ([`Limiter::reserve_ahead`](crate::limit::Limiter::reserve_ahead)), so that nobody who comes
//! later goes before it, and holds no place at a backend meanwhile. Whoever embeds the engine keeps it for the time that
//! it says: there is nothing to ask, nothing to be woken by, and dropping it gives the turn back.

use std::sync::Arc;
use std::time::Duration;

use traflux_core::Timestamp;

use super::{Blocked, Forward, ask, look_for_a_way, member};
use crate::engine::{Decision, logged};
use crate::limit::{Cost, LimitIx};

/// A turn that has not come.
#[derive(Debug, Clone, Copy)]
pub(in crate::engine) struct Turn {
    route: u32,
    position: u32,
    taken: Timestamp,
    due: Timestamp,
    limit: Option<LimitIx>,
}

impl Turn {
    pub(super) fn new(route: u32, position: usize, now: Timestamp, blocked: &Blocked) -> Self {
        let due = now + blocked.retry_after.unwrap_or_default();
        Self { route, position: position as u32, taken: now, due, limit: blocked.limit }
    }
}

/// A request whose turn comes later. Keep it until it is [due](Self::due), then let it [go on](Self::go_on). Dropping it
/// gives the turn back.
#[must_use = "a request that is dropped gives its turn back"]
pub struct Later {
    pub(in crate::engine) forward: Forward,
}

impl Later {
    pub(in crate::engine) const fn of(forward: Forward) -> Self {
        Self { forward }
    }

    /// When its turn comes.
    #[must_use]
    pub fn due(&self) -> Timestamp {
        self.forward.admission.turn.map_or(self.forward.admission.arrived, |turn| turn.due)
    }

    /// How long that is from now.
    #[must_use]
    pub fn after(&self, now: Timestamp) -> Duration {
        self.due().since(now)
    }

    /// Name of the rule.
    #[must_use]
    pub fn rule(&self) -> &str {
        self.forward.rule()
    }

    /// Name of the limit that it waits for.
    #[must_use]
    pub fn limit(&self) -> Option<Arc<str>> {
        self.forward.compiled.limit_name(self.forward.admission.turn?.limit?)
    }

    /// What becomes of it once its turn has come: as a rule a [`Forward`]; it waits on where it is called too early, and
    /// is decided about anew, without its turn, where its backend has no room any more.
    pub fn go_on(self, now: Timestamp) -> Decision {
        if self.forward.compiled.shared.log.is_some() {
            logged::go_on(self, now)
        } else {
            self.go_on_now(now)
        }
    }

    pub(in crate::engine) fn go_on_now(self, now: Timestamp) -> Decision {
        let mut forward = self.forward;
        let Some(turn) = forward.admission.turn else { return forward.anew(now) };
        if now < turn.due {
            return Decision::Later(Self { forward });
        }
        forward.admission.turn = None;
        if forward.take_turn(&turn, now) {
            forward.count_turn(now.since(turn.taken));
            return Decision::Forward(forward);
        }
        forward.compiled.limiter.settle(now, &mut forward.admission.reserved, &Cost::NOTHING);
        forward.anew(now)
    }
}

impl std::fmt::Debug for Later {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Later").field("rule", &self.rule()).field("due", &self.due()).finish_non_exhaustive()
    }
}

impl Forward {
    /// Takes the place of a turn that has come, where there is still room, also in the budget of a backend that stands in.
    fn take_turn(&mut self, turn: &Turn, now: Timestamp) -> bool {
        let route = &self.compiled.routes[turn.route as usize];
        let position = turn.position as usize;
        let pool = route.pools[self.admission.model as usize].as_deref();
        let Some(pool) = pool.filter(|pool| pool.pool.is_open(position)) else { return false };
        let entry = match &route.entry {
            None => None,
            Some(entry) => match entry.try_enter(now) {
                Some(leave) => Some((entry, leave)),
                None => return false,
            },
        };
        let (draw, place) = (self.compiled.shared.draw(), (turn.route, position));
        let is_placed = ask(&self.compiled, &mut self.admission, pool, place, draw, now).is_ok();
        match (entry, &mut self.admission.hold) {
            (Some((_, leave)), Some(hold)) if is_placed => hold.leave = Some(leave),
            (Some((entry, leave)), _) => entry.give_back(leave),
            (None, _) => {}
        }
        is_placed
    }

    /// Counts a request whose turn has come as sent.
    fn count_turn(&self, waited: Duration) {
        let kept = &self.admission;
        let Some((_, member, _)) = member(&self.compiled, kept) else { return };
        let counters = &self.compiled.counters;
        let mut recorder = counters.metrics.recorder();
        recorder.queue_wait(counters.band(kept.band), waited);
        recorder.pick(member.picks);
        if kept.tried.is_empty() {
            recorder.decision(self.compiled.routes[kept.route as usize].decider, counters.forwarded);
        } else {
            recorder.retries(member.series, 1);
        }
    }

    /// Decides about a request that lost its turn.
    fn anew(mut self, now: Timestamp) -> Decision {
        if !self.admission.tried.is_empty() {
            return self.exhausted(now);
        }
        let mut admission = self.admission.another();
        admission.waited_in = self.admission.waited_in.take();
        look_for_a_way(Arc::clone(&self.compiled), admission, now)
    }

    /// Gives back the turn of a request that is dropped before it came, as of the moment it was taken.
    pub(super) fn give_up_turn(&mut self) {
        let Some(turn) = self.admission.turn.take() else { return };
        self.compiled.limiter.settle(turn.taken, &mut self.admission.reserved, &Cost::NOTHING);
        if let Some(leave) = self.admission.leave.take() {
            self.compiled.routes[self.admission.route as usize].budget.finish(leave);
        }
        if let Some(room) = self.admission.waited_in.take() {
            let kept = &self.admission;
            room.settle(kept.band, kept.tenant, kept.tokens.total(), 0);
        }
    }
}
