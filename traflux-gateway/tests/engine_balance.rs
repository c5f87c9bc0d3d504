//! What the plan says of balancing, through the engine.
#![allow(clippy::unwrap_used)]

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use serde_json::{Value, json};
use traflux_core::Timestamp;
use traflux_core::plan::requests::RequestPlan;
use traflux_gateway::{Decision, End, Engine, EngineSettings, Forward, Outcome, Request, Rng};

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
