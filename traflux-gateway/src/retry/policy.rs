//! What follows a failed attempt?
//!
//! [`decide`] is a function of the plan and the attempt alone; leave to retry comes from a
//! [`RetryBudget`](super::RetryBudget) apart. In order, an attempt is not repeated when
//! 1. the client has seen the first byte of an answer (a second answer cannot continue the first),
//! 2. it succeeded, or failed in a way that would repeat itself or is not asked to be retried,
//! 3. the backend may have acted on it and acting twice would do harm,
//! 4. attempts are used up, the wait is beyond patience, or would outlast the deadline.
//!
//! The wait is `random · min(max, base · 2^(attempt − 1))`, uniform in [0, 1): "full jitter" (M. Brooker,
//! "Exponential backoff and jitter", AWS, 2015). A wait the backend stated is never cut short.

use std::time::Duration;

use traflux_core::plan::retry::RetryPlan;

use crate::outcome::Outcome;
use crate::units::unit_draw;

/// How far an attempt got.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Progress {
    /// Nothing of it reached the backend.
    Unsent,
    /// Some or all of the request was sent.
    Sent,
    /// The first byte of the answer was passed on to the client.
    Streaming,
}

/// Whether acting twice on a request does harm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Idempotence {
    /// Never: a safe or idempotent method, a model asked for text, a request with an idempotency key.
    Idempotent,
    /// It may.
    NonIdempotent,
}

impl Idempotence {
    /// What RFC 9110 §9.2.2 says of a method; an idempotency key makes any request idempotent.
    #[must_use]
    pub fn of_method(method: &str, has_idempotency_key: bool) -> Self {
        let idempotent = ["GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"];
        if has_idempotency_key || idempotent.contains(&method) {
            Self::Idempotent
        } else {
            Self::NonIdempotent
        }
    }
}

/// A finished attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attempt {
    /// Its number, the first being 1.
    pub number: u32,
    /// How it ended.
    pub outcome: Outcome,
    /// How far it got.
    pub progress: Progress,
    /// Whether acting twice does harm.
    pub idempotence: Idempotence,
    /// The wait the backend stated.
    pub retry_after: Option<Duration>,
    /// Whether the backend said to retry, or not to.
    pub should_retry: Option<bool>,
    /// Time left for the whole request; `None` without a deadline.
    pub time_left: Option<Duration>,
    /// Whether another endpoint could take it at once.
    pub elsewhere: bool,
}

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum RetryDecision {
    /// Try again after a wait, given leave by a budget.
    Retry {
        /// How long to wait.
        after: Duration,
        /// Whether to avoid the endpoint that failed.
        elsewhere: bool,
    },
    /// Return what there is.
    Stop(StopReason),
}

/// Why an attempt was the last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum StopReason {
    /// There is nothing to retry.
    Done,
    /// The client has part of an answer.
    Streaming,
    /// Such ends are not retried.
    NotRetryable,
    /// The backend asked not to be retried.
    Unwanted,
    /// It may have been acted on, and must not be twice.
    NotIdempotent,
    /// Attempts are used up.
    Attempts,
    /// The stated wait is longer than patience.
    Patience,
    /// The wait would outlast the deadline.
    Deadline,
}

impl StopReason {
    /// Its name in metrics and logs.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Streaming => "streaming",
            Self::NotRetryable => "not_retryable",
            Self::Unwanted => "unwanted",
            Self::NotIdempotent => "not_idempotent",
            Self::Attempts => "attempts",
            Self::Patience => "patience",
            Self::Deadline => "deadline",
        }
    }
}

