//! Attempts beyond the first: backends that stand in for others, and hedges.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use proptest::prelude::*;
use traflux_core::Timestamp;
use traflux_core::plan::requests::RequestPlan;
use traflux_gateway::Outcome;
use traflux_gateway::congestion::{ConcurrencyPlan, ThrottlePlan};
use traflux_gateway::retry::Idempotence;
use traflux_gateway::{
    Client, Decision, End, Engine, EngineSettings, Forward, Request, TokenEstimate, Usage,
};

fn at(milliseconds: u64) -> Timestamp {
    Timestamp::new(Duration::from_millis(1_000_000 + milliseconds))
}

fn engine(json: &str) -> Engine {
    Engine::new(&plan(json), &EngineSettings::default(), at(0)).unwrap()
}

/// A plan with room for all, so that only what is tested refuses.
fn plan(json: &str) -> RequestPlan {
    let mut plan: RequestPlan = serde_json::from_str(json).unwrap();
    plan.congestion.concurrency = Some(ConcurrencyPlan::fixed(1000));
    plan.congestion.throttle = Some(ThrottlePlan { min_requests: u64::MAX, ..ThrottlePlan::default() });
    plan
}

fn ask() -> Request<'static> {
    Request {
        client: Client { tenant: "t", ..Client::default() },
        tokens: TokenEstimate { input: 100, output: 200 },
        idempotence: Idempotence::Idempotent,
        ..Request::default()
    }
}

#[track_caller]
fn forward(decision: Decision) -> Forward {
    match decision {
        Decision::Forward(forward) => forward,
        other => panic!("{other:?}"),
    }
}

/// How many of so many requests, each of which fails at the first backend, end at each.
fn ends(engine: &Engine, requests: u32, outcome: Outcome) -> (u32, u32, u32) {
    let (mut second, mut third, mut nowhere) = (0, 0, 0);
    for _ in 0..requests {
        let mut decision = engine.decide(&ask(), at(0));
        loop {
            match decision {
                Decision::Forward(way) if way.backend() == "a" => {
                    decision = way.retry(at(0), &End::of(outcome));
                }
                Decision::Forward(way) => {
                    let count = if way.backend() == "b" { &mut second } else { &mut third };
                    *count += 1;
                    way.finish(at(0), &End::of(Outcome::Success));
                    break;
                }
                _ => {
                    nowhere += 1;
                    break;
                }
            }
        }
    }
    (second, third, nowhere)
}

const CHAIN: &str = r#"{
    "routing": {"default": {"backend": "a", "health_check": false, "fallback": [
        {"backend": "b", "on": ["failed"], "budget": {"ratio": 0.25, "min_per_second": 0}}, "c"]}},
    "retry": {"budget": {"ratio": 10, "min_concurrency": 1000}}
}"#;

#[test]
fn a_backend_that_stands_in_takes_its_causes_up_to_its_budget_and_the_next_the_rest() {
    assert_eq!(ends(&engine(CHAIN), 100, Outcome::GatewayError), (25, 75, 0));
    // The first refusal cools the backend down; from then on it has no capacity.
    assert_eq!(ends(&engine(CHAIN), 100, Outcome::Limited), (0, 100, 0));
}

#[test]
fn what_found_the_pool_full_was_not_sent_and_shuts_nobody_out() {
    // With concurrency limits and throttling as they are by default.
    let plan: RequestPlan = serde_json::from_str(
        r#"{"routing": {"default": {"backend": "a"}}, "queue": {"max_waiting": 0}, "congestion": {"throttle": {}},
        "limits": [{"name": "requests", "unit": "requests", "amount": 2, "shape": "fixed_window"}]}"#,
    )
    .unwrap();
    let engine = Engine::new(&plan, &EngineSettings::default(), at(0)).unwrap();
    for _ in 0..1_000 {
        forward(engine.decide(&ask(), at(0))).finish(at(0), &End::of(Outcome::PoolFull));
    }
    // A thousand refusals of the backend would cool it down, lower its limit and throttle it.
    let held: Vec<_> = (0..2).map(|_| forward(engine.decide(&ask(), at(0)))).collect();
    for way in held {
        way.finish(at(0), &End::of(Outcome::Success));
    }
    assert!(matches!(engine.decide(&ask(), at(0)), Decision::Refuse(_)), "two were sent");
}

