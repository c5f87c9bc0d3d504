//! Which conditions of Envoy say what a [`MatchPlan`] says?

use traflux_core::plan::matching::{MatchPlan, PathMatch};

use super::identity::Identity;
use super::pattern::{
    TextTest, alternatives, escaped, expression, foreign_to_re2, query_test, regex, text_test,
};
use super::support::Report;
use crate::proto::rich::*;
use crate::proto::*;

/// Namespace of what is read from a request's body.
pub(crate) const BODY: &str = "traflux.body";

/// Conditions, all of which must hold.
#[derive(Debug, Clone, Default)]
pub(crate) struct Conditions {
    pub(crate) path: Option<PathMatch>,
    pub(crate) headers: Vec<HeaderMatcher>,
    pub(crate) query: Vec<QueryParameterMatcher>,
    pub(crate) metadata: Vec<MetadataMatcher>,
    /// Exact models, where only those are asked for.
    pub(crate) models: Vec<String>,
}

/// What became of a condition.
#[derive(Debug, Clone)]
pub(crate) enum Expressed {
    /// Envoy judges it.
    As(Conditions),
    /// No request can fulfil it.
    Never,
    /// Envoy cannot judge it.
    Impossible,
}

/// Translates conditions and says how; `left_out` is what happens where one cannot be translated.
pub(crate) fn conditions(
    plan: &MatchPlan,
    at: &str,
    left_out: &str,
    identity: &Identity,
    report: &mut Report,
) -> Expressed {
    let mut all = Conditions::default();
    let (mut possible, mut never) = (true, false);
    if let Some(path) = &plan.path {
        let field = format!("{at}.path");
        match path {
            PathMatch::Regex(pattern) if foreign_to_re2(pattern).is_some() => {
                let what = foreign_to_re2(pattern).unwrap_or_default();
                report.unsupported(field, format!("RE2 reads {what} otherwise; {left_out}"));
                possible = false;
            }
            PathMatch::Regex(_) => {
                report.native(field, "safe_regex; RE2 knows ASCII classes (\\d, \\w) only");
            }
            PathMatch::Exact(_) => report.native(field, "path"),
            PathMatch::Prefix(_) => report.native(field, "prefix"),
            PathMatch::Below(_) => report.native(field, "path_separated_prefix"),
        }
        all.path = Some(path.clone());
    }
    if !plan.method.is_empty() {
        report.native(format!("{at}.method"), "header matcher on :method");
        let methods: Vec<_> = plan.method.iter().map(|m| m.to_ascii_uppercase()).collect();
        all.headers.push(header(":method", expression(alternatives(methods.iter().map(String::as_str)))));
    }
    if !plan.host.is_empty() {
        report.native(format!("{at}.host"), "header matcher on :authority, ports stripped");
        let hosts = plan.host.iter().map(|host| match host.strip_prefix('*') {
            Some(suffix) => format!(".+{}", escaped(suffix)),
            None => escaped(host),
        });
        let pattern = format!("(?i)(?:{})", hosts.collect::<Vec<_>>().join("|"));
        all.headers.push(header(":authority", expression(pattern)));
    }
    for (name, text) in &plan.headers {
        let field = format!("{at}.headers.{name}");
        let name = name.to_ascii_lowercase();
        let name = if name == "host" { ":authority".to_owned() } else { name };
        match text_test(text) {
            TextTest::Foreign(what) => {
                report.unsupported(field, format!("RE2 reads {what} otherwise; {left_out}"));
                possible = false;
            }
            TextTest::Present(present) => {
                report.native(field, "header matcher, present");
                all.headers.push(present_header(&name, present));
            }
            TextTest::Matches(matcher) => {
                report.native(
                    field,
                    "header matcher; of a header sent twice Envoy sees both values, joined by a comma",
                );
                all.headers.push(header(&name, matcher));
            }
        }
    }
    for (name, text) in &plan.query {
        let field = format!("{at}.query.{name}");
        use query_parameter_matcher::QueryParameterMatchSpecifier as Q;
        let specifier = match query_test(text) {
            Some(TextTest::Present(present)) => {
                if !present {
                    report.unsupported(
                        &field,
                        format!("a route cannot ask for a parameter's absence; {left_out}"),
                    );
                    possible = false;
                    continue;
                }
                Q::PresentMatch(true)
            }
            Some(TextTest::Matches(matcher)) => Q::StringMatch(matcher),
            Some(TextTest::Foreign(_)) | None => {
                report
                    .unsupported(&field, format!("Envoy judges values before they are decoded; {left_out}"));
                possible = false;
                continue;
            }
        };
        report.native(field, "query parameter matcher that takes every way to encode a value");
        all.query.push(QueryParameterMatcher {
            name: name.clone(),
            query_parameter_match_specifier: Some(specifier),
        });
    }
    for (source, texts, field) in
        [(&identity.user_tier, &plan.user_tier, "user_tier"), (&identity.tenant, &plan.tenant, "tenant")]
    {
        if texts.is_empty() {
            continue;
        }
        report.native(format!("{at}.{field}"), "header matcher on what `identity` names");
        match source.one_of(texts) {
            Ok(matcher) => all.headers.extend(matcher),
            Err(()) => never = true,
        }
    }
    body_conditions(plan, at, &mut all, report);
    if !plan.claims.is_empty() {
        report.needs(
            format!("{at}.claims"),
            format!("jwt_authn with the issuer's keys, which the plan does not hold; {left_out}"),
        );
        possible = false;
    }
    if plan.estimated_tokens.is_some() {
        report.needs(format!("{at}.estimated_tokens"), format!("ext_proc that counts tokens; {left_out}"));
        possible = false;
    }
    match (possible, never) {
        (_, true) => Expressed::Never,
        (false, _) => Expressed::Impossible,
        (true, false) => Expressed::As(all),
    }
}

