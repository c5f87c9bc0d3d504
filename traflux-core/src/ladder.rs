//! What to do when metrics, solver or actuator fail: the whole ladder in one file.

use serde::{Deserialize, Serialize};

/// Where the ladder stands.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "rung")]
pub enum Rung {
    /// Metrics are fresh: act.
    #[default]
    Normal,
    /// Metrics failed a moment ago: keep the plan in force.
    Hold,
    /// Nothing fresh for long: keep the plan in force and raise the alarm.
    Alarm,
    /// Nothing fresh for very long: go to the static split.
    Ramp {
        /// How far, in (0, 1].
        progress: f64,
    },
}
