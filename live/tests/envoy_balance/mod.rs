//! Who is chosen beside weights: endpoints that are new, that drain or are ill; and how they are reached.
//!
//! Tolerance of slow start: 15 % of what the plan's formula gives, and 4 requests.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::header::{HeaderMap, HeaderValue};
use hyper::service::service_fn;
use hyper::{Request, Response, Version};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};
use traflux_core::Timestamp;
use traflux_core::plan::requests::RequestPlan;
use traflux_gateway::health::Outcome;
use traflux_gateway::{End, Engine, EngineSettings};

use crate::envoy_rig::{Backend, Envoy};

fn plan(value: &Value) -> RequestPlan {
    serde_json::from_value(value.clone()).unwrap()
}

fn name_of(envoy: &Envoy, path: &str) -> String {
    envoy.get(path).body.lines().next().unwrap_or_default().to_owned()
}

fn counts(envoy: &Envoy, path: &str, requests: usize) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for _ in 0..requests {
        *counts.entry(name_of(envoy, path)).or_default() += 1;
    }
    counts
}

#[test]
#[ignore = "needs an Envoy: set ENVOY to its path"]
fn an_endpoint_whose_probe_passes_again_grows_as_in_the_engine() {
    let [old, late] = ["old", "late"].map(Backend::start);
    let value = json!({
        "routing": {"strategy": "round-robin", "default": {"backend": ["old", "late"], "health_check": true}},
        "health": {"panic_threshold": 0, "probe": {
            "interval_ms": 100, "unhealthy_interval_ms": 100, "jitter": 0, "healthy_threshold": 1, "unhealthy_threshold": 1
        }},
        "balance": {"slow_start": {"window_ms": 3000, "aggression": 1, "least_share": 0.1}},
        "backends": {"old": {"url": old.url()}, "late": {"url": late.url()}}
    });
    let envoy = Envoy::start(plan(&value));
    // `late` fails its probes for the first four seconds; by then `old` has its whole weight.
    let started = Instant::now();
    while name_of(&envoy, "/") != "late" {
        assert!(started.elapsed() < Duration::from_secs(15), "it never came");
    }
    assert!(started.elapsed() > Duration::from_secs(3), "{:?}", started.elapsed());
    // The engine learns of it at this moment.
    let at = |since: Duration| Timestamp::from_secs_f64(100.0 + since.as_secs_f64());
    let mut before = value.clone();
    before["routing"]["default"]["backend"] = json!(["old"]);
    before["routing"]["default"]["health_check"] = json!(false);
    let mut after = before.clone();
    after["routing"]["default"]["backend"] = json!(["old", "late"]);
    let engine =
        Engine::new(&plan(&before), &EngineSettings::default(), Timestamp::from_secs_f64(10.0)).unwrap();
    engine.reload(&plan(&after), &EngineSettings::default(), at(Duration::ZERO)).unwrap();
    let start = Instant::now();
    let mut seen = [[0.0; 4]; 3];
    while start.elapsed() < Duration::from_millis(3900) {
        let since = start.elapsed();
        let quarter = (since.as_millis() / 1000) as usize;
        seen[0][quarter] += f64::from(name_of(&envoy, "/") == "late");
        let sent = engine.decide(&traflux_gateway::Request::default(), at(since)).forward().unwrap();
        seen[1][quarter] += f64::from(sent.backend() == "late");
        sent.finish(at(since), &End::of(Outcome::Success));
        let weight = (since.as_secs_f64() / 3.0).clamp(0.1, 1.0);
        seen[2][quarter] += weight / (1.0 + weight);
        std::thread::sleep(Duration::from_millis(4));
    }
    eprintln!("to the new one in each second, by Envoy, by the engine, by the formula: {seen:.0?}");
    for (quarter, expected) in seen[2].iter().enumerate() {
        for (who, found) in [("Envoy", seen[0][quarter]), ("the engine", seen[1][quarter])] {
            assert!(
                (found - expected).abs() <= 0.15 * expected + 4.0 * expected.sqrt().max(1.0) * 0.5 + 4.0,
                "{who}: {seen:?}"
            );
        }
    }
    assert!(seen[0][0] < 0.7 * seen[0][3], "it grows: {seen:?}");
}

