//! How does a configuration become a controller?
//!
//! In one place for everybody who reads one: `traflux run`, Python and Node. What a caller brings stands in the place of
//! what the configuration would make; everything else it says holds, or is refused.

use traflux_core::estimator::FleetEstimator;
use traflux_core::{
    Actuator, Estimator, FleetReward, MetricsSource, ObservationSpace, Policy, Recorder, RewardFunction,
    StateEncoder, WeightSolver,
};
use traflux_policy::{Checkpoint, SharedParameters};

use super::learner::Learning;
use super::policy::{self, Count, PolicySetup};
use super::run::RunError;
use crate::config::{Built, Config};
use crate::controller::{Controller, Mode, Stages};

/// Who takes the steps of mode `learning`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Learns {
    /// Nobody: the mode is refused.
    #[default]
    Nobody,
    /// A recorder of the caller.
    Caller,
    /// The learner of the program, where it was built with one.
    Program,
}

/// What a caller brings beside the stages that every caller brings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Brought {
    /// Goes before `policy.mode`.
    pub mode: Option<Mode>,
    /// A policy; what `policy` says of one then has no effect but for its `bounds`.
    pub policy: bool,
    /// Who learns.
    pub learns: Learns,
}

impl Brought {
    /// The mode of a configuration. One that says none runs the caller's policy: in `learning` where the caller records,
    /// else in `frozen`.
    fn mode(&self, config: &Config) -> Mode {
        self.mode.unwrap_or(match config.policy.mode {
            Mode::None if self.policy && self.learns == Learns::Caller => Mode::Learning,
            Mode::None if self.policy => Mode::Frozen,
            mode => mode,
        })
    }
}

/// The stages of a caller.
pub struct Given {
    /// Observe.
    pub source: Box<dyn MetricsSource>,
    /// Control.
    pub actuator: Box<dyn Actuator>,
    /// Estimate; `None`: [`FleetEstimator`] as the configuration has it.
    pub estimator: Option<Box<dyn Estimator>>,
    /// Act; `None`: what `policy` says.
    pub policy: Option<Box<dyn Policy>>,
    /// Reward; `None`: [`FleetReward`] with `objective.reward`.
    pub reward: Option<Box<dyn RewardFunction>>,
    /// Record; `None`: nobody.
    pub recorder: Option<Box<dyn Recorder>>,
}

/// A configuration with what it names read and checked, which becomes a controller once the fleet is known.
pub struct Assembly {
    config: Config,
    encoder: Box<dyn StateEncoder>,
    policy: Option<Box<dyn Policy>>,
    solver: Box<dyn WeightSolver>,
    /// How many groups the policy may choose; `None`: there is none that chooses.
    pub(super) count: Option<Count>,
    /// A learned policy: its parameters, and the checkpoint that they come from.
    pub(super) learned: Option<(SharedParameters, Checkpoint)>,
}

impl Assembly {
    /// Finds the solver, and loads the policy unless the caller brings one.
    ///
    /// # Errors
    /// [`RunError`] for a solver that there is not, a checkpoint that cannot be used, and a mode that cannot run here.
    pub fn new(config: &Config, brought: &Brought) -> Result<Self, RunError> {
        let mut config = config.clone();
        config.policy.mode = brought.mode(&config);
        let solver = traflux_lp::by_name(&config.objective.solver)?;
        match brought.learns {
            Learns::Program => Learning::check(&config)?,
            Learns::Caller if config.policy.save_to.is_some() => {
                let reason = "save_to is written by the learner of `traflux run`; what a recorder of yours \
                              learns is yours to keep";
                return Err(RunError::Learner { reason: reason.to_owned() });
            }
            Learns::Nobody if config.policy.mode == Mode::Learning => {
                let reason = "mode `learning` needs a recorder, or `traflux run` with its learner";
                return Err(RunError::Learner { reason: reason.to_owned() });
            }
            Learns::Caller | Learns::Nobody => {}
        }
        let PolicySetup { encoder, policy, count, learned } =
            if brought.policy { PolicySetup::of_caller(&config) } else { policy::set_up(&config)? };
        Ok(Self { config, encoder, policy, solver, count, learned })
    }

    /// The configuration, with the mode that runs.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// What a policy gets to see.
    #[must_use]
    pub fn space(&self) -> ObservationSpace {
        self.encoder.space()
    }

    /// Puts the stages together for what [`Config::build`] gave.
    ///
    /// # Errors
    /// [`RunError::Plan`] when the static split cannot be expressed as weights.
    pub fn controller(self, built: Built, given: Given) -> Result<Controller, RunError> {
        let Self { config, encoder, policy, solver, .. } = self;
        let topology = &built.fleet.topology;
        let stages = Stages {
            source: given.source,
            estimator: given.estimator.unwrap_or_else(|| Box::new(FleetEstimator::new(config.estimator()))),
            encoder,
            policy: given.policy.or(policy),
            solver,
            actuator: given.actuator,
            reward: given.reward.unwrap_or_else(|| {
                Box::new(FleetReward::new(topology.as_ref().clone(), config.objective.reward))
            }),
            recorder: given.recorder,
        };
        Ok(Controller::new(built.fleet, stages, built.control)?.with_mode(config.policy.mode))
    }
}
