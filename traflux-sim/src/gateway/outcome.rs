//! How did it go?

use std::collections::BTreeMap;

use super::arrival::Arrival;
use super::scenario::Scenario;

/// What a request that was not answered counts as among latencies, in seconds.
pub const UNANSWERED_SECONDS: f64 = 60.0;

/// What became of a request. Times are seconds since it was first asked.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Fate {
    /// To the first token.
    pub first_token: Option<f64>,
    /// To the end of the answer.
    pub total: Option<f64>,
    /// How often it was sent to a backend.
    pub attempts: u32,
    /// Why it was refused last, if ever.
    pub refused: Option<&'static str>,
}

/// One run.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// Requests that came after the warm-up.
    pub asked: usize,
    /// Those without an answer.
    pub unanswered: usize,
    /// Times to first token of all, [`UNANSWERED_SECONDS`] where there was none, in rising order.
    pub first_token: Vec<f64>,
    /// Times to the end, likewise.
    pub total: Vec<f64>,
    /// Those that were complete at their deadline; without one, all that were answered.
    pub in_time: usize,
    /// Work of answers that came in time, ended after the warm-up and before the last request, over capacity.
    pub goodput: f64,
    /// The same in requests, over the requests of capacity.
    pub goodput_requests: f64,
    /// Work by tenant that ended in that time, in time or not, over capacity.
    pub work: Vec<f64>,
    /// Work by tenant that was asked for in that time, over capacity.
    pub wanted: Vec<f64>,
    /// Attempts per request.
    pub attempts: f64,
    /// Requests without an answer by the reason of their last refusal.
    pub refusals: BTreeMap<&'static str, usize>,
}

impl Outcome {
    pub(super) fn new(scenario: &Scenario, arrivals: &[Arrival], fates: &[Fate]) -> Self {
        let (from, until) = (scenario.warm_up, scenario.seconds);
        let capacity = scenario.capacity() * (until - from);
        let mut outcome = Self {
            asked: 0,
            unanswered: 0,
            first_token: Vec::new(),
            total: Vec::new(),
            in_time: 0,
            goodput: 0.0,
            goodput_requests: 0.0,
            work: vec![0.0; scenario.tenants.len()],
            wanted: vec![0.0; scenario.tenants.len()],
            attempts: 0.0,
            refusals: BTreeMap::new(),
        };
        let mean_work = arrivals.iter().map(Arrival::work).sum::<f64>() / arrivals.len().max(1) as f64;
        for (arrival, fate) in arrivals.iter().zip(fates) {
            let end = fate.total.map(|total| arrival.at + total);
            let in_time = end.is_some_and(|end| arrival.deadline.is_none_or(|deadline| end <= deadline));
            if end.is_some_and(|end| (from..until).contains(&end)) {
                let work = arrival.work() / capacity;
                outcome.work[arrival.tenant] += work;
                if in_time {
                    outcome.goodput += work;
                    outcome.goodput_requests += mean_work / capacity;
                }
            }
            if arrival.at < from {
                continue;
            }
            outcome.asked += 1;
            outcome.wanted[arrival.tenant] += arrival.work() / capacity;
            outcome.in_time += usize::from(in_time);
            if end.is_none() {
                outcome.unanswered += 1;
                *outcome.refusals.entry(fate.refused.unwrap_or("still waiting")).or_default() += 1;
            }
            outcome.attempts += f64::from(fate.attempts);
            let or_not =
                |seconds: Option<f64>| seconds.filter(|_| end.is_some()).unwrap_or(UNANSWERED_SECONDS);
            outcome.first_token.push(or_not(fate.first_token));
            outcome.total.push(or_not(fate.total));
        }
        outcome.attempts /= outcome.asked.max(1) as f64;
        outcome.first_token.sort_by(f64::total_cmp);
        outcome.total.sort_by(f64::total_cmp);
        outcome
    }
}

/// The `q`-quantile of numbers in rising order: the least that a share `q` does not exceed; 0 of none.
#[must_use]
pub fn quantile(sorted: &[f64], q: f64) -> f64 {
    let rank = (q * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.max(1).min(sorted.len()).wrapping_sub(1)).copied().unwrap_or(0.0)
}
