//! How is what was learned kept?
//!
//! In a checkpoint that is written beside the loop, whenever the learner published new parameters, and once
//! more at the end. It is replaced as a whole, so a reader finds the old one or the new one.

use std::path::PathBuf;

use tokio::task::JoinHandle;
use tracing::{error, info};
use traflux_policy::{Checkpoint, CheckpointError, Provenance, SharedParameters};

use crate::config::Config;

/// The command that a checkpoint written here names as its maker.
const COMMAND: &str = "traflux run";

/// Writes the parameters in use to a file when they changed.
pub(super) struct Saver {
    path: PathBuf,
    /// The checkpoint that learning began with.
    began: Checkpoint,
    parameters: SharedParameters,
    learning_rate: f64,
    saved: u64,
    writing: Option<JoinHandle<Result<u64, CheckpointError>>>,
}

impl Saver {
    /// A saver to `policy.save_to`, where that is set.
    pub(super) fn of(config: &Config, began: Checkpoint, parameters: SharedParameters) -> Option<Self> {
        let path = config.policy.save_to.clone()?;
        let saved = parameters.version();
        let learning_rate = config.policy.learning_rate;
        Some(Self { path, began, parameters, learning_rate, saved, writing: None })
    }

    /// Begins to write when there is something new and nothing is being written. Never waits.
    ///
    /// `learned` counts the transitions learned from since the start.
    pub(super) async fn save_new(&mut self, learned: u64) {
        if self.writing.as_ref().is_some_and(|writing| !writing.is_finished()) {
            return;
        }
        self.finish().await;
        if let Some((version, checkpoint)) = self.pending(learned) {
            let path = self.path.clone();
            self.writing =
                Some(tokio::task::spawn_blocking(move || checkpoint.save(&path).map(|()| version)));
        }
    }

    /// Writes what is new, and waits for it.
    pub(super) async fn save_last(&mut self, learned: u64) {
        self.finish().await;
        self.save_new(learned).await;
        self.finish().await;
    }

    /// What is to be written: parameters that were published since the last time.
    fn pending(&self, learned: u64) -> Option<(u64, Checkpoint)> {
        let version = self.parameters.version();
        if version == self.saved {
            return None;
        }
        let before = &self.began.provenance;
        // A run that goes on where an earlier one ended names what that one began with.
        let began_as = match before.hyper_parameters.get("began_as") {
            Some(began_as) if before.command == COMMAND => began_as.clone(),
            _ => serde_json::json!({ "command": before.command, "steps": before.steps }),
        };
        let provenance = Provenance {
            command: COMMAND.to_owned(),
            seed: before.seed,
            steps: before.steps + learned,
            hyper_parameters: serde_json::json!({
                "began_as": began_as,
                "learning_rate": self.learning_rate,
            }),
        };
        let parameters = self.parameters.load().as_ref().clone();
        Some((version, Checkpoint { parameters, provenance, ..self.began.clone() }))
    }

    async fn finish(&mut self) {
        let Some(writing) = self.writing.take() else { return };
        match writing.await {
            Ok(Ok(version)) => {
                self.saved = version;
                info!(version, path = %self.path.display(), "what was learned is saved");
            }
            // The next update tries again.
            Ok(Err(problem)) => error!(code = problem.code(), "policy.save_to: {problem}"),
            Err(problem) => error!("policy.save_to: {problem}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use traflux_policy::Parameters;

    fn saver(path: &std::path::Path, began: Checkpoint) -> (Saver, SharedParameters) {
        let parameters = SharedParameters::new(began.parameters.clone());
        let saver = Saver {
            path: path.to_owned(),
            began,
            parameters: parameters.clone(),
            learning_rate: 1e-3,
            saved: 0,
            writing: None,
        };
        (saver, parameters)
    }

    #[tokio::test]
    async fn published_parameters_are_written_and_loaded_again() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("learned.safetensors");
        let shipped = crate::checkpoint::shipped().unwrap();
        let (mut saver, parameters) = saver(&path, shipped.clone());
        saver.save_last(0).await;
        assert!(!path.exists(), "nothing was learned yet");

        let learned = Parameters::seeded(shipped.parameters.shape(), 7);
        parameters.publish(learned.clone());
        saver.save_last(32).await;
        let loaded = Checkpoint::load(&path).unwrap();
        assert_eq!(loaded.parameters, learned);
        assert_eq!(loaded.observations, shipped.observations);
        assert_eq!(loaded.provenance.steps, shipped.provenance.steps + 32);

        let (mut next, parameters) = self::saver(&path, loaded);
        parameters.publish(Parameters::seeded(shipped.parameters.shape(), 8));
        next.save_last(8).await;
        let provenance = Checkpoint::load(&path).unwrap().provenance;
        assert_eq!(provenance.steps, shipped.provenance.steps + 40);
        assert_eq!(provenance.hyper_parameters["began_as"]["command"], shipped.provenance.command);
    }

    #[tokio::test]
    async fn a_file_that_cannot_be_written_is_tried_again() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("missing/learned.safetensors");
        let shipped = crate::checkpoint::shipped().unwrap();
        let (mut saver, parameters) = saver(&path, shipped.clone());
        parameters.publish(Parameters::seeded(shipped.parameters.shape(), 7));
        saver.save_last(1).await;
        assert_eq!(saver.saved, 0);
        std::fs::create_dir(directory.path().join("missing")).unwrap();
        saver.save_last(1).await;
        assert!(path.exists() && saver.saved == 1);
    }
}
