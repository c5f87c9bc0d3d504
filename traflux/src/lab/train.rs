//! Training on simulated fleets, with progress.

use std::path::PathBuf;

use traflux_core::Environment;
use traflux_policy::learn::{Baseline, TrainError};
use traflux_policy::{ActionSpace, CheckpointError, TrainConfig, TrainProgress};
use traflux_sim::Scenario;

use super::environment::{Episodes, FleetEnvironment, training_scenarios};
use crate::progress::Progress;

/// What to train.
#[derive(Debug, Clone)]
pub struct TrainOptions {
    /// Seed of everything.
    pub seed: u64,
    /// Updates.
    pub iterations: usize,
    /// Environments stepped side by side.
    pub environments: usize,
    /// How many groups the policy may choose.
    pub critical: usize,
    /// One scenario; `None`: another random one for each episode.
    pub scenario: Option<Scenario>,
    /// Where the checkpoint goes.
    pub out: PathBuf,
    /// Where the learning curve goes.
    pub curve: Option<PathBuf>,
    /// The command, noted in the checkpoint.
    pub command: String,
}

/// A training that did not end in a checkpoint.
#[derive(Debug, thiserror::Error)]
pub enum LabTrainError {
    /// The training itself.
    #[error(transparent)]
    Train(#[from] TrainError),
    /// The checkpoint cannot be written.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The curve cannot be written.
    #[error("{path}: {reason}")]
    Io {
        /// Where.
        path: String,
        /// Why.
        reason: String,
    },
}

impl LabTrainError {
    /// A stable name.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Train(error) => error.code(),
            Self::Checkpoint(error) => error.code(),
            Self::Io { .. } => "train_io",
        }
    }

    /// Whether trying again may help.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        false
    }
}

/// Trains with a progress bar on standard error, saves the checkpoint, and says in words what came of it.
///
/// # Errors
/// [`LabTrainError`].
pub fn train(options: &TrainOptions) -> Result<String, LabTrainError> {
    let config = TrainConfig {
        seed: options.seed,
        iterations: options.iterations,
        environments: options.environments,
        actions: ActionSpace { critical: options.critical, ..ActionSpace::default() },
        baseline: Baseline::TopK,
        command: options.command.clone(),
        ..TrainConfig::default()
    };
    let bar = Progress::new("training");
    let episodes = match &options.scenario {
        Some(scenario) => Episodes::Fixed(Box::new(scenario.clone())),
        None => Episodes::Random(training_scenarios()),
    };
    let make = |_: u64| -> Box<dyn Environment + Send> { Box::new(FleetEnvironment::new(episodes.clone())) };
    let mut progress = |told: TrainProgress| {
        bar.set(told.iteration as f64 / options.iterations.max(1) as f64);
        if let Some(point) = told.evaluation {
            bar.message(format!(
                "validation return {:.1} (plain policy {:.1})",
                point.mean_return, point.baseline_return
            ));
            bar.line(&format!(
                "update {:>4}, {:>7} steps: validation return {:>8.2}, plain policy {:>8.2}",
                point.iteration, point.steps, point.mean_return, point.baseline_return
            ));
        }
    };
    let report = traflux_policy::train(&config, &make, &mut progress)?;
    drop(bar);
    report.checkpoint.save(&options.out)?;
    if let Some(path) = &options.curve {
        let io = |reason: String| LabTrainError::Io { path: path.display().to_string(), reason };
        let text = serde_json::to_string_pretty(&report).map_err(|e| io(e.to_string()))?;
        std::fs::write(path, text).map_err(|e| io(e.to_string()))?;
    }
    let (gain, half) = report.test.gain_over(&report.test_baseline);
    Ok(format!(
        "{} steps, best after update {}\n\
         test return {:.2}, plain policy {:.2}: {gain:+.2} ± {half:.2} per episode over {} unseen seeds\n\
         {:.1} % of decisions fell back to the plain policy\n",
        report.steps,
        report.best_iteration,
        report.test.mean(),
        report.test_baseline.mean(),
        report.test.returns.len(),
        report.test.fallback_ratio * 100.0
    ))
}
