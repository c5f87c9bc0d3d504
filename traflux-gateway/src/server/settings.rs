//! What does a gateway need beside the plan?

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use crate::decision_log::LogFileSettings;
use crate::engine::EngineSettings;

/// How a [`Gateway`](super::Gateway) behaves beyond its plan.
#[derive(Debug, Clone, PartialEq)]
pub struct ServerSettings {
    /// The engine.
    pub engine: EngineSettings,
    /// Idle connections kept per backend address.
    pub max_idle_per_host: usize,
    /// How often files of certificates and keys are looked at.
    pub watch_interval: Duration,
    /// Where decisions are recorded; nowhere without it.
    pub decision_log: Option<LogFileSettings>,
}

impl Default for ServerSettings {
    fn default() -> Self {
        Self {
            engine: EngineSettings {
                // Secret, because clients choose some of what is hashed.
                seed: RandomState::new().hash_one(0),
                ..EngineSettings::default()
            },
            max_idle_per_host: 1024,
            watch_interval: Duration::from_secs(1),
            decision_log: None,
        }
    }
}
