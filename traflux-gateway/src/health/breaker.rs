//! How is a failing endpoint kept away, and how does it come back?
//!
//! ```text
//!          trip              time is up              enough trials pass            ramp is over
//! Closed ───────► Open ───────────────► HalfOpen ───────────────────► Returning ───────────────► Closed
//!                  ▲                        │ a trial fails               │ a failure in a row of `relapse`
//!                  └────────────────────────┴─────────────────────────────┘
//! ```
//!
//! It stays open for `base · 2^(ejections − 1)`, at most `max` (Envoy grows by addition; doubling gives a dead
//! endpoint fewer chances to hurt). Every `decay` spent closed takes one ejection off the count. Half open it
//! takes a few trial requests and nothing else; returning, a share of traffic that grows evenly to 1.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU8, Ordering};

use traflux_core::Timestamp;
use traflux_core::plan::health::BreakerPlan;

/// Where a breaker stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BreakerState {
    /// All traffic.
    Closed,
    /// None.
    Open,
    /// Trials only.
    HalfOpen,
    /// A growing share.
    Returning,
}

impl BreakerState {
    /// Its name in metrics and logs.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "half_open",
            Self::Returning => "returning",
        }
    }
}

/// How a request entered. Report its end with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entry {
    /// As usual.
    Normal,
    /// As the trial of this number.
    Trial(u64),
}

/// The breaker of one endpoint (and model).
#[derive(Debug)]
pub struct Breaker {
    plan: BreakerPlan,
    /// 0 while closed, for the fast path alone. Relaxed: who sees an old value acts as a moment earlier; all
    /// else is behind the lock.
    away: AtomicU8,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    state: BreakerState,
    /// When the state was entered.
    since: Timestamp,
    /// End of the ejection.
    until: Timestamp,
    ejections: u32,
    /// Trials under way: the moment each began.
    open_trials: Vec<(u64, Timestamp)>,
    next_trial: u64,
    passed: u32,
    failures_in_a_row: u32,
}

impl Breaker {
    /// A closed one.
    #[must_use]
    pub fn new(plan: BreakerPlan) -> Self {
        Self {
            plan,
            away: AtomicU8::new(0),
            inner: Mutex::new(Inner {
                state: BreakerState::Closed,
                since: Timestamp::ZERO,
                until: Timestamp::ZERO,
                ejections: 0,
                open_trials: Vec::with_capacity(plan.trials.min(64) as usize),
                next_trial: 0,
                passed: 0,
                failures_in_a_row: 0,
            }),
        }
    }

