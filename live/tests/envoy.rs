//! Does an Envoy with a compiled plan do what the engine does? One trace through both, for native rows.
//!
//! What an engine has no part in (connections, TLS, the clock of probes, streams that fall silent) is held to the plan's
//! numbers here; the gateway's own process is held to them in its `server_http` tests.
//!
//! ```text
//! ENVOY=/path/to/envoy cargo test -p traflux-live --test envoy -- --ignored
//! ```
//!
//! Tolerances: rules, exactly; shares drawn at random, 4 standard deviations of the binomial distribution (one false
//! alarm in 16 000 runs); turns, 2 requests; levels of buckets, what they refill while the test runs.

#![allow(clippy::unwrap_used, reason = "a test that fails panics")]

mod envoy_balance;
mod envoy_choice;
mod envoy_compare;
mod envoy_health;
mod envoy_limits;
mod envoy_paths;
mod envoy_rig;
mod envoy_rows;
mod envoy_session;
mod envoy_wire;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use envoy_rig::{Answer, Backend, Envoy, Sent};
use serde_json::{Value, json};
use traflux_core::plan::requests::RequestPlan;
use traflux_gateway::request::Lookup;
use traflux_gateway::{IdentityTable, Matcher, Request, RequestFacts, Rng};

/// Requests of the trace.
const TRACE: usize = 800;

/// What the engine's rules make of a request: the name of the rule, or nothing.
struct Rules {
    names: Vec<String>,
    matcher: Matcher,
    identity: IdentityTable,
}

impl Rules {
    fn of(plan: &RequestPlan) -> Self {
        let mut rules: Vec<_> = plan.routing.rules.iter().collect();
        rules.sort_by_key(|rule| std::cmp::Reverse(rule.priority));
        Self {
            names: rules.iter().map(|rule| rule.name.clone()).collect(),
            matcher: Matcher::new(rules.iter().map(|rule| &rule.matches)).unwrap(),
            identity: IdentityTable::new(&plan.identity).unwrap(),
        }
    }

    fn first(&self, sent: &Sent) -> Option<&str> {
        let (path, query) = sent.target.split_once('?').unwrap_or((&sent.target, ""));
        let headers: &dyn Lookup = &sent.headers;
        let nothing: [(&str, &str); 0] = [];
        let client = self.identity.resolve(headers, &nothing).unwrap_or_default();
        // An adapter passes the host in lower case and without port.
        let host = sent.host.split(':').next().unwrap().to_ascii_lowercase();
        let facts = RequestFacts::read(sent.body.as_bytes()).unwrap_or_default();
        let request = Request {
            method: sent.method,
            host: &host,
            path,
            query,
            headers,
            client,
            model: &facts.model,
            stream: facts.stream,
            ..Request::default()
        };
        self.matcher.first(&request).map(|ix| self.names[ix].as_str())
    }
}

/// A plan whose every rule has a backend of its own, that bears its name.
fn rules() -> Value {
    json!([
        {"name": "exact", "priority": 9, "match": {"path": {"exact": "/v1/models"}}},
        {"name": "gold", "priority": 8, "match": {"path": "/v1", "user_tier": ["gold", "silver"]}},
        {"name": "everyone", "priority": 8, "match": {"path": "/v1/embeddings", "user_tier": "free"}},
        {"name": "acme", "priority": 7, "match": {"path": "/v1", "tenant": "acme", "method": "post"}},
        {"name": "gpt", "match": {"path": "/v1/chat", "model": ["gpt-5", "o*"], "stream": true}},
        {"name": "calm", "match": {"path": "/v1/chat", "model": "gpt-5", "stream": false}},
        {"name": "below", "match": {"path": "/v1/chat"}},
        {"name": "slashed", "match": {"path": "/w/"}},
        {"name": "prefix", "match": {"path": {"prefix": "/v2"}}},
        {"name": "expression", "match": {"path": {"regex": "/u/[a-z]+(/x)?"}}},
        {"name": "methods", "match": {"path": "/m", "method": ["PUT", "delete"]}},
        {"name": "host", "match": {"host": ["api.example.com", "*.example.org"]}},
        {"name": "header", "match": {"headers": {"X-Team": "search"}}},
        {"name": "one-of", "match": {"headers": {"x-team": {"one_of": ["a.b", "c"]}}}},
        {"name": "begins", "match": {"headers": {"x-team": {"prefix": "pre"}}}},
        {"name": "ends", "match": {"headers": {"x-team": {"suffix": "end"}}}},
        {"name": "holds", "match": {"headers": {"x-team": {"contains": "mid"}}}},
        {"name": "digits", "match": {"headers": {"x-team": {"regex": "[0-9]{2}"}}}},
        {"name": "there", "match": {"headers": {"x-team": {"present": true}}, "method": "GET"}},
        {"name": "absent", "match": {"headers": {"x-team": {"present": false}}, "path": "/absent"}},
        {"name": "spaced", "match": {"query": {"q": "a b"}}},
        {"name": "listed", "match": {"query": {"q": {"one_of": ["x", "y+z"]}}}},
        {"name": "begun", "match": {"query": {"q": {"prefix": "be"}}}},
        {"name": "ended", "match": {"query": {"q": {"suffix": "%"}}}},
        {"name": "held", "match": {"query": {"q": {"contains": "&"}}}},
        {"name": "asked", "match": {"query": {"flag": {"present": true}}}}
    ])
}