/// What follows an attempt. `draw` is 64 random bits.
///
/// ```
/// use std::time::Duration;
/// use traflux_gateway::health::Outcome;
/// use traflux_gateway::retry::{Attempt, Idempotence, Progress, RetryDecision, RetryPlan, StopReason, decide};
///
/// let attempt = Attempt {
///     number: 1,
///     outcome: Outcome::Reset,
///     progress: Progress::Streaming,
///     idempotence: Idempotence::Idempotent,
///     retry_after: None,
///     should_retry: None,
///     time_left: None,
///     elsewhere: true,
/// };
/// let plan = RetryPlan::default();
/// assert_eq!(decide(&plan, &attempt, 0), RetryDecision::Stop(StopReason::Streaming));
/// let before = Attempt { progress: Progress::Sent, ..attempt };
/// assert_eq!(decide(&plan, &before, 0), RetryDecision::Retry { after: Duration::ZERO, elsewhere: true });
/// ```
pub fn decide(plan: &RetryPlan, attempt: &Attempt, draw: u64) -> RetryDecision {
    let stop = |reason| RetryDecision::Stop(reason);
    if attempt.progress == Progress::Streaming {
        return stop(StopReason::Streaming);
    }
    let asked_for = attempt.should_retry == Some(true) && attempt.outcome.is_failure();
    match attempt.outcome {
        Outcome::Success => return stop(StopReason::Done),
        outcome if outcome.retry_cause().is_some_and(|cause| plan.retry_on.contains(&cause)) || asked_for => {
        }
        _ => return stop(StopReason::NotRetryable),
    }
    if attempt.should_retry == Some(false) && !attempt.elsewhere {
        return stop(StopReason::Unwanted);
    }
    // A refusal was not acted on, and neither was what was never sent.
    let untouched = attempt.progress == Progress::Unsent
        || matches!(attempt.outcome, Outcome::Limited | Outcome::ConnectFailure | Outcome::PoolFull);
    if !untouched && attempt.idempotence == Idempotence::NonIdempotent && !asked_for {
        return stop(StopReason::NotIdempotent);
    }
    if attempt.number >= plan.max_attempts {
        return stop(StopReason::Attempts);
    }
    let bound = plan.base.saturating_mul(1 << attempt.number.saturating_sub(1).min(20)).min(plan.max);
    let jitter = bound.mul_f64(unit_draw(draw));
    let after = match attempt.retry_after {
        // Another endpoint need not wait for what this one stated.
        Some(_) if attempt.elsewhere => jitter,
        Some(stated) if stated > plan.patience => return stop(StopReason::Patience),
        Some(stated) => stated.saturating_add(jitter),
        None => jitter,
    };
    if attempt.time_left.is_some_and(|left| after >= left) {
        return stop(StopReason::Deadline);
    }
    RetryDecision::Retry { after, elsewhere: attempt.elsewhere }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ATTEMPT: Attempt = Attempt {
        number: 1,
        outcome: Outcome::GatewayError,
        progress: Progress::Sent,
        idempotence: Idempotence::Idempotent,
        retry_after: None,
        should_retry: None,
        time_left: None,
        elsewhere: false,
    };

    fn stops(attempt: Attempt) -> Option<StopReason> {
        match decide(&RetryPlan::default(), &attempt, u64::MAX) {
            RetryDecision::Stop(reason) => Some(reason),
            RetryDecision::Retry { .. } => None,
        }
    }

    #[test]
    fn what_may_have_been_acted_on_is_repeated_only_if_that_does_no_harm() {
        let risky = Attempt { idempotence: Idempotence::NonIdempotent, ..ATTEMPT };
        assert_eq!(stops(ATTEMPT), None);
        assert_eq!(stops(risky), Some(StopReason::NotIdempotent));
        assert_eq!(stops(Attempt { progress: Progress::Unsent, ..risky }), None);
        assert_eq!(stops(Attempt { outcome: Outcome::Limited, ..risky }), None);
        assert_eq!(Idempotence::of_method("POST", false), Idempotence::NonIdempotent);
        assert_eq!(Idempotence::of_method("POST", true), Idempotence::Idempotent);
        assert_eq!(Idempotence::of_method("DELETE", false), Idempotence::Idempotent);
    }

    #[test]
    fn a_stated_wait_is_kept_within_patience_and_not_needed_elsewhere() {
        let limited =
            Attempt { outcome: Outcome::Limited, retry_after: Some(Duration::from_secs(2)), ..ATTEMPT };
        let RetryDecision::Retry { after, .. } = decide(&RetryPlan::default(), &limited, 0) else {
            panic!("within patience")
        };
        assert_eq!(after, Duration::from_secs(2));
        let longer = Attempt { retry_after: Some(Duration::from_secs(3)), ..limited };
        assert_eq!(stops(longer), Some(StopReason::Patience));
        assert_eq!(stops(Attempt { elsewhere: true, ..longer }), None);
        assert_eq!(
            stops(Attempt { time_left: Some(Duration::from_secs(2)), ..limited }),
            Some(StopReason::Deadline)
        );
    }

    #[test]
    fn waits_grow_by_powers_of_two_up_to_the_largest() {
        let plan = RetryPlan { max_attempts: 50, ..RetryPlan::default() };
        let longest = |number| match decide(&plan, &Attempt { number, ..ATTEMPT }, u64::MAX) {
            RetryDecision::Retry { after, .. } => after.as_secs_f64(),
            RetryDecision::Stop(_) => f64::NAN,
        };
        for (number, bound) in [(1, 0.05), (2, 0.1), (3, 0.2), (7, 2.0), (49, 2.0)] {
            assert!((longest(number) - bound).abs() < 1e-6, "{number}");
        }
        assert_eq!(stops(Attempt { number: 3, ..ATTEMPT }), Some(StopReason::Attempts));
    }

    #[test]
    fn other_ends_are_not_retried() {
        for outcome in [Outcome::ClientError, Outcome::Cancelled, Outcome::LocalTimeout, Outcome::Timeout] {
            assert_eq!(stops(Attempt { outcome, ..ATTEMPT }), Some(StopReason::NotRetryable), "{outcome:?}");
        }
        assert_eq!(stops(Attempt { outcome: Outcome::Success, ..ATTEMPT }), Some(StopReason::Done));
        assert_eq!(stops(Attempt { should_retry: Some(false), ..ATTEMPT }), Some(StopReason::Unwanted));
        let wanted = Attempt { outcome: Outcome::Timeout, should_retry: Some(true), ..ATTEMPT };
        assert_eq!(stops(wanted), None);
    }
}
