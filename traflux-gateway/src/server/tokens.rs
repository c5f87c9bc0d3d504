//! Which claims of a client are verified?

use http::header::{AUTHORIZATION, HeaderMap, HeaderName};
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, JwkSet, KeyOperations, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use serde_json::{Map, Value};
use traflux_core::PlanError;
use traflux_core::plan::identity::{IdentityPlan, JwtPlan};
use traflux_core::plan::requests::RequestPlan;

use super::upstream::{describe, read_secret};
use crate::adapter::{Claims, Headers};
use crate::error::GatewayError;
use crate::identity::IdentityTable;

/// A secret for HS256 is at least as long as its hash (RFC 7518, section 3.2).
const LEAST_SECRET: usize = 32;

/// Where claims come from.
#[derive(Debug, Default)]
pub(super) enum Tokens {
    /// There are none.
    #[default]
    Nowhere,
    /// From a proxy in front.
    Header(HeaderName),
    /// From tokens that are verified here.
    Verified(Verifier),
}

/// What is known of a client.
#[derive(Debug)]
pub(super) enum Shown {
    /// Claims that somebody in front passed, which may be none.
    Claims(Claims),
    /// Claims of a token that is valid.
    Token(Claims),
}

/// Why a client is not believed. What was wrong with a token is told to nobody.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Invalid;

impl Tokens {
    /// Reads keys and secrets.
    pub(super) fn new(plan: &IdentityPlan) -> Result<Self, GatewayError> {
        if let Some(jwt) = &plan.jwt {
            return Ok(Self::Verified(Verifier::new(jwt)?));
        }
        let Some(name) = &plan.claims_header else { return Ok(Self::Nowhere) };
        let name = name.parse().map_err(|_| PlanError::Key {
            path: "identity.claims_header".into(),
            problem: format!("`{name}` is no name of a header"),
        })?;
        Ok(Self::Header(name))
    }

    /// What a request shows. The header of a proxy in front goes no further than here.
    pub(super) fn read(&self, headers: &mut HeaderMap, table: &IdentityTable) -> Result<Shown, Invalid> {
        match self {
            Self::Nowhere => Ok(Shown::Claims(Claims::default())),
            Self::Header(name) => {
                let mut passed = headers.get_all(name).iter();
                let value = passed.next().cloned();
                // Of two the one that the client itself has sent cannot be told.
                if passed.next().is_some() {
                    return Err(Invalid);
                }
                headers.remove(name);
                let claims = value
                    .map(|value| Claims::from_header(value.as_bytes()).map_err(|_| Invalid))
                    .transpose()?;
                Ok(Shown::Claims(claims.unwrap_or_default()))
            }
            Self::Verified(verifier) => {
                let Some(token) = bearer(headers)?.filter(|_| !table.knows(&Headers(headers))) else {
                    return Ok(Shown::Claims(Claims::default()));
                };
                verifier.verify(token).map(Shown::Token).ok_or(Invalid)
            }
        }
    }

    /// Whether backends get the token that was shown; `None` where none was.
    pub(super) fn passes(&self, shown: &Shown) -> Option<bool> {
        match (self, shown) {
            (Self::Verified(verifier), Shown::Token(_)) => Some(verifier.forward),
            _ => None,
        }
    }
}

/// Refuses a plan that looks at claims which this process has from nowhere.
pub(super) fn check(plan: &RequestPlan) -> Result<(), PlanError> {
    let has = plan.identity.jwt.is_some() || plan.identity.claims_header.is_some();
    match plan.uses_claims().filter(|_| !has) {
        Some(path) => Err(PlanError::Key {
            path,
            problem: "claims come from nowhere: needs identity.jwt or identity.claims_header".to_owned(),
        }),
        None => Ok(()),
    }
}

/// What stands in `authorization: Bearer`; nothing without the header or in another scheme.
fn bearer(headers: &HeaderMap) -> Result<Option<&str>, Invalid> {
    let mut sent = headers.get_all(AUTHORIZATION).iter();
    let Some(value) = sent.next() else { return Ok(None) };
    // Of two, a backend may look at the one that was not verified.
    if sent.next().is_some() {
        return Err(Invalid);
    }
    let value = value.to_str().map_err(|_| Invalid)?.trim();
    let (scheme, token) = value.split_once([' ', '\t']).unwrap_or((value, ""));
    Ok(scheme.eq_ignore_ascii_case("bearer").then(|| token.trim()))
}

/// Verifies tokens.
pub(super) struct Verifier {
    keys: Vec<Key>,
    /// Whether backends get what was verified.
    forward: bool,
}

struct Key {
    id: Option<String>,
    key: DecodingKey,
    /// With the algorithms that the key serves: a token cannot choose another.
    validation: Validation,
}

impl std::fmt::Debug for Verifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Verifier").field("keys", &self.keys.len()).finish_non_exhaustive()
    }
}

