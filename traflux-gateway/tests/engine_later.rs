//! Requests that have their turn later.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use traflux_core::Timestamp;
use traflux_core::plan::requests::RequestPlan;
use traflux_gateway::congestion::ConcurrencyPlan;
use traflux_gateway::health::Outcome;
use traflux_gateway::{
    Client, Decision, End, Engine, EngineSettings, Forward, Later, QueuePlan, Reason, Request,
};

fn at(seconds: f64) -> Timestamp {
    Timestamp::from_secs_f64(1_000.0 + seconds)
}

fn engine(json: &str, settings: &EngineSettings) -> Engine {
    let plan: RequestPlan = serde_json::from_str(json).unwrap();
    Engine::new(&plan, settings, at(0.0)).unwrap()
}

/// Ten requests a second for each tenant, one after another, who waits at most so long.
fn paced(max_wait_ms: u64) -> Engine {
    let plan = format!(
        r#"{{"backends": {{"a": {{}}, "b": {{}}}}, "routing": {{"default": {{"backend": ["a", "b"]}}}},
            "limits": [{{"name": "pace", "unit": "requests", "amount": 10, "period_ms": 1000, "shape": "pacing",
                         "by": "tenant", "max_wait_ms": {max_wait_ms}}}]}}"#
    );
    engine(&plan, &EngineSettings::default())
}

fn ask<'a>(tenant: &'a str) -> Request<'a> {
    Request { client: Client { tenant, ..Client::default() }, ..Request::default() }
}

#[track_caller]
fn forward(decision: Decision) -> Forward {
    match decision {
        Decision::Forward(forward) => forward,
        other => panic!("{other:?}"),
    }
}

#[track_caller]
fn later(decision: Decision) -> Later {
    match decision {
        Decision::Later(later) => later,
        other => panic!("{other:?}"),
    }
}

#[track_caller]
fn near(time: Duration, expected_ms: u128) {
    assert!(time.as_millis().abs_diff(expected_ms) <= 1, "{time:?}, expected {expected_ms} ms");
}

#[test]
fn turns_come_in_the_order_of_arrival_and_hold_no_place_meanwhile() {
    let engine = paced(10_000);
    forward(engine.decide(&ask("t"), at(0.0))).finish(at(0.0), &End::of(Outcome::Success));
    let turns: Vec<_> = (0..3).map(|_| later(engine.decide(&ask("t"), at(0.0)))).collect();
    for (turn, expected) in turns.iter().zip([100, 200, 300]) {
        near(turn.after(at(0.0)), expected);
        assert_eq!(turn.limit().as_deref(), Some("pace"));
    }
    let idle = engine.explain(&ask("t"), at(0.0));
    assert!(
        idle.candidates.iter().all(|one| one.in_flight.0 == 0),
        "who waits for a turn is nowhere in flight"
    );
    // Another tenant has turns of its own.
    forward(engine.decide(&ask("other"), at(0.0))).finish(at(0.0), &End::of(Outcome::Success));
    for turn in turns {
        let due = turn.due();
        let early = later(turn.go_on(at(0.05)));
        assert_eq!(early.due(), due, "who comes too early waits on");
        forward(early.go_on(due)).finish(due, &End::of(Outcome::Success));
    }
}

#[test]
fn who_leaves_gives_the_turn_to_those_who_come_later() {
    let engine = paced(150);
    forward(engine.decide(&ask("t"), at(0.0))).finish(at(0.0), &End::of(Outcome::Success));
    let turn = later(engine.decide(&ask("t"), at(0.0)));
    let Decision::Refuse(refusal) = engine.decide(&ask("t"), at(0.0)) else {
        panic!("beyond the longest wait")
    };
    assert_eq!((refusal.reason, refusal.limit.as_deref()), (Reason::Limited, Some("pace")));
    near(refusal.retry_after.unwrap(), 200);
    drop(turn);
    near(later(engine.decide(&ask("t"), at(0.0))).after(at(0.0)), 100);
}

