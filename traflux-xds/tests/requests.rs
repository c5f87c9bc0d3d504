//! What a plan for requests becomes, and that nothing of it is lost.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;

use serde_json::{Value, json};
use traflux_core::HostPlan;
use traflux_core::plan::requests::RequestPlan;
use traflux_xds::XdsError;
use traflux_xds::requests::{Compiled, FieldSupport, RequestOptions, Support, compile, table};

/// A plan with every field set to something else than its default.
const MAXIMAL: &str = include_str!("data/requests.json");

fn plan(value: Value) -> RequestPlan {
    serde_json::from_value(value).unwrap()
}

fn compiled(value: Value) -> Compiled {
    compile(&plan(value), &RequestOptions::default()).unwrap()
}

fn with_service() -> RequestOptions {
    let host = HostPlan { address: "127.0.0.1".into(), port: 18110 };
    RequestOptions { authorization: Some(host), ..RequestOptions::default() }
}

fn field<'a>(compiled: &'a Compiled, path: &str) -> &'a FieldSupport {
    compiled.fields().iter().find(|f| f.path == path).unwrap_or_else(|| panic!("no line for {path}"))
}

#[test]
fn every_field_of_a_maximal_plan_is_spoken_of() {
    let compiled = compile(&serde_json::from_str(MAXIMAL).unwrap(), &with_service()).unwrap();
    let unknown: Vec<_> = compiled
        .fields()
        .iter()
        .filter(|f| f.support.remark().contains("not known to this compiler"))
        .collect();
    assert!(unknown.is_empty(), "{unknown:#?}");
    let kinds: BTreeSet<_> = compiled.fields().iter().map(|f| f.support.name()).collect();
    assert_eq!(kinds.len(), 4, "{kinds:?}");
    assert!(table(compiled.fields()).lines().count() >= compiled.fields().len());
}

