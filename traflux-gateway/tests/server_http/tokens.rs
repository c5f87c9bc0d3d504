//! Claims that the gateway verifies, and claims that a proxy in front passes.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jsonwebtoken::jwk::{Jwk, JwkSet};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header};
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ED25519, PublicKeyData};
use serde_json::{Value, json};
use traflux_core::plan::requests::RequestPlan;
use traflux_gateway::server::{Gateway, ServerSettings};

use crate::common::{chat, gateway, plan, post, scripted};

const OK: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}";
/// SHA-256 of `secret`.
const SECRET: &str = "2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b";

fn in_seconds(seconds: i64) -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() as i64 + seconds
}

fn signed(header: &Header, key: &EncodingKey, claims: &Value) -> String {
    format!("Bearer {}", jsonwebtoken::encode(header, claims, key).unwrap())
}

/// Gold goes to a path of its own, and everybody has one request a minute.
fn to_gold(url: &str, identity: &str) -> RequestPlan {
    plan(&format!(
        r#"{{"backends": {{"gold": {{"url": "{url}/gold"}}, "other": {{"url": "{url}/other"}}}},
        "identity": {identity},
        "limits": [{{"name": "each", "unit": "requests", "amount": 1, "shape": "fixed_window",
            "period_ms": 86400000, "by": "tenant", "match": {{"claims": {{"limited": "true"}}}}}}],
        "routing": {{"rules": [{{"name": "gold", "match": {{"claims": {{"plan.tier": "gold"}}}}, "route": {{"backend": "gold"}}}}],
            "default": {{"backend": "other"}}}}}}"#
    ))
}

#[tokio::test]
async fn a_valid_token_says_who_asks_and_an_invalid_one_is_401() {
    let (address, mut heads) = scripted(OK).await;
    let folder = tempfile::tempdir().unwrap();
    let (secret, other) =
        ("a secret of at least thirty-two bytes", "another secret of thirty-two bytes and more");
    let file = folder.path().join("secret");
    std::fs::write(&file, secret).unwrap();
    let plan = to_gold(
        &format!("http://{address}"),
        &format!(
            r#"{{"jwt": {{"secret": {{"file": "{}"}}, "issuer": "https://issuer.example", "audience": ["api"]}},
            "trusted_claims": {{"tenant": "org"}},
            "api_keys": [{{"name": "ci", "sha256": "{SECRET}", "tenant": "acme"}}]}}"#,
            file.display()
        ),
    );
    let gateway = gateway(&plan).await;
    let good = json!({"iss": "https://issuer.example", "aud": ["api", "more"], "exp": in_seconds(60),
        "org": "a", "plan": {"tier": "gold"}, "limited": true});
    let with = |name: &str, value: Value| {
        let mut claims = good.clone();
        claims[name] = value;
        claims
    };
    let hs256 = Header::default();
    let (ours, theirs) =
        (EncodingKey::from_secret(secret.as_bytes()), EncodingKey::from_secret(other.as_bytes()));
    let ask = async |authorization: &str| {
        post(gateway.address(), &[("authorization", authorization)], &chat(1)).await
    };

    assert_eq!(ask(&signed(&hs256, &ours, &good)).await.status, 200);
    let head = heads.recv().await.unwrap();
    assert!(head.starts_with("POST /gold/"), "the rule looks at the claim: {head}");
    assert!(!head.to_lowercase().contains("authorization"), "a token for the gateway went further: {head}");
    // The limit is the tenant's, which the claim names.
    let refused = ask(&signed(&hs256, &ours, &good)).await;
    assert_eq!((refused.status, refused.code().as_str()), (429, "limited"));
    assert_eq!(ask(&signed(&hs256, &ours, &with("org", json!("b")))).await.status, 200);
    heads.recv().await.unwrap();

    let mut critical = hs256.clone();
    critical.crit = Some(vec!["exp".into()]);
    let mut unsigned = signed(&hs256, &ours, &good);
    unsigned.truncate(unsigned.rfind('.').unwrap() + 1);
    // `{"alg":"none"}`, which the library has no name for.
    let none = unsigned.replacen(
        unsigned.trim_start_matches("Bearer ").split('.').next().unwrap(),
        "eyJhbGciOiJub25lIn0",
        1,
    );
    for (wrong, authorization) in [
        ("key", signed(&hs256, &theirs, &good)),
        ("algorithm", signed(&Header::new(Algorithm::HS512), &ours, &good)),
        ("issuer", signed(&hs256, &ours, &with("iss", json!("https://other.example")))),
        ("no issuer", signed(&hs256, &ours, &with("iss", Value::Null))),
        ("audience", signed(&hs256, &ours, &with("aud", json!("web")))),
        ("expiry", signed(&hs256, &ours, &with("exp", json!(in_seconds(-60))))),
        ("no expiry", signed(&hs256, &ours, &with("exp", Value::Null))),
        ("beginning", signed(&hs256, &ours, &with("nbf", json!(in_seconds(60))))),
        ("extension", signed(&critical, &ours, &good)),
        ("signature", unsigned),
        ("none", none),
        ("form", "Bearer a.b.c".into()),
    ] {
        let refused = ask(&authorization).await;
        assert_eq!((refused.status, refused.code().as_str()), (401, "invalid_token"), "{wrong}");
        assert_eq!(refused.headers["www-authenticate"], "Bearer error=\"invalid_token\"");
    }
    // What is no token may be a key; what is neither is not valid, whatever it looks like.
    assert_eq!(ask("Bearer secret").await.status, 200);
    for wrong in ["Bearer guess", "Bearer", "bearer\tguess", "Bearer a.b.c.d.e"] {
        assert_eq!(ask(wrong).await.code(), "invalid_token", "{wrong}");
    }
    assert_eq!(post(gateway.address(), &[], &chat(1)).await.status, 401);
}

