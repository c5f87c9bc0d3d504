//! Which requests does a rule, a limit or a band speak of?
//!
//! A [`MatchPlan`] is a conjunction: every field that is set must hold, an empty one holds for every request.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::form::{FromText, one_or_many, text_or_map};

/// Conditions on a request, all of which must hold.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct MatchPlan {
    /// The path, without the query.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<PathMatch>,
    /// The method, one of these; letters of any case.
    #[serde(deserialize_with = "one_or_many", skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(feature = "schema", schemars(with = "super::form::OneOrManySchema<String>"))]
    pub method: Vec<String>,
    /// The host that the client asked for, without port, one of these; `*.example.com` matches any name below.
    #[serde(deserialize_with = "one_or_many", skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(feature = "schema", schemars(with = "super::form::OneOrManySchema<String>"))]
    pub host: Vec<String>,
    /// Headers by name; letters of the name in any case.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, TextMatch>,
    /// Parameters of the query by name.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub query: BTreeMap<String, TextMatch>,
    /// Tier of the client, from its identity, one of these.
    #[serde(deserialize_with = "one_or_many", skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(feature = "schema", schemars(with = "super::form::OneOrManySchema<String>"))]
    pub user_tier: Vec<String>,
    /// Tenant of the client, from its identity, one of these.
    #[serde(deserialize_with = "one_or_many", skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(feature = "schema", schemars(with = "super::form::OneOrManySchema<String>"))]
    pub tenant: Vec<String>,
    /// Model that the request names, one of these; a `*` at the end matches any continuation.
    #[serde(deserialize_with = "one_or_many", skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(feature = "schema", schemars(with = "super::form::OneOrManySchema<String>"))]
    pub model: Vec<String>,
    /// Verified claims of the client's token by name.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub claims: BTreeMap<String, TextMatch>,
    /// Estimated tokens of the request, input and the most of output together.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub estimated_tokens: Option<TokenRange>,
    /// Whether the answer is asked for as a stream.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stream: Option<bool>,
}

impl MatchPlan {
    /// Whether it holds for every request.
    #[must_use]
    pub fn is_any(&self) -> bool {
        *self == Self::default()
    }
}

/// A condition on the path. In short, a text: that path and what lies below it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema), schemars(with = "PathSchema"))]
#[serde(rename_all = "snake_case")]
pub enum PathMatch {
    /// This path, and whatever continues it after a `/`: `/v1` matches `/v1` and `/v1/chat`, not `/v10`.
    Below(String),
    /// Exactly this path.
    Exact(String),
    /// Every path that begins with these characters: `/v1` matches `/v10` too.
    Prefix(String),
    /// Every path that this regular expression matches as a whole.
    Regex(String),
}

#[derive(Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
enum PathForm {
    Below(String),
    Exact(String),
    Prefix(String),
    Regex(String),
}

/// A path and what lies below it, or one of the long forms.
#[cfg(feature = "schema")]
#[derive(schemars::JsonSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "only its schema is used")]
enum PathSchema {
    Below(String),
    Long(PathForm),
}

impl TryFrom<PathForm> for PathMatch {
    type Error = String;

    fn try_from(form: PathForm) -> Result<Self, String> {
        let matched = match form {
            PathForm::Below(path) => Self::Below(path),
            PathForm::Exact(path) => Self::Exact(path),
            PathForm::Prefix(path) => Self::Prefix(path),
            PathForm::Regex(pattern) => return Ok(Self::Regex(pattern)),
        };
        matched.checked()
    }
}

impl PathMatch {
    fn checked(self) -> Result<Self, String> {
        let (Self::Below(path) | Self::Exact(path) | Self::Prefix(path) | Self::Regex(path)) = &self;
        if path.starts_with('/') || matches!(self, Self::Regex(_)) {
            Ok(self)
        } else {
            Err(format!("path `{path}` does not begin with `/`"))
        }
    }

    /// Whether a path fulfils it; a regular expression is not judged here (`None`).
    #[must_use]
    pub fn holds(&self, path: &str) -> Option<bool> {
        match self {
            Self::Below(base) => Some(lies_below(base, path)),
            Self::Exact(exact) => Some(path == exact),
            Self::Prefix(prefix) => Some(path.starts_with(prefix.as_str())),
            Self::Regex(_) => None,
        }
    }
}

/// Whether `path` is `base` or continues it after a slash.
fn lies_below(base: &str, path: &str) -> bool {
    let base = base.strip_suffix('/').unwrap_or(base);
    // An empty path lies nowhere, not below `/` either, so that what holds for `/` begins with one.
    path.strip_prefix(base).is_some_and(|rest| (rest.is_empty() && !path.is_empty()) || rest.starts_with('/'))
}

impl FromText for PathMatch {
    const EXPECTED: &'static str =
        "a path such as `/v1/chat`, or a map with `exact`, `prefix`, `below` or `regex`";

    fn from_text(text: &str) -> Result<Self, String> {
        Self::Below(text.to_owned()).checked()
    }
}

