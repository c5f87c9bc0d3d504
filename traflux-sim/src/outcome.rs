//! How did a run go?
//!
//! Statistics are those of clients: every request that came is counted once it ended, by the moment it was
//! sent. A request that failed counts in the error ratio, and in latencies with the client's timeout, so
//! that fast failures do not look like speed.

use serde::{Deserialize, Serialize};
use traflux_core::{Latency, Reward, RewardWeights, UnitPrice};

use crate::histogram::LatencyHistogram;

/// A minute with more failures than this violates the objective.
const ERROR_BUDGET: f64 = 1e-3;

/// What came out of one run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// How the fleet was routed.
    pub arm: String,
    /// Name of the scenario.
    pub scenario: String,
    /// Seed of the run.
    pub seed: u64,
    /// Requests that ended.
    pub requests: u64,
    /// Those of them that failed, timeouts included.
    pub failed: u64,
    /// Those of them that timed out.
    pub timed_out: u64,
    /// Mean latency.
    pub mean: Latency,
    /// Median.
    pub p50: Latency,
    /// 95th percentile.
    pub p95: Latency,
    /// 99th percentile.
    pub p99: Latency,
    /// Share of requests that failed, in [0, 1].
    pub error_ratio: f64,
    /// Share of requests that failed or took longer than the objective, in [0, 1].
    pub slo_miss_ratio: f64,
    /// Minutes whose 95th percentile exceeds the objective or in which more than 0.1 % failed.
    pub slo_violation_minutes: u32,
    /// Provisioned compute, in dollars.
    pub compute_usd: f64,
    /// Egress and charges per request, in dollars.
    pub marginal_usd: f64,
    /// Both, per million requests.
    pub billed_price: UnitPrice,
    /// Egress and charges per request, per million requests.
    pub marginal_price: UnitPrice,
    /// Traffic that changed endpoint from one minute to the next, in whole fleets per minute.
    pub churn_per_minute: f64,
    /// Weights in force that changed, in whole fleets per minute.
    pub weight_churn_per_minute: f64,
    /// Largest work offered to an endpoint in a minute over what its slots can do.
    pub max_utilization: f64,
    /// By minute.
    pub minutes: Vec<Minute>,
    /// By event of the scenario, and at the end the quiet rest.
    pub windows: Vec<WindowOutcome>,
}

/// One minute, or what of it was left at the end.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Minute {
    /// Its beginning, in seconds.
    pub start_s: f64,
    /// Its length, in seconds.
    pub length_s: f64,
    /// Requests that ended.
    pub requests: u64,
    /// Those of them that failed.
    pub failed: u64,
    /// Those of them that failed or were slower than the objective.
    pub missed: u64,
    /// Mean latency.
    pub mean: Latency,
    /// 95th percentile.
    pub p95: Latency,
    /// Compute and egress, in dollars.
    pub billed_usd: f64,
    /// Egress and charges per request, in dollars.
    pub marginal_usd: f64,
    /// Share of the requests sent that went to each endpoint, in [0, 1].
    pub shares: Vec<f64>,
    /// Work offered to each endpoint over what its slots could do.
    pub utilization: Vec<f64>,
    /// Traffic that changed endpoint since the minute before, in whole fleets.
    pub churn: f64,
    /// The fleet's reward of this minute, at default weights.
    pub reward: f64,
}

/// What came out during one event.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WindowOutcome {
    /// Name of the process, or `quiet`.
    pub name: String,
    /// Beginnings and ends, in seconds; empty for the quiet rest.
    pub spans: Vec<(f64, f64)>,
    /// Requests sent in it.
    pub requests: u64,
    /// Mean latency.
    pub mean: Latency,
    /// 95th percentile.
    pub p95: Latency,
    /// Share that failed, in [0, 1].
    pub error_ratio: f64,
    /// Share that failed or was slower than the objective, in [0, 1].
    pub slo_miss_ratio: f64,
}

/// Name of the window that holds all time without an event.
pub const QUIET: &str = "quiet";

impl Outcome {
    /// The window of a name.
    #[must_use]
    pub fn window(&self, name: &str) -> Option<&WindowOutcome> {
        self.windows.iter().find(|w| w.name == name)
    }

    /// Everything that is paid, in dollars.
    #[must_use]
    pub fn billed_usd(&self) -> f64 {
        self.compute_usd + self.marginal_usd
    }
}

