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
    /// These settings with what a JSON object says instead of the parts that it names, such as `{"max_keys": 7}`. What of
    /// a part is not said is the default of that part.
    ///
    /// ```
    /// use traflux_gateway::EngineSettings;
    ///
    /// let in_force = EngineSettings { seed: 7, ..EngineSettings::default() };
    /// let changed = in_force.changed(r#"{"max_keys": 7}"#).unwrap();
    /// assert_eq!(changed, EngineSettings { max_keys: 7, ..in_force.clone() });
    /// assert!(in_force.changed(r#"{"max_kees": 7}"#).is_err());
    /// ```
    ///
    /// # Errors
    /// The message of the first key that is wrong.
    pub fn changed(&self, json: &str) -> Result<Self, serde_json::Error> {
        let mut all = serde_json::to_value(self)?;
        let parts: serde_json::Map<String, serde_json::Value> = serde_json::from_str(json)?;
        if let serde_json::Value::Object(all) = &mut all {
            all.extend(parts);
        }
        serde_json::from_value(all)
    }

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