impl<'de> Deserialize<'de> for PathMatch {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        text_or_map::<Self, PathForm, D>(deserializer)
    }
}

/// A condition on a text. In short, a text: exactly that.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema), schemars(with = "TextSchema"))]
#[serde(rename_all = "snake_case")]
pub enum TextMatch {
    /// Exactly this text.
    Exact(String),
    /// One of these texts.
    OneOf(Vec<String>),
    /// A text that begins so.
    Prefix(String),
    /// A text that ends so.
    Suffix(String),
    /// A text with this in it.
    Contains(String),
    /// A text that this regular expression matches as a whole.
    Regex(String),
    /// Any text at all (`true`), or none (`false`).
    Present(bool),
}

#[derive(Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
enum TextForm {
    Exact(String),
    OneOf(Vec<String>),
    Prefix(String),
    Suffix(String),
    Contains(String),
    Regex(String),
    Present(bool),
}

/// A text to equal, or one of the long forms.
#[cfg(feature = "schema")]
#[derive(schemars::JsonSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "only its schema is used")]
enum TextSchema {
    Exact(String),
    Long(TextForm),
}

impl TryFrom<TextForm> for TextMatch {
    type Error = String;

    fn try_from(form: TextForm) -> Result<Self, String> {
        Ok(match form {
            TextForm::Exact(text) => Self::Exact(text),
            TextForm::OneOf(texts) if texts.is_empty() => return Err("`one_of` lists nothing".into()),
            TextForm::OneOf(texts) => Self::OneOf(texts),
            TextForm::Prefix(text) => Self::Prefix(text),
            TextForm::Suffix(text) => Self::Suffix(text),
            TextForm::Contains(text) => Self::Contains(text),
            TextForm::Regex(text) => Self::Regex(text),
            TextForm::Present(present) => Self::Present(present),
        })
    }
}

impl FromText for TextMatch {
    const EXPECTED: &'static str =
        "a text, or a map with `exact`, `one_of`, `prefix`, `suffix`, `contains`, `regex` or `present`";

    fn from_text(text: &str) -> Result<Self, String> {
        Ok(Self::Exact(text.to_owned()))
    }
}

impl<'de> Deserialize<'de> for TextMatch {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        text_or_map::<Self, TextForm, D>(deserializer)
    }
}

impl TextMatch {
    /// Whether a text, or its absence, fulfils it; a regular expression is not judged here (`None`).
    #[must_use]
    pub fn holds(&self, text: Option<&str>) -> Option<bool> {
        Some(match (self, text) {
            (Self::Present(wanted), text) => text.is_some() == *wanted,
            (Self::Regex(_), Some(_)) => return None,
            (_, None) => false,
            (Self::Exact(exact), Some(text)) => text == exact,
            (Self::OneOf(texts), Some(text)) => texts.iter().any(|t| t == text),
            (Self::Prefix(prefix), Some(text)) => text.starts_with(prefix.as_str()),
            (Self::Suffix(suffix), Some(text)) => text.ends_with(suffix.as_str()),
            (Self::Contains(part), Some(text)) => text.contains(part.as_str()),
        })
    }
}

/// A range of tokens, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct TokenRange {
    /// The least.
    pub min: u64,
    /// The most.
    pub max: u64,
}

impl Default for TokenRange {
    fn default() -> Self {
        Self { min: 0, max: u64::MAX }
    }
}

impl TokenRange {
    /// Whether a number lies in it.
    #[must_use]
    pub const fn contains(self, tokens: u64) -> bool {
        self.min <= tokens && tokens <= self.max
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> PathMatch {
        serde_json::from_str(text).unwrap_or_else(|e| panic!("{text}: {e}"))
    }

    #[test]
    fn a_bare_path_matches_that_path_and_what_lies_below_it() {
        let bare = path(r#""/v1/chat""#);
        assert_eq!(bare.holds("/v1/chat"), Some(true));
        assert_eq!(bare.holds("/v1/chat/completions"), Some(true));
        assert_eq!(bare.holds("/v1/chats"), Some(false));
        assert_eq!(path(r#""/""#).holds("/anything"), Some(true));
        assert_eq!(path(r#""/""#).holds(""), Some(false));
        assert_eq!(path(r#"{"exact": "/v1"}"#).holds("/v1/x"), Some(false));
    }

    #[test]
    fn what_is_written_back_reads_the_same() {
        for text in [r#""/v1""#, r#"{"exact":"/v1"}"#, r#"{"regex":"/v[0-9]+"}"#] {
            let first = path(text);
            let json = serde_json::to_string(&first).unwrap_or_default();
            assert_eq!(path(&json), first, "{json}");
        }
    }

    #[test]
    fn a_wrong_form_says_what_was_expected() {
        let error = serde_json::from_str::<PathMatch>("3").err().map(|e| e.to_string()).unwrap_or_default();
        assert!(error.contains("a path such as"), "{error}");
        let error =
            serde_json::from_str::<PathMatch>(r#""v1""#).err().map(|e| e.to_string()).unwrap_or_default();
        assert!(error.contains("`v1` does not begin with `/`"), "{error}");
    }
}