impl Verifier {
    fn new(plan: &JwtPlan) -> Result<Self, GatewayError> {
        // Fails where one is installed, which is then the embedding program's choice.
        let _ = jsonwebtoken::crypto::aws_lc::DEFAULT_PROVIDER.install_default();
        let mut keys = Vec::new();
        if let Some(source) = &plan.secret {
            let path = "identity.jwt.secret";
            let secret = read_secret(path, source)?;
            if secret.len() < LEAST_SECRET {
                let reason = format!("{} bytes, expected at least {LEAST_SECRET}", secret.len());
                return Err(GatewayError::Secret { path: path.into(), source_of: describe(source), reason });
            }
            keys.push(Key {
                id: None,
                key: DecodingKey::from_secret(secret.as_bytes()),
                validation: validation(plan, vec![Algorithm::HS256]),
            });
        }
        if let Some(source) = &plan.keys {
            let path = "identity.jwt.keys";
            let wrong = |reason: String| GatewayError::Secret {
                path: path.into(),
                source_of: describe(source),
                reason,
            };
            let set: JwkSet = serde_json::from_str(&read_secret(path, source)?)
                .map_err(|error| wrong(format!("no JWK Set: {error}")))?;
            let before = keys.len();
            for jwk in &set.keys {
                let algorithms = algorithms(jwk);
                if algorithms.is_empty() {
                    continue;
                }
                let key = DecodingKey::from_jwk(jwk).map_err(|error| wrong(error.to_string()))?;
                let validation = validation(plan, algorithms);
                keys.push(Key { id: jwk.common.key_id.clone(), key, validation });
            }
            if keys.len() == before {
                return Err(wrong("no key of it can verify a signature".into()));
            }
        }
        Ok(Self { keys, forward: plan.forward })
    }

    fn verify(&self, token: &str) -> Option<Claims> {
        let header = jsonwebtoken::decode_header(token).ok()?;
        // Extensions that must be understood, of which there are none here (RFC 7515, section 4.1.11).
        if header.crit.is_some() {
            return None;
        }
        let fits = |key: &&Key| {
            key.validation.algorithms.contains(&header.alg)
                && (key.id.is_none() || header.kid.is_none() || key.id == header.kid)
        };
        let mut verified = self.keys.iter().filter(fits).filter_map(|key| {
            jsonwebtoken::decode::<Map<String, Value>>(token, &key.key, &key.validation).ok()
        });
        verified.next().map(|token| Claims::from(token.claims))
    }
}

fn validation(plan: &JwtPlan, algorithms: Vec<Algorithm>) -> Validation {
    let mut validation =
        Validation { algorithms, leeway: plan.leeway.as_secs(), validate_nbf: true, ..Validation::default() };
    let mut required = vec!["exp"];
    if !plan.issuer.is_empty() {
        validation.set_issuer(&plan.issuer);
        required.push("iss");
    }
    if !plan.audience.is_empty() {
        validation.set_audience(&plan.audience);
        required.push("aud");
    }
    validation.set_required_spec_claims(&required);
    validation
}

/// The algorithms of signatures that a key may verify; none for keys of other use. Shared secrets have their own place
/// in the plan, since a set of keys is a public thing.
fn algorithms(jwk: &jsonwebtoken::jwk::Jwk) -> Vec<Algorithm> {
    let common = &jwk.common;
    let verifies = common.public_key_use.as_ref().is_none_or(|used| *used == PublicKeyUse::Signature)
        && common.key_operations.as_ref().is_none_or(|all| all.contains(&KeyOperations::Verify));
    if !verifies {
        return Vec::new();
    }
    let all: &[Algorithm] = match &jwk.algorithm {
        AlgorithmParameters::RSA(_) => &[
            Algorithm::RS256,
            Algorithm::RS384,
            Algorithm::RS512,
            Algorithm::PS256,
            Algorithm::PS384,
            Algorithm::PS512,
        ],
        AlgorithmParameters::EllipticCurve(key) => match key.curve {
            EllipticCurve::P256 => &[Algorithm::ES256],
            EllipticCurve::P384 => &[Algorithm::ES384],
            _ => &[],
        },
        AlgorithmParameters::OctetKeyPair(key) if key.curve == EllipticCurve::Ed25519 => &[Algorithm::EdDSA],
        _ => &[],
    };
    match common.key_algorithm {
        None => all.to_vec(),
        Some(own) => {
            let own = Algorithm::try_from(own).ok();
            all.iter().copied().filter(|algorithm| Some(*algorithm) == own).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_verifies_what_its_kind_and_its_own_word_allow() {
        let rsa = r#""kty": "RSA", "n": "AQAB", "e": "AQAB""#;
        let p256 = r#""kty": "EC", "crv": "P-256", "x": "AQAB", "y": "AQAB""#;
        for (key, expected) in [
            (rsa.to_owned(), 6),
            (format!(r#"{rsa}, "alg": "RS256""#), 1),
            (format!(r#"{rsa}, "alg": "ES256""#), 0),
            (format!(r#"{rsa}, "use": "enc""#), 0),
            (format!(r#"{rsa}, "key_ops": ["encrypt"]"#), 0),
            (format!(r#"{p256}, "use": "sig""#), 1),
            (r#""kty": "oct", "k": "AQAB", "alg": "HS256""#.to_owned(), 0),
            (r#""kty": "new", "z": "AQAB""#.to_owned(), 0),
        ] {
            let jwk = serde_json::from_str(&format!("{{{key}}}")).unwrap_or_else(|e| panic!("{key}: {e}"));
            assert_eq!(algorithms(&jwk).len(), expected, "{key}");
        }
    }
}
