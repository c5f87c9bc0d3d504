//! What is true now, and how sure are we?

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::curve::LatencyCurve;
use crate::topology::Generation;
use crate::units::{HourlyPrice, Latency, Rate, Timestamp, UnitPrice};

/// State of an endpoint as far as traffic is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Health {
    /// Serves within its objective.
    Healthy,
    /// In breach of its objective (latency, errors, censored requests): loses traffic, keeps a probe share.
    Degraded,
    /// Must not get traffic while anything else can take it.
    Unhealthy,
    /// Never measured.
    Unknown,
}

impl Health {
    /// Whether it may receive more traffic than it has.
    #[must_use]
    pub fn may_receive(self) -> bool {
        matches!(self, Self::Healthy | Self::Unknown)
    }
}

/// Why latency is above what it should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Attribution {
    /// Nothing unusual.
    #[default]
    Normal,
    /// All peers are slower: the load grew, capacities stand.
    LoadSurge,
    /// This one is slower than its load explains: capacity was lost.
    CapacityLoss,
}

/// Demand of one flow.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct FlowEstimate {
    /// Forecast at the moment when the next plan is in force.
    pub demand: Rate,
    /// Upper end of the forecast's band.
    pub upper: Rate,
    /// Age of the inputs; `None` when nothing was ever measured.
    pub age: Option<Duration>,
}

/// State of one resource.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct ResourceEstimate {
    /// Capacity, best guess, in the resource's unit per second.
    pub capacity: Rate,
    /// Lower confidence bound of the capacity: what the optimiser may count on.
    pub capacity_lower: Rate,
    /// Load on it now, background included, in its unit per second.
    pub load: Rate,
    /// The part of it that no flow here controls.
    pub background: Rate,
    /// Latency as a function of utilisation, without the routes' own delay.
    pub curve: LatencyCurve,
    /// Measured latency without the routes' own delay, smoothed.
    pub latency: Option<Latency>,
    /// Share of requests that fail, smoothed, in [0, 1].
    pub error_ratio: f64,
    /// Whether it may carry traffic.
    pub health: Health,
    /// Why it is slow, where it is.
    pub attribution: Attribution,
    /// What is paid per hour.
    pub hourly_price: HourlyPrice,
    /// Age of the inputs; `None` when nothing was ever measured.
    pub age: Option<Duration>,
}

impl ResourceEstimate {
    /// Load over best-guess capacity; 0 where there is neither.
    #[must_use]
    pub fn utilization(&self) -> f64 {
        self.load / self.capacity
    }
}

/// State of one route.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct RouteEstimate {
    /// Delay that no load changes.
    pub delay: Latency,
    /// Marginal price now.
    pub price: UnitPrice,
    /// Traffic on it now.
    pub load: Rate,
    /// Whether this source reaches the endpoint: one region may be cut off while others are not.
    pub health: Health,
}

/// All estimates, in the order of one topology.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Estimate {
    /// When it was made.
    pub at: Timestamp,
    /// The topology that its indices belong to.
    pub generation: Generation,
    /// By flow.
    pub flows: Vec<FlowEstimate>,
    /// By resource.
    pub resources: Vec<ResourceEstimate>,
    /// By route.
    pub routes: Vec<RouteEstimate>,
}
