//! What happens over time?
//!
//! A [`Process`] has a name, a time and targets, and one [`Effect`]. Effects on the same target compose:
//! factors multiply, delays add, the worst of failures holds.

use serde::{Deserialize, Serialize};

use crate::error::SimError;
use crate::scenario::{Scenario, within};

/// One thing that happens.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Process {
    /// Unique name; results are given per name.
    pub name: String,
    /// When it begins.
    #[serde(default)]
    pub start_s: f64,
    /// When it ends; at the end of the scenario unless told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end_s: Option<f64>,
    /// Where given, it begins again this long after each beginning.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repeat_every_s: Option<f64>,
    /// Sources or endpoints, as the effect asks; empty means all.
    #[serde(default)]
    pub targets: Vec<String>,
    /// What it does.
    pub effect: Effect,
}

/// What a process does while it lasts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Effect {
    /// Load × factor. Targets are sources.
    Load {
        /// The factor.
        factor: f64,
    },
    /// Load × a sinusoid of mean 1. Targets are sources.
    Diurnal {
        /// Largest over smallest.
        peak_to_trough: f64,
        /// Length of a day.
        period_s: f64,
        /// A time of largest load.
        #[serde(default)]
        peak_at_s: f64,
    },
    /// Load rises linearly to × factor, holds, and falls linearly before the end. Targets are sources.
    FlashCrowd {
        /// The factor at its height.
        factor: f64,
        /// How long it rises.
        ramp_s: f64,
        /// How long it falls; as long as it rises unless told.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        decay_s: Option<f64>,
    },
    /// Load × a factor that jumps between states at random (a Markov-modulated Poisson process). Targets are sources.
    Mmpp {
        /// Factor of each state.
        factors: Vec<f64>,
        /// Mean time in each state.
        mean_dwell_s: Vec<f64>,
    },
    /// Load × a shape, linear between its points. Targets are sources.
    Shape {
        /// Time between two points.
        interval_s: f64,
        /// The points.
        factors: Vec<f64>,
    },
    /// Service times × factor. Targets are endpoints.
    BrownOut {
        /// The factor.
        service_factor: f64,
    },
    /// Slots × factor. Targets are endpoints.
    CapacityLoss {
        /// The factor; above 1 is a gain.
        slots_factor: f64,
        /// Whether telemetry announces it; hidden unless told.
        #[serde(default)]
        announced: bool,
    },
    /// Slots × a factor that wanders between a floor and 1 (noisy neighbours). Targets are endpoints, each on its own.
    Antagonist {
        /// The least factor.
        floor: f64,
        /// Standard deviation of the factor around its mean, half way between floor and 1.
        sigma: f64,
        /// Time in which it forgets.
        tau_s: f64,
    },
    /// Connections are refused. Targets are endpoints.
    Outage {},
    /// Service is slow at first and speeds up linearly. Targets are endpoints.
    SlowStart {
        /// Speed at the beginning, as a share of full speed.
        initial_ratio: f64,
        /// How long until full speed.
        ramp_s: f64,
    },
    /// A share of answers are errors. Targets are endpoints.
    Errors {
        /// The share.
        ratio: f64,
        /// Service time of an error × factor; small values are fast errors.
        #[serde(default = "one")]
        service_factor: f64,
    },
    /// A share of requests is never answered. Targets are endpoints.
    Blackhole {
        /// The share.
        #[serde(default = "one")]
        ratio: f64,
    },
    /// Prices × factors. Targets are endpoints.
    Price {
        /// On the hourly price.
        #[serde(default = "one")]
        hourly_factor: f64,
        /// On egress.
        #[serde(default = "one")]
        egress_factor: f64,
    },
    /// Round-trip times × factor, plus a constant. Targets are endpoints.
    Rtt {
        /// The factor.
        #[serde(default = "one")]
        factor: f64,
        /// Milliseconds added.
        #[serde(default)]
        add_ms: f64,
        /// Only from these sources; empty means all.
        #[serde(default)]
        sources: Vec<String>,
    },
    /// A share of scrapes fails. Targets are sources.
    ScrapeLoss {
        /// The share.
        #[serde(default = "one")]
        ratio: f64,
    },
    /// Another time between scrapes. Targets are sources.
    ScrapeInterval {
        /// The time.
        interval_s: f64,
    },
    /// Scrapes become visible late. Targets are sources.
    MetricDelay {
        /// How late.
        delay_s: f64,
    },
    /// The series of these endpoints are missing from scrapes. Targets are endpoints.
    SeriesLoss {},
    /// Another time from sending weights to having them in force. Targets are sources.
    ControlDelay {
        /// The time.
        delay_s: f64,
    },
}

