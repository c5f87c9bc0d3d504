//! Who does better, and by how much?

use std::collections::BTreeMap;
use std::fmt::Write;

use traflux_gateway::observe::jain_index;
use traflux_gateway::{GatewayError, QueuePlan};

use super::arm::Arm;
use super::outcome::{Outcome, quantile};
use super::play::play;
use super::scenario::{Loads, Scenario};

/// The runs of one arm at one load, one for each seed.
#[derive(Debug, Clone, PartialEq)]
pub struct Runs {
    /// What was run.
    pub arm: Arm,
    /// As a multiple of capacity.
    pub load: f64,
    /// By seed.
    pub outcomes: Vec<Outcome>,
}

/// Which latency.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Metric {
    /// To the first token.
    FirstToken,
    /// To the end of the answer.
    Total,
}

/// Plays all that a scenario compares, in the order of [`Arm::of`], load by load.
///
/// # Errors
/// As [`play`].
pub fn compare(scenario: &Scenario) -> Result<Vec<Runs>, GatewayError> {
    let loads = match &scenario.loads {
        Loads::Balance(load) => std::slice::from_ref(load),
        Loads::Overload(loads) => loads,
    };
    let mut all = Vec::new();
    for load in loads {
        for arm in Arm::of(scenario) {
            let runs = scenario.seeds.iter().map(|seed| play(scenario, *load, *seed, &arm));
            let outcomes = runs.collect::<Result<_, _>>()?;
            all.push(Runs { arm, load: *load, outcomes });
        }
    }
    Ok(all)
}

impl Runs {
    /// A quantile of latencies in seconds, over all seeds together.
    #[must_use]
    pub fn latency(&self, metric: Metric, q: f64) -> f64 {
        let mut all: Vec<f64> = self.outcomes.iter().flat_map(|o| metric.of(o)).copied().collect();
        all.sort_by(f64::total_cmp);
        quantile(&all, q)
    }

    /// Mean, least and most of a number over seeds.
    #[must_use]
    pub fn over_seeds(&self, number: impl Fn(&Outcome) -> f64) -> Spread {
        Spread::of(self.outcomes.iter().map(number))
    }
}

impl Metric {
    fn of(self, outcome: &Outcome) -> &[f64] {
        match self {
            Self::FirstToken => &outcome.first_token,
            Self::Total => &outcome.total,
        }
    }
}

/// A number over seeds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Spread {
    /// Mean.
    pub mean: f64,
    /// Of the worst seed, where less is worse.
    pub least: f64,
    /// Of the best seed.
    pub most: f64,
}

impl Spread {
    fn of(numbers: impl Iterator<Item = f64>) -> Self {
        let (mut count, mut sum, mut least, mut most) = (0.0, 0.0, f64::INFINITY, f64::NEG_INFINITY);
        for number in numbers {
            (count, sum) = (count + 1.0, sum + number);
            (least, most) = (number.min(least), number.max(most));
        }
        Self { mean: sum / f64::max(count, 1.0), least, most }
    }
}

/// The p99 of an arm over that of the best peer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Ratio {
    /// The peer with the least p99 of all seeds together.
    pub best: &'static str,
    /// Of all seeds together.
    pub ratio: f64,
    /// Of each seed alone, against that same peer.
    pub by_seed: Spread,
}

/// How an arm's p99 compares with the best peer's; `None` without peers.
#[must_use]
pub fn p99_ratio(all: &[Runs], arm: &Runs, metric: Metric) -> Option<Ratio> {
    let p99 = |runs: &Runs| runs.latency(metric, 0.99);
    let peers = all.iter().filter(|runs| !runs.arm.is_engine());
    let best = peers.min_by(|a, b| p99(a).total_cmp(&p99(b)))?;
    let seeds = arm.outcomes.iter().zip(&best.outcomes);
    Some(Ratio {
        best: best.arm.name(),
        ratio: p99(arm) / p99(best),
        by_seed: Spread::of(seeds.map(|(a, b)| quantile(metric.of(a), 0.99) / quantile(metric.of(b), 0.99))),
    })
}

/// Jain's index over the work of equal tenants.
#[must_use]
pub fn jain(outcome: &Outcome) -> f64 {
    jain_index(outcome.work.iter().copied())
}

/// What each band got of all that was done, over its minimum share or what it asked for, if that is less. By tenant,
/// each being a band.
#[must_use]
pub fn band_shares(scenario: &Scenario, outcome: &Outcome) -> Vec<f64> {
    let queue = QueuePlan::default();
    let total: f64 = outcome.work.iter().sum();
    let got = outcome.work.iter().zip(&outcome.wanted).zip(&scenario.tenants);
    got.map(|((work, wanted), tenant)| {
        let band = &queue.bands[usize::from(queue.band_of("", tenant.kind))];
        work / (band.min_share * total).min(*wanted)
    })
    .collect()
}

/// The share of deadlines met.
#[must_use]
pub fn met(outcome: &Outcome) -> f64 {
    outcome.in_time as f64 / outcome.asked.max(1) as f64
}

/// The table of a scenario, with goals.
#[must_use]
pub fn table(scenario: &Scenario, all: &[Runs]) -> String {
    let mut text = format!("\n## {}: {}\n\n", scenario.name, scenario.reason);
    match scenario.loads {
        Loads::Balance(load) => balance_table(&mut text, load, all),
        Loads::Overload(_) => overload_table(&mut text, scenario, all),
    }
    text
}

