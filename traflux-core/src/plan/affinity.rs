//! Which requests belong together, and for how long?

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::form::millis;

/// How sessions are kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct AffinityPlan {
    /// What makes requests belong together.
    pub key: AffinitySource,
    /// How long a session is remembered after its last request.
    #[serde(rename = "ttl_ms", with = "millis")]
    #[cfg_attr(feature = "schema", schemars(with = "f64"))]
    pub ttl: Duration,
    /// The most sessions that are remembered.
    pub max_pins: u32,
}

impl Default for AffinityPlan {
    fn default() -> Self {
        Self { key: AffinitySource::User, ttl: Duration::from_secs(600), max_pins: 65_536 }
    }
}

/// Where the key of a session is taken from.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum AffinitySource {
    /// The value of a header.
    Header(String),
    /// The value of a cookie.
    Cookie(String),
    /// The user or API key that the request was authenticated as.
    User,
    /// The beginning of the prompt.
    Prefix {
        /// Bytes of a block: prompts are compared block by block.
        block_bytes: usize,
        /// The most blocks that count.
        blocks: usize,
    },
}
