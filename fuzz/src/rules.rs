//! Do the compiled rules say what each says alone, and is what a review says of them true?

use std::collections::BTreeMap;

use libfuzzer_sys::arbitrary::Unstructured;
use regex::Regex;
use traflux_core::plan::matching::{MatchPlan, PathMatch, TextMatch, TokenRange};
use traflux_core::plan::requests::RequestPlan;
use traflux_core::plan::routing::{RoutePlan, RulePlan};
use traflux_gateway::{Client, Finding, Matcher, Request, TokenEstimate, review};

use crate::{coin, number, one};

const PIECES: [&str; 26] = [
    "/", "/v1", "/v1/", "/v10", "chat", "v1", "a", "b", "A", "ab", "*", "*.", ".", "{", "}", "{x}",
    "{*rest}", "\n", "//", "", "é", "%20", "+", "a.b", "[", ":",
];
const EXPRESSIONS: [&str; 16] = [
    "/v[0-9]+",
    ".*",
    "a|b",
    "(?i)a",
    "a)|(?:b",
    "(?m)^a$",
    "(?x) a # ",
    "",
    "[",
    "/v1(/.*)?",
    "(?s).",
    "a*",
    "\\n",
    "^a",
    "a$",
    "(",
];

/// Bytes from which rules and requests are made.
pub fn check(data: &[u8]) {
    let bytes = &mut Unstructured::new(data);
    let count = 1 + number(bytes, 20);
    let plans: Vec<MatchPlan> = (0..count).map(|_| some_match(bytes)).collect();
    let rules = plans.iter().enumerate().map(|(ix, matches)| RulePlan {
        name: ix.to_string(),
        priority: 0,
        matches: matches.clone(),
        route: RoutePlan::to([ix.to_string()]),
    });
    let mut whole = RequestPlan::default();
    whole.routing.rules = rules.collect();
    let findings = review(&whole);
    let matcher = Matcher::new(&plans);
    let compiles = plans.iter().flat_map(expressions).all(|text| Regex::new(text).is_ok());
    let Ok(matcher) = matcher else {
        return;
    };
    assert!(compiles, "an expression that is none was taken");
    let index = |rule: &String| rule.parse::<usize>().expect("a position");
    for _ in 0..8 {
        let texts: Vec<String> = (0..9).map(|_| text(bytes)).collect();
        let mut headers = vec![("x-h", texts[0].as_str()), ("X-G", texts[1].as_str())];
        headers.truncate(number(bytes, 2) as usize);
        let mut claims = vec![("x-h", texts[2].as_str())];
        claims.truncate(number(bytes, 1) as usize);
        let query = format!("x-h={}&{}", texts[3], texts[4]);
        let path = if coin(bytes) { format!("/{}", texts[5]) } else { texts[5].clone() };
        let request = Request {
            method: one(bytes, &["GET", "POST", "get", ""]),
            host: &texts[6],
            path: &path,
            query: &query,
            headers: &headers,
            claims: &claims,
            client: Client { tenant: &texts[7], user_tier: one(bytes, &["", "a", "b"]), ..Client::default() },
            model: &texts[8],
            tokens: TokenEstimate { input: number(bytes, 4), output: one(bytes, &[0, u64::MAX]) },
            stream: coin(bytes),
            ..Request::default()
        };
        let alone: Vec<usize> = (0..plans.len()).filter(|ix| holds(&plans[*ix], &request)).collect();
        let mut together = Vec::new();
        matcher.each(&request, |ix| together.push(ix));
        assert_eq!(together, alone, "{request:?} {query:?} {headers:?} of {plans:#?}");
        assert_eq!(matcher.first(&request), alone.first().copied());
        for ix in 0..plans.len() {
            assert_eq!(matcher.mismatch(ix, &request).is_none(), alone.contains(&ix));
        }
        for finding in &findings {
            match finding {
                Finding::NeverMatches { rule, .. } => {
                    assert!(!alone.contains(&index(rule)), "{finding}: {plans:#?}")
                }
                Finding::Shadowed { rule, by } => {
                    let true_of_both = !alone.contains(&index(rule)) || alone.contains(&index(by));
                    assert!(true_of_both, "{finding}: {request:?} of {plans:#?}");
                }
                _ => {}
            }
        }
        // Two rules of which a review says nothing exclude each other, or one contains the other.
        for (at, one) in alone.iter().enumerate() {
            for other in &alone[at + 1..] {
                let said = findings.iter().any(|finding| match finding {
                    Finding::Overlaps { rule, other: second } => {
                        index(rule) == *one && index(second) == *other
                    }
                    Finding::Shadowed { rule, .. } => index(rule) == *one || index(rule) == *other,
                    _ => false,
                });
                let exception = review(&pair(&plans[*other], &plans[*one]))
                    .iter()
                    .any(|finding| matches!(finding, Finding::Shadowed { .. }));
                assert!(said || exception, "{one} and {other} both hold for {request:?}: {plans:#?}");
            }
        }
    }
}

fn pair(first: &MatchPlan, second: &MatchPlan) -> RequestPlan {
    let mut whole = RequestPlan::default();
    whole.routing.rules = [first, second]
        .iter()
        .enumerate()
        .map(|(ix, matches)| RulePlan {
            name: ix.to_string(),
            priority: 0,
            matches: (*matches).clone(),
            route: RoutePlan::to([ix.to_string()]),
        })
        .collect();
    whole
}

