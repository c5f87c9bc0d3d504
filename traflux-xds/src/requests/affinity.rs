//! Which filter keeps sessions?

use traflux_core::plan::affinity::{AffinityPlan, AffinitySource};

use super::support::Report;
use crate::proto::rich::*;
use crate::proto::*;

/// Name of the cookie or header in which Envoy hands out the endpoint of a session.
pub(crate) const SESSION: &str = "traflux-session";

/// The filter that sends a session where it was before.
pub(crate) fn filter(plan: Option<&AffinityPlan>, report: &mut Report) -> Option<(String, Any)> {
    let affinity = plan?;
    const GAP: &str = "the client must send back what Envoy hands out, and its requests do not wait for a busy endpoint; \
                       routes with consistent-hash hash the key instead";
    let (name, state) = match &affinity.key {
        AffinitySource::Cookie(_) => (
            "envoy.http.stateful_session.cookie",
            pack_any(CookieBasedSessionState {
                cookie: Some(Cookie {
                    name: SESSION.into(),
                    ttl: duration(affinity.ttl),
                    path: "/".into(),
                    ..Cookie::default()
                }),
            }),
        ),
        AffinitySource::Header(_) => (
            "envoy.http.stateful_session.header",
            pack_any(HeaderBasedSessionState { name: format!("x-{SESSION}") }),
        ),
        AffinitySource::User => {
            report.approximated(
                "affinity",
                "hash_policy",
                "on routes with consistent-hash only, and without memory: sessions move when endpoints come or go",
            );
            return None;
        }
        AffinitySource::Prefix { .. } => {
            report.needs("affinity", "ext_proc that hashes the prompt and sets the endpoint (override_host)");
            return None;
        }
    };
    report.approximated("affinity", "stateful_session", GAP);
    let filter = StatefulSession {
        session_state: Some(TypedExtensionConfig { name: name.into(), typed_config: Some(state) }),
        ..StatefulSession::default()
    };
    Some(("envoy.filters.http.stateful_session".to_owned(), pack_any(filter)))
}