#[test]
fn the_maximal_plan_has_every_key_of_the_schema() {
    fn keys(value: &Value, found: &mut BTreeSet<String>) {
        match value {
            Value::Object(map) => {
                for (key, value) in map {
                    found.insert(key.clone());
                    keys(value, found);
                }
            }
            Value::Array(list) => list.iter().for_each(|value| keys(value, found)),
            _ => {}
        }
    }
    fn properties(schema: &Value, found: &mut BTreeSet<String>) {
        match schema {
            Value::Object(map) => {
                if let Some(Value::Object(named)) = map.get("properties") {
                    found.extend(named.keys().cloned());
                }
                map.values().for_each(|value| properties(value, found));
            }
            Value::Array(list) => list.iter().for_each(|value| properties(value, found)),
            _ => {}
        }
    }
    let schema = serde_json::to_value(schemars::schema_for!(RequestPlan)).unwrap();
    let (mut wanted, mut present) = (BTreeSet::new(), BTreeSet::new());
    properties(&schema, &mut wanted);
    keys(&serde_json::from_str(MAXIMAL).unwrap(), &mut present);
    // Other forms of fields that the plan can have in one form only.
    for other in [
        "below",
        "service",
        "block_bytes",
        "blocks",
        "increase",
        "decrease",
        "latency_limit_ms",
        "long_windows",
        // Beside `jwt` there is no other source of claims.
        "claims_header",
    ] {
        wanted.remove(other);
    }
    let missing: Vec<_> = wanted.difference(&present).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

#[test]
fn where_tokens_are_wanted_and_nothing_checks_them_nobody_gets_in() {
    let plan = |more: &str| {
        let plan = json!({
            "routing": {"default": {"backend": "x"}}, "backends": {"x": {"url": "http://127.0.0.1:1"}},
            "identity": {"jwt": {"keys": {"file": "keys.json"}}}
        });
        let mut plan: RequestPlan = serde_json::from_value(plan).unwrap();
        plan.identity.anonymous = (!more.is_empty()).then(Default::default);
        compile(&plan, &RequestOptions::default()).unwrap()
    };
    let closed = plan("");
    assert_eq!(field(&closed, "identity.jwt").support.name(), "needs a service");
    assert!(closed.static_config().unwrap().contains("401"));
    assert!(!plan("anonymous").static_config().unwrap().contains("401"));
}

#[test]
fn equal_plans_compile_to_equal_bytes() {
    let one = compile(&serde_json::from_str(MAXIMAL).unwrap(), &with_service()).unwrap();
    let other = compile(&serde_json::from_str(MAXIMAL).unwrap(), &with_service()).unwrap();
    assert!(one.snapshot().same_content(other.snapshot()));
    assert_eq!(one.static_config().unwrap(), other.static_config().unwrap());
}

#[test]
fn a_plain_plan_is_native_throughout() {
    let compiled = compiled(json!({
        "routing": {"strategy": "round-robin", "rules": [
            {"name": "a", "match": {"path": "/a", "headers": {"x": "1"}}, "route": {"backend": ["x", "y"]}},
            {"name": "b", "match": {"user_tier": "gold"}, "route": {"backend": ["x", "y"], "algorithm": "least-connections"}}
        ]},
        "identity": {"trusted_headers": {"user_tier": "x-tier"}},
        "backends": {"x": {"url": "http://127.0.0.1:1"}, "y": {"url": ["http://127.0.0.1:2", "http://127.0.0.1:3"]}},
        "limits": [{"name": "l", "unit": "requests", "amount": 5, "by": {"header": "x-app"}}]
    }));
    let not_native: Vec<_> = compiled.not_native().collect();
    assert!(not_native.is_empty(), "{not_native:#?}");
}

#[test]
fn what_envoy_does_otherwise_is_told_even_where_nobody_set_it() {
    let compiled = compiled(json!({}));
    assert_eq!(compiled.not_native().count(), 0);
    let usual: Vec<_> = compiled.usual().iter().map(|field| field.path.as_str()).collect();
    for path in [
        "congestion.concurrency",
        "congestion.throttle",
        "health.breaker.trials",
        "queue",
        "retry.retry_on",
        "retry.patience_ms",
        "server.request_timeout_ms",
    ] {
        assert!(usual.contains(&path), "{path}: {usual:?}");
    }
    assert!(compiled.usual().iter().all(|field| field.support != Support::Native));
}

#[test]
fn overrides_speak_of_clients_that_there_are_and_of_no_key_twice() {
    // Values of the descriptors of the one limit: what it counts apart, and the amount.
    let buckets = |identity: Value, by: Value, overrides: Value| {
        let compiled = compiled(json!({
            "backends": {"a": {"url": "http://127.0.0.1:1"}}, "routing": {"default": {"backend": "a"}},
            "identity": identity,
            "limits": [{"name": "l", "unit": "requests", "amount": 6, "by": by, "overrides": overrides}]
        }));
        let text = compiled.static_config().unwrap();
        let text = text.split("descriptors:").nth(1).unwrap().to_owned();
        let amounts = text.lines().filter_map(|line| line.trim().strip_prefix("max_tokens: "));
        (amounts.map(str::to_owned).collect::<Vec<_>>(), text)
    };
    let nobody = json!({});
    let anonymous = json!({"anonymous": {"tenant": "acme"}});
    assert_eq!(buckets(nobody.clone(), json!("tenant"), json!({"acme": 3, "corp": 4})).0, ["6"]);
    assert_eq!(buckets(anonymous, json!("tenant"), json!({"acme": 3, "corp": 4})).0, ["3"]);
    let headers = json!({"trusted_headers": {"tenant": "x-tenant", "user": "x-user"}});
    let (amounts, text) = buckets(headers.clone(), json!(["tenant", "user"]), json!({"a\\/b/c/d": 3}));
    assert_eq!(amounts, ["3", "6", "6", "6", "6"]);
    assert!(text.contains("value: \"a/b\"") && text.contains("value: \"c/d\""), "{text}");
    // Who lacks the header has an override of its own, and nobody else does.
    let (amounts, text) = buckets(headers, json!("tenant"), json!({"": 3}));
    assert_eq!(amounts, ["6", "3"], "{text}");
    assert_eq!(buckets(nobody, json!(["tenant", "user"]), json!({"acme/ann": 3})).0, ["6"]);
}

#[test]
fn envoys_own_interface_is_for_its_machine_alone() {
    let text = |admin: &str| {
        let admin = json!({"server": {"admin": admin, "admin_key": {"env": "TOKEN"}}});
        compiled(admin).static_config().unwrap().split("admin:").nth(1).unwrap().to_owned()
    };
    let address = "address: \"127.0.0.1\"";
    assert!(text("0.0.0.0:9900").contains(address) && text("127.0.0.1:9900").contains(address));
    assert!(text("0.0.0.0:9900").contains("port_value: 9900"));
}

#[test]
fn what_clients_show_to_the_service_goes_to_no_backend() {
    let scripts = |identity: Value| {
        let plan = plan(json!({
            "backends": {"a": {"url": "http://127.0.0.1:1"}, "b": {"url": "http://127.0.0.1:2", "key": {"env": "B"}}},
            "routing": {"default": {"backend": ["a", "b"]}}, "identity": identity
        }));
        let text = compile(&plan, &with_service()).unwrap().static_config().unwrap();
        text.matches("headers:remove").count()
    };
    let key = json!({"name": "k", "tenant": "t", "sha256": "0".repeat(64)});
    assert_eq!(scripts(json!({})), 3, "the backend with a key puts it where the client's stood");
    assert_eq!(scripts(json!({"api_keys": [key]})), 4);
    let token = json!({"jwt": {"secret": {"env": "S"}, "issuer": "i", "audience": "a", "forward": true}});
    assert_eq!(scripts(token), 6, "a token goes on to who has no key of its own");
}

#[test]
fn slow_start_and_draining_are_native_where_envoy_does_the_same() {
    let plan = |algorithm: &str| {
        json!({
            "routing": {"rules": [
                {"name": "pair", "route": {"backend": ["a", "b"], "algorithm": algorithm}},
                {"name": "drawn", "match": {"path": "/x"}, "route": {"backend": ["a", "gone"], "algorithm": "weighted"}}
            ]},
            "balance": {"slow_start": {"window_ms": 60000, "aggression": 2, "least_share": 0.05}},
            "backends": {
                "a": {"url": "http://127.0.0.1:1"},
                "b": {"url": [{"url": "http://127.0.0.1:2", "draining": true}, "http://127.0.0.1:3"]},
                "gone": {"url": "http://127.0.0.1:4", "draining": true}
            }
        })
    };
    let turns = compiled(plan("round-robin"));
    let not_native: Vec<_> = turns.not_native().collect();
    assert!(not_native.is_empty(), "{not_native:#?}");
    let text = turns.static_config().unwrap();
    assert_eq!(text.matches("health_status: DRAINING").count(), 1, "{text}");
    assert!(text.contains("slow_start_window: 60s") && text.contains("aggression:"), "{text}");
    assert!(!text.contains("cluster: \"gone\"") && !text.contains("name: \"gone\""), "left out of routes");
    let least = compiled(plan("least-connections"));
    assert!(matches!(field(&least, "balance.slow_start").support, Support::Approximated { .. }));
    let hashed = compiled(plan("consistent-hash"));
    assert!(matches!(field(&hashed, "balance.slow_start").support, Support::Unsupported { .. }));
    let mut alone = plan("round-robin");
    alone["backends"]["b"]["url"] = json!([
        {"url": "http://127.0.0.1:2", "draining": true}, {"url": "http://127.0.0.1:3", "draining": true}, "http://127.0.0.1:5"
    ]);
    alone["health"] = json!({"panic_threshold": 0.6});
    let gap = &field(&compiled(alone), "backends.b.url[0].draining").support.remark().to_owned();
    assert!(gap.contains("panic_threshold"), "{gap}");
}

#[test]
fn what_drains_has_no_part_of_the_share_of_its_backend() {
    let compiled = compiled(json!({
        "routing": {"default": {"backend": ["a", "b"], "algorithm": "weighted"}},
        "backends": {
            "a": {"url": [{"url": "http://127.0.0.1:1", "draining": true}, "http://127.0.0.1:2"]},
            "b": {"url": "http://127.0.0.1:3"}
        }
    }));
    let text = compiled.static_config().unwrap();
    let clusters = &text[text.find("weighted_clusters").unwrap()..];
    let weights: Vec<&str> =
        clusters.lines().filter(|line| line.contains("weight:")).take(2).map(str::trim).collect();
    assert_eq!(weights, ["weight: 1", "weight: 1"], "{text}");
}

#[test]
fn what_a_route_says_of_balancing_holds_there_alone() {
    let compiled = compiled(json!({
        "routing": {"strategy": "least-connections", "rules": [
            {"name": "own", "match": {"path": "/own"},
             "route": {"backend": "a", "balance": {"compare_all_up_to": 0, "choices": 3, "load": "tokens"}}},
            {"name": "all", "route": {"backend": "a"}}
        ]},
        "balance": {"latency": {"estimate": "percentile"}, "adaptive": {"price_exponent": 1}},
        "backends": {"a": {"url": ["http://127.0.0.1:1", "http://127.0.0.1:2"]}}
    }));
    let text = compiled.static_config().unwrap();
    assert!(text.contains("name: \"a--of-own\"") && text.contains("name: \"a\""), "{text}");
    assert_eq!((text.matches("choice_count: 3").count(), text.matches("choice_count: 6").count()), (1, 1));
    for path in ["routing.rules[0].route.balance.load", "balance.latency", "balance.adaptive"] {
        assert!(matches!(field(&compiled, path).support, Support::Unsupported { .. }), "{path}");
    }
    assert_eq!(field(&compiled, "routing.rules[0].route.balance.choices").support, Support::Native);
}

#[test]
fn rules_become_routes_in_the_order_of_priority() {
    let text = compiled(json!({
        "retry": {"max_attempts": 1},
        "routing": {"rules": [
            {"name": "low", "route": {"backend": "x"}},
            {"name": "high", "priority": 7, "route": {"backend": "x"}},
            {"name": "middle", "priority": 3, "route": {"backend": "x"}}
        ]},
        "backends": {"x": {"url": "http://127.0.0.1:1"}}
    }))
    .static_config()
    .unwrap();
    let at = |name: &str| text.find(&format!("name: \"{name}\"")).unwrap();
    assert!(at("high") < at("middle") && at("middle") < at("low"));
}

#[test]
fn a_rule_that_envoy_cannot_judge_is_left_out_and_said_so() {
    let compiled = compiled(json!({
        "routing": {"rules": [
            {"name": "claims", "match": {"claims": {"a": "b"}}, "route": {"backend": "x"}},
            {"name": "set", "match": {"path": {"regex": "/[a-z&&[^x]]"}}, "route": {"backend": "x"}}
        ]},
        "backends": {"x": {"url": "http://127.0.0.1:1"}}
    }));
    let text = compiled.static_config().unwrap();
    assert!(!text.contains("\"claims\"") && !text.contains("\"set\""));
    let service = field(&compiled, "routing.rules[0].match.claims");
    assert!(matches!(service.support, Support::NeedsService { .. }));
    let foreign = field(&compiled, "routing.rules[1].match.path");
    assert!(matches!(&foreign.support, Support::Unsupported { why } if why.contains("left out")));
}

#[test]
fn without_a_service_that_checks_keys_nobody_gets_in() {
    let value = json!({
        "identity": {"api_keys": [{"name": "k", "sha256": "0".repeat(64), "tenant": "t"}]},
        "routing": {"default": {"backend": "x"}},
        "backends": {"x": {"url": "http://127.0.0.1:1"}}
    });
    let closed = compiled(value.clone()).static_config().unwrap();
    assert!(closed.contains("status: 401") && !closed.contains("cluster: \"x\""));
    let open = compile(&plan(value), &with_service()).unwrap().static_config().unwrap();
    assert!(open.contains("ext_authz") && open.contains("cluster: \"x\"") && !open.contains("status: 401"));
}

#[test]
fn backends_that_differ_get_clusters_of_their_own_and_the_gap_is_stated() {
    let compiled = compiled(json!({
        "routing": {"rules": [{"name": "r", "route": {"backend": ["a", "b"], "algorithm": "round-robin"}}]},
        "backends": {"a": {"url": "http://127.0.0.1:1"}, "b": {"url": "http://127.0.0.1:2", "key": {"env": "B"}}}
    }));
    let line = field(&compiled, "routing.rules[0].route.algorithm");
    assert!(matches!(&line.support, Support::Approximated { gap } if gap.contains("cannot share a cluster")));
    let text = compiled.static_config().unwrap();
    assert!(text.contains("weighted_clusters") && text.contains("os.getenv"));
}

#[test]
fn a_url_that_envoy_cannot_be_sent_to_is_an_error_with_its_backend() {
    let wrong = plan(json!({"backends": {"a": {"url": "http://user@host"}}}));
    let error = compile(&wrong, &RequestOptions::default()).unwrap_err();
    assert_eq!(error.code(), "xds_upstream");
    assert!(error.to_string().starts_with("backend `a`: `http://user@host` has a user's name"), "{error}");
    let wrong = plan(json!({"server": {"listen": "gateway:80"}}));
    assert!(matches!(compile(&wrong, &RequestOptions::default()), Err(XdsError::Address { .. })));
}

#[test]
fn what_cannot_be_kept_by_envoy_is_no_limit_and_said_so() {
    let compiled = compiled(json!({"limits": [
        {"name": "t", "unit": "tokens", "amount": 5},
        {"name": "c", "unit": "concurrency", "amount": 5},
        {"name": "w", "unit": "requests", "amount": 5, "shape": "fixed_window"},
        {"name": "u", "unit": "requests", "amount": 5, "shape": {"warm_up": {}}},
        {"name": "d", "unit": "requests", "amount": 5, "shape": {"calendar": "day"}}
    ]}));
    assert!(matches!(field(&compiled, "limits[0]").support, Support::NeedsService { .. }));
    assert!(matches!(field(&compiled, "limits[1]").support, Support::Unsupported { .. }));
    assert!(matches!(field(&compiled, "limits[2].shape").support, Support::Approximated { .. }));
    let warm_up = &field(&compiled, "limits[3].shape").support;
    assert!(matches!(warm_up, Support::Approximated { gap } if gap.contains("also after a rest")));
    let day = &field(&compiled, "limits[4].shape").support;
    assert!(matches!(day, Support::Approximated { gap } if gap.contains("mean length of the window")));
    let text = compiled.static_config().unwrap();
    assert!(text.contains("traflux.limit.w") && !text.contains("traflux.limit.t"));
    assert!(text.contains("86400s"), "five a day, not five a minute");
}

#[test]
fn every_form_of_a_field_can_be_written() {
    let base = json!({
        "routing": {"strategy": "consistent-hash", "default": {"backend": ["x", "y"], "health_check": true}},
        "backends": {"x": {"url": "http://127.0.0.1:1"}, "y": {"url": "http://127.0.0.1:2"}}
    });
    for (pointer, value) in [
        ("/health", json!({"probe": {"probe": {"kind": "tcp"}}})),
        ("/health", json!({"probe": {"probe": {"kind": "grpc", "service": "s"}}})),
        ("/affinity", json!({"key": {"header": "x-s"}})),
        ("/affinity", json!({"key": {"cookie": "s"}})),
        ("/affinity", json!({"key": "user"})),
        ("/affinity", json!({"key": {"prefix": {"block_bytes": 256, "blocks": 8}}})),
        ("/congestion", json!({"concurrency": {"algorithm": {"kind": "fixed"}}, "throttle": {}})),
        ("/retry", json!({"max_attempts": 1})),
        ("/retry", json!({"retry_on": ["reset"], "patience_ms": 0})),
        ("/backends/x", json!({"url": ["https://a.example/v1", "https://b.example:8443/v1"], "http2": true})),
        ("/backends/x", json!({"url": "https://10.0.0.1"})),
        ("/backends/x", json!({"url": "http://[::1]:80", "http2": true})),
        ("/backends/x", json!({})),
        ("/routing/default/algorithm", json!("least-latency")),
        ("/routing/default/algorithm", json!("weighted")),
        ("/routing/default/fallback", json!(["y"])),
        (
            "/limits",
            json!([{"name": "l", "unit": "requests", "amount": 1, "period_ms": 10, "by": ["model", "user"]}]),
        ),
        ("/server", json!({"tls": {"certificate_file": "c", "key_file": "k"}})),
        ("/identity", json!({"trusted_headers": {"user": "x-user"}})),
    ] {
        let mut plan = base.clone();
        let (parent, key) = pointer.rsplit_once('/').unwrap();
        plan.pointer_mut(parent).unwrap()[key] = value.clone();
        let compiled = compile(&serde_json::from_value(plan).unwrap(), &with_service()).unwrap();
        assert!(compiled.static_config().is_ok(), "{pointer} {value}: {:?}", compiled.static_config().err());
    }
}
