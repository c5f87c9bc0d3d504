//! From recorded and made-up answers to telemetry.

#![allow(clippy::unwrap_used)]

mod common;

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::time::Duration;

use common::{Reply, Request, Server, recorded, topology, window};
use traflux_core::{
    Consumption, Flow, HourlyPrice, Latency, Measurements, MetricsSource, Rate, Resource, Route, Telemetry,
    Topology, UnitPrice,
};
use traflux_prom::{
    Layout, PromClient, PrometheusSource, QueryOptions, QuerySet, Signal, SourceOptions, Timeouts,
};

const SOURCES: [(&str, &str); 2] = [("us", "dyn"), ("eu", "dyn")];
const ENDPOINTS: [&str; 3] = ["ep1", "ep2", "ep3"];

fn with_timeout(millis: u64) -> SourceOptions {
    let default = Some(Duration::from_millis(millis));
    SourceOptions { timeouts: Timeouts { default, services: BTreeMap::new() }, ..SourceOptions::default() }
}

/// A server that answers exactly the recorded queries; any other text is refused.
async fn replay(name: &str) -> Server {
    let file = recorded(&format!("fleet_{name}"));
    let answers: HashMap<String, String> = file
        .as_object()
        .unwrap()
        .values()
        .map(|entry| (entry["query"].as_str().unwrap().to_owned(), entry["response"].to_string()))
        .collect();
    Server::start(move |request: &Request| match answers.get(&request.field("query").unwrap()) {
        Some(answer) => Reply::json(answer.clone()),
        None => {
            Reply::Plain(400, r#"{"status":"error","errorType":"bad_data","error":"not recorded"}"#.into())
        }
    })
    .await
}

async fn recording(name: &str) -> (Topology, Telemetry) {
    let server = replay(name).await;
    let topology = topology(&SOURCES, &ENDPOINTS);
    let source = PrometheusSource::new(server.client(), with_timeout(400));
    let telemetry = source.collect(&topology, window()).await.unwrap();
    (topology, telemetry)
}

fn route<'a>(topology: &Topology, telemetry: &'a Telemetry, name: &str) -> &'a Measurements {
    &telemetry.routes[topology.route(name).unwrap().ix()].measured
}

fn resource<'a>(topology: &Topology, telemetry: &'a Telemetry, name: &str) -> &'a Measurements {
    &telemetry.resources[topology.resource(name).unwrap().ix()].measured
}

/// The value of one series of a recorded answer.
fn raw(file: &str, query: &str, labels: &[(&str, &str)]) -> f64 {
    let file = recorded(&format!("fleet_{file}"));
    let result = file[query]["response"]["data"]["result"].as_array().unwrap().clone();
    let fits = |entry: &&serde_json::Value| labels.iter().all(|(key, value)| entry["metric"][key] == *value);
    result.iter().find(fits).unwrap()["value"][1].as_str().unwrap().parse().unwrap()
}

fn close(left: f64, right: f64) -> bool {
    (left - right).abs() <= 1e-9 * right.abs().max(1.0)
}

#[tokio::test]
async fn a_busy_fleet_is_measured_per_route_and_per_endpoint() {
    let (topology, telemetry) = recording("busy").await;
    assert_eq!(telemetry.warnings, Vec::<String>::new());
    let labels = [("traflux_source", "us"), ("traflux_endpoint", "ep3")];
    let [completed, failed, timed, time, p95] =
        ["throughput", "errors", "latency count", "latency sum", "p95 per source"]
            .map(|q| raw("busy", q, &labels));
    let measured = route(&topology, &telemetry, "us/dyn/ep3");
    assert!(close(measured.throughput.unwrap().value.get(), completed));
    assert!(close(measured.latency_mean.unwrap().value.as_millis(), time / timed));
    assert!(close(measured.latency_p95.unwrap().value.as_millis(), p95));
    assert!(close(measured.error_ratio.unwrap().value, failed / completed));
    assert!(close(measured.concurrency.unwrap().value, time / 1000.0));
    assert_eq!(measured.censored_ratio.unwrap().value, 0.0);

    let both: f64 = ["us", "eu"]
        .iter()
        .map(|s| raw("busy", "throughput", &[("traflux_source", s), ("traflux_endpoint", "ep1")]))
        .sum();
    let endpoint = resource(&topology, &telemetry, "ep1");
    assert!(close(endpoint.throughput.unwrap().value.get(), both));
    assert!(close(
        endpoint.latency_p95.unwrap().value.as_millis(),
        raw("busy", "p95 per endpoint", &[("traflux_endpoint", "ep1")])
    ));
    assert!(telemetry.resources.iter().all(|r| r.healthy == Some(true)));
}

