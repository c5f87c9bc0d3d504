//! How does a trained network act, and when should it rather not?
//!
//! Frozen, the policy takes the most probable action; exploring, it draws from a seeded generator. An observation
//! outside the range of training ([`InputRange`](crate::InputRange)) is not for the network: the policy then acts
//! as [`TopK`] with neutral parameters, or as a plain policy it was given, and counts it in its [`PolicyStatus`]. Such
//! an action has no latent, so no learner takes it for one of the network's.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use serde::{Deserialize, Serialize};
use traflux_core::{Action, Observation, ObservationSpace, Policy, PolicyError};

use crate::checkpoint::{Checkpoint, CheckpointError};
use crate::distribution::{ActionSpace, Chooser};
use crate::heuristics::{CriticalCount, TopK};
use crate::network::Workspace;
use crate::range::OutOfRange;
use crate::shared::SharedParameters;

/// How far outside the range of training an input may be, in spans of that range.
pub const DEFAULT_MARGIN: f32 = 0.5;

/// Whether a policy explores.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "mode")]
pub enum Mode {
    /// The most probable action, always.
    Frozen,
    /// Actions drawn at random, for learning; frozen while the [`SharedParameters`] are.
    Exploring {
        /// Seed of the draws.
        seed: u64,
    },
}

/// Counts of what a policy did; readable from any thread while it runs.
#[derive(Debug, Default)]
pub struct PolicyStatus {
    decisions: AtomicU64,
    fallbacks: AtomicU64,
    last: Mutex<Option<OutOfRange>>,
}

impl PolicyStatus {
    /// How many decisions were taken.
    #[must_use]
    pub fn decisions(&self) -> u64 {
        self.decisions.load(Ordering::Relaxed)
    }

    /// How many of them were the fallback's, because the state was outside the range of training.
    #[must_use]
    pub fn fallbacks(&self) -> u64 {
        self.fallbacks.load(Ordering::Relaxed)
    }

    /// What put the last state outside the range of training; `None` when the network decided last.
    #[must_use]
    pub fn out_of_range(&self) -> Option<OutOfRange> {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn record(&self, hit: Option<OutOfRange>) {
        self.decisions.fetch_add(1, Ordering::Relaxed);
        self.fallbacks.fetch_add(u64::from(hit.is_some()), Ordering::Relaxed);
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = hit;
    }
}

/// Who acts outside the range of training.
enum Fallback {
    TopK(Box<TopK>),
    Given(Box<dyn Policy>),
}

impl std::fmt::Debug for Fallback {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::TopK(policy) => policy.fmt(f),
            Self::Given(_) => f.write_str("Given(..)"),
        }
    }
}

/// A network that acts, with a plain policy to fall back to.
#[derive(Debug)]
pub struct LearnedPolicy {
    parameters: SharedParameters,
    space: ActionSpace,
    count: CriticalCount,
    rng: Option<ChaCha8Rng>,
    margin: Option<f32>,
    fallback: Fallback,
    status: Arc<PolicyStatus>,
    workspace: Workspace,
    chooser: Chooser,
}

impl LearnedPolicy {
    /// A policy on shared parameters for observations of one space.
    ///
    /// # Errors
    /// [`PolicyError::Shape`] when the parameters are for another number of features.
    pub fn new(
        parameters: SharedParameters,
        observations: &ObservationSpace,
        space: ActionSpace,
        mode: Mode,
    ) -> Result<Self, PolicyError> {
        let shape = parameters.load().shape();
        let (groups, context) = (observations.group_features.len(), observations.context_features.len());
        check_features(shape.group_features, groups)?;
        check_features(shape.context_features, context)?;
        let count = CriticalCount::new(space.critical);
        let mut policy = Self {
            parameters,
            space,
            fallback: Fallback::TopK(Box::new(TopK::new(
                count.clone(),
                space.neutral_headroom,
                observations,
            ))),
            count,
            rng: None,
            margin: Some(DEFAULT_MARGIN),
            status: Arc::new(PolicyStatus::default()),
            workspace: Workspace::default(),
            chooser: Chooser::default(),
        };
        policy.set_mode(mode);
        Ok(policy)
    }

    /// A frozen policy from a checkpoint, for an encoder's observations.
    ///
    /// # Errors
    /// [`CheckpointError::Features`] when the checkpoint was trained on other features.
    pub fn from_checkpoint(
        checkpoint: &Checkpoint,
        observations: &ObservationSpace,
    ) -> Result<Self, CheckpointError> {
        checkpoint.check_space(observations)?;
        let shared = SharedParameters::new(checkpoint.parameters.clone());
        Ok(Self::new(shared, observations, checkpoint.actions, Mode::Frozen)
            .expect("a checkpoint's parameters fit the features it names"))
    }

