//! What the plan says of balancing, through the engine.
#![allow(clippy::unwrap_used)]

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use serde_json::{Value, json};
use traflux_core::Timestamp;
use traflux_core::plan::requests::RequestPlan;
use traflux_gateway::{
    Decision, End, Engine, EngineSettings, Forward, Outcome, Request, Rng, TokenEstimate, Usage,
};

fn at(seconds: f64) -> Timestamp {
    Timestamp::from_secs_f64(1_000.0 + seconds)
}

fn plan(json: Value) -> RequestPlan {
    serde_json::from_value(json).unwrap()
}

fn engine(json: Value) -> Engine {
    Engine::new(&plan(json), &EngineSettings { seed: 5, ..EngineSettings::default() }, at(0.0)).unwrap()
}

#[track_caller]
fn forward(decision: Decision) -> Forward {
    match decision {
        Decision::Forward(forward) => forward,
        other => panic!("{other:?}"),
    }
}

/// How a backend answers: after how many seconds, and which share of its answers is an error.
#[derive(Clone, Copy)]
struct Backend {
    seconds: f64,
    errors: f64,
}

const PLAIN: Backend = Backend { seconds: 1.0, errors: 0.0 };

/// Shares of what was sent in the last 30 of 60 virtual seconds at 300 requests per second.
fn shares(engine: &Engine, backends: &[(&str, Backend)]) -> BTreeMap<String, f64> {
    let backends: BTreeMap<_, _> = backends.iter().copied().collect();
    let mut rng = Rng::new(11);
    let mut open: BTreeMap<u64, (Forward, Outcome)> = BTreeMap::new();
    let mut ends: BinaryHeap<Reverse<(u64, u64)>> = BinaryHeap::new();
    let (mut sent, mut total) = (BTreeMap::<String, f64>::new(), 0.0);
    for number in 0..18_000_u64 {
        let now = number as f64 / 300.0;
        while let Some(Reverse((end, which))) = ends.peek().copied()
            && end as f64 * 1e-6 <= now
        {
            ends.pop();
            let (forward, outcome) = open.remove(&which).unwrap();
            forward.finish(at(end as f64 * 1e-6), &End::of(outcome));
        }
        if number % 60 == 0 {
            engine.upkeep(at(now));
        }
        // Some are turned away while nothing has been answered yet, or much fails.
        let Decision::Forward(forward) = engine.decide(&Request::default(), at(now)) else { continue };
        let backend = backends[forward.backend()];
        if now >= 30.0 {
            *sent.entry(forward.backend().to_owned()).or_default() += 1.0;
            total += 1.0;
        }
        let outcome = if rng.uniform() < backend.errors { Outcome::ServerError } else { Outcome::Success };
        ends.push(Reverse((((now + backend.seconds) * 1e6) as u64, number)));
        open.insert(number, (forward, outcome));
    }
    sent.values_mut().for_each(|count| *count /= total);
    sent
}

/// Two backends, one four times as dear as the other, with room for all.
fn priced(balance: Value) -> Value {
    json!({
        "backends": {
            "cheap": {"url": "http://127.0.0.1:1", "price": {"request_dollars": 0.01}},
            "dear": {"url": "http://127.0.0.1:2", "price": {"request_dollars": 0.04}}
        },
        "routing": {"strategy": "adaptive", "default": {"backend": ["cheap", "dear"], "health_check": false}},
        "congestion": {"concurrency": {"algorithm": {"kind": "fixed"}, "initial": 1000}},
        "balance": balance
    })
}

#[test]
fn of_equal_backends_under_adaptive_the_cheaper_gets_more_by_the_root_of_its_price() {
    let share =
        |balance, cheap| shares(&engine(priced(balance)), &[("cheap", cheap), ("dear", PLAIN)])["cheap"];
    let usual = share(json!({}), PLAIN);
    // Latencies that do not depend on load: 4 : 1 for prices of 1 : 4.
    assert!((usual - 0.8).abs() < 0.02, "{usual}");
    let linear = share(json!({"adaptive": {"price_exponent": 1}}), PLAIN);
    assert!((linear - 16.0 / 17.0).abs() < 0.02, "{linear}");
    let without = share(json!({"adaptive": {"price_exponent": 0}}), PLAIN);
    assert!((without - 0.5).abs() < 0.02, "{without}");
    let failing = share(json!({}), Backend { errors: 0.3, ..PLAIN });
    assert!(failing < 0.35, "cheap answers that fail are dear: {failing}");
    let slow = share(json!({}), Backend { seconds: 3.0, ..PLAIN });
    // In flight (2/3)² : 1, and three times as long.
    assert!((slow - 4.0 / 31.0).abs() < 0.03, "more than twice as slow: {slow}");
}

