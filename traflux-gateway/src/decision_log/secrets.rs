//! What of a request may be written down?
//!
//! Only what the plan looks at: names of headers, claims and parameters that stand in a rule, a limit or the source
//! of a session's key. API keys never reach the engine. A value under a name that sounds like a secret
//! (`authorization`, `x-api-key`, `cookie`, …) is written as the beginning of its SHA-256, and so are the texts that
//! the plan compares it with; so equality holds in a replay as it did, and no secret is in the log. A rule that looks
//! *into* a secret (its beginning, a pattern) cannot be replayed, and the header says so.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use sha2::{Digest, Sha256};
use traflux_core::plan::limit::LimitScope;
use traflux_core::plan::matching::{MatchPlan, TextMatch};
use traflux_core::plan::requests::RequestPlan;

use super::entry::{Asked, stamp};
use crate::affinity::AffinityKey;
use crate::request::{Lookup, Request};
use crate::retry::Idempotence;

/// Parts of names whose values are written as hashes.
const SECRET_PARTS: [&str; 8] =
    ["auth", "cookie", "token", "secret", "password", "signature", "key", "session"];

/// Names that a plan looks at.
#[derive(Debug, Clone, Default)]
pub(super) struct Visible {
    host: bool,
    headers: Vec<String>,
    claims: Vec<String>,
    query: Vec<String>,
}

impl Visible {
    pub(super) fn of(plan: &RequestPlan) -> Self {
        let (mut headers, mut claims, mut query) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
        let mut host = false;
        for one in conditions(plan) {
            host |= !one.host.is_empty();
            headers.extend(one.headers.keys().map(|name| name.to_ascii_lowercase()));
            claims.extend(one.claims.keys().cloned());
            query.extend(one.query.keys().cloned());
        }
        for scope in plan.limits.iter().flat_map(|limit| &limit.by) {
            if let LimitScope::Header(name) = scope {
                headers.insert(name.to_ascii_lowercase());
            }
        }
        headers.extend(plan.queue.deadline_header.iter().map(|name| name.to_ascii_lowercase()));
        let list = |names: BTreeSet<String>| names.into_iter().collect();
        Self { host, headers: list(headers), claims: list(claims), query: list(query) }
    }

    /// What is written of a request.
    pub(super) fn asked<'a>(
        &'a self,
        request: &Request<'a>,
        session: impl IntoIterator<Item = AffinityKey>,
    ) -> Asked<'a> {
        let looked_up = |names: &'a [String], values: &'a dyn Lookup| -> BTreeMap<_, _> {
            names
                .iter()
                .filter_map(|name| Some((Cow::Borrowed(name.as_str()), shown(name, values.value(name)?))))
                .collect()
        };
        let mut query = Vec::new();
        if !self.query.is_empty() {
            let mut seen = BTreeSet::new();
            for (name, value) in form_urlencoded::parse(request.query.as_bytes()) {
                // Only the first value of a name counts.
                if self.query.iter().any(|n| *n == *name) && seen.insert(name.clone()) {
                    let value = if is_secret(&name) { hashed(&value).into() } else { value };
                    query.push((name, value));
                }
            }
        }
        Asked {
            method: if request.method == "POST" { "".into() } else { request.method.into() },
            host: if self.host { request.host.into() } else { "".into() },
            path: request.path.into(),
            query,
            headers: looked_up(&self.headers, request.headers),
            claims: looked_up(&self.claims, request.claims),
            tenant: request.client.tenant.into(),
            key: request.client.key.into(),
            user: request.client.user.into(),
            tier: request.client.user_tier.into(),
            model: request.model.into(),
            input: request.tokens.input,
            output: request.tokens.output,
            most: request.max_answer,
            bytes: request.bytes,
            stream: request.stream,
            once: request.idempotence == Idempotence::NonIdempotent,
            kind: request.kind.into(),
            deadline: request.deadline.map(stamp),
            session: session.into_iter().map(|key| key.0).collect(),
        }
    }

    /// Names that this looks at and `other` does not: what a log made for `other` cannot tell.
    pub(super) fn beyond(&self, other: &Self) -> Vec<String> {
        let beyond = |kind: &'static str, mine: &[String], theirs: &[String]| {
            mine.iter()
                .filter(|name| !theirs.contains(name))
                .map(|name| format!("{kind} `{name}`"))
                .collect::<Vec<_>>()
        };
        let mut names = beyond("header", &self.headers, &other.headers);
        names.extend(beyond("claim", &self.claims, &other.claims));
        names.extend(beyond("parameter", &self.query, &other.query));
        if self.host && !other.host {
            names.push("the host".to_owned());
        }
        names
    }
}

/// Limits whose keys are made of secrets: their levels cannot be written.
pub(super) fn secret_limits(plan: &RequestPlan) -> Vec<String> {
    let secret = |scope: &LimitScope| matches!(scope, LimitScope::Header(name) if is_secret(name));
    plan.limits.iter().filter(|limit| limit.by.iter().any(secret)).map(|limit| limit.name.clone()).collect()
}