fn text(bytes: &mut Unstructured<'_>) -> String {
    (0..number(bytes, 3)).map(|_| one(bytes, &PIECES)).collect()
}

fn texts(bytes: &mut Unstructured<'_>) -> Vec<String> {
    if coin(bytes) { Vec::new() } else { (0..=number(bytes, 2)).map(|_| text(bytes)).collect() }
}

fn some_text_match(bytes: &mut Unstructured<'_>) -> TextMatch {
    match number(bytes, 6) {
        0 => TextMatch::Exact(text(bytes)),
        1 => TextMatch::OneOf((0..=number(bytes, 2)).map(|_| text(bytes)).collect()),
        2 => TextMatch::Prefix(text(bytes)),
        3 => TextMatch::Suffix(text(bytes)),
        4 => TextMatch::Contains(text(bytes)),
        5 => TextMatch::Regex(one(bytes, &EXPRESSIONS).to_owned()),
        _ => TextMatch::Present(coin(bytes)),
    }
}

fn named(bytes: &mut Unstructured<'_>) -> BTreeMap<String, TextMatch> {
    let most = if number(bytes, 3) == 0 { 2 } else { 0 };
    (0..most).map(|_| (one(bytes, &["x-h", "X-H", "x-g", "a"]).to_owned(), some_text_match(bytes))).collect()
}

fn some_match(bytes: &mut Unstructured<'_>) -> MatchPlan {
    let path = |bytes: &mut Unstructured<'_>| format!("/{}", text(bytes));
    MatchPlan {
        path: match number(bytes, 5) {
            0 => Some(PathMatch::Exact(path(bytes))),
            1 => Some(PathMatch::Prefix(path(bytes))),
            2 => Some(PathMatch::Below(path(bytes))),
            3 => Some(PathMatch::Regex(one(bytes, &EXPRESSIONS).to_owned())),
            _ => None,
        },
        method: if number(bytes, 3) == 0 {
            vec![one(bytes, &["GET", "post", ""]).to_owned()]
        } else {
            Vec::new()
        },
        host: if number(bytes, 3) == 0 { texts(bytes) } else { Vec::new() },
        headers: named(bytes),
        query: named(bytes),
        user_tier: if number(bytes, 3) == 0 { texts(bytes) } else { Vec::new() },
        tenant: if number(bytes, 3) == 0 { texts(bytes) } else { Vec::new() },
        model: if number(bytes, 3) == 0 { texts(bytes) } else { Vec::new() },
        claims: named(bytes),
        estimated_tokens: (number(bytes, 3) == 0)
            .then(|| TokenRange { min: number(bytes, 4), max: one(bytes, &[0, 2, u64::MAX]) }),
        stream: (number(bytes, 3) == 0).then(|| coin(bytes)),
    }
}

fn expressions(plan: &MatchPlan) -> Vec<&str> {
    let path = plan.path.iter().filter_map(|path| match path {
        PathMatch::Regex(text) => Some(text.as_str()),
        _ => None,
    });
    let named = plan.headers.values().chain(plan.query.values()).chain(plan.claims.values());
    let named = named.filter_map(|text| match text {
        TextMatch::Regex(text) => Some(text.as_str()),
        _ => None,
    });
    path.chain(named).collect()
}

/// What the documentation of a plan says, field by field.
fn holds(plan: &MatchPlan, request: &Request<'_>) -> bool {
    let list = |list: &[String], text: &str| list.is_empty() || list.iter().any(|t| t == text);
    let query: Vec<(String, String)> =
        form_urlencoded::parse(request.query.as_bytes()).into_owned().collect();
    let parameter = |name: &str| query.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str());
    plan.path.as_ref().is_none_or(|path| match path {
        PathMatch::Regex(pattern) => matches_whole(pattern, request.path),
        path => path.holds(request.path) == Some(true),
    }) && (plan.method.is_empty() || plan.method.iter().any(|m| m.eq_ignore_ascii_case(request.method)))
        && (plan.host.is_empty()
            || plan.host.iter().any(|host| {
                let host = host.to_ascii_lowercase();
                match host.strip_prefix('*') {
                    Some(suffix) => request.host.len() > suffix.len() && request.host.ends_with(suffix),
                    None => request.host == host,
                }
            }))
        && plan
            .headers
            .iter()
            .all(|(name, text)| text_holds(text, request.headers.value(&name.to_ascii_lowercase())))
        && plan.claims.iter().all(|(name, text)| text_holds(text, request.claims.value(name)))
        && plan.query.iter().all(|(name, text)| text_holds(text, parameter(name)))
        && list(&plan.user_tier, request.client.user_tier)
        && list(&plan.tenant, request.client.tenant)
        && (plan.model.is_empty()
            || plan.model.iter().any(|model| match model.strip_suffix('*') {
                Some(prefix) => request.model.starts_with(prefix),
                None => request.model == model,
            }))
        && plan.estimated_tokens.is_none_or(|range| range.contains(request.tokens.total()))
        && plan.stream.is_none_or(|stream| stream == request.stream)
}

fn text_holds(condition: &TextMatch, text: Option<&str>) -> bool {
    match (condition, text) {
        (TextMatch::Regex(pattern), Some(text)) => matches_whole(pattern, text),
        (TextMatch::Regex(_), None) => false,
        (condition, text) => condition.holds(text) == Some(true),
    }
}

fn matches_whole(pattern: &str, text: &str) -> bool {
    Regex::new(&format!("\\A(?:{pattern})\\z")).is_ok_and(|regex| regex.is_match(text))
}