#[test]
fn an_idle_gateway_pays_less_unless_the_dearer_is_more_than_twice_as_fast() {
    for (cheap_ms, expected) in [(150, "cheap"), (250, "dear")] {
        let engine = engine(priced(json!({})));
        let mut last = 0;
        for number in 0..200 {
            let now = f64::from(number);
            engine.upkeep(at(now));
            let forward = forward(engine.decide(&Request::default(), at(now)));
            let ms = if forward.backend() == "cheap" { f64::from(cheap_ms) } else { 100.0 };
            last += u32::from(number >= 100 && forward.backend() == expected);
            forward.finish(at(now + ms * 1e-3), &End::of(Outcome::Success));
        }
        assert!(last >= 95, "{last} of 100 to {expected} at {cheap_ms} ms");
    }
}

#[test]
fn prices_count_at_once_and_over_a_reload() {
    let engine = engine(priced(json!({})));
    let weights = || {
        let candidates = engine.explain(&Request::default(), at(0.0)).candidates;
        candidates.into_iter().map(|c| c.weight).collect::<Vec<_>>()
    };
    assert_eq!(weights(), [10_000, 5_000]);
    let mut next = plan(priced(json!({"adaptive": {"price_exponent": 1}})));
    engine.reload(&next, &EngineSettings::default(), at(1.0)).unwrap();
    assert_eq!(weights(), [10_000, 2_500]);
    next.balance.adaptive.price_exponent = 9.0;
    let error = engine.reload(&next, &EngineSettings::default(), at(2.0)).unwrap_err();
    assert_eq!(error.to_string(), "balance.adaptive.price_exponent: 9, expected 0 to 8");
}

/// Sends one request and lets it be answered after so many milliseconds; the backend and the time of the end.
fn answered(engine: &Engine, request: &Request<'_>, now: f64, ms: impl Fn(&str) -> f64) -> String {
    let forward = forward(engine.decide(request, at(now)));
    let backend = forward.backend().to_owned();
    forward.finish(at(now + ms(&backend) * 1e-3), &End::of(Outcome::Success));
    backend
}

fn pair(more: Value) -> Value {
    let mut plan = json!({
        "backends": {"a": {"url": "http://127.0.0.1:1"}, "b": {"url": "http://127.0.0.1:2"}},
        "routing": {"default": {"backend": ["a", "b"]}},
        "congestion": {"concurrency": {"algorithm": {"kind": "fixed"}, "initial": 1000}}
    });
    for (key, value) in more.as_object().unwrap() {
        plan[key] = value.clone();
    }
    plan
}

#[test]
fn load_may_be_counted_in_tokens_for_one_route_alone() {
    let engine = engine(pair(json!({"routing": {"strategy": "least-connections", "rules": [
        {"name": "tokens", "match": {"path": "/t"}, "route": {"backend": ["a", "b"], "balance": {"load": "tokens"}}},
        {"name": "requests", "route": {"backend": ["a", "b"]}}
    ]}})));
    let ask = |path, tokens| Request {
        path,
        tokens: TokenEstimate { input: tokens, output: 0 },
        ..Request::default()
    };
    let long = forward(engine.decide(&ask("/t", 50_000), at(0.0)));
    let other = if long.backend() == "a" { "b" } else { "a" };
    let short: Vec<_> = (0..10).map(|_| forward(engine.decide(&ask("/t", 100), at(0.0)))).collect();
    assert!(short.iter().all(|short| short.backend() == other), "a thousand tokens are less than 50,000");
    let counted = forward(engine.decide(&ask("/r", 100), at(0.0)));
    assert_eq!(counted.backend(), long.backend(), "one request is less than ten");
}

