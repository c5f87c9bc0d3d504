//! Who does a request say that it is from, which session does it say that it belongs to, and which path does it mean?

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use traflux_core::Timestamp;
use traflux_core::plan::identity::{ApiKeyPlan, ClientPlan, IdentityPlan, TrustedNames};
use traflux_core::plan::requests::RequestPlan;
use traflux_core::plan::routing::RoutePlan;
use traflux_gateway::adapter::Claims;
use traflux_gateway::affinity::{AffinityPlan, AffinitySource};
use traflux_gateway::rule::normal_path;
use traflux_gateway::{Engine, EngineSettings, IdentityTable, Request};

/// SHA-256 of `secret`.
const SECRET: &str = "2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b";

/// The first byte chooses what is trusted; then lines `name: value`, headers first, claims after an empty line. The same
/// text is the header of a proxy in front, and each line of it a path.
pub fn check(data: &[u8]) {
    let Some((first, text)) = data.split_first() else { return };
    passed(text);
    let text = String::from_utf8_lossy(text);
    text.lines().for_each(path);
    let (headers, claims) = text.split_once("\n\n").unwrap_or((&text, ""));
    let (headers, claims) = (pairs(headers), pairs(claims));
    let name = |bit: u8, name: &str| (first & bit != 0).then(|| name.to_owned());
    let plan = IdentityPlan {
        api_keys: vec![ApiKeyPlan {
            name: "ci".into(),
            sha256: SECRET.into(),
            tenant: "acme".into(),
            user_tier: "gold".into(),
        }],
        anonymous: (first & 1 != 0).then(|| ClientPlan { tenant: "public".into(), user_tier: "free".into() }),
        trusted_headers: TrustedNames {
            tenant: name(2, "X-Tenant"),
            user: name(4, "X-User"),
            user_tier: None,
        },
        trusted_claims: TrustedNames { tenant: name(8, "org"), user: None, user_tier: name(16, "tier") },
        ..IdentityPlan::default()
    };
    let table = IdentityTable::new(&plan).expect("the plan is right");
    let Some(client) = table.resolve(&headers, &claims) else {
        assert_eq!(first & 1, 0, "who is anonymous gets in");
        return;
    };
    if client.key.is_empty() {
        assert_eq!(first & 1, 1, "nobody gets in without a key");
    }
    // What is not declared trusted says nothing.
    if first & (2 | 8) == 0 {
        assert_eq!(client.tenant, if client.key.is_empty() { "public" } else { "acme" });
    }
    if first & 16 == 0 {
        assert_eq!(client.user_tier, if client.key.is_empty() { "free" } else { "gold" });
    }
    if first & 4 == 0 {
        assert_eq!(client.user, "");
    }
    let mut plan = RequestPlan::default();
    plan.routing.default = Some(RoutePlan::to(["a", "b", "c"]));
    for key in [
        AffinitySource::Cookie("session".into()),
        AffinitySource::Header("x-session".into()),
        AffinitySource::User,
    ] {
        plan.affinity = Some(AffinityPlan { key, max_pins: 64, ..AffinityPlan::default() });
        let settings = EngineSettings::default();
        let engine = Engine::new(&plan, &settings, Timestamp::ZERO).expect("the plan is right");
        let request = Request { headers: &headers, claims: &claims, client, ..Request::default() };
        let backend = |now| {
            let forward = engine.decide(&request, now).forward().expect("nothing limits it");
            forward.backend().to_owned()
        };
        let first = backend(Timestamp::ZERO);
        if has_session(&headers, &plan) {
            assert_eq!(backend(Timestamp::ZERO), first, "a session stays where it was");
        }
    }
}

/// Claims are the same in either alphabet, and bounded.
fn passed(json: &[u8]) {
    // Whatever the bytes are in base64 already.
    let _ = Claims::from_header(json);
    let Ok(claims) = Claims::from_json(json) else { return };
    assert!(claims.len() <= 256, "{} claims", claims.len());
    for encoded in [STANDARD.encode(json), URL_SAFE_NO_PAD.encode(json)] {
        assert_eq!(Claims::from_header(encoded.as_bytes()).as_ref(), Ok(&claims), "{encoded}");
    }
    assert_eq!(Claims::from_header(json).as_ref(), Ok(&claims), "a header may be plain");
}

/// A path has one form, in which a backend finds nothing to resolve.
fn path(path: &str) {
    let form = normal_path(path);
    assert_eq!(normal_path(&form), form, "{path:?} has more than one form");
    if path.starts_with('/') {
        assert!(form.starts_with('/'), "{path:?} became {form:?}");
        assert!(form.split('/').all(|segment| segment != "." && segment != ".."), "{path:?} became {form:?}");
    }
    for letter in (b'a'..=b'z').chain(*b"0.-_~") {
        let escape = format!("%{letter:02x}");
        assert!(!form.to_ascii_lowercase().contains(&escape), "{path:?} became {form:?}");
    }
}

/// Whether the request certainly belongs to a session: by a cookie in its plainest form.
fn has_session(headers: &[(&str, &str)], plan: &RequestPlan) -> bool {
    let Some(AffinityPlan { key: AffinitySource::Cookie(_), .. }) = &plan.affinity else { return false };
    let cookie = headers.iter().find(|(name, _)| name.eq_ignore_ascii_case("cookie"));
    cookie.is_some_and(|(_, cookie)| cookie.split("; ").any(|pair| pair == "session=1"))
}

fn pairs(text: &str) -> Vec<(&str, &str)> {
    text.lines().map(|line| line.split_once(": ").unwrap_or((line, ""))).collect()
}