#[tokio::test]
async fn only_what_was_verified_is_passed_on() {
    let (address, mut heads) = scripted(OK).await;
    let folder = tempfile::tempdir().unwrap();
    let secret = "a secret of at least thirty-two bytes";
    let file = folder.path().join("secret");
    std::fs::write(&file, secret).unwrap();
    let plan = to_gold(
        &format!("http://{address}"),
        &format!(
            r#"{{"jwt": {{"secret": {{"file": "{}"}}, "forward": true}}, "anonymous": {{"tenant": "public"}},
            "api_keys": [{{"name": "ci", "sha256": "{SECRET}", "tenant": "acme"}}]}}"#,
            file.display()
        ),
    );
    let gateway = gateway(&plan).await;
    let token = signed(
        &Header::default(),
        &EncodingKey::from_secret(secret.as_bytes()),
        &json!({"exp": in_seconds(60), "plan": {"tier": "gold"}}),
    );
    let ask = async |headers: &[(&str, &str)]| post(gateway.address(), headers, &chat(1)).await;

    for key in ["x-api-key", "api-key"] {
        assert_eq!(ask(&[("authorization", &token), (key, "secret")]).await.status, 200);
        let head = heads.recv().await.unwrap();
        assert!(
            head.contains(&token) && !head.contains(": secret"),
            "a key of the gateway went further: {head}"
        );
    }
    // Either of two might be the one that a backend looks at.
    for second in ["Bearer other", "Basic eDp5", &token] {
        let refused = ask(&[("authorization", &token), ("authorization", second)]).await;
        assert_eq!((refused.status, refused.code().as_str()), (401, "invalid_token"), "{second}");
        let refused = ask(&[("authorization", "Bearer secret"), ("authorization", second)]).await;
        assert_eq!(refused.code(), "invalid_token", "{second}");
    }
    // Somebody without a token is anybody; somebody with a wrong one is not.
    assert_eq!(ask(&[]).await.status, 200);
    heads.recv().await.unwrap();
    for wrong in ["Bearer guess", "Bearer a.b.c", "Bearer  "] {
        assert_eq!(ask(&[("authorization", wrong)]).await.code(), "invalid_token", "{wrong}");
    }
    // Another scheme is no token, and for the backend to judge.
    assert_eq!(ask(&[("authorization", "Basic eDp5")]).await.status, 200);
    let head = heads.recv().await.unwrap();
    assert!(head.starts_with("POST /other/") && head.contains("Basic eDp5"), "{head}");
}

