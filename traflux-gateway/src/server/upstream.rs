//! How is a backend reached, and with which key?

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use http::Uri;
use http::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue};
use http::uri::{Authority, PathAndQuery, Scheme};
use hyper_rustls::{FixedServerNameResolver, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use tokio_rustls::rustls::pki_types::ServerName;
use traflux_core::PlanError;
use traflux_core::plan::backend::{BackendPlan, BackendTlsPlan, KeySource};
use traflux_core::plan::requests::RequestPlan;

use super::hosts::{Bounds, Connector, Host};
use super::settings::ServerSettings;
use super::tls;
use crate::error::GatewayError;

/// Where a provider's key may stand.
pub(super) const KEY_HEADERS: [HeaderName; 3] =
    [AUTHORIZATION, HeaderName::from_static("x-api-key"), HeaderName::from_static("api-key")];

/// Backends by name.
#[derive(Debug, Default)]
pub(super) struct Upstreams {
    backends: BTreeMap<String, Upstream>,
}

/// One backend.
#[derive(Debug)]
pub(super) struct Upstream {
    addresses: Vec<Address>,
    secret: Option<Secret>,
}

#[derive(Debug)]
struct Address {
    url: String,
    /// Shared with the plans before and after, so that connections outlive a reload.
    host: Arc<Host>,
    /// Put before the path; empty or without a slash at its end.
    prefix: String,
}

/// An address as it is written.
struct Written {
    scheme: Scheme,
    authority: Authority,
    /// What HTTP/1.1 calls it.
    host: HeaderValue,
    prefix: String,
}

/// A key in the forms in which it is sent.
#[derive(Clone)]
struct Secret {
    bearer: HeaderValue,
    plain: HeaderValue,
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret")
    }
}

impl Upstreams {
    /// Backends of a plan; connections of `before` go on where nothing about them has changed.
    pub(super) fn new(
        plan: &RequestPlan,
        settings: &ServerSettings,
        before: Option<&Self>,
    ) -> Result<Self, GatewayError> {
        let mut backends = BTreeMap::new();
        for name in plan.backend_names() {
            let wrong = |key: &str, problem: String| PlanError::Key {
                path: format!("backends.{name}.{key}"),
                problem,
            };
            let backend = plan.backends.get(name).filter(|backend| !backend.url.is_empty());
            let Some(backend) = backend else {
                return Err(wrong("url", "a gateway needs one".into()).into());
            };
            let bounds = Bounds::new(backend, &plan.pool, settings.max_idle_per_host);
            let known = before.and_then(|before| before.backends.get(name));
            let mut addresses: Vec<Address> = Vec::new();
            let mut made = None;
            for (ix, endpoint) in backend.url.iter().enumerate() {
                let written =
                    Written::parse(&endpoint.url).map_err(|problem| wrong(&format!("url[{ix}]"), problem))?;
                let is_same = |host: &&Arc<Host>| {
                    host.bounds == bounds
                        && host.scheme == written.scheme
                        && host.authority == written.authority
                };
                let before = known.map_or(&[][..], |known| &known.addresses);
                let hosts = addresses.iter().chain(before).map(|address| &address.host);
                let host = match hosts.into_iter().find(is_same) {
                    Some(host) => Arc::clone(host),
                    None => {
                        let connector = match &made {
                            Some(connector) => connector,
                            None => made.insert(connector(name, backend)?),
                        };
                        let Written { scheme, authority, host, .. } = written;
                        Arc::new(Host::new(scheme, authority, host, bounds, connector.clone()))
                    }
                };
                addresses.push(Address { url: endpoint.url.clone(), host, prefix: written.prefix });
            }
            let secret = backend.key.as_ref().map(|source| Secret::read(name, source)).transpose()?;
            backends.insert(name.to_owned(), Upstream { addresses, secret });
        }
        Ok(Self { backends })
    }

    pub(super) fn find(&self, name: &str) -> Option<&Upstream> {
        self.backends.get(name)
    }

    /// Closes connections that nobody needs.
    pub(super) fn sweep(&self, now: Instant) {
        for address in self.backends.values().flat_map(|upstream| &upstream.addresses) {
            address.host.sweep(now);
        }
    }
}