const fn one() -> f64 {
    1.0
}

/// What targets of a process are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TargetKind {
    /// Clients.
    Source,
    /// Servers.
    Endpoint,
}

impl Effect {
    /// What its targets are.
    #[must_use]
    pub fn target_kind(&self) -> TargetKind {
        match self {
            Self::Load { .. }
            | Self::Diurnal { .. }
            | Self::FlashCrowd { .. }
            | Self::Mmpp { .. }
            | Self::Shape { .. }
            | Self::ScrapeLoss { .. }
            | Self::ScrapeInterval { .. }
            | Self::MetricDelay { .. }
            | Self::ControlDelay { .. } => TargetKind::Source,
            Self::BrownOut { .. }
            | Self::CapacityLoss { .. }
            | Self::Antagonist { .. }
            | Self::Outage {}
            | Self::SlowStart { .. }
            | Self::Errors { .. }
            | Self::Blackhole { .. }
            | Self::Price { .. }
            | Self::Rtt { .. }
            | Self::SeriesLoss {} => TargetKind::Endpoint,
        }
    }

    /// Whether it is the ordinary state of affairs rather than an event: results have no window for it, and
    /// time under it counts as quiet.
    #[must_use]
    pub fn is_background(&self) -> bool {
        matches!(
            self,
            Self::Load { .. }
                | Self::Diurnal { .. }
                | Self::Mmpp { .. }
                | Self::Shape { .. }
                | Self::Antagonist { .. }
                | Self::ScrapeInterval { .. }
                | Self::ControlDelay { .. }
        )
    }

    fn problem(&self) -> Result<(), (&'static str, String)> {
        let range = |key: &'static str, value: f64, low: f64, high: f64| {
            if (low..=high).contains(&value) {
                Ok(())
            } else {
                Err((key, format!("{value} is outside [{low}, {high}]")))
            }
        };
        match self {
            Self::Load { factor } => range("load.factor", *factor, 0.0, 1e4),
            Self::Diurnal { peak_to_trough, period_s, peak_at_s } => {
                range("diurnal.peak_to_trough", *peak_to_trough, 1.0, 1e6)?;
                range("diurnal.period_s", *period_s, 1.0, 1e9)?;
                range("diurnal.peak_at_s", *peak_at_s, -1e9, 1e9)
            }
            Self::FlashCrowd { factor, ramp_s, decay_s } => {
                range("flash_crowd.factor", *factor, 0.0, 1e4)?;
                range("flash_crowd.ramp_s", *ramp_s, 0.0, 1e8)?;
                range("flash_crowd.decay_s", decay_s.unwrap_or(0.0), 0.0, 1e8)
            }
            Self::Mmpp { factors, mean_dwell_s } => {
                if factors.is_empty() || factors.len() != mean_dwell_s.len() {
                    return Err((
                        "mmpp.mean_dwell_s",
                        format!("{} dwell times for {} factors", mean_dwell_s.len(), factors.len()),
                    ));
                }
                factors.iter().try_for_each(|f| range("mmpp.factors", *f, 0.0, 1e4))?;
                mean_dwell_s.iter().try_for_each(|d| range("mmpp.mean_dwell_s", *d, 0.1, 1e8))
            }
            Self::Shape { interval_s, factors } => {
                range("shape.interval_s", *interval_s, 0.1, 1e8)?;
                if factors.len() < 2 {
                    return Err((
                        "shape.factors",
                        format!("{} points, at least 2 are needed", factors.len()),
                    ));
                }
                factors.iter().try_for_each(|f| range("shape.factors", *f, 0.0, 1e4))
            }
            Self::BrownOut { service_factor } => {
                range("brown_out.service_factor", *service_factor, 1e-3, 1e4)
            }
            Self::CapacityLoss { slots_factor, .. } => {
                range("capacity_loss.slots_factor", *slots_factor, 0.0, 100.0)
            }
            Self::Antagonist { floor, sigma, tau_s } => {
                range("antagonist.floor", *floor, 0.0, 1.0)?;
                range("antagonist.sigma", *sigma, 0.0, 1.0)?;
                range("antagonist.tau_s", *tau_s, 1.0, 1e8)
            }
            Self::SlowStart { initial_ratio, ramp_s } => {
                range("slow_start.initial_ratio", *initial_ratio, 0.001, 1.0)?;
                range("slow_start.ramp_s", *ramp_s, 0.001, 1e8)
            }
            Self::Errors { ratio, service_factor } => {
                range("errors.ratio", *ratio, 0.0, 1.0)?;
                range("errors.service_factor", *service_factor, 0.0, 1e4)
            }
            Self::Blackhole { ratio } => range("blackhole.ratio", *ratio, 0.0, 1.0),
            Self::Price { hourly_factor, egress_factor } => {
                range("price.hourly_factor", *hourly_factor, 0.0, 1e4)?;
                range("price.egress_factor", *egress_factor, 0.0, 1e4)
            }
            Self::Rtt { factor, add_ms, .. } => {
                range("rtt.factor", *factor, 0.0, 1e4)?;
                range("rtt.add_ms", *add_ms, 0.0, 1e6)
            }
            Self::ScrapeLoss { ratio } => range("scrape_loss.ratio", *ratio, 0.0, 1.0),
            Self::ScrapeInterval { interval_s } => {
                range("scrape_interval.interval_s", *interval_s, 0.01, 1e5)
            }
            Self::MetricDelay { delay_s } => range("metric_delay.delay_s", *delay_s, 0.0, 1e5),
            Self::ControlDelay { delay_s } => range("control_delay.delay_s", *delay_s, 0.0, 1e5),
            Self::Outage {} | Self::SeriesLoss {} => Ok(()),
        }
    }
}

