//! What do many matrices say together, and how sure is it?

use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use serde::{Deserialize, Serialize};

/// How intervals are drawn.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BootstrapConfig {
    /// How many resamples, at least 1.
    pub resamples: usize,
    /// How many neighbours are drawn together, at least 1. Matrices that follow each other resemble each
    /// other; drawn one by one they would make intervals too narrow. Take at least the time after which they
    /// no longer do.
    pub block: usize,
    /// Probability that an interval is to cover, in (0, 1).
    pub level: f64,
    /// Seed of the draws.
    pub seed: u64,
}

impl Default for BootstrapConfig {
    fn default() -> Self {
        Self { resamples: 2000, block: 1, level: 0.95, seed: 0 }
    }
}

/// Both ends of an interval.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    /// Lower end.
    pub low: f64,
    /// Upper end.
    pub high: f64,
}

/// Statistics of one measure over many matrices, with percentile intervals (Efron 1979; in blocks, on a
/// circle: Politis and Romano 1992). The minimum has none: resampling says nothing about it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// How many values.
    pub count: usize,
    /// Mean.
    pub mean: f64,
    /// Interval of the mean.
    pub mean_interval: Interval,
    /// 5th percentile, interpolated linearly.
    pub p5: f64,
    /// Interval of the 5th percentile.
    pub p5_interval: Interval,
    /// Median.
    pub p50: f64,
    /// Interval of the median.
    pub p50_interval: Interval,
    /// Least value.
    pub min: f64,
}

impl Summary {
    /// Summarises values in the order in which they came; `None` without values or where one is not finite.
    #[must_use]
    pub fn of(values: &[f64], config: &BootstrapConfig) -> Option<Self> {
        if values.is_empty() || values.iter().any(|v| !v.is_finite()) {
            return None;
        }
        let (mut means, mut p5s, mut p50s) = (Vec::new(), Vec::new(), Vec::new());
        resample(values.len(), config, |draw| {
            let mut drawn: Vec<f64> = draw.iter().map(|at| values[*at]).collect();
            drawn.sort_unstable_by(f64::total_cmp);
            means.push(mean(&drawn));
            p5s.push(percentile(&drawn, 0.05));
            p50s.push(percentile(&drawn, 0.5));
        });
        let mut sorted = values.to_vec();
        sorted.sort_unstable_by(f64::total_cmp);
        Some(Self {
            count: values.len(),
            mean: mean(values),
            mean_interval: interval(&mut means, config.level),
            p5: percentile(&sorted, 0.05),
            p5_interval: interval(&mut p5s, config.level),
            p50: percentile(&sorted, 0.5),
            p50_interval: interval(&mut p50s, config.level),
            min: sorted[0],
        })
    }
}

/// How much better one method is than another on the same matrices.
///
/// What matrices do to both methods cancels in each difference, so the interval is far narrower than those of
/// the two means.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct PairedDifference {
    /// How many matrices.
    pub count: usize,
    /// Mean of `first − second`.
    pub mean: f64,
    /// Interval of that mean; the methods differ at the level of the interval where it excludes 0.
    pub interval: Interval,
    /// Fraction of matrices where the first is greater.
    pub first_greater: f64,
    /// Fraction of matrices where the second is greater.
    pub second_greater: f64,
}

impl PairedDifference {
    /// Compares values of two methods, matrix by matrix; `None` for different lengths, no values, or one that
    /// is not finite.
    #[must_use]
    pub fn of(first: &[f64], second: &[f64], config: &BootstrapConfig) -> Option<Self> {
        let differences: Vec<f64> = first.iter().zip(second).map(|(a, b)| a - b).collect();
        let broken = differences.iter().any(|d| !d.is_finite());
        if first.len() != second.len() || differences.is_empty() || broken {
            return None;
        }
        let mut means = Vec::new();
        resample(differences.len(), config, |draw| {
            means.push(draw.iter().map(|at| differences[*at]).sum::<f64>() / draw.len() as f64);
        });
        let part = |holds: fn(&f64) -> bool| {
            differences.iter().copied().filter(holds).count() as f64 / differences.len() as f64
        };
        Some(Self {
            count: differences.len(),
            mean: mean(&differences),
            interval: interval(&mut means, config.level),
            first_greater: part(|d| *d > 0.0),
            second_greater: part(|d| *d < 0.0),
        })
    }
}

/// Draws positions `0..count` with replacement, in blocks that wrap around.
fn resample(count: usize, config: &BootstrapConfig, mut visit: impl FnMut(&[usize])) {
    let mut rng = ChaCha8Rng::seed_from_u64(config.seed);
    let block = config.block.clamp(1, count);
    let mut draw = Vec::with_capacity(count + block);
    for _ in 0..config.resamples.max(1) {
        draw.clear();
        while draw.len() < count {
            let start = rng.random_range(0..count);
            draw.extend((start..start + block).map(|at| at % count));
        }
        draw.truncate(count);
        visit(&draw);
    }
}

fn interval(values: &mut [f64], level: f64) -> Interval {
    values.sort_unstable_by(f64::total_cmp);
    let tail = 0.5 * (1.0 - level.clamp(0.0, 1.0));
    Interval { low: percentile(values, tail), high: percentile(values, 1.0 - tail) }
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// Of sorted values, interpolated linearly between the two nearest.
fn percentile(sorted: &[f64], level: f64) -> f64 {
    let at = level * (sorted.len() - 1) as f64;
    let below = (at.floor() as usize).min(sorted.len() - 1);
    let above = (below + 1).min(sorted.len() - 1);
    sorted[below] + (sorted[above] - sorted[below]) * (at - below as f64)
}
