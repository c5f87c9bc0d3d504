//! Who serves a request that its backend cannot?
//!
//! A route names backends to turn to, in order. Each is a [`Fallback`]: the causes for which it takes requests, and a
//! budget of how many, so that the failure of a large backend does not travel down the chain to a small one: in any
//! `window`, requests that come here ≤ `ratio` · requests of the route + `min_per_second` · window, and at most
//! `max_in_flight` at once. An endpoint that a request was sent to is not asked again, so there are no circles.

use traflux_core::Timestamp;
use traflux_core::plan::retry::BudgetPlan;
use traflux_core::plan::routing::{FallbackCause, FallbackPlan};

use super::budget::{RetryBudget, RetryTicket};
use crate::outcome::Outcome;

/// What the end of an attempt amounts to; `None` where another backend would do no better.
#[must_use]
pub const fn fallback_cause(outcome: Outcome) -> Option<FallbackCause> {
    match outcome {
        Outcome::ServerError | Outcome::GatewayError | Outcome::ConnectFailure | Outcome::Reset => {
            Some(FallbackCause::Failed)
        }
        Outcome::Timeout => Some(FallbackCause::Timeout),
        Outcome::Limited | Outcome::PoolFull => Some(FallbackCause::Capacity),
        Outcome::Success | Outcome::ClientError | Outcome::LocalTimeout | Outcome::Cancelled => None,
    }
}

/// The way to a backend that stands in for others.
///
/// ```
/// use traflux_core::Timestamp;
/// use traflux_core::plan::routing::{FallbackBudget, FallbackCause, FallbackPlan};
/// use traflux_gateway::retry::Fallback;
///
/// let budget = FallbackBudget { ratio: 0.2, min_per_second: 0.0, ..FallbackBudget::default() };
/// let plan = FallbackPlan { backend: "small".into(), on: vec![FallbackCause::Failed], budget: Some(budget) };
/// let (fallback, now) = (Fallback::new(&plan), Timestamp::ZERO);
/// (0..5).for_each(|_| fallback.request(now));
/// assert!(!fallback.takes(FallbackCause::Capacity));
/// let leave = fallback.try_enter(now).expect("a fifth of five");
/// assert!(fallback.try_enter(now).is_none());
/// fallback.leave(leave);
/// ```
#[derive(Debug)]
pub struct Fallback {
    plan: FallbackPlan,
    budget: Option<RetryBudget>,
}

/// Leave for one request in flight. Give it back by [`Fallback::leave`], or by [`Fallback::give_back`] when nothing was
/// sent.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "leave that is not given back counts as a request in flight for ever"]
pub struct FallbackLeave(Option<RetryTicket>);

impl Fallback {
    /// One that nobody has turned to yet.
    #[must_use]
    pub fn new(plan: &FallbackPlan) -> Self {
        let budget = plan.budget.map(|budget| {
            RetryBudget::new(BudgetPlan {
                window: budget.window,
                ratio: budget.ratio,
                min_per_second: budget.min_per_second,
                concurrency_share: 0.0,
                min_concurrency: budget.max_in_flight.unwrap_or(u32::MAX),
            })
        });
        Self { plan: plan.clone(), budget }
    }

    /// What it was made of.
    #[must_use]
    pub const fn plan(&self) -> &FallbackPlan {
        &self.plan
    }

    /// Counts a request of the route.
    #[inline]
    pub fn request(&self, now: Timestamp) {
        if let Some(budget) = &self.budget {
            budget.request(now);
        }
    }

    /// Whether requests may come here for a cause.
    #[must_use]
    pub fn takes(&self, cause: FallbackCause) -> bool {
        self.plan.on.is_empty() || self.plan.on.contains(&cause)
    }

    /// Asks for leave for one request; `None` when the budget is spent.
    pub fn try_enter(&self, now: Timestamp) -> Option<FallbackLeave> {
        match &self.budget {
            None => Some(FallbackLeave(None)),
            Some(budget) => budget.try_retry(now, 0).map(|ticket| FallbackLeave(Some(ticket))),
        }
    }

    /// Takes back the leave of a request that has ended.
    pub fn leave(&self, leave: FallbackLeave) {
        if let (Some(budget), Some(ticket)) = (&self.budget, leave.0) {
            budget.finish(ticket);
        }
    }

    /// Takes back the leave of a request that was never sent, which then costs nothing.
    pub fn give_back(&self, leave: FallbackLeave) {
        if let (Some(budget), Some(ticket)) = (&self.budget, leave.0) {
            budget.give_back(ticket);
        }
    }
}

#[cfg(test)]
mod tests {
    use traflux_core::plan::routing::FallbackBudget;

    use super::*;

    fn fallback(budget: FallbackBudget) -> Fallback {
        Fallback::new(&FallbackPlan { backend: "b".into(), on: Vec::new(), budget: Some(budget) })
    }

    #[test]
    fn a_backend_that_stands_in_takes_no_more_than_its_budget_of_the_route() {
        let fallback =
            fallback(FallbackBudget { ratio: 0.3, min_per_second: 2.0, ..FallbackBudget::default() });
        (0..1000).for_each(|_| fallback.request(Timestamp::ZERO));
        let taken = (0..2000).filter_map(|_| fallback.try_enter(Timestamp::ZERO)).count();
        // 0.3 · 1000, and 2 per second of a window of 10 s.
        assert_eq!(taken, 320);
    }

    #[test]
    fn what_was_never_sent_costs_nothing_and_what_has_ended_makes_room() {
        let fallback = fallback(FallbackBudget {
            ratio: 0.0,
            min_per_second: 0.2,
            max_in_flight: Some(1),
            ..FallbackBudget::default()
        });
        let now = Timestamp::ZERO;
        for _ in 0..10 {
            let leave = fallback.try_enter(now).unwrap();
            assert_eq!(fallback.try_enter(now), None, "one at a time");
            fallback.give_back(leave);
        }
        for _ in 0..2 {
            let leave = fallback.try_enter(now).unwrap();
            fallback.leave(leave);
        }
        assert_eq!(fallback.try_enter(now), None, "two per window");
    }
}
