//! What does a verified token say?

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};
use serde_json::{Map, Value};

use crate::error::GatewayError;
use crate::request::Lookup;

/// Base64 of either alphabet is told apart by its characters; padding may be missing.
const PADDING: GeneralPurposeConfig =
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
const URL_SAFE: GeneralPurpose = GeneralPurpose::new(&base64::alphabet::URL_SAFE, PADDING);
const STANDARD: GeneralPurpose = GeneralPurpose::new(&base64::alphabet::STANDARD, PADDING);

/// Objects within objects, of which deeper ones say nothing.
const MOST_DEPTH: usize = 4;
/// Claims of one token; those beyond it say nothing.
const MOST_CLAIMS: usize = 256;

/// Claims by name, as rules and identities look at them. Nothing here verifies: whoever makes them has done so.
///
/// A text is itself, a number or a truth value its JSON. What lies in an object has its names with a dot between
/// (`realm_access.role`), a list of texts, numbers and truth values is one text with spaces between, as OAuth writes a
/// `scope` (RFC 6749, section 3.3); to look for one of them, match by a regular expression such as `(.* )?admin( .*)?`.
/// Lists of anything else, and `null`, say nothing. Letters of names count as they stand.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Claims(BTreeMap<String, String>);

impl Claims {
    /// Reads the payload of a token.
    ///
    /// # Errors
    /// [`GatewayError::Body`] for what is no JSON object.
    pub fn from_json(json: &[u8]) -> Result<Self, GatewayError> {
        let claims: Map<String, Value> =
            serde_json::from_slice(json).map_err(|error| GatewayError::Body { reason: error.to_string() })?;
        Ok(Self::from(claims))
    }

    /// Reads the header in which a proxy in front passes the payload of a token that it has verified: a JSON object,
    /// plain or in base64 (`forward_payload_header` of Envoy's `jwt_authn`).
    ///
    /// # Errors
    /// [`GatewayError::Body`] for what is neither.
    pub fn from_header(value: &[u8]) -> Result<Self, GatewayError> {
        if value.trim_ascii_start().starts_with(b"{") {
            return Self::from_json(value);
        }
        let is_standard = value.iter().any(|b| matches!(b, b'+' | b'/'));
        let json = if is_standard { STANDARD.decode(value) } else { URL_SAFE.decode(value) };
        Self::from_json(&json.map_err(|error| GatewayError::Body { reason: error.to_string() })?)
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn add(&mut self, before: &str, claims: Map<String, Value>, depth: usize) {
        for (name, value) in claims {
            if self.0.len() >= MOST_CLAIMS {
                return;
            }
            let name = if before.is_empty() { name } else { format!("{before}.{name}") };
            match value {
                Value::Object(within) if depth < MOST_DEPTH => self.add(&name, within, depth + 1),
                Value::Array(list) => {
                    if let Some(texts) = list.into_iter().map(scalar).collect::<Option<Vec<_>>>() {
                        self.0.insert(name, texts.join(" "));
                    }
                }
                value => {
                    if let Some(text) = scalar(value) {
                        self.0.insert(name, text);
                    }
                }
            }
        }
    }
}

impl From<Map<String, Value>> for Claims {
    fn from(claims: Map<String, Value>) -> Self {
        let mut read = Self::default();
        read.add("", claims, 1);
        read
    }
}

impl FromIterator<(String, String)> for Claims {
    fn from_iter<I: IntoIterator<Item = (String, String)>>(claims: I) -> Self {
        Self(claims.into_iter().collect())
    }
}

impl Lookup for Claims {
    fn value(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }
}

fn scalar(value: Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text),
        Value::Bool(_) | Value::Number(_) => Some(value.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn claims_are_texts_by_name_whatever_they_were() {
        let json = br#"{"sub": "ann", "age": 7, "ok": true, "none": null, "Sub": "other",
            "roles": ["admin", "dev"], "mixed": [1, {}], "realm": {"access": {"role": "x"}},
            "a": {"b": {"c": {"d": {"e": "deep"}}}}, "https://x.example/tier": "gold"}"#;
        let claims = Claims::from_json(json).unwrap_or_else(|e| panic!("{e}"));
        for (name, expected) in [
            ("sub", Some("ann")),
            ("Sub", Some("other")),
            ("age", Some("7")),
            ("ok", Some("true")),
            ("none", None),
            ("roles", Some("admin dev")),
            ("mixed", None),
            ("realm.access.role", Some("x")),
            ("a.b.c.d.e", None),
            ("https://x.example/tier", Some("gold")),
        ] {
            assert_eq!(claims.value(name), expected, "{name}");
        }
        assert_eq!(Claims::from_json(b"[1]").err().map(|e| e.code()), Some("gateway_body"));
        let many: Map<_, _> = (0..1000).map(|ix| (ix.to_string(), Value::Bool(true))).collect();
        assert_eq!(Claims::from(many).len(), MOST_CLAIMS);
    }
}
