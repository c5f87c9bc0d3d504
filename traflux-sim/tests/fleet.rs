//! The fleet as its clients and its controller see it.

#![allow(clippy::unwrap_used)]

use std::time::Duration;

use proptest::prelude::*;
use traflux_core::{Timestamp, WeightTable, Window};
use traflux_gateway::PickerKind;
use traflux_sim::{ArmController, Baseline, Effect, Fleet, Process, QUIET, Scenario, run_arm};

fn at(seconds: f64) -> Timestamp {
    Timestamp::from_secs_f64(seconds)
}

fn window(seconds: f64, length: u64) -> Window {
    Window { at: at(seconds), length: Duration::from_secs(length) }
}

/// Two equal endpoints at 20 ms, far from overload.
fn pair() -> Scenario {
    Scenario::from_yaml(
        "
name: pair
duration_s: 300
clouds: { here: { egress_usd_per_gb: 0.1 } }
metrics: { scrape_interval_s: 5, rate_window_s: 30, control_delay_s: 2 }
sources: [{ name: west, base_rps: 100 }]
endpoints:
  - { name: a, cloud: here, slots: 50, service_ms: 20, hourly_usd: 1, rtt_ms: { west: 10 } }
  - { name: b, cloud: here, slots: 50, service_ms: 20, hourly_usd: 2, rtt_ms: { west: 10 } }
",
    )
    .unwrap()
}

fn process(name: &str, start_s: f64, end_s: f64, targets: &[&str], effect: Effect) -> Process {
    Process {
        name: name.into(),
        start_s,
        end_s: Some(end_s),
        repeat_every_s: None,
        targets: targets.iter().map(|t| (*t).to_owned()).collect(),
        effect,
    }
}

fn weights(fleet: &Fleet, row: &[u32]) -> WeightTable {
    WeightTable {
        generation: fleet.topology().generation(),
        offsets: fleet.topology().flow_offsets().to_vec(),
        weights: row.to_vec(),
    }
}

#[test]
fn every_request_succeeds_fails_or_is_in_flight() {
    for name in Scenario::built_in_names() {
        let mut scenario = Scenario::built_in(name).unwrap();
        scenario.duration_s = 720.0;
        let mut fleet = Fleet::new(&scenario, 4).unwrap();
        for step in 1..=30 {
            fleet.advance(at(f64::from(step) * 25.0));
            let census = fleet.census();
            assert_eq!(
                census.arrived,
                census.succeeded + census.failed + census.in_flight,
                "{name} at {step}: {census:?}"
            );
        }
        let outcome = fleet.finish("arm");
        assert_eq!(outcome.requests, fleet.census().arrived, "{name}");
        assert_eq!(fleet.census().in_flight, 0, "{name}");
    }
}

#[test]
fn equal_seeds_give_bit_identical_outcomes() {
    let mut scenario = Scenario::built_in("demo").unwrap();
    scenario.duration_s = 1400.0;
    scenario.sources.iter_mut().for_each(|s| s.base_rps *= 0.3);
    scenario.endpoints.iter_mut().for_each(|e| e.slots = e.slots.div_ceil(3));
    for mut arm in Baseline::all() {
        let mut run = |seed| run_arm(&scenario, seed, &mut arm, &mut |_| {}).unwrap();
        let first = run(3);
        assert_eq!(first, run(3));
        assert_ne!(first.mean, run(4).mean);
    }
}

#[test]
fn time_may_be_advanced_in_any_steps() {
    let mut scenario = Scenario::built_in("outage").unwrap();
    scenario.duration_s = 660.0;
    let whole = Fleet::new(&scenario, 1).unwrap().finish("arm");
    let mut fleet = Fleet::new(&scenario, 1).unwrap();
    for step in 0..6600 {
        fleet.advance(at(f64::from(step) * 0.1));
        fleet.advance(at(f64::from(step) * 0.05));
    }
    assert_eq!(fleet.finish("arm"), whole);
}

#[test]
fn all_arms_get_the_same_requests_with_the_same_work() {
    // Endless slots at one distance: what a request takes does not depend on where it goes.
    let mut scenario = pair();
    scenario.endpoints.iter_mut().for_each(|e| e.slots = 10_000);
    let outcomes: Vec<_> =
        Baseline::all().iter_mut().map(|arm| run_arm(&scenario, 7, arm, &mut |_| {}).unwrap()).collect();
    for outcome in &outcomes {
        assert_eq!(outcome.requests, outcomes[0].requests);
        assert_eq!(outcome.mean, outcomes[0].mean);
        assert_eq!(outcome.p99, outcomes[0].p99);
    }
    // And the scenario does tell arms apart once slots are few.
    scenario.endpoints[0].slots = 1;
    let [mut even, mut aware] = [Baseline::RoundRobin, Baseline::PeakEwma];
    let even = run_arm(&scenario, 7, &mut even, &mut |_| {}).unwrap();
    let aware = run_arm(&scenario, 7, &mut aware, &mut |_| {}).unwrap();
    assert_eq!(even.requests, aware.requests);
    assert!(even.mean > aware.mean);
}

