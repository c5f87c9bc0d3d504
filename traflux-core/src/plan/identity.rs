//! Who asks?
//!
//! Tenant and tier come from a table of API keys, or from headers and claims that are declared trusted here because
//! the gateway itself ([`JwtPlan`]) or something in front of it has verified them. Nothing else that a client sends
//! about itself counts.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::backend::KeySource;
use super::form::{millis, one_or_many};
use crate::error::PlanError;

/// How a client is recognised.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct IdentityPlan {
    /// API keys. With at least one, a request without a known key is answered with 401 unless `anonymous` is set.
    pub api_keys: Vec<ApiKeyPlan>,
    /// What a request without a key counts as.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub anonymous: Option<ClientPlan>,
    /// Headers that a trusted proxy in front sets, and strips from what clients send.
    pub trusted_headers: TrustedNames,
    /// Claims that have been verified: by the gateway itself (`jwt`), by a proxy in front (`claims_header`), or by the
    /// program that embeds the engine and passes them.
    pub trusted_claims: TrustedNames,
    /// Bearer tokens that the gateway itself verifies. With it, a request without a valid token or a known key is
    /// answered with 401 unless `anonymous` is set. One whose bearer is neither a known key nor a valid token always is,
    /// whatever it looks like, and so is one with several `Authorization` headers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jwt: Option<JwtPlan>,
    /// Header in which a trusted proxy in front passes the claims that it has verified, and that it strips from what
    /// clients send: a JSON object, plain or in base64, as `forward_payload_header` of Envoy's `jwt_authn` writes it.
    /// Backends do not get it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub claims_header: Option<String>,
}

impl IdentityPlan {
    /// Checks what types cannot say.
    ///
    /// # Errors
    /// [`PlanError::Key`] for tokens without a key, two sources of claims, and a header that cannot be one.
    pub fn validate(&self) -> Result<(), PlanError> {
        let wrong =
            |path: &str, problem: &str| Err(PlanError::Key { path: path.into(), problem: problem.into() });
        for (ix, key) in self.api_keys.iter().enumerate() {
            if key.sha256.len() != 64 || !key.sha256.bytes().all(|b| b.is_ascii_hexdigit()) {
                let problem =
                    format!("{} characters, expected 64 hexadecimal digits", key.sha256.chars().count());
                return wrong(&format!("api_keys[{ix}].sha256"), &problem);
            }
        }
        if let Some(jwt) = &self.jwt {
            if jwt.keys.is_none() && jwt.secret.is_none() {
                return wrong("jwt", "needs `keys` or `secret`, with which tokens are verified");
            }
            if self.claims_header.is_some() {
                return wrong("claims_header", "stands beside `jwt`, but claims come from one of them");
            }
        }
        // The characters of a token of HTTP (RFC 9110, section 5.6.2).
        let fits = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
        match &self.claims_header {
            Some(name) if name.is_empty() || !name.bytes().all(fits) => {
                wrong("claims_header", &format!("`{name}` is no name of a header"))
            }
            _ => Ok(()),
        }
    }
}

/// How tokens are verified (RFC 7519). Each must have a time of expiry and be signed by one of the keys.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct JwtPlan {
    /// Where the issuer's keys come from, as a JWK Set (RFC 7517) or in PEM (`-----BEGIN PUBLIC KEY-----`, one or more):
    /// RSA of 2048 bits and more, P-256, P-384, Ed25519. A key serves the algorithms of its kind, or its `alg` alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keys: Option<KeySource>,
    /// Where a secret shared with the issuer comes from, at least 32 bytes: tokens of HS256.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret: Option<KeySource>,
    /// Who must have issued them (`iss`), one of these; anybody who has the key, without it.
    #[serde(deserialize_with = "one_or_many", skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(feature = "schema", schemars(with = "super::form::OneOrManySchema<String>"))]
    pub issuer: Vec<String>,
    /// For whom they must be (`aud`), one of these. Without it, tokens that name an audience are refused.
    #[serde(deserialize_with = "one_or_many", skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(feature = "schema", schemars(with = "super::form::OneOrManySchema<String>"))]
    pub audience: Vec<String>,
    /// How far clocks may differ, in whole seconds.
    #[serde(rename = "leeway_ms", with = "millis")]
    #[cfg_attr(feature = "schema", schemars(with = "f64"))]
    pub leeway: Duration,
    /// Whether backends that have no `key` of their own get the token. They never get `x-api-key` or `api-key` beside it.
    pub forward: bool,
}

impl Default for JwtPlan {
    fn default() -> Self {
        Self {
            keys: None,
            secret: None,
            issuer: Vec::new(),
            audience: Vec::new(),
            leeway: Duration::from_secs(30),
            forward: false,
        }
    }
}

/// Tenant, user and tier of a client.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct ClientPlan {
    /// Whose limits and fair share it draws on.
    pub tenant: String,
    /// What rules and bands call it.
    pub user_tier: String,
}

/// An API key. Only its hash is written down.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct ApiKeyPlan {
    /// A name for metrics and limits, never secret.
    pub name: String,
    /// SHA-256 of the key, 64 hexadecimal digits (`printf %s "$KEY" | sha256sum`).
    pub sha256: String,
    /// Whose key it is.
    pub tenant: String,
    /// Tier of its requests.
    #[serde(default)]
    pub user_tier: String,
}

/// Names under which tenant, user and tier are found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct TrustedNames {
    /// Name of the tenant's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    /// Name of the user's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Name of the tier's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user_tier: Option<String>,
}
