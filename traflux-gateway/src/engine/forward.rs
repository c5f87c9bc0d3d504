//! How does a request find its place, and what is settled when it has ended?

use std::sync::Arc;
use std::time::Duration;

use arrayvec::ArrayVec;
use traflux_core::Timestamp;
use traflux_core::plan::routing::{Algorithm, FallbackCause};

mod hedging;
mod later;
mod placing;

use super::admission::{Admission, Kept};
use super::compile::{Compiled, RouteMember, RoutePool};
use super::counters::{LATER, WAITING};
use super::decision::{Decision, Reason, Refusal};
use super::{logged, waiting};
use crate::balance::Answer;
use crate::congestion::{Feedback, FeedbackPlan, LoadReport, Mark, Resource, Sample, Slot};
use crate::health::Entry;
use crate::limit::{Cost, Denial, DenialReason};
use crate::observe::{RequestRecord, TenantIx};
use crate::outcome::Outcome;
use crate::retry::{self, Attempt, FallbackLeave, Progress, RetryDecision, fallback_cause};
use crate::units::PicoDollars;
use crate::wire::Usage;

pub(super) use hedging::Hedging;
pub use later::Later;
pub(super) use later::Turn;
use placing::{ask, attempt, attempt_route, cost};

/// Endpoints that are asked for room before the next route.
const MOST_ASKED: usize = 8;

/// How a request ended.
#[derive(Debug, Clone, Copy)]
pub struct End<'a> {
    /// What came of it.
    pub outcome: Outcome,
    /// What it used; `None` where the answer did not say. Then a success, and what broke off after its first byte, is
    /// settled as reserved; what was given up, timed out or reset before that as its prompt; an answer with an error, and
    /// what was not sent, as nothing.
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
    pub(super) compiled: Arc<Compiled>,
    admission: Admission,
}

/// What limits are charged for a prompt that was sent and not answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unanswered {
    /// The prompt: the backend may have worked on it.
    Prompt,
    /// Nothing: it was not sent, or another attempt pays.
    Free,
}

impl Unanswered {
    /// What an attempt that ended like this has to pay.
    const fn of(outcome: Outcome, hedging: &Hedging) -> Self {
        let was_sent = matches!(outcome, Outcome::Cancelled | Outcome::Timeout | Outcome::Reset);
        if was_sent && !hedging.is_paid_by_another(outcome) { Self::Prompt } else { Self::Free }
    }
}

/// Routes and positions that were tried.
pub(super) type Tried = ArrayVec<(u32, u32), MOST_ASKED>;

/// The place of a request at a backend.
#[derive(Debug)]
pub(super) struct Hold {
    route: u32,
    position: u32,
    ahead: u32,
    /// Tokens that count as in flight there, where those are the load.
    held_tokens: u64,
    sent: Timestamp,
    first_token: Option<Duration>,
    /// `None` while its stream is quiet.
    slot: Option<Slot>,
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
    /// Whether it has a turn that comes after that time.
    has_turn: bool,
}

impl Blocked {
    const fn of(reason: Reason) -> Self {
        Self { reason, limit: None, retry_after: None, has_turn: false }
    }

    /// Whether it has a turn, and need only wait for that.
    pub(super) const fn has_turn(&self) -> bool {
        self.has_turn
    }

