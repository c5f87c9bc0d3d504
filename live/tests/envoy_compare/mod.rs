//! One trace through an Envoy and through an engine: limits, ejections and retries.
//!
//! The engine gets each request at the moment at which Envoy got it, and its backends fail in the same order.
//! Tolerances: limits, one request and 5 % of those granted for each key, because buckets are filled on ticks there and
//! evenly here; ejections and retries, none; retries in flight, the one that is let through while another ends.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use traflux_core::Timestamp;
use traflux_core::plan::requests::RequestPlan;
use traflux_gateway::health::Outcome;
use traflux_gateway::retry::Idempotence;
use traflux_gateway::{Client, Decision, End, Engine, EngineSettings, Forward, Request, Rng};

use crate::envoy_rig::{Backend, Envoy, Sent};

fn plan(value: &Value) -> RequestPlan {
    serde_json::from_value(value.clone()).unwrap()
}

/// The engine without what Envoy is not given either: limits on requests in flight and throttling.
fn engine(value: &Value) -> Engine {
    let mut value = value.clone();
    value["congestion"] = json!({
        "concurrency": {"algorithm": {"kind": "fixed"}, "initial": 1000, "min": 1, "max": 1000},
        "throttle": {"max_probability": 0.0}
    });
    Engine::new(&plan(&value), &EngineSettings::default(), Timestamp::from_secs_f64(1.0)).unwrap()
}

fn moment(since: Duration) -> Timestamp {
    Timestamp::from_secs_f64(1.0 + since.as_secs_f64())
}

fn ended(status: u16) -> End<'static> {
    End::of(match status {
        502 => Outcome::GatewayError,
        500.. => Outcome::ServerError,
        _ => Outcome::Success,
    })
}

#[test]
#[ignore = "needs an Envoy: set ENVOY to its path"]
fn limits_let_the_same_requests_through() {
    let backend = Backend::start("a");
    let value = json!({
        "routing": {"default": {"backend": "a"}},
        "backends": {"a": {"url": backend.url()}},
        "identity": {"trusted_headers": {"tenant": "x-tenant"}},
        "limits": [{"name": "calls", "unit": "requests", "amount": 10, "period_ms": 1000, "burst": 5, "by": "tenant",
                    "overrides": {"acme": 20}}]
    });
    let (envoy, engine) = (Envoy::start(plan(&value)), engine(&value));
    let tenants = ["acme", "one", "two"];
    let mut draw = Rng::new(20_261_124);
    let start = Instant::now();
    let mut granted = [[0i64; 2]; 3];
    let (mut requests, mut differ) = (0, 0);
    while start.elapsed() < Duration::from_secs(6) {
        let which = (draw.next_u64() % 3) as usize;
        let headers = vec![("x-tenant".to_owned(), tenants[which].to_owned())];
        let at = moment(start.elapsed());
        let there = envoy.send(&Sent { headers, ..Sent::default() }).status == 200;
        let client = Client { tenant: tenants[which], ..Client::default() };
        let here = match engine.decide(&Request { client, ..Request::default() }, at) {
            Decision::Forward(forward) => {
                forward.finish(at, &ended(200));
                true
            }
            Decision::Wait(_) | Decision::Later(_) | Decision::Refuse(_) => false,
        };
        granted[which][0] += i64::from(there);
        granted[which][1] += i64::from(here);
        (requests, differ) = (requests + 1, differ + usize::from(there != here));
        std::thread::sleep(Duration::from_millis(draw.next_u64() % 30));
    }
    eprintln!("{requests} requests, {differ} decided otherwise; granted by Envoy and engine: {granted:?}");
    for (tenant, [there, here]) in tenants.iter().zip(granted) {
        assert!(20 * ((there - here).abs() - 1) <= here, "{tenant}: {there} there, {here} here");
        assert!(here > 20, "{tenant}: {here}");
    }
    assert!(granted.iter().map(|g| g[1]).sum::<i64>() < requests as i64, "nothing was refused");
}

#[test]
#[ignore = "needs an Envoy: set ENVOY to its path"]
fn the_same_failures_eject_at_the_same_request() {
    for threshold in [2, 5] {
        let [bad, good] = ["bad", "good"].map(Backend::start);
        let value = json!({
            "retry": {"max_attempts": 1},
            "routing": {"strategy": "round-robin",
                        "default": {"backend": ["bad", "good"], "health_check": true}},
            "health": {
                "probe": {"probe": {"kind": "tcp"}, "interval_ms": 60000},
                "outlier": {"consecutive_errors": threshold, "max_ejected_share": 0.5},
                "breaker": {"base_ms": 60000}
            },
            "backends": {"bad": {"url": bad.url()}, "good": {"url": good.url()}}
        });
        let (envoy, engine) = (Envoy::start(plan(&value)), engine(&value));
        let start = Instant::now();
        let (mut there, mut here) = (Vec::new(), Vec::new());
        for _ in 0..40 {
            let at = moment(start.elapsed());
            there.push(envoy.get("/bad").status);
            if there.last() == Some(&500) {
                // Envoy's main thread ejects, and its workers hear of it a moment later.
                std::thread::sleep(Duration::from_millis(50));
            }
            let sent = engine.decide(&Request { path: "/bad", ..Request::default() }, at).forward().unwrap();
            let status = if sent.backend() == "bad" { 500 } else { 200 };
            sent.finish(at, &ended(status));
            engine.upkeep(at);
            here.push(status);
        }
        // Both take turns; which of the two is first is chance.
        let failures = |statuses: &[u16]| statuses.iter().filter(|status| **status == 500).count();
        eprintln!("{threshold} in a row: {} failures there, {} here", failures(&there), failures(&here));
        assert_eq!((failures(&there), failures(&here)), (threshold, threshold), "{there:?} {here:?}");
        let last = |statuses: &[u16]| statuses.iter().rposition(|status| *status == 500).unwrap();
        assert!(last(&there).abs_diff(last(&here)) <= 1, "{there:?} {here:?}");
    }
}

