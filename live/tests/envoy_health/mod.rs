//! Who is sent away by what requests and probes show, in an Envoy and in the engine.
//!
//! Ejections are told by what a backend still gets afterwards; tolerance: one request. Of probes, which come by the clock,
//! a quarter.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use traflux_core::Timestamp;
use traflux_core::plan::requests::RequestPlan;
use traflux_gateway::health::Outcome;
use traflux_gateway::{End, Engine, EngineSettings, Request};

use crate::envoy_rig::{Backend, Envoy};

/// Backends of these names in turns, with this of `health.outlier`; what it does not name is off.
fn outliers(backends: &[Backend], outlier: &Value) -> Value {
    let mut rules = json!({"consecutive_errors": 0, "failure_share": 2, "success_rate_stdev_factor": 0});
    rules.as_object_mut().unwrap().extend(outlier.as_object().unwrap().clone());
    let names: Vec<&str> = backends.iter().map(|b| b.name.as_str()).collect();
    let urls: BTreeMap<&str, Value> =
        backends.iter().map(|b| (b.name.as_str(), json!({"url": b.url()}))).collect();
    json!({
        "retry": {"max_attempts": 1},
        "routing": {"strategy": "round-robin", "default": {"backend": names}},
        "health": {"panic_threshold": 0, "outlier": rules, "breaker": {"base_ms": 60000, "ramp_ms": 0}},
        "congestion": {
            "concurrency": {"algorithm": {"kind": "fixed"}, "initial": 1000, "min": 1, "max": 1000},
            "throttle": {"max_probability": 0.0}
        },
        "backends": urls
    })
}

/// How late Envoy's threads may learn of changes, which are told once a second.
const TOLD: Duration = Duration::from_millis(1300);

/// One trace through both.
struct Both {
    envoy: Envoy,
    engine: Engine,
    start: Instant,
    failed: BTreeMap<String, usize>,
}

impl Both {
    fn start(value: &Value) -> Self {
        let plan: RequestPlan = serde_json::from_value(value.clone()).unwrap();
        let first = Timestamp::from_secs_f64(1.0);
        let engine = Engine::new(&plan, &EngineSettings::default(), first).unwrap();
        // Envoy cannot be given limits on requests in flight that are fixed, nor a throttle that does nothing.
        let mut there = plan;
        there.congestion.concurrency = None;
        there.congestion.throttle = None;
        let envoy = Envoy::start(there);
        Self { envoy, engine, start: Instant::now(), failed: BTreeMap::new() }
    }

    fn at(&self) -> Timestamp {
        Timestamp::from_secs_f64(1.0 + self.start.elapsed().as_secs_f64())
    }

    /// Requests that went to each backend, through Envoy and by the engine, whose backends fail as the path says.
    fn ask(&mut self, path: &str, requests: usize) -> [BTreeMap<String, usize>; 2] {
        let mut to = [BTreeMap::new(), BTreeMap::new()];
        for _ in 0..requests {
            let at = self.at();
            let answer = self.envoy.get(path);
            // A backend that hung up cannot say its name: only backends that are bad do.
            let name =
                if answer.status == 503 { "bad" } else { answer.body.lines().next().unwrap_or_default() };
            *to[0].entry(name.to_owned()).or_default() += 1;
            let sent = self.engine.decide(&Request { path, ..Request::default() }, at).forward().unwrap();
            let name = sent.backend().to_owned();
            let outcome = match path {
                "/bad" => Outcome::ServerError,
                "/gone" => Outcome::GatewayError,
                "/cut" => Outcome::Reset,
                "/half" => {
                    let count = self.failed.entry(name.clone()).or_default();
                    *count += 1;
                    if *count % 2 == 1 { Outcome::ServerError } else { Outcome::Success }
                }
                _ => Outcome::Success,
            };
            sent.finish(at, &End::of(if name.starts_with("bad") { outcome } else { Outcome::Success }));
            *to[1].entry(name).or_default() += 1;
        }
        to
    }
}

