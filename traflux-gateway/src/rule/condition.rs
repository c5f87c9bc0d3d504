//! Does one condition hold for a request?

use std::fmt;

use regex::Regex;
use traflux_core::plan::matching::{MatchPlan, PathMatch, TextMatch, TokenRange};

use crate::error::GatewayError;
use crate::request::Request;

/// A condition on a request, ready to be judged.
#[derive(Debug, Clone)]
pub struct Condition {
    subject: Subject,
    test: Test,
}

/// What a condition looks at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Subject {
    Path,
    Method,
    Host,
    Header(String),
    Query(String),
    UserTier,
    Tenant,
    Model,
    Claim(String),
    Tokens,
    Stream,
}

#[derive(Debug, Clone)]
pub(crate) enum Test {
    Path(PathMatch),
    Text(TextMatch),
    Regex(Regex),
    /// One of these texts; letters of any case where `fold` is set.
    OneOf {
        texts: Vec<String>,
        fold: bool,
    },
    /// One of these patterns with a `*` at the end (or, for hosts, at the beginning).
    Pattern(Vec<Pattern>),
    Tokens(TokenRange),
    Stream(bool),
}

/// A text with a `*` at one end, or without.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Pattern {
    Exact(String),
    Prefix(String),
    Suffix(String),
}

impl Pattern {
    /// A model: `*` at the end stands for any continuation.
    pub(crate) fn of_model(text: &str) -> Self {
        text.strip_suffix('*').map_or_else(|| Self::Exact(text.to_owned()), |p| Self::Prefix(p.to_owned()))
    }

    /// A host: `*.` at the beginning stands for one or more labels.
    pub(crate) fn of_host(text: &str) -> Self {
        let text = text.to_ascii_lowercase();
        match text.strip_prefix('*') {
            Some(suffix) => Self::Suffix(suffix.to_owned()),
            None => Self::Exact(text),
        }
    }

    pub(crate) fn holds(&self, text: &str) -> bool {
        match self {
            Self::Exact(exact) => text == exact,
            Self::Prefix(prefix) => text.starts_with(prefix.as_str()),
            Self::Suffix(suffix) => text.len() > suffix.len() && text.ends_with(suffix.as_str()),
        }
    }
}

/// A condition that does not hold, and what was found instead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mismatch {
    /// What the condition asks for.
    pub condition: String,
    /// What the request has.
    pub found: Option<String>,
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.found {
            Some(found) => write!(f, "{} does not hold: found `{found}`", self.condition),
            None => write!(f, "{} does not hold: found nothing", self.condition),
        }
    }
}

impl Condition {
    /// The conditions of a plan, those cheap to judge first.
    ///
    /// # Errors
    /// [`GatewayError::Pattern`] for a regular expression that does not compile.
    pub(crate) fn all_of(plan: &MatchPlan) -> Result<Vec<Self>, GatewayError> {
        let mut list = Vec::new();
        let mut add = |subject, test| list.push(Self { subject, test });
        if let Some(range) = plan.estimated_tokens {
            add(Subject::Tokens, Test::Tokens(range));
        }
        if let Some(stream) = plan.stream {
            add(Subject::Stream, Test::Stream(stream));
        }
        let one_of = |texts: &[String]| Test::OneOf { texts: texts.to_vec(), fold: false };
        if !plan.user_tier.is_empty() {
            add(Subject::UserTier, one_of(&plan.user_tier));
        }
        if !plan.tenant.is_empty() {
            add(Subject::Tenant, one_of(&plan.tenant));
        }
        if !plan.method.is_empty() {
            add(Subject::Method, Test::OneOf { texts: plan.method.clone(), fold: true });
        }
        if !plan.model.is_empty() {
            add(Subject::Model, Test::Pattern(plan.model.iter().map(|m| Pattern::of_model(m)).collect()));
        }
        if !plan.host.is_empty() {
            add(Subject::Host, Test::Pattern(plan.host.iter().map(|h| Pattern::of_host(h)).collect()));
        }
        if let Some(path) = &plan.path {
            let test = match path {
                PathMatch::Regex(pattern) => Test::Regex(whole(pattern)?),
                path => Test::Path(path.clone()),
            };
            add(Subject::Path, test);
        }
        let named = |map: &std::collections::BTreeMap<String, TextMatch>, subject: fn(String) -> Subject| {
            map.iter()
                .map(|(name, text)| {
                    let test = match text {
                        TextMatch::Regex(pattern) => Test::Regex(whole(pattern)?),
                        text => Test::Text(text.clone()),
                    };
                    Ok(Self { subject: subject(name.clone()), test })
                })
                .collect::<Result<Vec<_>, GatewayError>>()
        };
        list.extend(named(&plan.headers, |name| Subject::Header(name.to_ascii_lowercase()))?);
        list.extend(named(&plan.claims, Subject::Claim)?);
        list.extend(named(&plan.query, Subject::Query)?);
        Ok(list)
    }

