//! What came of many requests, in numbers that can stand side by side?

use std::collections::BTreeMap;
use std::fmt::Write as _;

use traflux_core::plan::requests::RequestPlan;

use super::trace::{Fate, Traced};
use crate::health::Outcome;
use crate::wire::Usage;

/// Requests of one run. Times in seconds.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Summary {
    /// Requests.
    pub requests: u64,
    /// Answered well.
    pub succeeded: u64,
    /// Answered, but not well, by how the last attempt ended.
    pub failed: BTreeMap<&'static str, u64>,
    /// Refused, by reason.
    pub refused: BTreeMap<String, u64>,
    /// Whose client went away while they waited.
    pub left: u64,
    /// Still open at the end.
    pub open: u64,
    /// Attempts beyond the first.
    pub retries: u64,
    /// Tokens read and written.
    pub tokens: (u64, u64),
    /// What they cost, by the prices of the plan.
    pub dollars: f64,
    /// Waits in the queue.
    pub waits: Quantiles,
    /// By backend.
    pub backends: BTreeMap<String, BackendRow>,
    /// By model, the time from arrival to the end of requests answered well.
    pub models: BTreeMap<String, Quantiles>,
    /// By model, the time from arrival to the first byte of streams answered well.
    pub first_bytes: BTreeMap<String, Quantiles>,
    /// Requests answered well per second, in parts of the run of equal length.
    pub course: Vec<f64>,
    /// Length of the run.
    pub seconds: f64,
}

/// What a backend got.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct BackendRow {
    /// Attempts.
    pub attempts: u64,
    /// Of all attempts, 0 to 1.
    pub share: f64,
    /// Attempts that ended otherwise than well, by fault of the backend.
    pub failures: u64,
    /// Tokens read and written.
    pub tokens: (u64, u64),
    /// Cost.
    pub dollars: f64,
    /// The most in flight at once.
    pub peak_in_flight: u64,
}

/// Quantiles of a time, in seconds.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Quantiles {
    /// How many there are.
    pub count: u64,
    /// Median.
    pub p50: f64,
    /// 95th percentile.
    pub p95: f64,
    /// 99th percentile.
    pub p99: f64,
}

/// Parts of a run for the picture of its course.
const PARTS: usize = 120;

impl Quantiles {
    /// Of nanoseconds.
    fn of(mut nanos: Vec<u64>) -> Self {
        nanos.sort_unstable();
        let at = |share: f64| {
            // The smallest value that so many are at most.
            let rank = (share * nanos.len() as f64).ceil() as usize;
            nanos.get(rank.max(1) - 1).map_or(0.0, |nanos| *nanos as f64 * 1e-9)
        };
        Self { count: nanos.len() as u64, p50: at(0.5), p95: at(0.95), p99: at(0.99) }
    }
}

