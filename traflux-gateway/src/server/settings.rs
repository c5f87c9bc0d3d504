//! What does a gateway need beside the plan?

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use traflux_core::plan::backend::KeySource;

use crate::congestion::HeaderStyle;
use crate::decision_log::LogFileSettings;
use crate::engine::EngineSettings;
use crate::wire::TokenEstimator;

/// How a [`Gateway`](super::Gateway) behaves beyond its plan.
#[derive(Debug, Clone, PartialEq)]
pub struct ServerSettings {
    /// The engine.
    pub engine: EngineSettings,
    /// How tokens are told from bytes.
    pub estimator: TokenEstimator,
    /// Headers that tell refused clients about their limits.
    pub header_style: HeaderStyle,
    /// Where the token of the administrative side comes from; without one nothing can be changed there.
    pub admin_key: Option<KeySource>,
    /// Idle connections kept per backend address.
    pub max_idle_per_host: usize,
    /// Time after which an idle connection to a backend is closed.
    pub idle_timeout: Duration,
    /// Time after which a stream that says nothing no longer counts as in flight at its backend.
    pub quiet_after: Duration,
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
            estimator: TokenEstimator::default(),
            header_style: HeaderStyle::default(),
            admin_key: None,
            max_idle_per_host: 1024,
            // Below the minute or more that servers usually wait, so that a request rarely meets a closing connection.
            idle_timeout: Duration::from_secs(50),
            quiet_after: Duration::from_secs(5),
            watch_interval: Duration::from_secs(1),
            decision_log: None,
        }
    }
}