fn backends(names: &[&str]) -> Vec<Backend> {
    names.iter().map(|name| Backend::start(name)).collect()
}

/// How many are still sent to, there and here.
fn served(to: &[BTreeMap<String, usize>; 2]) -> [usize; 2] {
    [to[0].len(), to[1].len()]
}

#[test]
#[ignore = "needs an Envoy: set ENVOY to its path"]
fn no_more_are_sent_away_than_the_share_allows() {
    for (total, share, always, away) in
        [(3, 0.5, false, 1), (4, 0.5, false, 2), (4, 0.75, false, 3), (4, 0.2, false, 0), (4, 0.2, true, 1)]
    {
        let names: Vec<String> = (0..total).map(|ix| format!("bad{ix}")).collect();
        let backends = backends(&names.iter().map(String::as_str).collect::<Vec<_>>());
        let rules = json!({"consecutive_errors": 2, "max_ejected_share": share, "always_eject_one": always});
        let mut both = Both::start(&outliers(&backends, &rules));
        both.ask("/bad", 12 * total);
        std::thread::sleep(TOLD);
        let found = served(&both.ask("/", 4 * total)).map(|served| total - served);
        eprintln!("of {total}, share {share}, one always {always}: away there and here {found:?}");
        assert_eq!(found, [away, away], "{total} {share} {always}");
    }
}

#[test]
#[ignore = "needs an Envoy: set ENVOY to its path"]
fn each_kind_of_failure_counts_for_its_own_rule() {
    for (rule, path, away) in [
        ("consecutive_gateway_errors", "/gone", true),
        ("consecutive_gateway_errors", "/bad", false),
        ("consecutive_errors", "/gone", true),
        ("consecutive_errors", "/cut", true),
        ("consecutive_errors", "/half", false),
    ] {
        let backends = backends(&["bad", "good"]);
        let mut both = Both::start(&outliers(&backends, &json!({rule: 3, "max_ejected_share": 0.5})));
        let first = both.ask(path, 24);
        std::thread::sleep(TOLD);
        let then = both.ask("/", 10);
        eprintln!("{rule}: 3 and {path}: to each first {first:?}, then {then:?}");
        for (first, then) in first.iter().zip(&then) {
            assert_eq!(then.get("bad").copied().unwrap_or(0), if away { 0 } else { 5 }, "{rule} {path}");
            assert_eq!(first["bad"], if away { 3 } else { 12 }, "{rule} {path}");
        }
    }
}

#[test]
#[ignore = "needs an Envoy: set ENVOY to its path"]
fn rates_are_judged_by_share_by_distance_and_with_enough_requests() {
    // One of five fails half of its requests: a rate of 0.5 where the mean is 0.9 and the deviation 0.2.
    for (rules, away) in [
        (json!({"failure_share": 0.4, "failure_min_endpoints": 5, "failure_min_requests": 20}), true),
        (json!({"failure_share": 0.6, "failure_min_endpoints": 5, "failure_min_requests": 20}), false),
        (json!({"failure_share": 0.4, "failure_min_endpoints": 6, "failure_min_requests": 20}), false),
        (json!({"failure_share": 0.4, "failure_min_endpoints": 5, "failure_min_requests": 1000}), false),
        (
            json!({"success_rate_stdev_factor": 1.5, "success_rate_min_endpoints": 5, "success_rate_min_requests": 20}),
            true,
        ),
        (
            json!({"success_rate_stdev_factor": 2.5, "success_rate_min_endpoints": 5, "success_rate_min_requests": 20}),
            false,
        ),
        (
            json!({"success_rate_stdev_factor": 1.5, "success_rate_min_endpoints": 6, "success_rate_min_requests": 20}),
            false,
        ),
        (
            json!({"success_rate_stdev_factor": 1.5, "success_rate_min_endpoints": 5, "success_rate_min_requests": 1000}),
            false,
        ),
    ] {
        let backends = backends(&["bad", "a", "b", "c", "d"]);
        let mut outlier = rules.clone();
        outlier["interval_ms"] = json!(2000);
        let mut both = Both::start(&outliers(&backends, &outlier));
        // Enough of them within one interval, also where it ends in between.
        both.ask("/half", 300);
        std::thread::sleep(Duration::from_millis(4200).saturating_sub(both.start.elapsed()));
        both.engine.upkeep(both.at());
        let found = served(&both.ask("/", 20)).map(|served| 5 - served);
        eprintln!("{rules}: away there and here {found:?}");
        assert_eq!(found, [usize::from(away); 2], "{rules}");
    }
}

