//! A world in which a policy acts, step by step (the contract of Gymnasium).

use crate::action::Action;
use crate::error::EnvironmentError;
use crate::observation::{Observation, ObservationSpace};
use crate::reward::Reward;

/// What one step led to.
#[derive(Debug, Clone, PartialEq)]
pub struct Step {
    /// The new state.
    pub observation: Observation,
    /// What the step earned.
    pub reward: Reward,
    /// The episode ended by its own rules.
    pub terminated: bool,
    /// The episode was cut off from outside (its length); the state still has a value.
    pub truncated: bool,
    /// Numbers for people: mean latency, error ratio and so on.
    pub info: Vec<(&'static str, f64)>,
}

/// An environment. `reset` begins an episode; equal seeds and actions give bit-identical steps.
pub trait Environment {
    /// Shape of the observations.
    fn space(&self) -> ObservationSpace;

    /// Begins an episode.
    ///
    /// # Errors
    /// [`EnvironmentError::Failed`] when a stage inside fails.
    fn reset(&mut self, seed: u64) -> Result<Observation, EnvironmentError>;

    /// Applies an action for one learning step.
    ///
    /// # Errors
    /// [`EnvironmentError::NeedsReset`] before `reset` or after an episode's end, [`EnvironmentError::Action`]
    /// for an action of the wrong shape, [`EnvironmentError::Failed`] when a stage inside fails.
    fn step(&mut self, action: &Action) -> Result<Step, EnvironmentError>;
}

impl<E: Environment + ?Sized> Environment for Box<E> {
    fn space(&self) -> ObservationSpace {
        (**self).space()
    }

    fn reset(&mut self, seed: u64) -> Result<Observation, EnvironmentError> {
        (**self).reset(seed)
    }

    fn step(&mut self, action: &Action) -> Result<Step, EnvironmentError> {
        (**self).step(action)
    }
}