fn request(draw: &mut Rng) -> Sent {
    fn one<'a>(draw: &mut Rng, of: &[&'a str]) -> &'a str {
        of[(draw.next_u64() % of.len() as u64) as usize]
    }
    let path = one(
        draw,
        &[
            "/v1/models",
            "/v1/models/",
            "/v1/chat",
            "/v1/chat/completions",
            "/v1/chats",
            "/v1/embeddings",
            "/v10",
            "/v2",
            "/v2x/y",
            "/u/abc",
            "/u/abc/x",
            "/u/ABC",
            "/m",
            "/m/n",
            "/w",
            "/w/x",
            "/wx",
            "/absent",
            "/",
            "/other",
            "/V1/chat",
        ],
    );
    let query = one(
        draw,
        &[
            "",
            "",
            "",
            "?q=a+b",
            "?q=a%20b",
            "?q=%61%20%62",
            "?q=a%2bb",
            "?q=x",
            "?q=y%2Bz",
            "?q=y+z",
            "?q=begin",
            "?q=%62egin",
            "?q=50%25",
            "?q=a%26b",
            "?flag",
            "?flag=1&q=x",
            "?r=1&q=x",
            "?q=1&q=x",
        ],
    );
    let mut headers = Vec::new();
    let mut maybe = |name: &str, of: &[&'static str], share: u64| {
        if draw.next_u64() % 100 < share {
            headers.push((name.to_owned(), one(draw, of).to_owned()));
        }
    };
    maybe(
        "x-team",
        &["search", "Search", "a.b", "axb", "c", "prefix", "the-end", "amidst", "42", "421", "zzz"],
        50,
    );
    maybe("x-tier", &["gold", "silver", "free", "golden"], 40);
    maybe("x-tenant", &["acme", "other"], 40);
    let method = one(draw, &["GET", "GET", "GET", "POST", "POST", "PUT", "DELETE"]);
    let host = one(
        draw,
        &[
            "x",
            "x:8080",
            "x",
            "api.example.com",
            "API.example.com",
            "api.example.com:80",
            "a.example.org",
            "example.org",
        ],
    );
    let mut body = "";
    if method == "POST" {
        body = one(
            draw,
            &[
                "",
                r#"{"model": "gpt-5", "stream": true}"#,
                r#"{"model": "gpt-5"}"#,
                r#"{"model": "o3", "stream": true}"#,
                r#"{"model": "gpt-5x"}"#,
                "not json",
            ],
        );
        if !body.is_empty() {
            headers.push(("content-type".into(), "application/json".into()));
        }
    }
    Sent { method, host: host.into(), target: format!("{path}{query}"), headers, body: body.into() }
}

#[test]
#[ignore = "needs an Envoy: set ENVOY to its path"]
fn every_request_of_a_trace_meets_the_same_rule_in_envoy_and_in_the_engine() {
    let mut value = json!({
        "identity": {
            "trusted_headers": {"user_tier": "x-tier", "tenant": "x-tenant"},
            "anonymous": {"tenant": "public", "user_tier": "free"}
        },
        "routing": {"strategy": "round-robin", "rules": rules()},
        "backends": {}
    });
    let mut backends = Vec::new();
    for rule in value["routing"]["rules"].as_array_mut().unwrap() {
        let name = rule["name"].as_str().unwrap().to_owned();
        rule["route"] = json!({"backend": name});
        backends.push(Backend::start(&name));
    }
    for backend in &backends {
        value["backends"][&backend.name] = json!({"url": backend.url()});
    }
    let plan: RequestPlan = serde_json::from_value(value).unwrap();
    let rules = Rules::of(&plan);
    let envoy = Envoy::start(plan);
    let mut draw = Rng::new(20_261_123);
    let (mut differences, mut met) = (Vec::new(), BTreeMap::<String, usize>::new());
    for _ in 0..TRACE {
        let sent = request(&mut draw);
        let Answer { status, body, .. } = envoy.send(&sent);
        let expected = rules.first(&sent);
        let found = (status == 200).then(|| body.lines().next().unwrap());
        *met.entry(expected.unwrap_or("none").to_owned()).or_default() += 1;
        if found != expected || (found.is_none() && status != 404) {
            differences.push(format!("{sent:?}: engine {expected:?}, Envoy {found:?} ({status})"));
        }
    }
    eprintln!("{TRACE} requests, {} rules met: {met:?}", met.len());
    assert!(differences.is_empty(), "{} differ:\n{}", differences.len(), differences.join("\n"));
    let unmet: Vec<_> = rules.names.iter().filter(|name| !met.contains_key(*name)).collect();
    assert!(unmet.is_empty(), "the trace never meets {unmet:?}");
}

