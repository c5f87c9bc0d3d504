//! How many are compared, how far a tier may fall, and what a passed probe means to one that was sent away.
//!
//! Tolerances: 4 standard deviations of the binomial distribution, and for `choices` the 3.5 % between drawing with
//! repetition, as Envoy does, and without, as the engine does.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use traflux_core::Timestamp;
use traflux_core::plan::requests::RequestPlan;
use traflux_gateway::health::{Outcome, ProbeResult};
use traflux_gateway::{End, Engine, EngineSettings, Request};

use crate::envoy_rig::{Backend, Envoy};

fn plan(value: &Value) -> RequestPlan {
    serde_json::from_value(value.clone()).unwrap()
}

fn engine(value: &Value) -> Engine {
    Engine::new(&plan(value), &EngineSettings::default(), Timestamp::from_secs_f64(1.0)).unwrap()
}

fn served_by(envoy: &Envoy, target: &str) -> String {
    envoy.get(target).body.lines().next().unwrap_or_default().to_owned()
}

/// Where it is said how many are compared.
#[derive(Clone, Copy)]
enum Place {
    Plan,
    Route,
}

/// The share of requests that go to a busy endpoint, of Envoy and of the engine, and how many were busy there.
fn to_the_busy(endpoints: usize, held: usize, place: Place, balance: &Value) -> [(f64, usize); 2] {
    const REQUESTS: usize = 500;
    let names: Vec<String> = (0..endpoints).map(|ix| format!("b{ix}")).collect();
    let backends: Vec<Backend> = names.iter().map(|name| Backend::start(name)).collect();
    let urls: BTreeMap<&str, Value> =
        backends.iter().map(|b| (b.name.as_str(), json!({"url": b.url()}))).collect();
    let mut value = json!({
        "routing": {"default": {"backend": names, "algorithm": "least-connections", "health_check": false}},
        "backends": urls
    });
    match place {
        Place::Plan => value["balance"] = balance.clone(),
        Place::Route => value["routing"]["default"]["balance"] = balance.clone(),
    }

    let envoy = Envoy::start(plan(&value));
    for sent in 1..=held {
        drop(envoy.in_background("/held"));
        // Each finds the one before it in flight.
        let start = Instant::now();
        while backends.iter().map(Backend::requests).sum::<usize>() < sent {
            assert!(start.elapsed() < Duration::from_secs(2), "request {sent} has not arrived");
            std::thread::sleep(Duration::from_millis(2));
        }
    }
    let busy: BTreeSet<&str> =
        backends.iter().filter(|b| b.requests() > 0).map(|b| b.name.as_str()).collect();
    let start = Instant::now();
    let there = (0..REQUESTS).filter(|_| busy.contains(served_by(&envoy, "/").as_str())).count();
    assert!(start.elapsed() < Duration::from_secs(6), "what is held has ended: {:?}", start.elapsed());

    let (engine, at) = (engine(&value), Timestamp::from_secs_f64(2.0));
    let decide = || engine.decide(&Request::default(), at).forward().unwrap();
    let open: Vec<_> = (0..held).map(|_| decide()).collect();
    let held_by: BTreeSet<&str> = open.iter().map(|forward| forward.backend()).collect();
    let here = (0..REQUESTS)
        .filter(|_| {
            let sent = decide();
            let is_busy = held_by.contains(sent.backend());
            sent.finish(at, &End::of(Outcome::Success));
            is_busy
        })
        .count();
    let share = |count: usize| count as f64 / REQUESTS as f64;
    let found = [(share(there), busy.len()), (share(here), held_by.len())];
    open.into_iter().for_each(|sent| sent.finish(at, &End::of(Outcome::Success)));
    found
}

#[test]
#[ignore = "needs an Envoy: set ENVOY to its path"]
fn so_many_are_compared_as_the_plan_says() {
    const ENDPOINTS: usize = 20;
    for choices in [2, 4] {
        let balance = json!({"choices": choices, "compare_all_up_to": 0});
        let found = to_the_busy(ENDPOINTS, 16, Place::Plan, &balance);
        eprintln!(
            "{choices} of {ENDPOINTS} compared; share to the busy and how many are, Envoy and engine: {found:?}"
        );
        for (who, (share, busy)) in ["Envoy", "the engine"].iter().zip(found) {
            // All of those compared are busy.
            let expected = (busy as f64 / ENDPOINTS as f64).powi(choices);
            let tolerance = 0.035 + 4.0 * (expected * (1.0 - expected) / 500.0).sqrt();
            assert!((share - expected).abs() <= tolerance, "{who}: {share} to the busy, expected {expected}");
        }
    }
    // One more or less than the plan's bound is the difference between some and all.
    for place in [Place::Plan, Place::Route] {
        let balance = |all: u32| {
            let mut balance = json!({"choices": 2, "compare_all_up_to": all});
            if matches!(place, Place::Route) {
                balance["load"] = json!("requests");
                balance["objective"] = json!("answer");
            }
            balance
        };
        let found = to_the_busy(6, 4, place, &balance(6));
        eprintln!("all of 6 compared: {found:?}");
        assert!(found.iter().all(|(share, busy)| *share == 0.0 && *busy == 4), "{found:?}");
        let found = to_the_busy(6, 4, place, &balance(5));
        eprintln!("two of 6 compared: {found:?}");
        assert!(found.iter().all(|(share, _)| *share > 0.0), "{found:?}");
    }
}

