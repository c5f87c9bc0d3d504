//! The simulator against queueing formulas.

#![allow(clippy::unwrap_used)]

use traflux_core::Timestamp;
use traflux_sim::{Fleet, Scenario};

/// One source, one endpoint, no distance, an endless queue and endless patience.
fn queue(slots: u32, service_ms: f64, rate: f64, service_time: &str, duration_s: f64) -> Scenario {
    Scenario::from_yaml(&format!(
        "
name: queue
duration_s: {duration_s}
timeout_ms: 3000000
clouds: {{ here: {{ egress_usd_per_gb: 0 }} }}
sources: [{{ name: clients, base_rps: {rate} }}]
endpoints:
  - name: server
    cloud: here
    slots: {slots}
    service_ms: {service_ms}
    service_time: {service_time}
    queue_limit: 10000000
    hourly_usd: 1
    rtt_ms: {{ clients: 0 }}
"
    ))
    .unwrap()
}

fn mean_wait(scenario: &Scenario, seeds: std::ops::Range<u64>) -> f64 {
    let (mut sum, mut n) = (0.0, 0.0);
    for seed in seeds {
        let outcome = Fleet::new(scenario, seed).unwrap().finish("fifo");
        sum += outcome.mean.as_secs();
        n += 1.0;
    }
    sum / n - scenario.endpoints[0].service_ms * 1e-3
}

/// Erlang's C formula: the probability of waiting in M/M/c.
fn erlang_c(servers: u32, offered: f64) -> f64 {
    let (mut term, mut sum) = (1.0, 1.0);
    for k in 1..servers {
        term *= offered / f64::from(k);
        sum += term;
    }
    let last = term * offered / f64::from(servers) * f64::from(servers) / (f64::from(servers) - offered);
    last / (sum + last)
}

#[test]
fn mean_waits_of_m_m_c_match_erlang_within_three_percent() {
    for (servers, utilization) in [(1u32, 0.7), (3, 0.8), (8, 0.9)] {
        let service = 0.02;
        let rate = f64::from(servers) * utilization / service;
        let scenario = queue(servers, service * 1e3, rate, "{ exponential: {} }", 5000.0);
        let offered = f64::from(servers) * utilization;
        let expected = erlang_c(servers, offered) / (f64::from(servers) / service - rate);
        let found = mean_wait(&scenario, 1..4);
        assert!((found / expected - 1.0).abs() < 0.03, "c = {servers}: {found} s, expected {expected} s");
    }
}

#[test]
fn mean_waits_of_m_g_1_match_pollaczek_and_khinchine_within_four_percent() {
    for (shape, squared_cv) in
        [("{ constant: {} }", 0.0), ("{ exponential: {} }", 1.0), ("{ lognormal: { cv: 1.5 } }", 2.25)]
    {
        let (service, utilization) = (0.01, 0.7);
        let scenario = queue(1, service * 1e3, utilization / service, shape, 10_000.0);
        let expected = utilization / (1.0 - utilization) * service * (1.0 + squared_cv) / 2.0;
        let found = mean_wait(&scenario, 1..5);
        assert!((found / expected - 1.0).abs() < 0.04, "{shape}: {found} s, expected {expected} s");
    }
}

#[test]
fn the_measured_concurrency_obeys_littles_law() {
    let scenario = queue(4, 20.0, 140.0, "{ exponential: {} }", 1000.0);
    let mut fleet = Fleet::new(&scenario, 3).unwrap();
    let at = Timestamp::from_secs_f64(900.0);
    fleet.advance(at);
    let window = traflux_core::Window { at, length: std::time::Duration::from_secs(600) };
    let telemetry = fleet.telemetry(window);
    let measured = &telemetry.resources[0].measured;
    let throughput = measured.throughput.unwrap().value.get();
    let latency = measured.latency_mean.unwrap().value.as_secs();
    assert!((throughput / 140.0 - 1.0).abs() < 0.02, "{throughput}");
    assert!((measured.concurrency.unwrap().value / (throughput * latency) - 1.0).abs() < 1e-9);
}
