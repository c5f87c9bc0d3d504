//! May this endpoint be used now, and for how much?
//!
//! A [`HealthGroup`] joins active checks, outlier detection and breakers for the endpoints of one backend and
//! model. The usual answer costs two loads. At most
//! [`max_ejected_share`](traflux_core::plan::health::OutlierPlan::max_ejected_share) of the endpoints are away for what
//! they did (open, on trial or returning); when by all accounts too few are left, the group panics and uses all.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use traflux_core::Timestamp;
use traflux_core::plan::health::HealthPlan;

use super::breaker::{Breaker, BreakerState, Entry};
use super::outlier::{EjectionCause, Watch, judge};
use super::panic::is_panicking;
use super::probe::ProbeResult;
use crate::outcome::Outcome;
use crate::units::{duration_nanos, nanos};

/// Events kept until somebody takes them; older ones go first.
const MAX_EVENTS: usize = 1024;

/// Why an endpoint is used as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reason {
    /// Nothing speaks against it.
    Healthy,
    /// It comes back by growing shares.
    Returning,
    /// It is on trial.
    HalfOpen,
    /// It was ejected.
    Ejected,
    /// Its active check fails.
    ProbeFailed,
    /// Too few are healthy, so all are used.
    Panic,
}

impl Reason {
    /// Its name in metrics and logs.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Returning => "returning",
            Self::HalfOpen => "half_open",
            Self::Ejected => "ejected",
            Self::ProbeFailed => "probe_failed",
            Self::Panic => "panic",
        }
    }
}

/// How an endpoint may be used.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Eligibility {
    /// Whether it may be chosen.
    pub eligible: bool,
    /// Share of its usual traffic, in [0, 1]; multiply its weight by it.
    pub share: f64,
    /// Why.
    pub reason: Reason,
}

/// A change of health.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HealthEvent {
    /// An endpoint is away.
    Ejected {
        /// Its position.
        endpoint: usize,
        /// When.
        at: Timestamp,
        /// Why.
        cause: EjectionCause,
    },
    /// An endpoint stood out and stays, for as many are away as may be.
    EjectionSpared {
        /// Its position.
        endpoint: usize,
        /// When.
        at: Timestamp,
        /// What spoke against it.
        cause: EjectionCause,
    },
    /// An endpoint passed its trials.
    Returning {
        /// Its position.
        endpoint: usize,
        /// When.
        at: Timestamp,
    },
    /// An endpoint's active check turned.
    Probe {
        /// Its position.
        endpoint: usize,
        /// When.
        at: Timestamp,
        /// Whether it may be used.
        usable: bool,
    },
    /// A panic began or ended.
    Panic {
        /// When.
        at: Timestamp,
        /// Whether all are used now.
        on: bool,
    },
}

#[derive(Debug)]
struct Member {
    watch: Watch,
    breaker: Breaker,
    /// What the active check says. Relaxed, as the group's flags: one request more or less.
    probe_usable: AtomicBool,
}

impl Member {
    fn new(plan: &HealthPlan) -> Self {
        Self {
            watch: Watch::default(),
            breaker: Breaker::new(plan.breaker),
            probe_usable: AtomicBool::new(true),
        }
    }
}

/// The health of the endpoints of one backend and model.
///
/// ```
/// use traflux_core::Timestamp;
/// use traflux_gateway::health::{HealthGroup, HealthPlan, Outcome, Reason};
///
/// let group = HealthGroup::new(&HealthPlan::default(), 2);
/// let now = Timestamp::ZERO;
/// for _ in 0..5 {
///     let entry = group.try_enter(now, 0).unwrap();
///     group.record(now, 0, entry, Outcome::Timeout);
/// }
/// assert_eq!(group.eligibility(now, 0).reason, Reason::Ejected);
/// assert_eq!(group.eligibility(now, 1).reason, Reason::Healthy);
/// ```
#[derive(Debug)]
pub struct HealthGroup {
    plan: HealthPlan,
    /// Shared with the groups this one was made from.
    members: Box<[Arc<Member>]>,
    panicking: AtomicBool,
    /// Nanoseconds since the epoch; 0 before the first request.
    next_sweep: AtomicU64,
    events: Mutex<Events>,
}

