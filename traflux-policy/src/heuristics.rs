//! What does a policy without a network do?
//!
//! [`TopK`] takes the groups that promise the most relief, [`AllCritical`] lets everything move,
//! [`FixedSet`] always the same groups. They are baselines for learning, and what runs where there is none.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use ndarray::ArrayView1;
use traflux_core::{Action, GroupIx, Observation, ObservationSpace, Policy, PolicyError};

use crate::distribution::{ActionSpace, Chooser};
use crate::encode::feature;

/// How many groups may move: a number that may change while a policy runs; clones share it.
#[derive(Debug, Clone)]
pub struct CriticalCount(Arc<AtomicUsize>);

impl CriticalCount {
    /// A count that starts at `count`.
    #[must_use]
    pub fn new(count: usize) -> Self {
        Self(Arc::new(AtomicUsize::new(count)))
    }

    /// The count in use.
    #[must_use]
    pub fn current(&self) -> usize {
        self.0.load(Ordering::Acquire)
    }

    /// Changes it for every holder, from the next decision on.
    pub fn set(&self, count: usize) {
        self.0.store(count, Ordering::Release);
    }
}

impl From<usize> for CriticalCount {
    fn from(count: usize) -> Self {
        Self::new(count)
    }
}

/// The K groups that promise the most relief.
///
/// With utilisation `u`, its mean `ū` over groups that may be chosen, relative traffic `t` and relative spare
/// capacity `f` of a group (1 = an even share of the fleet's), `ℓ` its log latency ratio, `e` its errors and
/// timeouts, `p` its price above the mean price (relative), `b` = 1 in breach, `n` the number of decisions since
/// it was chosen last, and `x⁺ = max(x, 0)`:
///
/// ```text
/// relief = t · ((u − ū)⁺ + ℓ⁺ + e + p⁺)      of moving traffic away
///        + f · ((ū − u)⁺ + (−p)⁺)             of moving traffic here
/// score  = (1 − b) · (1 + n) · relief
/// ```
///
/// Both sides count, because a group that must give needs another that may take. What is in breach moves
/// whether it is chosen or not, so no choice is spent on it. Waiting counts, because relief is a guess: with
/// K = 1 a group whose relief never comes true would keep all others where they are.
#[derive(Debug, Clone)]
pub struct TopK {
    count: CriticalCount,
    headroom: f64,
    columns: Columns,
    chooser: Chooser,
    scores: Vec<f32>,
    /// By group: decisions since it was chosen last.
    waited: Vec<u32>,
}

/// Where the score's inputs are; a feature that the encoder does not give counts as zero.
#[derive(Debug, Clone, Copy)]
struct Columns {
    breach: Option<usize>,
    traffic: Option<usize>,
    spare: Option<usize>,
    utilization: Option<usize>,
    latency_ratio: Option<usize>,
    errors: Option<usize>,
    censored: Option<usize>,
    price: Option<usize>,
    width: usize,
}

impl TopK {
    /// A policy for observations of one space, with that headroom and neutral multipliers.
    #[must_use]
    pub fn new(count: impl Into<CriticalCount>, headroom: f64, space: &ObservationSpace) -> Self {
        let column = |name| space.group_features.iter().position(|f| f == name);
        Self {
            count: count.into(),
            headroom,
            columns: Columns {
                breach: column(feature::BREACH),
                traffic: column(feature::TRAFFIC_RELATIVE),
                spare: column(feature::SPARE_RELATIVE),
                utilization: column(feature::UTILIZATION),
                latency_ratio: column(feature::LATENCY_RATIO),
                errors: column(feature::ERROR_RATIO),
                censored: column(feature::CENSORED_RATIO),
                price: column(feature::PRICE),
                width: space.group_features.len(),
            },
            chooser: Chooser::default(),
            scores: Vec::new(),
            waited: Vec::new(),
        }
    }

