//! Keys with amounts of their own: what they used stays used when they get or lose one.
#![allow(clippy::unwrap_used)]

use traflux_core::Timestamp;
use traflux_core::plan::requests::RequestPlan;
use traflux_gateway::limit::LimitLevel;
use traflux_gateway::{
    Client, Decision, End, Engine, EngineSettings, Outcome, Request, TokenEstimate, Usage,
};

/// In the middle of a month, so that levels stay for a while.
fn at(seconds: u64) -> Timestamp {
    Timestamp::from_secs_f64(1_000_000.0 + seconds as f64)
}

/// 500 tokens a month for each tenant, and what some have of their own.
fn plan(overrides: &str) -> RequestPlan {
    let plan = format!(
        r#"{{"routing": {{"default": {{"backend": "x"}}}}, "limits": [{{"name": "month", "unit": "tokens", "amount": 500,
            "shape": {{"calendar": "month"}}, "by": "tenant", "persistent": true, "overrides": {{{overrides}}}}}]}}"#
    );
    serde_json::from_str(&plan).unwrap()
}

fn engine(overrides: &str) -> Engine {
    Engine::new(&plan(overrides), &EngineSettings::default(), at(0)).unwrap()
}

fn reload(engine: &Engine, overrides: &str) {
    engine.reload(&plan(overrides), &EngineSettings::default(), at(1)).unwrap();
}

fn ask(tokens: u64) -> Request<'static> {
    let client = Client { tenant: "acme", ..Client::default() };
    Request { client, tokens: TokenEstimate { input: tokens, output: 0 }, ..Request::default() }
}

/// Takes what it asks for, and then says what it used.
fn spend(engine: &Engine, tokens: u64, used: u64) {
    let Decision::Forward(forward) = engine.decide(&ask(tokens), at(0)) else { panic!("refused") };
    let usage = Some(Usage { input: used, cached: 0, output: 0 });
    forward.finish(at(0), &End { usage, ..End::of(Outcome::Success) });
}

/// What acme has used, and of how much.
fn level(engine: &Engine) -> (u64, u64) {
    let LimitLevel { used, limit, .. } = engine.explain(&ask(1), at(1)).limits[0].level.unwrap();
    (used, limit)
}

#[test]
fn a_reload_that_gives_or_takes_an_amount_of_its_own_leaves_what_was_used() {
    let engine = engine("");
    spend(&engine, 480, 480);
    reload(&engine, r#""acme": 1000"#);
    assert_eq!(level(&engine), (480, 1000));
    spend(&engine, 320, 320);
    reload(&engine, r#""acme": 1000, "other": 7"#);
    assert_eq!(level(&engine), (800, 1000));
    reload(&engine, "");
    assert_eq!(level(&engine), (800, 500), "a debt");
    assert!(matches!(engine.decide(&ask(1), at(1)), Decision::Refuse(_)));
    reload(&engine, r#""acme": 2000"#);
    assert_eq!(level(&engine), (800, 2000), "nothing counts twice");
    reload(&engine, "");
    assert_eq!(level(&engine), (800, 500));
}

#[test]
fn a_debt_goes_on_under_an_amount_of_its_own() {
    let engine = engine("");
    spend(&engine, 400, 1_200);
    assert_eq!(level(&engine), (1_200, 500));
    reload(&engine, r#""acme": 1000"#);
    assert_eq!(level(&engine), (1_200, 1000));
    assert!(matches!(engine.decide(&ask(1), at(1)), Decision::Refuse(_)));
}

#[test]
fn a_reload_that_changes_what_is_counted_begins_anew() {
    let engine = engine("");
    spend(&engine, 480, 480);
    let mut other = plan(r#""acme": 1000"#);
    other.limits[0].unit = traflux_core::plan::limit::LimitUnit::OutputTokens;
    engine.reload(&other, &EngineSettings::default(), at(1)).unwrap();
    assert_eq!(level(&engine), (0, 1000));
}

#[test]
fn a_restart_under_another_plan_leaves_what_was_used() {
    // 1,200 of 400 that were asked for: a debt of either amount.
    for used in [480, 1_200] {
        for (before, after) in [("", r#""acme": 1000"#), (r#""acme": 1000"#, ""), ("", "")] {
            let first = engine(before);
            spend(&first, 400, used);
            let second = engine(after);
            assert_eq!(second.restore(at(1), &first.levels(at(1))), 0);
            let amount = if after.is_empty() { 500 } else { 1000 };
            assert_eq!(level(&second), (used, amount), "from {{{before}}} to {{{after}}}");
        }
    }
}

#[test]
fn a_restart_after_a_reload_counts_nothing_twice() {
    let first = engine("");
    spend(&first, 480, 480);
    reload(&first, r#""acme": 1000"#);
    spend(&first, 320, 320);
    let levels = first.levels(at(1));
    assert_eq!(levels.levels.len(), 1);
    for (overrides, amount) in [("", 500), (r#""acme": 1000"#, 1000)] {
        let second = engine(overrides);
        assert_eq!(second.restore(at(1), &levels), 0);
        assert_eq!(level(&second), (800, amount));
    }
}

#[test]
fn a_trial_that_becomes_a_contract_keeps_what_it_used() {
    let plan = |amount: u64, own: u64| -> RequestPlan {
        let plan = format!(
            r#"{{"routing": {{"default": {{"backend": "x"}}}}, "limits": [
                {{"name": "minute", "unit": "tokens", "amount": {amount}, "by": "tenant", "overrides": {{"own": {own}}}}}]}}"#
        );
        serde_json::from_str(&plan).unwrap()
    };
    let engine = Engine::new(&plan(10, 20), &EngineSettings::default(), at(0)).unwrap();
    for tenant in ["acme", "other", "own"] {
        let client = Client { tenant, ..Client::default() };
        let Decision::Forward(forward) = engine.decide(&Request { client, ..ask(8) }, at(0)) else {
            panic!()
        };
        let usage = Some(Usage { input: 50_000, cached: 0, output: 0 });
        forward.finish(at(0), &End { usage, ..End::of(Outcome::Success) });
    }
    for (amount, own) in [(100_000, 1_000_000_000), (1_000_000_000_000, 30), (10, 20)] {
        engine.reload(&plan(amount, own), &EngineSettings::default(), at(0)).unwrap();
        for (tenant, limit) in [("acme", amount), ("other", amount), ("own", own)] {
            let client = Client { tenant, ..Client::default() };
            let level = engine.explain(&Request { client, ..ask(1) }, at(0)).limits[0].level.unwrap();
            assert_eq!(level.limit, limit);
            // Rounded up by less than one at each change.
            assert!((50_000..=50_003).contains(&level.used), "{tenant} {level:?}");
        }
    }
}