    /// Shares the number of groups that may move; a fallback that was given keeps its own.
    #[must_use]
    pub fn with_critical_count(mut self, count: CriticalCount, observations: &ObservationSpace) -> Self {
        if let Fallback::TopK(_) = self.fallback {
            let plain = TopK::new(count.clone(), self.space.neutral_headroom, observations);
            self.fallback = Fallback::TopK(Box::new(plain));
        }
        self.count = count;
        self
    }

    /// Sets how far outside the range of training an input may be, in spans of that range; `None` never
    /// falls back, which is for training in simulation.
    #[must_use]
    pub fn with_margin(mut self, margin: Option<f32>) -> Self {
        self.margin = margin;
        self
    }

    /// Falls back to this policy instead of [`TopK`], for observations for which there is a better rule.
    #[must_use]
    pub fn with_fallback(mut self, policy: Box<dyn Policy>) -> Self {
        self.fallback = Fallback::Given(policy);
        self
    }

    /// Starts or ends exploration.
    pub fn set_mode(&mut self, mode: Mode) {
        self.rng = match mode {
            Mode::Frozen => None,
            Mode::Exploring { seed } => Some(ChaCha8Rng::seed_from_u64(seed)),
        };
    }

    /// The parameters in use.
    #[must_use]
    pub fn parameters(&self) -> &SharedParameters {
        &self.parameters
    }

    /// The number of groups that may move, changeable while the policy runs.
    #[must_use]
    pub fn critical_count(&self) -> &CriticalCount {
        &self.count
    }

    /// The counts, which stay readable after the policy is boxed.
    #[must_use]
    pub fn status(&self) -> Arc<PolicyStatus> {
        Arc::clone(&self.status)
    }
}

impl Policy for LearnedPolicy {
    fn act(&mut self, observation: &Observation) -> Result<Action, PolicyError> {
        let parameters = self.parameters.load();
        let shape = parameters.shape();
        check_features(shape.group_features, observation.groups.ncols())?;
        check_features(shape.context_features, observation.context.len())?;
        if observation.mask.len() != observation.len() {
            let (mask, groups) = (observation.mask.len(), observation.len());
            return Err(PolicyError::Failed {
                reason: format!("mask of {mask} entries for {groups} groups"),
            });
        }
        if shape.identities != 0 && shape.identities != observation.len() {
            let (known, groups) = (shape.identities, observation.len());
            return Err(PolicyError::Failed {
                reason: format!("trained for {known} groups that it knows, used for {groups}"),
            });
        }
        let range = parameters.range().zip(self.margin);
        if let Some(hit) = range.and_then(|(range, margin)| range.check(observation, margin)) {
            self.status.record(Some(hit));
            return match &mut self.fallback {
                Fallback::TopK(policy) => policy.act(observation),
                Fallback::Given(policy) => policy.act(observation),
            };
        }
        let outputs = parameters.forward(observation, &mut self.workspace);
        if let Some((what, value)) = outputs.not_finite() {
            return Err(PolicyError::NotFinite { what, value: f64::from(value) });
        }
        self.status.record(None);
        let noise = self.rng.as_mut().filter(|_| !self.parameters.is_frozen());
        let (deviations, count) = (parameters.deviations(), self.count.current());
        Ok(self.chooser.act(&outputs, deviations, &observation.mask, &self.space, count, noise))
    }
}

