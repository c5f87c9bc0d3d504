//! Whatever the telemetry says, estimates are finite and ordered.

use std::time::Duration;

use proptest::prelude::*;

use super::fluid::{Cadence, Fleet, PROMETHEUS};
use crate::estimate::Estimate;
use crate::estimator::{DemandConfig, EstimatorConfig, FleetEstimator, RawEstimator};
use crate::stages::Estimator;
use crate::telemetry::{Measurements, Reading, Telemetry};
use crate::topology::Topology;
use crate::units::{Latency, Rate, Timestamp};

fn number() -> impl Strategy<Value = f64> {
    prop_oneof![
        Just(f64::NAN),
        Just(f64::INFINITY),
        Just(f64::NEG_INFINITY),
        Just(-1.0),
        Just(0.0),
        Just(f64::MAX),
        Just(f64::MIN_POSITIVE),
        0.0..1.0f64,
        0.0..1e4f64,
    ]
}

fn age() -> impl Strategy<Value = Duration> {
    prop_oneof![
        Just(Duration::ZERO),
        Just(Duration::MAX),
        (0u64..120).prop_map(Duration::from_secs),
        (0u64..1_000_000_000_000).prop_map(Duration::from_nanos)
    ]
}

fn reading() -> impl Strategy<Value = Option<Reading<f64>>> {
    proptest::option::weighted(0.8, (number(), age()).prop_map(|(value, age)| Reading::new(value, age)))
}

fn rate(reading: Option<Reading<f64>>) -> Option<Reading<Rate>> {
    reading.map(|r| Reading::new(Rate::saturating(r.value), r.age))
}

fn latency(reading: Option<Reading<f64>>) -> Option<Reading<Latency>> {
    reading.map(|r| Reading::new(Latency::saturating(r.value), r.age))
}

fn measurements() -> impl Strategy<Value = Measurements> {
    (reading(), reading(), reading(), reading(), reading(), reading()).prop_map(|(a, b, c, d, e, f)| {
        Measurements {
            throughput: rate(a),
            latency_mean: latency(b),
            latency_p95: latency(c),
            error_ratio: d,
            censored_ratio: e,
            concurrency: f,
        }
    })
}

/// Measurements, probe, announced capacity, background.
type GarbageResource = (Measurements, Option<bool>, Option<Reading<f64>>, Option<Reading<f64>>);

#[derive(Debug, Clone)]
struct Garbage {
    at: Timestamp,
    window: Duration,
    routes: Vec<Measurements>,
    resources: Vec<GarbageResource>,
}

fn garbage() -> impl Strategy<Value = Garbage> {
    let resource = (measurements(), any::<Option<bool>>(), reading(), reading());
    (
        prop_oneof![Just(0.0), Just(1e300), 0.0..1e9f64, 1000.0..1100.0f64],
        prop_oneof![Just(Duration::ZERO), Just(Duration::MAX), (1u64..90).prop_map(Duration::from_secs)],
        proptest::collection::vec(measurements(), 8),
        proptest::collection::vec(resource, 8),
    )
        .prop_map(|(at, window, routes, resources)| Garbage {
            at: Timestamp::from_secs_f64(at),
            window,
            routes,
            resources,
        })
}

fn check(estimate: &Estimate) {
    for flow in &estimate.flows {
        assert!(flow.demand.get().is_finite() && flow.upper >= flow.demand, "{flow:?}");
    }
    for resource in &estimate.resources {
        assert!(resource.capacity.get().is_finite(), "{resource:?}");
        assert!(resource.capacity_lower <= resource.capacity, "{resource:?}");
        assert!((0.0..=1.0).contains(&resource.error_ratio), "{resource:?}");
        assert!(resource.load.get().is_finite() && resource.background.get().is_finite());
        assert!(resource.curve.service_time().get().is_finite() && resource.curve.servers().is_finite());
        assert!(resource.curve.latency(0.9).get().is_finite());
        assert!(resource.latency.is_none_or(|l| l.get().is_finite()));
    }
    for route in &estimate.routes {
        assert!(route.delay.get().is_finite() && route.load.get().is_finite());
    }
}

