//! How do the losses change with the scores?
//!
//! With `p_i = exp(s_i) / Σ_open exp(s_j)` over the groups that may be chosen.

use traflux_core::GroupIx;

/// Scores as positive weights `exp(s − max)`, 0 for groups that may not be chosen.
#[derive(Debug, Default)]
pub(super) struct Weights {
    values: Vec<f64>,
    sum: f64,
}

impl Weights {
    pub(super) fn set(&mut self, scores: &[f32], mask: &[bool]) {
        let open = || scores.iter().zip(mask).filter(|(_, open)| **open).map(|(s, _)| *s);
        let greatest = open().fold(f32::NEG_INFINITY, f32::max);
        let weight = |(score, open): (&f32, &bool)| {
            if *open { f64::from(score - greatest).exp() } else { 0.0 }
        };
        self.values.clear();
        self.values.extend(scores.iter().zip(mask).map(weight));
        self.sum = self.values.iter().sum();
    }

    /// Adds the derivatives of `−factor ln P(set)`, `P` the Plackett–Luce probability of
    /// [`distribution`](crate::distribution). With `R_j` the sum of weights left before place `j` and
    /// `C_j = Σ_{i ≤ j} 1 / R_i` it is `factor (w_i C − 1)`, `C` at the place of a chosen group and `C_K` elsewhere;
    /// the part of groups that were not chosen is only summed up here, see [`Weights::add_rest`].
    pub(super) fn add_set(&self, set: &[GroupIx], factor: f64, rest: &mut f64, derivatives: &mut [f64]) {
        let mut left: f64 = self.left_of(set);
        // Backwards: each sum is the next one plus the group chosen here, so nothing is lost to cancellation.
        let mut sums = vec![0.0; set.len()];
        for (sum, group) in sums.iter_mut().zip(set).rev() {
            left += self.values[group.ix()];
            *sum = left;
        }
        let last: f64 = sums.iter().map(|sum| 1.0 / sum.max(f64::MIN_POSITIVE)).sum();
        let mut so_far = 0.0;
        for (group, sum) in set.iter().zip(&sums) {
            so_far += 1.0 / sum.max(f64::MIN_POSITIVE);
            derivatives[group.ix()] += factor * (self.values[group.ix()] * (so_far - last) - 1.0);
        }
        *rest += factor * last;
    }

    /// Adds what all sets of [`Weights::add_set`] have in common.
    pub(super) fn add_rest(&self, rest: f64, derivatives: &mut [f64]) {
        for (derivative, weight) in derivatives.iter_mut().zip(&self.values) {
            *derivative += rest * weight;
        }
    }

    /// Adds the derivatives of `−factor H`, `H = −Σ p ln p` the entropy of the first choice; gives `H`.
    pub(super) fn add_entropy(&self, factor: f64, derivatives: &mut [f64]) -> f64 {
        let p = |weight: &f64| weight / self.sum;
        let open = || self.values.iter().filter(|weight| **weight > 0.0);
        let entropy: f64 = -open().map(|weight| p(weight) * p(weight).ln()).sum::<f64>();
        for (derivative, weight) in derivatives.iter_mut().zip(&self.values) {
            if *weight > 0.0 {
                *derivative += factor * p(weight) * (p(weight).ln() + entropy);
            }
        }
        entropy
    }

    /// Adds the derivatives of `−(factor / K) Σ_{i ∈ set} ln (w_i / (w_i + R))` with `R` the weights outside of the
    /// set: each member against all that are none, whatever the order inside. Gives the loss for a factor of 1.
    pub(super) fn add_example(&self, set: &[GroupIx], factor: f64, derivatives: &mut [f64]) -> f64 {
        let outside = self.left_of(set).max(f64::MIN_POSITIVE);
        let factor = factor / set.len().max(1) as f64;
        let (mut pull, mut loss) = (0.0, 0.0);
        for group in set {
            let sum = self.values[group.ix()] + outside;
            loss -= (self.values[group.ix()].max(f64::MIN_POSITIVE) / sum).ln();
            // Minus what the sum over all groups adds below.
            derivatives[group.ix()] -= factor * outside / sum;
            pull += 1.0 / sum;
        }
        let mut members = set.iter().map(|group| group.ix()).collect::<Vec<_>>();
        members.sort_unstable();
        for (group, (derivative, weight)) in derivatives.iter_mut().zip(&self.values).enumerate() {
            if members.binary_search(&group).is_err() {
                *derivative += factor * weight * pull;
            }
        }
        loss / set.len().max(1) as f64
    }

    /// Sum of the weights outside of a set.
    fn left_of(&self, set: &[GroupIx]) -> f64 {
        let mut members: Vec<usize> = set.iter().map(|group| group.ix()).collect();
        members.sort_unstable();
        let mut next = members.into_iter().peekable();
        let outside = |(group, _): &(usize, &f64)| next.next_if_eq(group).is_none();
        self.values.iter().enumerate().filter(outside).map(|(_, weight)| weight).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::distribution::set_log_probability;

    const SCORES: [f32; 6] = [0.3, -1.0, 2.0, 0.1, 0.9, -0.4];
    const MASK: [bool; 6] = [true, true, true, true, true, false];

    fn difference(loss: impl Fn(&[f32]) -> f64, at: usize) -> f64 {
        let moved = |step: f32| {
            let mut scores = SCORES;
            scores[at] += step;
            loss(&scores)
        };
        (moved(1e-2) - moved(-1e-2)) / 2e-2
    }

    #[test]
    fn derivatives_of_sets_agree_with_differences() {
        let sets = [[2, 0, 4].map(GroupIx), [1, 2, 3].map(GroupIx)];
        let factors = [0.7, -0.2];
        let loss = |scores: &[f32]| {
            let of = |(set, factor): (&[GroupIx; 3], &f64)| -factor * set_log_probability(scores, &MASK, set);
            sets.iter().zip(&factors).map(of).sum::<f64>()
        };
        let mut weights = Weights::default();
        weights.set(&SCORES, &MASK);
        let (mut derivatives, mut rest) = (vec![0.0; 6], 0.0);
        for (set, factor) in sets.iter().zip(&factors) {
            weights.add_set(set, *factor, &mut rest, &mut derivatives);
        }
        weights.add_rest(rest, &mut derivatives);
        for at in 0..6 {
            let expected = difference(loss, at);
            assert!((derivatives[at] - expected).abs() < 1e-4, "{at}: {} {expected}", derivatives[at]);
        }
    }

    #[test]
    fn derivatives_of_entropy_and_examples_agree_with_differences() {
        let set = [4, 1].map(GroupIx);
        let entropy = |scores: &[f32]| {
            let mut weights = Weights::default();
            weights.set(scores, &MASK);
            -weights.add_entropy(0.0, &mut [0.0; 6])
        };
        let example = |scores: &[f32]| {
            let mut weights = Weights::default();
            weights.set(scores, &MASK);
            weights.add_example(&set, 0.0, &mut [0.0; 6])
        };
        let mut weights = Weights::default();
        weights.set(&SCORES, &MASK);
        let (mut of_entropy, mut of_example) = ([0.0; 6], [0.0; 6]);
        weights.add_entropy(1.0, &mut of_entropy);
        weights.add_example(&set, 1.0, &mut of_example);
        for at in 0..6 {
            assert!((of_entropy[at] - difference(entropy, at)).abs() < 1e-4, "{at}");
            assert!((of_example[at] - difference(example, at)).abs() < 1e-4, "{at}");
        }
    }
}