impl Upstream {
    /// Where a request for `path` goes at one of its addresses: the host and the path there.
    pub(super) fn target(&self, url: &str, path: &PathAndQuery) -> Option<(&Arc<Host>, Uri)> {
        let address = self.address(url)?;
        let path = if address.prefix.is_empty() {
            path.clone()
        } else {
            PathAndQuery::try_from(format!("{}{path}", address.prefix)).ok()?
        };
        Some((&address.host, Uri::from(path)))
    }

    /// The host of one of its addresses.
    pub(super) fn host(&self, url: &str) -> Option<&Arc<Host>> {
        Some(&self.address(url)?.host)
    }

    /// Where connections to one of its addresses go.
    pub(super) fn host_and_port(&self, url: &str) -> Option<(String, u16)> {
        let host = self.host(url)?;
        let usual = if host.scheme == Scheme::HTTPS { 443 } else { 80 };
        let name = host.authority.host().trim_start_matches('[').trim_end_matches(']');
        Some((name.to_owned(), host.authority.port_u16().unwrap_or(usual)))
    }

    fn address(&self, url: &str) -> Option<&Address> {
        self.addresses.iter().find(|address| address.url == url)
    }

    /// Puts the backend's key where the client's stands, or takes the client's away where `strip` says so.
    pub(super) fn authorize(&self, headers: &mut HeaderMap, strip: bool) {
        if self.secret.is_some() || strip {
            self.replace(headers, &KEY_HEADERS);
        }
    }

    /// The same for a client whose token was verified and shall go on to backends that have no key of their own: only the
    /// token does, for keys beside it were not looked at.
    pub(super) fn pass_token(&self, headers: &mut HeaderMap) {
        let taken = if self.secret.is_some() { &KEY_HEADERS[..] } else { &KEY_HEADERS[1..] };
        self.replace(headers, taken);
    }

    fn replace(&self, headers: &mut HeaderMap, taken: &[HeaderName]) {
        let mut place = AUTHORIZATION;
        for name in taken {
            if headers.remove(name).is_some() {
                place = name.clone();
            }
        }
        if let Some(secret) = &self.secret {
            let value = if place == AUTHORIZATION { &secret.bearer } else { &secret.plain };
            headers.insert(place, value.clone());
        }
    }
}

impl Written {
    fn parse(url: &str) -> Result<Self, String> {
        let parts = url.parse::<Uri>().map_err(|e| format!("`{url}`: {e}"))?.into_parts();
        let (Some(scheme), Some(authority)) = (parts.scheme, parts.authority) else {
            return Err(format!("`{url}` has no scheme or host"));
        };
        let path = parts.path_and_query.unwrap_or_else(|| PathAndQuery::from_static("/"));
        if path.query().is_some() {
            return Err(format!("`{url}` has a query"));
        }
        let prefix = path.path().trim_end_matches('/').to_owned();
        let usual = if scheme == Scheme::HTTPS { 443 } else { 80 };
        let host = match authority.port_u16().filter(|port| *port != usual) {
            Some(port) => format!("{}:{port}", authority.host()),
            None => authority.host().to_owned(),
        };
        let host = HeaderValue::try_from(host).map_err(|e| format!("`{url}`: {e}"))?;
        Ok(Self { scheme, authority, host, prefix })
    }
}

impl Secret {
    fn read(backend: &str, source: &KeySource) -> Result<Self, GatewayError> {
        let path = format!("backends.{backend}.key");
        let text = read_secret(&path, source)?;
        let value = |text: &str| {
            let mut value = HeaderValue::from_str(text).map_err(|_| GatewayError::Secret {
                path: path.clone(),
                source_of: describe(source),
                reason: "characters that no header can hold".into(),
            })?;
            value.set_sensitive(true);
            Ok::<_, GatewayError>(value)
        };
        Ok(Self { bearer: value(&format!("Bearer {text}"))?, plain: value(&text)? })
    }
}

/// Reads a secret from where a plan says.
pub(super) fn read_secret(path: &str, source: &KeySource) -> Result<String, GatewayError> {
    let read = match source {
        KeySource::Env(name) => std::env::var(name).map_err(|e| e.to_string()),
        KeySource::File(file) => std::fs::read_to_string(file).map_err(|e| e.to_string()).map(|text| {
            let text = text.strip_suffix('\n').unwrap_or(&text);
            text.strip_suffix('\r').unwrap_or(text).to_owned()
        }),
    };
    let empty = || Err("it is empty".to_owned());
    read.and_then(|text| if text.is_empty() { empty() } else { Ok(text) })
        .map_err(|reason| GatewayError::Secret { path: path.to_owned(), source_of: describe(source), reason })
}