#[test]
fn what_found_the_pool_full_goes_on_to_who_stands_in_for_want_of_capacity() {
    // The second takes failures only.
    assert_eq!(ends(&engine(CHAIN), 100, Outcome::PoolFull), (0, 100, 0));
}

#[test]
fn a_budget_that_is_spent_outlives_a_reload() {
    let engine = engine(CHAIN);
    ends(&engine, 100, Outcome::GatewayError);
    let plan = plan(CHAIN);
    engine.reload(&plan, &EngineSettings::default(), at(0)).unwrap();
    // A quarter of a hundred more.
    assert_eq!(ends(&engine, 100, Outcome::GatewayError), (25, 75, 0));
}

#[test]
fn requests_that_stand_in_at_once_are_bounded_and_make_room_when_they_end() {
    let engine = engine(
        r#"{"routing": {"default": {"backend": "a", "fallback": {"backend": "b", "budget": {"max_in_flight": 2, "min_per_second": 100}}}}}"#,
    );
    forward(engine.decide(&ask(), at(0))).finish(at(0), &End::of(Outcome::Limited));
    let mut held: Vec<_> = (0..2).map(|_| forward(engine.decide(&ask(), at(0)))).collect();
    assert!(held.iter().all(|way| way.backend() == "b"));
    let Decision::Wait(waiting) = engine.decide(&ask(), at(0)) else { panic!() };
    drop(waiting);
    held.remove(0).finish(at(0), &End::of(Outcome::Success));
    assert_eq!(forward(engine.decide(&ask(), at(0))).backend(), "b");
}

const HEDGED: &str = r#"{
    "routing": {"default": {"backend": ["a", "b"], "algorithm": "round-robin"}},
    "limits": [
        {"name": "requests", "unit": "requests", "amount": 1000000, "shape": "fixed_window", "by": "tenant"},
        {"name": "tokens", "unit": "tokens", "amount": 1000000, "shape": "fixed_window", "by": "tenant"},
        {"name": "at once", "unit": "concurrency", "amount": 1000}],
    "retry": {"hedge": {"delay_ms": 100}}
}"#;

/// What the limits have been charged, and what is in flight by any count.
fn levels(engine: &Engine, now: Timestamp) -> (u64, u64, u64) {
    let limits = engine.explain(&ask(), now).limits;
    let used = |name: &str| {
        let trace = limits.iter().find(|trace| trace.limit == name).unwrap();
        trace.level.as_ref().map_or(0, |level| level.limit - level.remaining)
    };
    (used("requests"), used("tokens"), used("at once"))
}

#[test]
fn a_late_request_gets_a_second_attempt_elsewhere_and_pays_once() {
    let engine = engine(HEDGED);
    let mut first = forward(engine.decide(&ask(), at(0)));
    assert_eq!(first.hedge_at(), Some(at(100)));
    let second = first.hedge(at(100)).unwrap();
    assert_ne!(first.backend(), second.backend());
    assert_eq!((first.hedge_at(), second.hedge_at()), (None, None), "two at once are all");
    assert_eq!(levels(&engine, at(100)), (2, 600, 2), "both are reserved while they run");
    first.overtaken(at(150));
    let usage = Some(Usage { input: 90, cached: 0, output: 20 });
    second.finish(at(150), &End { usage, ..End::of(Outcome::Success) });
    assert_eq!(levels(&engine, at(150)), (1, 110, 0));
}

