//! What must hold on the real components, claim by claim?

mod brownout;
mod follow;
mod groups;
mod grpc;
mod metrics_loss;
mod refusal;
mod restart;
mod timeout;

use std::time::{Duration, Instant};

use futures_util::future::join_all;

use crate::error::Result;
use crate::rig::Rig;

/// A claim's number.
pub(crate) type Number = u8;

/// (number, what it says), in the order in which they run.
pub(crate) const CLAIMS: [(Number, &str); 8] = [
    (1, "Envoy splits requests as the weights say; pushes are acknowledged fast"),
    (2, "each source has weights of its own; a silent Envoy does not hold up the other"),
    (3, "a browned-out endpoint loses its share; latency recovers"),
    (4, "an endpoint that times out loses its share although its histogram looks good"),
    (5, "killing the controller fails no request; a restart moves no weight"),
    (6, "without metrics: hold, alarm, ramp to the static weights; with metrics: resume"),
    (7, "a refused resource is recorded and not sent again; the next good one is taken"),
    (8, "a proxyless gRPC client follows the same weights"),
];

/// Claims that run at the same time: they look at different services.
const PHASES: [&[Number]; 6] = [&[1, 8], &[2], &[3, 4], &[7], &[5], &[6]];

/// What a claim found.
#[derive(Debug, Default)]
pub(crate) struct Finding {
    facts: Vec<String>,
    broken: bool,
}

impl Finding {
    /// Notes something that was measured.
    pub(crate) fn note(&mut self, fact: impl Into<String>) {
        self.facts.push(fact.into());
    }

    /// Notes something that was measured and must hold.
    pub(crate) fn require(&mut self, holds: bool, fact: impl Into<String>) {
        let fact = fact.into();
        self.facts.push(if holds { fact } else { format!("NOT AS IT MUST BE: {fact}") });
        self.broken |= !holds;
    }
}

/// How many claims held and how many did not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Tally {
    /// Claims that hold.
    pub held: usize,
    /// Claims that do not.
    pub failed: usize,
    /// Claims that could not be looked at.
    pub not_run: usize,
}

/// Runs the claims asked for on one rig and prints a line for each.
pub(crate) async fn run(rig: &Rig, wanted: &[Number]) -> Tally {
    let mut tally = Tally::default();
    for phase in PHASES {
        let now: Vec<Number> = phase.iter().copied().filter(|n| wanted.contains(n)).collect();
        let results = join_all(now.iter().map(|number| async move {
            let started = Instant::now();
            (*number, one(rig, *number).await, started.elapsed())
        }));
        let failed = tally.failed;
        for (number, result, elapsed) in results.await {
            report(number, result, elapsed, &mut tally);
        }
        if tally.failed > failed {
            explain(rig).await;
        }
    }
    tally
}

async fn one(rig: &Rig, number: Number) -> Option<Result<Finding>> {
    Some(match number {
        1 => follow::check(rig).await,
        2 => groups::check(rig).await,
        3 => brownout::check(rig).await,
        4 => timeout::check(rig).await,
        5 => restart::check(rig).await,
        6 => metrics_loss::check(rig).await,
        7 => refusal::check(rig).await,
        8 => grpc::check(rig, rig.python.as_ref()?).await,
        _ => return None,
    })
}

fn report(number: Number, result: Option<Result<Finding>>, elapsed: Duration, tally: &mut Tally) {
    let seconds = elapsed.as_secs_f64();
    let (text, verdict) = match result {
        None => {
            tally.not_run += 1;
            ("needs grpcio, which is not there".to_owned(), "not run")
        }
        Some(Ok(finding)) if !finding.broken => {
            tally.held += 1;
            (finding.facts.join("; "), "ok")
        }
        Some(Ok(finding)) => {
            tally.failed += 1;
            (finding.facts.join("; "), "FAILED")
        }
        Some(Err(error)) => {
            tally.failed += 1;
            (error.to_string().replace('\n', " | "), "FAILED")
        }
    };
    crate::say(&format!("claim {number}: {text} ({seconds:.1} s) {verdict}"));
}

/// Says how the controller stands after a failure.
async fn explain(rig: &Rig) {
    match rig.api.decision().await {
        Ok(decision) => crate::say(&format!(
            "  the controller: rung {}, failures [{}], critical {:?}",
            decision.rung(),
            decision.failures().join("; "),
            decision.critical()
        )),
        Err(error) => crate::say(&format!("  the controller: {error}")),
    }
}

/// Shares as percentages.
pub(crate) fn percents(shares: &[f64]) -> String {
    shares.iter().map(|s| format!("{:.1}", s * 100.0)).collect::<Vec<_>>().join("/")
}

/// Half the sum of the differences: the share of traffic on which two rows disagree.
pub(crate) fn distance(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).sum::<f64>() / 2.0
}

/// Position of the greatest share.
pub(crate) fn greatest(shares: &[f64]) -> usize {
    (0..shares.len()).max_by(|a, b| shares[*a].total_cmp(&shares[*b])).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_claim_runs_in_exactly_one_phase() {
        let mut phased: Vec<Number> = PHASES.iter().flat_map(|p| p.iter().copied()).collect();
        phased.sort_unstable();
        assert_eq!(phased, CLAIMS.map(|c| c.0));
    }

    #[test]
    fn one_broken_requirement_breaks_the_finding() {
        let mut finding = Finding::default();
        finding.require(true, "a");
        assert!(!finding.broken);
        finding.require(false, "b");
        finding.require(true, "c");
        assert!(finding.broken);
        assert_eq!(finding.facts[1], "NOT AS IT MUST BE: b");
    }

    #[test]
    fn rows_are_as_far_apart_as_the_traffic_they_disagree_on() {
        assert!((distance(&[0.8, 0.1, 0.1], &[0.1, 0.8, 0.1]) - 0.7).abs() < 1e-12);
        assert_eq!(greatest(&[0.2, 0.5, 0.3]), 1);
    }
}
