//! What does the policy decide?
//!
//! Never a weight: it chooses *which* groups may move and a few bounded parameters of the linear program.
//! So an arbitrary policy is harmless behind the solver and the guard.

use serde::{Deserialize, Serialize};

use crate::topology::GroupIx;

/// Limits of an action; every policy's output is clamped to them.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct ActionBounds {
    /// Most demand headroom: the solver plans for `demand · (1 + headroom)`.
    pub headroom_max: f64,
    /// Least cost multiplier of a group.
    pub multiplier_min: f64,
    /// Greatest cost multiplier of a group.
    pub multiplier_max: f64,
}

impl Default for ActionBounds {
    fn default() -> Self {
        Self { headroom_max: 1.0, multiplier_min: 0.5, multiplier_max: 2.0 }
    }
}

/// One decision of a policy.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Action {
    /// The groups whose routes the solver may move, best first. Groups in breach are added beyond these.
    pub critical: Vec<GroupIx>,
    /// Demand headroom in [0, [`ActionBounds::headroom_max`]].
    pub headroom: f64,
    /// A factor on the latency cost of each group, 1 = neutral; empty = all neutral.
    pub cost_multipliers: Vec<f64>,
    /// Logarithm of the probability (density) with which the policy took this action.
    pub log_probability: f64,
    /// The critic's value of the state, where there is one.
    pub value: Option<f64>,
    /// The policy's own sample before bounds were applied; a learner needs it, nobody else reads it.
    pub latent: Vec<f32>,
}

impl Action {
    /// Lets the given groups move, with no headroom and neutral multipliers.
    #[must_use]
    pub fn choose(critical: Vec<GroupIx>) -> Self {
        Self { critical, ..Self::default() }
    }

    /// Lets those `count` groups move that have the highest scores, best first: of equal ones the first, and none
    /// that the mask closes or whose score is NaN. A group without a score or a place in the mask is left out.
    #[must_use]
    pub fn highest(scores: &[f32], mask: &[bool], count: usize) -> Self {
        let open = scores.iter().zip(mask).enumerate().filter(|(_, (score, open))| **open && !score.is_nan());
        let mut groups: Vec<(f32, GroupIx)> =
            open.map(|(ix, (score, _))| (*score, GroupIx::from(ix))).collect();
        groups.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        groups.truncate(count);
        Self::choose(groups.into_iter().map(|(_, group)| group).collect())
    }

    /// The cost multiplier of a group.
    #[must_use]
    pub fn multiplier(&self, group: GroupIx) -> f64 {
        self.cost_multipliers.get(group.ix()).copied().unwrap_or(1.0)
    }

    /// The same action inside the bounds: NaN becomes neutral, groups outside `0..groups` and repeated
    /// ones are dropped, the rest is clamped.
    #[must_use]
    pub fn clamped(mut self, bounds: &ActionBounds, groups: usize) -> Self {
        let mut seen = vec![false; groups];
        self.critical.retain(|g| g.ix() < groups && !std::mem::replace(&mut seen[g.ix()], true));
        self.headroom =
            if self.headroom.is_nan() { 0.0 } else { self.headroom.clamp(0.0, bounds.headroom_max) };
        self.cost_multipliers.truncate(groups);
        for multiplier in &mut self.cost_multipliers {
            *multiplier = if multiplier.is_nan() {
                1.0
            } else {
                multiplier.clamp(bounds.multiplier_min, bounds.multiplier_max)
            };
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_highest_scores_of_open_groups_are_chosen_and_ties_go_to_the_first() {
        let scores = [0.5, f32::NAN, 2.0, 0.5, 9.0];
        let action = Action::highest(&scores, &[true, true, true, true, false], 2);
        assert_eq!(action.critical, [GroupIx(2), GroupIx(0)]);
        assert_eq!(Action::highest(&scores, &[true; 5], 9).critical.len(), 4);
    }

    #[test]
    fn an_action_from_a_broken_policy_is_clamped_to_its_bounds() {
        let action = Action {
            critical: vec![GroupIx(1), GroupIx(9), GroupIx(1)],
            headroom: f64::NAN,
            cost_multipliers: vec![f64::INFINITY, f64::NAN, -3.0, 1.0],
            ..Action::default()
        };
        let clamped = action.clamped(&ActionBounds::default(), 3);
        assert_eq!(clamped.critical, [GroupIx(1)]);
        assert_eq!(clamped.headroom, 0.0);
        assert_eq!(clamped.cost_multipliers, [2.0, 1.0, 0.5]);
    }
}