#[test]
fn the_objective_says_which_latency_counts() {
    // `a` begins sooner and writes slowly, `b` the other way round: 50 ms + 100 · 20 ms, 400 ms + 100 · 2 ms.
    let share_of_a = |balance: Value, stream| {
        let engine = engine(pair(
            json!({"routing": {"strategy": "least-latency", "default": {"backend": ["a", "b"], "balance": balance}}}),
        ));
        let request =
            Request { stream, tokens: TokenEstimate { input: 0, output: 100 }, ..Request::default() };
        let mut to_a = 0;
        for number in 0..300 {
            let now = f64::from(number) * 5.0;
            let mut forward = forward(engine.decide(&request, at(now)));
            let (first, each) = if forward.backend() == "a" { (0.05, 0.02) } else { (0.4, 0.002) };
            to_a += u32::from(number >= 100 && forward.backend() == "a");
            if stream {
                forward.first_byte(at(now + first));
            }
            let usage = Some(Usage { input: 0, cached: 0, output: 100 });
            let end = End { usage, ..End::of(Outcome::Success) };
            forward.finish(at(now + first + 100.0 * each), &end);
        }
        f64::from(to_a) / 200.0
    };
    assert!(share_of_a(json!({}), true) < 0.05, "the whole answer counts");
    assert!(share_of_a(json!({"objective": "first_token"}), true) > 0.95);
    assert!(
        share_of_a(json!({"objective": "first_token"}), false) < 0.05,
        "what comes in one piece counts whole"
    );
}

#[test]
fn least_latency_may_go_by_a_percentile() {
    // `a` is usually quick and at times very slow, `b` always in between; of means, `a` has the least.
    let share_of_a = |latency: Value| {
        let engine = engine(pair(json!({
            "routing": {"strategy": "least-latency", "default": {"backend": ["a", "b"]}},
            "balance": {"latency": latency, "probe_one_in": 4}
        })));
        let mut rng = Rng::new(3);
        let mut to_a = 0;
        for number in 0..2_000 {
            let slow = rng.uniform() < 0.15;
            let ms = |backend: &str| match (backend, slow) {
                ("a", false) => 50.0,
                ("a", true) => 400.0,
                _ => 200.0,
            };
            let backend = answered(&engine, &Request::default(), f64::from(number) * 2.0, ms);
            to_a += u32::from(number >= 1_000 && backend == "a");
        }
        f64::from(to_a) / 1_000.0
    };
    // One in four requests may go to who was not heard of.
    let mean = share_of_a(json!({}));
    let percentile = share_of_a(json!({"estimate": "percentile", "percentile": 0.95}));
    assert!(mean > 0.45 && percentile < 0.25, "{mean}, {percentile}");
}

#[test]
fn a_change_of_what_latencies_are_learned_from_begins_anew_and_keeps_what_is_in_flight() {
    let json = pair(json!({"routing": {"strategy": "least-latency", "default": {"backend": ["a", "b"]}}}));
    let engine = engine(json.clone());
    for number in 0..20 {
        answered(&engine, &Request::default(), f64::from(number), |_| 100.0);
    }
    let latency = || engine.explain(&Request::default(), at(30.0)).candidates[0].expected_latency;
    assert!(latency().is_some());
    let running = forward(engine.decide(&Request::default(), at(30.0)));
    let mut next = plan(json);
    next.balance.latency.samples = 10;
    engine.reload(&next, &EngineSettings::default(), at(30.0)).unwrap();
    assert_eq!(latency(), None);
    running.finish(at(31.0), &End::of(Outcome::Success));
    let load: u32 =
        engine.explain(&Request::default(), at(31.0)).candidates.iter().map(|c| c.in_flight.0).sum();
    assert_eq!(load, 0);
}

#[test]
fn slow_start_lets_the_share_of_a_new_endpoint_grow() {
    let mut json = pair(json!({
        "routing": {"strategy": "round-robin", "default": {"backend": ["a", "b"]}},
        "balance": {"slow_start": {"window_ms": 100_000, "least_share": 0.1}}
    }));
    let engine = engine(json.clone());
    json["backends"]["new"] = json!({"url": "http://127.0.0.1:3"});
    json["routing"]["default"]["backend"] = json!(["a", "b", "new"]);
    engine.reload(&plan(json), &EngineSettings::default(), at(200.0)).unwrap();
    // At weight w beside two whole ones: w / (2 + w).
    for (now, weight) in [(200.0, 0.1), (250.0, 0.5), (275.0, 0.75), (300.0, 1.0)] {
        let count = (0..3_000)
            .filter(|_| answered(&engine, &Request::default(), now, |_| 1.0) == "new")
            .count() as f64;
        let expected = 3_000.0 * weight / (2.0 + weight);
        assert!((count - expected).abs() < 4.5 * expected.sqrt(), "{now} s: {count}, expected {expected}");
    }
}

