//! Who asks?
//!
//! Tenant and tier come from a table of API keys, or from headers and claims that something in front of the
//! gateway has verified and that are declared trusted here. Nothing else that a client sends about itself counts.

use serde::{Deserialize, Serialize};

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
    /// Claims of a token that a trusted proxy in front has verified, or that the embedding program passes.
    pub trusted_claims: TrustedNames,
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
