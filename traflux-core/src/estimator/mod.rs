//! What is true now, and when the next plan is in force? From telemetry to an [`Estimate`](crate::Estimate).
//!
//! [`FleetEstimator`] forecasts demand, infers capacity with a lower confidence bound, learns latency curves and
//! judges health. [`RawEstimator`] believes the last reading and the nominal capacity: an arm to compare with.
//!
//! | question | file | answer |
//! |---|---|---|
//! | how much will arrive? | `demand.rs` | level and trend over `window/2 + age + control delay`, and a band |
//! | how slow is it for its load? | `slowdown.rs` | `f` in `L = S f (1 + W(X f/μ))` |
//! | load or loss? | `peers.rs` | rising demand and slow peers excuse an endpoint |
//! | how much can it serve? | `capacity.rs` | `μ/f`: losses at once, recovery by evidence |
//! | how fast is it alone? | `service.rs` | `S = L/(1 + W(ρ))` at low load |
//! | may it carry traffic? | `health.rs` | error ratios by confidence bound, with hysteresis |
//!
//! Time comes from [`Telemetry::at`] alone and nothing is random: equal inputs give bit-identical estimates. A
//! reading that was seen before teaches nothing; one older than `stale_s` is ignored while its age widens
//! the bands. State belongs to names, so a topology may change at run time.
//!
//! ```
//! use std::time::Duration;
//! use traflux_core::{
//!     Consumption, Estimator, Flow, HourlyPrice, Latency, Rate, Reading, Resource, Route, Telemetry, Timestamp,
//!     Topology, UnitPrice,
//!     estimator::{EstimatorConfig, FleetEstimator},
//! };
//!
//! let mut builder = Topology::builder();
//! let flow = builder.add_flow(Flow { name: "eu".into(), source: "eu".into(), service: "shop".into() });
//! let (resource, group) = builder.add_endpoint(
//!     Resource {
//!         name: "eu-central".into(),
//!         capacity: Rate::per_second(400.0),
//!         concurrency: Some(8),
//!         service_time: Some(Latency::millis(20.0)),
//!         domain: None,
//!         hourly_price: HourlyPrice::ZERO,
//!     },
//!     0,
//! );
//! builder.add_route(Route {
//!     name: "eu/eu-central".into(),
//!     flow,
//!     group,
//!     consumption: vec![Consumption { resource, per_request: 1.0 }],
//!     delay: Latency::millis(5.0),
//!     price: UnitPrice::ZERO,
//! });
//! let topology = builder.build()?;
//!
//! let mut estimator = FleetEstimator::new(EstimatorConfig::default());
//! let mut telemetry =
//!     Telemetry::empty(&topology, Timestamp::from_secs_f64(60.0), Duration::from_secs(60));
//! telemetry.routes[0].measured.throughput =
//!     Some(Reading::new(Rate::per_second(120.0), Duration::from_secs(5)));
//! let estimate = estimator.estimate(&topology, &telemetry)?;
//! assert_eq!(estimate.flows[0].demand, Rate::per_second(120.0));
//! assert!(estimate.resources[0].capacity_lower < estimate.resources[0].capacity);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod capacity;
mod config;
mod demand;
mod fleet;
mod health;
mod peers;
mod raw;
mod readings;
mod service;
mod slowdown;
mod smooth;
#[cfg(test)]
mod tests;

pub use config::{CapacityConfig, DemandConfig, EstimatorConfig, HealthConfig};
pub use fleet::FleetEstimator;
pub use raw::RawEstimator;

use crate::error::EstimateError;
use crate::telemetry::Telemetry;
use crate::topology::Topology;

/// Whether telemetry and topology belong together.
fn check(topology: &Topology, telemetry: &Telemetry) -> Result<(), EstimateError> {
    if telemetry.generation != topology.generation() {
        return Err(EstimateError::StaleGeneration {
            expected: topology.generation(),
            found: telemetry.generation,
        });
    }
    let shapes = [
        ("routes", topology.routes().len(), telemetry.routes.len()),
        ("resources", topology.resources().len(), telemetry.resources.len()),
    ];
    for (what, expected, found) in shapes {
        if expected != found {
            return Err(EstimateError::Shape { what, expected, found });
        }
    }
    Ok(())
}
