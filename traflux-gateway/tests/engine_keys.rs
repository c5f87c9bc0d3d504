//! How many keys a limit tells apart.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use traflux_core::Timestamp;
use traflux_core::plan::requests::RequestPlan;
use traflux_gateway::{Client, Decision, End, Engine, EngineSettings, Outcome, Reason, Request};

fn at(seconds: u64) -> Timestamp {
    Timestamp::new(Duration::from_secs(1_000 + seconds))
}

fn plan(limits: &str) -> RequestPlan {
    let plan = format!(r#"{{"routing": {{"default": {{"backend": "x"}}}}, "limits": [{limits}]}}"#);
    serde_json::from_str(&plan).unwrap()
}

fn engine(limits: &str) -> Engine {
    Engine::new(&plan(limits), &EngineSettings::default(), at(0)).unwrap()
}

fn ask(engine: &Engine, tenant: &str, now: u64) -> Option<Reason> {
    let client = Client { tenant, ..Client::default() };
    match engine.decide(&Request { client, ..Request::default() }, at(now)) {
        Decision::Forward(forward) => {
            forward.finish(at(now), &End::of(Outcome::Success));
            None
        }
        Decision::Refuse(refusal) => Some(refusal.reason),
        other => panic!("{other:?}"),
    }
}

const ONE_A_MINUTE: &str = r#""unit": "requests", "amount": 1, "by": "tenant""#;

#[test]
fn a_limit_tells_as_many_keys_apart_as_it_says() {
    let engine = engine(&format!(r#"{{"name": "l", {ONE_A_MINUTE}, "max_keys": 2}}"#));
    assert_eq!((ask(&engine, "a", 0), ask(&engine, "b", 0)), (None, None));
    assert_eq!(ask(&engine, "c", 0), Some(Reason::TooManyKeys));
    assert_eq!(ask(&engine, "a", 0), Some(Reason::Limited));
    assert_eq!(ask(&engine, "c", 61), None, "a minute later the others are idle and make room");
}

#[test]
fn limits_of_one_kind_of_key_share_the_largest_number_and_keep_it_until_a_restart() {
    let two = |most: u32| {
        format!(
            r#"{{"name": "l", {ONE_A_MINUTE}, "max_keys": 2}}, {{"name": "m", {ONE_A_MINUTE}, "max_keys": {most}}}"#
        )
    };
    let engine = engine(&two(3));
    let refused = |tenant: &str| ask(&engine, tenant, 0);
    assert_eq!(["a", "b", "c", "d"].map(refused), [None, None, None, Some(Reason::TooManyKeys)]);
    let error = engine.reload(&plan(&two(4)), &EngineSettings::default(), at(1)).unwrap_err();
    assert_eq!(error.to_string(), "`tenant.max_keys` is 4, expected at most what it was at the start");
    // Who asks for fewer, or is alone afterwards, keeps what there is.
    let alone = format!(r#"{{"name": "l", {ONE_A_MINUTE}, "max_keys": 2}}"#);
    engine.reload(&plan(&alone), &EngineSettings::default(), at(1)).unwrap();
    assert_eq!(
        ["a", "b", "c", "d"].map(refused),
        [Reason::Limited, Reason::Limited, Reason::Limited, Reason::TooManyKeys].map(Some)
    );
}

/// One request at a time, so that the second waits, and room to tell apart so many tenants.
fn one_at_a_time(max_tenants: u32) -> RequestPlan {
    let plan = format!(
        r#"{{"routing": {{"default": {{"backend": "x"}}}}, "queue": {{"max_tenants": {max_tenants}}},
            "congestion": {{"concurrency": {{"algorithm": {{"kind": "fixed"}}, "initial": 1, "min": 1, "max": 1}}}}}}"#
    );
    serde_json::from_str(&plan).unwrap()
}

/// Tenants of whom a request waits.
fn waiting(engine: &Engine) -> Vec<Option<String>> {
    let of = |tenant| {
        engine
            .decide(&Request { client: Client { tenant, ..Client::default() }, ..Request::default() }, at(0))
    };
    let _held = of("first");
    let _others = ["late", ""].map(|tenant| {
        let waits = of(tenant);
        assert!(matches!(waits, Decision::Wait(_)), "{waits:?}");
        waits
    });
    let queue = engine.queues(at(0), 10).remove(0);
    let mut tenants: Vec<_> = queue.tenants.into_iter().map(|(tenant, _)| tenant).collect();
    tenants.sort();
    let mut requests: Vec<_> = queue.requests.into_iter().map(|request| request.tenant).collect();
    requests.sort();
    assert_eq!(tenants, requests);
    tenants
}

fn known(engine: &Engine, tenants: u32) {
    (0..tenants).for_each(|ix| assert_eq!(ask(engine, &ix.to_string(), 0), None));
}

#[test]
fn tenants_beyond_those_that_are_told_apart_are_one_that_is_not_the_nameless_one() {
    let (late, nameless) = (Some("late".to_owned()), Some(String::new()));
    let engine = Engine::new(&one_at_a_time(10_000), &EngineSettings::default(), at(0)).unwrap();
    known(&engine, 9_998);
    assert_eq!(waiting(&engine), [None, nameless.clone()], "with the nameless and the first that are all");
    let error =
        engine.reload(&one_at_a_time(10_001), &EngineSettings::default(), at(0)).unwrap_err().to_string();
    assert_eq!(
        error,
        "queue.max_tenants: 10001, expected at most 10000, for which there is room since the start"
    );

    let engine = Engine::new(&one_at_a_time(10_002), &EngineSettings::default(), at(0)).unwrap();
    known(&engine, 9_998);
    assert_eq!(waiting(&engine), [nameless, late]);
    let most = 1 << 20;
    let error = one_at_a_time(most + 1).validate().unwrap_err().to_string();
    assert!(error.contains("max_tenants") && error.contains("2^20"), "{error}");
}

#[test]
fn an_explanation_makes_nobody_known() {
    let engine = Engine::new(&one_at_a_time(10_000), &EngineSettings::default(), at(0)).unwrap();
    for ix in 0..10_000 {
        let tenant = &ix.to_string();
        let client = Client { tenant, ..Client::default() };
        assert!(engine.explain(&Request { client, ..Request::default() }, at(0)).refusal.is_none());
    }
    assert_eq!(waiting(&engine), [Some(String::new()), Some("late".to_owned())]);
}

#[test]
fn a_key_that_is_not_known_is_explained_as_new() {
    let two = format!(
        r#"{{"name": "l", {ONE_A_MINUTE}}}, {{"name": "m", "unit": "tokens", "amount": 70, "shape": "sliding_window",
            "by": ["user", "tenant"], "overrides": {{"u/t": 90}}}}"#
    );
    let engine = engine(&two);
    let levels = |tenant| {
        let client = Client { tenant, user: "u", ..Client::default() };
        let explained = engine.explain(&Request { client, ..Request::default() }, at(0));
        explained.limits.into_iter().map(|l| l.level.map(|l| (l.used, l.limit)).unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(levels("other"), [(0, 1), (0, 70)]);
    assert_eq!(levels("t"), [(0, 1), (0, 90)]);
    ask(&engine, "t", 0);
    assert_eq!(levels("t"), [(1, 1), (0, 90)]);
}