#[test]
fn weights_are_realised_exactly_and_only_after_the_control_delay() {
    let scenario = pair();
    let mut fleet = Fleet::new(&scenario, 2).unwrap();
    fleet.force_weights(&weights(&fleet, &[9000, 1000])).unwrap();
    fleet.advance(at(100.0));
    fleet.set_weights(&weights(&fleet, &[1000, 9000])).unwrap();
    fleet.advance(at(101.9));
    assert_eq!(fleet.weights().weights, [9000, 1000]);
    fleet.advance(at(102.1));
    assert_eq!(fleet.weights().weights, [1000, 9000]);
    let outcome = fleet.finish("arm");
    assert!((outcome.minutes[0].shares[0] - 0.9).abs() < 1e-3, "{:?}", outcome.minutes[0].shares);
    assert!((outcome.minutes[3].shares[0] - 0.1).abs() < 1e-3);
    // 0.8 of the fleet moved once in five minutes.
    assert!((outcome.weight_churn_per_minute - 0.16).abs() < 1e-9);
}

#[test]
fn weights_of_another_shape_or_without_any_weight_are_refused() {
    let mut fleet = Fleet::new(&pair(), 2).unwrap();
    let error = fleet.set_weights(&weights(&fleet, &[0, 0])).unwrap_err();
    assert_eq!(error.code(), "plan_row");
    let error = fleet.set_weights(&weights(&fleet, &[1, 1, 1])).unwrap_err();
    assert_eq!(error.code(), "plan_shape");
}

#[test]
fn telemetry_changes_at_scrapes_only_and_says_its_age() {
    let mut fleet = Fleet::new(&pair(), 2).unwrap();
    fleet.advance(at(100.0));
    let mut previous = fleet.telemetry(window(100.0, 30));
    let mut changes = 0;
    for step in 1..=100 {
        let now = 100.0 + f64::from(step) * 0.5;
        fleet.advance(at(now));
        let telemetry = fleet.telemetry(window(now, 30));
        let (a, b) = (previous.routes[0].measured.throughput, telemetry.routes[0].measured.throughput);
        let (a, b) = (a.unwrap(), b.unwrap());
        assert!(b.age < Duration::from_secs(5), "older than the last scrape: {:?}", b.age);
        if b.age > a.age {
            assert_eq!(a.value, b.value, "a rate changed without a scrape");
        } else {
            changes += 1;
        }
        previous = telemetry;
    }
    assert_eq!(changes, 10, "50 s at 5 s scrapes");
}

#[test]
fn a_window_with_one_scrape_has_no_rate() {
    let mut fleet = Fleet::new(&pair(), 2).unwrap();
    fleet.advance(at(100.0));
    let telemetry = fleet.telemetry(window(100.0, 4));
    assert!(telemetry.routes.iter().all(|r| r.measured.throughput.is_none()));
    assert!(telemetry.warnings[0].contains("west/a"), "{:?}", telemetry.warnings);
    assert!(Fleet::new(&pair(), 2).unwrap().telemetry(window(0.0, 60)).freshest().is_none());
}

#[test]
fn lost_scrapes_age_the_readings_until_nothing_is_left() {
    let mut scenario = pair();
    scenario.processes = vec![process("gone", 100.0, 300.0, &[], Effect::ScrapeLoss { ratio: 1.0 })];
    let mut fleet = Fleet::new(&scenario, 2).unwrap();
    fleet.advance(at(115.0));
    let age = fleet.telemetry(window(115.0, 30)).freshest().unwrap();
    assert!((15.0..=20.0).contains(&age.as_secs_f64()), "{age:?}");
    fleet.advance(at(150.0));
    assert!(fleet.telemetry(window(150.0, 30)).freshest().is_none());
}

#[test]
fn delayed_metrics_are_older_and_lost_series_are_missing() {
    let mut scenario = pair();
    scenario.processes = vec![
        process("late", 0.0, 300.0, &[], Effect::MetricDelay { delay_s: 20.0 }),
        process("no-b", 0.0, 300.0, &["b"], Effect::SeriesLoss {}),
    ];
    let mut fleet = Fleet::new(&scenario, 2).unwrap();
    fleet.advance(at(200.0));
    let telemetry = fleet.telemetry(window(200.0, 60));
    let age = telemetry.routes[0].measured.throughput.unwrap().age.as_secs_f64();
    assert!((20.0..25.0).contains(&age), "{age}");
    assert!(telemetry.routes[1].measured.throughput.is_none());
    assert!(telemetry.resources[1].measured.throughput.is_none());
}