#[test]
#[ignore = "needs an Envoy: set ENVOY to its path"]
fn what_drains_gets_nothing_new_and_ends_what_it_has() {
    let [a, b, c] = ["a", "b", "c"].map(Backend::start);
    let value = json!({
        "routing": {"strategy": "round-robin", "rules": [
            {"name": "pair", "match": {"path": "/pair"}, "route": {"backend": ["a", "b"]}},
            {"name": "drawn", "match": {"path": "/drawn"}, "route": {"backend": ["a", "c"], "algorithm": "weighted"}}
        ]},
        "backends": {
            "a": {"url": a.url()}, "b": {"url": [{"url": b.url(), "draining": true}]},
            "c": {"url": [c.url()], "draining": true}
        }
    });
    let envoy = Envoy::start(plan(&value));
    assert_eq!(counts(&envoy, "/pair", 40), BTreeMap::from([("a".to_owned(), 40)]));
    assert_eq!(counts(&envoy, "/drawn", 40), BTreeMap::from([("a".to_owned(), 40)]));
    let mixed = json!({
        "routing": {"strategy": "round-robin", "default": {"backend": "all"}},
        "backends": {"all": {"url": [a.url(), {"url": b.url(), "draining": true}, c.url()]}}
    });
    let envoy = Envoy::start(plan(&mixed));
    let found = counts(&envoy, "/", 60);
    assert_eq!(found.get("b"), None, "{found:?}");
    assert!(found["a"].abs_diff(30) <= 1, "{found:?}");
}

#[test]
#[ignore = "needs an Envoy: set ENVOY to its path"]
fn with_too_few_well_endpoints_all_are_used() {
    let [sick, well] = ["sick", "well"].map(Backend::start);
    for (threshold, panics) in [(0.4, false), (0.6, true)] {
        let value = json!({
            "routing": {"strategy": "round-robin", "default": {"backend": ["sick", "well"], "health_check": true}},
            "health": {
                "panic_threshold": threshold, "outlier": {"consecutive_errors": 0}, "breaker": {"ramp_ms": 0},
                "probe": {"interval_ms": 100, "unhealthy_interval_ms": 100, "unhealthy_threshold": 1, "assume_healthy": false}
            },
            "backends": {"sick": {"url": sick.url()}, "well": {"url": well.url()}}
        });
        let envoy = Envoy::start(plan(&value));
        std::thread::sleep(Duration::from_millis(800));
        let found = counts(&envoy, "/", 40);
        let to_sick = found.get("sick").copied().unwrap_or(0);
        eprintln!("threshold {threshold}: {to_sick} of 40 to the one that is ill");
        assert!(to_sick.abs_diff(if panics { 20 } else { 0 }) <= 1, "{found:?}");
    }
}

/// A server of HTTP/2 alone, which takes a second where the path is `/slow`: answers with its name and the version, and `grpc.health.v1.Health/Check` as it is told.
struct Http2Backend {
    port: u16,
    connections: Arc<AtomicUsize>,
    probes: Arc<AtomicUsize>,
}

impl Http2Backend {
    fn start(name: &'static str, serving: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let port = listener.local_addr().unwrap().port();
        let (connections, probes) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (accepted, asked) = (Arc::clone(&connections), Arc::clone(&probes));
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                let listener = tokio::net::TcpListener::from_std(listener).unwrap();
                while let Ok((stream, _)) = listener.accept().await {
                    accepted.fetch_add(1, Ordering::Relaxed);
                    let asked = Arc::clone(&asked);
                    let answer = service_fn(move |request: Request<Incoming>| {
                        let asked = Arc::clone(&asked);
                        async move {
                            if request.uri().path() == "/slow" {
                                tokio::time::sleep(Duration::from_secs(1)).await;
                            }
                            Ok::<_, Infallible>(answer(name, serving, &request, &asked))
                        }
                    });
                    tokio::spawn(async move {
                        let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                        let _ = server.serve_connection(TokioIo::new(stream), answer).await;
                    });
                }
            });
        });
        Self { port, connections, probes }
    }

    fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }
}