#[tokio::test]
async fn an_endpoint_that_never_failed_has_error_ratio_zero_and_not_none() {
    let (topology, telemetry) = recording("busy").await;
    assert_eq!(route(&topology, &telemetry, "us/dyn/ep1").error_ratio.unwrap().value, 0.0);
}

#[tokio::test]
async fn ages_are_those_of_the_newest_sample_on_the_server_s_clock() {
    let (topology, telemetry) = recording("busy").await;
    // Scraped every second, and the local clock of the test is decades away from the recording.
    for measured in telemetry.routes.iter().map(|r| &r.measured) {
        assert!(measured.age().unwrap() <= Duration::from_millis(1100), "{measured:?}");
    }
    let ages = ["us", "eu"].map(|s| route(&topology, &telemetry, &format!("{s}/dyn/ep1")).age().unwrap());
    assert_eq!(resource(&topology, &telemetry, "ep1").age(), ages.into_iter().min());
}

#[tokio::test]
async fn an_endpoint_that_times_out_shows_the_timeout_although_its_histogram_looks_good() {
    let (topology, telemetry) = recording("timeout").await;
    let flattering = raw("timeout", "p95 per endpoint", &[("traflux_endpoint", "ep3")]);
    assert!(flattering < 60.0, "{flattering}");
    for measured in ["us/dyn/ep3", "eu/dyn/ep3"]
        .map(|name| route(&topology, &telemetry, name))
        .into_iter()
        .chain([resource(&topology, &telemetry, "ep3")])
    {
        assert_eq!(measured.latency_p95.unwrap().value.as_millis(), 400.0);
        let censored = measured.censored_ratio.unwrap().value;
        assert!((0.3..0.6).contains(&censored), "{censored}");
        // Little: half of ~17/s wait 400 ms, which no latency sum knows.
        assert!(
            measured.concurrency.unwrap().value > 0.4 * censored * measured.throughput.unwrap().value.get()
        );
    }
    let peer = resource(&topology, &telemetry, "ep2");
    assert!(peer.latency_p95.unwrap().value.as_millis() < 60.0);
    assert_eq!(peer.censored_ratio.unwrap().value, 0.0);
}

#[tokio::test]
async fn a_timeout_in_the_middle_of_an_answer_counts_as_one_although_the_status_is_200() {
    let (topology, telemetry) = recording("slow_body").await;
    let slow = resource(&topology, &telemetry, "ep3");
    assert!(slow.error_ratio.unwrap().value < 0.1);
    assert!((0.4..0.6).contains(&slow.censored_ratio.unwrap().value));
    assert_eq!(slow.latency_p95.unwrap().value.as_millis(), 400.0);
}

#[tokio::test]
async fn a_dead_envoy_leaves_its_routes_unmeasured_and_is_named() {
    let (topology, telemetry) = recording("envoy_down").await;
    for endpoint in ENDPOINTS {
        assert_eq!(*route(&topology, &telemetry, &format!("eu/dyn/{endpoint}")), Measurements::default());
        assert!(route(&topology, &telemetry, &format!("us/dyn/{endpoint}")).throughput.is_some());
    }
    assert_eq!(telemetry.warnings, ["source `eu`: 1 of 1 targets are down: `127.0.0.1:29002`"]);
}

#[tokio::test]
async fn an_idle_endpoint_has_throughput_zero_and_no_latency() {
    let (topology, telemetry) = recording("idle").await;
    let idle = route(&topology, &telemetry, "us/dyn/ep1");
    assert_eq!(idle.throughput.unwrap().value.get(), 0.0);
    assert_eq!(idle.concurrency.unwrap().value, 0.0);
    assert_eq!(
        (idle.latency_mean, idle.latency_p95, idle.error_ratio, idle.censored_ratio),
        (None, None, None, None)
    );
    assert_eq!(telemetry.warnings, Vec::<String>::new());
}

