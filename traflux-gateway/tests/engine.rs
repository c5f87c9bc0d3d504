//! The whole way of a request: rule, pick, room, limits, queue, settlement.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::time::Duration;

use traflux_core::Timestamp;
use traflux_core::plan::requests::RequestPlan;
use traflux_gateway::Outcome;
use traflux_gateway::congestion::{ConcurrencyPlan, LoadReport};
use traflux_gateway::observe::Format;
use traflux_gateway::{
    Client, Decision, End, Engine, EngineSettings, Forward, QueuePlan, Reason, Refusal, Request,
    TokenEstimate, Usage,
};

fn at(seconds: f64) -> Timestamp {
    Timestamp::from_secs_f64(1_000.0 + seconds)
}

fn plan(json: &str) -> RequestPlan {
    serde_json::from_str(json).unwrap()
}

fn engine(json: &str, settings: &EngineSettings) -> Engine {
    Engine::new(&plan(json), settings, at(0.0)).unwrap()
}

fn engine_of(plan: &RequestPlan) -> Engine {
    Engine::new(plan, &EngineSettings::default(), at(0.0)).unwrap()
}

/// A plan with so much room at each backend.
fn with_room(json: &str, concurrency: ConcurrencyPlan) -> RequestPlan {
    let mut plan = plan(json);
    plan.congestion.concurrency = Some(concurrency);
    plan
}

#[track_caller]
fn forward(decision: Decision) -> Forward {
    match decision {
        Decision::Forward(forward) => forward,
        other => panic!("{other:?}"),
    }
}

#[track_caller]
fn refusal(decision: Decision) -> Refusal {
    match decision {
        Decision::Refuse(refusal) => refusal,
        other => panic!("{other:?}"),
    }
}

fn success(input: u64, output: u64) -> End<'static> {
    End { usage: Some(Usage { input, cached: 0, output }), ..End::of(Outcome::Success) }
}

const TWO: &str = r#"{
    "backends": {"a": {"url": "http://127.0.0.1:1"}, "b": {"url": "http://127.0.0.1:2"}},
    "routing": {"rules": [
        {"name": "gold", "match": {"user_tier": "gold"}, "route": {"backend": "a"}},
        {"name": "chat", "match": {"path": "/v1/chat"},
         "route": {"backend": [{"name": "a", "weight": 3}, "b"], "algorithm": "round-robin"}}
    ]},
    "limits": [{"name": "tpm", "unit": "tokens", "amount": 1000, "by": "tenant"}]
}"#;

fn chat(tenant: &str, input: u64, output: u64) -> Request<'_> {
    Request {
        method: "POST",
        path: "/v1/chat/completions",
        client: Client { tenant, ..Client::default() },
        tokens: TokenEstimate { input, output },
        ..Request::default()
    }
}

#[test]
fn the_rule_decides_where_and_weights_how_often() {
    let engine = engine(TWO, &EngineSettings::default());
    let mut picks: BTreeMap<String, u32> = BTreeMap::new();
    for _ in 0..40 {
        let forward = forward(engine.decide(&chat("t", 0, 0), at(0.0)));
        assert_eq!(forward.rule(), "chat");
        *picks.entry(forward.backend().to_owned()).or_default() += 1;
        forward.finish(at(0.1), &success(0, 0));
    }
    assert_eq!(picks, BTreeMap::from([("a".into(), 30), ("b".into(), 10)]));
    let gold = Request { client: Client { user_tier: "gold", ..Client::default() }, ..Request::default() };
    let forward = forward(engine.decide(&gold, at(0.0)));
    assert_eq!((forward.rule(), forward.backend(), forward.url()), ("gold", "a", "http://127.0.0.1:1"));
}

#[test]
fn without_rule_or_default_the_answer_is_404() {
    let engine = engine(TWO, &EngineSettings::default());
    let refusal = refusal(engine.decide(&Request { path: "/other", ..Request::default() }, at(0.0)));
    assert_eq!((refusal.reason, refusal.reason.status()), (Reason::NoRoute, 404));
}

#[test]
fn tokens_are_reserved_by_estimate_and_settled_by_use() {
    let engine = engine(TWO, &EngineSettings::default());
    let first = forward(engine.decide(&chat("t", 100, 800), at(0.0)));
    // 900 of 1000 are reserved.
    let second = refusal(engine.decide(&chat("t", 100, 100), at(0.0)));
    assert_eq!((second.reason, second.limit.as_deref()), (Reason::Limited, Some("tpm")));
    // 100 tokens too many come back at 1000 a minute.
    let wait = second.retry_after.unwrap();
    assert!(wait >= Duration::from_secs(6) && wait < Duration::from_micros(6_000_001), "{wait:?}");
    // Another tenant has a level of its own.
    let other = forward(engine.decide(&chat("u", 100, 800), at(0.0)));
    first.finish(at(0.0), &success(100, 50));
    // 150 are used: 850 are left.
    let third = forward(engine.decide(&chat("t", 100, 750), at(0.0)));
    assert_eq!(refusal(engine.decide(&chat("t", 1, 0), at(0.0))).reason, Reason::Limited);
    third.finish(at(0.0), &End::of(Outcome::ConnectFailure));
    drop(other);
    // What was never sent used nothing.
    assert!(matches!(engine.decide(&chat("t", 100, 750), at(0.0)), Decision::Forward(_)));
    assert_eq!(refusal(engine.decide(&chat("t", 2000, 0), at(0.0))).reason, Reason::TooLarge);
}

