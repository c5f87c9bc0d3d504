//! How much better than expected was each action?
//!
//! Generalised advantage estimation (Schulman et al., 2016): with `δ_t = r_t + γ v'_t − v_t`,
//! `A_t = δ_t + γλ A_{t+1}`, where the sum ends with the segment. `v'_t`, the value of the state *after* the
//! step, is zero only where the episode *terminated*. An episode that was cut off (truncated), or whose
//! next transition was lost, goes on without us: its last state keeps its value.

use std::collections::VecDeque;

use traflux_core::Transition;

/// What a learner aims at, by transition.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Targets {
    /// Advantage of the action over the critic's expectation.
    pub advantages: Vec<f64>,
    /// Target of the critic: advantage plus value.
    pub returns: Vec<f64>,
}

/// Advantages and returns of transitions in order.
///
/// `values` and `next_values` are the critic's, by transition. `continues[t]` says that transition `t + 1`
/// begins where `t` ended; see [`continues`].
///
/// # Panics
/// When the lengths differ.
#[must_use]
pub fn advantages(
    transitions: &[&Transition],
    values: &[f64],
    next_values: &[f64],
    continues: &[bool],
    discount: f64,
    lambda: f64,
) -> Targets {
    let count = transitions.len();
    assert!([values.len(), next_values.len(), continues.len()] == [count; 3], "one entry per transition");
    let mut targets = Targets { advantages: vec![0.0; count], returns: vec![0.0; count] };
    let mut carried = 0.0;
    for t in (0..count).rev() {
        let next = if transitions[t].terminated { 0.0 } else { next_values[t] };
        let delta = transitions[t].reward.total + discount * next - values[t];
        carried = delta + if continues[t] { discount * lambda * carried } else { 0.0 };
        targets.advantages[t] = carried;
        targets.returns[t] = carried + values[t];
    }
    targets
}

/// Whether each transition is continued by the next: the episode goes on, and the next one starts in the very
/// state in which this one ended. So a dropped transition ends a segment and nothing is credited across it.
#[must_use]
pub fn continues(transitions: &[&Transition]) -> Vec<bool> {
    (0..transitions.len())
        .map(|t| {
            let now = transitions[t];
            !now.terminated
                && !now.truncated
                && transitions.get(t + 1).is_some_and(|next| next.observation == now.next_observation)
        })
        .collect()
}

/// A bounded queue of transitions; when it is full, the oldest are dropped and counted.
#[derive(Debug, Clone)]
pub struct ExperienceBuffer {
    transitions: VecDeque<Transition>,
    capacity: usize,
    dropped: u64,
}

impl ExperienceBuffer {
    /// An empty buffer for at most `capacity` transitions (at least 1).
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self { transitions: VecDeque::new(), capacity: capacity.max(1), dropped: 0 }
    }

    /// Takes one transition in.
    pub fn push(&mut self, transition: Transition) {
        if self.transitions.len() == self.capacity {
            self.transitions.pop_front();
            self.dropped += 1;
        }
        self.transitions.push_back(transition);
    }

    /// How many transitions are waiting.
    #[must_use]
    pub fn len(&self) -> usize {
        self.transitions.len()
    }

    /// Whether none is waiting.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.transitions.is_empty()
    }

    /// How many were dropped.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Takes everything out, oldest first.
    pub fn drain(&mut self) -> Vec<Transition> {
        self.transitions.drain(..).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::{Array1, Array2};
    use traflux_core::{Action, Observation, Reward};

    fn state(id: f32) -> Observation {
        Observation { groups: Array2::zeros((1, 1)), context: Array1::from_elem(1, id), mask: vec![true] }
    }

    fn step(from: f32, to: f32, reward: f64) -> Transition {
        Transition {
            observation: state(from),
            action: Action::default(),
            reward: Reward { total: reward, terms: vec![] },
            next_observation: state(to),
            terminated: false,
            truncated: false,
        }
    }

    fn targets(transitions: &[Transition], values: &[f64], next_values: &[f64]) -> Targets {
        let transitions: Vec<&Transition> = transitions.iter().collect();
        advantages(&transitions, values, next_values, &continues(&transitions), 0.5, 1.0)
    }

    #[test]
    fn returns_follow_the_formula_by_hand() {
        // λ = 1: the return is r₀ + γ r₁ + γ² v'₁ = 1 + 0.5·2 + 0.25·8 = 4.
        let found = targets(&[step(0.0, 1.0, 1.0), step(1.0, 2.0, 2.0)], &[3.0, 5.0], &[5.0, 8.0]);
        assert_eq!(found.returns, [4.0, 6.0]);
        assert_eq!(found.advantages, [1.0, 1.0]);
    }

    #[test]
    fn a_terminated_state_has_no_value_and_a_truncated_one_keeps_it() {
        let mut end = step(0.0, 1.0, 1.0);
        end.truncated = true;
        assert_eq!(targets(&[end.clone()], &[0.0], &[10.0]).returns, [6.0]);
        end.terminated = true;
        assert_eq!(targets(&[end], &[0.0], &[10.0]).returns, [1.0]);
    }

    #[test]
    fn nothing_is_credited_across_an_episode_end_or_a_lost_transition() {
        let lost = [step(0.0, 1.0, 0.0), step(2.0, 3.0, 100.0)];
        assert_eq!(targets(&lost, &[0.0; 2], &[0.0; 2]).returns[0], 0.0);
        let mut ended = [step(0.0, 1.0, 0.0), step(1.0, 2.0, 100.0)];
        assert_eq!(targets(&ended, &[0.0; 2], &[0.0; 2]).returns[0], 50.0);
        ended[0].truncated = true;
        assert_eq!(targets(&ended, &[0.0; 2], &[0.0; 2]).returns[0], 0.0);
    }

    #[test]
    fn a_full_buffer_drops_the_oldest_and_counts_it() {
        let mut buffer = ExperienceBuffer::new(2);
        for id in 0..5 {
            buffer.push(step(id as f32, 0.0, f64::from(id)));
        }
        assert_eq!((buffer.len(), buffer.dropped()), (2, 3));
        let rewards: Vec<f64> = buffer.drain().iter().map(|t| t.reward.total).collect();
        assert_eq!(rewards, [3.0, 4.0]);
        assert!(buffer.is_empty());
    }
}