/// Made-up answers by query name; an absent name answers an empty vector, `!` fails.
async fn made_up(answers: &[(&str, String)]) -> Server {
    made_up_with(&SourceOptions::default(), answers).await
}

async fn made_up_with(options: &SourceOptions, answers: &[(&str, String)]) -> Server {
    let set = QuerySet::new(&options.queries, &options.labels, Duration::from_secs(10));
    let by_name: HashMap<&str, &str> = set.named().into_iter().collect();
    let by_query: HashMap<String, String> = answers
        .iter()
        .map(|(name, result)| (by_name.get(name).unwrap_or(name).to_string(), result.clone()))
        .collect();
    Server::start(move |request: &Request| {
        match by_query.get(&request.field("query").unwrap()).map(String::as_str) {
            Some("!") => Reply::Plain(503, "Service Unavailable".into()),
            Some(result) => Reply::vector(result),
            None => Reply::vector("[]"),
        }
    })
    .await
}

fn series(entries: &[(&str, &str, f64)]) -> String {
    let entries: Vec<String> = entries
        .iter()
        .map(|(source, endpoint, value)| {
            format!(
                r#"{{"metric":{{"traflux_source":"{source}","envoy_cluster_name":"dyn","traflux_endpoint":"{endpoint}"}},"value":[5000.5,"{value}"]}}"#
            )
        })
        .collect();
    format!("[{}]", entries.join(","))
}

async fn collected(server: &Server, options: SourceOptions, topology: &Topology) -> Telemetry {
    PrometheusSource::new(server.client(), options).collect(topology, window()).await.unwrap()
}

#[tokio::test]
async fn a_query_that_fails_empties_its_field_and_warns() {
    let server = made_up(&[
        ("throughput", series(&[("us", "ep1", 10.0)])),
        ("errors", "!".into()),
        ("latency count", series(&[("us", "ep1", 10.0)])),
        ("latency sum", series(&[("us", "ep1", 250.0)])),
        ("p95 per source", "!".into()),
    ])
    .await;
    let topology = topology(&[("us", "dyn")], &["ep1"]);
    let telemetry = collected(&server, SourceOptions::default(), &topology).await;
    let measured = &telemetry.routes[0].measured;
    assert_eq!(measured.throughput.unwrap().value.get(), 10.0);
    assert_eq!(measured.latency_mean.unwrap().value.as_millis(), 25.0);
    assert_eq!((measured.latency_p95, measured.error_ratio), (None, None));
    let failures: Vec<_> = telemetry.warnings.iter().filter(|w| w.contains("503")).collect();
    assert_eq!(failures.len(), 2, "{:?}", telemetry.warnings);
    assert!(failures[0].starts_with("errors: ") && failures[1].starts_with("p95 per source: "));
}

#[tokio::test]
async fn a_server_that_refuses_everything_is_an_error() {
    let server = Server::start(|_: &Request| Reply::Plain(401, "Unauthorized".into())).await;
    let source = PrometheusSource::new(server.client(), SourceOptions::default());
    let topology = topology(&SOURCES, &ENDPOINTS);
    let error = source.collect(&topology, window()).await.unwrap_err();
    assert_eq!(error.code(), "observe_unauthorized");
}

#[tokio::test]
async fn percentiles_that_take_too_long_cost_only_the_percentiles() {
    let throughput = series(&[("us", "ep1", 10.0)]);
    let server = Server::start(move |request: &Request| {
        let query = request.field("query").unwrap();
        match query.as_str() {
            q if q.starts_with("histogram_quantile") => Reply::Silent,
            q if q.starts_with("sum by") && !q.contains(" or ") => Reply::vector(&throughput),
            _ => Reply::vector("[]"),
        }
    })
    .await;
    let mut http = server.options();
    http.deadline = Duration::from_millis(1500);
    let source = PrometheusSource::new(PromClient::new(http).unwrap(), SourceOptions::default());
    let topology = topology(&[("us", "dyn")], &["ep1"]);
    let telemetry = source.collect(&topology, window()).await.unwrap();
    assert_eq!(telemetry.routes[0].measured.throughput.unwrap().value.get(), 10.0);
    assert_eq!(telemetry.routes[0].measured.latency_p95, None);
    assert_eq!(telemetry.warnings.iter().filter(|w| w.contains("did not answer within 1500 ms")).count(), 2);
    let order: Vec<bool> = server
        .requests()
        .iter()
        .map(|r| r.field("query").unwrap().starts_with("histogram_quantile"))
        .collect();
    assert_eq!(order, [vec![false; 9], vec![true; 2]].concat());
}

