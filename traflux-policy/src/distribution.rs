//! How do scores become an action, and how probable was it?
//!
//! *Which K.* An ordered set `(a₁ … a_K)` is drawn without replacement by the Plackett–Luce model,
//! `P = Π_j exp(s_{a_j}) / Σ_{i not in a₁…a_{j−1}} exp(s_i)`, over the groups that may be chosen. Adding
//! independent Gumbel noise to every score and taking the K largest samples exactly this
//! (Kool, van Hoof and Welling, "Stochastic Beams and Where to Find Them", 2019).
//!
//! *Bounded parameters.* Headroom and multipliers are Gaussian latents squashed into
//! [`ActionBounds`]: latent 0 is neutral (multiplier 1, [`ActionSpace::neutral_headroom`]). Only the
//! multipliers of the K chosen groups are drawn; every other group takes its mean, since the routes of
//! a group that may not move gain nothing from noise and the gradient would only get noisier.
//!
//! *What a learner needs.* [`Action::critical`] is the ordered set; [`Action::latent`] is `[headroom, m₁ … m_K]`,
//! the drawn latents in the order of `critical`; [`Action::log_probability`] is the log-density of set and
//! latents together, in latent space, so no squashing enters it. Without exploration nothing is drawn: the most
//! probable action has an empty latent, since a mode is no sample to learn from.

use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use traflux_core::{Action, ActionBounds, GroupIx};

use crate::network::Outputs;
use crate::parameters::uniform;

/// `ln √(2π)`.
const LN_SQRT_TAU: f64 = 0.918_938_533_204_672_7;

/// What a policy may do: how many groups, within which bounds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ActionSpace {
    /// How many groups may move.
    pub critical: usize,
    /// Limits of headroom and multipliers.
    pub bounds: ActionBounds,
    /// Headroom of latent 0, and of policies that choose none.
    pub neutral_headroom: f64,
}

impl Default for ActionSpace {
    fn default() -> Self {
        Self { critical: 4, bounds: ActionBounds::default(), neutral_headroom: 0.15 }
    }
}

impl ActionSpace {
    /// The headroom of a latent: `max · σ(latent + logit(neutral / max))`.
    #[must_use]
    pub fn headroom(&self, latent: f64) -> f64 {
        let max = self.bounds.headroom_max;
        if max.is_nan() || max <= 0.0 {
            return 0.0;
        }
        // At either end the logit would be infinite and no latent could leave the neutral value.
        let neutral = (self.neutral_headroom / max).clamp(0.01, 0.99);
        let logit = (neutral / (1.0 - neutral)).ln();
        max / (1.0 + (-(latent + logit)).exp())
    }

    /// The cost multiplier of a latent: `max^tanh(latent)` above neutral, `min^−tanh(latent)` below.
    #[must_use]
    pub fn multiplier(&self, latent: f64) -> f64 {
        let t = latent.tanh();
        let (least, greatest) = (self.bounds.multiplier_min.max(1e-3), self.bounds.multiplier_max.max(1e-3));
        let multiplier = if t >= 0.0 { greatest.powf(t) } else { least.powf(-t) };
        multiplier.clamp(least.min(greatest), greatest)
    }
}

/// Memory of choosing, kept from one call to the next.
#[derive(Debug, Clone, Default)]
pub(crate) struct Chooser {
    keys: Vec<(f32, u32)>,
}

impl Chooser {
    /// Takes the best `count` groups that may be chosen, by score, or by score and noise; ties go to the
    /// earlier group.
    pub(crate) fn top(
        &mut self,
        scores: &[f32],
        mask: &[bool],
        count: usize,
        mut noise: Option<&mut ChaCha8Rng>,
    ) -> Vec<GroupIx> {
        self.keys.clear();
        for (ix, score) in scores.iter().enumerate() {
            if mask.get(ix).copied().unwrap_or(false) {
                let noise = noise.as_deref_mut().map_or(0.0, gumbel);
                self.keys.push((score + noise, ix as u32));
            }
        }
        let count = count.min(self.keys.len());
        let order = |a: &(f32, u32), b: &(f32, u32)| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1));
        if count > 0 && count < self.keys.len() {
            self.keys.select_nth_unstable_by(count - 1, order);
            self.keys.truncate(count);
        }
        self.keys.sort_unstable_by(order);
        self.keys.iter().take(count).map(|(_, ix)| GroupIx(*ix)).collect()
    }

    /// Draws an action, or takes the most probable one where there is no `noise`.
    pub(crate) fn act(
        &mut self,
        outputs: &Outputs<'_>,
        deviations: [f64; 2],
        mask: &[bool],
        space: &ActionSpace,
        count: usize,
        mut noise: Option<&mut ChaCha8Rng>,
    ) -> Action {
        let critical = self.top(outputs.scores, mask, count, noise.as_deref_mut());
        let explores = noise.is_some();
        let mut draw = |mean: f32, deviation: f64| match noise.as_deref_mut() {
            Some(rng) => mean + (deviation * normal(rng)) as f32,
            None => mean,
        };
        let mut latent = Vec::with_capacity(critical.len() + 1);
        latent.push(draw(outputs.headroom, deviations[0]));
        latent.extend(critical.iter().map(|g| draw(outputs.multipliers[g.ix()], deviations[1])));

        let mut cost_multipliers: Vec<f64> =
            outputs.multipliers.iter().map(|m| space.multiplier(f64::from(*m))).collect();
        for (group, latent) in critical.iter().zip(&latent[1..]) {
            cost_multipliers[group.ix()] = space.multiplier(f64::from(*latent));
        }
        Action {
            headroom: space.headroom(f64::from(latent[0])),
            cost_multipliers,
            log_probability: log_density(outputs, deviations, mask, &critical, &latent),
            value: Some(f64::from(outputs.value)),
            critical,
            latent: if explores { latent } else { Vec::new() },
        }
    }
}

