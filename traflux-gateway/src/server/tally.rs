//! What has passed, by rule and backend?

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use super::histogram::Histogram;
use crate::observe::exposition::Escaped;
use crate::outcome::Outcome;
use crate::units::PicoDollars;
use crate::wire::Usage;

/// Counts of everything that a gateway answered. Rows come from the plan's names, so that they are few.
#[derive(Debug, Default)]
pub struct Tally {
    rows: RwLock<BTreeMap<String, BTreeMap<String, Arc<Row>>>>,
    refusals: RwLock<BTreeMap<&'static str, AtomicU64>>,
}

/// Attempts of one rule at one backend.
#[derive(Debug, Default)]
pub struct Row {
    outcomes: [AtomicU64; Outcome::ALL.len()],
    retries: AtomicU64,
    hedges: AtomicU64,
    hedges_won: AtomicU64,
    input: AtomicU64,
    cached: AtomicU64,
    output: AtomicU64,
    pico_dollars: AtomicU64,
    /// Times from the attempt to the first byte of the answer's body.
    pub first_byte: Histogram,
    /// Times from the attempt to the end of the answer.
    pub total: Histogram,
}

impl Tally {
    /// The row of a rule and a backend.
    pub fn row(&self, rule: &str, backend: &str) -> Arc<Row> {
        let rows = self.rows.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(row) = rows.get(rule).and_then(|rows| rows.get(backend)) {
            return Arc::clone(row);
        }
        drop(rows);
        let mut rows = self.rows.write().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(rows.entry(rule.to_owned()).or_default().entry(backend.to_owned()).or_default())
    }

    /// All rows by rule and backend.
    #[must_use]
    pub fn rows(&self) -> Vec<(String, String, Arc<Row>)> {
        let rows = self.rows.read().unwrap_or_else(PoisonError::into_inner);
        rows.iter()
            .flat_map(|(rule, rows)| {
                rows.iter().map(|(backend, row)| (rule.clone(), backend.clone(), Arc::clone(row)))
            })
            .collect()
    }

    /// Counts an answer of the gateway's own.
    pub fn refused(&self, code: &'static str) {
        let refusals = self.refusals.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = refusals.get(code) {
            count.fetch_add(1, Ordering::Relaxed);
            return;
        }
        drop(refusals);
        let mut refusals = self.refusals.write().unwrap_or_else(PoisonError::into_inner);
        refusals.entry(code).or_default().fetch_add(1, Ordering::Relaxed);
    }

    /// Answers of the gateway's own, by code.
    #[must_use]
    pub fn refusals(&self) -> BTreeMap<&'static str, u64> {
        let refusals = self.refusals.read().unwrap_or_else(PoisonError::into_inner);
        refusals.iter().map(|(code, count)| (*code, count.load(Ordering::Relaxed))).collect()
    }

    /// Everything in the text format of Prometheus.
    #[must_use]
    pub fn exposition(&self) -> String {
        let mut text = String::new();
        // Writing to a string cannot fail.
        let _ = writeln!(text, "# TYPE traflux_gateway_attempts_total counter");
        let rows = self.rows();
        let named = || rows.iter().map(|(rule, backend, row)| (Escaped(rule), Escaped(backend), row));
        for (rule, backend, row) in named() {
            for outcome in Outcome::ALL {
                let count = row.of(outcome);
                if count > 0 {
                    let _ = writeln!(
                        text,
                        "traflux_gateway_attempts_total{{rule=\"{rule}\",backend=\"{backend}\",outcome=\"{}\"}} {count}",
                        outcome.name()
                    );
                }
            }
        }
        let _ = writeln!(text, "# TYPE traflux_gateway_hedge_results_total counter");
        for (rule, backend, row) in named().filter(|(_, _, row)| row.hedges() > 0) {
            let won = row.hedges_won();
            for (result, count) in [("won", won), ("lost", row.hedges().saturating_sub(won))] {
                let _ = writeln!(
                    text,
                    "traflux_gateway_hedge_results_total{{rule=\"{rule}\",backend=\"{backend}\",result=\"{result}\"}} {count}"
                );
            }
        }
        let _ = writeln!(text, "# TYPE traflux_gateway_tokens_total counter");
        for (rule, backend, row) in named() {
            let usage = row.usage();
            for (kind, tokens) in [("input", usage.input), ("cached", usage.cached), ("output", usage.output)]
            {
                let _ = writeln!(
                    text,
                    "traflux_gateway_tokens_total{{rule=\"{rule}\",backend=\"{backend}\",kind=\"{kind}\"}} {tokens}"
                );
            }
        }
        let _ = writeln!(text, "# TYPE traflux_gateway_dollars_total counter");
        for (rule, backend, row) in named() {
            let dollars = row.dollars();
            let _ = writeln!(
                text,
                "traflux_gateway_dollars_total{{rule=\"{rule}\",backend=\"{backend}\"}} {dollars}"
            );
        }
        let _ = writeln!(text, "# TYPE traflux_gateway_first_byte_seconds summary");
        for (rule, backend, row) in named() {
            for share in [0.5, 0.95, 0.99] {
                if let Some(time) = row.first_byte.quantile(share) {
                    let _ = writeln!(
                        text,
                        "traflux_gateway_first_byte_seconds{{rule=\"{rule}\",backend=\"{backend}\",quantile=\"{share}\"}} {}",
                        time.as_secs_f64()
                    );
                }
            }
        }
        let _ = writeln!(text, "# TYPE traflux_gateway_refusals_total counter");
        for (code, count) in self.refusals() {
            let _ = writeln!(text, "traflux_gateway_refusals_total{{code=\"{code}\"}} {count}");
        }
        text
    }
}