#[tokio::test]
async fn keys_of_an_issuer_are_told_apart_and_read_again_when_they_change() {
    let (address, mut heads) = scripted(OK).await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("keys.json");
    let key = |kind, id: &str| {
        let pair = KeyPair::generate_for(kind).unwrap();
        let (der, raw) = (pair.serialize_der(), pair.public_key_raw());
        let (algorithm, private, public) = if *kind == PKCS_ED25519 {
            (Algorithm::EdDSA, EncodingKey::from_ed_der(&der), DecodingKey::from_ed_der(raw))
        } else {
            (Algorithm::ES256, EncodingKey::from_ec_der(&der), DecodingKey::from_ec_der(raw))
        };
        let mut public = Jwk::from_decoding_key(&public, Some(algorithm)).unwrap();
        public.common.key_id = Some(id.to_owned());
        let mut header = Header::new(algorithm);
        header.kid = Some(id.to_owned());
        (header, private, public)
    };
    let (p256, ed25519, next) =
        (key(&PKCS_ECDSA_P256_SHA256, "1"), key(&PKCS_ED25519, "2"), key(&PKCS_ED25519, "3"));
    let write = |keys: &[&Jwk]| {
        let set = JwkSet { keys: keys.iter().map(|key| (*key).clone()).collect() };
        std::fs::write(&file, serde_json::to_string(&set).unwrap()).unwrap();
    };
    write(&[&p256.2, &ed25519.2]);
    let plan = to_gold(
        &format!("http://{address}"),
        &format!(r#"{{"jwt": {{"keys": {{"file": "{}"}}, "forward": true}}}}"#, file.display()),
    );
    let settings = ServerSettings { watch_interval: Duration::from_millis(20), ..ServerSettings::default() };
    let gateway = Gateway::start(&plan, settings).await.unwrap();
    let claims = json!({"exp": in_seconds(60), "plan": {"tier": "gold"}});
    let ask = async |token: &str| post(gateway.address(), &[("authorization", token)], &chat(1)).await;
    for (header, private, _) in [&p256, &ed25519] {
        let token = signed(header, private, &claims);
        assert_eq!(ask(&token).await.status, 200, "{header:?}");
        let head = heads.recv().await.unwrap();
        assert!(head.starts_with("POST /gold/") && head.contains(&token), "{head}");
    }
    // A key under the name of another.
    let mut borrowed = next.0.clone();
    borrowed.kid = Some("2".into());
    assert_eq!(ask(&signed(&borrowed, &next.1, &claims)).await.code(), "invalid_token");
    // A public key is no shared secret.
    let public = serde_json::to_string(&p256.2).unwrap();
    let forged = signed(&Header::default(), &EncodingKey::from_secret(public.as_bytes()), &claims);
    assert_eq!(ask(&forged).await.code(), "invalid_token");
    assert_eq!(post(gateway.address(), &[], &chat(1)).await.code(), "missing_token");

    let token = signed(&next.0, &next.1, &claims);
    assert_eq!(ask(&token).await.status, 401);
    write(&[&next.2]);
    let changed = async {
        while ask(&token).await.status != 200 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(crate::common::PATIENCE, changed).await.unwrap();
    assert_eq!(ask(&signed(&p256.0, &p256.1, &claims)).await.status, 401, "a key that was withdrawn");
}

#[tokio::test]
async fn public_keys_in_pem_verify_and_are_no_secret() {
    let (address, mut heads) = scripted(OK).await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("keys.pem");
    let p256 = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
    let ed25519 = KeyPair::generate_for(&PKCS_ED25519).unwrap();
    let both = p256.public_key_pem() + &ed25519.public_key_pem();
    std::fs::write(&file, &both).unwrap();
    let plan = to_gold(
        &format!("http://{address}"),
        &format!(r#"{{"jwt": {{"keys": {{"file": "{}"}}}}}}"#, file.display()),
    );
    let settings = ServerSettings { watch_interval: Duration::from_millis(20), ..ServerSettings::default() };
    let gateway = Gateway::start(&plan, settings).await.unwrap();
    let claims = json!({"exp": in_seconds(600), "plan": {"tier": "gold"}});
    let ask = async |token: &str| post(gateway.address(), &[("authorization", token)], &chat(1)).await;
    let (es256, eddsa) = (Header::new(Algorithm::ES256), Header::new(Algorithm::EdDSA));
    let of_p256 = signed(&es256, &EncodingKey::from_ec_der(&p256.serialize_der()), &claims);
    let of_ed25519 = signed(&eddsa, &EncodingKey::from_ed_der(&ed25519.serialize_der()), &claims);
    for token in [&of_p256, &of_ed25519, &of_p256] {
        assert_eq!(ask(token).await.status, 200);
        assert!(heads.recv().await.unwrap().starts_with("POST /gold/"));
    }
    // What everybody may know is no secret, in whatever form it is taken for one.
    let pem = p256.public_key_pem();
    for secret in [
        both.as_bytes(),
        both.trim_end().as_bytes(),
        pem.as_bytes(),
        pem.trim_end().as_bytes(),
        &p256.subject_public_key_info(),
        p256.public_key_raw(),
        ed25519.public_key_raw(),
    ] {
        for algorithm in [Algorithm::HS256, Algorithm::HS384, Algorithm::HS512] {
            let forged = signed(&Header::new(algorithm), &EncodingKey::from_secret(secret), &claims);
            assert_eq!(ask(&forged).await.code(), "invalid_token");
        }
    }
    let plan_of = |kind: &str| {
        let plan = format!(r#"{{"jwt": {{"{kind}": {{"file": "{}"}}}}}}"#, file.display());
        to_gold("http://127.0.0.1:1", &plan)
    };
    // Nor does the gateway take it for one where the plan does.
    let error = Gateway::start(&plan_of("secret"), ServerSettings::default()).await.unwrap_err();
    assert!(error.to_string().contains("public keys belong in identity.jwt.keys"), "{error}");

    // A key that is withdrawn takes the tokens with it that it has verified.
    std::fs::write(&file, p256.public_key_pem()).unwrap();
    let changed = async {
        while ask(&of_ed25519).await.status != 401 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(crate::common::PATIENCE, changed).await.unwrap();
    assert_eq!(ask(&of_p256).await.status, 200);
    std::fs::write(&file, p256.serialize_pem()).unwrap();
    let error = Gateway::start(&plan_of("keys"), ServerSettings::default()).await.unwrap_err();
    assert!(error.to_string().contains("a private key"), "{error}");
}

#[tokio::test]
async fn claims_that_a_proxy_in_front_passes_count_where_they_are_declared_and_go_no_further() {
    let (address, mut heads) = scripted(OK).await;
    let url = format!("http://{address}");
    let declared = to_gold(&url, r#"{"claims_header": "X-Jwt-Payload"}"#);
    let gateway = gateway(&declared).await;
    let json = r#"{"plan":{"tier":"gold"},"sub":"ann"}"#;
    // As `forward_payload_header` writes it.
    let encoded = "eyJwbGFuIjp7InRpZXIiOiJnb2xkIn0sInN1YiI6ImFubiJ9";
    for value in [json, encoded] {
        assert_eq!(post(gateway.address(), &[("x-jwt-payload", value)], &chat(1)).await.status, 200);
        let head = heads.recv().await.unwrap();
        assert!(head.starts_with("POST /gold/") && !head.contains("x-jwt-payload"), "{head}");
    }
    assert_eq!(
        post(gateway.address(), &[], &chat(1)).await.status,
        200,
        "a client without claims is a client"
    );
    assert!(heads.recv().await.unwrap().starts_with("POST /other/"));
    for headers in [&[("x-jwt-payload", "nonsense")][..], &[("x-jwt-payload", json), ("x-jwt-payload", json)]]
    {
        assert_eq!(post(gateway.address(), headers, &chat(1)).await.code(), "invalid_token");
    }

    let mut undeclared = declared.clone();
    undeclared.identity.claims_header = None;
    let error = Gateway::start(&undeclared, ServerSettings::default()).await.unwrap_err();
    let expected = "routing.rules[0].match.claims: claims come from nowhere: needs identity.jwt or identity.claims_header";
    assert_eq!(error.to_string(), expected, "a rule that can never hold is no surprise of the night");
    assert_eq!(gateway.reload(&undeclared).unwrap_err().to_string(), expected);
}

#[tokio::test]
async fn keys_that_verify_nothing_are_refused_at_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("keys");
    for (kind, text, expected) in [
        ("secret", "short", "5 bytes, expected at least 32"),
        ("keys", "{}", "no JWK Set"),
        ("keys", r#"{"keys": []}"#, "no key of it can verify a signature"),
        ("keys", r#"{"keys": [{"kty": "oct", "k": "c2VjcmV0"}]}"#, "no key of it can verify a signature"),
    ] {
        std::fs::write(&file, text).unwrap();
        let plan = to_gold(
            "http://127.0.0.1:1",
            &format!(r#"{{"jwt": {{"{kind}": {{"file": "{}"}}}}}}"#, file.display()),
        );
        let error = Gateway::start(&plan, ServerSettings::default()).await.unwrap_err();
        assert_eq!(error.code(), "gateway_secret");
        assert!(error.to_string().contains(expected), "{error}");
    }
}