#[test]
fn nobody_waits_beyond_the_deadline() {
    let engine = paced(10_000);
    forward(engine.decide(&ask("t"), at(0.0))).finish(at(0.0), &End::of(Outcome::Success));
    let hurried = Request { deadline: Some(at(0.05)), ..ask("t") };
    let Decision::Refuse(refusal) = engine.decide(&hurried, at(0.0)) else { panic!("it would be late") };
    assert_eq!(refusal.reason, Reason::Limited);
    // It took no turn.
    near(later(engine.decide(&ask("t"), at(0.0))).after(at(0.0)), 100);
}

#[test]
fn whose_backend_is_full_by_then_is_decided_about_anew() {
    let text = r#"{"backends": {"a": {}}, "routing": {"default": {"backend": "a"}}, "limits": [
        {"name": "pace", "unit": "requests", "amount": 10, "period_ms": 1000, "burst": 1, "max_wait_ms": 1000,
         "by": "tenant"}]}"#;
    let mut plan: RequestPlan = serde_json::from_str(text).unwrap();
    plan.congestion.concurrency = Some(ConcurrencyPlan::fixed(1));
    plan.queue = QueuePlan::none();
    let engine = Engine::new(&plan, &EngineSettings::default(), at(0.0)).unwrap();
    forward(engine.decide(&ask("t"), at(0.0))).finish(at(0.0), &End::of(Outcome::Success));
    let turn = later(engine.decide(&ask("t"), at(0.0)));
    let other = forward(engine.decide(&ask("other"), at(0.05)));
    let Decision::Refuse(refusal) = turn.go_on(at(0.2)) else { panic!("the backend is full") };
    assert_eq!(refusal.reason, Reason::Saturated);
    other.finish(at(0.2), &End::of(Outcome::Success));
    // What it had reserved is free again.
    forward(engine.decide(&ask("t"), at(0.2))).finish(at(0.2), &End::of(Outcome::Success));
}

#[test]
fn a_failed_attempt_has_its_turn_again() {
    let engine = paced(1_000);
    let first = forward(engine.decide(&ask("t"), at(0.0)));
    let place = first.backend().to_owned();
    // What failed was not used, but its turn has passed.
    let second = later(first.retry(at(0.01), &End::of(Outcome::ConnectFailure)));
    let second = forward(second.go_on(at(0.2)));
    assert_eq!(second.attempt(), 2);
    assert_ne!(second.backend(), place);
    second.finish(at(0.3), &End::of(Outcome::Success));
}

#[test]
fn what_cannot_be_waited_for_is_refused_with_its_key() {
    let text = r#"{"limits": [{"name": "l", "unit": "concurrency", "amount": 1, "max_wait_ms": 5}]}"#;
    let plan: RequestPlan = serde_json::from_str(text).unwrap();
    let error = Engine::new(&plan, &EngineSettings::default(), at(0.0)).unwrap_err();
    assert!(error.to_string().contains("max_wait_ms"), "{error}");
}

/// Ten requests a second once warm, 3.3 after a rest; warm after two seconds.
fn warming(max_wait_ms: u64) -> Engine {
    let plan = format!(
        r#"{{"backends": {{"a": {{}}}}, "routing": {{"default": {{"backend": "a"}}}}, "limits": [
            {{"name": "warm", "unit": "requests", "amount": 10, "period_ms": 1000, "by": "tenant",
              "shape": {{"warm_up": {{"ramp_ms": 2000, "cold_factor": 3}}}}, "max_wait_ms": {max_wait_ms}}}]}}"#
    );
    engine(&plan, &EngineSettings::default())
}

/// Gaps between the turns of a tenant who always asks for the next, in milliseconds.
fn gaps(engine: &Engine, from: f64, until: f64) -> Vec<f64> {
    let mut now = at(from);
    let mut gaps = Vec::new();
    while now < at(until) {
        let ready = match engine.decide(&ask("t"), now) {
            Decision::Later(turn) => {
                gaps.push(turn.after(now).as_secs_f64() * 1e3);
                now = turn.due();
                turn.go_on(now)
            }
            ready => ready,
        };
        forward(ready).finish(now, &End::of(Outcome::Success));
    }
    gaps
}