fn telemetry(topology: &Topology, garbage: &Garbage) -> Telemetry {
    let mut telemetry = Telemetry::empty(topology, garbage.at, garbage.window);
    for (route, measured) in telemetry.routes.iter_mut().zip(&garbage.routes) {
        route.measured = measured.clone();
    }
    for (resource, (measured, healthy, capacity, background)) in
        telemetry.resources.iter_mut().zip(&garbage.resources)
    {
        resource.measured = measured.clone();
        resource.healthy = *healthy;
        resource.capacity = rate(*capacity);
        resource.background = rate(*background);
    }
    telemetry
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn garbage_in_gives_finite_and_ordered_estimates_out(sequence in proptest::collection::vec(garbage(), 1..12)) {
        let topology = Fleet::eight(PROMETHEUS, 0).topology;
        let mut estimator = FleetEstimator::new(EstimatorConfig::default());
        let mut raw = RawEstimator::new();
        for garbage in &sequence {
            let telemetry = telemetry(&topology, garbage);
            check(&estimator.estimate(&topology, &telemetry).unwrap());
            raw.estimate(&topology, &telemetry).unwrap();
        }
    }

    #[test]
    fn any_configuration_is_made_valid(a in number(), b in number(), c in number(), sequence in proptest::collection::vec(garbage(), 1..4)) {
        let mut config = EstimatorConfig { stale_s: a, control_delay_s: b, ..EstimatorConfig::default() };
        config.demand = DemandConfig { level_s: c, trend_s: a, growth_limit: b, fall_share: c, ..DemandConfig::default() };
        config.capacity.loss_threshold = a;
        config.capacity.margin = b;
        config.capacity.margin_max = c;
        config.capacity.floor_ratio = a;
        config.capacity.ceiling_ratio = c;
        let topology = Fleet::eight(PROMETHEUS, 0).topology;
        let mut estimator = FleetEstimator::new(config);
        for garbage in &sequence {
            check(&estimator.estimate(&topology, &telemetry(&topology, garbage)).unwrap());
        }
    }
}

#[test]
fn equal_inputs_give_bit_identical_estimates() {
    let run = || {
        let mut fleet = Fleet::eight(Cadence { tick: 5.0, ..PROMETHEUS }, 42);
        let demand = 0.6 * fleet.nominal();
        fleet.run(300.0, |_| demand, |fleet, _| fleet.endpoints[1].slow = 2.0)
    };
    let bits = |estimates: &[(f64, Estimate)]| -> Vec<u64> {
        estimates
            .iter()
            .flat_map(|(_, e)| {
                e.resources.iter().flat_map(|r| [r.capacity, r.capacity_lower]).map(|c| c.get().to_bits())
            })
            .collect()
    };
    assert_eq!(bits(&run()), bits(&run()));
}

#[test]
fn a_clock_that_jumps_leaves_capacities_alone() {
    for jump in [-50_000.0, -30.0, 10_000.0] {
        let mut fleet = Fleet::eight(PROMETHEUS, 13);
        let demand = 0.6 * fleet.nominal();
        fleet.run(300.0, |_| demand, |_, _| {});
        let topology = fleet.topology.clone();
        for step in 0..40 {
            fleet.run(5.0, |_| demand, |_, _| {});
            let mut telemetry = fleet.telemetry();
            telemetry.at = Timestamp::from_secs_f64(telemetry.at.as_secs_f64() + jump);
            let estimate = fleet.estimator.estimate(&topology, &telemetry).unwrap();
            check(&estimate);
            for (resource, nominal) in estimate.resources.iter().zip(topology.resources()) {
                let ratio = resource.capacity / nominal.capacity;
                assert!((0.95..=1.05).contains(&ratio), "{jump} {step}: {ratio}");
            }
            assert!((estimate.flows[0].demand.get() / demand - 1.0).abs() < 0.1);
        }
    }
}

#[test]
fn a_configuration_with_an_unknown_key_is_refused() {
    assert!(serde_json::from_str::<EstimatorConfig>(r#"{"demand": {"level_s": 5.0}}"#).is_ok());
    assert!(serde_json::from_str::<EstimatorConfig>(r#"{"demand": {"level": 5.0}}"#).is_err());
}