    /// The score of every group.
    ///
    /// # Errors
    /// [`PolicyError::Shape`] when the observation is of another space.
    pub fn scores(&mut self, observation: &Observation) -> Result<&[f32], PolicyError> {
        let columns = self.columns;
        if observation.groups.ncols() != columns.width {
            return Err(PolicyError::Shape { expected: columns.width, found: observation.groups.ncols() });
        }
        let value = |row: &ArrayView1<'_, f32>, column: Option<usize>| {
            column.map_or(0.0, |c| if row[c].is_finite() { row[c] } else { 0.0 })
        };
        let rows = || observation.groups.rows().into_iter();
        let (mut sum, mut counted) = (0.0, 0.0f32);
        for (row, open) in rows().zip(&observation.mask) {
            if *open {
                sum += value(&row, columns.utilization);
                counted += 1.0;
            }
        }
        let mean = sum / counted.max(1.0);
        self.scores.clear();
        if self.waited.len() != observation.len() {
            // Other groups have come: nobody has waited yet.
            self.waited.clear();
            self.waited.resize(observation.len(), 0);
        }
        self.scores.extend(rows().zip(&self.waited).map(|(row, waited)| {
            let excess = value(&row, columns.utilization) - mean;
            let price = value(&row, columns.price);
            let away = excess.max(0.0)
                + value(&row, columns.latency_ratio).max(0.0)
                + value(&row, columns.errors)
                + value(&row, columns.censored)
                + price.max(0.0);
            let here = (-excess).max(0.0) + (-price).max(0.0);
            let relief = value(&row, columns.traffic) * away + value(&row, columns.spare) * here;
            (1.0 - value(&row, columns.breach)) * (1.0 + *waited as f32) * relief
        }));
        Ok(&self.scores)
    }
}

impl Policy for TopK {
    fn act(&mut self, observation: &Observation) -> Result<Action, PolicyError> {
        self.scores(observation)?;
        let count = self.count.current();
        let critical = self.chooser.top(&self.scores, &observation.mask, count, None);
        for waited in &mut self.waited {
            *waited = waited.saturating_add(1);
        }
        for group in &critical {
            self.waited[group.ix()] = 0;
        }
        Ok(Action { headroom: self.headroom, ..Action::choose(critical) })
    }

    fn holds(&self) -> bool {
        false
    }
}

/// Every group that may be chosen.
#[derive(Debug, Clone, Copy)]
pub struct AllCritical {
    headroom: f64,
}

impl AllCritical {
    /// Lets everything move, with that headroom.
    #[must_use]
    pub fn new(headroom: f64) -> Self {
        Self { headroom }
    }
}

impl Default for AllCritical {
    fn default() -> Self {
        Self::new(ActionSpace::default().neutral_headroom)
    }
}

impl Policy for AllCritical {
    fn act(&mut self, observation: &Observation) -> Result<Action, PolicyError> {
        let open = observation.mask.iter().enumerate().filter(|(_, open)| **open);
        let critical = open.map(|(ix, _)| GroupIx::from(ix)).collect();
        Ok(Action { headroom: self.headroom, ..Action::choose(critical) })
    }

    fn holds(&self) -> bool {
        false
    }
}

/// Always the same groups, those of them that exist and may be chosen.
#[derive(Debug, Clone)]
pub struct FixedSet {
    groups: Vec<GroupIx>,
    headroom: f64,
}

impl FixedSet {
    /// Lets these groups move, best first, with that headroom.
    #[must_use]
    pub fn new(groups: Vec<GroupIx>, headroom: f64) -> Self {
        Self { groups, headroom }
    }
}

impl Policy for FixedSet {
    fn act(&mut self, observation: &Observation) -> Result<Action, PolicyError> {
        let open = |g: &GroupIx| observation.mask.get(g.ix()).copied().unwrap_or(false);
        let critical = self.groups.iter().copied().filter(open).collect();
        Ok(Action { headroom: self.headroom, ..Action::choose(critical) })
    }

    fn holds(&self) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::{Array1, Array2};

    fn space() -> ObservationSpace {
        let names = [
            feature::UTILIZATION,
            feature::TRAFFIC_RELATIVE,
            feature::SPARE_RELATIVE,
            feature::PRICE,
            feature::BREACH,
        ];
        ObservationSpace {
            group_features: names.iter().map(|n| (*n).to_owned()).collect(),
            context_features: vec![],
        }
    }