#[test]
fn a_level_of_dollars_is_told_in_dollars() {
    let json = r#"{"backends": {"a": {"url": "http://127.0.0.1:1"}}, "routing": {"default": {"backend": "a"}},
        "limits": [{"name": "spend", "unit": "dollars", "amount": 0.25}, {"name": "rpm", "unit": "requests", "amount": 60}]}"#;
    let engine = engine(json, &EngineSettings::default());
    let shown = engine.explain(&Request::default(), at(0.0)).to_string();
    assert!(shown.ends_with("limit spend: $0.25 of $0.25 left\nlimit rpm: 60 of 60 left\n"), "{shown}");
}

#[test]
fn a_forward_that_is_dropped_gives_back_what_its_answer_might_have_taken() {
    let engine = engine(TWO, &EngineSettings::default());
    for _ in 0..100 {
        drop(forward(engine.decide(&chat("t", 0, 1000), at(0.0))));
    }
}

#[test]
fn a_retry_goes_elsewhere_and_ends_after_the_first_byte() {
    let engine = engine(TWO, &EngineSettings::default());
    let first = forward(engine.decide(&chat("t", 1, 1), at(0.0)));
    let was = first.backend().to_owned();
    let mut second = forward(first.retry(at(0.1), &End::of(Outcome::GatewayError)));
    assert_ne!(second.backend(), was);
    assert_eq!(second.attempt(), 2);
    second.first_byte(at(0.2));
    assert_eq!(refusal(second.retry(at(0.3), &End::of(Outcome::Reset))).reason, Reason::Exhausted);
}

#[test]
fn a_refusal_for_capacity_cools_the_backend_down_and_the_fallback_serves() {
    let json = r#"{"routing": {"default": {"backend": "a", "fallback": "b"}}}"#;
    let engine = engine(json, &EngineSettings::default());
    let first = forward(engine.decide(&Request::default(), at(0.0)));
    assert_eq!(first.backend(), "a");
    first.finish(at(0.0), &End::of(Outcome::Limited));
    let second = forward(engine.decide(&Request::default(), at(0.0)));
    assert_eq!(second.backend(), "b");
}

fn one_at_a_time(queue: bool) -> Engine {
    let mut plan = with_room(r#"{"routing": {"default": {"backend": "a"}}}"#, ConcurrencyPlan::fixed(1));
    if !queue {
        plan.queue = QueuePlan::none();
    }
    engine_of(&plan)
}

#[test]
fn without_a_queue_a_full_backend_refuses_and_with_one_requests_wait_their_turn() {
    let engine = one_at_a_time(false);
    let _held = forward(engine.decide(&Request::default(), at(0.0)));
    assert_eq!(refusal(engine.decide(&Request::default(), at(0.0))).reason, Reason::Saturated);

    let engine = one_at_a_time(true);
    let held = forward(engine.decide(&chat("t", 1, 1), at(0.0)));
    let Decision::Wait(first) = engine.decide(&chat("t", 1, 1), at(0.0)) else { panic!() };
    let Decision::Wait(second) = engine.decide(&chat("t", 1, 1), at(0.0)) else { panic!() };
    assert_eq!((first.outlook().position, second.outlook().position), (0, 1));
    assert!(engine.take_ready().is_none());
    held.finish(at(1.0), &success(1, 1));
    let (ticket, decision) = engine.take_ready().unwrap();
    assert_eq!(ticket, first.ticket());
    assert!(engine.take_ready().is_none());
    // The client of the second goes away, that of the first is served.
    drop(second);
    forward(decision).finish(at(2.0), &success(1, 1));
    assert!(engine.take_ready().is_none());
    assert!(matches!(engine.decide(&Request::default(), at(2.0)), Decision::Forward(_)));
}

#[test]
fn who_waits_too_long_is_told_so() {
    let engine = one_at_a_time(true);
    let _held = forward(engine.decide(&chat("t", 1, 1), at(0.0)));
    let Decision::Wait(waiting) = engine.decide(&chat("t", 1, 1), at(0.0)) else { panic!() };
    engine.upkeep(at(3600.0));
    let (ticket, decision) = engine.take_ready().unwrap();
    assert_eq!(ticket, waiting.ticket());
    assert!(matches!(refusal(decision).reason, Reason::Dropped(_)));
}

#[test]
fn a_reload_keeps_levels_and_what_is_in_flight() {
    let engine = engine(TWO, &EngineSettings::default());
    let held = forward(engine.decide(&chat("t", 500, 500), at(0.0)));
    let more = TWO.replace("1000", "1200").replace("\"chat\"", "\"talk\"");
    engine.reload(&plan(&more), &EngineSettings::default(), at(0.0)).unwrap();
    let next = forward(engine.decide(&chat("t", 100, 100), at(0.0)));
    assert_eq!(next.rule(), "talk");
    assert_eq!(refusal(engine.decide(&chat("t", 1, 0), at(0.0))).reason, Reason::Limited);
    held.finish(at(0.0), &success(0, 0));
    assert!(matches!(engine.decide(&chat("t", 900, 100), at(0.0)), Decision::Forward(_)));
}

#[test]
fn an_explanation_names_rules_candidates_and_limits_and_changes_nothing() {
    let engine = engine(TWO, &EngineSettings::default());
    for _ in 0..3 {
        let explained = engine.explain(&chat("t", 900, 100), at(0.0));
        assert_eq!(explained.rules.len(), 2);
        assert!(explained.rules[0].mismatch.is_some() && explained.rules[1].mismatch.is_none());
        assert_eq!(explained.candidates.len(), 2);
        assert_eq!(explained.limits[0].level.map(|l| l.remaining), Some(1000));
        let text = explained.to_string();
        assert!(text.contains("rule gold: user tier is one of `gold` does not hold: found ``"), "{text}");
    }
}

#[test]
fn what_is_turned_away_at_the_door_is_counted_and_an_explanation_of_it_is_not() {
    let engine = engine(TWO, &EngineSettings::default());
    let nowhere = Request { path: "/nowhere", ..chat("t", 1, 1) };
    let counted = || {
        let text = engine.scrape(at(0.0), Format::OpenMetrics);
        let line = text.lines().find(|line| line.contains("reason=\"no_route\""));
        line.and_then(|line| line.rsplit(' ').next()).map_or(0.0, |count| count.parse::<f64>().unwrap())
    };
    let explained = engine.explain(&nowhere, at(0.0));
    assert_eq!(explained.refusal.map(|refusal| refusal.reason), Some(Reason::NoRoute));
    assert_eq!(counted(), 0.0);
    assert_eq!(refusal(engine.decide(&nowhere, at(0.0))).reason, Reason::NoRoute);
    assert_eq!(counted(), 1.0);
}

#[test]
fn equal_seeds_and_calls_give_equal_decisions() {
    let json = TWO.replace("round-robin", "weighted");
    let run = |seed| {
        let engine = engine(&json, &EngineSettings { seed, ..EngineSettings::default() });
        (0..200)
            .map(|step| {
                let forward = forward(engine.decide(&chat("t", 0, 0), at(f64::from(step) * 0.01)));
                let backend = forward.backend().to_owned();
                forward.finish(at(f64::from(step) * 0.01 + 0.005), &success(0, 0));
                backend
            })
            .collect::<Vec<_>>()
    };
    assert_eq!(run(7), run(7));
    assert_ne!(run(7), run(8));
}

#[test]
fn a_model_goes_only_where_it_is_served() {
    let json = r#"{
        "backends": {"a": {"models": {"small": {}}}, "b": {"models": {"small": {}, "large": {}}}},
        "routing": {"default": {"backend": ["a", "b"], "algorithm": "round-robin"}}
    }"#;
    let engine = engine(json, &EngineSettings::default());
    for _ in 0..10 {
        let forward = forward(engine.decide(&Request { model: "large", ..Request::default() }, at(0.0)));
        assert_eq!(forward.backend(), "b");
    }
    let unknown = Request { model: "huge", ..Request::default() };
    assert_eq!(refusal(engine.decide(&unknown, at(0.0))).reason, Reason::NoModel);
}