impl Summary {
    /// Sums requests up; a span is in nanoseconds since the epoch.
    pub(super) fn of<'a>(
        requests: impl Iterator<Item = &'a Traced>,
        plan: &RequestPlan,
        span: (u64, u64),
    ) -> Self {
        let mut all = Self { seconds: (span.1 - span.0) as f64 * 1e-9, ..Self::default() };
        let mut waits = Vec::new();
        let mut totals: BTreeMap<String, Vec<u64>> = BTreeMap::new();
        let mut firsts: BTreeMap<String, Vec<u64>> = BTreeMap::new();
        let mut changes: BTreeMap<&str, Vec<(u64, i64)>> = BTreeMap::new();
        let mut course = vec![0u64; PARTS];
        let part = ((span.1 - span.0) / PARTS as u64).max(1);
        for request in requests {
            all.requests += 1;
            waits.extend(request.waited);
            let model = request.asked.model.to_string();
            match &request.fate {
                Fate::Ended(Outcome::Success) => {
                    all.succeeded += 1;
                    if let Some(end) = request.ended {
                        let part = (end.saturating_sub(span.0) / part) as usize;
                        course[part.min(PARTS - 1)] += 1;
                        totals.entry(model.clone()).or_default().push(end.saturating_sub(request.at));
                    }
                    let served = request
                        .attempts
                        .iter()
                        .filter(|attempt| request.asked.stream && attempt.outcome == Some(Outcome::Success));
                    if let Some(first) =
                        served.filter_map(|attempt| Some(attempt.sent + attempt.first?)).min()
                    {
                        firsts.entry(model).or_default().push(first.saturating_sub(request.at));
                    }
                }
                Fate::Ended(outcome) => *all.failed.entry(outcome.name()).or_default() += 1,
                Fate::Refused(reason) => *all.refused.entry(reason.clone()).or_default() += 1,
                Fate::Left => all.left += 1,
                Fate::Open => all.open += 1,
            }
            all.retries += request.attempts.len().saturating_sub(1) as u64;
            for attempt in &request.attempts {
                let row = all.backends.entry(attempt.backend.clone()).or_default();
                row.attempts += 1;
                row.failures += u64::from(
                    attempt
                        .outcome
                        .is_some_and(|outcome| outcome.is_failure() || outcome == Outcome::Limited),
                );
                let usage = attempt.usage.unwrap_or_default();
                let dollars = dollars(plan, &attempt.backend, &request.asked.model, attempt.outcome, usage);
                row.tokens = (row.tokens.0 + usage.input, row.tokens.1 + usage.output);
                row.dollars += dollars;
                all.tokens = (all.tokens.0 + usage.input, all.tokens.1 + usage.output);
                all.dollars += dollars;
                let list = changes.entry(&attempt.backend).or_default();
                list.push((attempt.sent, 1));
                list.extend(attempt.total.map(|total| (attempt.sent + total, -1)));
            }
        }
        for (backend, mut changes) in changes {
            // Of two at the same moment, the end comes first.
            changes.sort_unstable();
            let (mut now, mut peak) = (0, 0);
            for (_, change) in changes {
                now += change;
                peak = peak.max(now);
            }
            if let Some(row) = all.backends.get_mut(backend) {
                row.peak_in_flight = peak.max(0) as u64;
            }
        }
        let attempts: u64 = all.backends.values().map(|row| row.attempts).sum();
        for row in all.backends.values_mut() {
            row.share = row.attempts as f64 / attempts.max(1) as f64;
        }
        all.waits = Quantiles::of(waits);
        all.models = totals.into_iter().map(|(model, times)| (model, Quantiles::of(times))).collect();
        all.first_bytes = firsts.into_iter().map(|(model, times)| (model, Quantiles::of(times))).collect();
        all.course = course.into_iter().map(|count| count as f64 / (part as f64 * 1e-9)).collect();
        all
    }

    /// Every number under its name, in an order that is the same for all runs that have the same names.
    #[must_use]
    pub fn rows(&self) -> Vec<(String, f64)> {
        let mut rows = vec![
            ("requests".to_owned(), self.requests as f64),
            ("succeeded".to_owned(), self.succeeded as f64),
        ];
        let mut add = |name: String, value: f64| rows.push((name, value));
        for (outcome, count) in &self.failed {
            add(format!("failed: {outcome}"), *count as f64);
        }
        for (reason, count) in &self.refused {
            add(format!("refused: {reason}"), *count as f64);
        }
        add("left the queue".to_owned(), self.left as f64);
        add("open at the end".to_owned(), self.open as f64);
        add("retries".to_owned(), self.retries as f64);
        add("tokens read".to_owned(), self.tokens.0 as f64);
        add("tokens written".to_owned(), self.tokens.1 as f64);
        add("dollars".to_owned(), self.dollars);
        add("waited".to_owned(), self.waits.count as f64);
        let mut times = |name: &str, times: &Quantiles| {
            add(format!("{name} p50, s"), times.p50);
            add(format!("{name} p95, s"), times.p95);
            add(format!("{name} p99, s"), times.p99);
        };
        times("wait", &self.waits);
        let named = |model: &str| if model.is_empty() { "(no model)".to_owned() } else { model.to_owned() };
        for (model, quantiles) in &self.models {
            times(&format!("latency of {}", named(model)), quantiles);
        }
        for (model, quantiles) in &self.first_bytes {
            times(&format!("first byte of {}", named(model)), quantiles);
        }
        for (backend, row) in &self.backends {
            add(format!("{backend}: share of attempts"), row.share);
            add(format!("{backend}: attempts"), row.attempts as f64);
            add(format!("{backend}: failures"), row.failures as f64);
            add(format!("{backend}: tokens"), (row.tokens.0 + row.tokens.1) as f64);
            add(format!("{backend}: dollars"), row.dollars);
            add(format!("{backend}: peak in flight"), row.peak_in_flight as f64);
        }
        rows
    }
}

/// Several runs side by side: each name that any of them has, and the value of each run that has it.
#[must_use]
pub fn side_by_side(runs: &[&Summary]) -> Vec<(String, Vec<Option<f64>>)> {
    let mut table: Vec<(String, Vec<Option<f64>>)> = Vec::new();
    let mut place: BTreeMap<String, usize> = BTreeMap::new();
    for (ix, run) in runs.iter().enumerate() {
        // A name that earlier runs have not stands behind the one before it.
        let mut after = 0;
        for (name, value) in run.rows() {
            let at = match place.get(&name) {
                Some(at) => *at,
                None => {
                    place.values_mut().filter(|at| **at >= after).for_each(|at| *at += 1);
                    table.insert(after, (name.clone(), vec![None; runs.len()]));
                    place.insert(name, after);
                    after
                }
            };
            table[at].1[ix] = Some(value);
            after = at + 1;
        }
    }
    table
}

/// The same as CSV.
#[must_use]
pub fn csv(titles: &[&str], table: &[(String, Vec<Option<f64>>)]) -> String {
    let quoted = |text: &str| {
        if text.contains([',', '"', '\n']) {
            format!("\"{}\"", text.replace('"', "\"\""))
        } else {
            text.to_owned()
        }
    };
    let mut text = String::from("what");
    for title in titles {
        text.push(',');
        text.push_str(&quoted(title));
    }
    text.push('\n');
    for (name, values) in table {
        text.push_str(&quoted(name));
        for value in values {
            text.push(',');
            if let Some(value) = value {
                // Writing to a string cannot fail.
                let _ = write!(text, "{value}");
            }
        }
        text.push('\n');
    }
    text
}

/// What an attempt cost.
fn dollars(plan: &RequestPlan, backend: &str, model: &str, outcome: Option<Outcome>, usage: Usage) -> f64 {
    let Some(backend) = plan.backends.get(backend) else { return 0.0 };
    let price = backend.price_of(model);
    let input = price.input_dollars_per_million;
    let cached = price.cached_dollars_per_million.unwrap_or(input);
    let tokens = usage.input.saturating_sub(usage.cached) as f64 * input
        + usage.cached as f64 * cached
        + usage.output as f64 * price.output_dollars_per_million;
    let request = if outcome == Some(Outcome::Success) { price.request_dollars } else { 0.0 };
    tokens * 1e-6 + request
}
