//! Limits that count each backend apart.
#![allow(clippy::unwrap_used)]

use traflux_core::Timestamp;
use traflux_core::plan::requests::RequestPlan;
use traflux_gateway::{
    Client, Decision, End, Engine, EngineSettings, Forward, Outcome, Request, TokenEstimate, Usage,
};

fn at(seconds: f64) -> Timestamp {
    Timestamp::from_secs_f64(1_000.0 + seconds)
}

fn engine(by: &str, overrides: &str) -> Engine {
    let plan = format!(
        r#"{{"routing": {{"default": {{"backend": ["a", "b"], "algorithm": "round-robin"}}}}, "queue": {{"max_waiting": 0}},
            "limits": [
                {{"name": "each", "unit": "tokens", "amount": 100, "by": {by}, "overrides": {{{overrides}}}}},
                {{"name": "all", "unit": "requests", "amount": 50}}]}}"#
    );
    let plan: RequestPlan = serde_json::from_str(&plan).unwrap();
    Engine::new(&plan, &EngineSettings::default(), at(0.0)).unwrap()
}

fn ask(tenant: &str) -> Request<'_> {
    let client = Client { tenant, ..Client::default() };
    Request { client, tokens: TokenEstimate { input: 80, output: 0 }, ..Request::default() }
}

#[track_caller]
fn forward(decision: Decision) -> Forward {
    match decision {
        Decision::Forward(forward) => forward,
        other => panic!("{other:?}"),
    }
}

fn used(input: u64) -> End<'static> {
    End { usage: Some(Usage { input, cached: 0, output: 0 }), ..End::of(Outcome::Success) }
}

/// Used and limit by backend.
fn levels(engine: &Engine, tenant: &str) -> Vec<(Option<String>, u64, u64)> {
    let limits = engine.explain(&ask(tenant), at(0.0)).limits;
    let level = |one: traflux_gateway::engine::LimitTrace| {
        let level = one.level.unwrap();
        (one.backend, level.used, level.limit)
    };
    limits.into_iter().map(level).collect()
}

#[test]
fn what_one_backend_may_no_more_another_serves() {
    let engine = engine(r#""backend""#, r#""b": 200"#);
    let (a, b) = (Some("a".to_owned()), Some("b".to_owned()));
    assert_eq!(levels(&engine, "t"), [(None, 0, 50), (a.clone(), 0, 100), (b.clone(), 0, 200)]);
    // One at a and two at b fit, whatever their turn.
    let three = [0; 3].map(|_| forward(engine.decide(&ask("t"), at(0.0))));
    let mut backends = three.each_ref().map(|way| way.backend().to_owned());
    backends.sort();
    assert_eq!(backends, ["a", "b", "b"]);
    assert!(matches!(engine.decide(&ask("t"), at(0.0)), Decision::Refuse(_)), "neither has 80 left");
    assert_eq!(levels(&engine, "t"), [(None, 3, 50), (a.clone(), 80, 100), (b.clone(), 160, 200)]);
    let shown = engine.explain(&ask("t"), at(0.0)).to_string();
    let limits =
        "limit all: 47 of 50 left\nlimit each at a: 20 of 100 left\nlimit each at b: 40 of 200 left\n";
    assert!(shown.ends_with(limits), "{shown}");
    // What was not used comes back where it was charged.
    three.into_iter().filter(|way| way.backend() == "a").for_each(|way| way.finish(at(0.0), &used(10)));
    assert_eq!(levels(&engine, "t")[1..], [(a, 10, 100), (b, 160, 200)]);
    assert_eq!(forward(engine.decide(&ask("t"), at(0.0))).backend(), "a");
}

#[test]
fn each_tenant_has_its_own_at_each_backend() {
    let engine = engine(r#"["tenant", "backend"]"#, r#""t/b": 20"#);
    let way = forward(engine.decide(&ask("t"), at(0.0)));
    assert_eq!(way.backend(), "a", "b is too small for t");
    assert!(matches!(engine.decide(&ask("t"), at(0.0)), Decision::Refuse(_)));
    let others = [0; 2].map(|_| forward(engine.decide(&ask("u"), at(0.0))));
    assert_ne!(others[0].backend(), others[1].backend());
    let backend = |name: &str, used, limit| (Some(name.to_owned()), used, limit);
    assert_eq!(levels(&engine, "t")[1..], [backend("a", 80, 100), backend("b", 0, 20)]);
    assert_eq!(levels(&engine, "u")[1..], [backend("a", 80, 100), backend("b", 80, 100)]);
    way.finish(at(0.0), &used(5));
    assert_eq!(levels(&engine, "t")[1..], [backend("a", 5, 100), backend("b", 0, 20)]);
}
