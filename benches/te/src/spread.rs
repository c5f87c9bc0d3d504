//! How far can a number be trusted?

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::measure::Pair;

/// How often blocks are drawn anew.
const RESAMPLES: usize = 2000;

/// The value below which this part of all is; NaN of none.
pub(crate) fn quantile(values: &[f64], part: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (part * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.max(1) - 1).copied().unwrap_or(f64::NAN)
}

/// Half of all are below.
pub(crate) fn median(values: &[f64]) -> f64 {
    quantile(values, 0.5)
}

/// A ratio of medians, and where 95 % of it lie when whole blocks are drawn anew: problems of one block share
/// the load of the machine.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Ratio {
    pub value: f64,
    pub low: f64,
    pub high: f64,
}

impl Ratio {
    /// The median of the second over that of the first.
    pub(crate) fn of(pairs: &[Pair]) -> Self {
        let ratio = |chosen: &[usize]| {
            let ours: Vec<f64> = chosen.iter().flat_map(|b| pairs[*b].0.iter().copied()).collect();
            let plain: Vec<f64> = chosen.iter().flat_map(|b| pairs[*b].1.iter().copied()).collect();
            median(&plain) / median(&ours)
        };
        let value = ratio(&(0..pairs.len()).collect::<Vec<_>>());
        let mut random = ChaCha8Rng::seed_from_u64(1);
        let mut drawn: Vec<f64> = (0..RESAMPLES)
            .map(|_| {
                let chosen: Vec<usize> =
                    (0..pairs.len()).map(|_| random.random_range(0..pairs.len())).collect();
                ratio(&chosen)
            })
            .collect();
        drawn.sort_by(f64::total_cmp);
        Self { value, low: quantile(&drawn, 0.025), high: quantile(&drawn, 0.975) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_values_that_were_seen() {
        let values = [5.0, 1.0, 4.0, 2.0, 3.0];
        assert_eq!([quantile(&values, 0.0), median(&values), quantile(&values, 0.95)], [1.0, 3.0, 5.0]);
        assert!(median(&[]).is_nan());
    }

    #[test]
    fn a_ratio_lies_within_its_interval_and_equal_blocks_leave_no_doubt() {
        let sure = Ratio::of(&vec![(vec![1.0, 1.0], vec![20.0, 20.0]); 4]);
        assert_eq!(sure, Ratio { value: 20.0, low: 20.0, high: 20.0 });
        let blocks: Vec<_> = (1..=9).map(|b| (vec![1.0; 3], vec![f64::from(b); 3])).collect();
        let unsure = Ratio::of(&blocks);
        assert_eq!(unsure.value, 5.0);
        assert!(unsure.low > 1.0 && unsure.low < 5.0 && unsure.high > 5.0 && unsure.high < 9.0);
    }
}
