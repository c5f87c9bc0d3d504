//! What the benches share: a fleet of any size whose telemetry is made up, not measured.

use std::sync::PoisonError;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use traflux::core::estimator::{EstimatorConfig, FleetEstimator};
use traflux::core::{
    ActuateError, Actuator, BoxFuture, Consumption, FleetReward, Flow, HourlyPrice, InForce, Latency,
    LatencyCurve, MetricsSource, NodeGroup, ObserveError, Rate, Reading, Receipt, Resource, RewardWeights,
    Route, StateEncoder, Telemetry, Timestamp, Topology, TrafficPlan, UnitPrice, Window,
};
use traflux::policy::{FleetEncoder, TopK};
use traflux::{ControlConfig, Controller, Fleet, Stages};

/// Load on the fleet over its capacity, as measured.
const UTILIZATION: f64 = 0.6;

/// A fleet of `flows` sources and `endpoints` endpoints of different size, distance and price.
///
/// # Panics
/// Never for sizes that fit into memory.
#[must_use]
pub fn topology(flows: usize, endpoints: usize) -> Topology {
    let mut builder = Topology::builder();
    let placed: Vec<_> = (0..endpoints)
        .map(|ix| {
            let resource = Resource {
                name: format!("endpoint-{ix}"),
                capacity: Rate::per_second(50.0 + (ix * 37 % 200) as f64),
                concurrency: Some(4 + (ix * 13 % 60) as u32),
                service_time: Some(Latency::millis(5.0 + (ix * 7 % 40) as f64)),
                domain: Some(format!("cloud-{}", ix % 3)),
                hourly_price: HourlyPrice::ZERO,
            };
            builder.add_endpoint(resource, 0)
        })
        .collect();
    for flow in 0..flows {
        let name = format!("source-{flow}");
        let id = builder.add_flow(Flow { name: name.clone(), source: name.clone(), service: "s".to_owned() });
        for (ix, (resource, group)) in placed.iter().enumerate() {
            builder.add_route(Route {
                name: format!("{name}/endpoint-{ix}"),
                flow: id,
                group: *group,
                consumption: vec![Consumption { resource: *resource, per_request: 1.0 }],
                delay: Latency::millis(((ix * 11 + flow * 29) % 150) as f64),
                price: UnitPrice::per_million((ix % 5) as f64),
            });
        }
    }
    builder.build().expect("every name is given once")
}

/// Telemetry by formula, a little different at each collection.
#[derive(Debug)]
pub struct MadeUpMetrics {
    collections: AtomicU64,
}

impl MetricsSource for MadeUpMetrics {
    fn collect<'a>(
        &'a self,
        topology: &'a Topology,
        window: Window,
    ) -> BoxFuture<'a, Result<Telemetry, ObserveError>> {
        let turn = self.collections.fetch_add(1, Ordering::Relaxed);
        let flows = topology.flows().len() as f64;
        let mut telemetry = Telemetry::empty(topology, window.at, window.length);
        let age = Duration::from_secs(1);
        for (ix, (route, out)) in topology.routes().iter().zip(&mut telemetry.routes).enumerate() {
            let resource = &topology.resources()[route.consumption[0].resource.ix()];
            let wobble = 1.0 + 0.1 * ((turn as f64) * 0.7 + ix as f64).sin();
            let utilization = UTILIZATION * wobble;
            let curve = LatencyCurve::new(
                resource.service_time.unwrap_or(Latency::millis(10.0)),
                f64::from(resource.concurrency.unwrap_or(8)),
            );
            let measured = &mut out.measured;
            measured.throughput = Some(Reading::new(resource.capacity * (utilization / flows), age));
            measured.latency_mean = Some(Reading::new(curve.latency(utilization) + route.delay, age));
            measured.error_ratio = Some(Reading::new(0.0, age));
            measured.censored_ratio = Some(Reading::new(0.0, age));
        }
        Box::pin(std::future::ready(Ok(telemetry)))
    }
}

/// Takes every plan, says that it is in force, and drops it.
#[derive(Debug, Default)]
pub struct Nowhere(std::sync::Mutex<Option<InForce>>);

impl Actuator for Nowhere {
    fn apply<'a>(&'a self, plan: &'a TrafficPlan) -> BoxFuture<'a, Result<Receipt, ActuateError>> {
        let receipt = Receipt { version: plan.version().clone(), changed: true };
        let in_force = InForce { version: plan.version().clone(), since: Timestamp::ZERO };
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(in_force);
        Box::pin(std::future::ready(Ok(receipt)))
    }

    fn in_force(&self, _: &NodeGroup) -> Option<InForce> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// The whole controller on such a fleet, with a policy that chooses `k` endpoints.
///
/// # Panics
/// Never: the fleet is valid.
#[must_use]
pub fn controller(flows: usize, endpoints: usize, k: usize) -> Controller {
    let topology = topology(flows, endpoints);
    let encoder = FleetEncoder::default();
    let policy = TopK::new(k, 0.15, &encoder.space());
    let stages = Stages {
        source: Box::new(MadeUpMetrics { collections: AtomicU64::new(0) }),
        estimator: Box::new(FleetEstimator::new(EstimatorConfig::default())),
        encoder: Box::new(encoder),
        policy: Some(Box::new(policy)),
        solver: traflux::lp::by_name("transport").expect("the default solver is always there"),
        actuator: Box::new(Nowhere::default()),
        reward: Box::new(FleetReward::new(topology.clone(), RewardWeights::default())),
        recorder: None,
    };
    let services = TrafficPlan::services_of(&topology);
    Controller::new(Fleet::new(topology, services), stages, ControlConfig::default())
        .expect("a static split by capacity has weights")
}
