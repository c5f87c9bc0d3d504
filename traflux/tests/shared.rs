//! A quota that two endpoints share holds, and what is left over goes elsewhere.
#![allow(clippy::unwrap_used)]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::FutureExt as _;
use traflux::core::estimator::{EstimatorConfig, FleetEstimator};
use traflux::core::{
    ActuateError, Actuator, BoxFuture, FleetReward, InForce, Latency, MetricsSource, NodeGroup, ObserveError,
    Rate, Reading, Receipt, RewardWeights, Telemetry, Timestamp, Topology, TrafficPlan, Window,
};
use traflux::policy::FleetEncoder;
use traflux::{Config, Controller, Stages};

/// 100 requests/s from `eu`, 10 ms without load, split as the plan in force says.
#[derive(Clone, Default)]
struct World(Arc<Mutex<Option<TrafficPlan>>>);

impl MetricsSource for World {
    fn collect<'a>(
        &'a self,
        topology: &'a Topology,
        window: Window,
    ) -> BoxFuture<'a, Result<Telemetry, ObserveError>> {
        let mut telemetry = Telemetry::empty(topology, window.at, window.length);
        let plan = self.0.lock().unwrap().clone().unwrap();
        let weights = &plan.services()[0].rows[0].weights;
        let total: u32 = weights.iter().sum();
        for (route, weight) in telemetry.routes.iter_mut().zip(weights) {
            let rate = 100.0 * f64::from(*weight) / f64::from(total);
            let age = Duration::from_secs(1);
            route.measured.throughput = Some(Reading::new(Rate::per_second(rate), age));
            route.measured.latency_mean = Some(Reading::new(Latency::millis(10.0), age));
            route.measured.error_ratio = Some(Reading::new(0.0, age));
        }
        Box::pin(std::future::ready(Ok(telemetry)))
    }
}

impl Actuator for World {
    fn apply<'a>(&'a self, plan: &'a TrafficPlan) -> BoxFuture<'a, Result<Receipt, ActuateError>> {
        let changed = self.0.lock().unwrap().replace(plan.clone()).is_none_or(|old| old != *plan);
        Box::pin(std::future::ready(Ok(Receipt { version: plan.version().clone(), changed })))
    }

    fn in_force(&self, _: &NodeGroup) -> Option<InForce> {
        let plan = self.0.lock().unwrap();
        plan.as_ref().map(|plan| InForce { version: plan.version().clone(), since: Timestamp::ZERO })
    }
}

#[test]
fn a_quota_shared_by_two_endpoints_is_kept_and_shown() {
    // Both endpoints of the provider are near and have room for everything, its quota has not: 0.8 of 5,000
    // tokens a second are 40 requests a second of 100 tokens.
    let text = "sources: [{ name: eu, rtt_ms: { near-1: 1, near-2: 2, far: 90 } }]\n\
        services:\n\
        \x20 - name: chat\n\
        \x20   endpoints:\n\
        \x20     - { name: near-1, address: \"127.0.0.1:81\", capacity_rps: 1000, service_time_ms: 10 }\n\
        \x20     - { name: near-2, address: \"127.0.0.1:82\", capacity_rps: 1000, service_time_ms: 10 }\n\
        \x20     - { name: far, address: \"127.0.0.1:83\", capacity_rps: 1000, service_time_ms: 10 }\n\
        shared: [{ name: tokens, capacity_per_s: 5000, per_request: { near-1: 100, near-2: 100 } }]\n\
        objective: { headroom: 0 }\n\
        metrics: { prometheus: { url: \"http://127.0.0.1:9\", scrape_interval_s: 1, window_s: 10 } }\n";
    let config = Config::parse(text).unwrap();
    let built = config.build(&Default::default()).unwrap();
    let world = World::default();
    let topology = built.fleet.topology.as_ref().clone();
    let stages = Stages {
        source: Box::new(world.clone()),
        estimator: Box::new(FleetEstimator::new(EstimatorConfig::default())),
        encoder: Box::new(FleetEncoder::default()),
        policy: None,
        solver: traflux::lp::by_name("transport").unwrap(),
        actuator: Box::new(world),
        reward: Box::new(FleetReward::new(topology, RewardWeights::default())),
        recorder: None,
    };
    let mut controller = Controller::new(built.fleet, stages, built.control).unwrap();
    controller.start().now_or_never().unwrap().unwrap();
    for second in 0..300 {
        controller.tick(Timestamp::from_secs_f64(1000.0 + f64::from(second))).now_or_never().unwrap();
    }
    let decision = controller.tick(Timestamp::from_secs_f64(1300.0)).now_or_never().unwrap();
    let shares = &decision.flows[0].shares;
    let on_quota = shares[0].1 + shares[1].1;
    // The demand is planned for with the upper end of its band, so a little less than all of it may be taken.
    assert!((0.33..=0.4001).contains(&on_quota), "{shares:?}");
    let tokens = &decision.shared[0];
    assert_eq!((tokens.name.as_str(), tokens.capacity_per_s), ("tokens", 5000.0));
    assert!((tokens.load_per_s - 100.0 * 100.0 * on_quota).abs() < 50.0, "{tokens:?}");
    assert!(decision.explanation.iter().any(|line| line.contains("tokens")), "{:?}", decision.explanation);
    assert_eq!(decision.endpoints.len(), 3, "a quota is no endpoint");
}
