//! How much may be outstanding towards a backend, and over which connections?

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::form::millis;
use super::range::check;
use crate::error::PlanError;

/// Connections to a backend, and circuit breakers: what is beyond a maximum is refused at once. A gateway counts them for
/// each address of a backend, Envoy for each cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct PoolPlan {
    /// Connections at once; a request that finds none free waits for one.
    pub max_connections: u32,
    /// Requests that wait for a connection; with 0 none does.
    pub max_pending: u32,
    /// Requests in flight.
    pub max_requests: u32,
    /// Time after which a connection without requests is closed.
    #[serde(rename = "idle_timeout_ms", with = "millis")]
    #[cfg_attr(feature = "schema", schemars(with = "f64"))]
    pub idle_timeout: Duration,
    /// Requests after which a connection is closed; none without it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_requests_per_connection: Option<u32>,
    /// Streams at once over one HTTP/2 connection.
    pub max_streams_per_connection: u32,
}

impl Default for PoolPlan {
    fn default() -> Self {
        Self {
            max_connections: 16_384,
            max_pending: 16_384,
            max_requests: 32_768,
            // Below the minute or more that servers usually wait, so that a request rarely meets a closing connection.
            idle_timeout: Duration::from_secs(50),
            max_requests_per_connection: None,
            max_streams_per_connection: 100,
        }
    }
}

impl PoolPlan {
    /// Checks the ranges.
    ///
    /// # Errors
    /// [`PlanError::Key`] for a maximum of 0, with which nothing would be sent.
    pub fn validate(&self) -> Result<(), PlanError> {
        for (key, most) in [
            ("max_connections", Some(self.max_connections)),
            ("max_requests", Some(self.max_requests)),
            ("max_requests_per_connection", self.max_requests_per_connection),
            ("max_streams_per_connection", Some(self.max_streams_per_connection)),
        ] {
            if let Some(most) = most {
                check(most >= 1, key, most, "at least 1")?;
            }
        }
        Ok(())
    }
}