#[test]
fn timeouts_are_censored_while_the_histogram_looks_good() {
    let mut scenario = pair();
    scenario.outlier_detection = None;
    scenario.processes = vec![process("hole", 0.0, 300.0, &["a"], Effect::Blackhole { ratio: 0.6 })];
    let mut fleet = Fleet::new(&scenario, 2).unwrap();
    fleet.advance(at(200.0));
    let telemetry = fleet.telemetry(window(200.0, 120));
    let (a, b) = (&telemetry.routes[0].measured, &telemetry.routes[1].measured);
    let censored = a.censored_ratio.unwrap().value;
    assert!((censored - 0.6).abs() < 0.03, "{censored}");
    assert_eq!(a.error_ratio, a.censored_ratio);
    assert_eq!(b.censored_ratio.unwrap().value, 0.0);
    let (slow, good) = (a.latency_mean.unwrap().value, b.latency_mean.unwrap().value);
    assert!((slow.as_millis() - good.as_millis()).abs() < 3.0, "{slow} and {good}");
    let outcome = fleet.finish("arm");
    assert!((outcome.error_ratio - 0.3).abs() < 0.01, "{}", outcome.error_ratio);
    assert_eq!(outcome.timed_out, outcome.failed);
    // 30 % at 2000 ms, the rest at 30.
    assert!((outcome.mean.as_millis() - 621.0).abs() < 20.0, "{}", outcome.mean);
}

#[test]
fn an_outage_ejects_the_endpoint_and_it_comes_back() {
    let mut scenario = pair();
    scenario.processes = vec![process("dead", 60.0, 120.0, &["a"], Effect::Outage {})];
    let mut fleet = Fleet::new(&scenario, 2).unwrap();
    fleet.advance(at(80.0));
    let telemetry = fleet.telemetry(window(80.0, 30));
    assert_eq!(telemetry.resources[0].healthy, Some(false));
    assert_eq!(telemetry.resources[1].healthy, Some(true));
    assert_eq!(fleet.truth(0).capacity.get(), 0.0);
    let outcome = fleet.finish("arm");
    assert!(outcome.window("dead").unwrap().error_ratio > 0.0);
    assert!(outcome.window("dead").unwrap().error_ratio < 0.05, "ejected after five failures");
    // Only what was on its way when the outage began.
    assert!(outcome.window(QUIET).unwrap().error_ratio < 1e-3);
    let last = outcome.minutes.last().unwrap();
    assert!((last.shares[0] - 0.5).abs() < 0.02, "{:?}", last.shares);
}

#[test]
fn hidden_losses_are_hidden_and_announced_ones_are_not() {
    for announced in [false, true] {
        let mut scenario = pair();
        let effect = Effect::CapacityLoss { slots_factor: 0.1, announced };
        scenario.processes = vec![process("loss", 50.0, 250.0, &["a"], effect)];
        let mut fleet = Fleet::new(&scenario, 2).unwrap();
        fleet.advance(at(100.0));
        assert_eq!(fleet.truth(0).slots, 5);
        let told = fleet.telemetry(window(100.0, 30)).resources[0].capacity;
        assert_eq!(told.map(|r| r.value.get().round()), announced.then_some(250.0));
    }
}

#[test]
fn a_price_change_is_seen_and_billed() {
    let mut scenario = pair();
    let quiet = Fleet::new(&scenario, 2).unwrap().finish("arm");
    // $3/h for five minutes, and 20 kB at $0.1/GB.
    assert!((quiet.compute_usd - 0.25).abs() < 1e-9, "{}", quiet.compute_usd);
    assert!((quiet.marginal_price.get() - 2.0).abs() < 1e-6);
    let effect = Effect::Price { hourly_factor: 3.0, egress_factor: 2.0 };
    scenario.processes = vec![process("dear", 150.0, 300.0, &["b"], effect)];
    let mut fleet = Fleet::new(&scenario, 2).unwrap();
    fleet.advance(at(200.0));
    let telemetry = fleet.telemetry(window(200.0, 30));
    assert_eq!(telemetry.resources[1].hourly_price.unwrap().get(), 6.0);
    assert!((telemetry.routes[1].price.unwrap().get() - 4.0).abs() < 1e-9);
    assert!((telemetry.routes[0].price.unwrap().get() - 2.0).abs() < 1e-9);
    let dear = fleet.finish("arm");
    // $4/h more for two and a half minutes; egress of a quarter of all requests doubled.
    assert!((dear.compute_usd - quiet.compute_usd - 4.0 * 150.0 / 3600.0).abs() < 1e-9);
    assert!((dear.marginal_price.get() - 2.5).abs() < 0.05, "{}", dear.marginal_price);
}

