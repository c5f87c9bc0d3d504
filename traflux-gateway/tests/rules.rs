//! Rules: what matches, in which order, and what a report finds before any request.
#![allow(clippy::unwrap_used)]

use proptest::prelude::*;
use traflux_core::plan::matching::{MatchPlan, PathMatch};
use traflux_core::plan::requests::RequestPlan;
use traflux_gateway::{Client, Finding, Matcher, Request, Severity, TokenEstimate, review};

fn plan(json: &str) -> RequestPlan {
    let plan: RequestPlan = serde_json::from_str(json).unwrap();
    plan.validate().unwrap();
    plan
}

fn matches(json: &str) -> MatchPlan {
    serde_json::from_str(json).unwrap()
}

#[test]
fn every_kind_of_condition_holds_where_it_should_and_only_there() {
    let headers = [("x-priority", "critical"), ("cookie", "a=1")];
    let claims = [("team", "search")];
    let request = Request {
        method: "POST",
        host: "api.example.com",
        path: "/v1/chat/completions",
        query: "version=2&name=a%20b",
        headers: &headers,
        claims: &claims,
        client: Client { tenant: "acme", user_tier: "free", ..Client::default() },
        model: "gpt-5-mini",
        tokens: TokenEstimate { input: 900, output: 100 },
        stream: true,
        ..Request::default()
    };
    for (json, expected) in [
        (r#"{}"#, true),
        (r#"{"path": "/v1/chat"}"#, true),
        (r#"{"path": "/v1/chats"}"#, false),
        (r#"{"path": {"exact": "/v1/chat"}}"#, false),
        (r#"{"path": {"prefix": "/v1/ch"}}"#, true),
        (r#"{"path": {"regex": "/v[0-9]+/chat/.*"}}"#, true),
        (r#"{"path": {"regex": "/v[0-9]+/chat"}}"#, false),
        (r#"{"method": "post"}"#, true),
        (r#"{"method": ["GET", "PUT"]}"#, false),
        (r#"{"host": "*.example.com"}"#, true),
        (r#"{"host": "example.com"}"#, false),
        (r#"{"headers": {"X-Priority": "critical"}}"#, true),
        (r#"{"headers": {"X-Priority": {"one_of": ["low", "critical"]}}}"#, true),
        (r#"{"headers": {"x-missing": {"present": false}}}"#, true),
        (r#"{"headers": {"x-missing": {"suffix": ""}}}"#, false),
        (r#"{"query": {"name": "a b"}}"#, true),
        (r#"{"query": {"version": {"regex": "[13]"}}}"#, false),
        (r#"{"user_tier": ["free", "trial"]}"#, true),
        (r#"{"tenant": "other"}"#, false),
        (r#"{"model": "gpt-5*"}"#, true),
        (r#"{"model": "gpt-5"}"#, false),
        (r#"{"claims": {"team": {"prefix": "sea"}}}"#, true),
        (r#"{"estimated_tokens": {"min": 1000}}"#, true),
        (r#"{"estimated_tokens": {"max": 999}}"#, false),
        (r#"{"stream": true}"#, true),
        (r#"{"stream": false, "path": "/v1"}"#, false),
    ] {
        let matcher = Matcher::new([&matches(json)]).unwrap();
        assert_eq!(matcher.first(&request), expected.then_some(0), "{json}");
        assert_eq!(matcher.mismatch(0, &request).is_none(), expected, "{json}");
    }
}

#[test]
fn a_mismatch_names_the_condition_and_what_was_found() {
    let matcher = Matcher::new([&matches(r#"{"headers": {"X-Tier": "gold"}, "path": "/v1"}"#)]).unwrap();
    let request = Request { path: "/v2", ..Request::default() };
    let said = matcher.mismatch(0, &request).unwrap().to_string();
    assert_eq!(said, "path is or lies below `/v1` does not hold: found `/v2`");
    let request = Request { path: "/v1", ..Request::default() };
    let said = matcher.mismatch(0, &request).unwrap().to_string();
    assert_eq!(said, "header x-tier = `gold` does not hold: found nothing");
}

#[test]
fn a_wrong_expression_is_named() {
    let error = Matcher::new([&matches(r#"{"path": {"regex": "/v1/("}}"#)]).unwrap_err();
    assert_eq!(error.code(), "gateway_pattern");
    assert!(error.to_string().contains("`/v1/(`"), "{error}");
    // Within a group this would be an expression, one that holds for `aa` and `bb` too.
    assert!(Matcher::new([&matches(r#"{"path": {"regex": "a)|(?:b"}}"#)]).is_err());
}

#[test]
fn paths_that_no_url_has_match_as_the_plan_says() {
    let below_all = matches(r#"{"path": "/"}"#);
    let odd = matches(r#"{"path": {"exact": "/v1/\n"}}"#);
    let below = matches(r#"{"path": "/v1"}"#);
    let matcher = Matcher::new([&odd, &below, &below_all]).unwrap();
    let found = |path| {
        let mut found = Vec::new();
        matcher.each(&Request { path, ..Request::default() }, |ix| found.push(ix));
        found
    };
    assert_eq!(found("/v1/\n"), [0, 1, 2]);
    assert_eq!(found("/v1/x"), [1, 2]);
    assert!(found("").is_empty() && found("*").is_empty());
}

#[test]
fn rules_that_can_never_decide_are_found() {
    let plan = plan(
        r#"{"backends": {"a": {}, "b": {}, "unused": {}}, "routing": {"rules": [
            {"name": "all-chat", "match": {"path": "/v1/chat"}, "route": {"backend": "a"}},
            {"name": "free-chat", "match": {"path": "/v1/chat/completions", "user_tier": "free"}, "route": {"backend": "b"}},
            {"name": "empty", "match": {"estimated_tokens": {"min": 10, "max": 9}}, "route": {"backend": "b"}},
            {"name": "gold", "match": {"user_tier": "gold"}, "route": {"backend": "b"}},
            {"name": "first", "priority": 9, "match": {"path": "/v1/chat", "tenant": "acme"}, "route": {"backend": "c"}}
        ]}}"#,
    );
    let found = review(&plan);
    assert!(found.contains(&Finding::Shadowed { rule: "free-chat".into(), by: "all-chat".into() }));
    assert!(found.iter().any(|f| matches!(f, Finding::NeverMatches { rule, .. } if rule == "empty")));
    assert!(found.contains(&Finding::Overlaps { rule: "all-chat".into(), other: "gold".into() }));
    assert!(found.contains(&Finding::UnusedBackend { backend: "unused".into() }));
    assert!(found.iter().any(|f| matches!(f, Finding::UnknownBackend { backend, .. } if backend == "c")));
    assert!(found.contains(&Finding::NoDefault));
    // `first` is an exception to `all-chat`, which is how exceptions are written.
    assert!(
        !found.iter().any(
            |f| matches!(f, Finding::Overlaps { rule, other } if rule == "first" && other == "all-chat")
        )
    );
}

#[test]
fn conditions_on_clients_that_there_never_are_are_found() {
    let text = r#"{
        "identity": IDENTITY,
        "backends": {"a": {}},
        "routing": {"default": {"backend": "a"}, "rules": [
            {"name": "tiers", "match": {"user_tier": ["gold", "free", "platinum"]}, "route": {"backend": "a"}},
            {"name": "tenants", "match": {"tenant": ["acme", "acne", "public"]}, "route": {"backend": "a"}},
            {"name": "claims", "match": {"claims": {"team": "x", "guest": {"present": false}}}, "route": {"backend": "a"}}
        ]},
        "limits": [{"name": "l", "unit": "requests", "amount": 1, "match": {"user_tier": "silver"}}],
        "queue": {"bands": [{"name": "b", "user_tier": ["gold", "tin"]}], "tenants": {"acme": {}, "axme": {}}}
    }"#;
    let found = |identity: &str| {
        let of_clients = |f: &Finding| matches!(f, Finding::UnknownClient { .. } | Finding::NoClaims { .. });
        let found: Vec<_> =
            review(&plan(&text.replace("IDENTITY", identity))).into_iter().filter(of_clients).collect();
        assert!(found.iter().all(|finding| finding.severity() == Severity::Warning));
        found.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    let sha256 = "0".repeat(64);
    let keys = format!(
        r#"{{"api_keys": [{{"name": "k", "sha256": "{sha256}", "tenant": "acme", "user_tier": "gold"}}],
             "anonymous": {{"tenant": "public", "user_tier": "free"}}}}"#
    );
    let named = found(&keys);
    let expected = [
        "routing.rules[0].match.user_tier: `identity` gives `platinum` to nobody",
        "routing.rules[1].match.tenant: `identity` gives `acne` to nobody",
        "routing.rules[2].match.claims.team: claims come with no request: `identity` has neither `jwt` nor `claims_header`",
        "limits[0].match.user_tier: `identity` gives `silver` to nobody",
        "queue.bands[0].user_tier: `identity` gives `tin` to nobody",
        "queue.tenants: `identity` gives `axme` to nobody",
    ];
    assert_eq!(named, expected);
    assert_eq!(found("{}").len(), 12, "nobody has a name");
    // What is trusted may say anything.
    let trusted = r#"{"trusted_headers": {"user_tier": "x-tier"}, "trusted_claims": {"tenant": "tid"}}"#;
    assert_eq!(found(trusted), [] as [&str; 0]);
    // What a proxy in front passes, too.
    let passed = found(r#"{"claims_header": "x-jwt-payload"}"#);
    assert!(!passed.is_empty() && passed.iter().all(|finding| !finding.contains("claims")), "{passed:?}");
}

#[test]
fn a_header_named_twice_counts_twice_in_a_review() {
    let plan = plan(
        r#"{"routing": {"rules": [
            {"name": "both", "match": {"headers": {"X-H": "a", "x-h": {"present": true}}}, "route": {"backend": "a"}},
            {"name": "any", "match": {"headers": {"x-h": {"present": true}}}, "route": {"backend": "b"}},
            {"name": "neither", "match": {"headers": {"X-H": "b", "x-h": "a"}}, "route": {"backend": "b"}}
        ]}}"#,
    );
    let found = review(&plan);
    assert!(!found.iter().any(|f| matches!(f, Finding::Shadowed { .. })), "{found:?}");
    assert!(found.iter().any(|f| matches!(f, Finding::NeverMatches { rule, .. } if rule == "neither")));
}

#[test]
fn a_path_that_no_request_has_is_a_warning() {
    let plan: RequestPlan = serde_json::from_str(
        r#"{"backends": {"b": {}}, "routing": {"default": {"backend": "b"}, "rules": [
            {"name": "up", "match": {"path": "/a/../b"}, "route": {"backend": "b"}},
            {"name": "right", "match": {"path": "/a%2Fb/.well-known"}, "route": {"backend": "b"}}]},
        "limits": [{"name": "l", "unit": "requests", "amount": 1, "match": {"path": {"exact": "/%2e%2e/%61dmin"}}}]}"#,
    )
    .unwrap();
    let warnings: Vec<String> = review(&plan)
        .iter()
        .filter(|finding| finding.severity() == Severity::Warning)
        .map(ToString::to_string)
        .collect();
    let because = |form| format!("paths are compared in one form, here `{form}`");
    assert_eq!(
        warnings,
        [
            format!("routing.rules[0].match.path: no request of a gateway has `/a/../b`: {}", because("/b")),
            format!(
                "limits[0].match.path: no request of a gateway has `/%2e%2e/%61dmin`: {}",
                because("/admin")
            ),
        ]
    );
}

#[test]
fn a_gateway_that_is_open_to_all_is_a_warning() {
    let text = r#"{"backends": {"b": {"key": {"env": "B"}}}, "routing": {"default": {"backend": "b"}},
        "server": {"listen": "LISTEN"}, "identity": IDENTITY}"#;
    let open = |listen: &str, identity: &str| {
        let text = text.replace("LISTEN", listen).replace("IDENTITY", identity);
        let plan: RequestPlan = serde_json::from_str(&text).unwrap();
        review(&plan).iter().any(|finding| matches!(finding, Finding::Open { .. }))
    };
    assert!(open("0.0.0.0:8080", "{}") && open("[::]:8080", "{}"));
    assert!(!open("127.0.0.1:8080", "{}"));
    assert!(!open("0.0.0.0:8080", r#"{"trusted_headers": {"tenant": "x-tenant"}}"#), "a proxy in front asks");
    let hash = "0".repeat(64);
    assert!(!open(
        "0.0.0.0:8080",
        &format!(r#"{{"api_keys": [{{"name": "a", "tenant": "t", "sha256": "{hash}"}}]}}"#)
    ));
}

#[test]
fn backends_that_are_asked_at_the_usual_path_are_named() {
    let text = r#"{"backends": {"a": {}, "b": {}, "c": {}}, "routing": {"default": {"backend": "c"}, "rules": [
        {"name": "r", "match": {"path": "/x"}, "route": {"backend": ["b", "a"], "health_check": true}}]}HEALTH}"#;
    let asked = |health: &str| {
        let plan: RequestPlan = serde_json::from_str(&text.replace("HEALTH", health)).unwrap();
        review(&plan).into_iter().find_map(|finding| match finding {
            Finding::UsualProbe { backends } => Some(backends),
            _ => None,
        })
    };
    assert_eq!(asked(""), Some(vec!["a".to_owned(), "b".to_owned()]));
    assert_eq!(asked(r#", "health": {"probe": {"probe": {"kind": "http", "path": "/ok"}}}"#), None);
}

fn any_path() -> impl Strategy<Value = String> {
    prop::collection::vec(prop::sample::select(vec!["v1", "v2", "chat", "c", "{x}", ""]), 0..4)
        .prop_map(|parts| format!("/{}", parts.join("/")))
}

fn any_match() -> impl Strategy<Value = MatchPlan> {
    let text = || prop::collection::vec(prop::sample::select(vec!["a", "b", "c"]), 0..3);
    let path = prop::option::of((any_path(), 0..4u8)).prop_map(|path| {
        path.map(|(path, kind)| match kind {
            0 => PathMatch::Exact(path),
            1 => PathMatch::Prefix(path),
            2 => PathMatch::Regex("/v1(/.*)?".into()),
            _ => PathMatch::Below(path),
        })
    });
    (
        path,
        text(),
        text(),
        text(),
        prop::option::of(0..2000u64),
        prop::option::of(prop::sample::select(vec!["a", "b"])),
    )
        .prop_map(|(path, tier, tenant, model, tokens, header)| {
            let list = |texts: Vec<&str>| texts.into_iter().map(str::to_owned).collect();
            MatchPlan {
                path,
                user_tier: list(tier),
                tenant: list(tenant),
                model: list(model),
                estimated_tokens: tokens
                    .map(|min| traflux_core::plan::matching::TokenRange { min, ..Default::default() }),
                headers: header
                    .map(|h| ("X-H".to_owned(), traflux_core::plan::matching::TextMatch::Exact(h.to_owned())))
                    .into_iter()
                    .collect(),
                ..MatchPlan::default()
            }
        })
}

proptest! {
    /// The compiled form says what each plan says alone, whatever the others are.
    #[test]
    fn the_compiled_rules_match_as_each_one_alone(
        plans in prop::collection::vec(any_match(), 1..100),
        path in any_path(),
        texts in prop::array::uniform4(prop::sample::select(vec!["a", "b", "c", "d"])),
        tokens in 0..3000u64,
    ) {
        let headers = [("x-h", texts[3])];
        let request = Request {
            path: &path,
            client: Client { user_tier: texts[0], tenant: texts[1], ..Client::default() },
            model: texts[2],
            tokens: TokenEstimate { input: tokens, output: 0 },
            headers: &headers,
            ..Request::default()
        };
        let alone: Vec<usize> = plans
            .iter()
            .enumerate()
            .filter(|(_, plan)| {
                let list = |list: &[String], text: &str| list.is_empty() || list.iter().any(|t| t == text);
                plan.path.as_ref().is_none_or(|p| p.holds(&path).unwrap_or(path == "/v1" || path.starts_with("/v1/")))
                    && list(&plan.user_tier, texts[0])
                    && list(&plan.tenant, texts[1])
                    && list(&plan.model, texts[2])
                    && plan.estimated_tokens.is_none_or(|r| r.contains(tokens))
                    && plan.headers.values().all(|h| h.holds(Some(texts[3])) == Some(true))
            })
            .map(|(ix, _)| ix)
            .collect();
        let matcher = Matcher::new(&plans).unwrap();
        let mut each = Vec::new();
        matcher.each(&request, |ix| each.push(ix));
        prop_assert_eq!(&each, &alone);
        prop_assert_eq!(matcher.first(&request), alone.first().copied());
    }

    /// A rule said to be shadowed never decides.
    #[test]
    fn a_shadowed_rule_never_decides(
        plans in prop::collection::vec(any_match(), 2..12),
        requests in prop::collection::vec((any_path(), prop::array::uniform4(prop::sample::select(vec!["a", "b", "c", "d"])), 0..3000u64), 20),
    ) {
        let mut whole = RequestPlan::default();
        for (ix, matches) in plans.iter().enumerate() {
            whole.routing.rules.push(traflux_core::plan::routing::RulePlan {
                name: ix.to_string(),
                priority: 0,
                matches: matches.clone(),
                route: traflux_core::plan::routing::RoutePlan::to([ix.to_string()]),
            });
        }
        let dead: Vec<usize> = review(&whole)
            .into_iter()
            .filter_map(|f| match f {
                Finding::Shadowed { rule, .. } | Finding::NeverMatches { rule, .. } => rule.parse().ok(),
                _ => None,
            })
            .collect();
        let matcher = Matcher::new(&plans).unwrap();
        for (path, texts, tokens) in &requests {
            let headers = [("x-h", texts[3])];
            let request = Request {
                path,
                client: Client { user_tier: texts[0], tenant: texts[1], ..Client::default() },
                model: texts[2],
                tokens: TokenEstimate { input: *tokens, output: 0 },
                headers: &headers,
                ..Request::default()
            };
            if let Some(first) = matcher.first(&request) {
                prop_assert!(!dead.contains(&first), "{first} of {plans:?}");
            }
        }
    }
}