/// The plan as it may be written, and why it cannot be replayed where it cannot.
pub(super) fn without_secrets(plan: &RequestPlan) -> (RequestPlan, Option<String>) {
    let mut plan = plan.clone();
    // Who has which key is told before the engine; where a server listens does not concern it.
    plan.identity = Default::default();
    plan.server = Default::default();
    let mut looked_into = None;
    for limit in &mut plan.limits {
        let secret = |scope: &LimitScope| matches!(scope, LimitScope::Header(name) if is_secret(name));
        if limit.by.iter().any(secret) && !limit.overrides.is_empty() {
            if limit.by.len() > 1 {
                // Of a key of several parts a hash of the whole says nothing about its parts.
                looked_into
                    .get_or_insert_with(|| format!("`{}` has amounts of its own for secrets", limit.name));
            }
            let own = std::mem::take(&mut limit.overrides);
            limit.overrides = own.into_iter().map(|(key, amount)| (hashed(&key), amount)).collect();
        }
    }
    let rules = plan.routing.rules.iter_mut().map(|rule| (rule.name.clone(), &mut rule.matches));
    let limits = plan.limits.iter_mut().map(|limit| (limit.name.clone(), &mut limit.matches));
    for (name, conditions) in rules.chain(limits) {
        let named = conditions.headers.iter_mut().chain(&mut conditions.claims).chain(&mut conditions.query);
        for (key, text) in named {
            if !is_secret(key) {
                continue;
            }
            match text {
                TextMatch::Exact(text) => *text = hashed(text),
                TextMatch::OneOf(texts) => texts.iter_mut().for_each(|text| *text = hashed(text)),
                TextMatch::Present(_) => {}
                TextMatch::Prefix(text) | TextMatch::Suffix(text) | TextMatch::Contains(text) => {
                    *text = hashed(text);
                    looked_into.get_or_insert_with(|| format!("`{name}` looks into the secret `{key}`"));
                }
                TextMatch::Regex(_) => {
                    *text = TextMatch::Present(true);
                    looked_into.get_or_insert_with(|| format!("`{name}` looks into the secret `{key}`"));
                }
            }
        }
    }
    (plan, looked_into)
}

/// The beginning of the hash of a plan.
pub(super) fn plan_hash(plan: &RequestPlan) -> String {
    // A plan that cannot be written has no hash; it has no header either.
    serde_json::to_vec(plan).map(|text| digits(&text)).unwrap_or_default()
}

fn conditions(plan: &RequestPlan) -> impl Iterator<Item = &MatchPlan> {
    let rules = plan.routing.rules.iter().map(|rule| &rule.matches);
    rules.chain(plan.limits.iter().map(|limit| &limit.matches))
}

fn is_secret(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    SECRET_PARTS.iter().any(|part| name.contains(part))
}

fn shown<'a>(name: &str, value: &'a str) -> Cow<'a, str> {
    if is_secret(name) { hashed(value).into() } else { value.into() }
}

fn hashed(value: &str) -> String {
    format!("sha256:{}", digits(value.as_bytes()))
}

fn digits(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().take(8).fold(String::new(), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(json: &str) -> RequestPlan {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn a_secret_is_written_as_a_hash_on_both_sides_and_still_equal() {
        let plan = plan(
            r#"{"routing": {"rules": [{"name": "vip", "match": {"headers": {"X-Api-Key": "sk-123", "x-team": "a"}},
                "route": {"backend": "b"}}]}}"#,
        );
        let (written, looked_into) = without_secrets(&plan);
        assert_eq!(looked_into, None);
        let text = serde_json::to_string(&written).unwrap();
        assert!(!text.contains("sk-123") && text.contains("x-team"), "{text}");
        let visible = Visible::of(&plan);
        let headers = [("x-api-key", "sk-123"), ("x-team", "a"), ("x-other", "private")];
        let asked = visible.asked(&Request { headers: &headers, ..Request::default() }, []);
        let line = serde_json::to_string(&asked).unwrap();
        assert!(!line.contains("sk-123") && !line.contains("private"), "{line}");
        let TextMatch::Exact(hash) = &written.routing.rules[0].matches.headers["X-Api-Key"] else { panic!() };
        assert_eq!(asked.headers["x-api-key"], **hash);
        assert_eq!(asked.headers["x-team"], "a");
    }

    #[test]
    fn a_claim_whose_name_sounds_like_a_secret_is_written_as_a_hash_on_both_sides() {
        let plan = plan(
            r#"{"routing": {"rules": [{"name": "admin", "match": {"claims": {"authorities": {"one_of": ["ADMIN", "ROOT"]}}},
                "route": {"backend": "b"}}]}}"#,
        );
        let (written, looked_into) = without_secrets(&plan);
        assert_eq!(looked_into, None);
        let visible = Visible::of(&plan);
        let claims = [("authorities", "ROOT")];
        let asked = visible.asked(&Request { claims: &claims, ..Request::default() }, []);
        let condition = &written.routing.rules[0].matches.claims["authorities"];
        assert_eq!(condition.holds(asked.claims.get("authorities").map(|text| &**text)), Some(true));
        assert!(!serde_json::to_string(&written).unwrap().contains("ADMIN"));
    }

    #[test]
    fn a_rule_that_looks_into_a_secret_is_named() {
        let plan = plan(
            r#"{"routing": {"rules": [{"name": "vip", "match": {"headers": {"authorization": {"prefix": "Bearer sk"}}},
                "route": {"backend": "b"}}]}}"#,
        );
        let (written, looked_into) = without_secrets(&plan);
        assert_eq!(looked_into.as_deref(), Some("`vip` looks into the secret `authorization`"));
        assert!(!serde_json::to_string(&written).unwrap().contains("Bearer"));
    }

    #[test]
    fn of_a_query_only_what_the_plan_looks_at_is_written() {
        let plan = plan(
            r#"{"routing": {"rules": [{"name": "beta", "match": {"query": {"version": "2"}}, "route": {"backend": "b"}}]}}"#,
        );
        let request = Request { query: "key=AIza&version=2&version=3", ..Request::default() };
        let visible = Visible::of(&plan);
        let asked = visible.asked(&request, []);
        assert_eq!(asked.query, [("version".into(), "2".into())]);
    }
}