/// Conditions on what `json_to_metadata` finds in the body.
fn body_conditions(plan: &MatchPlan, at: &str, all: &mut Conditions, report: &mut Report) {
    const GAP: &str = "only bodies of type application/json, read whole before the route is chosen";
    if !plan.model.is_empty() {
        report.approximated(format!("{at}.model"), "json_to_metadata and dynamic_metadata", GAP);
        // A model that is anything is no condition.
        if !plan.model.iter().any(|m| m == "*") {
            let patterns: Vec<_> = plan
                .model
                .iter()
                .map(|model| match model.strip_suffix('*') {
                    Some(prefix) => format!("{}.*", escaped(prefix)),
                    None => escaped(model),
                })
                .collect();
            let matcher = value_matcher::MatchPattern::StringMatch(expression(patterns.join("|")));
            all.metadata.push(metadata("model", matcher, false));
            if plan.model.iter().all(|model| !model.ends_with('*')) {
                all.models = plan.model.clone();
            }
        }
    }
    if let Some(stream) = plan.stream {
        report.approximated(format!("{at}.stream"), "json_to_metadata and dynamic_metadata", GAP);
        all.metadata.push(metadata("stream", value_matcher::MatchPattern::BoolMatch(true), !stream));
    }
}

fn metadata(key: &str, matcher: value_matcher::MatchPattern, invert: bool) -> MetadataMatcher {
    MetadataMatcher {
        filter: BODY.into(),
        path: vec![metadata_matcher::PathSegment {
            segment: Some(metadata_matcher::path_segment::Segment::Key(key.into())),
        }],
        value: Some(ValueMatcher { match_pattern: Some(matcher) }),
        invert,
    }
}

/// The filter that reads model and `stream` from bodies.
pub(crate) fn body_filter() -> (&'static str, Any) {
    let rule = |key: &str| json_to_metadata::Rule {
        selectors: vec![json_to_metadata::Selector {
            selector: Some(json_to_metadata::selector::Selector::Key(key.into())),
        }],
        on_present: Some(json_to_metadata::KeyValuePair {
            metadata_namespace: BODY.into(),
            key: key.into(),
            ..json_to_metadata::KeyValuePair::default()
        }),
        ..json_to_metadata::Rule::default()
    };
    let filter = JsonToMetadata {
        request_rules: Some(json_to_metadata::MatchRules {
            rules: vec![rule("model"), rule("stream")],
            ..json_to_metadata::MatchRules::default()
        }),
        ..JsonToMetadata::default()
    };
    ("envoy.filters.http.json_to_metadata", pack_any(filter))
}

/// A header with a matching value.
pub(crate) fn header(name: &str, matcher: StringMatcher) -> HeaderMatcher {
    HeaderMatcher {
        name: name.to_owned(),
        header_match_specifier: Some(header_matcher::HeaderMatchSpecifier::StringMatch(matcher)),
        ..HeaderMatcher::default()
    }
}

/// A header that is there, or is not.
pub(crate) fn present_header(name: &str, present: bool) -> HeaderMatcher {
    HeaderMatcher {
        name: name.to_owned(),
        header_match_specifier: Some(header_matcher::HeaderMatchSpecifier::PresentMatch(present)),
        ..HeaderMatcher::default()
    }
}

/// How a path is matched by a route.
pub(crate) fn path_specifier(path: Option<&PathMatch>) -> route_match::PathSpecifier {
    use route_match::PathSpecifier as P;
    match path {
        None => P::Prefix("/".into()),
        Some(PathMatch::Exact(path)) => P::Path(path.clone()),
        Some(PathMatch::Prefix(path)) => P::Prefix(path.clone()),
        Some(PathMatch::Regex(pattern)) => P::SafeRegex(regex(pattern.clone())),
        Some(PathMatch::Below(path)) => match path.strip_suffix('/').unwrap_or(path) {
            "" => P::Prefix("/".into()),
            // Envoy wants no slash at the end, and no question mark or hash.
            base if base.ends_with('/') || base.contains(['?', '#']) => {
                P::SafeRegex(regex(format!("{}(?:/.*)?", escaped(base))))
            }
            base => P::PathSeparatedPrefix(base.to_owned()),
        },
    }
}

/// The same as an expression on `:path`, which has the query too.
pub(crate) fn path_expression(path: &PathMatch) -> String {
    const QUERY: &str = r"(?:\?.*)?";
    match path {
        PathMatch::Exact(path) => format!("{}{QUERY}", escaped(path)),
        PathMatch::Prefix(path) => format!("{}.*", escaped(path)),
        PathMatch::Below(path) => {
            format!(r"{}(?:/[^?]*)?{QUERY}", escaped(path.strip_suffix('/').unwrap_or(path)))
        }
        PathMatch::Regex(pattern) => format!("(?:{pattern}){QUERY}"),
    }
}