#[tokio::test]
async fn the_number_of_queries_does_not_depend_on_the_fleet() {
    for endpoints in [vec!["a"], vec!["a", "b", "c", "d", "e", "f"]] {
        let server = Server::start(|_: &Request| Reply::vector("[]")).await;
        collected(&server, SourceOptions::default(), &topology(&SOURCES, &endpoints)).await;
        assert_eq!(server.requests().len(), 11);
    }
}

#[tokio::test]
async fn without_ages_a_reading_is_as_old_as_its_window_may_make_it() {
    let server = made_up(&[("throughput", series(&[("us", "ep1", 1.0)])), ("sample age", "!".into())]).await;
    let telemetry = collected(&server, SourceOptions::default(), &topology(&[("us", "dyn")], &["ep1"])).await;
    assert_eq!(telemetry.routes[0].measured.age(), Some(Duration::from_secs(10)));
    assert!(telemetry.warnings.iter().any(|w| w.contains("ages are unknown")));
}

#[tokio::test]
async fn a_sample_time_that_is_nonsense_gives_an_age_and_no_panic() {
    for (value, age) in
        [(-1e300, Duration::MAX), (1e300, Duration::ZERO), (f64::NAN, Duration::from_secs(10))]
    {
        let server = made_up(&[
            ("throughput", series(&[("us", "ep1", 1.0)])),
            ("sample age", series(&[("us", "ep1", value)])),
        ])
        .await;
        let telemetry =
            collected(&server, SourceOptions::default(), &topology(&[("us", "dyn")], &["ep1"])).await;
        assert_eq!(telemetry.routes[0].measured.age(), Some(age), "{value}");
    }
}

#[tokio::test]
async fn an_old_sample_has_its_age() {
    let server = made_up(&[
        ("throughput", series(&[("us", "ep1", 1.0)])),
        // Evaluated at 5000.5, scraped at 4993.
        ("sample age", series(&[("us", "ep1", 4993.0)])),
    ])
    .await;
    let telemetry = collected(&server, SourceOptions::default(), &topology(&[("us", "dyn")], &["ep1"])).await;
    assert_eq!(telemetry.freshest(), Some(Duration::from_millis(7500)));
}

#[tokio::test]
async fn endpoints_that_the_topology_does_not_know_are_ignored_and_counted() {
    let ghosts = [("us", "ep1", 4999.0), ("us", "gone-b", 4999.0), ("us", "gone-a", 4999.0)];
    let server = made_up(&[
        ("throughput", series(&[("us", "ep1", 1.0), ("us", "gone-a", 50.0)])),
        ("sample age", series(&ghosts)),
    ])
    .await;
    let topology = topology(&[("us", "dyn")], &["ep1"]);
    let telemetry = collected(&server, SourceOptions::default(), &topology).await;
    assert_eq!(telemetry.resources[0].measured.throughput.unwrap().value.get(), 1.0);
    assert!(
        telemetry.warnings.contains(
            &"2 series of endpoints that are not in the topology were ignored: `gone-a`, `gone-b`".into()
        ),
        "{:?}",
        telemetry.warnings
    );
}

#[tokio::test]
async fn traffic_of_an_unknown_source_counts_for_the_endpoint_but_for_no_route() {
    let server = made_up(&[("throughput", series(&[("us", "ep1", 3.0), ("mars", "ep1", 4.0)]))]).await;
    let telemetry = collected(&server, SourceOptions::default(), &topology(&SOURCES, &["ep1"])).await;
    assert_eq!(telemetry.routes[0].measured.throughput.unwrap().value.get(), 3.0);
    assert_eq!(telemetry.routes[1].measured.throughput, None);
    assert_eq!(telemetry.resources[0].measured.throughput.unwrap().value.get(), 7.0);
}