/// Behind the lock that also makes ejections one after the other.
#[derive(Debug, Default)]
struct Events {
    queue: VecDeque<HealthEvent>,
    /// Requests and successes by endpoint, while they are judged.
    windows: Vec<(u32, u32)>,
}

impl HealthGroup {
    /// A group in which all are healthy until told otherwise.
    #[must_use]
    pub fn new(plan: &HealthPlan, endpoints: usize) -> Self {
        Self::of(plan.clone(), (0..endpoints).map(|_| Arc::new(Member::new(plan))).collect())
    }

    /// The group after endpoints came or went: for each of its endpoints the position it has in this group, or
    /// `None` for a new one, which begins healthy.
    ///
    /// Endpoints that stay share their state with this group, so that requests under way still count.
    #[must_use]
    pub fn with_endpoints(&self, now: Timestamp, positions: &[Option<usize>]) -> Self {
        let member = |position: &Option<usize>| {
            let kept = position.and_then(|position| self.members.get(position)).cloned();
            kept.unwrap_or_else(|| Arc::new(Member::new(&self.plan)))
        };
        let group = Self::of(self.plan.clone(), positions.iter().map(member).collect());
        group.next_sweep.store(self.next_sweep.load(Ordering::Relaxed), Ordering::Relaxed);
        group.panicking.store(self.is_panicking(), Ordering::Relaxed);
        group.review_panic(now, &mut group.lock());
        group
    }

    fn of(plan: HealthPlan, members: Box<[Arc<Member>]>) -> Self {
        let endpoints = members.len();
        Self {
            plan,
            members,
            panicking: AtomicBool::new(false),
            next_sweep: AtomicU64::new(0),
            events: Mutex::new(Events { windows: Vec::with_capacity(endpoints), ..Events::default() }),
        }
    }

    /// Number of endpoints.
    #[must_use]
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// Whether health is being ignored.
    #[inline]
    #[must_use]
    pub fn is_panicking(&self) -> bool {
        self.panicking.load(Ordering::Relaxed)
    }

    /// How an endpoint may be used now; an unknown one not at all.
    #[inline]
    #[must_use]
    pub fn eligibility(&self, now: Timestamp, endpoint: usize) -> Eligibility {
        match self.members.get(endpoint) {
            Some(member) if member.breaker.is_closed() && member.probe_usable.load(Ordering::Relaxed) => {
                Eligibility { eligible: true, share: 1.0, reason: Reason::Healthy }
            }
            Some(member) => self.eligibility_away(now, member),
            None => Eligibility { eligible: false, share: 0.0, reason: Reason::Ejected },
        }
    }

    #[cold]
    fn eligibility_away(&self, now: Timestamp, member: &Member) -> Eligibility {
        if self.is_panicking() {
            return Eligibility { eligible: true, share: 1.0, reason: Reason::Panic };
        }
        let share = member.breaker.share(now);
        let (share, reason) = if !member.probe_usable.load(Ordering::Relaxed) {
            (0.0, Reason::ProbeFailed)
        } else {
            match member.breaker.state(now) {
                BreakerState::Closed => (1.0, Reason::Healthy),
                BreakerState::Returning => (share, Reason::Returning),
                BreakerState::HalfOpen => (share, Reason::HalfOpen),
                BreakerState::Open => (0.0, Reason::Ejected),
            }
        };
        Eligibility { eligible: share > 0.0, share, reason }
    }