impl Process {
    pub(crate) fn check(&self, path: &str, scenario: &Scenario) -> Result<(), SimError> {
        if scenario.processes.iter().filter(|p| p.name == self.name).count() > 1 {
            return Err(SimError::scenario(
                format!("{path}.name"),
                format!("`{}` is named twice", self.name),
            ));
        }
        within(format!("{path}.start_s"), self.start_s, 0.0, 1e8)?;
        if let Some(end) = self.end_s {
            within(format!("{path}.end_s"), end, self.start_s, 1e9)?;
        }
        if let Some(every) = self.repeat_every_s {
            let Some(end) = self.end_s else {
                return Err(SimError::scenario(format!("{path}.end_s"), "is needed with `repeat_every_s`"));
            };
            within(format!("{path}.repeat_every_s"), every, (end - self.start_s).max(1.0), 1e8)?;
        }
        if let Err((key, problem)) = self.effect.problem() {
            return Err(SimError::scenario(format!("{path}.effect.{key}"), problem));
        }
        let (kind, known): (&str, Vec<&str>) = match self.effect.target_kind() {
            TargetKind::Source => ("source", scenario.sources.iter().map(|s| s.name.as_str()).collect()),
            TargetKind::Endpoint => {
                ("endpoint", scenario.endpoints.iter().map(|e| e.name.as_str()).collect())
            }
        };
        for (ix, target) in self.targets.iter().enumerate() {
            if !known.contains(&target.as_str()) {
                return Err(SimError::scenario(
                    format!("{path}.targets[{ix}]"),
                    format!("`{target}` is not the name of a {kind}"),
                ));
            }
        }
        if let Effect::Rtt { sources, .. } = &self.effect {
            for (ix, source) in sources.iter().enumerate() {
                if scenario.sources.iter().all(|s| s.name != *source) {
                    return Err(SimError::scenario(
                        format!("{path}.effect.rtt.sources[{ix}]"),
                        format!("`{source}` is not the name of a source"),
                    ));
                }
            }
        }
        Ok(())
    }

    /// Whether it acts on a target.
    #[must_use]
    pub fn acts_on(&self, name: &str) -> bool {
        self.targets.is_empty() || self.targets.iter().any(|t| t == name)
    }

    /// The times in which it acts, cut to the scenario's length: start and end in seconds.
    #[must_use]
    pub fn spans(&self, duration_s: f64) -> Vec<(f64, f64)> {
        let length = self.end_s.map_or(f64::INFINITY, |end| end - self.start_s);
        let mut spans = Vec::new();
        let mut start = self.start_s;
        while start < duration_s && length > 0.0 {
            spans.push((start, (start + length).min(duration_s)));
            match self.repeat_every_s {
                Some(every) => start += every,
                None => break,
            }
        }
        spans
    }
}