#[tokio::test]
async fn traffic_of_unknown_sources_is_background_load_of_its_own_age() {
    let loaded = [("us", "ep1", 3.0), ("mars", "ep1", 4.0), ("moon", "ep1", 0.5), ("us", "ep2", 6.0)];
    let server = made_up(&[
        ("throughput", series(&loaded)),
        // Evaluated at 5000.5; the newest sample of an unknown source is 4.5 s old, that of a known one 1.5 s.
        ("sample age", series(&[("us", "ep1", 4999.0), ("mars", "ep1", 4996.0), ("us", "ep2", 4998.5)])),
    ])
    .await;
    let telemetry = collected(&server, SourceOptions::default(), &topology(&SOURCES, &ENDPOINTS)).await;
    let background: Vec<_> = telemetry
        .resources
        .iter()
        .map(|r| r.background.map(|reading| (reading.value.get(), reading.age.as_millis())))
        .collect();
    // Nothing was measured of ep3, so nothing is said about it.
    assert_eq!(background, [Some((4.5, 4500)), Some((0.0, 2000)), None]);
}

#[tokio::test]
async fn a_fleet_of_known_sources_alone_has_no_background_load() {
    let (_, telemetry) = recording("busy").await;
    assert!(telemetry.resources.iter().all(|r| r.background.unwrap().value.get() == 0.0));
}

#[tokio::test]
async fn background_load_is_in_the_unit_of_the_endpoint() {
    let mut builder = Topology::builder();
    let name = |name: &str| Resource {
        name: name.into(),
        capacity: Rate::per_second(1000.0),
        concurrency: None,
        service_time: None,
        domain: None,
        hourly_price: HourlyPrice::ZERO,
    };
    let (endpoint, group) = builder.add_endpoint(name("ep1"), 0);
    // 10 tokens per request of one source, 30 of the other.
    for (source, per_request) in [("us", 10.0), ("eu", 30.0)] {
        let flow =
            builder.add_flow(Flow { name: source.into(), source: source.into(), service: "dyn".into() });
        builder.add_route(Route {
            name: format!("{source}/ep1"),
            flow,
            group,
            consumption: vec![Consumption { resource: endpoint, per_request }],
            delay: Latency::ZERO,
            price: UnitPrice::ZERO,
        });
    }
    let server = made_up(&[("throughput", series(&[("us", "ep1", 1.0), ("mars", "ep1", 4.0)]))]).await;
    let telemetry = collected(&server, SourceOptions::default(), &builder.build().unwrap()).await;
    assert_eq!(telemetry.resources[0].background.unwrap().value.get(), 80.0);
}

#[tokio::test]
async fn infinite_values_are_dropped_with_the_reason() {
    let server = made_up(&[
        ("throughput", series(&[("us", "ep1", 3.0)])),
        ("p95 per source", series(&[("us", "ep1", f64::INFINITY)]).replace("\"inf\"", "\"+Inf\"")),
        ("latency count", series(&[("us", "ep1", f64::NAN)])),
    ])
    .await;
    let telemetry = collected(&server, SourceOptions::default(), &topology(&[("us", "dyn")], &["ep1"])).await;
    assert_eq!(telemetry.routes[0].measured.latency_p95, None);
    for warning in [
        "p95: 1 values dropped (first is inf): `ep1`",
        "latency count: 1 values dropped (first is NaN): `ep1`",
    ] {
        assert!(telemetry.warnings.iter().any(|w| w == warning), "{:?}", telemetry.warnings);
    }
}

/// Per second: completed now, completed one flush earlier, 504s, 5xx, with a latency; window 10 s.
async fn censored(completed: f64, before: f64, timeouts: f64, errors: f64, timed: f64) -> Measurements {
    let one = |value| series(&[("us", "ep1", value)]);
    let server = made_up(&[
        ("throughput", one(completed)),
        ("throughput before", one(before)),
        ("timeouts", one(timeouts)),
        ("errors", one(errors)),
        ("latency count", one(timed)),
        ("latency sum", one(timed * 20.0)),
        ("p95 per source", one(30.0)),
    ])
    .await;
    let telemetry = collected(&server, with_timeout(2000), &topology(&[("us", "dyn")], &["ep1"])).await;
    telemetry.routes[0].measured.clone()
}

#[tokio::test]
async fn a_steep_rise_is_not_taken_for_timeouts() {
    // Traffic quadruples: the histogram is a flush behind, its count equals the earlier one.
    let rising = censored(40.0, 30.0, 0.0, 0.0, 31.0).await;
    assert_eq!(rising.censored_ratio.unwrap().value, 0.0);
    assert_eq!(rising.latency_p95.unwrap().value.as_millis(), 30.0);
    // And it falls: now the earlier count is too high.
    assert_eq!(censored(30.0, 40.0, 0.0, 0.0, 31.0).await.censored_ratio.unwrap().value, 0.0);
}

