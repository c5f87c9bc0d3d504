//! Which policy runs in which mode?

use traflux_core::{ObservationSpace, Policy, StateEncoder};
use traflux_policy::{Checkpoint, CheckpointError, CriticalCount, LearnedPolicy, SharedParameters, TopK};

use super::run::RunError;
use crate::config::Config;
use crate::controller::Mode;

/// Encoder, policy and the handles to change them while they run.
pub(super) struct PolicySetup {
    pub(super) encoder: Box<dyn StateEncoder>,
    pub(super) policy: Option<Box<dyn Policy>>,
    /// How many groups the policy may choose; `None`: there is no policy that chooses.
    pub(super) count: Option<Count>,
    /// A learned policy: its parameters, and the checkpoint that they come from.
    pub(super) learned: Option<(SharedParameters, Checkpoint)>,
}

impl PolicySetup {
    /// Where the policy is the caller's.
    pub(super) fn of_caller(config: &Config) -> Self {
        Self { encoder: Box::new(config.encoder()), policy: None, count: None, learned: None }
    }
}

/// How many groups a policy may choose.
#[derive(Debug, Clone)]
pub(super) struct Count {
    handle: CriticalCount,
    /// The count where `policy.k` is not set.
    unset: usize,
}

impl Count {
    fn new(k: Option<usize>, unset: usize) -> Self {
        Self { handle: CriticalCount::new(k.unwrap_or(unset)), unset }
    }

    /// The count in use; `None`: all.
    pub(super) fn current(&self) -> Option<usize> {
        Some(self.handle.current()).filter(|count| *count < usize::MAX)
    }

    /// Changes it from the next decision on.
    pub(super) fn set(&self, k: Option<usize>) {
        self.handle.set(k.unwrap_or(self.unset));
    }
}

/// Sets up what the mode asks for.
///
/// Shadow mode shows what a learned policy would do where a checkpoint is configured, and what the loop
/// without policy would do otherwise.
///
/// # Errors
/// [`RunError::Checkpoint`] for a checkpoint that cannot be used with these features.
pub(super) fn set_up(config: &Config) -> Result<PolicySetup, RunError> {
    let encoder = config.encoder();
    let space = encoder.space();
    let learned = match config.policy.mode {
        Mode::Frozen | Mode::Learning => true,
        Mode::Shadow => config.policy.checkpoint.is_some(),
        Mode::None => false,
    };
    let (policy, count, learned) =
        if learned { learned_policy(config, &space)? } else { plain_policy(config, &space) };
    Ok(PolicySetup { encoder: Box::new(encoder), policy, count, learned })
}

type Chosen = (Option<Box<dyn Policy>>, Option<Count>, Option<(SharedParameters, Checkpoint)>);

/// Without `k` everything may move and there is nothing to choose.
fn plain_policy(config: &Config, space: &ObservationSpace) -> Chosen {
    match config.policy.k {
        None => (None, None, None),
        Some(k) => {
            let count = Count::new(Some(k), usize::MAX);
            let policy = TopK::new(count.handle.clone(), config.objective.headroom, space);
            (Some(Box::new(policy)), Some(count), None)
        }
    }
}

fn learned_policy(config: &Config, space: &ObservationSpace) -> Result<Chosen, RunError> {
    let (key, checkpoint) = checkpoint(config)?;
    let refuse = |source: CheckpointError| RunError::Checkpoint { key, source };
    let new = |name: &&String| !checkpoint.observations.group_features.contains(name);
    let untrained: Vec<&String> = space.group_features.iter().filter(new).collect();
    if !untrained.is_empty() {
        let mode = config.policy.mode.name();
        tracing::info!(?untrained, mode, "features without influence on the policy until it learns of them");
    }
    let mut began = checkpoint.widened(space).map_err(refuse)?;
    began.actions.bounds = config.policy.bounds;
    let count = Count::new(config.policy.k, began.actions.critical);
    let shared = SharedParameters::new(began.parameters.clone());
    let mode = match config.policy.mode {
        Mode::Learning => traflux_policy::learned::Mode::Exploring { seed: config.policy.seed },
        _ => traflux_policy::learned::Mode::Frozen,
    };
    let policy = LearnedPolicy::new(shared.clone(), space, began.actions, mode)
        .map_err(|error| refuse(CheckpointError::Features { reason: error.to_string() }))?
        .with_critical_count(count.handle.clone(), space);
    Ok((Some(Box::new(policy)), Some(count), Some((shared, began))))
}

/// The checkpoint to begin with, and the key that led to it: what was learned earlier, what is configured, or
/// what comes with the program.
fn checkpoint(config: &Config) -> Result<(&'static str, Checkpoint), RunError> {
    let policy = &config.policy;
    let (key, loaded) = match (&policy.save_to, &policy.checkpoint) {
        (Some(path), _) if path.exists() => ("policy.save_to", Checkpoint::load(path)),
        (_, Some(path)) => ("policy.checkpoint", Checkpoint::load(path)),
        _ => ("policy.checkpoint", crate::checkpoint::shipped()),
    };
    Ok((key, loaded.map_err(|source| RunError::Checkpoint { key, source })?))
}