    /// Lets a request to an endpoint that was chosen; `None` when another took the last trial meanwhile.
    #[inline]
    pub fn try_enter(&self, now: Timestamp, endpoint: usize) -> Option<Entry> {
        let member = self.members.get(endpoint)?;
        if self.is_panicking() { Some(Entry::Normal) } else { member.breaker.try_enter(now) }
    }

    /// Takes in the end of a request.
    #[inline]
    pub fn record(&self, now: Timestamp, endpoint: usize, entry: Entry, outcome: Outcome) {
        let Some(member) = self.members.get(endpoint) else { return };
        let cause = member.watch.record(&self.plan.outlier, outcome);
        if !member.breaker.is_closed() {
            self.record_away(now, endpoint, entry, outcome);
        } else if let Some(cause) = cause {
            self.eject(now, endpoint, cause, &mut self.lock());
        }
        if nanos(now) >= self.next_sweep.load(Ordering::Relaxed) {
            self.sweep(now);
        }
    }

    /// Takes in what an active check found; `usable` as [`Probe::is_usable`](super::Probe::is_usable) has it.
    pub fn on_probe(&self, now: Timestamp, endpoint: usize, usable: bool, result: ProbeResult) {
        let Some(member) = self.members.get(endpoint) else { return };
        if self.plan.probe_ends_ejection && result == ProbeResult::Passed {
            let _one_by_one = self.lock();
            member.breaker.try_early(now);
        }
        self.set_probe_usable(now, endpoint, usable);
    }

    /// Takes in what is known of an endpoint by asking.
    pub fn set_probe_usable(&self, now: Timestamp, endpoint: usize, usable: bool) {
        let Some(member) = self.members.get(endpoint) else { return };
        let mut events = self.lock();
        if member.probe_usable.swap(usable, Ordering::Relaxed) != usable {
            events.push(HealthEvent::Probe { endpoint, at: now, usable });
        }
        self.review_panic(now, &mut events);
    }

    /// Judges success rates when it is time; requests do so by themselves, this is for quiet hours.
    pub fn tick(&self, now: Timestamp) {
        if nanos(now) >= self.next_sweep.load(Ordering::Relaxed) {
            self.sweep(now);
        }
    }

    /// Endpoints that are away for what they did: open, on trial or returning.
    #[must_use]
    pub fn ejected(&self, now: Timestamp) -> usize {
        self.members.iter().filter(|member| member.breaker.state(now) != BreakerState::Closed).count()
    }

    /// Takes the events since the last call, oldest first.
    #[must_use]
    pub fn take_events(&self) -> Vec<HealthEvent> {
        self.lock().queue.drain(..).collect()
    }

    #[cold]
    fn record_away(&self, now: Timestamp, endpoint: usize, entry: Entry, outcome: Outcome) {
        let well = match outcome {
            _ if outcome.is_healthy() => Some(true),
            _ if outcome.is_failure() => Some(false),
            _ => None,
        };
        let mut events = self.lock();
        match self.members[endpoint].breaker.on_end(now, entry, well) {
            Some(BreakerState::Open) => {
                events.push(HealthEvent::Ejected { endpoint, at: now, cause: EjectionCause::Relapse });
            }
            Some(BreakerState::Returning) => {
                self.members[endpoint].watch.forget_rows();
                events.push(HealthEvent::Returning { endpoint, at: now });
            }
            _ => return,
        }
        self.review_panic(now, &mut events);
    }

    #[cold]
    fn eject(&self, now: Timestamp, endpoint: usize, cause: EjectionCause, events: &mut Events) {
        let member = &self.members[endpoint];
        // Judged under the lock: another thread may have ejected it, or the last one allowed.
        if member.breaker.state(now) != BreakerState::Closed {
            return;
        }
        member.watch.forget_rows();
        if self.ejected(now) >= self.plan.outlier.max_ejected(self.members.len()) {
            events.push(HealthEvent::EjectionSpared { endpoint, at: now, cause });
        } else if member.breaker.trip(now).is_some() {
            events.push(HealthEvent::Ejected { endpoint, at: now, cause });
            self.review_panic(now, events);
        }
    }