#[tokio::test]
async fn errors_that_the_backend_answers_are_not_taken_for_timeouts() {
    // 20 % errors with a latency each; four requests missing by chance.
    let failing = censored(10.0, 9.9, 0.0, 2.0, 9.6).await;
    assert_eq!(failing.censored_ratio.unwrap().value, 0.0);
    assert_eq!(failing.error_ratio.unwrap().value, 0.2);
    // Even its own 504s: they have a latency.
    assert_eq!(censored(10.0, 10.0, 2.0, 2.0, 10.0).await.censored_ratio.unwrap().value, 0.0);
}

#[tokio::test]
async fn the_recorded_survivor_bias_is_seen() {
    // 400 requests, 283 of them 504, 290 failed, 117 with a latency (mean 49 ms), all in one window of 10 s.
    let biased = censored(40.0, 40.0, 28.3, 29.0, 11.7).await;
    assert!(close(biased.censored_ratio.unwrap().value, 283.0 / 400.0));
    assert!(close(biased.error_ratio.unwrap().value, 290.0 / 400.0));
    assert_eq!(biased.latency_p95.unwrap().value.as_millis(), 2000.0);
    assert!(close(biased.concurrency.unwrap().value, 11.7 * 0.020 + 28.3 * 2.0));
}

#[tokio::test]
async fn timeouts_of_services_that_came_later_are_those_that_were_set_last() {
    let one = |value| series(&[("us", "ep1", value)]);
    let server = made_up(&[
        ("throughput", one(40.0)),
        ("throughput before", one(40.0)),
        ("timeouts", one(28.3)),
        ("latency count", one(11.7)),
        ("p95 per source", one(30.0)),
    ])
    .await;
    let topology = topology(&[("us", "dyn")], &["ep1"]);
    let source = PrometheusSource::new(server.client(), SourceOptions::default());
    let p95 = async || {
        let telemetry = source.collect(&topology, window()).await.unwrap();
        telemetry.routes[0].measured.latency_p95.map(|p95| p95.value.as_millis())
    };
    let before = p95().await;
    let services = BTreeMap::from([("dyn".to_owned(), Duration::from_millis(700))]);
    source.set_timeouts(Timeouts { default: None, services });
    assert_eq!((before == Some(700.0), p95().await), (false, Some(700.0)));
}

#[tokio::test]
async fn a_censored_share_up_to_five_percent_leaves_the_percentile_alone() {
    assert_eq!(censored(100.0, 100.0, 5.0, 5.0, 95.0).await.latency_p95.unwrap().value.as_millis(), 30.0);
    assert_eq!(censored(100.0, 100.0, 5.1, 5.1, 94.9).await.latency_p95.unwrap().value.as_millis(), 2000.0);
}

#[tokio::test]
async fn an_endpoint_without_any_histogram_among_peers_with_one_is_all_censored() {
    let both = |a, b| series(&[("us", "ep1", a), ("us", "ep2", b)]);
    let server = made_up(&[
        ("throughput", both(10.0, 10.0)),
        ("throughput before", both(10.0, 10.0)),
        ("timeouts", both(0.0, 10.0)),
        ("errors", both(0.0, 10.0)),
        ("latency count", series(&[("us", "ep1", 10.0)])),
    ])
    .await;
    let telemetry = collected(&server, with_timeout(500), &topology(&[("us", "dyn")], &["ep1", "ep2"])).await;
    assert_eq!(telemetry.routes[1].measured.censored_ratio.unwrap().value, 1.0);
    assert_eq!(telemetry.routes[1].measured.latency_p95.unwrap().value.as_millis(), 500.0);
    assert_eq!(telemetry.routes[0].measured.censored_ratio.unwrap().value, 0.0);
}