/// Log-probability of an ordered set under the Plackett–Luce model; `−∞` for a set that cannot be drawn.
#[must_use]
pub fn set_log_probability(scores: &[f32], mask: &[bool], critical: &[GroupIx]) -> f64 {
    let mut open: Vec<bool> = mask.to_vec();
    for group in critical {
        match open.get_mut(group.ix()) {
            Some(open) if *open => *open = false,
            _ => return f64::NEG_INFINITY,
        }
    }
    // Backwards: each denominator is the next one plus the group chosen here, so one pass is exact.
    let mut rest =
        log_sum_exp(scores.iter().zip(&open).filter(|(_, open)| **open).map(|(s, _)| f64::from(*s)));
    let mut total = 0.0;
    for group in critical.iter().rev() {
        let score = f64::from(scores[group.ix()]);
        rest = log_sum_exp([rest, score].into_iter());
        total += score - rest;
    }
    total
}

/// Log-density of a drawn action; `−∞` when set and latents do not belong together.
#[must_use]
pub fn log_density(
    outputs: &Outputs<'_>,
    deviations: [f64; 2],
    mask: &[bool],
    critical: &[GroupIx],
    latent: &[f32],
) -> f64 {
    let set = set_log_probability(outputs.scores, mask, critical);
    if !set.is_finite() || latent.len() != critical.len() + 1 {
        return f64::NEG_INFINITY;
    }
    let multipliers = critical.iter().zip(&latent[1..]);
    set + gaussian(latent[0], outputs.headroom, deviations[0])
        + multipliers.map(|(g, z)| gaussian(*z, outputs.multipliers[g.ix()], deviations[1])).sum::<f64>()
}

fn gaussian(value: f32, mean: f32, deviation: f64) -> f64 {
    let z = (f64::from(value) - f64::from(mean)) / deviation;
    -0.5 * z * z - deviation.ln() - LN_SQRT_TAU
}

fn log_sum_exp(values: impl Iterator<Item = f64> + Clone) -> f64 {
    let largest = values.clone().fold(f64::NEG_INFINITY, f64::max);
    if largest == f64::NEG_INFINITY {
        return largest;
    }
    largest + values.map(|v| (v - largest).exp()).sum::<f64>().ln()
}

fn gumbel(rng: &mut ChaCha8Rng) -> f32 {
    // Strictly inside (0, 1), so that both logarithms are finite.
    let u = uniform(rng) + 0.5 / (1u32 << 24) as f32;
    -(-u.min(1.0 - f32::EPSILON).ln()).ln()
}

