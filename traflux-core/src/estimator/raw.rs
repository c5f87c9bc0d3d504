//! What does an estimate look like that believes everything it is told?

use super::check;
use super::readings::Readings;
use crate::curve::LatencyCurve;
use crate::error::EstimateError;
use crate::estimate::{Attribution, Estimate, FlowEstimate, Health, ResourceEstimate, RouteEstimate};
use crate::stages::Estimator;
use crate::telemetry::Telemetry;
use crate::topology::Topology;
use crate::units::{Latency, Rate};

/// The un-hedged arm of a comparison: demand is the last reading, its upper bound the same, capacity and
/// curve are nominal, and health is only what a prober says.
///
/// It keeps nothing but the last demand of each flow, for the moments when nothing is measured.
#[derive(Debug, Clone, Default)]
pub struct RawEstimator {
    demand: Vec<(String, Rate)>,
}

impl RawEstimator {
    /// A new one.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }
}

impl Estimator for RawEstimator {
    fn estimate(&mut self, topology: &Topology, telemetry: &Telemetry) -> Result<Estimate, EstimateError> {
        check(topology, telemetry)?;
        let readings = Readings::new(topology, telemetry, std::time::Duration::MAX);
        let flows: Vec<FlowEstimate> = topology
            .flows()
            .iter()
            .zip(&readings.flows)
            .map(|(flow, reading)| {
                let known = self.demand.iter().find(|(name, _)| *name == flow.name).map(|(_, rate)| *rate);
                let demand = reading.map(|r| Rate::saturating(r.0)).or(known).unwrap_or(Rate::ZERO);
                FlowEstimate { demand, upper: demand, age: reading.map(|r| r.1) }
            })
            .collect();
        self.demand = topology.flows().iter().zip(&flows).map(|(f, e)| (f.name.clone(), e.demand)).collect();
        let resources = topology
            .resources()
            .iter()
            .zip(&telemetry.resources)
            .zip(&readings.resources)
            .map(|((resource, t), view)| {
                let capacity = t.capacity.map_or(resource.capacity, |r| r.value);
                ResourceEstimate {
                    capacity,
                    capacity_lower: capacity,
                    load: Rate::saturating(view.offered) + t.background.map_or(Rate::ZERO, |r| r.value),
                    background: t.background.map_or(Rate::ZERO, |r| r.value),
                    curve: LatencyCurve::new(
                        resource.service_time.unwrap_or(Latency::millis(10.0)),
                        f64::from(resource.concurrency.unwrap_or(16)),
                    ),
                    latency: view.latency.map(Latency::saturating),
                    error_ratio: view.errors.unwrap_or(0.0),
                    health: match t.healthy {
                        Some(true) => Health::Healthy,
                        Some(false) => Health::Unhealthy,
                        None => Health::Unknown,
                    },
                    attribution: Attribution::Normal,
                    hourly_price: t.hourly_price.unwrap_or(resource.hourly_price),
                    age: view.age,
                }
            })
            .collect();
        let routes = topology
            .routes()
            .iter()
            .zip(&telemetry.routes)
            .zip(&readings.routes)
            .map(|((route, t), view)| RouteEstimate {
                delay: route.delay,
                price: t.price.unwrap_or(route.price),
                load: Rate::saturating(view.offered),
                health: Health::Unknown,
            })
            .collect();
        Ok(Estimate { at: telemetry.at, generation: topology.generation(), flows, resources, routes })
    }

    fn rebuild(&mut self, _old: &Topology, new: &Topology) {
        self.demand.retain(|(name, _)| new.flow(name).is_some());
    }
}
