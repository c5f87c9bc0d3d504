//! What happens when metrics, solver or actuator fail: the whole ladder in one file.
//!
//! | what fails | what happens |
//! |---|---|
//! | metrics, for a moment | [`Rung::Hold`]: the plan in force stays |
//! | nothing fresh for 30 s | [`Rung::Alarm`]: it stays, and the alarm is raised |
//! | nothing fresh for 120 s | [`Rung::Ramp`]: shares move to the static split within a minute |
//! | solver, or its deadline | the split becomes proportional to the estimated capacities ([`capacity_split`]) |
//! | policy | the tick acts as if there were none |
//! | actuator | the same version is offered again at the next tick |
//! | topology changed in between | indices are rebuilt, state is kept by name |
//!
//! Times are configurable; those above are the defaults. Staleness is counted in the controller's own elapsed
//! time, at most [`LadderConfig::max_elapsed_s`] per tick, so a clock that jumps does not climb the ladder.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::estimate::{Estimate, Health};
use crate::split::Split;
use crate::topology::Topology;

/// Where the ladder stands.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
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

impl Rung {
    /// A stable name for metrics and logs.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Normal => "normal",
            Self::Hold => "hold",
            Self::Alarm => "alarm",
            Self::Ramp { .. } => "ramp",
        }
    }
}

/// Times of the ladder, in seconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct LadderConfig {
    /// The freshest reading may be this old and still count as fresh; the service raises it to 2.5 scrape intervals.
    pub fresh_within_s: f64,
    /// From here on the alarm is raised.
    pub alarm_after_s: f64,
    /// From here on shares move to the static split.
    pub ramp_after_s: f64,
    /// How long that move takes.
    pub ramp_over_s: f64,
    /// Most staleness that one tick can add; the service raises it to the control interval.
    pub max_elapsed_s: f64,
}

impl Default for LadderConfig {
    fn default() -> Self {
        Self {
            fresh_within_s: 20.0,
            alarm_after_s: 30.0,
            ramp_after_s: 120.0,
            ramp_over_s: 60.0,
            max_elapsed_s: 15.0,
        }
    }
}

/// Counts how long nothing fresh was seen.
#[derive(Debug, Clone, Default)]
pub struct Ladder {
    config: LadderConfig,
    stale_s: f64,
}

impl Ladder {
    /// A ladder that starts at [`Rung::Normal`].
    #[must_use]
    pub fn new(config: LadderConfig) -> Self {
        Self { config, stale_s: 0.0 }
    }

    /// Replaces the times.
    pub fn set_config(&mut self, config: LadderConfig) {
        self.config = config;
    }

    /// How long nothing fresh was seen.
    #[must_use]
    pub fn stale_for(&self) -> Duration {
        Duration::from_secs_f64(self.stale_s)
    }

    /// Takes one tick: the time since the last one and the age of the freshest reading, `None` when the
    /// collection failed or held nothing.
    pub fn advance(&mut self, elapsed: Duration, freshest: Option<Duration>) -> Rung {
        let config = &self.config;
        match freshest {
            Some(age) if age.as_secs_f64() <= config.fresh_within_s => self.stale_s = 0.0,
            _ => self.stale_s += elapsed.as_secs_f64().min(config.max_elapsed_s),
        }
        self.rung()
    }

    /// Where the ladder stands.
    #[must_use]
    pub fn rung(&self) -> Rung {
        let config = &self.config;
        if self.stale_s <= 0.0 {
            Rung::Normal
        } else if self.stale_s < config.alarm_after_s {
            Rung::Hold
        } else if self.stale_s < config.ramp_after_s {
            Rung::Alarm
        } else {
            let done = (self.stale_s - config.ramp_after_s) / config.ramp_over_s.max(1e-9);
            Rung::Ramp { progress: done.clamp(1e-3, 1.0) }
        }
    }
}

/// The split that replaces a failed solver's: proportional to the estimated capacities of what is not
/// unhealthy, per flow; to all estimated capacities where everything is unhealthy.
#[must_use]
pub fn capacity_split(topology: &Topology, estimate: &Estimate) -> Split {
    let capacity = |ix: usize| {
        let route = &topology.routes()[ix];
        let limits = route.consumption.iter().map(|c| {
            estimate.resources.get(c.resource.ix()).map_or(0.0, |r| r.capacity_lower.get()) / c.per_request
        });
        let least = limits.fold(f64::INFINITY, f64::min);
        if least.is_finite() { least } else { 1.0 }
    };
    let usable = |ix: usize| {
        let reachable = estimate.routes.get(ix).is_none_or(|r| r.health != Health::Unhealthy);
        let first = topology.routes()[ix].consumption.first();
        reachable
            && first.is_none_or(|c| {
                estimate.resources.get(c.resource.ix()).is_none_or(|r| r.health != Health::Unhealthy)
            })
    };
    let mut amounts = vec![0.0; topology.routes().len()];
    for range in topology.flow_offsets().windows(2).map(|w| w[0]..w[1]) {
        let any = range.clone().any(|ix| usable(ix) && capacity(ix) > 0.0);
        for ix in range {
            amounts[ix] = if usable(ix) || !any { capacity(ix) } else { 0.0 };
        }
    }
    Split::proportional(topology, &amounts)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TICK: Duration = Duration::from_secs(5);

    #[test]
    fn metrics_that_fail_lead_to_hold_alarm_at_30_s_and_ramp_at_120_s() {
        let mut ladder = Ladder::new(LadderConfig::default());
        assert_eq!(ladder.advance(TICK, Some(Duration::from_secs(1))), Rung::Normal);
        let rungs: Vec<Rung> = (1..=40).map(|_| ladder.advance(TICK, None)).collect();
        // The n-th failed tick comes after 5·n seconds.
        assert_eq!(rungs[0], Rung::Hold);
        assert_eq!(rungs[4], Rung::Hold);
        assert_eq!(rungs[5], Rung::Alarm);
        assert_eq!(rungs[22], Rung::Alarm);
        assert!(matches!(rungs[23], Rung::Ramp { .. }));
        assert_eq!(rungs[35], Rung::Ramp { progress: 1.0 });
        assert_eq!(ladder.advance(TICK, Some(Duration::ZERO)), Rung::Normal);
    }

    #[test]
    fn a_clock_that_jumps_by_an_hour_does_not_climb_the_ladder() {
        let mut ladder = Ladder::new(LadderConfig::default());
        assert_eq!(ladder.advance(Duration::from_secs(3600), None), Rung::Hold);
        assert_eq!(ladder.advance(Duration::from_secs(3600), Some(Duration::from_secs(2))), Rung::Normal);
    }

    #[test]
    fn an_old_reading_is_not_a_fresh_one() {
        let mut ladder = Ladder::new(LadderConfig::default());
        assert_eq!(ladder.advance(TICK, Some(Duration::from_secs(21))), Rung::Hold);
    }
}