fn check_features(expected: usize, found: usize) -> Result<(), PolicyError> {
    if expected == found { Ok(()) } else { Err(PolicyError::Shape { expected, found }) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parameters::{NetworkShape, Parameters};
    use crate::range::InputRange;
    use ndarray::{Array1, Array2};

    fn space() -> ObservationSpace {
        ObservationSpace {
            group_features: vec!["utilization".into(), "traffic_relative".into()],
            context_features: vec!["load".into()],
        }
    }

    fn observation(groups: usize, scale: f32) -> Observation {
        Observation {
            groups: Array2::from_shape_fn((groups, 2), |(i, j)| scale * (i as f32 / 7.0 + j as f32 / 3.0)),
            context: Array1::from_elem(1, 0.5),
            mask: vec![true; groups],
        }
    }

    fn parameters() -> Parameters {
        Parameters::seeded(
            NetworkShape { group_features: 2, context_features: 1, hidden: 8, identities: 0 },
            4,
        )
    }

    fn policy(parameters: Parameters, mode: Mode) -> LearnedPolicy {
        LearnedPolicy::new(SharedParameters::new(parameters), &space(), ActionSpace::default(), mode).unwrap()
    }

    #[test]
    fn a_frozen_policy_repeats_itself_and_an_exploring_one_repeats_with_its_seed() {
        let state = observation(9, 1.0);
        let mut frozen = policy(parameters(), Mode::Frozen);
        assert_eq!(frozen.act(&state), frozen.act(&state));
        assert!(frozen.act(&state).unwrap().latent.is_empty(), "nothing was drawn");
        let run = |seed| {
            let mut policy = policy(parameters(), Mode::Exploring { seed });
            (0..20).map(|_| policy.act(&state).unwrap()).collect::<Vec<_>>()
        };
        assert_eq!(run(1), run(1));
        assert_ne!(run(1), run(2));
    }

    #[test]
    fn freezing_the_shared_parameters_ends_exploration_of_a_running_policy() {
        let state = observation(9, 1.0);
        let mut exploring = policy(parameters(), Mode::Exploring { seed: 1 });
        exploring.parameters().freeze();
        assert_eq!(exploring.act(&state), policy(parameters(), Mode::Frozen).act(&state));
    }

    #[test]
    fn outside_the_range_of_training_the_policy_acts_as_top_k_and_says_so() {
        let mut trained = parameters();
        let mut range = InputRange::empty(2, 1);
        range.extend(&observation(9, 1.0));
        trained.range = Some(range);
        let mut policy = policy(trained, Mode::Frozen);
        let status = policy.status();

        assert!(policy.act(&observation(5, 1.0)).unwrap().value.is_some());
        assert_eq!((status.decisions(), status.fallbacks(), status.out_of_range()), (1, 0, None));

        let far = observation(9, 30.0);
        let action = policy.act(&far).unwrap();
        let expected = TopK::new(4, 0.15, &space()).act(&far).unwrap();
        assert_eq!(action, expected);
        assert!(action.latent.is_empty());
        assert_eq!((status.decisions(), status.fallbacks()), (2, 1));
        assert!(status.out_of_range().is_some());
    }

    #[test]
    fn a_fallback_that_was_given_acts_outside_the_range_of_training_and_only_there() {
        let mut trained = parameters();
        let mut range = InputRange::empty(2, 1);
        range.extend(&observation(9, 1.0));
        trained.range = Some(range);
        let chosen = vec![traflux_core::GroupIx(7)];
        let given = crate::heuristics::FixedSet::new(chosen.clone(), 0.1);
        let plain = policy(trained.clone(), Mode::Frozen).act(&observation(9, 1.0));
        let mut policy = policy(trained, Mode::Frozen).with_fallback(Box::new(given));
        assert_eq!(policy.act(&observation(9, 30.0)).unwrap().critical, chosen);
        assert_eq!(policy.act(&observation(9, 1.0)), plain);
        assert_eq!(policy.status().fallbacks(), 1);
    }

    #[test]
    fn a_policy_refuses_observations_of_another_shape() {
        let mut policy = policy(parameters(), Mode::Frozen);
        let wide = Observation { groups: Array2::zeros((2, 3)), ..observation(2, 1.0) };
        assert_eq!(policy.act(&wide), Err(PolicyError::Shape { expected: 2, found: 3 }));
        let short = Observation { mask: vec![true], ..observation(2, 1.0) };
        assert_eq!(policy.act(&short).unwrap_err().code(), "policy_failed");
    }

    #[test]
    fn parameters_that_are_not_finite_give_an_error_and_no_action() {
        let mut broken = parameters();
        broken.dense[0].weight[0] = f32::NAN;
        assert_eq!(
            policy(broken, Mode::Frozen).act(&observation(2, 1.0)).unwrap_err().code(),
            "policy_not_finite"
        );
    }

    #[test]
    fn a_fleet_without_endpoints_still_gets_a_headroom() {
        let action = policy(parameters(), Mode::Exploring { seed: 3 }).act(&observation(0, 1.0)).unwrap();
        assert!(action.critical.is_empty() && action.cost_multipliers.is_empty());
        assert!(action.headroom > 0.0 && action.headroom < 1.0);
    }

    #[test]
    fn every_action_is_inside_the_bounds() {
        let mut policy = policy(parameters(), Mode::Exploring { seed: 9 });
        let state = observation(12, 1.0);
        for _ in 0..500 {
            let action = policy.act(&state).unwrap();
            assert_eq!(action.clone().clamped(&ActionSpace::default().bounds, 12), action);
            assert!(action.log_probability.is_finite());
        }
    }
}
