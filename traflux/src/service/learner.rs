//! Learning beside control, where the program was built with it.

use traflux_core::Recorder;

use super::assemble::Assembly;
use super::command::{CommandError, Reply, TrainReply, TrainRequest};
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
    learner: Option<Running>,
}

#[cfg(feature = "learn")]
struct Running {
    handle: std::sync::Arc<traflux_policy::LearnerHandle>,
    parameters: traflux_policy::SharedParameters,
    /// One request to train at a time.
    turn: std::sync::Arc<tokio::sync::Semaphore>,
}

#[cfg(feature = "learn")]
impl Learning {
    /// Whether this program can do what the mode asks for.
    pub(super) fn check(_: &Config) -> Result<(), RunError> {
        Ok(())
    }

    pub(super) fn start(assembly: &Assembly) -> Result<Self, RunError> {
        use traflux_policy::{Learner, LearnerConfig, spawn_learner};
        let config = assembly.config();
        let learned = assembly.learned.as_ref().filter(|_| config.policy.mode == Mode::Learning);
        let Some((parameters, _)) = learned else {
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
        Ok(Self {
            learner: Some(Running {
                handle: std::sync::Arc::new(handle),
                parameters: parameters.clone(),
                turn: std::sync::Arc::new(tokio::sync::Semaphore::new(1)),
            }),
        })
    }

    pub(super) fn recorder(&self) -> Option<Box<dyn Recorder>> {
        self.learner.as_ref().map(|learner| Box::new(learner.handle.recorder()) as Box<dyn Recorder>)
    }

    pub(super) fn learning_rate(&self) -> Option<f64> {
        self.learner.as_ref().map(|learner| learner.handle.status().learning_rate)
    }

    pub(super) fn set_learning_rate(&self, rate: f64) -> Result<(), CommandError> {
        let learner = self
            .learner
            .as_ref()
            .ok_or(CommandError::NotAvailable { what: "learning_rate", needs: NEEDS })?;
        learner.handle.set_learning_rate(rate).map_err(|problem| CommandError::Invalid {
            key: "learning_rate".to_owned(),
            problem: problem.to_string(),
        })
    }

    /// Transitions learned from, or waiting to be.
    pub(super) fn received(&self) -> u64 {
        self.learner.as_ref().map_or(0, |learner| learner.handle.status().received)
    }

    /// Updates on what was recorded, on a thread of its own: the loop goes on meanwhile.
    pub(super) fn train(&self, request: &TrainRequest, reply: Reply<TrainReply>) {
        // A caller that no longer waits for its reply is no failure, here and below.
        let Some(learner) = &self.learner else {
            let _ = reply.send(Err(CommandError::NotAvailable { what: "training", needs: NEEDS }));
            return;
        };
        let wanted = request.updates.unwrap_or(1);
        if !(1..=10).contains(&wanted) {
            let _ = reply.send(Err(CommandError::Invalid {
                key: "updates".to_owned(),
                problem: format!("{wanted} is outside [1, 10]"),
            }));
            return;
        }
        let Ok(turn) = std::sync::Arc::clone(&learner.turn).try_acquire_owned() else {
            let needs = "the training in progress to end";
            let _ = reply.send(Err(CommandError::NotAvailable { what: "training", needs }));
            return;
        };
        let (handle, parameters) = (std::sync::Arc::clone(&learner.handle), learner.parameters.clone());
        tokio::task::spawn_blocking(move || {
            let _ = reply.send(learn(&handle, wanted).map(|updates| TrainReply {
                transitions: handle.status().received,
                updates,
                parameters_version: parameters.version(),
            }));
            drop(turn);
        });
    }

    pub(super) fn view(&self) -> TrainingView {
        let Some(learner) = &self.learner else { return TrainingView::default() };
        let status = learner.handle.status();
        TrainingView {
            dropped_by_learner: status.dropped,
            updates: status.updates,
            policy_loss: status.last.as_ref().map(|last| last.policy_loss),
            value_loss: status.last.as_ref().map(|last| last.value_loss),
            entropy: status.last.as_ref().map(|last| last.entropy),
            ..TrainingView::default()
        }
    }

    /// Ends the learner's thread after the update in progress.
    pub(super) async fn stop(&mut self) {
        let learner = self.learner.take();
        // The thread is joined where it may block.
        if let Err(problem) = tokio::task::spawn_blocking(move || drop(learner)).await {
            tracing::error!("learner: {problem}");
        }
    }
}

#[cfg(feature = "learn")]
fn learn(handle: &traflux_policy::LearnerHandle, wanted: usize) -> Result<u64, CommandError> {
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
    Ok(updates)
}

#[cfg(not(feature = "learn"))]
impl Learning {
    /// Whether this program can do what the mode asks for.
    pub(super) fn check(config: &Config) -> Result<(), RunError> {
        match config.policy.mode {
            Mode::Learning => Err(RunError::Feature { mode: "learning", feature: "learn" }),
            _ => Ok(()),
        }
    }

    pub(super) fn start(assembly: &Assembly) -> Result<Self, RunError> {
        Self::check(assembly.config()).map(|()| Self::default())
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

    pub(super) fn received(&self) -> u64 {
        0
    }

    pub(super) fn train(&self, _: &TrainRequest, reply: Reply<TrainReply>) {
        // A caller that no longer waits for its reply is no failure.
        let _ = reply.send(Err(CommandError::NotAvailable { what: "training", needs: NEEDS }));
    }

    pub(super) fn view(&self) -> TrainingView {
        TrainingView::default()
    }

    pub(super) async fn stop(&mut self) {}
}