fn answer(
    name: &str,
    serving: bool,
    request: &Request<Incoming>,
    probes: &AtomicUsize,
) -> Response<http_body_util::combinators::BoxBody<Bytes, Infallible>> {
    if request.uri().path() != "/grpc.health.v1.Health/Check" {
        let version = if request.version() == Version::HTTP_2 { "HTTP/2" } else { "another version" };
        return Response::new(Full::from(format!("{name}\n{version}\n")).boxed());
    }
    probes.fetch_add(1, Ordering::Relaxed);
    // A message of two bytes: field 1, SERVING or NOT_SERVING.
    let message = Bytes::from(vec![0, 0, 0, 0, 2, 8, if serving { 1 } else { 2 }]);
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    let body = Full::from(message).with_trailers(async move { Some(Ok(trailers)) });
    let response = Response::builder().header("content-type", "application/grpc");
    response.body(body.boxed()).unwrap()
}

#[test]
#[ignore = "needs an Envoy: set ENVOY to its path"]
fn backends_of_http2_are_reached_and_probed_by_grpc() {
    let [well, ill] =
        [("well", true), ("ill", false)].map(|(name, serving)| Http2Backend::start(name, serving));
    let value = json!({
        "routing": {"strategy": "round-robin", "default": {"backend": ["well", "ill"], "health_check": true}},
        "health": {"panic_threshold": 0, "probe": {
            "probe": {"kind": "grpc", "service": "chat"}, "interval_ms": 100, "unhealthy_interval_ms": 100,
            "unhealthy_threshold": 1, "assume_healthy": false
        }},
        "backends": {"well": {"url": well.url(), "http2": true}, "ill": {"url": ill.url(), "http2": true}}
    });
    let envoy = Envoy::start(plan(&value));
    std::thread::sleep(Duration::from_millis(800));
    for _ in 0..20 {
        assert_eq!(envoy.get("/").body, "well\nHTTP/2\n");
    }
    assert!(well.probes.load(Ordering::Relaxed) > 1 && ill.probes.load(Ordering::Relaxed) > 1);
    // One for requests and one for probes.
    assert!(well.connections.load(Ordering::Relaxed) <= 3, "{}", well.connections.load(Ordering::Relaxed));
}

#[test]
#[ignore = "needs an Envoy: set ENVOY to its path"]
fn a_connection_has_no_more_streams_than_the_plan_says() {
    for (streams, connections) in [(2, 3), (100, 1)] {
        let backend = Http2Backend::start("a", true);
        let value = json!({
            "pool": {"max_streams_per_connection": streams},
            "routing": {"default": {"backend": "a", "health_check": false}},
            "backends": {"a": {"url": backend.url(), "http2": true}}
        });
        let envoy = Envoy::start(plan(&value));
        let sent: Vec<_> = (0..6)
            .map(|_| {
                let thread = envoy.in_background("/slow");
                std::thread::sleep(Duration::from_millis(60));
                thread
            })
            .collect();
        assert!(sent.into_iter().all(|thread| thread.join().unwrap().status == 200));
        assert_eq!(backend.connections.load(Ordering::Relaxed), connections, "{streams} of six at once");
    }
}

#[test]
#[ignore = "needs an Envoy: set ENVOY to its path"]
fn a_connection_that_takes_too_long_is_given_up() {
    // Takes connections and says nothing: the time counts TLS, in Envoy as in the gateway.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("https://127.0.0.1:{}", silent.local_addr().unwrap().port());
    let value = json!({
        "retry": {"max_attempts": 1},
        "routing": {"default": {"backend": "silent"}},
        "backends": {"silent": {"url": url, "connect_timeout_ms": 400}}
    });
    let envoy = Envoy::start(plan(&value));
    let start = Instant::now();
    assert_eq!(envoy.get("/").status, 503);
    let taken = start.elapsed().as_millis();
    // Envoy's timers count whole milliseconds, of which the first may have begun.
    assert!((395..1500).contains(&taken), "{taken} ms");
}
