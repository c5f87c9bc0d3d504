//! What does a learner learn from?

use serde::{Deserialize, Serialize};

use crate::action::Action;
use crate::observation::Observation;
use crate::reward::Reward;

/// One learning step: the action that was held, what it led to, and what it earned.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Transition {
    /// State in which the action was taken.
    pub observation: Observation,
    /// The action, held for the whole step.
    pub action: Action,
    /// What the held action earned.
    pub reward: Reward,
    /// State after it.
    pub next_observation: Observation,
    /// The episode ended by its own rules: the next state has no value.
    pub terminated: bool,
    /// The episode was cut off: the next state still has a value.
    pub truncated: bool,
}
