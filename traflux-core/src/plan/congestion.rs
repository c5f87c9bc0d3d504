//! How much load does a backend bear, and what is turned away beyond it?

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::form::millis;

/// Control of what is sent to a backend by what comes back.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct CongestionPlan {
    /// A limit on requests in flight that adapts. Without it an engine keeps its usual one, and a proxy has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub concurrency: Option<ConcurrencyPlan>,
    /// Turning away what a backend would refuse. Without it an engine does so as usual, and a proxy does not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub throttle: Option<ThrottlePlan>,
}

/// A limit on requests in flight.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct ConcurrencyPlan {
    /// How the limit adapts.
    pub algorithm: ConcurrencyAlgorithm,
    /// The limit to start with.
    pub initial: u32,
    /// The smallest limit.
    pub min: u32,
    /// The largest limit.
    pub max: u32,
    /// Least length of a window of samples.
    #[serde(rename = "window_ms", with = "millis")]
    #[cfg_attr(feature = "schema", schemars(with = "f64"))]
    pub window: Duration,
    /// Least number of samples in a window.
    pub window_samples: u32,
}

impl Default for ConcurrencyPlan {
    fn default() -> Self {
        Self {
            algorithm: ConcurrencyAlgorithm::default(),
            initial: 20,
            min: 2,
            max: 1000,
            window: Duration::from_millis(250),
            window_samples: 10,
        }
    }
}

/// How a concurrency limit adapts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum ConcurrencyAlgorithm {
    /// Not at all.
    Fixed,
    /// By the ratio of latency at reduced load to latency now.
    Gradient(GradientPlan),
}

impl Default for ConcurrencyAlgorithm {
    fn default() -> Self {
        Self::Gradient(GradientPlan::default())
    }
}

/// The gradient controller.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct GradientPlan {
    /// Latency, as a multiple of the baseline, up to which the limit grows.
    pub tolerance: f64,
    /// Weight of the new limit in each window, in (0, 1].
    pub smoothing: f64,
    /// Share of the limit at which the baseline is measured, in (0, 1).
    pub probe_share: f64,
    /// Samples per measurement.
    pub probe_samples: u32,
    /// The longest time without a measurement.
    #[serde(rename = "probe_interval_ms", with = "millis")]
    #[cfg_attr(feature = "schema", schemars(with = "f64"))]
    pub probe_interval: Duration,
}

impl Default for GradientPlan {
    fn default() -> Self {
        Self {
            tolerance: 1.25,
            smoothing: 0.4,
            probe_share: 0.5,
            probe_samples: 50,
            probe_interval: Duration::from_secs(30),
        }
    }
}

/// Client-side throttling (Google, *Site Reliability Engineering*, 2016, ch. 21).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct ThrottlePlan {
    /// How far back counts reach.
    #[serde(rename = "window_ms", with = "millis")]
    #[cfg_attr(feature = "schema", schemars(with = "f64"))]
    pub window: Duration,
    /// `K` by priority band, at least 1, the last holding for all further bands.
    pub tolerance: Vec<f64>,
    /// Requests in the window below which nothing is rejected.
    pub min_requests: u64,
    /// The highest probability of rejection.
    pub max_probability: f64,
}

impl Default for ThrottlePlan {
    fn default() -> Self {
        Self {
            window: Duration::from_secs(120),
            tolerance: vec![4.0, 2.0, 1.5, 1.1],
            min_requests: 20,
            max_probability: 0.95,
        }
    }
}
