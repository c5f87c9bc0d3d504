//! What does an engine need beside the plan?

use serde::{Deserialize, Serialize};

use crate::congestion::{CoolDownSettings, FeedbackSettings, SignalSettings};
use crate::error::GatewayError;
use crate::observe::{AnomalySettings, MetricsSettings, TenantSettings};

/// How the parts of an [`Engine`](super::Engine) behave of which a plan says nothing, for all backends alike.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EngineSettings {
    /// Seed of all that is drawn at random, and of the hashes of key tables: secret where clients choose their keys.
    pub seed: u64,
    /// Staying away from a backend that refused.
    pub cool_down: CoolDownSettings,
    /// What backends report of themselves.
    pub signal: SignalSettings,
    /// What response headers say.
    pub feedback: FeedbackSettings,
    /// Counters and histograms.
    pub metrics: MetricsSettings,
    /// What counts as unusual.
    pub anomalies: AnomalySettings,
    /// Which tenants are counted apart.
    pub tenants: TenantSettings,
    /// Names of tenants, and of keys of each kind, that are told apart at a time.
    pub max_keys: usize,
}

impl Default for EngineSettings {
    fn default() -> Self {
        Self {
            seed: 0,
            cool_down: CoolDownSettings::default(),
            signal: SignalSettings::default(),
            feedback: FeedbackSettings::default(),
            metrics: MetricsSettings::default(),
            anomalies: AnomalySettings::default(),
            tenants: TenantSettings::default(),
            max_keys: 10_000,
        }
    }
}

impl EngineSettings {
    /// Checks ranges.
    ///
    /// # Errors
    /// [`GatewayError::Setting`] for a value out of range.
    pub fn validate(&self) -> Result<(), GatewayError> {
        self.cool_down.validate()?;
        self.signal.validate()?;
        self.feedback.validate()?;
        self.metrics.validate()?;
        self.anomalies.validate()?;
        self.tenants.validate()
    }
}