#[test]
fn a_backend_that_fails_is_left_out_and_comes_back() {
    let json = r#"{"routing": {"default": {"backend": ["a", "b"], "algorithm": "round-robin"}}}"#;
    let engine = engine(json, &EngineSettings::default());
    let ask = |now: f64, broken: bool| {
        let forward = forward(engine.decide(&Request::default(), at(now)));
        let backend = forward.backend().to_owned();
        let outcome = if broken && backend == "a" { Outcome::ServerError } else { Outcome::Success };
        forward.finish(at(now + 0.01), &End::of(outcome));
        backend
    };
    let count = |from: f64, broken: bool| {
        let asked: Vec<String> = (0..100).map(|step| ask(from + f64::from(step) * 0.1, broken)).collect();
        asked.iter().filter(|backend| *backend == "a").count()
    };
    let during = count(0.0, true);
    assert!(during < 20, "{during} of 100 went to the broken one");
    for second in 0..120 {
        engine.upkeep(at(20.0 + f64::from(second)));
        ask(20.0 + f64::from(second), false);
    }
    let after = count(150.0, false);
    assert!((40..=60).contains(&after), "{after} of 100 after it works again");
}

#[test]
fn metrics_say_how_many_keys_of_a_limit_are_near_its_end() {
    let json = r#"{
        "routing": {"default": {"backend": "a"}},
        "limits": [{"name": "tpm", "unit": "tokens", "amount": 1000, "by": "tenant", "overrides": {"large": 2000}}]
    }"#;
    let engine = engine(json, &EngineSettings::default());
    // 100, 600, 900 and 1000 of 1000, and one with a limit of its own.
    for (tenant, tokens) in [("a", 100), ("b", 600), ("c", 900), ("d", 1000), ("large", 500)] {
        let forward = forward(engine.decide(&chat(tenant, tokens, 0), at(0.0)));
        forward.finish(at(0.0), &success(tokens, 0));
    }
    let text = engine.scrape(at(0.0), traflux_gateway::observe::Format::Prometheus);
    for line in [
        r#"traflux_gateway_limiter_keys{limiter="tpm",unit="tokens",above="0"} 4"#,
        r#"traflux_gateway_limiter_keys{limiter="tpm",unit="tokens",above="0.5"} 3"#,
        r#"traflux_gateway_limiter_keys{limiter="tpm",unit="tokens",above="0.8"} 2"#,
        r#"traflux_gateway_limiter_keys{limiter="tpm",unit="tokens",above="0.95"} 1"#,
        r#"traflux_gateway_limiter_fullest_key_ratio{limiter="tpm",unit="tokens"} 1"#,
        r#"traflux_gateway_limiter_used{limiter="tpm of large",unit="tokens"} 500"#,
    ] {
        assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
    }
    assert_eq!(text.matches("traflux_gateway_limiter_keys{").count(), 4, "however many keys there are");
    // A minute later all has flowed back.
    let text = engine.scrape(at(61.0), traflux_gateway::observe::Format::Prometheus);
    assert!(text.contains(r#"limiter_keys{limiter="tpm",unit="tokens",above="0"} 0"#), "{text}");
}

#[test]
fn metrics_say_what_happened() {
    let engine = engine(TWO, &EngineSettings::default());
    for _ in 0..4 {
        let forward = forward(engine.decide(&chat("acme", 10, 20), at(0.0)));
        forward.finish(at(0.5), &success(10, 5));
    }
    let _ = engine.decide(&Request { path: "/nowhere", ..Request::default() }, at(1.0));
    let text = engine.scrape(at(1.0), traflux_gateway::observe::Format::Prometheus);
    for line in [
        r#"traflux_gateway_requests_total{backend="a",model="",outcome="success"} 3"#,
        r#"traflux_gateway_output_tokens_total{backend="b",model=""} 5"#,
        r#"traflux_gateway_decisions_total{rule="chat",algorithm="round-robin",reason="forwarded"} 4"#,
        r#"traflux_gateway_decisions_total{rule="none",algorithm="none",reason="no_route"} 1"#,
        r#"traflux_gateway_picks_total{rule="chat",backend="a"} 3"#,
        r#"traflux_gateway_tenant_tokens_total{tenant="acme"} 60"#,
        r#"traflux_gateway_plan_share_ratio{rule="chat",backend="a"} 0.75"#,
    ] {
        assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
    }
}

/// Who gets how many of 1000 requests, of which those to `slow` take ten times as long as others.
fn picks(engine: &Engine, start: f64, slow: &str) -> BTreeMap<String, u32> {
    let mut picks = BTreeMap::new();
    for step in 0..1000 {
        let now = start + f64::from(step) * 0.001;
        let forward = forward(engine.decide(&Request::default(), at(now)));
        let backend = forward.backend().to_owned();
        let latency = if backend == slow { 0.5 } else { 0.05 };
        *picks.entry(format!("{backend} {}", forward.url())).or_default() += 1;
        forward.finish(at(now + latency), &success(0, 0));
    }
    picks
}

#[test]
fn weights_of_a_controller_are_shares_of_requests_while_they_are_fresh() {
    let json = r#"{"routing": {"rules": [{"name": "all", "route": {"backend": ["a", "b"]}}]}}"#;
    let engine = engine(json, &EngineSettings::default());
    engine.set_weights(at(0.0), "all", &[("a", 9000), ("b", 1000)]).unwrap();
    let text = engine.scrape(at(0.0), traflux_gateway::observe::Format::Prometheus);
    assert!(text.contains(r#"traflux_gateway_plan_share_ratio{rule="all",backend="a"} 0.9"#), "{text}");
    let nine_in_ten = BTreeMap::from([("a ".to_owned(), 900), ("b ".to_owned(), 100)]);
    assert_eq!(picks(&engine, 0.0, "a"), nine_in_ten, "however slow it is");
    // A reload makes new pools, for which the weights still count.
    engine.reload(&plan(json), &EngineSettings::default(), at(2.0)).unwrap();
    assert_eq!(picks(&engine, 2.0, "a"), nine_in_ten);
    for second in 20..40 {
        engine.upkeep(at(f64::from(second)));
    }
    let later = picks(&engine, 40.0, "a");
    assert!(later["a "] < 300, "30 s later the engine goes by what it observes: {later:?}");
}

#[test]
fn a_backends_weight_is_that_of_its_endpoints_together_and_goes_before_tiers() {
    let json = r#"{
        "backends": {
            "a": {"url": [{"url": "http://a1", "weight": 2}, "http://a2", {"url": "http://a3", "tier": 1}]},
            "b": {"url": {"url": "http://b1", "tier": 1}}
        },
        "routing": {"default": {"backend": ["a", "b"]}}
    }"#;
    let engine = engine(json, &EngineSettings::default());
    engine.set_weights(at(0.0), "default", &[("a", 6000), ("b", 4000)]).unwrap();
    let expected = [("a http://a1", 400), ("a http://a2", 200), ("b http://b1", 400)];
    let expected: BTreeMap<String, u32> = expected.map(|(name, count)| (name.to_owned(), count)).into();
    assert_eq!(picks(&engine, 0.0, ""), expected);
    // Weight 0 in a higher tier: it stands by.
    engine.set_weights(at(2.0), "default", &[("a", 10_000), ("b", 0)]).unwrap();
    let alone = picks(&engine, 2.0, "");
    assert_eq!(alone.keys().collect::<Vec<_>>(), ["a http://a1", "a http://a2"], "{alone:?}");
}

#[test]
fn weights_for_a_rule_or_backend_that_there_is_not_are_refused_and_set_nothing() {
    let json = r#"{"routing": {"rules": [{"name": "all", "route": {"backend": ["a", "b"]}}], "default": {"backend": "c"}}}"#;
    let engine = engine(json, &EngineSettings::default());
    let refused = |rule, weights| engine.set_weights(at(0.0), rule, weights).unwrap_err();
    let rule = refused("al", &[("a", 1), ("b", 9)]);
    assert_eq!(
        (rule.code(), rule.to_string().as_str()),
        ("gateway_setting", "`rule` is `al`, expected one of all, default")
    );
    let backend = refused("all", &[("a", 9000), ("c", 1000)]);
    assert_eq!(backend.code(), "gateway_setting");
    assert_eq!(backend.to_string(), "`weights of all` is for `c`, expected backends of the rule: a, b");
    let text = engine.scrape(at(0.0), traflux_gateway::observe::Format::Prometheus);
    assert!(text.contains(r#"traflux_gateway_plan_share_ratio{rule="all",backend="a"} 0.5"#), "{text}");
}

#[test]
fn readings_say_who_is_busy_and_who_is_ejected() {
    let json = r#"{"routing": {"default": {"backend": ["a", "b"], "algorithm": "round-robin"}}}"#;
    let engine = engine(json, &EngineSettings::default());
    let held = forward(engine.decide(&Request::default(), at(0.0)));
    let busy = held.backend().to_owned();
    let readings = engine.readings(at(0.0));
    assert_eq!((readings[busy.as_str()].in_flight, readings[busy.as_str()].ejected), (1, false));
    held.finish(at(0.1), &success(1, 1));
    for step in 0..40 {
        let now = f64::from(step) * 0.01;
        let forward = forward(engine.decide(&Request::default(), at(now)));
        let outcome = if forward.backend() == "b" { Outcome::Reset } else { Outcome::Success };
        forward.finish(at(now), &End::of(outcome));
    }
    let readings = engine.readings(at(0.5));
    assert!(readings["b"].ejected && !readings["a"].ejected, "{readings:?}");
}

#[test]
fn the_budget_of_retries_holds_when_everything_fails() {
    let json = r#"{"routing": {"default": {"backend": ["a", "b", "c", "d"]}}}"#;
    let engine = engine(json, &EngineSettings::default());
    let mut retries = 0;
    for step in 0..500 {
        let now = at(f64::from(step) * 0.002);
        let Decision::Forward(first) = engine.decide(&Request::default(), now) else { continue };
        if let Decision::Forward(second) = first.retry(now, &End::of(Outcome::GatewayError)) {
            retries += 1;
            second.finish(now, &End::of(Outcome::GatewayError));
        }
    }
    // A fifth of 500 requests, and one a second for ten seconds besides.
    assert!(retries <= 110, "{retries} retries");
}

#[test]
fn a_request_of_a_lower_band_waits_on_when_only_a_better_one_would_fit() {
    // Two places, of which the batch band may fill one.
    let room = ConcurrencyPlan { band_shares: vec![1.0, 1.0, 0.5], ..ConcurrencyPlan::fixed(2) };
    let engine = engine_of(&with_room(r#"{"routing": {"default": {"backend": "a"}}}"#, room));
    let batch = Request { kind: "batch", ..chat("t", 1, 1) };
    let first = forward(engine.decide(&batch, at(0.0)));
    let Decision::Wait(waiting) = engine.decide(&batch, at(0.0)) else { panic!() };
    engine.upkeep(at(1.0));
    assert!(engine.take_ready().is_none(), "it still waits");
    assert!(waiting.outlook_now(at(1.0)).is_some());
    first.finish(at(2.0), &success(1, 1));
    let (ticket, decision) = engine.take_ready().unwrap();
    assert_eq!(ticket, waiting.ticket());
    forward(decision).finish(at(3.0), &success(1, 1));
}

#[test]
fn who_waits_goes_on_after_a_reload_that_no_longer_knows_the_backend() {
    let plan = |json| with_room(json, ConcurrencyPlan::fixed(1));
    let engine = engine_of(&plan(r#"{"routing": {"default": {"backend": "a"}}}"#));
    let held = forward(engine.decide(&chat("t", 1, 1), at(0.0)));
    let Decision::Wait(waiting) = engine.decide(&chat("t", 1, 1), at(0.0)) else { panic!() };
    let next = plan(r#"{"routing": {"default": {"backend": "b"}}}"#);
    engine.reload(&next, &EngineSettings::default(), at(0.5)).unwrap();
    assert_eq!(forward(engine.decide(&chat("t", 1, 1), at(0.5))).backend(), "b");
    held.finish(at(1.0), &success(1, 1));
    let (ticket, decision) = engine.take_ready().unwrap();
    assert_eq!((ticket, forward(decision).backend()), (waiting.ticket(), "a"));
}

#[test]
fn many_threads_leave_nothing_in_flight() {
    let engine = engine_of(&with_room(TWO, ConcurrencyPlan::fixed(4)));
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let engine = &engine;
            scope.spawn(move || {
                for step in 0..500 {
                    let now = at(f64::from(step) * 0.01);
                    match engine.decide(&chat("t", 1, 1), now) {
                        Decision::Forward(forward) if (step + thread) % 3 == 0 => drop(forward),
                        Decision::Forward(mut forward) => {
                            forward.first_byte(now);
                            forward.finish(now, &success(1, 1));
                        }
                        Decision::Wait(waiting) => drop(waiting),
                        Decision::Later(_) | Decision::Refuse(_) => {}
                    }
                    while let Some((_, decision)) = engine.take_ready() {
                        drop(decision);
                    }
                }
            });
        }
    });
    while engine.take_ready().is_some() {}
    let text = engine.scrape(at(100.0), traflux_gateway::observe::Format::Prometheus);
    for line in text.lines().filter(|line| line.starts_with("traflux_gateway_in_flight_requests{")) {
        assert!(line.ends_with(" 0"), "{line}");
    }
    let explained = engine.explain(&chat("t", 1, 1), at(1000.0));
    assert_eq!(explained.limits[0].level.map(|level| level.used), Some(0));
}

#[test]
fn a_plan_says_how_often_to_try_what_ejects_and_where_sessions_stay() {
    let json = r#"{
        "routing": {"default": {"backend": ["a", "b", "c", "d"], "algorithm": "weighted"}},
        "retry": {"max_attempts": 1},
        "affinity": {"key": "user", "ttl_ms": 60000},
        "congestion": {"concurrency": {"algorithm": {"kind": "fixed"}, "initial": 1, "min": 1, "max": 1}}
    }"#;
    let engine = engine(json, &EngineSettings::default());
    let user = |user| Request { client: Client { user, ..Client::default() }, ..Request::default() };
    let first = forward(engine.decide(&user("ann"), at(0.0)));
    let home = first.backend().to_owned();
    first.finish(at(0.1), &success(0, 0));
    for step in 1..20 {
        let again = forward(engine.decide(&user("ann"), at(f64::from(step))));
        assert_eq!(again.backend(), home);
        again.finish(at(f64::from(step) + 0.1), &success(0, 0));
    }
    let only = forward(engine.decide(&user("ann"), at(30.0)));
    assert_eq!(refusal(only.retry(at(30.1), &End::of(Outcome::ConnectFailure))).reason, Reason::Exhausted);
    let held: Vec<_> = (0..4).map(|_| forward(engine.decide(&user("bob"), at(31.0)))).collect();
    assert!(matches!(engine.decide(&user("bob"), at(31.0)), Decision::Wait(_)));
    drop(held);

    let wrong = plan(r#"{"retry": {"max_attempts": 0}}"#);
    let error = Engine::new(&wrong, &EngineSettings::default(), at(0.0)).unwrap_err();
    assert_eq!(error.to_string(), "retry.max_attempts: 0, expected 1 to 100");
}

#[test]
fn clients_whose_names_contain_slashes_do_not_share_a_key() {
    let engine = engine(
        r#"{"backends": {"a": {}}, "routing": {"default": {"backend": "a"}},
            "limits": [{"name": "once", "unit": "requests", "amount": 1, "by": ["tenant", "user"],
                        "overrides": {"a\\/b/c/d": 2}}]}"#,
        &EngineSettings::default(),
    );
    let of = |tenant, user| {
        let request = Request { client: Client { tenant, user, ..Client::default() }, ..Request::default() };
        engine.decide(&request, at(0.0))
    };
    for (tenant, user) in [("a", "b/c"), ("a/b", "c"), ("a\\/b", "c"), ("a/b", "c/d"), ("a/b", "c/d")] {
        forward(of(tenant, user)).finish(at(0.0), &success(0, 0));
    }
    for (tenant, user) in [("a", "b/c"), ("a/b", "c"), ("a\\/b", "c"), ("a/b", "c/d")] {
        assert_eq!(refusal(of(tenant, user)).reason, Reason::Limited, "{tenant} {user}");
    }
}

#[test]
fn levels_of_persistent_limits_come_back_in_another_engine() {
    let text = r#"{"backends": {"a": {}}, "routing": {"default": {"backend": "a"}}, "limits": [
        {"name": "day", "unit": "tokens", "amount": 100, "period_ms": 86400000, "by": "tenant", "persistent": true,
         "overrides": {"big": 500}},
        {"name": "minute", "unit": "tokens", "amount": 1000}]}"#;
    let before = engine(text, &EngineSettings::default());
    for tenant in ["small", "big"] {
        forward(before.decide(&chat(tenant, 60, 0), at(0.0))).finish(at(0.0), &success(60, 0));
    }
    let levels = before.levels(at(0.0));
    let kept: Vec<_> = levels.levels.iter().map(|l| (&*l.limit, l.key.as_deref().unwrap(), l.used)).collect();
    assert_eq!(kept, [("day", "big", 60), ("day", "small", 60)]);
    let after = engine(text, &EngineSettings::default());
    assert_eq!(after.restore(at(0.0), &levels), 0);
    assert_eq!(refusal(after.decide(&chat("small", 60, 0), at(0.0))).reason, Reason::Limited);
    forward(after.decide(&chat("big", 440, 0), at(0.0))).finish(at(0.0), &success(440, 0));
    assert_eq!(refusal(after.decide(&chat("big", 1, 0), at(0.0))).reason, Reason::Limited);
}

#[test]
fn a_request_goes_only_where_the_context_of_its_model_is_long_enough() {
    let json = r#"{
        "backends": {
            "short": {"models": {"m": {"context_tokens": 1000}}},
            "long": {"models": {"m": {"context_tokens": 8000}}},
            "open": {"models": {"m": {}, "other": {}}}},
        "routing": {"rules": [
            {"name": "two", "match": {"tenant": "two"}, "route": {"backend": ["short", "long"], "algorithm": "round-robin"}},
            {"name": "on", "match": {"tenant": "on"},
             "route": {"backend": "short", "fallback": {"backend": "open", "on": ["context"]}}}]}
    }"#;
    let engine = engine(json, &EngineSettings::default());
    let ask = |tenant, input, max_answer| Request { model: "m", max_answer, ..chat(tenant, input, 4096) };
    let backends = |tenant, input, max_answer| {
        let way = |_| forward(engine.decide(&ask(tenant, input, max_answer), at(0.0))).backend().to_owned();
        (0..10).map(way).collect::<std::collections::BTreeSet<_>>().into_iter().collect::<Vec<_>>()
    };
    // What an answer may take counts only where the request says so.
    assert_eq!(backends("two", 1000, None), ["long", "short"]);
    assert_eq!(backends("two", 900, Some(100)), ["long", "short"]);
    assert_eq!(backends("two", 900, Some(101)), ["long"]);
    assert_eq!(backends("two", 8000, None), ["long"]);
    let refused = refusal(engine.decide(&ask("two", 8001, None), at(0.0)));
    assert_eq!((refused.reason, refused.reason.status()), (Reason::ContextExceeded, 413));
    assert_eq!(refused.reason.code(), "context_exceeded");
    // One that takes only what is too long for those before it takes nothing else.
    assert_eq!(backends("on", 1000, None), ["short"]);
    assert_eq!(backends("on", 1001, None), ["open"]);
    let unknown = Request { model: "other", ..chat("two", 1, 1) };
    assert_eq!(refusal(engine.decide(&unknown, at(0.0))).reason, Reason::NoModel);

    let explained = engine.explain(&ask("two", 2000, None), at(0.0));
    let fits: Vec<_> = explained.candidates.iter().map(|one| (one.backend.as_str(), one.fits)).collect();
    assert_eq!(fits, [("short", false), ("long", true)]);
    assert!(explained.refusal.is_none());
    assert!(explained.to_string().contains("too small with 1000 tokens"), "{explained}");
    let explained = engine.explain(&ask("two", 9000, None), at(0.0));
    assert_eq!(explained.refusal.map(|refusal| refusal.reason), Some(Reason::ContextExceeded));
}

#[test]
fn a_backend_that_is_ill_is_ill_for_long_requests_too() {
    let json = r#"{
        "backends": {
            "short": {"models": {"m": {"context_tokens": 1000}}},
            "long": {"models": {"m": {"context_tokens": 8000}}},
            "open": {"models": {"m": {}}}},
        "routing": {"default": {"backend": ["short", "long", "open"], "algorithm": "round-robin"}}
    }"#;
    let engine = engine(json, &EngineSettings::default());
    let ask = |input| Request { model: "m", ..chat("t", input, 1) };
    for step in 0..100 {
        let now = at(f64::from(step) * 0.01);
        let way = forward(engine.decide(&ask(1), now));
        let outcome = if way.backend() == "open" { Outcome::ServerError } else { Outcome::Success };
        way.finish(now, &End::of(outcome));
    }
    engine.upkeep(at(1.0));
    for _ in 0..20 {
        let way = forward(engine.decide(&ask(2000), at(1.0)));
        assert_eq!(way.backend(), "long");
        way.finish(at(1.0), &success(1, 1));
    }
}

/// A plan with one place and this queue.
fn queued(queue: &str) -> Engine {
    let json = format!(
        r#"{{"routing": {{"rules": [{{"name": "later", "match": {{"tenant": "later"}}, "route": {{"backend": "a", "band": "slow"}}}},
                                    {{"name": "dear", "match": {{"tenant": "dear"}}, "route": {{"backend": "a", "value": 9}}}}],
                          "default": {{"backend": "a"}}}},
            "queue": {queue}}}"#
    );
    engine_of(&with_room(&json, ConcurrencyPlan::fixed(1)))
}