#[test]
fn what_drains_gets_nothing_new_and_ends_what_it_has() {
    let json = |draining: bool| {
        pair(json!({
            "routing": {"strategy": "round-robin", "default": {"backend": ["a", "b"]}},
            "affinity": {"key": {"header": "x-session"}},
            "backends": {"a": {"url": "http://127.0.0.1:1", "draining": draining}, "b": {"url": "http://127.0.0.1:2"}},
            "queue": {"max_waiting": 0}
        }))
    };
    let engine = engine(json(false));
    let headers = [("x-session", "s")];
    let mut running = forward(engine.decide(&Request::default(), at(0.0)));
    while running.backend() != "a" {
        running.finish(at(0.0), &End::of(Outcome::Success));
        running = forward(engine.decide(&Request::default(), at(0.0)));
    }
    // A session that lives at `a`.
    let mut session = Vec::new();
    for number in 0..8 {
        let own = [("x-session", ["0", "1", "2", "3", "4", "5", "6", "7"][number])];
        session.push(answered(&engine, &Request { headers: &own, ..Request::default() }, 0.1, |_| 1.0));
    }
    assert!(session.contains(&"a".to_owned()));
    engine.reload(&plan(json(true)), &EngineSettings::default(), at(1.0)).unwrap();
    for number in 0..50 {
        let now = 1.0 + f64::from(number) * 0.01;
        assert_eq!(answered(&engine, &Request::default(), now, |_| 1.0), "b");
        assert_eq!(
            answered(&engine, &Request { headers: &headers, ..Request::default() }, now, |_| 1.0),
            "b"
        );
        let own = [("x-session", ["0", "1", "2", "3", "4", "5", "6", "7"][number as usize % 8])];
        assert_eq!(answered(&engine, &Request { headers: &own, ..Request::default() }, now, |_| 1.0), "b");
    }
    let shown = engine.explain(&Request::default(), at(2.0));
    assert!(shown.candidates[0].draining && !shown.candidates[1].draining);
    assert!(shown.to_string().contains("draining, 1 of 1000 in flight"), "{shown}");
    assert_eq!(shown.candidates[0].in_flight.0, 1, "what is in flight goes on");
    running.finish(at(3.0), &End::of(Outcome::Success));
    // A plan that is refused changes nothing of it.
    let mut wrong = plan(json(false));
    wrong.limits = serde_json::from_value(json!([
        {"name": "l", "unit": "requests", "amount": 1, "shape": "sliding_window", "max_wait_ms": 5}
    ]))
    .unwrap();
    assert!(engine.reload(&wrong, &EngineSettings::default(), at(4.0)).is_err());
    assert!((0..20).all(|_| answered(&engine, &Request::default(), 4.0, |_| 1.0) == "b"));
    // Sessions that moved stay where they are when it is back.
    engine.reload(&plan(json(false)), &EngineSettings::default(), at(5.0)).unwrap();
    let own = [("x-session", "0")];
    assert_eq!(answered(&engine, &Request { headers: &own, ..Request::default() }, 5.0, |_| 1.0), "b");
    assert!((0..20).any(|_| answered(&engine, &Request::default(), 5.0, |_| 1.0) == "a"));
}

#[test]
fn where_all_endpoints_drain_the_fallback_serves() {
    let engine = engine(pair(json!({
        "routing": {"default": {"backend": "a", "fallback": {"backend": "b", "on": ["unhealthy"]}}},
        "backends": {
            "a": {"url": [{"url": "http://127.0.0.1:1", "draining": true}, {"url": "http://127.0.0.1:3", "draining": true}]},
            "b": {"url": "http://127.0.0.1:2"}
        }
    })));
    assert!((0..20).all(|_| answered(&engine, &Request::default(), 0.0, |_| 1.0) == "b"));
}