/// Counts while a run goes on.
#[derive(Debug, Clone)]
pub(crate) struct Recorder {
    slo_ns: u64,
    timeout_ns: u64,
    sources: usize,
    endpoints: usize,
    total: Tally,
    timed_out: u64,
    segments: Vec<(Vec<u16>, Tally)>,
    segment: u32,
    compute_usd: f64,
    marginal_usd: f64,
    weight_churn: f64,
    minute: Tally,
    minute_start: u64,
    minute_compute_usd: f64,
    minute_marginal_usd: f64,
    /// Requests sent this minute and the minute before, source by source × endpoint.
    sent: Vec<u64>,
    sent_before: Vec<u64>,
    /// Seconds of work offered to each endpoint this minute, and seconds its slots had.
    work_s: Vec<f64>,
    slots_s: Vec<f64>,
    minutes: Vec<Minute>,
}

#[derive(Debug, Clone, Default)]
struct Tally {
    latency: LatencyHistogram,
    failed: u64,
    missed: u64,
}

impl Tally {
    #[inline]
    fn record(&mut self, nanos: u64, failed: bool, missed: bool) {
        self.latency.record_nanos(nanos);
        self.failed += u64::from(failed);
        self.missed += u64::from(missed);
    }

    fn merge(&mut self, other: &Self) {
        self.latency.merge(&other.latency);
        self.failed += other.failed;
        self.missed += other.missed;
    }

    fn clear(&mut self) {
        self.latency.clear();
        self.failed = 0;
        self.missed = 0;
    }
}