    #[cold]
    fn sweep(&self, now: Timestamp) {
        let mut events = self.lock();
        let at = nanos(now);
        let due = self.next_sweep.load(Ordering::Relaxed);
        if at < due {
            return;
        }
        let interval = duration_nanos(self.plan.outlier.interval).max(1);
        self.next_sweep.store(at.saturating_add(interval), Ordering::Relaxed);
        if due == 0 {
            return;
        }
        // Kept, because some request ends up here: it must not wait for memory.
        let mut windows = std::mem::take(&mut events.windows);
        windows.clear();
        windows.extend(self.members.iter().map(|member| member.watch.take_window()));
        judge(&self.plan.outlier, &windows, |endpoint, cause| self.eject(now, endpoint, cause, &mut events));
        events.windows = windows;
    }

    /// Healthy are those in full use or returning.
    fn review_panic(&self, now: Timestamp, events: &mut Events) {
        let is_healthy = |member: &&Arc<Member>| {
            member.probe_usable.load(Ordering::Relaxed)
                && matches!(member.breaker.state(now), BreakerState::Closed | BreakerState::Returning)
        };
        let healthy = self.members.iter().filter(is_healthy).count();
        let on = is_panicking(healthy, self.members.len(), self.plan.panic_threshold);
        if self.panicking.swap(on, Ordering::Relaxed) != on {
            events.push(HealthEvent::Panic { at: now, on });
        }
    }

