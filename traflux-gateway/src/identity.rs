//! Who asks?
//!
//! A client is known by its API key, by a token whose claims were verified, or by headers and claims that the plan
//! declares trusted. The table holds SHA-256 hashes only; a key is hashed once per request and looked up, so that nothing about other keys shows
//! in the time it takes.

use std::collections::HashMap;

use sha2::{Digest, Sha256};
use traflux_core::plan::identity::{ClientPlan, IdentityPlan, TrustedNames};

use crate::error::GatewayError;
use crate::request::{Client, Lookup};

/// Clients by API key and by what is trusted.
#[derive(Debug, Clone, Default)]
pub struct IdentityTable {
    keys: HashMap<[u8; 32], KnownKey>,
    anonymous: Option<ClientPlan>,
    headers: TrustedNames,
    claims: TrustedNames,
    /// Whether only those get in whom something tells.
    closed: bool,
}

#[derive(Debug, Clone)]
struct KnownKey {
    name: String,
    tenant: String,
    user_tier: String,
}

impl IdentityTable {
    /// Compiles a plan.
    ///
    /// # Errors
    /// [`GatewayError::Plan`] for a hash that is none, and for one that stands there twice.
    pub fn new(plan: &IdentityPlan) -> Result<Self, GatewayError> {
        let mut keys = HashMap::new();
        for (ix, key) in plan.api_keys.iter().enumerate() {
            let wrong = |problem: &str| traflux_core::PlanError::Key {
                path: format!("identity.api_keys[{ix}].sha256"),
                problem: problem.to_owned(),
            };
            let hash = digest(&key.sha256).ok_or_else(|| wrong("expected 64 hexadecimal digits"))?;
            let known = KnownKey {
                name: key.name.clone(),
                tenant: key.tenant.clone(),
                user_tier: key.user_tier.clone(),
            };
            if keys.insert(hash, known).is_some() {
                return Err(wrong("another key has the same hash").into());
            }
        }
        let lower = |names: &TrustedNames| {
            let lower = |name: &Option<String>| name.as_ref().map(|n| n.to_ascii_lowercase());
            TrustedNames {
                tenant: lower(&names.tenant),
                user: lower(&names.user),
                user_tier: lower(&names.user_tier),
            }
        };
        Ok(Self {
            closed: !keys.is_empty() || plan.jwt.is_some(),
            keys,
            anonymous: plan.anonymous.clone(),
            headers: lower(&plan.trusted_headers),
            claims: plan.trusted_claims.clone(),
        })
    }

    /// Recognises a client: by its key where it sends one, then what trusted headers and claims say beyond that.
    /// `None` where keys or tokens are required and it has no key that is known.
    #[must_use]
    pub fn resolve<'a>(&'a self, headers: &'a dyn Lookup, claims: &'a dyn Lookup) -> Option<Client<'a>> {
        let client = match (self.known(headers), &self.anonymous) {
            (Some(key), _) => {
                Client { tenant: &key.tenant, key: &key.name, user: "", user_tier: &key.user_tier }
            }
            (None, Some(anonymous)) => {
                Client { tenant: &anonymous.tenant, user_tier: &anonymous.user_tier, ..Client::default() }
            }
            (None, None) if self.closed => return None,
            (None, None) => Client::default(),
        };
        Some(self.trusting(client, headers, claims))
    }

    /// Recognises a client by the claims of its token, which whoever asks has verified, and by trusted headers.
    #[must_use]
    pub fn of_token<'a>(&'a self, headers: &'a dyn Lookup, claims: &'a dyn Lookup) -> Client<'a> {
        self.trusting(Client::default(), headers, claims)
    }

    /// Whether the key that a client sends is in the table.
    #[must_use]
    pub fn knows(&self, headers: &dyn Lookup) -> bool {
        self.known(headers).is_some()
    }

    fn known(&self, headers: &dyn Lookup) -> Option<&KnownKey> {
        if self.keys.is_empty() {
            return None;
        }
        self.keys.get(&<[u8; 32]>::from(Sha256::digest(presented_key(headers)?)))
    }

    fn trusting<'a>(
        &'a self,
        mut client: Client<'a>,
        headers: &'a dyn Lookup,
        claims: &'a dyn Lookup,
    ) -> Client<'a> {
        for (names, values) in [(&self.headers, headers), (&self.claims, claims)] {
            let said = |name: &Option<String>| name.as_ref().and_then(|name| values.value(name));
            if let Some(tenant) = said(&names.tenant) {
                client.tenant = tenant;
            }
            if let Some(user) = said(&names.user) {
                client.user = user;
            }
            if let Some(user_tier) = said(&names.user_tier) {
                client.user_tier = user_tier;
            }
        }
        client
    }
}

/// The key in `authorization: Bearer`, `x-api-key` or `api-key`.
fn presented_key(headers: &dyn Lookup) -> Option<&str> {
    let bearer = headers.value("authorization").and_then(|value| {
        let (scheme, key) = value.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| key.trim())
    });
    bearer.or_else(|| headers.value("x-api-key")).or_else(|| headers.value("api-key"))
}

fn digest(hex: &str) -> Option<[u8; 32]> {
    let hex = hex.as_bytes();
    if hex.len() != 64 {
        return None;
    }
    let mut bytes = [0; 32];
    for (byte, pair) in bytes.iter_mut().zip(hex.chunks_exact(2)) {
        let digit = |c: u8| char::from(c).to_digit(16);
        *byte = u8::try_from(digit(pair[0])? * 16 + digit(pair[1])?).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::NOTHING;

    /// SHA-256 of `secret`.
    const SECRET: &str = "2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b";

    fn table(json: &str) -> IdentityTable {
        let plan: IdentityPlan = serde_json::from_str(json).unwrap_or_else(|e| panic!("{e}"));
        IdentityTable::new(&plan).unwrap_or_else(|e| panic!("{e}"))
    }

    fn with_key() -> IdentityTable {
        table(&format!(
            r#"{{"api_keys": [{{"name": "ci", "sha256": "{SECRET}", "tenant": "acme", "user_tier": "gold"}}],
                "trusted_headers": {{"user": "X-User"}}}}"#
        ))
    }

    #[test]
    fn a_key_gives_tenant_and_tier_and_a_trusted_header_the_user() {
        let table = with_key();
        let headers = [("Authorization", "Bearer secret"), ("x-user", "ann")];
        let client = table.resolve(&headers, &NOTHING);
        assert_eq!(client, Some(Client { tenant: "acme", key: "ci", user: "ann", user_tier: "gold" }));
    }

    #[test]
    fn without_a_known_key_nobody_gets_in_unless_the_plan_says_as_whom() {
        assert_eq!(with_key().resolve(&[("x-api-key", "guess")], &NOTHING), None);
        assert_eq!(with_key().resolve(&NOTHING, &NOTHING), None);
        let open = table(r#"{"anonymous": {"tenant": "public", "user_tier": "free"}}"#);
        assert_eq!(open.resolve(&NOTHING, &NOTHING).map(|c| c.tenant), Some("public"));
    }

    #[test]
    fn headers_that_are_not_declared_trusted_say_nothing() {
        let headers = [("x-api-key", "secret"), ("x-tenant", "other"), ("x-user-tier", "platinum")];
        let table = with_key();
        assert_eq!(
            table.resolve(&headers, &NOTHING).map(|c| (c.tenant, c.user_tier)),
            Some(("acme", "gold"))
        );
    }
}
