//! Which requests belong together, and for how long?

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::form::millis;
use super::range::{check, in_millis};
use crate::error::PlanError;

/// How sessions are kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct AffinityPlan {
    /// What makes requests belong together; the user.
    pub key: AffinitySource,
    /// How long a session is remembered after its last request; 10 min.
    #[serde(rename = "ttl_ms", with = "millis")]
    #[cfg_attr(feature = "schema", schemars(with = "f64"))]
    pub ttl: Duration,
    /// The most sessions that are remembered, some 16 bytes each; 65,536.
    pub max_pins: u32,
}

impl Default for AffinityPlan {
    fn default() -> Self {
        Self { key: AffinitySource::User, ttl: Duration::from_secs(600), max_pins: 65_536 }
    }
}

impl AffinityPlan {
    /// The longest that a session may be remembered: nearly 25 days.
    pub const LONGEST_TTL: Duration = Duration::from_millis(i32::MAX as u64);

    /// Checks the ranges.
    ///
    /// # Errors
    /// [`PlanError::Key`] for a time to live of less than 1 ms or more than [`LONGEST_TTL`](Self::LONGEST_TTL), no
    /// sessions or more than 2²⁸, or blocks of a prompt that are none.
    pub fn validate(&self) -> Result<(), PlanError> {
        if let AffinitySource::Prefix { block_bytes, blocks } = self.key {
            check(
                (1..=1_000_000).contains(&block_bytes),
                "key.prefix.block_bytes",
                block_bytes,
                "1 to 1000000",
            )?;
            check((1..=256).contains(&blocks), "key.prefix.blocks", blocks, "1 to 256")?;
        }
        let (ttl, longest) = (in_millis(self.ttl), in_millis(Self::LONGEST_TTL));
        check((1.0..=longest).contains(&ttl), "ttl_ms", ttl, format_args!("1 to {longest}"))?;
        check((1..=1 << 28).contains(&self.max_pins), "max_pins", self.max_pins, "1 to 268435456")
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
        /// The most blocks that count, at most 256. Up to 16 count one by one; where it is more, prompts are compared by
        /// their first 1, 2, 3, 4, 6, 8, 12, 16, 24 blocks and so on, and by all.
        blocks: usize,
    },
}

impl AffinitySource {
    /// The usual source for prompts: blocks of 256 bytes, some 64 tokens, up to 32.
    pub const PREFIX: Self = Self::Prefix { block_bytes: 256, blocks: 32 };
}