/// The variable or the file, for messages.
pub(super) fn describe(source: &KeySource) -> String {
    match source {
        KeySource::Env(name) => format!("variable {name}"),
        KeySource::File(file) => format!("file {file}"),
    }
}

fn connector(name: &str, backend: &BackendPlan) -> Result<Connector, GatewayError> {
    let mut connector = HttpConnector::new();
    connector.enforce_http(false);
    connector.set_nodelay(true);
    connector.set_connect_timeout(Some(backend.connect_timeout));
    let plain = BackendTlsPlan::default();
    let plan = backend.tls.as_ref().unwrap_or(&plain);
    let uses_tls = backend.url.iter().any(|endpoint| endpoint.url.starts_with("https:"));
    let builder =
        HttpsConnectorBuilder::new().with_tls_config(tls::client_config(plan, uses_tls)?).https_or_http();
    let builder = match &plan.server_name {
        None => builder,
        Some(server) => {
            let server = ServerName::try_from(server.clone()).map_err(|problem| PlanError::Key {
                path: format!("backends.{name}.tls.server_name"),
                problem: format!("`{server}`: {problem}"),
            })?;
            builder.with_server_name_resolver(FixedServerNameResolver::new(server))
        }
    };
    Ok(if backend.http2 {
        builder.enable_http2().wrap_connector(connector)
    } else {
        builder.enable_all_versions().wrap_connector(connector)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn upstream(url: &str, secret: bool) -> Upstream {
        let plan = format!(
            r#"{{"backends": {{"only": {{"url": "{url}"}}}}, "routing": {{"default": {{"backend": "only"}}}}}}"#
        );
        let plan: RequestPlan = serde_json::from_str(&plan).unwrap_or_else(|e| panic!("{e}"));
        let mut upstreams =
            Upstreams::new(&plan, &ServerSettings::default(), None).unwrap_or_else(|e| panic!("{e}"));
        let mut upstream = upstreams.backends.remove("only").unwrap_or_else(|| panic!("no backend"));
        let value = HeaderValue::from_static;
        upstream.secret = secret.then(|| Secret { bearer: value("Bearer ours"), plain: value("ours") });
        upstream
    }

    fn headers(name: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(HeaderName::from_static(name), HeaderValue::from_static("theirs"))])
    }

    #[test]
    fn a_path_of_the_address_goes_before_that_of_the_request() {
        let path = PathAndQuery::from_static("/v1/chat?x=1");
        for (url, expected, expected_host) in [
            ("http://h:1", "/v1/chat?x=1", "h:1"),
            ("https://h/", "/v1/chat?x=1", "h"),
            ("http://h:80/openai/", "/openai/v1/chat?x=1", "h"),
        ] {
            let upstream = upstream(url, false);
            let (_, uri) = upstream.target(url, &path).unzip();
            assert_eq!(uri.map(|uri| uri.to_string()).as_deref(), Some(expected));
            let written = Written::parse(url).unwrap_or_else(|e| panic!("{e}"));
            assert_eq!(written.host.as_bytes(), expected_host.as_bytes());
        }
    }

    #[test]
    fn the_backends_key_stands_where_the_clients_stood() {
        for (name, expected) in [("authorization", "Bearer ours"), ("x-api-key", "ours"), ("api-key", "ours")]
        {
            let mut headers = headers(name);
            upstream("http://h", true).authorize(&mut headers, true);
            assert_eq!(headers.len(), 1);
            assert_eq!(headers.get(name).map(HeaderValue::as_bytes), Some(expected.as_bytes()));
        }
        let mut none = HeaderMap::new();
        upstream("http://h", true).authorize(&mut none, false);
        assert_eq!(none.get("authorization").map(HeaderValue::as_bytes), Some(&b"Bearer ours"[..]));
    }

    #[test]
    fn a_key_of_the_gateway_never_reaches_a_backend_and_one_of_the_backends_does() {
        let mut ours = headers("x-api-key");
        upstream("http://h", false).authorize(&mut ours, true);
        assert!(ours.is_empty());
        let mut theirs = headers("x-api-key");
        upstream("http://h", false).authorize(&mut theirs, false);
        assert_eq!(theirs.len(), 1);
    }
}
