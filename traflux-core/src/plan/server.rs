//! Where does a gateway listen, and what does it take from a connection?

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::backend::KeySource;
use super::form::millis;
use super::range::{check, check_positive};
use crate::error::PlanError;

/// The side that clients see. Everything is bounded, and nothing listens beyond this machine unless it is said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct ServerPlan {
    /// Address and port.
    pub listen: String,
    /// Where metrics, levels and explanations are served; nowhere without it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub admin: Option<String>,
    /// Where the token of the administrative side comes from. Without it nothing can be changed there, and it listens on
    /// this machine only; beyond it, everything but health needs the token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub admin_key: Option<KeySource>,
    /// File that keeps the levels of limits that are `persistent`, of this process alone. Written every five seconds
    /// and after the last request; a process that is killed forgets what was used in the last seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub levels_file: Option<String>,
    /// TLS of the clients' side; plain HTTP without it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<TlsPlan>,
    /// Headers that tell clients who are refused where they stand with their limits, beside `Retry-After`.
    pub limit_headers: HeaderStyle,
    /// Connections at once; more wait to be accepted.
    pub max_connections: usize,
    /// Bytes of a request's head.
    pub max_header_bytes: usize,
    /// Bytes of a request's body.
    pub max_body_bytes: usize,
    /// Bytes of all bodies that are held at once, those of requests that wait among them; requests beyond are refused
    /// with 503. Bodies that are passed on as they come do not count.
    pub max_buffered_bytes: usize,
    /// Time for the head of a request to come.
    #[serde(rename = "header_timeout_ms", with = "millis")]
    #[cfg_attr(feature = "schema", schemars(with = "f64"))]
    pub header_timeout: Duration,
    /// Time for the body of a request to come.
    #[serde(rename = "body_timeout_ms", with = "millis")]
    #[cfg_attr(feature = "schema", schemars(with = "f64"))]
    pub body_timeout: Duration,
    /// Time from a request to the head of its answer, retries and waiting in the queue included.
    #[serde(rename = "request_timeout_ms", with = "millis")]
    #[cfg_attr(feature = "schema", schemars(with = "f64"))]
    pub request_timeout: Duration,
    /// Time that a stream may be silent.
    #[serde(rename = "stream_idle_timeout_ms", with = "millis")]
    #[cfg_attr(feature = "schema", schemars(with = "f64"))]
    pub stream_idle_timeout: Duration,
    /// Time after which a stream that says nothing no longer counts as in flight at its backend, until it goes on; 5 s.
    #[serde(rename = "stream_quiet_after_ms", with = "millis")]
    #[cfg_attr(feature = "schema", schemars(with = "f64"))]
    pub stream_quiet_after: Duration,
    /// Time that requests have to end in when the gateway stops.
    #[serde(rename = "drain_timeout_ms", with = "millis")]
    #[cfg_attr(feature = "schema", schemars(with = "f64"))]
    pub drain_timeout: Duration,
}

impl Default for ServerPlan {
    fn default() -> Self {
        Self {
            listen: "127.0.0.1:8080".into(),
            admin: None,
            admin_key: None,
            levels_file: None,
            tls: None,
            limit_headers: HeaderStyle::default(),
            max_connections: 20_000,
            max_header_bytes: 64 * 1024,
            max_body_bytes: 16 * 1024 * 1024,
            max_buffered_bytes: 256 * 1024 * 1024,
            header_timeout: Duration::from_secs(10),
            body_timeout: Duration::from_secs(60),
            request_timeout: Duration::from_secs(120),
            stream_idle_timeout: Duration::from_secs(120),
            stream_quiet_after: Duration::from_secs(5),
            drain_timeout: Duration::from_secs(30),
        }
    }
}

impl ServerPlan {
    /// Checks the ranges. A gateway that stops at once (`drain_timeout_ms: 0`) is one.
    ///
    /// # Errors
    /// [`PlanError::Key`] for a size or a time of zero, with which nothing would be served.
    pub fn validate(&self) -> Result<(), PlanError> {
        for (key, most) in [
            ("max_connections", self.max_connections),
            ("max_header_bytes", self.max_header_bytes),
            ("max_body_bytes", self.max_body_bytes),
            ("max_buffered_bytes", self.max_buffered_bytes),
        ] {
            check(most >= 1, key, most, "at least 1")?;
        }
        check_positive("header_timeout_ms", self.header_timeout)?;
        check_positive("body_timeout_ms", self.body_timeout)?;
        check_positive("request_timeout_ms", self.request_timeout)?;
        check_positive("stream_idle_timeout_ms", self.stream_idle_timeout)?;
        check_positive("stream_quiet_after_ms", self.stream_quiet_after)
    }
}

/// Which rate-limit headers clients get.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum HeaderStyle {
    /// `x-ratelimit-{limit,remaining,reset}-{requests,tokens,…}`, as the clients of model providers read.
    #[default]
    Words,
    /// `RateLimit` and `RateLimit-Policy` of draft-ietf-httpapi-ratelimit-headers since 08.
    Draft,
    /// `RateLimit-Limit`, `RateLimit-Remaining`, `RateLimit-Reset` of the drafts up to 06: the tightest limit
    /// alone.
    Legacy,
    /// None. Not `off`, which some readers of YAML take for `false`.
    #[serde(rename = "none")]
    Off,
}

/// Certificate and key; both files are read again when they change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct TlsPlan {
    /// Chain of certificates, PEM.
    pub certificate_file: String,
    /// Private key, PEM.
    pub key_file: String,
    /// Authorities of clients' certificates, PEM; with it a client must show one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_authority_file: Option<String>,
    /// Whether TLS 1.2 is refused.
    #[serde(default)]
    pub tls13_only: bool,
}