    /// Whether it is closed, for the fast path: one load.
    #[inline]
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.away.load(Ordering::Relaxed) == 0
    }

    /// Where it stands now.
    #[must_use]
    pub fn state(&self, now: Timestamp) -> BreakerState {
        if self.is_closed() {
            return BreakerState::Closed;
        }
        self.moved(now).state
    }

    /// Ejects the endpoint, and returns until when; `None` when it is away already.
    pub fn trip(&self, now: Timestamp) -> Option<Timestamp> {
        let mut inner = self.moved(now);
        if matches!(inner.state, BreakerState::Open | BreakerState::HalfOpen) {
            return None;
        }
        self.open(&mut inner, now);
        Some(inner.until)
    }

    /// Ends an ejection early, as after an active check that passed: on to trials.
    pub fn try_early(&self, now: Timestamp) -> bool {
        if self.is_closed() {
            return false;
        }
        let mut inner = self.moved(now);
        let open = inner.state == BreakerState::Open;
        if open {
            half_open(&mut inner, now);
        }
        open
    }

    /// Lets a request in; `None` while the endpoint is away or has its trials out.
    #[inline]
    pub fn try_enter(&self, now: Timestamp) -> Option<Entry> {
        if self.is_closed() { Some(Entry::Normal) } else { self.enter_away(now) }
    }

    #[cold]
    fn enter_away(&self, now: Timestamp) -> Option<Entry> {
        let mut inner = self.moved(now);
        match inner.state {
            BreakerState::Closed | BreakerState::Returning => Some(Entry::Normal),
            BreakerState::Open => None,
            BreakerState::HalfOpen => {
                let timeout = self.plan.trial_timeout;
                inner.open_trials.retain(|(_, began)| now.since(*began) < timeout);
                if inner.open_trials.len() >= self.plan.trials as usize {
                    return None;
                }
                let number = inner.next_trial;
                inner.next_trial += 1;
                inner.open_trials.push((number, now));
                Some(Entry::Trial(number))
            }
        }
    }

    /// Takes in the end of a request: `Some(true)` for well, `Some(false)` for a failure, `None` for an end that
    /// says nothing of health. Returns the state when it changed.
    #[inline]
    pub fn on_end(&self, now: Timestamp, entry: Entry, well: Option<bool>) -> Option<BreakerState> {
        if self.is_closed() { None } else { self.end_away(now, entry, well) }
    }

    #[cold]
    fn end_away(&self, now: Timestamp, entry: Entry, well: Option<bool>) -> Option<BreakerState> {
        let mut inner = self.moved(now);
        let before = inner.state;
        match (inner.state, entry) {
            (BreakerState::HalfOpen, Entry::Trial(number)) => {
                let known = inner.open_trials.iter().position(|(other, _)| *other == number)?;
                inner.open_trials.swap_remove(known);
                match well {
                    Some(true) => {
                        inner.passed += 1;
                        if inner.passed >= self.plan.trials_to_pass {
                            inner.state = BreakerState::Returning;
                            (inner.since, inner.failures_in_a_row) = (now, 0);
                        }
                    }
                    Some(false) => self.open(&mut inner, now),
                    None => {}
                }
            }
            // Requests sent before the ejection say nothing about the return.
            (BreakerState::Returning, _) => match well {
                Some(true) => inner.failures_in_a_row = 0,
                Some(false) => {
                    inner.failures_in_a_row += 1;
                    if inner.failures_in_a_row >= self.plan.relapse {
                        self.open(&mut inner, now);
                    }
                }
                None => {}
            },
            _ => {}
        }
        (inner.state != before).then_some(inner.state)
    }

    /// The share of its usual traffic that the endpoint may have now, in [0, 1]. Half open it is
    /// `first_share`: trials are counted on entry.
    #[inline]
    #[must_use]
    pub fn share(&self, now: Timestamp) -> f64 {
        if self.is_closed() { 1.0 } else { self.share_away(now) }
    }

    #[cold]
    fn share_away(&self, now: Timestamp) -> f64 {
        let inner = self.moved(now);
        let first = self.plan.first_share;
        match inner.state {
            BreakerState::Closed => 1.0,
            BreakerState::Open => 0.0,
            BreakerState::HalfOpen => {
                let timeout = self.plan.trial_timeout;
                let out = inner.open_trials.iter().filter(|(_, began)| now.since(*began) < timeout).count();
                if out >= self.plan.trials as usize { 0.0 } else { first }
            }
            BreakerState::Returning => {
                let ramp = self.plan.ramp.as_secs_f64().max(1e-9);
                (first + (1.0 - first) * now.since(inner.since).as_secs_f64() / ramp).min(1.0)
            }
        }
    }

    /// Takes the steps that time alone brings.
    fn moved(&self, now: Timestamp) -> std::sync::MutexGuard<'_, Inner> {
        let mut inner = self.inner.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        match inner.state {
            BreakerState::Open if now >= inner.until => half_open(&mut inner, now),
            BreakerState::Returning if now.since(inner.since) >= self.plan.ramp => {
                inner.state = BreakerState::Closed;
                inner.since = now;
                self.away.store(0, Ordering::Relaxed);
            }
            _ => {}
        }
        inner
    }

    fn open(&self, inner: &mut Inner, now: Timestamp) {
        if inner.state == BreakerState::Closed {
            let healthy = now.since(inner.since).as_nanos();
            let decay = self.plan.decay.as_nanos().max(1);
            inner.ejections =
                inner.ejections.saturating_sub(u32::try_from(healthy / decay).unwrap_or(u32::MAX));
        }
        inner.ejections = inner.ejections.saturating_add(1);
        let factor = 1u32 << (inner.ejections - 1).min(24);
        inner.state = BreakerState::Open;
        inner.since = now;
        inner.until = now + self.plan.base.saturating_mul(factor).min(self.plan.max);
        self.away.store(1, Ordering::Relaxed);
    }
}

