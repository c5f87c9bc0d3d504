//! Health of endpoints and routes, through the estimator.

use std::collections::BTreeMap;
use std::time::Duration;

use super::fluid::{Endpoint, FAST, Fleet, PROMETHEUS};
use crate::error::EstimateError;
use crate::estimate::Health;
use crate::estimator::{EstimatorConfig, FleetEstimator, HealthConfig, RawEstimator};
use crate::stages::Estimator;
use crate::telemetry::{Reading, Telemetry};
use crate::topology::{Consumption, Flow, Generation, Resource, Route, Topology};
use crate::units::{HourlyPrice, Latency, Rate, Timestamp, UnitPrice};

/// Two sources, three endpoints.
fn topology(generation: u64, endpoints: &[&str]) -> Topology {
    let mut builder = Topology::builder().generation(Generation(generation));
    let flows = ["us", "eu"].map(|name| {
        builder.add_flow(Flow { name: name.into(), source: name.into(), service: "shop".into() })
    });
    for name in endpoints {
        let (resource, group) = builder.add_endpoint(
            Resource {
                name: (*name).into(),
                capacity: Rate::per_second(100.0),
                concurrency: Some(8),
                service_time: Some(Latency::millis(80.0)),
                domain: None,
                hourly_price: HourlyPrice::ZERO,
            },
            0,
        );
        for flow in flows {
            builder.add_route(Route {
                name: format!("{}/{name}", flow.0),
                flow,
                group,
                consumption: vec![Consumption { resource, per_request: 1.0 }],
                delay: Latency::millis(20.0),
                price: UnitPrice::ZERO,
            });
        }
    }
    builder.build().unwrap()
}

/// Every route at `rate` with latency 100 ms and no errors.
fn telemetry(topology: &Topology, second: f64, rate: f64) -> Telemetry {
    let at = Timestamp::from_secs_f64(1e6 + second);
    let mut telemetry = Telemetry::empty(topology, at, Duration::from_secs(10));
    for route in &mut telemetry.routes {
        let age = Duration::from_secs(1);
        route.measured.throughput = Some(Reading::new(Rate::per_second(rate), age));
        route.measured.latency_mean = Some(Reading::new(Latency::millis(100.0), age));
        route.measured.error_ratio = Some(Reading::new(0.0, age));
        route.measured.censored_ratio = Some(Reading::new(0.0, age));
    }
    telemetry
}

fn fail(telemetry: &mut Telemetry, route: usize, ratio: f64) {
    telemetry.routes[route].measured.error_ratio = Some(Reading::new(ratio, Duration::from_secs(1)));
}

/// Feeds `seconds` of telemetry, one a second, changed by `change`, and gives the health of endpoint `a`.
fn feed(
    estimator: &mut FleetEstimator,
    topology: &Topology,
    seconds: std::ops::Range<u32>,
    rate: f64,
    change: impl Fn(&mut Telemetry),
) -> Vec<Health> {
    seconds
        .map(|second| {
            let mut telemetry = telemetry(topology, f64::from(second), rate);
            change(&mut telemetry);
            estimator.estimate(topology, &telemetry).unwrap().resources[0].health
        })
        .collect()
}

#[test]
fn errors_degrade_at_once_and_healing_takes_two_good_windows() {
    let topology = topology(0, &["a", "b", "c"]);
    let mut estimator = FleetEstimator::new(EstimatorConfig::default());
    let healths = feed(&mut estimator, &topology, 0..30, 20.0, |_| {});
    assert_eq!(healths[29], Health::Healthy);
    let both = |ratio: f64| {
        move |t: &mut Telemetry| {
            fail(t, 0, ratio);
            fail(t, 3, ratio);
        }
    };
    assert_eq!(feed(&mut estimator, &topology, 30..31, 20.0, both(0.2)), [Health::Degraded]);
    assert_eq!(feed(&mut estimator, &topology, 31..32, 20.0, both(0.8)), [Health::Unhealthy]);
    let healing = feed(&mut estimator, &topology, 32..62, 20.0, |_| {});
    let healed = healing.iter().position(|h| *h == Health::Healthy).unwrap();
    assert!((18..=22).contains(&healed), "healed after {healed} s");
    // Milder, not gone: from unhealthy to degraded.
    assert_eq!(feed(&mut estimator, &topology, 62..63, 20.0, both(0.9)), [Health::Unhealthy]);
    assert_eq!(feed(&mut estimator, &topology, 63..90, 20.0, both(0.2)).last(), Some(&Health::Degraded));
}