#[test]
#[ignore = "needs an Envoy: set ENVOY to its path"]
fn shares_turns_keys_paths_and_fallbacks_are_those_of_the_plan() {
    let folder = tempfile::tempdir().unwrap();
    let secret = folder.path().join("secret");
    std::fs::write(&secret, "from-a-file\n").unwrap();
    let names = ["a", "b", "spare", "keyed", "filed"];
    let backends = names.map(Backend::start);
    let url = |name: &str| backends.iter().find(|b| b.name == name).unwrap().url();
    let envoy = Envoy::start_with(
        serde_json::from_value(json!({
            "routing": {"strategy": "round-robin", "rules": [
                {"name": "drawn", "match": {"path": "/drawn"},
                 "route": {"backend": [{"name": "a", "weight": 3}, "b"], "algorithm": "weighted"}},
                {"name": "turns", "match": {"path": "/turns"},
                 "route": {"backend": [{"name": "a", "weight": 2}, "b"]}},
                {"name": "least", "match": {"path": "/least"},
                 "route": {"backend": ["a", "b"], "algorithm": "least-connections"}},
                {"name": "dead", "match": {"path": "/dead"}, "route": {"backend": "nobody", "fallback": "spare"}},
                {"name": "after", "match": {"path": "/after"}, "route": {"backend": "gone", "fallback": "spare"}},
                {"name": "keys", "match": {"path": "/keys"}, "route": {"backend": ["keyed", "filed"]}}
            ]},
            "backends": {
                "a": {"url": url("a")}, "b": {"url": url("b")}, "spare": {"url": url("spare")},
                "nobody": {"url": "http://127.0.0.1:1"},
                "gone": {"url": "http://127.0.0.1:1/base", "key": {"env": "BACKEND_KEY"}},
                "keyed": {"url": format!("{}/base/v1", url("keyed")), "key": {"env": "BACKEND_KEY"}},
                "filed": {"url": url("filed"), "key": {"file": secret}}
            }
        }))
        .unwrap(),
        &[("BACKEND_KEY", "from-the-environment")],
    );
    let count = |path: &str, requests: usize| {
        (0..requests).filter(|_| envoy.get(path).body.lines().next() == Some("a")).count() as f64
    };
    let drawn = count("/drawn", 400);
    let deviation = (400.0_f64 * 0.75 * 0.25).sqrt();
    eprintln!("weighted 3:1: {drawn} of 400 to the first, expected 300 +- {:.1}", 4.0 * deviation);
    assert!((drawn - 300.0).abs() <= 4.0 * deviation, "{drawn}");
    let turns = count("/turns", 300);
    eprintln!("round-robin 2:1: {turns} of 300 to the first, expected 200 +- 2");
    assert!((turns - 200.0).abs() <= 2.0, "{turns}");

    // While one of two endpoints is busy, the other takes everything.
    let busy = envoy.in_background("/least/slow");
    std::thread::sleep(Duration::from_millis(200));
    let mut to = BTreeMap::<String, usize>::new();
    for _ in 0..100 {
        *to.entry(envoy.get("/least").body.lines().next().unwrap().to_owned()).or_default() += 1;
    }
    let busy = busy.join().unwrap().body;
    let at_busy = to.get(busy.lines().next().unwrap()).copied().unwrap_or(0);
    eprintln!("least-connections: {at_busy} of 100 to the busy one");
    assert_eq!(at_busy, 0, "{to:?}");

    for _ in 0..5 {
        let answer = envoy.get("/dead");
        assert_eq!((answer.status, answer.body.lines().next()), (200, Some("spare")), "{answer:?}");
    }
    let mut seen = BTreeMap::new();
    for _ in 0..40 {
        let answer = envoy.get("/keys/x?y=1");
        let mut lines = answer.body.lines().map(str::to_owned);
        seen.insert(lines.next().unwrap(), lines.collect::<Vec<_>>());
    }
    let host = |name: &str| url(name).trim_start_matches("http://").to_owned();
    assert_eq!(seen["keyed"], ["GET /base/v1/keys/x?y=1", &host("keyed"), "Bearer from-the-environment"]);
    assert_eq!(seen["filed"], ["GET /keys/x?y=1", &host("filed"), "Bearer from-a-file"]);
    // The backend's key stands where the client's stood, on every attempt.
    let shown = |target: &str| {
        let headers = vec![("x-api-key".to_owned(), "of-the-client".to_owned())];
        envoy.send(&Sent { target: target.into(), headers, ..Sent::default() })
    };
    let mut seen = BTreeMap::new();
    for _ in 0..40 {
        let answer = shown("/keys/flaky");
        assert_eq!(answer.status, 200, "every other attempt fails, and is followed by another");
        let mut lines = answer.body.lines().map(str::to_owned);
        seen.insert(lines.next().unwrap(), lines.collect::<Vec<_>>());
    }
    assert_eq!(
        seen["keyed"],
        ["GET /base/v1/keys/flaky", &host("keyed"), "", "x-api-key from-the-environment"]
    );
    assert_eq!(seen["filed"], ["GET /keys/flaky", &host("filed"), "", "x-api-key from-a-file"]);
    assert!(shown("/turns").body.ends_with("x-api-key of-the-client\n"), "who has no key gets the client's");
    // What was made for a backend that failed does not go to the next one.
    let answer = shown("/after");
    assert_eq!(answer.body.lines().nth(1), Some("GET /after"), "{answer:?}");
    assert!(answer.body.ends_with("x-api-key of-the-client\n"), "{answer:?}");
}

