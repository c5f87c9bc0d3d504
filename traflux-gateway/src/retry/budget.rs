//! How many more requests may retries cost?
//!
//! Two bounds, both of which must hold:
//!
//! - in any `window`, retries ≤ `ratio` · requests + `min_per_second` · window (Finagle's and tower's retry
//!   budget; where traffic is thin the second term lets single failures be retried);
//! - at any time, retries in flight ≤ max(`min_concurrency`, `concurrency_share` · requests in flight) (Envoy's
//!   retry budget), which holds when everything is slow and rates alone say little.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

use traflux_core::Timestamp;
use traflux_core::plan::retry::BudgetPlan;

use crate::congestion::sliding::Sliding;

const BUCKETS: usize = 10;
const REQUESTS: usize = 0;
const RETRIES: usize = 1;

/// Leave for one retry in flight. Give it back by [`RetryBudget::finish`].
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a ticket not given back counts as a retry in flight for ever"]
pub struct RetryTicket(());

/// A budget shared by all retries, hedges or fall-backs towards one backend.
///
/// ```
/// use traflux_core::Timestamp;
/// use traflux_gateway::retry::{BudgetPlan, RetryBudget};
///
/// let budget = RetryBudget::new(BudgetPlan { min_per_second: 0.0, ..BudgetPlan::default() });
/// let now = Timestamp::ZERO;
/// (0..10).for_each(|_| budget.request(now));
/// let first = budget.try_retry(now, 10).unwrap();
/// let second = budget.try_retry(now, 10).unwrap();
/// assert!(budget.try_retry(now, 10).is_none(), "a fifth of ten");
/// budget.finish(first);
/// budget.finish(second);
/// ```
#[derive(Debug)]
pub struct RetryBudget {
    plan: BudgetPlan,
    /// `min_per_second · window`.
    reserve: f64,
    counts: Sliding,
    /// Relaxed: a count of its own.
    in_flight: AtomicU32,
    /// Makes checking and taking one step.
    taking: Mutex<()>,
}

impl RetryBudget {
    /// An unused one.
    #[must_use]
    pub fn new(plan: BudgetPlan) -> Self {
        Self {
            plan,
            reserve: plan.min_per_second * plan.window.as_secs_f64(),
            counts: Sliding::new(plan.window, BUCKETS, 2),
            in_flight: AtomicU32::new(0),
            taking: Mutex::new(()),
        }
    }

    /// Counts a request's first attempt.
    #[inline]
    pub fn request(&self, now: Timestamp) {
        self.counts.advance(now);
        self.counts.add(REQUESTS, 1);
    }

    /// Asks for leave to send one more attempt, with so many requests (retries included) in flight.
    pub fn try_retry(&self, now: Timestamp, requests_in_flight: u32) -> Option<RetryTicket> {
        let _taking = self.taking.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        self.counts.advance(now);
        let allowed = self.plan.ratio * self.counts.total(REQUESTS) as f64 + self.reserve;
        let share = (self.plan.concurrency_share * f64::from(requests_in_flight)) as u32;
        let most = share.max(self.plan.min_concurrency);
        // A hair more: 0.2 · 5 is to be 1.
        if (self.counts.total(RETRIES) + 1) as f64 > allowed + 1e-9
            || self.in_flight.load(Ordering::Relaxed) >= most
        {
            return None;
        }
        self.counts.add(RETRIES, 1);
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        Some(RetryTicket(()))
    }

    /// Takes back the ticket of an attempt that was never sent: it costs nothing.
    pub fn give_back(&self, ticket: RetryTicket) {
        let _taking = self.taking.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        self.counts.take_back(RETRIES);
        self.finish(ticket);
    }

    /// Takes back the ticket of an attempt that ended.
    pub fn finish(&self, ticket: RetryTicket) {
        let RetryTicket(()) = ticket;
        let _ = self
            .in_flight
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |retries| Some(retries.saturating_sub(1)));
    }

    /// Retries in flight.
    #[must_use]
    pub fn in_flight(&self) -> u32 {
        self.in_flight.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn at(milliseconds: u64) -> Timestamp {
        Timestamp::new(Duration::from_millis(milliseconds))
    }

    #[test]
    fn thin_traffic_may_retry_by_the_reserve() {
        let budget = RetryBudget::new(BudgetPlan::default());
        let granted = (0..100).filter_map(|_| budget.try_retry(at(0), 0)).count();
        assert_eq!(granted, 3, "three at once");
        let budget = RetryBudget::new(BudgetPlan { min_concurrency: 100, ..BudgetPlan::default() });
        let granted = (0..100).filter_map(|_| budget.try_retry(at(0), 0)).count();
        assert_eq!(granted, 10, "one per second of the window");
        assert!(budget.try_retry(at(9_000), 0).is_none());
        assert!(budget.try_retry(at(10_000), 0).is_some());
    }

    #[test]
    fn under_threads_no_more_is_granted_than_the_budget_holds() {
        let plan = BudgetPlan { min_per_second: 0.0, min_concurrency: 1000, ..BudgetPlan::default() };
        let budget = RetryBudget::new(plan);
        let granted: usize = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|_| {
                    scope.spawn(|| {
                        (0..1000)
                            .filter(|_| {
                                budget.request(at(1));
                                budget.try_retry(at(1), 0).map(|ticket| budget.finish(ticket)).is_some()
                            })
                            .count()
                    })
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        assert_eq!(granted, 800);
        assert_eq!(budget.in_flight(), 0);
    }
}