#[test]
fn one_failure_among_few_requests_proves_nothing() {
    let topology = topology(0, &["a", "b", "c"]);
    let mut estimator = FleetEstimator::new(EstimatorConfig::default());
    feed(&mut estimator, &topology, 0..30, 0.2, |_| {});
    // 4 requests in the window of both routes, one of which failed.
    let one = feed(&mut estimator, &topology, 30..31, 0.2, |t| fail(t, 0, 0.5));
    assert_eq!(one, [Health::Healthy]);
    // Three in four is proof enough.
    let many = feed(&mut estimator, &topology, 31..33, 0.2, |t| {
        fail(t, 0, 1.0);
        fail(t, 3, 0.5);
    });
    assert_ne!(many[1], Health::Healthy);
}

#[test]
fn a_source_that_is_cut_off_does_not_accuse_the_endpoint() {
    let topology = topology(0, &["a", "b", "c"]);
    let mut estimator = FleetEstimator::new(EstimatorConfig::default());
    feed(&mut estimator, &topology, 0..30, 20.0, |_| {});
    let mut last = None;
    for second in 30..60 {
        let mut telemetry = telemetry(&topology, f64::from(second), 20.0);
        fail(&mut telemetry, 0, 1.0);
        last = Some(estimator.estimate(&topology, &telemetry).unwrap());
    }
    let last = last.unwrap();
    assert_eq!(last.routes[0].health, Health::Unhealthy);
    assert_eq!(last.routes[3].health, Health::Healthy);
    assert_eq!(last.resources[0].health, Health::Healthy);
    assert!(last.resources[0].capacity.get() > 95.0);
}

#[test]
fn a_detour_of_one_route_is_the_routes_delay_not_the_endpoints_slowness() {
    let topology = topology(0, &["a", "b", "c"]);
    let mut estimator = FleetEstimator::new(EstimatorConfig::default());
    feed(&mut estimator, &topology, 0..60, 20.0, |_| {});
    let mut last = None;
    for second in 60..400 {
        let mut telemetry = telemetry(&topology, f64::from(second), 20.0);
        let slow = Reading::new(Latency::millis(400.0), Duration::from_secs(1));
        telemetry.routes[0].measured.latency_mean = Some(slow);
        last = Some(estimator.estimate(&topology, &telemetry).unwrap());
    }
    let last = last.unwrap();
    assert_eq!(last.resources[0].health, Health::Healthy);
    assert!(last.resources[0].capacity.get() > 75.0, "{}", last.resources[0].capacity);
    assert!(last.routes[0].delay.as_millis() > 200.0 && last.routes[3].delay.as_millis() < 25.0);
}

#[test]
fn a_failing_probe_is_enough_and_silence_is_forgiven_after_a_while() {
    let topology = topology(0, &["a", "b", "c"]);
    let mut estimator = FleetEstimator::new(EstimatorConfig::default());
    feed(&mut estimator, &topology, 0..30, 20.0, |_| {});
    let probed = feed(&mut estimator, &topology, 30..31, 20.0, |t| t.resources[0].healthy = Some(false));
    assert_eq!(probed, [Health::Unhealthy]);
    // Nobody sends it anything and nobody probes: it stays what it was, then becomes unknown.
    let silent = feed(&mut estimator, &topology, 31..260, 20.0, |t| {
        t.routes[0].measured.throughput = Some(Reading::new(Rate::ZERO, Duration::from_secs(1)));
        t.routes[3].measured = t.routes[0].measured.clone();
    });
    assert_eq!(silent[100], Health::Unhealthy);
    assert_eq!(silent.last(), Some(&Health::Unknown));
}

#[test]
fn an_idle_healthy_endpoint_stays_healthy() {
    let topology = topology(0, &["a", "b", "c"]);
    let mut estimator = FleetEstimator::new(EstimatorConfig::default());
    feed(&mut estimator, &topology, 0..30, 20.0, |_| {});
    let idle = feed(&mut estimator, &topology, 30..600, 20.0, |t| {
        t.routes[0] = Default::default();
        t.routes[3] = Default::default();
    });
    assert!(idle.iter().all(|h| *h == Health::Healthy));
}

#[test]
fn when_all_metrics_are_lost_a_bad_endpoint_is_not_forgiven() {
    let topology = topology(0, &["a", "b", "c"]);
    let mut estimator = FleetEstimator::new(EstimatorConfig::default());
    feed(&mut estimator, &topology, 0..30, 20.0, |t| {
        fail(t, 0, 0.9);
        fail(t, 3, 0.9);
    });
    let lost = feed(&mut estimator, &topology, 30..900, 20.0, |t| {
        t.routes.iter_mut().for_each(|r| *r = Default::default());
    });
    assert_eq!(lost.last(), Some(&Health::Unhealthy));
}