fn verdict(met: bool) -> &'static str {
    if met { "met" } else { "MISSED" }
}

/// Why requests were not answered, for each arm where some were not.
fn refusals(text: &mut String, all: &[Runs]) {
    let _ = writeln!(text);
    for runs in all {
        let mut reasons: BTreeMap<&str, usize> = BTreeMap::new();
        for (reason, count) in runs.outcomes.iter().flat_map(|outcome| &outcome.refusals) {
            *reasons.entry(reason).or_default() += count;
        }
        if !reasons.is_empty() {
            let listed: Vec<String> = reasons.iter().map(|(r, n)| format!("{r} {n}")).collect();
            let _ =
                writeln!(text, "not answered at {} by {}: {}", runs.load, runs.arm.name(), listed.join(", "));
        }
    }
    let _ = writeln!(text);
}

// Writing to a string does not fail.
fn balance_table(text: &mut String, load: f64, all: &[Runs]) {
    let _ = writeln!(
        text,
        "load {load}, seconds | first token p50 | p99 | whole p50 | p99 | unanswered | attempts\n---|---|---|---|---|---|---"
    );
    for runs in all {
        let _ = writeln!(
            text,
            "{} | {:.3} | {:.3} | {:.3} | {:.3} | {:.2} % | {:.3}",
            runs.arm.name(),
            runs.latency(Metric::FirstToken, 0.5),
            runs.latency(Metric::FirstToken, 0.99),
            runs.latency(Metric::Total, 0.5),
            runs.latency(Metric::Total, 0.99),
            100.0 * runs.over_seeds(|o| o.unanswered as f64 / o.asked.max(1) as f64).mean,
            runs.over_seeds(|o| o.attempts).mean,
        );
    }
    refusals(text, all);
    for engine in all.iter().filter(|runs| runs.arm.is_engine()) {
        for (metric, name) in [(Metric::FirstToken, "first token"), (Metric::Total, "whole")] {
            if let Some(Ratio { best, ratio, by_seed }) = p99_ratio(all, engine, metric) {
                let _ = writeln!(
                    text,
                    "{}: p99 {name} / best peer ({best}) ≤ 1.05: {ratio:.3} [{:.3}, {:.3}] {}",
                    engine.arm.name(),
                    by_seed.least,
                    by_seed.most,
                    verdict(ratio <= 1.05),
                );
            }
        }
    }
}

fn overload_table(text: &mut String, scenario: &Scenario, all: &[Runs]) {
    let _ = writeln!(
        text,
        "load | arm | goodput | in requests | work done | deadlines met | first token p99\n---|---|---|---|---|---|---"
    );
    for runs in all {
        let goodput = runs.over_seeds(|o| o.goodput);
        let _ = writeln!(
            text,
            "{} | {} | {:.3} [{:.3}, {:.3}] | {:.3} | {:.3} | {:.1} % | {:.2}",
            runs.load,
            runs.arm.name(),
            goodput.mean,
            goodput.least,
            goodput.most,
            runs.over_seeds(|o| o.goodput_requests).mean,
            runs.over_seeds(|o| o.work.iter().sum()).mean,
            100.0 * runs.over_seeds(met).mean,
            runs.latency(Metric::FirstToken, 0.99),
        );
    }
    refusals(text, all);
    for engine in all.iter().filter(|runs| runs.arm.name() == "engine, queue") {
        let at = engine.load;
        let others = all.iter().filter(|runs| runs.load == at && runs.arm != engine.arm);
        let (name, best) = others
            .map(|runs| (runs.arm.name(), runs.over_seeds(met).mean))
            .max_by(|a, b| a.1.total_cmp(&b.1))
            .unwrap_or(("nobody", 0.0));
        let own = engine.over_seeds(met).mean;
        let _ = writeln!(
            text,
            "at {at}: deadlines met ≥ the best of the others ({name}, {:.1} %): {:.1} % {}",
            100.0 * best,
            100.0 * own,
            verdict(own >= best)
        );
        if at >= 2.0 && scenario.name != "flash" {
            let Spread { mean, least, .. } = engine.over_seeds(|o| o.goodput);
            let _ = writeln!(
                text,
                "at {at}: goodput ≥ 0.9: {mean:.3}, worst seed {least:.3} {}",
                verdict(least >= 0.9)
            );
        }
        if scenario.name == "tenants" {
            let Spread { mean, least, .. } = engine.over_seeds(jain);
            let _ = writeln!(
                text,
                "at {at}: Jain's index ≥ 0.98: {mean:.4}, worst seed {least:.4} {}",
                verdict(least >= 0.98)
            );
        }
        if scenario.name == "bands" {
            for (band, tenant) in scenario.tenants.iter().enumerate() {
                let Spread { mean, least, .. } = engine.over_seeds(|o| band_shares(scenario, o)[band]);
                let _ = writeln!(
                    text,
                    "at {at}: {} / its minimum share ≥ 1: {mean:.3}, worst seed {least:.3} {}",
                    tenant.name,
                    verdict(least >= 1.0)
                );
            }
        }
    }
}
