//! Learning beside control, where the program was built with it.

use traflux_core::Recorder;
use traflux_policy::SharedParameters;

use super::command::{CommandError, TrainReply, TrainRequest};
use super::policy::PolicySetup;
use super::run::RunError;
use super::state::TrainingView;
use crate::config::Config;
use crate::controller::Mode;

/// Transitions that may wait for the learner; more are dropped and counted.
#[cfg(feature = "learn")]
const WAITING: usize = 256;
/// Transitions per update: at 75 s a step about 40 minutes.
#[cfg(feature = "learn")]
const BATCH: usize = 32;

const NEEDS: &str = "policy.mode `learning`";

/// The learner of mode `learning`; nothing in every other mode.
#[derive(Default)]
pub(super) struct Learning {
    #[cfg(feature = "learn")]
    handle: Option<traflux_policy::LearnerHandle>,
}

#[cfg(feature = "learn")]
impl Learning {
    pub(super) fn start(config: &Config, setup: &PolicySetup) -> Result<Self, RunError> {
        use traflux_policy::{Learner, LearnerConfig, spawn_learner};
        let Some(parameters) = setup.parameters.as_ref().filter(|_| config.policy.mode == Mode::Learning)
        else {
            return Ok(Self::default());
        };
        let refuse = |reason: String| RunError::Learner { reason };
        let learner = LearnerConfig {
            learning_rate: config.policy.learning_rate,
            seed: config.policy.seed,
            ..LearnerConfig::default()
        };
        let learner = Learner::new(learner, parameters.clone()).map_err(|e| refuse(e.to_string()))?;
        let handle = spawn_learner(learner, BATCH, WAITING).map_err(|e| refuse(e.to_string()))?;
        Ok(Self { handle: Some(handle) })
    }

    pub(super) fn recorder(&self) -> Option<Box<dyn Recorder>> {
        self.handle.as_ref().map(|handle| Box::new(handle.recorder()) as Box<dyn Recorder>)
    }

    pub(super) fn learning_rate(&self) -> Option<f64> {
        self.handle.as_ref().map(|handle| handle.status().learning_rate)
    }

    pub(super) fn set_learning_rate(&self, rate: f64) -> Result<(), CommandError> {
        let handle =
            self.handle.as_ref().ok_or(CommandError::NotAvailable { what: "learning_rate", needs: NEEDS })?;
        handle.set_learning_rate(rate).map_err(|problem| CommandError::Invalid {
            key: "learning_rate".to_owned(),
            problem: problem.to_string(),
        })
    }

    /// Updates on what was recorded. Blocks the loop for as long as the updates take, so they are few.
    pub(super) fn train(
        &self,
        request: &TrainRequest,
        parameters: Option<&SharedParameters>,
    ) -> Result<TrainReply, CommandError> {
        let handle =
            self.handle.as_ref().ok_or(CommandError::NotAvailable { what: "training", needs: NEEDS })?;
        let wanted = request.updates.unwrap_or(1);
        if !(1..=10).contains(&wanted) {
            return Err(CommandError::Invalid {
                key: "updates".to_owned(),
                problem: format!("{wanted} is outside [1, 10]"),
            });
        }
        let mut updates = 0;
        for _ in 0..wanted {
            match handle.learn_now() {
                Ok(stats) => updates += stats.updates as u64,
                // What was recorded is used up after the first update.
                Err(_) if updates > 0 => break,
                Err(problem) => {
                    return Err(CommandError::Invalid {
                        key: "updates".to_owned(),
                        problem: problem.to_string(),
                    });
                }
            }
        }
        Ok(TrainReply {
            transitions: handle.status().received,
            updates,
            parameters_version: parameters.map_or(0, SharedParameters::version),
        })
    }

    pub(super) fn view(&self) -> TrainingView {
        let Some(handle) = &self.handle else { return TrainingView::default() };
        let status = handle.status();
        TrainingView {
            dropped_by_learner: status.dropped,
            updates: status.updates,
            policy_loss: status.last.as_ref().map(|last| last.policy_loss),
            value_loss: status.last.as_ref().map(|last| last.value_loss),
            entropy: status.last.as_ref().map(|last| last.entropy),
            ..TrainingView::default()
        }
    }

    pub(super) fn stop(&mut self) {
        // Dropping the handle ends its thread after the update in progress.
        self.handle = None;
    }
}

#[cfg(not(feature = "learn"))]
impl Learning {
    pub(super) fn start(config: &Config, _: &PolicySetup) -> Result<Self, RunError> {
        match config.policy.mode {
            Mode::Learning => Err(RunError::Feature { mode: "learning", feature: "learn" }),
            _ => Ok(Self::default()),
        }
    }

    pub(super) fn recorder(&self) -> Option<Box<dyn Recorder>> {
        None
    }

    pub(super) fn learning_rate(&self) -> Option<f64> {
        None
    }

    pub(super) fn set_learning_rate(&self, _: f64) -> Result<(), CommandError> {
        Err(CommandError::NotAvailable { what: "learning_rate", needs: NEEDS })
    }

    pub(super) fn train(
        &self,
        _: &TrainRequest,
        _: Option<&SharedParameters>,
    ) -> Result<TrainReply, CommandError> {
        Err(CommandError::NotAvailable { what: "training", needs: NEEDS })
    }

    pub(super) fn view(&self) -> TrainingView {
        TrainingView::default()
    }

    pub(super) fn stop(&mut self) {}
}