#[test]
fn a_signal_above_its_limit_degrades() {
    let topology = topology(0, &["a", "b", "c"]);
    let health =
        HealthConfig { signal_limits: BTreeMap::from([("cpu".to_owned(), 0.9)]), ..HealthConfig::default() };
    let mut estimator = FleetEstimator::new(EstimatorConfig { health, ..EstimatorConfig::default() });
    let signal = |value: f64| {
        move |t: &mut Telemetry| {
            t.resources[0].signals.insert("cpu".into(), Reading::new(value, Duration::from_secs(1)));
        }
    };
    let healths = feed(&mut estimator, &topology, 0..20, 20.0, signal(0.8));
    assert_eq!(healths[19], Health::Healthy);
    assert_eq!(feed(&mut estimator, &topology, 20..21, 20.0, signal(0.95)), [Health::Degraded]);
    assert_eq!(
        feed(&mut estimator, &topology, 21..60, 20.0, signal(f64::NAN)).last(),
        Some(&Health::Healthy)
    );
}

#[test]
fn an_announced_capacity_overrides_the_nominal_one_and_zero_means_zero() {
    let topology = topology(0, &["a", "b", "c"]);
    let mut estimator = FleetEstimator::new(EstimatorConfig::default());
    for (second, announced) in [(0.0, 50.0), (1.0, 200.0), (2.0, 0.0), (3.0, 100.0)] {
        let mut telemetry = telemetry(&topology, second, 5.0);
        telemetry.resources[0].capacity = Some(Reading::new(Rate::per_second(announced), Duration::ZERO));
        let estimate = estimator.estimate(&topology, &telemetry).unwrap();
        assert_eq!(estimate.resources[0].capacity.get(), announced);
        assert!(estimate.resources[0].capacity_lower.get() <= announced);
        assert_eq!(estimate.resources[1].capacity.get(), 100.0);
    }
}

#[test]
fn state_belongs_to_names_when_the_topology_changes() {
    let old = topology(1, &["a", "b", "c"]);
    let new = topology(2, &["c", "d", "a"]);
    let mut estimator = FleetEstimator::new(EstimatorConfig::default());
    feed(&mut estimator, &old, 0..30, 20.0, |t| {
        fail(t, 0, 0.9);
        fail(t, 3, 0.9);
    });
    assert!(matches!(
        estimator.estimate(&new, &telemetry(&old, 30.0, 20.0)),
        Err(EstimateError::StaleGeneration { .. })
    ));
    estimator.rebuild(&old, &new);
    let silent = Telemetry::empty(&new, Timestamp::from_secs_f64(1e6 + 31.0), Duration::from_secs(10));
    let estimate = estimator.estimate(&new, &silent).unwrap();
    let healths: Vec<Health> = estimate.resources.iter().map(|r| r.health).collect();
    assert_eq!(healths, [Health::Healthy, Health::Unknown, Health::Unhealthy]);
    assert!((estimate.flows[0].demand.get() - 60.0).abs() < 1.0);
    assert!(estimate.resources[0].age.is_some() && estimate.resources[1].age.is_none());
}

#[test]
fn the_raw_arm_believes_the_last_reading_and_the_nominal_capacity() {
    let topology = topology(0, &["a", "b", "c"]);
    let mut raw = RawEstimator::new();
    let mut telemetry = telemetry(&topology, 0.0, 20.0);
    telemetry.resources[1].healthy = Some(false);
    let estimate = raw.estimate(&topology, &telemetry).unwrap();
    assert_eq!(estimate.flows[0].demand.get(), 60.0);
    assert_eq!(estimate.flows[0].upper, estimate.flows[0].demand);
    assert_eq!(estimate.resources[0].capacity_lower.get(), 100.0);
    assert_eq!(estimate.resources[0].health, Health::Unknown);
    assert_eq!(estimate.resources[1].health, Health::Unhealthy);
}

#[test]
fn a_surge_alone_degrades_nobody() {
    for cadence in [PROMETHEUS, FAST] {
        let endpoints = (0..6).map(|_| Endpoint::new(16.0, 0.02, 0.03)).collect();
        let mut fleet = Fleet::new(endpoints, cadence, 1);
        // To 93 % in half a minute: latencies multiply, nothing times out.
        let base = 0.4 * fleet.nominal();
        let demand = |t: f64| base * (1.0 + 1.325 * ((t - 200.0) / 30.0).clamp(0.0, 1.0));
        for (time, estimate) in fleet.run(600.0, demand, |_, _| {}) {
            for resource in &estimate.resources {
                assert!(resource.health.may_receive(), "{time}: {:?}", resource.health);
            }
        }
    }
}
