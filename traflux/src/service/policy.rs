//! Which policy runs in which mode?

use traflux_core::{ObservationSpace, Policy, StateEncoder};
use traflux_policy::{
    Checkpoint, CheckpointError, CriticalCount, EncoderConfig, FleetEncoder, LearnedPolicy, SharedParameters,
    SignalFeature, TopK,
};

use crate::config::Config;
use crate::controller::Mode;

/// Encoder, policy and the handles to change them while they run.
pub(super) struct PolicySetup {
    pub(super) encoder: Box<dyn StateEncoder>,
    pub(super) policy: Option<Box<dyn Policy>>,
    /// How many groups the policy may choose; `None`: there is no policy that chooses.
    pub(super) count: Option<CriticalCount>,
    /// Parameters of a learned policy.
    pub(super) parameters: Option<SharedParameters>,
}

/// The encoder as configured: with the user's signals as features.
pub(crate) fn encoder(config: &Config) -> FleetEncoder {
    let signals = config
        .metrics
        .prometheus
        .signals
        .iter()
        .map(|signal| SignalFeature { name: signal.name.clone(), scale: signal.limit.unwrap_or(1.0) })
        .collect();
    FleetEncoder::new(EncoderConfig { signals })
}

/// Sets up what the mode asks for.
///
/// Shadow mode shows what a learned policy would do where a checkpoint is configured, and what the loop
/// without policy would do otherwise.
///
/// # Errors
/// [`CheckpointError`] for a checkpoint that cannot be used with these features.
pub(super) fn set_up(config: &Config) -> Result<PolicySetup, CheckpointError> {
    let encoder = encoder(config);
    let space = encoder.space();
    let learned = match config.policy.mode {
        Mode::Frozen | Mode::Learning => true,
        Mode::Shadow => config.policy.checkpoint.is_some(),
        Mode::None => false,
    };
    let (policy, count, parameters) =
        if learned { learned_policy(config, &space)? } else { plain_policy(config, &space) };
    Ok(PolicySetup { encoder: Box::new(encoder), policy, count, parameters })
}

type Chosen = (Option<Box<dyn Policy>>, Option<CriticalCount>, Option<SharedParameters>);

/// Without `k` everything may move and there is nothing to choose.
fn plain_policy(config: &Config, space: &ObservationSpace) -> Chosen {
    match config.policy.k {
        None => (None, None, None),
        Some(k) => {
            let count = CriticalCount::new(k);
            let policy = TopK::new(count.clone(), config.objective.headroom, space);
            (Some(Box::new(policy)), Some(count), None)
        }
    }
}

fn learned_policy(config: &Config, space: &ObservationSpace) -> Result<Chosen, CheckpointError> {
    let checkpoint = match &config.policy.checkpoint {
        Some(path) => Checkpoint::load(path)?,
        None => crate::checkpoint::shipped()?,
    };
    checkpoint.check_space(space)?;
    let mut actions = checkpoint.actions;
    actions.bounds = config.policy.bounds;
    let count = CriticalCount::new(config.policy.k.unwrap_or(actions.critical));
    let shared = SharedParameters::new(checkpoint.parameters.clone());
    let mode = match config.policy.mode {
        Mode::Learning => traflux_policy::learned::Mode::Exploring { seed: config.policy.seed },
        _ => traflux_policy::learned::Mode::Frozen,
    };
    let policy = LearnedPolicy::new(shared.clone(), space, actions, mode)
        .map_err(|error| CheckpointError::Features { reason: error.to_string() })?
        .with_critical_count(count.clone(), space);
    Ok((Some(Box::new(policy)), Some(count), Some(shared)))
}
