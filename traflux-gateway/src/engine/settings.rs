//! What does an engine need beside the plan?

use serde::{Deserialize, Serialize};

use crate::error::GatewayError;
use crate::observe::{AnomalySettings, MetricsSettings, TenantSettings};

/// What belongs to the program that embeds an [`Engine`](super::Engine): its seed, and what is counted, shown and called
/// unusual. All else is in the plan.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EngineSettings {
    /// Seed of all that is drawn at random, and of the hashes of key tables: secret where clients choose their keys.
    pub seed: u64,
    /// Counters and histograms.
    pub metrics: MetricsSettings,
    /// What counts as unusual.
    pub anomalies: AnomalySettings,
    /// Which tenants are counted apart.
    pub tenants: TenantSettings,
}

impl EngineSettings {
    /// These settings with what a JSON object says instead of the parts that it names, such as `{"seed": 7}`. What of
    /// a part is not said is the default of that part.
    ///
    /// ```
    /// use traflux_gateway::EngineSettings;
    ///
    /// let in_force = EngineSettings { seed: 7, ..EngineSettings::default() };
    /// let changed = in_force.changed(r#"{"tenants": {"shown": 3}}"#).unwrap();
    /// assert_eq!((changed.seed, changed.tenants.shown), (7, 3));
    /// assert!(in_force.changed(r#"{"tenant": {"shown": 3}}"#).is_err());
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
        self.metrics.validate()?;
        self.anomalies.validate()?;
        self.tenants.validate()
    }
}