#[test]
fn what_must_not_be_done_twice_or_has_begun_to_answer_is_never_hedged() {
    let engine = engine(HEDGED);
    let risky = Request { idempotence: Idempotence::NonIdempotent, ..ask() };
    let mut first = forward(engine.decide(&risky, at(0)));
    assert!(first.hedge_at().is_none() && first.hedge(at(500)).is_none());
    let mut begun = forward(engine.decide(&ask(), at(0)));
    begun.first_byte(at(50));
    assert!(begun.hedge_at().is_none() && begun.hedge(at(500)).is_none());
    let unhedged =
        self::engine(&HEDGED.replace(r#""retry": {"hedge": {"delay_ms": 100}}"#, r#""retry": {}"#));
    assert!(forward(unhedged.decide(&ask(), at(0))).hedge_at().is_none());
}

#[test]
fn hedges_keep_within_the_budget_of_retries() {
    let engine = engine(HEDGED);
    let mut held: Vec<_> = (0..100).map(|_| forward(engine.decide(&ask(), at(0)))).collect();
    let seconds: Vec<_> = held.iter_mut().filter_map(|first| first.hedge(at(100))).collect();
    // A fifth of what is in flight at each of two backends; and hedges count there, too.
    assert!((10..=12).contains(&seconds.len()), "{}", seconds.len());
    let shown = engine.scrape(at(200), traflux_gateway::observe::Format::Prometheus);
    let counted = |family: &str| -> f64 {
        let lines = shown.lines().filter(|line| line.starts_with(&format!("{family}{{")));
        lines.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()).sum()
    };
    assert_eq!(counted("traflux_gateway_hedges_total"), seconds.len() as f64);
    assert_eq!(counted("traflux_gateway_retries_total"), 0.0);
}

#[test]
fn a_second_attempt_that_fails_is_followed_by_neither_of_both_endpoints() {
    let json = HEDGED.replace(r#"["a", "b"]"#, r#"["a", "b", "c"]"#);
    let engine = engine(&json);
    let mut first = forward(engine.decide(&ask(), at(0)));
    let second = first.hedge(at(100)).unwrap();
    let before = [first.backend().to_owned(), second.backend().to_owned()];
    first.finish(at(110), &End::of(Outcome::Reset));
    let third = forward(second.retry(at(120), &End::of(Outcome::Reset)));
    assert!(!before.contains(&third.backend().to_owned()), "{before:?}, then {}", third.backend());
    assert_eq!(third.attempt(), 3);
}

/// Tokens that the tenant has been charged.
fn charged(engine: &Engine) -> u64 {
    levels(engine, at(1000)).1
}

#[test]
fn what_was_sent_and_got_no_answer_costs_its_prompt() {
    for (outcome, cost) in [
        (Outcome::Cancelled, 100),
        (Outcome::Timeout, 100),
        (Outcome::Reset, 100),
        (Outcome::ConnectFailure, 0),
        (Outcome::PoolFull, 0),
        (Outcome::LocalTimeout, 0),
        (Outcome::Limited, 0),
        (Outcome::ServerError, 0),
    ] {
        let engine = engine(HEDGED);
        forward(engine.decide(&ask(), at(0))).finish(at(10), &End::of(outcome));
        assert_eq!(charged(&engine), cost, "{outcome:?}");
    }
    // An answer that says no has a body as well; of one that broke off some was made.
    for (outcome, cost) in [
        (Outcome::ClientError, 0),
        (Outcome::Limited, 0),
        (Outcome::ServerError, 0),
        (Outcome::GatewayError, 0),
        (Outcome::Reset, 300),
    ] {
        let engine = engine(HEDGED);
        let mut sent = forward(engine.decide(&ask(), at(0)));
        sent.first_byte(at(5));
        sent.finish(at(10), &End::of(outcome));
        assert_eq!(charged(&engine), cost, "{outcome:?} after the first byte");
    }
    // A client that hangs up: whoever waited for the answer is dropped.
    let engine = engine(HEDGED);
    drop(forward(engine.decide(&ask(), at(0))));
    assert_eq!(charged(&engine), 100);
    // What the answer said counts, whatever came of it.
    let usage = Some(Usage { input: 7, cached: 0, output: 3 });
    forward(engine.decide(&ask(), at(0))).finish(at(10), &End { usage, ..End::of(Outcome::Reset) });
    assert_eq!(charged(&engine), 110);
}

#[test]
fn an_attempt_that_is_followed_by_another_leaves_the_cost_to_the_last() {
    const TWICE: &str = r#"{"max_attempts": 2, "hedge": {"delay_ms": 100}}"#;
    let json = HEDGED.replace(r#"{"hedge": {"delay_ms": 100}}"#, TWICE);
    let usage = Some(Usage { input: 90, cached: 0, output: 20 });
    let success = End { usage, ..End::of(Outcome::Success) };
    let engine = engine(&json);
    let second = forward(forward(engine.decide(&ask(), at(0))).retry(at(10), &End::of(Outcome::Reset)));
    assert_eq!(charged(&engine), 300, "the second has reserved, the first has cost nothing");
    second.finish(at(20), &success);
    assert_eq!(charged(&engine), 110);
    for outcome in [Outcome::Reset, Outcome::Timeout] {
        let engine = self::engine(&json);
        let second = forward(forward(engine.decide(&ask(), at(0))).retry(at(10), &End::of(Outcome::Reset)));
        assert!(matches!(second.retry(at(20), &End::of(outcome)), Decision::Refuse(_)));
        assert_eq!(charged(&engine), 100, "{outcome:?} at the last");
    }
    // Two at once: whoever is left pays.
    let engine = self::engine(&json);
    let mut first = forward(engine.decide(&ask(), at(0)));
    let second = first.hedge(at(100)).unwrap();
    first.finish(at(110), &End::of(Outcome::Reset));
    second.finish(at(120), &success);
    assert_eq!(charged(&engine), 110);
    let engine = self::engine(&json);
    let mut first = forward(engine.decide(&ask(), at(0)));
    let second = first.hedge(at(100)).unwrap();
    second.finish(at(120), &End::of(Outcome::Timeout));
    first.finish(at(120), &End::of(Outcome::Timeout));
    assert_eq!(charged(&engine), 100, "once for both");
}

#[test]
fn a_place_that_nobody_was_told_of_costs_nothing() {
    let mut plan = plan(HEDGED);
    plan.congestion.concurrency = Some(ConcurrencyPlan::fixed(1));
    let engine = Engine::new(&plan, &EngineSettings::default(), at(0)).unwrap();
    let held: Vec<_> = (0..2).map(|_| forward(engine.decide(&ask(), at(0)))).collect();
    let Decision::Wait(waiting) = engine.decide(&ask(), at(0)) else { panic!("there is room") };
    let usage = Some(Usage { input: 90, cached: 0, output: 20 });
    held.into_iter().for_each(|way| way.finish(at(10), &End { usage, ..End::of(Outcome::Success) }));
    assert_eq!(charged(&engine), 2 * 110 + 300);
    drop(waiting);
    assert_eq!(charged(&engine), 2 * 110);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Any order of beginnings and ends, hedges among them, leaves nothing in flight and charges each request once.
    #[test]
    fn nothing_stays_in_flight_and_each_request_pays_once(
        steps in prop::collection::vec((0u8..6, any::<prop::sample::Index>()), 1..120)
    ) {
        let engine = engine(HEDGED);
        // Attempts of a request, the first of which pays unless another wins.
        let mut open: Vec<Vec<Forward>> = Vec::new();
        let (mut requests, mut tokens) = (0u64, 0u64);
        let usage = Some(Usage { input: 100, cached: 0, output: 50 });
        let mut now = 0;
        for (step, which) in steps {
            now += 20;
            if step < 2 || open.is_empty() {
                if let Decision::Forward(way) = engine.decide(&ask(), at(now)) {
                    open.push(vec![way]);
                }
                continue;
            }
            let at_once = which.index(open.len());
            match step {
                2 | 3 => {
                    let ways = &mut open[at_once];
                    if let Some(second) = ways[0].hedge(at(now)) {
                        ways.push(second);
                    }
                }
                4 => {
                    // One of them wins.
                    let mut ways = open.swap_remove(at_once);
                    let winner = ways.swap_remove(which.index(ways.len()));
                    ways.into_iter().for_each(|way| way.overtaken(at(now)));
                    winner.finish(at(now), &End { usage, ..End::of(Outcome::Success) });
                    (requests, tokens) = (requests + 1, tokens + 150);
                }
                _ => {
                    // The client goes away: each attempt counts as a request, and one pays for the prompt.
                    requests += open.swap_remove(at_once).len() as u64;
                    tokens += 100;
                }
            }
        }
        for ways in open {
            (requests, tokens) = (requests + ways.len() as u64, tokens + 100);
        }
        let (charged, used, in_flight) = levels(&engine, at(now));
        prop_assert_eq!((charged, used, in_flight), (requests, tokens, 0));
    }
}
