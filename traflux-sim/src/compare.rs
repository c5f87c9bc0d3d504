//! Is one arm better than another, or was it the seed?
//!
//! Arms run on the same seeds, so outcomes are paired: the difference is taken seed by seed, and its mean gets a
//! percentile-bootstrap interval (B. Efron, "Bootstrap methods: another look at the jackknife", Ann. Stat. 7, 1979).

use serde::{Deserialize, Serialize};
use traflux_gateway::Rng;

use crate::arms::CriticalRow;
use crate::outcome::Outcome;

const RESAMPLES: usize = 10_000;
const BOOTSTRAP_SEED: u64 = 0x7261_6666_6c75_7821;

/// All runs of one arm.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ArmResult {
    /// Name of the arm.
    pub name: String,
    /// One outcome per seed.
    pub outcomes: Vec<Outcome>,
    /// What was critical in the first run, and why.
    pub critical: Vec<CriticalRow>,
}

impl ArmResult {
    /// The mean of a number over all runs; 0 without runs.
    #[must_use]
    pub fn mean_of(&self, number: impl Fn(&Outcome) -> f64) -> f64 {
        if self.outcomes.is_empty() {
            return 0.0;
        }
        self.outcomes.iter().map(number).sum::<f64>() / self.outcomes.len() as f64
    }
}

/// A mean difference and its 95 % interval.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    /// Mean over seeds.
    pub mean: f64,
    /// 2.5th percentile of resampled means.
    pub low: f64,
    /// 97.5th percentile of resampled means.
    pub high: f64,
    /// Seeds that both arms ran.
    pub pairs: usize,
}

impl Interval {
    /// Whether zero lies outside.
    #[must_use]
    pub fn is_significant(&self) -> bool {
        self.pairs > 1 && (self.low > 0.0 || self.high < 0.0)
    }
}

/// How much larger a number is with `arm` than with `baseline`, over the seeds that both ran; `None` without any.
/// Equal inputs give equal intervals. With a single seed the interval is a point and says nothing.
#[must_use]
pub fn paired_difference(
    arm: &ArmResult,
    baseline: &ArmResult,
    number: impl Fn(&Outcome) -> f64,
) -> Option<Interval> {
    let differences: Vec<f64> = arm
        .outcomes
        .iter()
        .filter_map(|a| {
            let b = baseline.outcomes.iter().find(|b| b.seed == a.seed)?;
            Some(number(a) - number(b))
        })
        .collect();
    bootstrap(&differences)
}

fn bootstrap(values: &[f64]) -> Option<Interval> {
    let n = values.len();
    if n == 0 {
        return None;
    }
    let mean = values.iter().sum::<f64>() / n as f64;
    let mut rng = Rng::new(BOOTSTRAP_SEED);
    let mut means: Vec<f64> =
        (0..RESAMPLES).map(|_| (0..n).map(|_| values[rng.below(n)]).sum::<f64>() / n as f64).collect();
    means.sort_by(f64::total_cmp);
    let at = |q: f64| means[((RESAMPLES - 1) as f64 * q).round() as usize];
    Some(Interval { mean, low: at(0.025), high: at(0.975), pairs: n })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_interval_of_a_mean_is_about_two_standard_errors_wide() {
        let mut rng = Rng::new(8);
        // Uniform in [0, 1): standard deviation 0.2887, standard error 0.2887 / 10.
        let values: Vec<f64> = (0..100).map(|_| rng.uniform()).collect();
        let interval = bootstrap(&values).unwrap();
        assert!((interval.high - interval.low - 2.0 * 1.96 * 0.02887).abs() < 0.02, "{interval:?}");
        assert!(interval.low < interval.mean && interval.mean < interval.high);
        assert_eq!(bootstrap(&values), bootstrap(&values));
    }

    #[test]
    fn one_pair_is_never_significant_and_none_is_no_interval() {
        let one = bootstrap(&[-3.0]).unwrap();
        assert_eq!((one.mean, one.low, one.high), (-3.0, -3.0, -3.0));
        assert!(!one.is_significant());
        assert!(bootstrap(&[-3.0, -2.0]).unwrap().is_significant());
        assert!(bootstrap(&[]).is_none());
    }
}
