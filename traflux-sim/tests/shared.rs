//! The real stages on a simulated fleet.

#![allow(clippy::unwrap_used)]

use std::time::Duration;

use traflux_core::{
    Actuator, EndpointPlan, Generation, MetricsSource, NodeGroup, ServicePlan, Timestamp, TrafficPlan,
    WeightRow, Window,
};
use traflux_sim::{Fleet, Scenario, SharedFleet};

fn at(seconds: f64) -> Timestamp {
    Timestamp::from_secs_f64(seconds)
}

/// Polls a future that never waits.
fn ready<T>(mut future: traflux_core::BoxFuture<'_, T>) -> T {
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    match future.as_mut().poll(&mut context) {
        std::task::Poll::Ready(value) => value,
        std::task::Poll::Pending => panic!("the simulator never waits"),
    }
}

fn fleet() -> (Scenario, SharedFleet) {
    let scenario = Scenario::built_in("steady").unwrap();
    let fleet = SharedFleet::new(Fleet::new(&scenario, 1).unwrap());
    (scenario, fleet)
}

fn plan(scenario: &Scenario, service: &str, rows: &[(&str, u32)]) -> TrafficPlan {
    let endpoints: Vec<_> = scenario
        .endpoints
        .iter()
        .map(|e| EndpointPlan { name: e.name.clone(), hosts: vec![], region: None, tier: 0 })
        .collect();
    TrafficPlan::new(vec![ServicePlan {
        name: service.into(),
        listener: None,
        timeout: Duration::from_secs(2),
        connect_timeout: Duration::from_secs(1),
        http2: false,
        rows: rows
            .iter()
            .map(|(group, weight)| WeightRow {
                group: NodeGroup((*group).into()),
                listener: None,
                weights: vec![*weight; endpoints.len()],
            })
            .collect(),
        endpoints,
    }])
}

#[test]
fn a_plan_is_in_force_per_group_after_the_control_delay() {
    let (scenario, shared) = fleet();
    shared.with(|fleet| fleet.advance(at(10.0)));
    let us = NodeGroup("us-east".into());
    let eu = NodeGroup("eu-central".into());
    assert_eq!(shared.in_force(&us), None);
    let plan = plan(&scenario, &scenario.service, &[("us-east", 7)]);
    let receipt = ready(shared.apply(&plan)).unwrap();
    assert!(receipt.changed);
    assert!(!ready(shared.apply(&plan)).unwrap().changed, "the same version is no change");
    shared.with(|fleet| fleet.advance(at(10.4)));
    assert_eq!(shared.in_force(&us), None);
    shared.with(|fleet| fleet.advance(at(11.0)));
    let in_force = shared.in_force(&us).unwrap();
    assert_eq!(&in_force.version, plan.version());
    assert_eq!(in_force.since, at(10.5));
    assert_eq!(shared.in_force(&eu), None, "no row was sent to it");
    assert_eq!(shared.with(|fleet| fleet.weights()).weights[..8], [7; 8]);
}

#[test]
fn a_plan_that_does_not_fit_the_fleet_is_refused_and_changes_nothing() {
    let (scenario, shared) = fleet();
    let before = shared.with(|fleet| fleet.weights());
    for (plan, code) in [
        (plan(&scenario, "elsewhere", &[("us-east", 1)]), "actuate_compile"),
        (plan(&scenario, &scenario.service, &[("mars", 1)]), "actuate_compile"),
        (plan(&scenario, &scenario.service, &[("us-east", 1), ("eu-central", 0)]), "actuate_refused"),
    ] {
        assert_eq!(ready(shared.apply(&plan)).unwrap_err().code(), code);
    }
    shared.with(|fleet| fleet.advance(at(20.0)));
    assert_eq!(shared.with(|fleet| fleet.weights()), before);
}

#[test]
fn telemetry_comes_in_the_order_of_the_topology_asked_for() {
    let (scenario, shared) = fleet();
    shared.with(|fleet| fleet.advance(at(120.0)));
    let own = scenario.topology().unwrap();
    let window = Window { at: at(120.0), length: Duration::from_secs(60) };
    let straight = ready(shared.collect(&own, window)).unwrap();
    let mut reversed = scenario.clone();
    reversed.endpoints.reverse();
    reversed.endpoints[0].name = "unheard-of".into();
    let other = reversed.topology().unwrap().with_generation(Generation(5));
    let turned = ready(shared.collect(&other, window)).unwrap();
    assert_eq!(turned.generation, Generation(5));
    for (ix, route) in other.routes().iter().enumerate() {
        match own.route(&route.name) {
            Some(same) => assert_eq!(turned.routes[ix], straight.routes[same.ix()], "{}", route.name),
            None => assert_eq!(turned.routes[ix].measured.age(), None),
        }
    }
    assert_eq!(turned.resources[1], straight.resources[6]);
    assert_eq!(turned.resources[0].healthy, None);
}