/// Sends a request as the engine says, to a backend that fails every other time; the last status.
fn tried(engine: &Engine, request: &Request<'_>, at: Timestamp, attempts: &mut usize) -> u16 {
    let mut sent: Forward = engine.decide(request, at).forward().unwrap();
    loop {
        *attempts += 1;
        let status = if attempts.is_multiple_of(2) { 200 } else { 502 };
        if status == 200 {
            sent.finish(at, &ended(status));
            return status;
        }
        match sent.retry(at, &ended(status)) {
            Decision::Forward(next) => sent = next,
            Decision::Wait(_) | Decision::Later(_) | Decision::Refuse(_) => return status,
        }
    }
}

#[test]
#[ignore = "needs an Envoy: set ENVOY to its path"]
fn the_same_failures_are_tried_again() {
    let backend = Backend::start("a");
    let value = json!({
        "retry": {"base_ms": 1, "max_ms": 2, "retry_on": ["gateway_error"], "budget": {"ratio": 1.0}},
        "routing": {"default": {"backend": "a", "health_check": false}},
        "backends": {"a": {"url": backend.url()}}
    });
    let (envoy, engine) = (Envoy::start(plan(&value)), engine(&value));
    let mut draw = Rng::new(20_261_125);
    let start = Instant::now();
    let (mut attempts, mut differences) = (0, Vec::new());
    for number in 0..200 {
        let method = ["GET", "POST", "PUT", "DELETE"][(draw.next_u64() % 4) as usize];
        let keyed = draw.next_u64().is_multiple_of(3);
        let headers = keyed.then(|| ("idempotency-key".to_owned(), number.to_string()));
        let sent = Sent {
            method,
            target: "/flaky".into(),
            headers: headers.into_iter().collect(),
            ..Sent::default()
        };
        let at = moment(start.elapsed());
        let there = envoy.send(&sent).status;
        let request = Request {
            method,
            path: "/flaky",
            idempotence: Idempotence::of_method(method, keyed),
            ..Request::default()
        };
        let here = tried(&engine, &request, at, &mut attempts);
        if there != here {
            differences.push(format!("{number} {method} {keyed}: {there} there, {here} here"));
        }
    }
    eprintln!("200 requests, {} attempts there, {attempts} here", backend.requests());
    assert!(differences.is_empty(), "{differences:?}");
    assert_eq!(backend.requests(), attempts);
}

#[test]
#[ignore = "needs an Envoy: set ENVOY to its path"]
fn no_more_retries_are_in_flight_than_the_budget_lets() {
    for (share, least, expected) in [(0.2, 1, 2), (0.5, 1, 5), (0.0, 3, 3)] {
        let backend = Backend::start("a");
        let value = json!({
            "retry": {"max_attempts": 2, "base_ms": 1, "max_ms": 1, "retry_on": ["gateway_error"],
                      "budget": {"concurrency_share": share, "min_concurrency": least, "ratio": 1.0}},
            "routing": {"default": {"backend": "a", "health_check": false}},
            "backends": {"a": {"url": backend.url()}}
        });
        let (envoy, engine) = (Envoy::start(plan(&value)), engine(&value));
        let sent: Vec<_> = (0..10).map(|_| envoy.in_background("/broken")).collect();
        sent.into_iter().for_each(|thread| assert_eq!(thread.join().unwrap().status, 502));
        let there = backend.requests() - 10;

        // All fail at the same moment, and what is tried again takes its time.
        let at = Timestamp::from_secs_f64(2.0);
        let failed: Vec<Forward> =
            (0..10).map(|_| engine.decide(&Request::default(), at).forward().unwrap()).collect();
        let retried: Vec<_> =
            failed.into_iter().filter_map(|sent| sent.retry(at, &ended(502)).forward()).collect();
        let here = retried.len();
        eprintln!("share {share}, at least {least}: {there} retries there, {here} here");
        assert!(there.abs_diff(expected) <= 1 && here.abs_diff(expected) <= 1, "{share}: {there} {here}");
    }
}
