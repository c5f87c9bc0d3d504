//! Arms, seed by seed, on the same requests.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use traflux_sim::arms::run_arm;
use traflux_sim::compare::{ArmResult, Interval, paired_difference};
use traflux_sim::{Outcome, QUIET, Scenario, SimError};

use super::arms::ArmKind;

/// All runs of a comparison, by arm.
#[derive(Debug, Clone)]
pub struct Comparison {
    /// What was played.
    pub scenario: Scenario,
    /// The arms in the order asked for; each outcome belongs to the seed in the same place.
    pub arms: Vec<ArmResult>,
}

/// Plays every arm on every seed, as many at a time as there are cores.
///
/// `progress` is told the runs that are done and the virtual share of the others, in runs; it may be called
/// from any thread.
///
/// # Errors
/// The first [`SimError`] of any run.
pub fn compare(
    scenario: &Scenario,
    seeds: &[u64],
    kinds: &[ArmKind],
    progress: &(dyn Fn(f64) + Sync),
) -> Result<Comparison, SimError> {
    let jobs: Vec<(usize, u64)> =
        seeds.iter().flat_map(|seed| (0..kinds.len()).map(move |kind| (kind, *seed))).collect();
    let shares: Vec<Mutex<f64>> = jobs.iter().map(|_| Mutex::new(0.0)).collect();
    let next = AtomicUsize::new(0);
    type Run = Result<(Outcome, Vec<traflux_sim::arms::CriticalRow>), SimError>;
    let results: Vec<Mutex<Option<Run>>> = jobs.iter().map(|_| Mutex::new(None)).collect();
    let cores = std::thread::available_parallelism().map_or(1, usize::from).min(jobs.len().max(1));
    std::thread::scope(|scope| {
        for _ in 0..cores {
            scope.spawn(|| {
                loop {
                    let job = next.fetch_add(1, Ordering::Relaxed);
                    let Some((kind, seed)) = jobs.get(job) else { return };
                    let run = kinds[*kind].arm(scenario, *seed).and_then(|mut arm| {
                        let outcome = run_arm(scenario, *seed, arm.as_mut(), &mut |share| {
                            *shares[job].lock().unwrap_or_else(PoisonError::into_inner) = share;
                            let all = shares
                                .iter()
                                .map(|s| *s.lock().unwrap_or_else(PoisonError::into_inner))
                                .sum::<f64>();
                            progress(all);
                        })?;
                        Ok((outcome, arm.critical().to_vec()))
                    });
                    *results[job].lock().unwrap_or_else(PoisonError::into_inner) = Some(run);
                }
            });
        }
    });
    let mut arms: Vec<ArmResult> = kinds
        .iter()
        .map(|kind| ArmResult { name: kind.name().to_owned(), outcomes: Vec::new(), critical: Vec::new() })
        .collect();
    for ((kind, _), result) in jobs.iter().zip(results) {
        let run = result.into_inner().unwrap_or_else(PoisonError::into_inner);
        let (outcome, critical) = run.expect("every job was taken by a thread")?;
        let arm = &mut arms[*kind];
        if arm.outcomes.is_empty() {
            arm.critical = critical;
        }
        arm.outcomes.push(outcome);
    }
    Ok(Comparison { scenario: scenario.clone(), arms })
}

/// A number of one run.
type Number = fn(&Outcome) -> f64;

/// One claim with the numbers that decide it.
#[derive(Debug, Clone, PartialEq)]
pub struct Claim {
    /// What is claimed.
    pub text: String,
    /// Whether it holds.
    pub holds: bool,
    /// The numbers.
    pub numbers: String,
}

impl Comparison {
    /// The runs of an arm.
    #[must_use]
    pub fn arm(&self, kind: ArmKind) -> Option<&ArmResult> {
        self.arms.iter().find(|arm| arm.name == kind.name())
    }

    /// What must hold for an arm against the arms whose weights are fixed: mean latency and misses lower (the
    /// 95 % interval of the paired difference below zero), billed cost not above static capacity weights, and
    /// in no window more than 10 % slower than those. Arms that were not played are left out.
    #[must_use]
    pub fn claims(&self, kind: ArmKind) -> Vec<Claim> {
        let Some(arm) = self.arm(kind) else { return Vec::new() };
        let mut claims = Vec::new();
        for rival in [ArmKind::RoundRobin, ArmKind::StaticCapacity, ArmKind::StaticCostAware] {
            let Some(baseline) = self.arm(rival) else { continue };
            let numbers: [(&str, &str, Number); 2] = [
                ("mean latency", "ms", |o| o.mean.as_millis()),
                ("SLO misses", "percentage points", |o| o.slo_miss_ratio * 100.0),
            ];
            for (what, unit, number) in numbers {
                claims.extend(paired_difference(arm, baseline, number).map(|difference| Claim {
                    text: format!("{what} below {rival}"),
                    holds: is_below_zero(&difference),
                    numbers: format!(
                        "{:+.3} {unit} [{:+.3}, {:+.3}], {} seeds",
                        difference.mean, difference.low, difference.high, difference.pairs
                    ),
                }));
            }
        }
        let Some(baseline) = self.arm(ArmKind::StaticCapacity) else { return claims };
        claims.extend(paired_difference(arm, baseline, |o| o.billed_price.get()).map(|difference| Claim {
            text: format!("billed cost not above {}", ArmKind::StaticCapacity),
            holds: difference.mean <= 0.0,
            numbers: format!(
                "{:+.4} $/1M [{:+.4}, {:+.4}]",
                difference.mean, difference.low, difference.high
            ),
        }));
        claims.extend(self.window_claims(arm, baseline));
        claims
    }

    fn window_claims(&self, arm: &ArmResult, baseline: &ArmResult) -> Vec<Claim> {
        let names = baseline.outcomes.first().map_or(&[][..], |o| &o.windows);
        names
            .iter()
            .filter(|window| window.name != QUIET)
            .map(|window| {
                let of = |result: &ArmResult| {
                    result.mean_of(|o| o.window(&window.name).map_or(0.0, |w| w.mean.as_millis()))
                };
                let (ours, theirs) = (of(arm), of(baseline));
                Claim {
                    text: format!("`{}` not more than 10 % above {}", window.name, ArmKind::StaticCapacity),
                    holds: ours <= 1.1 * theirs,
                    numbers: format!(
                        "{ours:.1} ms against {theirs:.1} ms ({:+.1} %)",
                        (ours / theirs - 1.0) * 100.0
                    ),
                }
            })
            .collect()
    }
}

/// The interval lies below zero; one pair alone has no interval, and then its difference must.
fn is_below_zero(interval: &Interval) -> bool {
    interval.high < 0.0
}