#[test]
fn after_a_rest_turns_are_far_apart_and_come_closer_under_load() {
    let engine = warming(1_000);
    let first = gaps(&engine, 0.0, 4.0);
    assert!((first[0] - 300.0).abs() < 15.0, "three times 100 ms: {first:?}");
    assert!(first.windows(2).all(|pair| pair[1] <= pair[0] + 0.01), "never slower under load: {first:?}");
    assert!((first.last().unwrap() - 100.0).abs() < 0.1, "{first:?}");
    // 2w / (s (1 + c)) = 10 requests in the first two seconds.
    let until_warm = first.iter().scan(0.0, |sum, gap| Some(*sum + gap).inspect(|s| *sum = *s));
    assert!(until_warm.take_while(|sum| *sum <= 2_001.0).count().abs_diff(10) <= 1, "{first:?}");
    // A rest as long as the way up makes it as cold as it was.
    let again = gaps(&engine, 20.0, 21.0);
    assert!((again[0] - first[0]).abs() < 0.1, "{again:?}");
    // A short one in part.
    let warm = gaps(&engine, 30.0, 34.0);
    assert!((warm.last().unwrap() - 100.0).abs() < 0.1, "{warm:?}");
    let lukewarm = gaps(&engine, 35.5, 36.0);
    assert!(lukewarm[0] > 120.0 && lukewarm[0] < 290.0, "{lukewarm:?}");
}

#[test]
fn who_does_not_wait_for_a_cold_limit_is_told_when_to_come_back() {
    let engine = warming(0);
    forward(engine.decide(&ask("t"), at(0.0))).finish(at(0.0), &End::of(Outcome::Success));
    let Decision::Refuse(refusal) = engine.decide(&ask("t"), at(0.0)) else { panic!("too early") };
    assert_eq!((refusal.reason, refusal.limit.as_deref()), (Reason::Limited, Some("warm")));
    near(refusal.retry_after.unwrap(), 290);
    assert!(matches!(engine.decide(&ask("t"), at(0.2)), Decision::Refuse(_)));
    forward(engine.decide(&ask("t"), at(0.3))).finish(at(0.3), &End::of(Outcome::Success));
    // Who waits and leaves gives the turn back.
    let engine = warming(1_000);
    forward(engine.decide(&ask("t"), at(0.0))).finish(at(0.0), &End::of(Outcome::Success));
    let turn = later(engine.decide(&ask("t"), at(0.0)));
    near(turn.after(at(0.0)), 290);
    drop(turn);
    let turn = later(engine.decide(&ask("t"), at(0.0)));
    near(turn.after(at(0.0)), 290);
    near(later(engine.decide(&ask("t"), at(0.0))).after(at(0.0)), 290 + 270);
}

#[test]
fn who_had_to_wait_for_a_turn_counts_in_the_budget_of_a_backend_that_stands_in() {
    let json = r#"{
        "backends": {"a": {"models": {"x": {}}}, "b": {"models": {"m": {}}}},
        "routing": {"default": {"backend": "a", "fallback": {
            "backend": "b", "budget": {"max_in_flight": 1, "min_per_second": 100}}}},
        "queue": {"max_waiting": 0},
        "limits": [{"name": "pace", "unit": "requests", "amount": 10, "period_ms": 1000, "shape": "pacing",
                    "max_wait_ms": 10000}]}"#;
    let engine = engine(json, &EngineSettings::default());
    let ask = || Request { model: "m", ..Request::default() };
    forward(engine.decide(&ask(), at(0.0))).finish(at(0.0), &End::of(Outcome::Success));
    let [first, second, third] = [0; 3].map(|_| later(engine.decide(&ask(), at(0.0))));
    let first = forward(first.go_on(at(0.25)));
    assert_eq!(first.backend(), "b");
    let second = second.go_on(at(0.25));
    assert!(matches!(second, Decision::Refuse(_)), "one at a time: {second:?}");
    first.finish(at(0.25), &End::of(Outcome::Success));
    let third = forward(third.go_on(at(0.35)));
    assert!(!matches!(engine.decide(&ask(), at(1.0)), Decision::Forward(_)));
    third.finish(at(1.0), &End::of(Outcome::Success));
    forward(engine.decide(&ask(), at(1.0))).finish(at(1.0), &End::of(Outcome::Success));
}
