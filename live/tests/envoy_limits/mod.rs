//! Whom limits count, and who is refused for want of room, in an Envoy and in the engine. Tolerance: none.

use serde_json::{Value, json};
use traflux_core::Timestamp;
use traflux_core::plan::requests::RequestPlan;
use traflux_gateway::health::Outcome;
use traflux_gateway::request::Lookup;
use traflux_gateway::{Decision, End, Engine, EngineSettings, IdentityTable, Request};

use crate::envoy_rig::{Backend, Envoy, Sent};

fn plan(value: &Value) -> RequestPlan {
    serde_json::from_value(value.clone()).unwrap()
}

fn engine(value: &Value) -> Engine {
    Engine::new(&plan(value), &EngineSettings::default(), Timestamp::from_secs_f64(1.0)).unwrap()
}

/// How many of six equal requests pass, there and here.
fn passed(envoy: &Envoy, engine: &Engine, host: &str, header: Option<(&str, &str)>) -> [usize; 2] {
    let headers: Vec<(String, String)> =
        header.map(|(name, value)| (name.to_owned(), value.to_owned())).into_iter().collect();
    let sent = Sent { host: host.into(), headers: headers.clone(), ..Sent::default() };
    let answers: Vec<_> = (0..6).map(|_| envoy.send(&sent)).collect();
    for refused in answers.iter().filter(|answer| answer.status != 200) {
        let told = refused.head.contains("retry-after:") && !refused.head.contains("ratelimit");
        assert!(refused.status == 429 && told, "when to come back, and nothing of limits: {}", refused.head);
    }
    let there = answers.iter().filter(|answer| answer.status == 200).count();
    let lookup: &dyn Lookup = &headers;
    let nothing: [(&str, &str); 0] = [];
    let identity = IdentityTable::new(&engine.plan().identity).unwrap();
    let client = identity.resolve(lookup, &nothing).unwrap_or_default();
    let at = Timestamp::from_secs_f64(2.0);
    let here = (0..6)
        .filter(|_| {
            let request = Request { host, headers: lookup, client, ..Request::default() };
            let sent = engine.decide(&request, at).forward();
            sent.map(|sent| sent.finish(at, &End::of(Outcome::Success))).is_some()
        })
        .count();
    [there, here]
}

#[test]
#[ignore = "needs an Envoy: set ENVOY to its path"]
fn limits_count_the_requests_that_fulfil_their_conditions() {
    let backend = Backend::start("a");
    let limit = |name: &str, matches: Value| json!({"name": name, "unit": "requests", "amount": 2, "period_ms": 600_000, "match": matches});
    let limits = [
        limit("header", json!({"headers": {"x-app": {"prefix": "batch"}}})),
        limit("host", json!({"host": "api.test"})),
        limit("tenant", json!({"tenant": "acme"})),
        limit("tier", json!({"user_tier": ["free", "trial"]})),
    ];
    let value = json!({
        "server": {"limit_headers": "none"},
        "identity": {"trusted_headers": {"tenant": "x-tenant", "user_tier": "x-tier"}},
        "routing": {"strategy": "round-robin", "default": {"backend": "a"}},
        "backends": {"a": {"url": backend.url()}},
        "limits": limits
    });
    let (envoy, engine) = (Envoy::start(plan(&value)), engine(&value));
    for (host, header, expected) in [
        ("x", None, 6),
        ("x", Some(("x-app", "batch-7")), 2),
        ("x", Some(("x-app", "chat")), 6),
        ("api.test", None, 2),
        ("api2.test", None, 6),
        ("x", Some(("x-tenant", "acme")), 2),
        ("x", Some(("x-tenant", "other")), 6),
        ("x", Some(("x-tier", "trial")), 2),
        ("x", Some(("x-tier", "gold")), 6),
    ] {
        let found = passed(&envoy, &engine, host, header);
        assert_eq!(found, [expected; 2], "{host} {header:?}: there and here");
    }
    // A limit of a tier that nobody can have counts nobody.
    let mut nobody = value;
    nobody["identity"] = json!({"trusted_headers": {"tenant": "x-tenant"}});
    nobody["limits"] = json!([limits[3]]);
    let (envoy, nobody) = (Envoy::start(plan(&nobody)), self::engine(&nobody));
    assert_eq!(passed(&envoy, &nobody, "x", Some(("x-tier", "free"))), [6, 6]);
}

#[test]
#[ignore = "needs an Envoy: set ENVOY to its path"]
fn who_finds_no_room_is_refused_at_once() {
    let backend = Backend::start("a");
    let value = json!({
        "queue": {"max_waiting": 0},
        "pool": {"max_requests": 1},
        "congestion": {"concurrency": {"algorithm": {"kind": "fixed"}, "initial": 1, "min": 1, "max": 1}},
        "routing": {"default": {"backend": "a", "health_check": false}},
        "backends": {"a": {"url": backend.url()}}
    });
    let engine = engine(&value);
    let mut there = plan(&value);
    there.congestion.concurrency = None;
    let envoy = Envoy::start(there);
    let first = envoy.in_background("/slow");
    std::thread::sleep(std::time::Duration::from_millis(300));
    let start = std::time::Instant::now();
    assert_eq!(envoy.get("/").status, 503);
    assert!(start.elapsed().as_millis() < 500, "{:?}", start.elapsed());
    assert_eq!(first.join().unwrap().status, 200);
    assert_eq!(envoy.get("/").status, 200, "there is room again");

    let at = Timestamp::from_secs_f64(2.0);
    let open = engine.decide(&Request::default(), at).forward().unwrap();
    assert!(matches!(engine.decide(&Request::default(), at), Decision::Refuse(_)));
    open.finish(at, &End::of(Outcome::Success));
    assert!(engine.decide(&Request::default(), at).forward().is_some());
}