/// Tells an engine of the probes that are due: `sick` fails them.
fn probe(engine: &Engine, at: Timestamp, sick: &str) {
    for question in engine.probes(at, 100) {
        let ill = question.url.starts_with(sick);
        engine.on_probe(at, &question, if ill { ProbeResult::Failed } else { ProbeResult::Passed });
    }
}

#[test]
#[ignore = "needs an Envoy: set ENVOY to its path"]
fn a_tier_overflows_when_it_fell_as_far_as_the_plan_says() {
    const REQUESTS: usize = 400;
    let [sick, well, spare] = ["sick", "well", "spare"].map(Backend::start);
    for (factor, expected) in [(1.0, 0.5), (1.4, 0.3), (2.0, 0.0)] {
        let value = json!({
            "routing": {"strategy": "round-robin", "default": {"backend": "all", "health_check": true}},
            "balance": {"overprovisioning": factor},
            "health": {"panic_threshold": 0, "probe": {
                "interval_ms": 100, "unhealthy_interval_ms": 100, "jitter": 0, "unhealthy_threshold": 1,
                "assume_healthy": false
            }},
            "backends": {"all": {"url": [sick.url(), well.url(), {"url": spare.url(), "tier": 1}]}}
        });
        let envoy = Envoy::start(plan(&value));
        std::thread::sleep(Duration::from_millis(800));
        let served: Vec<String> = (0..REQUESTS).map(|_| served_by(&envoy, "/")).collect();
        let engine = engine(&value);
        for tenth in 1..10 {
            probe(&engine, Timestamp::from_secs_f64(1.0 + f64::from(tenth) / 10.0), &sick.url());
        }
        let at = Timestamp::from_secs_f64(2.0);
        let decided: Vec<String> = (0..REQUESTS)
            .map(|_| {
                let sent = engine.decide(&Request::default(), at).forward().unwrap();
                let url = sent.url().to_owned();
                sent.finish(at, &End::of(Outcome::Success));
                url
            })
            .collect();
        assert!(!served.contains(&"sick".to_owned()) && !decided.contains(&sick.url()));
        let there = served.iter().filter(|name| *name == "spare").count() as f64;
        let here = decided.iter().filter(|url| **url == spare.url()).count() as f64;
        let mean = expected * REQUESTS as f64;
        eprintln!("factor {factor}: to the second tier {there} there, {here} here, expected {mean}");
        let tolerance = 4.0 * (mean * (1.0 - expected)).sqrt();
        for found in [there, here] {
            assert!((found - mean).abs() <= tolerance, "factor {factor}: {found}, expected {mean}");
        }
    }
}

#[test]
#[ignore = "needs an Envoy: set ENVOY to its path"]
fn a_passed_probe_ends_an_ejection_where_the_plan_says_so() {
    for ends in [false, true] {
        let [bad, good] = ["bad", "good"].map(Backend::start);
        let value = json!({
            "retry": {"max_attempts": 1},
            "routing": {"strategy": "round-robin", "default": {"backend": ["bad", "good"], "health_check": true}},
            "health": {
                "probe_ends_ejection": ends,
                "probe": {"interval_ms": 200, "unhealthy_interval_ms": 200, "jitter": 0},
                "outlier": {"consecutive_errors": 3, "max_ejected_share": 0.5},
                "breaker": {"base_ms": 60000, "ramp_ms": 0}
            },
            "backends": {"bad": {"url": bad.url()}, "good": {"url": good.url()}}
        });
        let (envoy, engine) = (Envoy::start(plan(&value)), engine(&value));
        // Requests in turns through both; how many of each went to the one that fails where the path says so.
        let ask = |target: &str, requests: usize, at: f64| {
            let at = Timestamp::from_secs_f64(at);
            let mut to_bad = [0; 2];
            for _ in 0..requests {
                to_bad[0] += usize::from(served_by(&envoy, target) == "bad");
                let sent = engine.decide(&Request::default(), at).forward().unwrap();
                let is_bad = sent.backend() == "bad";
                to_bad[1] += usize::from(is_bad);
                let failed = is_bad && target == "/bad";
                sent.finish(at, &End::of(if failed { Outcome::ServerError } else { Outcome::Success }));
            }
            to_bad
        };
        let before = ask("/bad", 6, 2.0);
        assert_eq!(before, [3, 3], "turns, until three failures send it away");
        // Some probes later, long before the minute of the ejection is over. Envoy tells its threads once a second.
        std::thread::sleep(Duration::from_millis(2500));
        for tenth in 0..10 {
            probe(&engine, Timestamp::from_secs_f64(2.0 + f64::from(tenth) / 10.0), "nobody");
        }
        let after = ask("/", 20, 3.0);
        eprintln!("ends: {ends}; of 20 to the one that was sent away, Envoy and engine: {after:?}");
        for found in after {
            // The engine has it pass trials first.
            assert!(if ends { (7..=11).contains(&found) } else { found == 0 }, "ends: {ends}; {after:?}");
        }
    }
}
