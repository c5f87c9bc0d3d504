//! What was measured, and how old is it?

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::topology::{Generation, Topology};
use crate::units::{HourlyPrice, Latency, Rate, Timestamp, UnitPrice};

/// A measured value and its age at the moment of the telemetry that holds it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Reading<T> {
    /// The value.
    pub value: T,
    /// How long ago the newest sample in it was taken.
    pub age: Duration,
}

impl<T> Reading<T> {
    /// A value measured `age` ago.
    pub const fn new(value: T, age: Duration) -> Self {
        Self { value, age }
    }
}

/// What is measured of a route, and in sum over its routes of a resource. `None`: no such measurement.
///
/// A latency is what the source waits, round trip included, over requests that were *answered*; those that
/// timed out are in [`censored_ratio`](Self::censored_ratio) and enter no latency.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Measurements {
    /// Requests finished per second, errors and timeouts included.
    pub throughput: Option<Reading<Rate>>,
    /// Mean latency of answered requests.
    pub latency_mean: Option<Reading<Latency>>,
    /// 95th percentile; a lower bound where the censored ratio exceeds 5 %.
    pub latency_p95: Option<Reading<Latency>>,
    /// Share of requests that failed, timeouts included, in [0, 1].
    pub error_ratio: Option<Reading<f64>>,
    /// Share of requests without a latency because they timed out, in [0, 1].
    pub censored_ratio: Option<Reading<f64>>,
    /// Requests in flight, by Little's law where the source can.
    pub concurrency: Option<Reading<f64>>,
}

impl Measurements {
    /// The age of the oldest measurement present; `None` when nothing was measured.
    #[must_use]
    pub fn age(&self) -> Option<Duration> {
        [
            self.throughput.map(|r| r.age),
            self.latency_mean.map(|r| r.age),
            self.latency_p95.map(|r| r.age),
            self.error_ratio.map(|r| r.age),
            self.censored_ratio.map(|r| r.age),
            self.concurrency.map(|r| r.age),
        ]
        .into_iter()
        .flatten()
        .max()
    }
}

/// Telemetry of one route (source × endpoint).
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct RouteTelemetry {
    /// What was measured.
    pub measured: Measurements,
    /// The marginal price now, where it is observed; else that of the topology holds.
    pub price: Option<UnitPrice>,
}

/// Telemetry of one resource.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ResourceTelemetry {
    /// What was measured, summed over all sources.
    pub measured: Measurements,
    /// Whether whoever probes the endpoint calls it healthy. `None`: nobody probes.
    pub healthy: Option<bool>,
    /// Capacity announced by the endpoint or the operator, where it changes at run time.
    pub capacity: Option<Reading<Rate>>,
    /// Load that no flow here controls, in the unit of the resource.
    pub background: Option<Reading<Rate>>,
    /// The hourly price now, where it is observed.
    pub hourly_price: Option<HourlyPrice>,
    /// The user's own signals by name: CPU, memory, queue length.
    pub signals: BTreeMap<String, Reading<f64>>,
}

/// Everything measured in one collection, in the order of one topology.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Telemetry {
    /// When it was collected.
    pub at: Timestamp,
    /// The topology that its indices belong to.
    pub generation: Generation,
    /// The time over which rates and latencies are averaged.
    pub window: Duration,
    /// By route.
    pub routes: Vec<RouteTelemetry>,
    /// By resource.
    pub resources: Vec<ResourceTelemetry>,
    /// What the source wants the operator to know: missing series, parts that failed.
    pub warnings: Vec<String>,
}

impl Telemetry {
    /// Telemetry in which nothing was measured.
    #[must_use]
    pub fn empty(topology: &Topology, at: Timestamp, window: Duration) -> Self {
        Self {
            at,
            generation: topology.generation(),
            window,
            routes: vec![RouteTelemetry::default(); topology.routes().len()],
            resources: vec![ResourceTelemetry::default(); topology.resources().len()],
            warnings: Vec::new(),
        }
    }

    /// The age of the freshest throughput of any route: how long ago the fleet was last seen.
    #[must_use]
    pub fn freshest(&self) -> Option<Duration> {
        self.routes.iter().filter_map(|r| r.measured.throughput.map(|t| t.age)).min()
    }
}
