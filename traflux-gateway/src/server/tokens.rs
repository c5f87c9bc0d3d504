//! Which claims of a client are verified?

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use http::header::{AUTHORIZATION, HeaderMap, HeaderName};
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, JwkSet, KeyOperations, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use serde_json::{Map, Value};
use traflux_core::PlanError;
use traflux_core::plan::identity::{IdentityPlan, JwtPlan};
use traflux_core::plan::requests::RequestPlan;

use super::pem;
use super::upstream::{describe, read_secret};
use super::verified::{Verified, fingerprint};
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
    Token(Arc<Claims>),
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
    verified: Verified,
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
            let wrong = |reason: String| {
                Err(GatewayError::Secret { path: path.into(), source_of: describe(source), reason })
            };
            if secret.len() < LEAST_SECRET {
                return wrong(format!("{} bytes, expected at least {LEAST_SECRET}", secret.len()));
            }
            // Everybody who knows a public key could sign with it.
            if pem::is_pem(&secret) || serde_json::from_str::<JwkSet>(&secret).is_ok() {
                return wrong(
                    "keys, expected a shared secret; public keys belong in identity.jwt.keys".into(),
                );
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
            let text = read_secret(path, source)?;
            if pem::is_pem(&text) {
                let found = pem::public_keys(&text).map_err(|problem| wrong(problem.into()))?;
                keys.extend(found.into_iter().map(|(key, algorithms)| Key {
                    id: None,
                    key,
                    validation: validation(plan, algorithms),
                }));
            } else {
                let found = of_set(plan, &text).map_err(wrong)?;
                keys.extend(found);
            }
        }
        Ok(Self { keys, verified: Verified::default(), forward: plan.forward })
    }

    /// The claims of a token that is valid now.
    fn verify(&self, token: &str) -> Option<Arc<Claims>> {
        // Before the epoch nothing is kept.
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(u64::MAX, |since| since.as_secs());
        let fingerprint = fingerprint(token);
        if let Some(claims) = fingerprint.and_then(|token| self.verified.find(&token, now)) {
            return Some(claims);
        }
        let claims = self.check(token)?;
        // A time may have fractions (RFC 7519, section 2); what is negative or too large saturates.
        let until = claims.get("exp").and_then(Value::as_f64).map_or(0, |exp| exp as u64);
        let claims = Arc::new(Claims::from(claims));
        if let Some(token) = fingerprint {
            self.verified.keep(token, Arc::clone(&claims), now, until);
        }
        Some(claims)
    }

    /// Verifies signature and times.
    fn check(&self, token: &str) -> Option<Map<String, Value>> {
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
        verified.next().map(|token| token.claims)
    }
}

/// The keys of a JWK Set that can verify signatures; else what is wrong with it.
fn of_set(plan: &JwtPlan, text: &str) -> Result<Vec<Key>, String> {
    let set: JwkSet =
        serde_json::from_str(text).map_err(|error| format!("no PEM and no JWK Set: {error}"))?;
    let mut keys = Vec::new();
    for jwk in &set.keys {
        let algorithms = algorithms(jwk);
        if algorithms.is_empty() {
            continue;
        }
        let key = DecodingKey::from_jwk(jwk).map_err(|error| error.to_string())?;
        keys.push(Key { id: jwk.common.key_id.clone(), key, validation: validation(plan, algorithms) });
    }
    if keys.is_empty() {
        return Err("no key of it can verify a signature".into());
    }
    Ok(keys)
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
        AlgorithmParameters::RSA(_) => &pem::RSA,
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
    use std::time::{Duration, Instant};

    use jsonwebtoken::{EncodingKey, Header};
    use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256};
    use traflux_core::plan::backend::KeySource;

    use super::*;
    use crate::request::Lookup;
    use crate::server::pem::tests::{RSA_PEM, RSA_TOKEN};

    fn verifier(text: &str) -> Verifier {
        let folder = tempfile::tempdir().unwrap_or_else(|e| panic!("{e}"));
        let file = folder.path().join("keys");
        std::fs::write(&file, text).unwrap_or_else(|e| panic!("{e}"));
        let keys = Some(KeySource::File(file.to_string_lossy().into()));
        Verifier::new(&JwtPlan { keys, ..JwtPlan::default() }).unwrap_or_else(|e| panic!("{e}"))
    }

    /// A key in PEM and a token that it verifies, both of P-256.
    fn p256() -> (String, String) {
        let pair = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap_or_else(|e| panic!("{e}"));
        let claims = serde_json::json!({"exp": 4_102_444_800_u64, "plan": {"tier": "gold"}});
        let key = EncodingKey::from_ec_der(&pair.serialize_der());
        let token = jsonwebtoken::encode(&Header::new(Algorithm::ES256), &claims, &key);
        (pair.public_key_pem(), token.unwrap_or_else(|e| panic!("{e}")))
    }

    #[test]
    fn a_token_is_verified_once() {
        let _ = jsonwebtoken::crypto::aws_lc::DEFAULT_PROVIDER.install_default();
        for (key, token) in [(RSA_PEM.to_owned(), RSA_TOKEN.to_owned()), p256()] {
            let mut verifier = verifier(&key);
            let tier = |verifier: &Verifier, token: &str| {
                verifier.verify(token).and_then(|claims| claims.value("plan.tier").map(str::to_owned))
            };
            let torn = token.split_at(token.len() - 8).0.to_owned() + "AAAAAAAA";
            assert_eq!(tier(&verifier, &torn), None);
            assert_eq!(tier(&verifier, &token).as_deref(), Some("gold"));
            // Without keys nothing can be verified any more.
            verifier.keys.clear();
            assert_eq!(tier(&verifier, &token).as_deref(), Some("gold"));
            assert_eq!(tier(&verifier, &torn), None);
        }
    }

    #[test]
    fn a_token_that_is_known_takes_a_fraction_of_the_time() {
        let _ = jsonwebtoken::crypto::aws_lc::DEFAULT_PROVIDER.install_default();
        for (name, (key, token)) in [("RS256", (RSA_PEM.to_owned(), RSA_TOKEN.to_owned())), ("ES256", p256())]
        {
            let verifier = verifier(&key);
            let least = |work: &dyn Fn() -> bool| {
                let timed = (0..200).map(|_| {
                    let started = Instant::now();
                    assert!(work());
                    started.elapsed()
                });
                timed.min().unwrap_or(Duration::MAX)
            };
            let before = least(&|| verifier.check(&token).map(Claims::from).is_some());
            let after = least(&|| verifier.verify(&token).is_some());
            println!("{name}: verified in {before:?}, known in {after:?}");
            assert!(after * 2 < before, "{name}: {after:?} where verifying takes {before:?}");
        }
    }

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
