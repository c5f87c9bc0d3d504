//! What does a configuration of Envoy need beside the plan?

use std::net::IpAddr;
use std::time::Duration;

use traflux_core::HostPlan;

/// What [`compile`](super::compile) needs beside the plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestOptions {
    /// `node.id`.
    pub node_id: String,
    /// Where the admin interface listens; the plan's `server.admin` goes before it.
    pub admin: (IpAddr, u16),
    /// Authorities of backends' certificates, PEM, as Envoy sees the file.
    pub authorities_file: String,
    /// An HTTP service that says who a client is, for plans with API keys: asked with each request's headers, it
    /// answers 200 with the headers [`TENANT_HEADER`](super::TENANT_HEADER) and its like, or refuses. Without it, a
    /// plan that requires keys is compiled so that every request is refused.
    pub authorization: Option<HostPlan>,
    /// Time for that service to answer.
    pub authorization_timeout: Duration,
}

impl Default for RequestOptions {
    fn default() -> Self {
        Self {
            node_id: "envoy-1".into(),
            admin: (IpAddr::from([127, 0, 0, 1]), 9901),
            authorities_file: "/etc/ssl/certs/ca-certificates.crt".into(),
            authorization: None,
            authorization_timeout: Duration::from_millis(500),
        }
    }
}