#[tokio::test]
async fn an_endpoint_is_healthy_while_any_of_its_hosts_is() {
    let host = |address: &str, name: &str, value: u8| {
        format!(
            r#"{{"metric":{{"envoy_cluster_name":"dyn","envoy_endpoint_address":"{address}","envoy_endpoint_hostname":"{name}"}},"value":[1,"{value}"]}}"#
        )
    };
    let mut options = SourceOptions::default();
    options.labels.hosts.insert("10.0.0.9:80".into(), "c.d".into());
    let hosts = [host("1:1", "a", 0), host("1:2", "a", 1), host("1:3", "b", 0), host("10.0.0.9:80", "", 0)];
    let server = made_up_with(&options, &[("health", format!("[{}]", hosts.join(",")))]).await;
    let telemetry = collected(&server, options, &topology(&[("us", "dyn")], &["a", "b", "c.d", "e"])).await;
    let healthy: Vec<_> = telemetry.resources.iter().map(|r| r.healthy).collect();
    assert_eq!(healthy, [Some(true), Some(false), Some(false), None]);
}

#[tokio::test]
async fn a_name_with_dots_is_found_under_its_sanitised_label() {
    let mut options = SourceOptions::default();
    options.labels.endpoint_names.insert("dyn/ep.2".into(), "ep.2".into());
    let server = made_up(&[("throughput", series(&[("us", "eu_west_1", 2.0), ("us", "ep_2", 3.0)]))]).await;
    let telemetry =
        collected(&server, options, &topology(&[("us", "dyn")], &["eu.west:1", "dyn/ep.2"])).await;
    let found: Vec<_> = telemetry.routes.iter().map(|r| r.measured.throughput.unwrap().value.get()).collect();
    assert_eq!(found, [2.0, 3.0]);
}

#[tokio::test]
async fn two_endpoints_with_one_label_are_pointed_out() {
    let server = made_up(&[]).await;
    let telemetry =
        collected(&server, SourceOptions::default(), &topology(&SOURCES, &["a.b", "a_b", "c"])).await;
    assert!(
        telemetry.warnings.contains(
            &"several endpoints have the label `dyn/a_b`; their series cannot be told apart".into()
        ),
        "{:?}",
        telemetry.warnings
    );
}

#[tokio::test]
async fn a_cluster_per_endpoint_is_understood() {
    let mut options = SourceOptions {
        queries: QueryOptions { layout: Layout::ClusterPerEndpoint, ..QueryOptions::default() },
        ..SourceOptions::default()
    };
    options.labels.endpoint_label = "traflux_ep".into();
    let entry = r#"[{"metric":{"traflux_source":"us","envoy_cluster_name":"dyn__ep1","traflux_ep":"ep1"},"value":[1,"8"]}]"#;
    let health =
        r#"[{"metric":{"envoy_cluster_name":"dyn__ep1","envoy_endpoint_address":"x:1"},"value":[1,"1"]}]"#;
    let server = made_up_with(&options, &[("throughput", entry.into()), ("health", health.into())]).await;
    let telemetry = collected(&server, options, &topology(&[("us", "dyn")], &["ep1"])).await;
    assert_eq!(telemetry.routes[0].measured.throughput.unwrap().value.get(), 8.0);
    assert_eq!(telemetry.resources[0].healthy, Some(true));
}

