//! In which order do weights take turns?
//!
//! A periodic order in which every prefix follows the weights: after `t` turns each index has had between
//! `⌊t·w/W⌋` and `⌈t·w/W⌉` of them (lag below one turn). That is a Pfair schedule (S. K. Baruah, N. K. Cohen,
//! C. G. Plaxton and D. A. Varvel, "Proportionate progress", Algorithmica 15, 1996): turn `k` of weight `w` of
//! `W` may not come before `⌊k·W/w⌋` and must come before `⌈(k+1)·W/w⌉`; among those that may, the earliest
//! deadline goes, which is feasible for one processor with total utilization 1. All in integers.
//!
//! The order is computed once; picking is one step of a counter.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// The longest order: beyond it weights are rounded.
pub const MAX_TURNS: u64 = 1 << 16;

/// The order of turns for integer weights, each below its index; zero weights have none.
///
/// Weights are divided by their greatest common divisor. Where their sum still exceeds
/// max([`MAX_TURNS`], 4 × their number), they are rounded to that total by largest remainder with at least one turn each: a
/// share is then off by at most one turn of the total (1.5·10⁻⁵ of all requests), or is one turn where it
/// ought to be less.
#[must_use]
pub fn smooth_order(weights: &[u32]) -> Vec<u32> {
    let weights = reduce(weights);
    let total: u64 = weights.iter().sum();
    if weights.iter().all(|w| *w <= 1) {
        return (0..weights.len() as u32).filter(|ix| weights[*ix as usize] > 0).collect();
    }
    let mut order = Vec::with_capacity(total as usize);
    let mut waiting: BinaryHeap<Reverse<(u64, u32, u64)>> = BinaryHeap::new();
    let mut ready: BinaryHeap<Reverse<(u64, u32, u64)>> = BinaryHeap::new();
    for (ix, weight) in weights.iter().enumerate().filter(|(_, weight)| **weight > 0) {
        ready.push(Reverse((total.div_ceil(*weight), ix as u32, 0)));
    }
    for turn in 0..total {
        while let Some(Reverse((release, ix, k))) = waiting.peek().copied()
            && release <= turn
        {
            waiting.pop();
            let deadline = ((k + 1) * total).div_ceil(weights[ix as usize]);
            ready.push(Reverse((deadline, ix, k)));
        }
        // The schedule is feasible, so somebody is always ready; were it not, the order would be shorter.
        let Some(Reverse((_, ix, k))) = ready.pop() else { continue };
        order.push(ix);
        let weight = weights[ix as usize];
        if k + 1 < weight {
            waiting.push(Reverse(((k + 1) * total / weight, ix, k + 1)));
        }
    }
    order
}

/// Weights by their greatest common divisor, rounded to a bounded total.
fn reduce(weights: &[u32]) -> Vec<u64> {
    let divisor = weights.iter().fold(0, |divisor, weight| gcd(divisor, u64::from(*weight))).max(1);
    let reduced: Vec<u64> = weights.iter().map(|weight| u64::from(*weight) / divisor).collect();
    let total: u64 = reduced.iter().sum();
    let open = reduced.iter().filter(|weight| **weight > 0).count() as u64;
    let bound = MAX_TURNS.max(4 * open);
    if total <= bound {
        return reduced;
    }
    let scaled = |weight: u64| u128::from(weight) * u128::from(bound);
    let mut rounded: Vec<u64> =
        reduced.iter().map(|w| ((scaled(*w) / u128::from(total)) as u64).max(u64::from(*w > 0))).collect();
    let given: u64 = rounded.iter().sum();
    let mut by_remainder: Vec<usize> = (0..reduced.len()).filter(|ix| reduced[*ix] > 0).collect();
    by_remainder.sort_by_key(|ix| (Reverse(scaled(reduced[*ix]) % u128::from(total)), *ix));
    for ix in by_remainder.iter().take(bound.saturating_sub(given) as usize) {
        rounded[*ix] += 1;
    }
    rounded
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn weights_5_1_1_are_interleaved() {
        let order = smooth_order(&[5, 1, 1]);
        assert_eq!(order.len(), 7);
        assert!(order.windows(4).all(|w| w.iter().any(|ix| *ix != 0)), "{order:?}");
    }

    #[test]
    fn common_divisors_and_zero_weights_cost_nothing() {
        assert_eq!(smooth_order(&[1000, 0, 1000]), [0, 2]);
        assert_eq!(smooth_order(&[0, 0]), [] as [u32; 0]);
        assert_eq!(smooth_order(&[]), [] as [u32; 0]);
        assert_eq!(smooth_order(&[30, 20]).len(), 5);
    }

    #[test]
    fn huge_weights_are_rounded_within_one_turn_of_the_bound() {
        let weights = [u32::MAX, 1_000_003, 77_777_777, 5];
        let order = smooth_order(&weights);
        assert!(order.len() as u64 <= MAX_TURNS + 4);
        let total: f64 = weights.iter().map(|w| f64::from(*w)).sum();
        for (ix, weight) in weights.iter().enumerate() {
            let turns = order.iter().filter(|o| **o == ix as u32).count() as f64;
            let ideal = f64::from(*weight) / total * order.len() as f64;
            assert!((turns - ideal).abs() <= 1.0 && turns >= 1.0, "{ix}: {turns} turns, ideal {ideal}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn every_prefix_follows_the_weights_within_one_turn(
            weights in prop::collection::vec(0u32..60, 1..12),
        ) {
            let order = smooth_order(&weights);
            let total: u64 = weights.iter().map(|w| u64::from(*w)).sum();
            let mut turns = vec![0u64; weights.len()];
            for (t, ix) in order.iter().enumerate() {
                turns[*ix as usize] += 1;
                for (count, weight) in turns.iter().zip(&weights) {
                    let ideal = (t as u64 + 1) * u64::from(*weight);
                    prop_assert!((count * total).abs_diff(ideal) < total, "{weights:?} at {t}");
                }
            }
            let divisor = weights.iter().fold(0, |d, w| gcd(d, u64::from(*w))).max(1);
            prop_assert_eq!(order.len() as u64, total / divisor);
        }
    }
}