    /// Whether it holds.
    #[must_use]
    pub fn holds(&self, request: &Request<'_>) -> bool {
        match (&self.subject, &self.test) {
            (Subject::Tokens, Test::Tokens(range)) => range.contains(request.tokens.total()),
            (Subject::Stream, Test::Stream(stream)) => request.stream == *stream,
            (Subject::Query(name), test) => test.holds(query_value(request.query, name).as_deref()),
            (subject, test) => test.holds(subject.text(request)),
        }
    }

    /// Why it does not hold; `None` when it does.
    #[must_use]
    pub fn mismatch(&self, request: &Request<'_>) -> Option<Mismatch> {
        if self.holds(request) {
            return None;
        }
        let found = match &self.subject {
            Subject::Tokens => Some(request.tokens.total().to_string()),
            Subject::Stream => Some(request.stream.to_string()),
            Subject::Query(name) => query_value(request.query, name).map(|v| v.into_owned()),
            subject => subject.text(request).map(str::to_owned),
        };
        Some(Mismatch { condition: self.to_string(), found })
    }

    /// Whether the set of rules of a path says whether it holds.
    pub(crate) const fn is_decided_by_path(&self) -> bool {
        matches!(self.test, Test::Path(PathMatch::Below(_) | PathMatch::Exact(_)))
    }

    /// The exact texts, one of which a request must have, for conditions of that kind.
    pub(crate) fn exact_texts(&self) -> Option<(&Subject, Vec<&str>)> {
        let texts = match &self.test {
            Test::OneOf { texts, fold: false } => texts.iter().map(String::as_str).collect(),
            Test::Text(TextMatch::Exact(text)) => vec![text.as_str()],
            Test::Text(TextMatch::OneOf(texts)) => texts.iter().map(String::as_str).collect(),
            Test::Pattern(patterns) => patterns
                .iter()
                .map(|p| match p {
                    Pattern::Exact(text) => Some(text.as_str()),
                    Pattern::Prefix(_) | Pattern::Suffix(_) => None,
                })
                .collect::<Option<Vec<_>>>()?,
            _ => return None,
        };
        (!matches!(self.subject, Subject::Query(_))).then_some((&self.subject, texts))
    }
}

impl Subject {
    /// The text that a request has there. Tokens, streams and queries have texts of their own making.
    #[inline]
    pub(crate) fn text<'a>(&self, request: &Request<'a>) -> Option<&'a str> {
        match self {
            Self::Path => Some(request.path),
            Self::Method => Some(request.method),
            Self::Host => Some(request.host),
            Self::Header(name) => request.headers.value(name),
            Self::Claim(name) => request.claims.value(name),
            Self::UserTier => Some(request.client.user_tier),
            Self::Tenant => Some(request.client.tenant),
            Self::Model => Some(request.model),
            Self::Query(_) | Self::Tokens | Self::Stream => None,
        }
    }
}