    fn observation(rows: &[[f32; 5]]) -> Observation {
        Observation {
            groups: Array2::from_shape_fn((rows.len(), 5), |(i, j)| rows[i][j]),
            context: Array1::zeros(0),
            mask: vec![true; rows.len()],
        }
    }

    #[test]
    fn top_k_picks_the_overloaded_endpoint_and_the_one_with_room() {
        let mut policy = TopK::new(2, 0.15, &space());
        let state = observation(&[
            [0.60, 1.0, 0.8, 0.0, 0.0],
            [0.98, 1.4, 0.0, 0.0, 0.0],
            [0.62, 1.0, 0.8, 0.0, 0.0],
            [0.10, 0.2, 2.4, 0.0, 0.0],
        ]);
        let action = policy.act(&state).unwrap();
        let mut chosen = action.critical.clone();
        chosen.sort();
        assert_eq!(chosen, [GroupIx(1), GroupIx(3)]);
        assert_eq!((action.headroom, action.multiplier(GroupIx(0))), (0.15, 1.0));
    }

    #[test]
    fn top_k_spends_no_choice_on_what_is_in_breach_and_moves_anyway() {
        let mut policy = TopK::new(1, 0.0, &space());
        let state = observation(&[[0.5, 1.0, 0.5, 0.2, 0.0], [0.9, 2.0, 0.1, 0.0, 1.0]]);
        assert_eq!(policy.act(&state).unwrap().critical, [GroupIx(0)]);
    }

    #[test]
    fn with_one_choice_every_group_with_some_relief_has_its_turn() {
        let mut policy = TopK::new(1, 0.0, &space());
        let state =
            observation(&[[0.9, 2.0, 0.1, 0.0, 0.0], [0.4, 1.0, 1.0, 0.0, 0.0], [0.5, 0.1, 1.2, 0.3, 0.0]]);
        let mut turns = [0; 3];
        for _ in 0..60 {
            turns[policy.act(&state).unwrap().critical[0].ix()] += 1;
        }
        assert!(turns[0] > turns[1] && turns[1] > turns[2] && turns[2] >= 3, "{turns:?}");
    }

    #[test]
    fn top_k_never_picks_what_is_masked_and_survives_not_a_number() {
        let mut policy = TopK::new(3, 0.0, &space());
        let mut state = observation(&[[f32::NAN; 5], [0.9, 1.0, 0.1, 0.0, 1.0]]);
        state.mask[1] = false;
        assert_eq!(policy.act(&state).unwrap().critical, [GroupIx(0)]);
        assert!(policy.act(&observation(&[])).unwrap().critical.is_empty());
    }

    #[test]
    fn top_k_refuses_an_observation_of_another_space() {
        let mut policy = TopK::new(3, 0.0, &space());
        let other = Observation { groups: Array2::zeros((2, 4)), ..observation(&[]) };
        assert_eq!(policy.act(&other), Err(PolicyError::Shape { expected: 5, found: 4 }));
    }

    #[test]
    fn the_count_changes_while_the_policy_runs() {
        let count = CriticalCount::new(1);
        let mut policy = TopK::new(count.clone(), 0.0, &space());
        let state = observation(&[[0.5; 5], [0.6; 5], [0.7; 5]]);
        assert_eq!(policy.act(&state).unwrap().critical.len(), 1);
        count.set(2);
        assert_eq!(policy.act(&state).unwrap().critical.len(), 2);
    }

    #[test]
    fn a_fixed_set_leaves_out_groups_that_are_gone_or_masked() {
        let mut state = observation(&[[0.0; 5], [0.0; 5]]);
        state.mask[0] = false;
        let mut policy = FixedSet::new(vec![GroupIx(7), GroupIx(0), GroupIx(1)], 0.3);
        assert_eq!(policy.act(&state).unwrap().critical, [GroupIx(1)]);
        assert_eq!(AllCritical::default().act(&state).unwrap().critical, [GroupIx(1)]);
    }
}