#[test]
fn processes_on_one_endpoint_compose() {
    let mut scenario = pair();
    scenario.processes = vec![
        process("slow", 0.0, 200.0, &["a"], Effect::BrownOut { service_factor: 2.0 }),
        process("slower", 100.0, 300.0, &["a"], Effect::BrownOut { service_factor: 3.0 }),
        process("far", 100.0, 200.0, &[], Effect::Rtt { factor: 2.0, add_ms: 5.0, sources: vec![] }),
    ];
    let mut fleet = Fleet::new(&scenario, 2).unwrap();
    for (time, service_ms, rtt_ms) in [(50.0, 40.0, 10.0), (150.0, 120.0, 25.0), (250.0, 60.0, 10.0)] {
        fleet.advance(at(time));
        assert!((fleet.truth(0).service_time.as_millis() - service_ms).abs() < 1e-9, "at {time}");
        assert!((fleet.true_delay(0).as_millis() - rtt_ms).abs() < 1e-9, "at {time}");
        assert!((fleet.truth(1).service_time.as_millis() - 20.0).abs() < 1e-9);
    }
}

#[test]
fn a_full_queue_refuses_and_a_lone_endpoint_is_never_ejected() {
    let mut scenario = pair();
    scenario.endpoints.pop();
    scenario.endpoints[0].slots = 1;
    scenario.endpoints[0].queue_limit = 3;
    let outcome = Fleet::new(&scenario, 2).unwrap().finish("arm");
    // One slot of 50/s at 100/s and next to no queue: about half is refused, nothing times out.
    assert!((0.45..0.6).contains(&outcome.error_ratio), "{}", outcome.error_ratio);
    assert_eq!(outcome.timed_out, 0);
    assert!(outcome.max_utilization > 1.8, "{}", outcome.max_utilization);
}

#[test]
fn no_load_and_no_capacity_are_ordinary_states() {
    let mut idle = pair();
    idle.sources[0].base_rps = 0.0;
    let outcome = Fleet::new(&idle, 1).unwrap().finish("arm");
    assert_eq!((outcome.requests, outcome.error_ratio, outcome.churn_per_minute), (0, 0.0, 0.0));
    let mut dead = pair();
    dead.endpoints.iter_mut().for_each(|e| e.slots = 0);
    let outcome = Fleet::new(&dead, 1).unwrap().finish("arm");
    assert_eq!(outcome.error_ratio, 1.0);
}

#[test]
fn outlier_detection_spares_an_endpoint_that_errs_now_and_then() {
    let mut scenario = pair();
    let effect = Effect::Errors { ratio: 0.1, service_factor: 0.1 };
    scenario.processes = vec![process("flaky", 0.0, 300.0, &["a"], effect)];
    let outcome = Fleet::new(&scenario, 5).unwrap().finish("arm");
    assert!((outcome.error_ratio - 0.05).abs() < 0.006, "{}", outcome.error_ratio);
}

#[test]
fn baselines_differ_in_what_they_are_named_after() {
    let mut scenario = Scenario::built_in("steady").unwrap();
    scenario.duration_s = 600.0;
    let mut run = |mut arm: Baseline| run_arm(&scenario, 1, &mut arm, &mut |_| {}).unwrap();
    let [rr, fixed, cheap, least, ewma] = Baseline::all().map(&mut run);
    let even = 1.0 / 8.0;
    assert!(rr.minutes[5].shares.iter().all(|s| (s - even).abs() < 1e-2));
    assert!(cheap.marginal_price < fixed.marginal_price, "cost-aware pays less per request");
    assert!(least.mean < fixed.mean, "fewer in flight means nearer and faster here");
    assert!(ewma.mean < fixed.mean);
    assert_eq!(Baseline::all().map(|a| a.name().to_owned())[0], "round robin");
}

#[test]
fn pickers_change_in_flight_without_losing_requests() {
    let mut fleet = Fleet::new(&pair(), 2).unwrap();
    for (step, kind) in PickerKind::ALL.into_iter().enumerate() {
        fleet.set_picker(kind);
        fleet.advance(at(20.0 * (step + 1) as f64));
    }
    let outcome = fleet.finish("arm");
    assert_eq!(outcome.requests, fleet.census().arrived);
    assert_eq!(outcome.failed, 0);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_scenarios_lose_no_request(seed in any::<u64>()) {
        let mut scenario = traflux_sim::random_scenario(seed, &Default::default());
        scenario.duration_s = 200.0;
        let mut fleet = Fleet::new(&scenario, seed).unwrap();
        fleet.advance(at(150.0));
        let census = fleet.census();
        prop_assert_eq!(census.arrived, census.succeeded + census.failed + census.in_flight);
        let outcome = fleet.finish("arm");
        prop_assert_eq!(outcome.requests, fleet.census().arrived);
        prop_assert!(outcome.mean.as_secs().is_finite());
    }
}
