//! When is one attempt not enough?

use std::sync::Arc;

use traflux_core::Timestamp;

use super::{End, Forward, Unanswered, attempt_route};
use crate::engine::logged;
use crate::outcome::Outcome;
use crate::retry::Idempotence;

/// Attempts of one request at once.
#[derive(Debug, Clone, Copy, Default)]
pub(in crate::engine) struct Hedging {
    /// Attempts that were begun because this one or one before it was late.
    begun: u8,
    /// When the last of them was, or could not be.
    last: Option<Timestamp>,
    /// Whether this one was begun because another was late.
    is_second: bool,
    /// Whether another was begun because this one was late.
    has_second: bool,
    /// Whether another was quicker.
    overtaken: bool,
}

impl Hedging {
    /// Whether this attempt was begun because another was late.
    pub(in crate::engine) const fn is_second(&self) -> bool {
        self.is_second
    }

    /// Whether what this attempt sent is to be paid by another of the same request, so that no limit is charged twice.
    pub(in crate::engine) const fn is_paid_by_another(&self, outcome: Outcome) -> bool {
        // One that is reset may leave the other to win; the rest ends for both.
        self.is_second || self.has_second && matches!(outcome, Outcome::Reset)
    }

    /// Whether another attempt was quicker.
    pub(in crate::engine) const fn is_overtaken(&self) -> bool {
        self.overtaken
    }
}

impl Forward {
    /// When another attempt should begin beside this one, if no byte of an answer has come by then; `None` where none
    /// may, because the plan asks for no hedging, the request must not be acted on twice, or there are enough.
    #[must_use]
    pub fn hedge_at(&self) -> Option<Timestamp> {
        let (pool, _, hold) = self.member()?;
        let hedge = pool.hedge.as_ref()?;
        let may = hold.first_token.is_none()
            && self.admission.idempotence == Idempotence::Idempotent
            && u32::from(self.admission.hedging.begun) + 1 < hedge.plan().max_attempts
            && pool.members.len() > self.admission.tried.len() + 1;
        may.then(|| self.admission.hedging.last.unwrap_or(hold.sent) + hedge.delay())
    }

    /// Begins another attempt of this request at another endpoint of its route, where [`hedge_at`](Self::hedge_at), the
    /// budget for retries, limits and room allow; `None` where they do not, which is final for this attempt. Both are
    /// to be finished: the first that answers as usual, the others by [`overtaken`](Self::overtaken).
    pub fn hedge(&mut self, now: Timestamp) -> Option<Self> {
        if self.compiled.shared.log.is_some() { logged::hedge(self, now) } else { self.hedge_now(now) }
    }

    pub(in crate::engine) fn hedge_now(&mut self, now: Timestamp) -> Option<Self> {
        let second = self.hedge_at().and_then(|_| self.second(now));
        self.admission.hedging.last = Some(now);
        match &second {
            Some(_) => {
                self.admission.hedging.begun += 1;
                self.admission.hedging.has_second = true;
            }
            None => self.admission.hedging.begun = u8::MAX - 1,
        }
        second
    }

    fn second(&mut self, now: Timestamp) -> Option<Self> {
        let (pool, member, hold) = self.member()?;
        let (place, in_flight) = ((hold.route, hold.position), member.state.concurrency.in_flight());
        let route = &self.compiled.routes[place.0 as usize];
        let budget = &self.compiled.routes[self.admission.route as usize].budget;
        let mut admission = self.admission.another();
        admission.tried.try_push(place).ok()?;
        admission.hedging = Hedging { begun: u8::MAX - 1, is_second: true, ..Hedging::default() };
        let entry = match &route.entry {
            None => None,
            Some(entry) => Some((entry, entry.try_enter(now)?)),
        };
        let leave = budget.try_retry(now, in_flight);
        let way = (place.0, route, pool);
        let is_placed =
            leave.is_some() && attempt_route(&self.compiled, &mut admission, way, true, now).is_ok();
        if !is_placed {
            if let Some(leave) = leave {
                budget.give_back(leave);
            }
            if let Some((entry, leave)) = entry {
                entry.give_back(leave);
            }
            return None;
        }
        admission.leave = leave;
        if let Some(hold) = &mut admission.hold {
            hold.leave = entry.map(|(_, leave)| leave);
        }
        let second = Self { compiled: Arc::clone(&self.compiled), admission };
        if let Some((_, member, hold)) = second.member() {
            let mut recorder = self.compiled.counters.metrics.recorder();
            recorder.hedges(member.series, 1);
            recorder.pick(member.picks);
            // A later attempt of either goes to neither.
            let _ = self.admission.tried.try_push((hold.route, hold.position));
        }
        Some(second)
    }

    /// Settles an attempt that is given up because another one of the same request was quicker. What it did not use
    /// comes back whole, and that the endpoint takes longer than this is learned.
    pub fn overtaken(self, now: Timestamp) {
        if self.compiled.shared.log.is_some() {
            logged::overtaken(self, now);
        } else {
            self.overtaken_now(now);
        }
    }

    pub(in crate::engine) fn overtaken_now(mut self, now: Timestamp) {
        self.admission.hedging.overtaken = true;
        self.end(now, &End::of(Outcome::Cancelled), Unanswered::Free);
        self.make_room(now);
    }
}