fn half_open(inner: &mut Inner, now: Timestamp) {
    inner.state = BreakerState::HalfOpen;
    inner.since = now;
    inner.passed = 0;
    inner.open_trials.clear();
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn at(milliseconds: u64) -> Timestamp {
        Timestamp::new(Duration::from_millis(milliseconds))
    }

    fn trial(breaker: &Breaker, now: Timestamp) -> Entry {
        let entry = breaker.try_enter(now).unwrap();
        assert!(matches!(entry, Entry::Trial(_)));
        entry
    }

    #[test]
    fn an_ejected_endpoint_returns_through_trials_and_a_growing_share() {
        let breaker = Breaker::new(BreakerPlan::default());
        assert_eq!(breaker.try_enter(at(0)), Some(Entry::Normal));
        assert_eq!(breaker.trip(at(0)), Some(at(5_000)));
        assert_eq!(breaker.trip(at(1)), None);
        assert_eq!((breaker.try_enter(at(4_999)), breaker.share(at(4_999))), (None, 0.0));
        let first = trial(&breaker, at(5_000));
        assert_eq!((breaker.try_enter(at(5_000)), breaker.share(at(5_000))), (None, 0.0));
        assert_eq!(breaker.on_end(at(5_100), first, Some(true)), None);
        let second = trial(&breaker, at(5_100));
        assert_eq!(breaker.on_end(at(5_200), second, Some(true)), Some(BreakerState::Returning));
        assert!((breaker.share(at(5_200)) - 0.1).abs() < 1e-12);
        assert!((breaker.share(at(12_700)) - 0.55).abs() < 1e-12);
        assert_eq!((breaker.share(at(20_200)), breaker.state(at(20_200))), (1.0, BreakerState::Closed));
    }

    #[test]
    fn ejections_double_up_to_the_longest_and_are_forgotten_in_time() {
        let breaker = Breaker::new(BreakerPlan { max: Duration::from_secs(15), ..BreakerPlan::default() });
        breaker.trip(at(0));
        let first = trial(&breaker, at(5_000));
        assert_eq!(breaker.on_end(at(5_000), first, Some(false)), Some(BreakerState::Open));
        assert_eq!(breaker.try_enter(at(14_999)), None);
        let second = trial(&breaker, at(15_000));
        breaker.on_end(at(15_000), second, Some(false));
        assert_eq!(breaker.try_enter(at(29_999)), None, "20 s are cut to 15 s");
        for _ in 0..2 {
            let passed = trial(&breaker, at(30_000));
            breaker.on_end(at(30_000), passed, Some(true));
        }
        assert_eq!(breaker.state(at(45_000)), BreakerState::Closed);
        // Three ejections less two of 60 s: the next is the second.
        assert_eq!(breaker.trip(at(45_000 + 120_000)), Some(at(165_000 + 10_000)));
    }

    #[test]
    fn a_relapse_while_returning_ejects_again_and_one_failure_is_no_relapse() {
        let breaker = Breaker::new(BreakerPlan::default());
        breaker.trip(at(0));
        for _ in 0..2 {
            let passed = trial(&breaker, at(5_000));
            breaker.on_end(at(5_000), passed, Some(true));
        }
        assert_eq!(breaker.on_end(at(6_000), Entry::Normal, Some(false)), None);
        assert_eq!(breaker.on_end(at(6_000), Entry::Normal, Some(true)), None);
        assert_eq!(breaker.on_end(at(6_000), Entry::Normal, Some(false)), None);
        assert_eq!(breaker.on_end(at(6_000), Entry::Normal, Some(false)), Some(BreakerState::Open));
    }

    #[test]
    fn a_trial_that_never_ends_does_not_block_for_ever() {
        let breaker = Breaker::new(BreakerPlan::default());
        breaker.trip(at(0));
        let lost = trial(&breaker, at(5_000));
        assert_eq!(breaker.try_enter(at(64_999)), None);
        let _ = trial(&breaker, at(65_000));
        assert_eq!(breaker.on_end(at(65_001), lost, Some(false)), None, "its end comes too late to count");
    }
}