/// A standard normal number (Box and Muller, 1958).
fn normal(rng: &mut ChaCha8Rng) -> f64 {
    let radius = (-2.0 * (1.0 - f64::from(uniform(rng))).ln()).sqrt();
    radius * (std::f64::consts::TAU * f64::from(uniform(rng))).cos()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rand_chacha::rand_core::SeedableRng;
    use std::collections::BTreeMap;

    #[test]
    fn latent_zero_is_neutral() {
        let space = ActionSpace::default();
        assert!((space.headroom(0.0) - 0.15).abs() < 1e-12);
        assert_eq!(space.multiplier(0.0), 1.0);
    }

    proptest! {
        #[test]
        fn every_latent_lands_inside_the_bounds(
            latent in prop_oneof![-1e6f64..1e6, -3.0..3.0f64],
            headroom_max in 0.0f64..3.0,
            least in 0.0f64..1.0,
            greatest in 1.0f64..10.0,
        ) {
            let bounds = ActionBounds { headroom_max, multiplier_min: least, multiplier_max: greatest };
            let space = ActionSpace { critical: 1, bounds, neutral_headroom: 0.15 };
            prop_assert!((0.0..=headroom_max).contains(&space.headroom(latent)));
            let multiplier = space.multiplier(latent);
            prop_assert!(multiplier >= least && multiplier <= greatest, "{multiplier}");
        }

        #[test]
        fn probabilities_of_all_ordered_pairs_sum_to_one(
            scores in prop::collection::vec(-5.0f32..5.0, 2..6),
            blocked in 0usize..6,
        ) {
            let mask: Vec<bool> = (0..scores.len()).map(|ix| ix != blocked || scores.len() < 3).collect();
            let mut sum = 0.0;
            for a in 0..scores.len() {
                for b in 0..scores.len() {
                    sum += set_log_probability(&scores, &mask, &[GroupIx::from(a), GroupIx::from(b)]).exp();
                }
            }
            prop_assert!((sum - 1.0).abs() < 1e-9, "{sum}");
        }
    }

    #[test]
    fn sampled_sets_have_the_frequencies_that_their_log_probabilities_say() {
        let scores = [1.0f32, 0.0, -0.5, 3.0];
        let mask = [true, true, true, false];
        let mut rng = ChaCha8Rng::seed_from_u64(5);
        let mut chooser = Chooser::default();
        let draws = 60_000;
        let mut seen: BTreeMap<Vec<GroupIx>, f64> = BTreeMap::new();
        for _ in 0..draws {
            *seen.entry(chooser.top(&scores, &mask, 2, Some(&mut rng))).or_default() += 1.0;
        }
        assert_eq!(seen.len(), 6);
        for (set, count) in seen {
            let p = set_log_probability(&scores, &mask, &set).exp();
            let sigma = (p * (1.0 - p) / f64::from(draws)).sqrt();
            assert!((count / f64::from(draws) - p).abs() < 4.0 * sigma, "{set:?}: {count}, expected {p}");
        }
    }

    #[test]
    fn a_set_that_cannot_be_drawn_has_no_probability() {
        let (scores, mask) = ([0.0f32; 3], [true, false, true]);
        for set in [vec![GroupIx(1)], vec![GroupIx(0), GroupIx(0)], vec![GroupIx(9)]] {
            assert_eq!(set_log_probability(&scores, &mask, &set), f64::NEG_INFINITY);
        }
        assert_eq!(set_log_probability(&scores, &mask, &[]), 0.0);
    }

    #[test]
    fn without_noise_the_best_groups_are_taken_in_order_and_ties_go_to_the_earlier() {
        let mut chooser = Chooser::default();
        let scores = [0.5, 2.0, 2.0, 9.0, -1.0];
        let mask = [true, true, true, false, true];
        assert_eq!(chooser.top(&scores, &mask, 3, None), [GroupIx(1), GroupIx(2), GroupIx(0)]);
        assert_eq!(chooser.top(&scores, &mask, 99, None).len(), 4);
        assert!(chooser.top(&scores, &mask, 0, None).is_empty());
        assert!(chooser.top(&[], &[], 3, None).is_empty());
    }

    #[test]
    fn an_action_carries_the_density_of_exactly_what_it_drew() {
        let outputs =
            Outputs { scores: &[0.1, 0.7, -0.3], multipliers: &[0.2, -0.1, 0.0], headroom: 0.4, value: -2.0 };
        let mut rng = ChaCha8Rng::seed_from_u64(11);
        let space = ActionSpace::default();
        let action = Chooser::default().act(&outputs, [0.5, 0.3], &[true; 3], &space, 2, Some(&mut rng));
        assert_eq!(action.latent.len(), 3);
        let again = log_density(&outputs, [0.5, 0.3], &[true; 3], &action.critical, &action.latent);
        assert_eq!(action.log_probability, again);
        for (group, latent) in action.critical.iter().zip(&action.latent[1..]) {
            assert_eq!(action.multiplier(*group), space.multiplier(f64::from(*latent)));
        }
        let left = (0..3).map(GroupIx).find(|g| !action.critical.contains(g)).unwrap();
        assert_eq!(action.multiplier(left), space.multiplier(f64::from(outputs.multipliers[left.ix()])));
        let (bounds, groups) = (space.bounds, 3);
        assert_eq!(action.clone().clamped(&bounds, groups), action);
    }

    #[test]
    fn normal_numbers_have_mean_zero_and_variance_one() {
        let mut rng = ChaCha8Rng::seed_from_u64(2);
        let draws: Vec<f64> = (0..20_000).map(|_| normal(&mut rng)).collect();
        let mean = draws.iter().sum::<f64>() / 2e4;
        let variance = draws.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / 2e4;
        assert!(mean.abs() < 0.03 && (variance - 1.0).abs() < 0.05, "{mean}, {variance}");
    }
}