    const fn by(denial: Denial) -> Self {
        Self {
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
            has_turn: false,
        }
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
pub(super) fn decide(compiled: Arc<Compiled>, admission: Admission, now: Timestamp) -> Decision {
    let route = &compiled.routes[admission.route as usize];
    route.budget.request(now);
    let mut next = route.fallback;
    while let Some(fallback) = next.map(|ix| &compiled.routes[ix as usize]) {
        if let Some(entry) = &fallback.entry {
            entry.request(now);
        }
        next = fallback.fallback;
    }
    look_for_a_way(compiled, admission, now)
}

/// The same for a request that budgets have counted.
fn look_for_a_way(compiled: Arc<Compiled>, mut admission: Admission, now: Timestamp) -> Decision {
    let route = &compiled.routes[admission.route as usize];
    let room = route.rooms[admission.model as usize].map(|ix| &compiled.rooms[ix as usize]);
    let decider = route.decider;
    let (tenant, tokens) = (TenantIx(admission.tenant), admission.tokens.total());
    // Nobody overtakes those who wait.
    let decision = if let Some(room) = room.filter(|room| room.is_waiting()) {
        waiting::enqueue(&compiled, room, admission, now)
    } else {
        match place(&compiled, &mut admission, now) {
            Ok(()) => {
                return Decision::Forward(Forward { compiled, admission });
            }
            Err(blocked) if blocked.has_turn => {
                let forward = Forward { compiled: Arc::clone(&compiled), admission };
                Decision::Later(Later::of(forward))
            }
            Err(blocked) => match room.filter(|_| blocked.may_wait()) {
                Some(room) => waiting::enqueue(&compiled, room, admission, now),
                None => Decision::Refuse(blocked.refusal(&compiled, admission.route)),
            },
        }
    };
    let code = match &decision {
        Decision::Refuse(refusal) => {
            if refusal.reason.is_capacity() {
                compiled.used.refused(tenant, tokens);
            }
            refusal.reason.code()
        }
        Decision::Later(_) => LATER,
        Decision::Forward(_) | Decision::Wait(_) => WAITING,
    };
    compiled.count(decider, code);
    decision
}

/// Looks for a place for a request, and counts it when there is one.
pub(super) fn place(compiled: &Compiled, admission: &mut Kept, now: Timestamp) -> Result<(), Blocked> {
    attempt(compiled, admission, false, None, now)?;
    if let Some((_, member, _)) = member(compiled, admission) {
        let decider = compiled.routes[admission.route as usize].decider;
        let mut recorder = compiled.counters.metrics.recorder();
        recorder.decision(decider, compiled.counters.forwarded);
        recorder.pick(member.picks);
    }
    Ok(())
}

impl Forward {
    /// The way of a request that waited and has a place now.
    pub(super) fn after_waiting(
        compiled: &Arc<Compiled>,
        mut admission: Admission,
        room: &Arc<waiting::Room>,
    ) -> Self {
        admission.waited_in = Some(Arc::clone(room));
        Self { compiled: Arc::clone(compiled), admission }
    }

    /// How headers of the answer are read: `congestion.feedback` of the plan under which it was decided.
    #[must_use]
    pub fn feedback_plan(&self) -> &FeedbackPlan {
        &self.compiled.plan.congestion.feedback
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
        self.admission.tried.len() + 1
    }

    /// How long the request has been here, queue and earlier attempts included.
    #[must_use]
    pub fn age(&self, now: Timestamp) -> Duration {
        now.since(self.admission.arrived)
    }

    /// The first byte of the answer has come: what limits on requests in flight learn from, and the end of all
    /// trying again.
    pub fn first_byte(&mut self, now: Timestamp) {
        if self.compiled.shared.log.is_some() {
            logged::first_byte(self, now);
        } else {
            self.first_byte_now(now);
        }
    }

    pub(super) fn first_byte_now(&mut self, now: Timestamp) {
        let kept = &mut *self.admission;
        let Some(hold) = &mut kept.hold else { return };
        let pool = &self.compiled.routes[hold.route as usize].pools[kept.model as usize];
        // A hold was made from this very pool.
        let Some(pool) = pool.as_deref() else { return };
        let member = &pool.members[hold.position as usize];
        if hold.first_token.is_some() {
            return;
        }
        let after = now.since(hold.sent);
        hold.first_token = Some(after);
        if let Some(hedge) = &pool.hedge {
            hedge.observe(after);
        }
        if let Some(slot) = &hold.slot {
            member.state.concurrency.observe(now, slot, Sample::Latency(after));
        }
        // Not at the end: a stream that is open was taken on long ago.
        member.state.throttle.accepted(now, usize::from(kept.band));
        if kept.stream
            && let Some(endpoint) = pool.pool.endpoint(hold.position as usize)
        {
            let prompt = u32::try_from(kept.tokens.input).unwrap_or(u32::MAX);
            endpoint.record_first_token(now, after, prompt, hold.ahead);
        }
    }

    /// Its stream has said nothing for a while: the backend does not work on it, and its place in flight there goes to
    /// another until it [resumes](Self::resume). Nothing before the first byte.
    pub fn pause(&mut self, now: Timestamp) {
        if self.compiled.shared.log.is_some() {
            logged::pause(self, now);
        } else {
            self.pause_now(now);
        }
    }

    pub(super) fn pause_now(&mut self, now: Timestamp) {
        let Some(hold) = self.admission.hold.as_mut().filter(|hold| hold.first_token.is_some()) else {
            return;
        };
        let slot = hold.slot.take();
        if let (Some(slot), Some((_, member, _))) = (slot, self.member()) {
            member.state.concurrency.release(slot);
            self.make_room(now);
        }
    }

    /// Its stream goes on, and takes its place again, whether or not there is room.
    pub fn resume(&mut self) {
        if self.compiled.shared.log.is_some() {
            logged::resume(self);
        } else {
            self.resume_now();
        }
    }

    pub(super) fn resume_now(&mut self) {
        let Some((_, member, Hold { slot: None, .. })) = self.member() else { return };
        let slot = member.state.concurrency.reenter();
        if let Some(hold) = &mut self.admission.hold {
            hold.slot = Some(slot);
        }
    }

    /// Takes in what its backend measures of itself, as [`Engine::report_load`](crate::Engine::report_load) does, but
    /// without looking for the backend; `model` is the one that was asked for.
    pub fn report_load(&self, now: Timestamp, model: &str, report: LoadReport) {
        if self.compiled.shared.log.is_some() {
            self.compiled.shared.report_load(now, self.backend(), model, report);
        } else if let Some((_, member, _)) = self.member() {
            member.state.report_load(now, report);
        }
    }

    /// Settles everything.
    pub fn finish(self, now: Timestamp, end: &End<'_>) {
        if self.compiled.shared.log.is_some() {
            logged::finish(self, now, end);
        } else {
            self.finish_now(now, end);
        }
    }

    pub(super) fn finish_now(mut self, now: Timestamp, end: &End<'_>) {
        let unanswered = Unanswered::of(end.outcome, &self.admission.hedging);
        self.end(now, end, unanswered);
        self.make_room(now);
    }

    /// How long to wait before sending: nothing at the first attempt, a random back-off at later ones.
    #[must_use]
    pub fn send_after(&self) -> Duration {
        self.admission.send_after
    }

    /// Settles this attempt and, where the policy and the budget of the rule allow, finds a place for another one,
    /// elsewhere if there is an elsewhere. Refused after the first byte.
    pub fn retry(self, now: Timestamp, end: &End<'_>) -> Decision {
        if self.compiled.shared.log.is_some() {
            logged::retry(self, now, end)
        } else {
            self.retry_now(now, end)
        }
    }

    /// By which the log calls it, once somebody was given it.
    pub(super) fn number(&self) -> Option<u64> {
        self.admission.number
    }

    pub(super) fn set_number(&mut self, number: u64) {
        self.admission.number = Some(number);
    }

    pub(super) fn retry_now(mut self, now: Timestamp, end: &End<'_>) -> Decision {
        let Some(hold) = &self.admission.hold else { return self.exhausted(now) };
        let place = (hold.route, hold.position);
        let progress = match (hold.first_token, end.outcome) {
            (Some(_), _) => Progress::Streaming,
            (None, Outcome::ConnectFailure | Outcome::PoolFull) => Progress::Unsent,
            (None, _) => Progress::Sent,
        };
        let in_flight = self.member().map_or(0, |(_, member, _)| member.state.concurrency.in_flight());
        let is_silent = progress == Progress::Sent && end.usage.is_none();
        let unanswered = Unanswered::of(end.outcome, &self.admission.hedging);
        // The next attempt pays, where there is one.
        self.end(now, end, Unanswered::Free);
        match self.again(now, end, place, progress, in_flight) {
            Ok(decision) => decision,
            Err(last) => {
                if is_silent && unanswered == Unanswered::Prompt {
                    last.charge_prompt(now, place);
                }
                last.exhausted(now)
            }
        }
    }

    /// Finds a place for another attempt; itself where there is to be none.
    fn again(
        mut self,
        now: Timestamp,
        end: &End<'_>,
        place: (u32, u32),
        progress: Progress,
        in_flight: u32,
    ) -> Result<Decision, Self> {
        let failed = Attempt {
            number: self.admission.tried.len() as u32 + 1,
            outcome: end.outcome,
            progress,
            idempotence: self.admission.idempotence,
            retry_after: end.feedback.retry_after.map(|wait| wait.wait),
            should_retry: end.feedback.should_retry,
            time_left: self.admission.deadline.map(|deadline| deadline.since(now)),
            elsewhere: self.has_elsewhere(fallback_cause(end.outcome)),
        };
        let decided = retry::decide(&self.compiled.plan.retry, &failed, self.compiled.shared.draw());
        let RetryDecision::Retry { after, elsewhere } = decided else { return Err(self) };
        let budget = &self.compiled.routes[self.admission.route as usize].budget;
        let Some(leave) = budget.try_retry(now, in_flight) else { return Err(self) };
        self.admission.leave = Some(leave);
        if self.admission.tried.try_push(place).is_err() {
            return Err(self);
        }
        let cause = fallback_cause(end.outcome);
        match attempt(&self.compiled, &mut self.admission, elsewhere, cause, now) {
            Ok(()) => {
                self.admission.hedging = Hedging::default();
                self.admission.send_after = after;
                if let Some(hold) = &mut self.admission.hold {
                    hold.sent = now + after;
                }
                if let Some((_, member, _)) = self.member() {
                    let mut recorder = self.compiled.counters.metrics.recorder();
                    recorder.retries(member.series, 1);
                    recorder.pick(member.picks);
                }
                Ok(Decision::Forward(self))
            }
            Err(blocked) if blocked.has_turn => Ok(Decision::Later(Later::of(self))),
            Err(_) => Err(self),
        }
    }

    /// Charges limits for the prompt of an attempt that has been settled as nothing.
    #[cold]
    fn charge_prompt(&self, now: Timestamp, (route, position): (u32, u32)) {
        let (compiled, kept) = (&self.compiled, &self.admission);
        let Some(pool) = compiled.routes[route as usize].pools[kept.model as usize].as_deref() else {
            return;
        };
        let member = &pool.members[position as usize];
        // It has been counted as a request.
        let used = Cost { requests: 0, ..cost(member, kept.tokens.input, 0, 0) };
        for (limit, key) in compiled.limits_at(kept, &member.state.name, now).into_iter().flatten() {
            if let Some((_, unit, _)) = compiled.limiter.describe(limit) {
                compiled.limiter.debit(now, limit, key, used.amount(unit));
            }
        }
    }

    /// Whether an endpoint is left that was not tried and takes what failed.
    fn has_elsewhere(&self, cause: Option<FallbackCause>) -> bool {
        let mut next = Some(self.admission.route);
        while let Some(ix) = next {
            let route = &self.compiled.routes[ix as usize];
            let takes =
                route.entry.as_ref().is_none_or(|entry| cause.is_some_and(|cause| entry.takes(cause)));
            if let Some(pool) = route.pools[self.admission.model as usize].as_ref().filter(|_| takes) {
                let tried = self.admission.tried.iter().filter(|(route, _)| *route == ix).count();
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
        member(&self.compiled, &self.admission)
    }

    fn end(&mut self, now: Timestamp, end: &End<'_>, unanswered: Unanswered) {
        let kept = &mut *self.admission;
        if let Some(leave) = kept.leave.take() {
            self.compiled.routes[kept.route as usize].budget.finish(leave);
        }
        let Some(hold) = kept.hold.take() else { return };
        let pool = &self.compiled.routes[hold.route as usize].pools[kept.model as usize];
        // A hold was made from this very pool.
        let Some(pool) = pool.as_deref() else { return };
        let member = &pool.members[hold.position as usize];
        let state = &member.state;
        let total = now.since(hold.sent);
        let (begun, outcome) = (hold.first_token.is_some(), end.outcome);
        let overtaken = kept.hedging.is_overtaken() && !begun;
        if let (Some(entry), Some(leave)) = (&self.compiled.routes[hold.route as usize].entry, hold.leave) {
            entry.leave(leave);
        }
        if let Some(hedge) = pool.hedge.as_ref().filter(|_| overtaken && !kept.hedging.is_second()) {
            hedge.observe(total);
        }
        if !begun {
            let sample = match outcome {
                // It takes at least as long.
                _ if overtaken && !kept.hedging.is_second() => Some(Sample::Latency(total)),
                Outcome::Success | Outcome::ClientError => Some(Sample::Latency(total)),
                // A quota that is used up says nothing about load; the cool-down and the ceilings know of it.
                Outcome::Limited if end.feedback.wait(&self.compiled.plan.congestion.feedback).is_some() => {
                    None
                }
                outcome if outcome.is_overload() => Some(Sample::Dropped),
                _ => None,
            };
            if let (Some(sample), Some(slot)) = (sample, &hold.slot) {
                state.concurrency.observe(now, slot, sample);
            }
        }
        if let Some(slot) = hold.slot {
            state.concurrency.release(slot);
        }
        if outcome == Outcome::Success {
            state.service.record(total);
        }
        let band = usize::from(kept.band);
        // What the client gave up was not refused either.
        if !begun && (outcome.is_accepted() || outcome.is_given_up()) {
            state.throttle.accepted(now, band);
        }
        match outcome {
            Outcome::Limited => {
                let wait = end.feedback.wait(&self.compiled.plan.congestion.feedback);
                state.cool_down.refused(now, wait, self.compiled.shared.draw());
            }
            outcome if outcome.is_healthy() => state.cool_down.served(now),
            _ => {}
        }
        if outcome == Outcome::PoolFull {
            // The provider does not know of it.
            state.requests_left.settle(hold.requests_mark, 0);
        } else if let Some(quota) = end.feedback.quota(Resource::Requests) {
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
        let tokens = kept.tokens;
        let used = match (end.usage, outcome) {
            (Some(usage), _) => Some(usage),
            (None, Outcome::Success) => None,
            // An answer that says no has a body, too, and nothing was made for it.
            (
                None,
                Outcome::ClientError | Outcome::Limited | Outcome::ServerError | Outcome::GatewayError,
            ) => Some(Usage::default()),
            // Of a stream that broke or was left, some was used; how much is not known.
            (None, _) if begun => None,
            (None, _) if unanswered == Unanswered::Prompt => {
                Some(Usage { input: tokens.input, ..Usage::default() })
            }
            (None, _) => Some(Usage::default()),
        };
        let small = |tokens: u64| u32::try_from(tokens).unwrap_or(u32::MAX);
        let (output, prompt, counted, price) = match used {
            _ if overtaken || outcome == Outcome::PoolFull => {
                self.compiled.limiter.settle(now, &mut kept.reserved, &Cost::NOTHING);
                state.tokens_left.settle(hold.tokens_mark, 0);
                (0, small(tokens.input), Usage::default(), PicoDollars::ZERO)
            }
            Some(usage) => {
                let actual = cost(member, usage.input, usage.cached, usage.output);
                self.compiled.limiter.settle(now, &mut kept.reserved, &actual);
                state.tokens_left.settle(hold.tokens_mark, usage.input.saturating_add(usage.output));
                (small(usage.output), small(usage.input.saturating_sub(usage.cached)), usage, actual.price)
            }
            None => {
                let expected = cost(member, tokens.input, 0, tokens.output);
                self.compiled.limiter.keep(&mut kept.reserved);
                (0, small(tokens.input), Usage { input: tokens.input, ..Usage::default() }, expected.price)
            }
        };
        self.compiled.counters.metrics.recorder().request(&RequestRecord {
            outcome,
            input_tokens: counted.input,
            cached_tokens: counted.cached,
            output_tokens: counted.output,
            cost: price,
            duration: total,
            time_to_first_token: hold.first_token.filter(|_| kept.stream),
            ..RequestRecord::new(member.series)
        });
        let used = counted.input.saturating_add(counted.output);
        if let Some(room) = kept.waited_in.take() {
            room.settle(kept.band, kept.tenant, tokens.total(), used);
        }
        self.compiled.used.record(TenantIx(kept.tenant), used, price);
        if let Some(endpoint) = pool.pool.endpoint(hold.position as usize).filter(|_| overtaken) {
            endpoint.record_at_least(now, total, prompt, hold.ahead);
        }
        pool.pool.finish(
            now,
            hold.position as usize,
            &Answer {
                outcome,
                total,
                first_token: hold.first_token.filter(|_| kept.stream),
                first_token_recorded: begun && kept.stream,
                prompt_tokens: prompt,
                output_tokens: output,
                output_limit: small(tokens.output),
                ahead: hold.ahead,
                held_tokens: hold.held_tokens,
            },
        );
    }

    /// Lets go on who waited for this place.
    fn make_room(&self, now: Timestamp) {
        let route = &self.compiled.routes[self.admission.route as usize];
        let Some(room) = route.rooms[self.admission.model as usize] else { return };
        let room = &self.compiled.rooms[room as usize];
        if room.is_waiting() {
            waiting::pump(room, now);
        }
    }
}

/// Where a request has its place.
fn member<'a>(
    compiled: &'a Compiled,
    admission: &'a Kept,
) -> Option<(&'a RoutePool, &'a RouteMember, &'a Hold)> {
    let hold = admission.hold.as_ref()?;
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
        if self.admission.hold.is_none() && self.admission.turn.is_none() {
            return;
        }
        if self.compiled.shared.log.is_some() {
            logged::dropped(self);
        } else {
            self.dropped_now();
        }
    }
}

impl Forward {
    pub(super) fn dropped_now(&mut self) {
        if let Some(hold) = &self.admission.hold {
            let last_known = hold.sent + hold.first_token.unwrap_or_default();
            self.finish_cancelled(last_known, Unanswered::of(Outcome::Cancelled, &self.admission.hedging));
        } else if self.admission.turn.is_some() {
            self.give_up_turn();
        }
    }

    /// Ends a place that nobody was told of, so that nothing was sent.
    pub(super) fn never_sent(&mut self) {
        if let Some(hold) = &self.admission.hold {
            self.finish_cancelled(hold.sent, Unanswered::Free);
        }
    }

    fn finish_cancelled(&mut self, now: Timestamp, unanswered: Unanswered) {
        self.end(now, &End::of(Outcome::Cancelled), unanswered);
        self.make_room(now);
    }
}