#[test]
#[ignore = "needs an Envoy: set ENVOY to its path"]
fn limits_grant_their_burst_and_what_refills_for_each_key_apart() {
    let backend = Backend::start("a");
    let envoy = Envoy::start(
        serde_json::from_value(json!({
            "routing": {"strategy": "round-robin", "default": {"backend": "a"}},
            "backends": {"a": {"url": backend.url()}},
            "identity": {"trusted_headers": {"tenant": "x-tenant", "user": "x-user"}},
            "limits": [
                {"name": "mine", "unit": "requests", "amount": 6, "period_ms": 60000, "burst": 10, "by": "user",
                 "match": {"path": "/mine"}},
                {"name": "calls", "unit": "requests", "amount": 6, "period_ms": 60000, "burst": 20, "by": "tenant",
                 "match": {"path": "/v1", "method": "GET", "query": {"v": "a b"}}, "overrides": {"acme": 3}},
                {"name": "quick", "unit": "requests", "amount": 2, "period_ms": 1000, "burst": 5,
                 "match": {"path": {"exact": "/quick"}}}
            ]
        }))
        .unwrap(),
    );
    let tenant = |name: Option<&str>, target: &str| {
        let header = if target == "/mine" { "x-user" } else { "x-tenant" };
        let headers = name.map(|name| (header.to_owned(), name.to_owned())).into_iter().collect();
        Sent { target: target.into(), headers, ..Sent::default() }
    };
    // (key, path, the burst and the rate per second that the plan grants)
    for (name, target, burst, rate) in [
        (Some("one"), "/v1/x?v=a+b", 20.0, 0.1),
        (Some("two"), "/v1?v=a%20b", 20.0, 0.1),
        (None, "/v1?v=a+b", 20.0, 0.1),
        (Some("acme"), "/v1?v=a+b", 20.0, 0.05),
        (None, "/quick", 5.0, 2.0),
        (Some("ann"), "/mine", 10.0, 0.1),
        (Some("bob"), "/mine", 10.0, 0.1),
    ] {
        let start = Instant::now();
        let mut granted = 0.0;
        let mut refused = 0;
        for _ in 0..45 {
            let answer = envoy.send(&tenant(name, target));
            match answer.status {
                200 => granted += 1.0,
                429 => {
                    refused += 1;
                    assert!(answer.head.contains("retry-after:"), "{}", answer.head);
                }
                status => panic!("{status}"),
            }
        }
        let most = burst + (rate * start.elapsed().as_secs_f64()).ceil();
        eprintln!("{name:?} {target}: {granted} granted, at least {burst}, at most {most}");
        assert!(granted >= burst && granted <= most, "{name:?} {target}: {granted}");
        assert!(granted >= 45.0 || refused > 0);
    }
    for (name, target) in [(Some("one"), "/v2?v=a+b"), (Some("one"), "/v1?v=b")] {
        let all = (0..30).all(|_| envoy.send(&tenant(name, target)).status == 200);
        assert!(all, "{target} is not counted");
    }
    let posted = Sent { method: "POST", ..tenant(Some("one"), "/v1?v=a+b") };
    assert!((0..30).all(|_| envoy.send(&posted).status == 200));
}