/// Lets requests wait, in this order, behind one that is under way, and says in which order they are served.
fn served(engine: &Engine, requests: &[(&str, Request<'_>)]) -> Vec<String> {
    let mut held = forward(engine.decide(&chat("first", 1, 1), at(0.0)));
    let mut waiting = std::collections::HashMap::new();
    for (name, request) in requests {
        match engine.decide(request, at(0.0)) {
            Decision::Wait(place) => drop(waiting.insert(place.ticket(), ((*name).to_owned(), place))),
            other => panic!("{name}: {other:?}"),
        }
    }
    let mut order = Vec::new();
    for step in 1..=requests.len() {
        held.finish(at(step as f64 * 1e-3), &success(50, 50));
        let (ticket, decision) = engine.take_ready().unwrap();
        held = forward(decision);
        order.push(waiting.remove(&ticket).unwrap().0);
    }
    held.finish(at(1.0), &success(50, 50));
    order
}

#[test]
fn route_tier_and_kind_choose_the_band_that_a_request_waits_in() {
    let queue = r#"{"bands": [{"name": "best", "user_tier": "gold", "kind": "interactive"}, {"name": "usual"}, {"name": "slow"}]}"#;
    let gold =
        Request { client: Client { tenant: "g", user_tier: "gold", ..Client::default() }, ..chat("g", 1, 1) };
    let requests = [
        ("later", Request { kind: "interactive", ..chat("later", 1, 1) }),
        ("usual", chat("t", 1, 1)),
        ("interactive", Request { kind: "interactive", ..chat("t", 1, 1) }),
        ("gold", gold),
    ];
    let order = served(&queued(queue), &requests);
    assert_eq!(order[2..], ["usual", "later"]);
}

#[test]
fn the_header_and_the_band_give_a_deadline_and_the_earliest_goes_first() {
    let queue = r#"{"bands": [{"name": "usual", "deadline_ms": 20000, "fair": false}, {"name": "slow"}], "deadline_header": "X-Deadline-Ms"}"#;
    let hurried = [("x-deadline-ms", "5000")];
    let nonsense = [("x-deadline-ms", "soon")];
    let requests = [
        ("told", Request { deadline: Some(at(10.0)), ..chat("t", 1, 1) }),
        ("nonsense", Request { headers: &nonsense, ..chat("t", 1, 1) }),
        ("hurried", Request { headers: &hurried, ..chat("t", 1, 1) }),
    ];
    assert_eq!(served(&queued(queue), &requests), ["hurried", "told", "nonsense"]);

    // Nobody is served after the deadline.
    let engine = queued(queue);
    let held = forward(engine.decide(&chat("first", 1, 1), at(0.0)));
    let Decision::Wait(place) = engine.decide(&Request { headers: &hurried, ..chat("t", 1, 1) }, at(0.0))
    else {
        panic!()
    };
    engine.upkeep(at(6.0));
    let (ticket, decision) = engine.take_ready().unwrap();
    assert_eq!(ticket, place.ticket());
    assert_eq!(refusal(decision).reason.code(), "queue_deadline_missed");
    held.finish(at(6.0), &success(1, 1));
}

#[test]
fn what_a_route_is_worth_goes_first_where_the_band_goes_by_value() {
    let queue =
        r#"{"bands": [{"name": "usual", "order": "value_density", "fair": false}, {"name": "slow"}]}"#;
    let requests =
        [("cheap", chat("t", 500, 500)), ("dear", chat("dear", 500, 500)), ("small", chat("t", 20, 20))];
    // Worth per 1000 tokens: 1, 9 and 25.
    assert_eq!(served(&queued(queue), &requests), ["small", "dear", "cheap"]);
}

#[test]
fn tenants_share_the_queue_by_their_weights_and_those_of_their_groups() {
    let queue = r#"{"bands": [{"name": "usual"}, {"name": "slow"}], "quantum_tokens": 100,
        "tenants": {"a": {"weight": 3}, "c": {"group": "g"}, "d": {"group": "g"}}, "groups": {"g": {"weight": 2}}}"#;
    let one = |name: &'static str| (name, chat(name, 50, 50));
    let requests: Vec<_> = (0..24).flat_map(|_| ["a", "b", "c", "d"].map(one)).collect();
    let order = served(&queued(queue), &requests);
    // Of every six: three of `a`, one of `b`, and two of the group, one each.
    let of = |name: &str| order[..36].iter().filter(|served| *served == name).count();
    assert_eq!(["a", "b", "c", "d"].map(of), [18, 6, 6, 6]);
}

#[test]
fn a_request_that_would_hold_too_many_bytes_does_not_wait() {
    let engine = queued(r#"{"bands": [{"name": "usual"}, {"name": "slow"}], "max_bytes": 1000}"#);
    let _held = forward(engine.decide(&chat("t", 1, 1), at(0.0)));
    let refused = refusal(engine.decide(&Request { bytes: 2000, ..chat("t", 1, 1) }, at(0.0)));
    assert_eq!(refused.reason.code(), "queue_too_large");
}

#[test]
fn a_reload_puts_other_settings_of_health_and_congestion_in_force() {
    let json = r#"{"routing": {"default": {"backend": "a"}}, "queue": {"max_waiting": 0}}"#;
    let engine = engine_of(&with_room(json, ConcurrencyPlan::fixed(1)));
    let held = forward(engine.decide(&chat("t", 1, 1), at(0.0)));
    assert_eq!(refusal(engine.decide(&chat("t", 1, 1), at(0.0))).reason, Reason::Saturated);
    let next = with_room(json, ConcurrencyPlan::fixed(2));
    engine.reload(&next, &EngineSettings::default(), at(0.0)).unwrap();
    let both = [(); 2].map(|()| forward(engine.decide(&chat("t", 1, 1), at(0.0))));
    assert_eq!(refusal(engine.decide(&chat("t", 1, 1), at(0.0))).reason, Reason::Saturated);
    held.finish(at(0.1), &success(1, 1));
    both.into_iter().for_each(|way| way.finish(at(0.1), &success(1, 1)));
}

#[test]
fn a_reload_that_is_refused_leaves_nothing_behind() {
    let json = r#"{"backends": {"a": {"url": "http://127.0.0.1:1"}}, "routing": {"default": {"backend": "a"}}, "queue": {"max_waiting": 0}}"#;
    let good = with_room(json, ConcurrencyPlan::fixed(7));
    let engine = engine_of(&good);
    let most = |engine: &Engine| engine.readings(at(1.0))["a"].limit;
    let held = forward(engine.decide(&chat("t", 1, 1), at(0.0)));
    let mut wrong = with_room(json, ConcurrencyPlan::fixed(5));
    wrong.balance.latency.decay *= 2;
    // Found after backends and endpoints were made.
    wrong.limits = plan(
        r#"{"limits": [{"name": "l", "unit": "requests", "amount": 1, "shape": "sliding_window", "max_wait_ms": 5}]}"#,
    )
    .limits;
    assert!(engine.reload(&wrong, &EngineSettings::default(), at(0.1)).is_err());
    assert_eq!((most(&engine), engine.readings(at(1.0))["a"].in_flight), (7, 1));
    // What a backend reports reaches the state that decides.
    let report = LoadReport { waiting: Some(50.0), ..LoadReport::default() };
    engine.report_load(at(0.2), "a", "", report);
    assert_eq!(refusal(engine.decide(&chat("t", 1, 1), at(0.2))).reason, Reason::Saturated);
    engine.reload(&good, &EngineSettings::default(), at(20.0)).unwrap();
    assert_eq!((most(&engine), engine.readings(at(20.0))["a"].in_flight), (7, 1));
    assert_eq!(engine.explain(&chat("t", 1, 1), at(20.0)).candidates[0].in_flight, (1, 7));
    held.finish(at(20.0), &success(1, 1));
    assert_eq!(engine.readings(at(20.0))["a"].in_flight, 0);
}