fn ratio(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

impl Recorder {
    pub(crate) fn new(slo_ns: u64, timeout_ns: u64, sources: usize, endpoints: usize) -> Self {
        Self {
            slo_ns,
            timeout_ns,
            sources,
            endpoints,
            total: Tally::default(),
            timed_out: 0,
            segments: Vec::new(),
            segment: 0,
            compute_usd: 0.0,
            marginal_usd: 0.0,
            weight_churn: 0.0,
            minute: Tally::default(),
            minute_start: 0,
            minute_compute_usd: 0.0,
            minute_marginal_usd: 0.0,
            sent: vec![0; sources * endpoints],
            sent_before: vec![0; sources * endpoints],
            work_s: vec![0.0; endpoints],
            slots_s: vec![0.0; endpoints],
            minutes: Vec::new(),
        }
    }

    /// From here on the given windows are open.
    pub(crate) fn enter(&mut self, open: Vec<u16>) {
        let known = self.segments.iter().position(|(windows, _)| *windows == open);
        self.segment = known.unwrap_or_else(|| {
            self.segments.push((open, Tally::default()));
            self.segments.len() - 1
        }) as u32;
    }

    /// The segment that requests sent now belong to.
    #[inline]
    pub(crate) fn segment(&self) -> u32 {
        self.segment
    }

    #[inline]
    pub(crate) fn sent(&mut self, source: usize, endpoint: usize) {
        self.sent[source * self.endpoints + endpoint] += 1;
    }

    /// A request ended for its client.
    #[inline]
    pub(crate) fn ended(&mut self, segment: u32, nanos: u64, failed: bool, timed_out: bool) {
        let nanos = if failed { self.timeout_ns } else { nanos };
        let missed = failed || nanos > self.slo_ns;
        self.total.record(nanos, failed, missed);
        self.minute.record(nanos, failed, missed);
        self.segments[segment as usize].1.record(nanos, failed, missed);
        self.timed_out += u64::from(timed_out);
    }

    #[inline]
    pub(crate) fn offered(&mut self, endpoint: usize, seconds: f64) {
        self.work_s[endpoint] += seconds;
    }

    #[inline]
    pub(crate) fn paid_per_request(&mut self, usd: f64) {
        self.marginal_usd += usd;
        self.minute_marginal_usd += usd;
    }

    pub(crate) fn provisioned(&mut self, endpoint: usize, slot_seconds: f64, usd: f64) {
        self.slots_s[endpoint] += slot_seconds;
        self.compute_usd += usd;
        self.minute_compute_usd += usd;
    }

    pub(crate) fn moved_weights(&mut self, fleets: f64) {
        self.weight_churn += fleets;
    }

    pub(crate) fn totals(&self) -> (u64, u64) {
        (self.total.latency.count(), self.total.failed)
    }

    pub(crate) fn end_minute(&mut self, now: u64) {
        let requests = self.minute.latency.count();
        let length_s = (now - self.minute_start) as f64 * 1e-9;
        if length_s <= 0.0 {
            return;
        }
        let churn = self.churn_since_last_minute();
        let all: u64 = self.sent.iter().sum();
        let shares = (0..self.endpoints)
            .map(|e| ratio((0..self.sources).map(|s| self.sent[s * self.endpoints + e]).sum(), all))
            .collect();
        let utilization = self
            .work_s
            .iter()
            .zip(&self.slots_s)
            .map(|(work, slots)| if *slots > 0.0 { work / slots } else { 0.0 })
            .collect();
        let mean = self.minute.latency.mean();
        let per_million = if all == 0 { 0.0 } else { self.minute_marginal_usd / all as f64 * 1e6 };
        let weights = RewardWeights::default();
        let reward = Reward::from_terms([
            ("latency", -weights.latency * mean.as_secs() / 0.1),
            ("errors", -weights.errors * ratio(self.minute.failed, requests)),
            ("price", -weights.price * per_million),
            ("churn", -weights.churn * churn),
        ]);
        self.minutes.push(Minute {
            start_s: self.minute_start as f64 * 1e-9,
            length_s,
            requests,
            failed: self.minute.failed,
            missed: self.minute.missed,
            mean,
            p95: self.minute.latency.quantile(0.95),
            billed_usd: self.minute_compute_usd + self.minute_marginal_usd,
            marginal_usd: self.minute_marginal_usd,
            shares,
            utilization,
            churn,
            reward: reward.total,
        });
        self.minute.clear();
        self.minute_start = now;
        self.minute_compute_usd = 0.0;
        self.minute_marginal_usd = 0.0;
        std::mem::swap(&mut self.sent, &mut self.sent_before);
        self.sent.fill(0);
        self.work_s.fill(0.0);
        self.slots_s.fill(0.0);
    }

    /// Half the L1 distance of each source's shares, averaged over the sources that sent in both minutes.
    fn churn_since_last_minute(&self) -> f64 {
        let (mut churn, mut counted) = (0.0, 0.0);
        for source in 0..self.sources {
            let row = source * self.endpoints..(source + 1) * self.endpoints;
            let (now, before) = (&self.sent[row.clone()], &self.sent_before[row]);
            let (n, b) = (now.iter().sum::<u64>(), before.iter().sum::<u64>());
            if n > 0 && b > 0 {
                churn += 0.5
                    * now.iter().zip(before).map(|(x, y)| (ratio(*x, n) - ratio(*y, b)).abs()).sum::<f64>();
                counted += 1.0;
            }
        }
        if counted > 0.0 { churn / counted } else { 0.0 }
    }

    pub(crate) fn outcome(
        &self,
        arm: &str,
        scenario: &str,
        seed: u64,
        windows: &[crate::condition::WindowSpan],
        elapsed_s: f64,
    ) -> Outcome {
        let total = &self.total;
        let requests = total.latency.count();
        let per_million =
            |usd: f64| UnitPrice::saturating(if requests == 0 { 0.0 } else { usd / requests as f64 * 1e6 });
        let window = |name: &str, spans: &[(f64, f64)], inside: &dyn Fn(&[u16]) -> bool| {
            let mut tally = Tally::default();
            for (_, segment) in self.segments.iter().filter(|(open, _)| inside(open)) {
                tally.merge(segment);
            }
            let count = tally.latency.count();
            WindowOutcome {
                name: name.to_owned(),
                spans: spans.to_vec(),
                requests: count,
                mean: tally.latency.mean(),
                p95: tally.latency.quantile(0.95),
                error_ratio: ratio(tally.failed, count),
                slo_miss_ratio: ratio(tally.missed, count),
            }
        };
        let mut results: Vec<_> = windows
            .iter()
            .enumerate()
            .map(|(ix, w)| window(&w.name, &w.spans, &|open: &[u16]| open.contains(&(ix as u16))))
            .collect();
        results.push(window(QUIET, &[], &|open: &[u16]| open.is_empty()));
        let slo_s = self.slo_ns as f64 * 1e-9;
        let violated = self
            .minutes
            .iter()
            .filter(|m| m.p95.as_secs() > slo_s || ratio(m.failed, m.requests) > ERROR_BUDGET)
            .count();
        let churns = self.minutes.len().saturating_sub(1).max(1) as f64;
        Outcome {
            arm: arm.to_owned(),
            scenario: scenario.to_owned(),
            seed,
            requests,
            failed: total.failed,
            timed_out: self.timed_out,
            mean: total.latency.mean(),
            p50: total.latency.quantile(0.5),
            p95: total.latency.quantile(0.95),
            p99: total.latency.quantile(0.99),
            error_ratio: ratio(total.failed, requests),
            slo_miss_ratio: ratio(total.missed, requests),
            slo_violation_minutes: violated as u32,
            compute_usd: self.compute_usd,
            marginal_usd: self.marginal_usd,
            billed_price: per_million(self.compute_usd + self.marginal_usd),
            marginal_price: per_million(self.marginal_usd),
            churn_per_minute: self.minutes.iter().skip(1).map(|m| m.churn).sum::<f64>() / churns,
            weight_churn_per_minute: if elapsed_s > 0.0 {
                self.weight_churn / (elapsed_s / 60.0)
            } else {
                0.0
            },
            max_utilization: self.minutes.iter().flat_map(|m| &m.utilization).copied().fold(0.0, f64::max),
            minutes: self.minutes.clone(),
            windows: results,
        }
    }
}