    fn lock(&self) -> MutexGuard<'_, Events> {
        self.events.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Events {
    fn push(&mut self, event: HealthEvent) {
        if self.queue.len() >= MAX_EVENTS {
            self.queue.pop_front();
        }
        self.queue.push_back(event);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use traflux_core::plan::health::OutlierPlan;

    use super::*;

    fn at(milliseconds: u64) -> Timestamp {
        Timestamp::new(Duration::from_millis(milliseconds))
    }

    fn fail(group: &HealthGroup, now: Timestamp, endpoint: usize, times: usize) {
        for _ in 0..times {
            group.record(now, endpoint, Entry::Normal, Outcome::ServerError);
        }
    }

    #[test]
    fn refusals_for_lack_of_capacity_never_eject() {
        let group = HealthGroup::new(&HealthPlan::default(), 4);
        for step in 0..100_000 {
            let outcome = [Outcome::Limited, Outcome::LocalTimeout, Outcome::Cancelled][step as usize % 3];
            group.record(at(step), 0, Entry::Normal, outcome);
        }
        assert_eq!(group.eligibility(at(100_000), 0).reason, Reason::Healthy);
        assert!(group.take_events().is_empty());
    }

    #[test]
    fn the_only_endpoint_and_the_last_half_stay() {
        let one = HealthGroup::new(&HealthPlan::default(), 1);
        fail(&one, at(0), 0, 5);
        assert!(one.eligibility(at(0), 0).eligible);
        let event =
            HealthEvent::EjectionSpared { endpoint: 0, at: at(0), cause: EjectionCause::ConsecutiveErrors };
        assert_eq!(one.take_events(), [event]);

        let four = HealthGroup::new(&HealthPlan::default(), 4);
        (0..4).for_each(|endpoint| fail(&four, at(0), endpoint, 5));
        assert_eq!(four.ejected(at(0)), 2);
    }

    #[test]
    fn an_endpoint_that_recovers_goes_through_all_stages() {
        let group = HealthGroup::new(&HealthPlan::default(), 2);
        fail(&group, at(0), 0, 5);
        assert_eq!(group.eligibility(at(100), 0).reason, Reason::Ejected);
        assert_eq!(group.eligibility(at(5_000), 0).reason, Reason::HalfOpen);
        for _ in 0..2 {
            let trial = group.try_enter(at(5_000), 0).unwrap();
            assert!(!group.eligibility(at(5_000), 0).eligible, "its only trial is out");
            assert_eq!(group.try_enter(at(5_000), 0), None);
            group.record(at(5_010), 0, trial, Outcome::Success);
        }
        let returning = group.eligibility(at(12_510), 0);
        assert_eq!(returning.reason, Reason::Returning);
        assert!((returning.share - 0.55).abs() < 1e-12, "{returning:?}");
        assert_eq!(group.eligibility(at(20_010), 0).reason, Reason::Healthy);
        let events = group.take_events();
        assert!(matches!(events[0], HealthEvent::Ejected { endpoint: 0, .. }));
        assert_eq!(events[1], HealthEvent::Returning { endpoint: 0, at: at(5_010) });
        assert_eq!(events.len(), 2);
    }

    #[test]
    fn when_all_checks_fail_all_endpoints_are_used() {
        let group = HealthGroup::new(&HealthPlan::default(), 5);
        for endpoint in 0..4 {
            group.on_probe(at(0), endpoint, false, ProbeResult::Failed);
            assert_eq!(group.eligibility(at(0), endpoint).reason, Reason::ProbeFailed);
        }
        assert!(!group.is_panicking(), "one of five is not below a fifth");
        group.on_probe(at(1), 4, false, ProbeResult::Failed);
        assert!((0..5).all(|endpoint| group.eligibility(at(1), endpoint).reason == Reason::Panic));
        group.on_probe(at(2), 0, true, ProbeResult::Passed);
        assert_eq!(group.eligibility(at(2), 1).reason, Reason::ProbeFailed);
        assert!(group.take_events().contains(&HealthEvent::Panic { at: at(2), on: false }));
    }

    #[test]
    fn an_endpoint_that_fails_nearly_always_is_ejected_though_never_five_times_in_a_row() {
        let plan = OutlierPlan { consecutive_errors: 0, ..OutlierPlan::default() };
        let group = HealthGroup::new(&HealthPlan { outlier: plan, ..HealthPlan::default() }, 2);
        for step in 0..40u64 {
            let outcome = if step % 8 == 0 { Outcome::Success } else { Outcome::ServerError };
            group.record(at(1 + step * 250), 0, Entry::Normal, outcome);
        }
        assert!(group.eligibility(at(9_999), 0).eligible);
        group.tick(at(10_001));
        assert_eq!(group.eligibility(at(10_001), 0).reason, Reason::Ejected);
        let cause = EjectionCause::FailureShare;
        assert_eq!(group.take_events(), [HealthEvent::Ejected { endpoint: 0, at: at(10_001), cause }]);
    }

    #[test]
    fn endpoints_that_stay_keep_their_health_when_others_come_and_go() {
        let group = HealthGroup::new(&HealthPlan::default(), 3);
        fail(&group, at(0), 2, 5);
        let next = group.with_endpoints(at(1), &[Some(2), None, Some(0), None]);
        let reasons: Vec<_> = (0..4).map(|endpoint| next.eligibility(at(1), endpoint).reason).collect();
        assert_eq!(reasons, [Reason::Ejected, Reason::Healthy, Reason::Healthy, Reason::Healthy]);
        // Four of five failures in the old group, the fifth in the new.
        fail(&group, at(2), 0, 4);
        fail(&next, at(2), 2, 1);
        assert_eq!(next.eligibility(at(2), 2).reason, Reason::Ejected);
    }

    #[test]
    fn a_passed_check_ends_an_ejection_where_asked_to() {
        let plan = HealthPlan { probe_ends_ejection: true, ..HealthPlan::default() };
        let group = HealthGroup::new(&plan, 2);
        fail(&group, at(0), 0, 5);
        group.on_probe(at(100), 0, true, ProbeResult::Passed);
        assert_eq!(group.eligibility(at(100), 0).reason, Reason::HalfOpen);
    }
}