#[test]
#[ignore = "needs an Envoy: set ENVOY to its path"]
fn timeouts_retries_ejections_and_bounds_hold() {
    let backends = ["slow", "flaky", "bad", "good", "sick", "well"].map(Backend::start);
    let url = |name: &str| backends.iter().find(|b| b.name == name).unwrap().url();
    let envoy = Envoy::start(
        serde_json::from_value(json!({
            "server": {"max_body_bytes": 1000, "max_header_bytes": 8192, "header_timeout_ms": 500},
            "routing": {"strategy": "round-robin", "rules": [
                {"name": "slow", "match": {"path": "/slow"}, "route": {"backend": "slow", "timeout_ms": 300}},
                {"name": "flaky", "match": {"path": "/flaky"}, "route": {"backend": "flaky"}},
                {"name": "pair", "match": {"path": "/pair"}, "route": {"backend": ["bad", "good"]}},
                {"name": "probed", "match": {"path": "/probed"},
                 "route": {"backend": ["sick", "well"], "health_check": true}}
            ]},
            "retry": {"base_ms": 1, "max_ms": 10, "retry_on": ["gateway_error", "connect_failure"]},
            "health": {
                "probe": {"interval_ms": 100, "unhealthy_interval_ms": 100, "timeout_ms": 100, "unhealthy_threshold": 2},
                "outlier": {"consecutive_errors": 3, "max_ejected_share": 0.5},
                "breaker": {"base_ms": 60000}
            },
            "backends": {
                "slow": {"url": url("slow")}, "flaky": {"url": url("flaky")}, "bad": {"url": url("bad")},
                "good": {"url": url("good")}, "sick": {"url": url("sick")}, "well": {"url": url("well")}
            }
        }))
        .unwrap(),
    );
    // A head that comes too late is a failure; a body that takes its time is not cut.
    let start = Instant::now();
    assert_eq!(envoy.get("/slow/slow").status, 504);
    let taken = start.elapsed();
    assert!((300..1500).contains(&taken.as_millis()), "{taken:?}");
    let answer = envoy.get("/slow/drip");
    assert!(answer.status == 200 && answer.body.ends_with(".........."), "{answer:?}");

    // The backend fails every other request: what may be acted on twice is repeated.
    assert!((0..10).all(|_| envoy.get("/flaky/flaky").status == 200));
    let post = Sent { method: "POST", target: "/flaky/flaky".into(), ..Sent::default() };
    let failed = (0..10).filter(|_| envoy.send(&post).status == 502).count();
    assert_eq!(failed, 5, "a POST is not repeated");
    let keyed = Sent { headers: vec![("idempotency-key".into(), "1".into())], ..post };
    assert!((0..10).all(|_| envoy.send(&keyed).status == 200), "with a key it is");

    // Three failures in a row eject.
    let statuses: Vec<_> = (0..40).map(|_| envoy.get("/pair/bad").status).collect();
    let failures = statuses.iter().filter(|status| **status == 500).count();
    assert_eq!(failures, 3, "{statuses:?}");
    // Two failed probes do too, without a request having failed.
    std::thread::sleep(Duration::from_millis(800));
    let served: Vec<_> = (0..20).map(|_| envoy.get("/probed").body).collect();
    assert!(served.iter().all(|body| body.starts_with("well")), "{served:?}");

    let long = Sent { method: "POST", target: "/pair".into(), body: "x".repeat(1001), ..Sent::default() };
    assert_eq!(envoy.send(&long).status, 413);
    assert_eq!(envoy.send(&Sent { body: "x".repeat(1000), ..long }).status, 200);
    let wide = Sent { headers: vec![("x-wide".into(), "x".repeat(9000))], ..Sent::default() };
    assert_eq!(envoy.send(&wide).status, 431);
    assert_eq!(envoy.get("/nowhere").status, 404);
    let (status, after) = envoy.never_finish_head();
    assert_eq!(status, 408);
    assert!((400..3000).contains(&after.as_millis()), "{after:?}");
}
