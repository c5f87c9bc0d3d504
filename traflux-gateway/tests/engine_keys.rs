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