#[tokio::test]
async fn a_user_s_signal_becomes_a_reading_of_its_endpoint() {
    let options = SourceOptions {
        signals: vec![
            Signal {
                name: "cpu".into(),
                query: "node_cpu_busy".into(),
                label: "node".into(),
                freshness: None,
            },
            Signal {
                name: "queue".into(),
                query: "max by (pod) (queue_length)".into(),
                label: "pod".into(),
                freshness: Some("max by (pod) (timestamp(queue_length))".into()),
            },
        ],
        ..SourceOptions::default()
    };
    let vector = |entries: &str| format!("[{entries}]");
    let cpu = r#"{"metric":{"node":"ep1"},"value":[100,"0.7"]},{"metric":{"node":"ep1","cpu":"2"},"value":[100,"0.9"]},
        {"metric":{"node":"ep2"},"value":[100,"NaN"]},{"metric":{"host":"ep3"},"value":[100,"1"]}"#;
    let server = made_up_with(
        &options,
        &[
            ("node_cpu_busy", vector(cpu)),
            ("timestamp(node_cpu_busy)", vector(r#"{"metric":{"node":"ep1"},"value":[100,"88"]}"#)),
            ("max by (pod) (queue_length)", vector(r#"{"metric":{"pod":"ep2"},"value":[100,"12"]}"#)),
            (
                "max by (pod) (timestamp(queue_length))",
                vector(r#"{"metric":{"pod":"ep2"},"value":[100,"97"]}"#),
            ),
        ],
    )
    .await;
    let telemetry = collected(&server, options, &topology(&[("us", "dyn")], &ENDPOINTS)).await;
    let cpu = telemetry.resources[0].signals["cpu"];
    assert_eq!((cpu.value, cpu.age), (0.9, Duration::from_secs(12)));
    let queue = telemetry.resources[1].signals["queue"];
    assert_eq!((queue.value, queue.age), (12.0, Duration::from_secs(3)));
    assert!(!telemetry.resources[1].signals.contains_key("cpu"));
    assert!(telemetry.warnings.contains(&"signal cpu: 1 values dropped (first is NaN): `ep2`".into()));
    assert!(telemetry.warnings.contains(&"signal cpu: 1 series without label `node`".into()));
}

#[tokio::test]
async fn a_source_without_a_target_and_a_fleet_without_tags_are_pointed_out() {
    let up =
        r#"[{"metric":{"__name__":"up","job":"j","instance":"i:1","traflux_source":"us"},"value":[1,"1"]}]"#;
    let server = made_up(&[("up", up.into())]).await;
    let telemetry = collected(&server, SourceOptions::default(), &topology(&SOURCES, &["ep1"])).await;
    let warnings = telemetry.warnings.join("\n");
    assert!(warnings.contains("no target has label `traflux_source` for 1 of 2 sources: `eu`"), "{warnings}");
    assert!(warnings.contains("no rate carries label `traflux_endpoint`"), "{warnings}");
}

#[tokio::test]
async fn a_scalar_where_a_vector_belongs_is_a_warning() {
    let server = Server::start(|_: &Request| {
        Reply::json(
            r#"{"status":"success","data":{"resultType":"scalar","result":[1,"42"]},"infos":["odd"]}"#,
        )
    })
    .await;
    let telemetry = collected(&server, SourceOptions::default(), &topology(&SOURCES, &["ep1"])).await;
    assert!(telemetry.warnings.contains(&"throughput: expected a vector, got a scalar".into()));
    assert_eq!(telemetry.warnings.iter().filter(|w| *w == "prometheus says: odd").count(), 1);
}

#[tokio::test]
async fn ten_thousand_endpoints_are_read() {
    let names: Vec<String> = (0..10_000).map(|ix| format!("endpoint-{ix}")).collect();
    let mut body = String::from("[");
    for source in ["a", "b"] {
        for name in &names {
            let comma = if body.len() > 1 { "," } else { "" };
            write!(
                body,
                r#"{comma}{{"metric":{{"traflux_source":"{source}","envoy_cluster_name":"dyn","traflux_endpoint":"{name}"}},"value":[5000.5,"2.5"]}}"#
            )
            .unwrap();
        }
    }
    body.push(']');
    let server = Server::start(move |_: &Request| Reply::vector(&body)).await;
    let flows = [("a", "dyn"), ("b", "dyn")];
    let endpoints: Vec<&str> = names.iter().map(String::as_str).collect();
    let topology = topology(&flows, &endpoints);
    let started = std::time::Instant::now();
    let telemetry = collected(&server, SourceOptions::default(), &topology).await;
    println!("220,000 series in {:.0} ms", started.elapsed().as_secs_f64() * 1e3);
    assert!(telemetry.routes.iter().all(|r| r.measured.throughput.unwrap().value.get() == 2.5));
    assert!(telemetry.resources.iter().all(|r| r.measured.throughput.unwrap().value.get() == 5.0));
    // Generous: an unoptimised build on a busy machine. A lookup that is not constant would take minutes.
    assert!(started.elapsed() < Duration::from_secs(120));
}

#[tokio::test]
async fn series_beyond_the_limit_are_dropped_with_a_warning() {
    let server =
        made_up(&[("throughput", series(&[("us", "ep1", 1.0), ("us", "ep2", 1.0), ("us", "ep3", 1.0)]))])
            .await;
    let limited = SourceOptions { max_series: 2, ..SourceOptions::default() };
    let telemetry = collected(&server, limited, &topology(&[("us", "dyn")], &ENDPOINTS)).await;
    assert_eq!(telemetry.routes.iter().filter(|r| r.measured.throughput.is_some()).count(), 2);
    assert!(telemetry.warnings.contains(&"throughput: 3 series, limit 2; the rest was dropped".into()));
}