impl Test {
    fn holds(&self, text: Option<&str>) -> bool {
        match self {
            Self::Path(path) => text.and_then(|t| path.holds(t)).unwrap_or(false),
            Self::Text(condition) => condition.holds(text).unwrap_or(false),
            Self::Regex(regex) => text.is_some_and(|t| regex.is_match(t)),
            Self::OneOf { texts, fold: false } => text.is_some_and(|t| texts.iter().any(|x| x == t)),
            Self::OneOf { texts, fold: true } => {
                text.is_some_and(|t| texts.iter().any(|x| x.eq_ignore_ascii_case(t)))
            }
            Self::Pattern(patterns) => text.is_some_and(|t| patterns.iter().any(|p| p.holds(t))),
            Self::Tokens(_) | Self::Stream(_) => false,
        }
    }
}

/// The first value of a parameter, decoded.
fn query_value<'a>(query: &'a str, name: &str) -> Option<std::borrow::Cow<'a, str>> {
    form_urlencoded::parse(query.as_bytes()).find(|(n, _)| n == name).map(|(_, value)| value)
}

/// Compiles a regular expression that has to match as a whole, bounded in size.
pub(crate) fn whole(pattern: &str) -> Result<Regex, GatewayError> {
    let build = |text: &str| regex::RegexBuilder::new(text).size_limit(1 << 20).build();
    // Alone first: a parenthesis that closes the group below would leave a part of it without anchors.
    build(pattern).and_then(|_| build(&format!("^(?:{pattern})$"))).map_err(|error| GatewayError::Pattern {
        pattern: pattern.to_owned(),
        reason: last_line(&error.to_string()),
    })
}

fn last_line(text: &str) -> String {
    text.lines().last().unwrap_or(text).trim().to_owned()
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.subject {
            Subject::Path => f.write_str("path")?,
            Subject::Method => f.write_str("method")?,
            Subject::Host => f.write_str("host")?,
            Subject::Header(name) => write!(f, "header {name}")?,
            Subject::Query(name) => write!(f, "query {name}")?,
            Subject::UserTier => f.write_str("user tier")?,
            Subject::Tenant => f.write_str("tenant")?,
            Subject::Model => f.write_str("model")?,
            Subject::Claim(name) => write!(f, "claim {name}")?,
            Subject::Tokens => f.write_str("estimated tokens")?,
            Subject::Stream => f.write_str("stream")?,
        }
        match &self.test {
            Test::Path(PathMatch::Below(path)) => write!(f, " is or lies below `{path}`"),
            Test::Path(PathMatch::Exact(path)) => write!(f, " = `{path}`"),
            Test::Path(PathMatch::Prefix(path)) => write!(f, " begins with `{path}`"),
            Test::Path(PathMatch::Regex(pattern)) => write!(f, " matches `{pattern}`"),
            Test::Text(TextMatch::Exact(text)) => write!(f, " = `{text}`"),
            Test::Text(TextMatch::OneOf(texts)) => write!(f, " is one of `{}`", texts.join("`, `")),
            Test::Text(TextMatch::Prefix(text)) => write!(f, " begins with `{text}`"),
            Test::Text(TextMatch::Suffix(text)) => write!(f, " ends with `{text}`"),
            Test::Text(TextMatch::Contains(text)) => write!(f, " contains `{text}`"),
            Test::Text(TextMatch::Regex(pattern)) => write!(f, " matches `{pattern}`"),
            Test::Text(TextMatch::Present(true)) => f.write_str(" is present"),
            Test::Text(TextMatch::Present(false)) => f.write_str(" is absent"),
            Test::Regex(regex) => write!(f, " matches `{}`", regex.as_str()),
            Test::OneOf { texts, .. } => write!(f, " is one of `{}`", texts.join("`, `")),
            Test::Pattern(patterns) => {
                let texts: Vec<_> = patterns
                    .iter()
                    .map(|p| match p {
                        Pattern::Exact(text) => text.clone(),
                        Pattern::Prefix(text) => format!("{text}*"),
                        Pattern::Suffix(text) => format!("*{text}"),
                    })
                    .collect();
                write!(f, " is one of `{}`", texts.join("`, `"))
            }
            Test::Tokens(TokenRange { min, max: u64::MAX }) => write!(f, " >= {min}"),
            Test::Tokens(TokenRange { min, max }) => write!(f, " in [{min}, {max}]"),
            Test::Stream(stream) => write!(f, " = {stream}"),
        }
    }
}