/// Probes of a backend in four seconds.
fn probes(name: &str, probe: Value) -> (usize, Backend, Envoy) {
    let backend = Backend::start(name);
    let plan = json!({
        "routing": {"strategy": "round-robin", "default": {"backend": "a", "health_check": true}},
        "health": {"panic_threshold": 0, "probe": probe},
        "backends": {"a": {"url": backend.url()}}
    });
    let envoy = Envoy::start(serde_json::from_value(plan).unwrap());
    let before = backend.requests();
    std::thread::sleep(Duration::from_secs(4));
    (backend.requests() - before, backend, envoy)
}

#[test]
#[ignore = "needs an Envoy: set ENVOY to its path"]
fn probes_come_as_often_as_the_plan_says() {
    let near = |found: usize, expected: f64| (found as f64 - expected).abs() <= expected / 4.0 + 1.0;
    let spaced = |jitter: f64| json!({"interval_ms": 100, "unhealthy_interval_ms": 400, "jitter": jitter, "unhealthy_threshold": 1});
    let (well, ..) = probes("a", spaced(0.0));
    let (ill, ..) = probes("sick", spaced(0.0));
    // A stretch between nothing and the whole interval makes one and a half of it.
    let (stretched, ..) = probes("a", spaced(1.0));
    eprintln!("in 4 s at 100 ms {well}, of the ill at 400 ms {ill}, stretched at random {stretched}");
    assert!(near(well, 40.0) && near(ill, 10.0) && near(stretched, 40.0 / 1.5), "{well} {ill} {stretched}");
}

#[test]
#[ignore = "needs an Envoy: set ENVOY to its path"]
fn probes_pass_in_time_and_as_often_as_the_plan_says() {
    // An answer after a second is too late for the one and not for the other.
    for (timeout, status) in [(300, 503), (2500, 200)] {
        let path = json!({"kind": "http", "path": "/slow"});
        let probe = json!({
            "probe": path, "interval_ms": 200, "unhealthy_interval_ms": 200, "timeout_ms": timeout, "jitter": 0,
            "unhealthy_threshold": 1, "healthy_threshold": 1
        });
        let (_, _backend, envoy) = probes("a", probe);
        assert_eq!(envoy.get("/").status, status, "{timeout} ms");
    }
    // It is well after four seconds, and back when that was seen so many times.
    let mut back = Vec::new();
    for threshold in [1, 8] {
        let backend = Backend::start("late");
        let plan = json!({
            "routing": {"default": {"backend": "a", "health_check": true}},
            "health": {"panic_threshold": 0, "probe": {
                "interval_ms": 60000, "unhealthy_interval_ms": 250, "jitter": 0, "unhealthy_threshold": 1,
                "healthy_threshold": threshold
            }},
            "backends": {"a": {"url": backend.url()}}
        });
        let start = Instant::now();
        let envoy = Envoy::start(serde_json::from_value(plan).unwrap());
        while envoy.get("/").status != 200 {
            assert!(start.elapsed() < Duration::from_secs(15), "it never came");
            std::thread::sleep(Duration::from_millis(20));
        }
        back.push(start.elapsed().as_secs_f64());
    }
    eprintln!("back after {back:.2?} s, by one passed probe and by eight");
    // Seven more of 250 ms; Envoy tells its threads of changes once a second.
    assert!(back[0] > 3.5 && (0.7..3.0).contains(&(back[1] - back[0])), "{back:?}");
}