impl Row {
    pub(super) fn ended(&self, outcome: Outcome) {
        self.outcomes[outcome as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn retried(&self) {
        self.retries.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn hedged(&self) {
        self.hedges.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn hedge_won(&self) {
        self.hedges_won.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn used(&self, usage: Usage, price: PicoDollars) {
        self.input.fetch_add(usage.input, Ordering::Relaxed);
        self.cached.fetch_add(usage.cached, Ordering::Relaxed);
        self.output.fetch_add(usage.output, Ordering::Relaxed);
        self.pico_dollars.fetch_add(price.get(), Ordering::Relaxed);
    }

    /// Attempts that ended so.
    #[must_use]
    pub fn of(&self, outcome: Outcome) -> u64 {
        self.outcomes[outcome as usize].load(Ordering::Relaxed)
    }

    /// Attempts that have ended.
    #[must_use]
    pub fn attempts(&self) -> u64 {
        Outcome::ALL.into_iter().map(|outcome| self.of(outcome)).sum()
    }

    /// Attempts that failed, refusals for lack of capacity not among them.
    #[must_use]
    pub fn failures(&self) -> u64 {
        Outcome::ALL.into_iter().filter(|outcome| outcome.is_failure()).map(|outcome| self.of(outcome)).sum()
    }

    /// Attempts after which another followed.
    #[must_use]
    pub fn retries(&self) -> u64 {
        self.retries.load(Ordering::Relaxed)
    }

    /// Attempts that were sent here because another one was late.
    #[must_use]
    pub fn hedges(&self) -> u64 {
        self.hedges.load(Ordering::Relaxed)
    }

    /// Those of them that answered first.
    #[must_use]
    pub fn hedges_won(&self) -> u64 {
        self.hedges_won.load(Ordering::Relaxed)
    }

    /// Tokens used.
    #[must_use]
    pub fn usage(&self) -> Usage {
        Usage {
            input: self.input.load(Ordering::Relaxed),
            cached: self.cached.load(Ordering::Relaxed),
            output: self.output.load(Ordering::Relaxed),
        }
    }

    /// What they cost.
    #[must_use]
    pub fn dollars(&self) -> f64 {
        self.pico_dollars.load(Ordering::Relaxed) as f64 * 1e-12
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_escaped_as_prometheus_reads_them() {
        let tally = Tally::default();
        tally.row("é\t\u{301}", "a\"b\\c\nd").ended(Outcome::Success);
        let line = "traflux_gateway_attempts_total{rule=\"é\t\u{301}\",backend=\"a\\\"b\\\\c\\nd\",outcome=\"success\"} 1";
        let text = tally.exposition();
        assert!(text.lines().any(|found| found == line), "{text}");
    }
}
