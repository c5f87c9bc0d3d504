//! Where does a backend listen?

use std::collections::BTreeSet;
use std::net::IpAddr;

use traflux_core::plan::backend::{BackendPlan, BackendTlsPlan, KeySource};
use traflux_core::plan::identity::IdentityPlan;

use super::balance::percent;
use super::identity::is_secured;
use super::options::RequestOptions;
use crate::error::XdsError;
use crate::name::metric_name;
use crate::proto::rich::*;
use crate::proto::*;

/// A URL of a backend, in parts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Upstream {
    pub(crate) tls: bool,
    pub(crate) host: String,
    pub(crate) port: u16,
    /// Path that is put before the request's, without a slash at the end.
    pub(crate) path: String,
    pub(crate) weight: u32,
    pub(crate) tier: u8,
    pub(crate) region: Option<String>,
    /// Whether it gets no new requests.
    pub(crate) draining: bool,
}

impl Upstream {
    fn parse(url: &str) -> Result<Self, &'static str> {
        let (tls, rest) = match (url.strip_prefix("https://"), url.strip_prefix("http://")) {
            (Some(rest), _) => (true, rest),
            (None, Some(rest)) => (false, rest),
            (None, None) => return Err("begins with neither http:// nor https://"),
        };
        let (authority, path) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
        if authority.contains('@') {
            return Err("has a user's name, which belongs into `key`");
        }
        if path.contains(['?', '#']) {
            return Err("has a query");
        }
        let (host, port) = match authority.strip_prefix('[') {
            Some(rest) => rest.split_once(']').ok_or("has a `[` without `]`")?,
            None => authority.find(':').map_or((authority, ""), |at| authority.split_at(at)),
        };
        let port = match port.strip_prefix(':') {
            None if port.is_empty() => {
                if tls {
                    443
                } else {
                    80
                }
            }
            Some(port) => port.parse().ok().filter(|port| *port != 0).ok_or("has no port in [1, 65535]")?,
            None => return Err("has something behind its address"),
        };
        if host.is_empty() {
            return Err("has no host");
        }
        let path = path.trim_end_matches('/').to_owned();
        Ok(Self { tls, host: host.into(), port, path, weight: 1, tier: 0, region: None, draining: false })
    }

    /// What the backend is called in the Host header.
    pub(crate) fn authority(&self) -> String {
        // With TLS this is also the name that its certificate must bear.
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        if self.tls || self.port == 80 { host } else { format!("{host}:{}", self.port) }
    }

    fn is_address(&self) -> bool {
        self.host.parse::<IpAddr>().is_ok()
    }
}

/// What decides whether endpoints of two backends can stand in one cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Manner {
    pub(crate) tls: bool,
    pub(crate) http2: bool,
    pub(crate) path: String,
    pub(crate) key: Option<KeySource>,
    pub(crate) tls_files: Option<BackendTlsPlan>,
    pub(crate) connect_timeout: std::time::Duration,
}

/// A backend of the plan, read.
#[derive(Debug, Clone)]
pub(crate) struct ReadBackend {
    pub(crate) upstreams: Vec<Upstream>,
    pub(crate) manner: Manner,
}

impl ReadBackend {
    /// Reads a backend; `None` where it has no URL.
    pub(crate) fn read(name: &str, plan: &BackendPlan) -> Result<Option<Self>, XdsError> {
        let wrong = |url: &str, problem: &str| XdsError::Upstream {
            backend: name.to_owned(),
            url: url.to_owned(),
            problem: problem.to_owned(),
        };
        let mut upstreams = Vec::new();
        for endpoint in &plan.url {
            let parsed = Upstream::parse(&endpoint.url).map_err(|problem| wrong(&endpoint.url, problem))?;
            let region = endpoint.region.clone();
            let draining = endpoint.draining || plan.draining;
            upstreams.push(Upstream {
                weight: endpoint.weight,
                tier: endpoint.tier,
                region,
                draining,
                ..parsed
            });
        }
        let Some(first) = upstreams.first() else { return Ok(None) };
        let differs = |u: &&Upstream| (u.tls, &u.path) != (first.tls, &first.path);
        if let Some(other) = upstreams.iter().find(differs) {
            let problem =
                "has another scheme or path than the backend's first URL: make it a backend of its own";
            return Err(wrong(&other.authority(), problem));
        }
        let manner = Manner {
            tls: first.tls,
            http2: plan.http2,
            path: first.path.clone(),
            key: plan.key.clone(),
            tls_files: plan.tls.clone(),
            connect_timeout: plan.connect_timeout,
        };
        Ok(Some(Self { upstreams, manner }))
    }

    /// Whether none of its endpoints gets new requests.
    pub(crate) fn is_draining(&self) -> bool {
        self.upstreams.iter().filter(|upstream| upstream.weight > 0).all(|upstream| upstream.draining)
    }
}

/// Endpoints of a cluster, with the weight of the backend of each.
pub(crate) fn assignment(
    cluster: &str,
    members: &[(&str, &ReadBackend, u32)],
    overprovisioning: f64,
) -> ClusterLoadAssignment {
    // Envoy wants priorities without gaps.
    let tiers: BTreeSet<u8> =
        members.iter().flat_map(|(_, backend, _)| backend.upstreams.iter().map(|u| u.tier)).collect();
    let mut localities: Vec<LocalityLbEndpoints> = Vec::new();
    for (name, backend, weight) in members {
        for upstream in backend.upstreams.iter().filter(|u| u.weight > 0) {
            let locality = Some(Locality {
                region: upstream.region.clone().unwrap_or_default(),
                zone: metric_name(name),
                sub_zone: String::new(),
            });
            let priority = tiers.range(..upstream.tier).count() as u32;
            let endpoint = LbEndpoint {
                load_balancing_weight: uint32(weight.saturating_mul(upstream.weight)),
                health_status: if upstream.draining { HealthStatus::Draining } else { HealthStatus::Unknown }
                    .into(),
                host_identifier: Some(lb_endpoint::HostIdentifier::Endpoint(Endpoint {
                    address: address(&upstream.host, upstream.port),
                    hostname: upstream.authority(),
                    health_check_config: Some(envoy_health_host(upstream)),
                    ..Endpoint::default()
                })),
                ..LbEndpoint::default()
            };
            match localities.iter_mut().find(|l| l.locality == locality && l.priority == priority) {
                Some(found) => found.lb_endpoints.push(endpoint),
                None => localities.push(LocalityLbEndpoints {
                    locality,
                    priority,
                    lb_endpoints: vec![endpoint],
                    ..LocalityLbEndpoints::default()
                }),
            }
        }
    }
    localities.sort_by_key(|l| l.priority);
    ClusterLoadAssignment {
        cluster_name: cluster.to_owned(),
        endpoints: localities,
        policy: Some(cluster_load_assignment::Policy {
            overprovisioning_factor: uint32(percent(overprovisioning)),
            ..cluster_load_assignment::Policy::default()
        }),
        ..ClusterLoadAssignment::default()
    }
}

fn envoy_health_host(upstream: &Upstream) -> HealthCheckConfig {
    HealthCheckConfig { hostname: upstream.authority(), ..HealthCheckConfig::default() }
}

/// An address or a name to be looked up.
pub(crate) fn address(host: &str, port: u16) -> Option<Address> {
    Some(Address {
        address: Some(address::Address::SocketAddress(SocketAddress {
            address: host.to_owned(),
            port_specifier: Some(socket_address::PortSpecifier::PortValue(port.into())),
            ..SocketAddress::default()
        })),
    })
}

/// How a cluster learns the addresses of its endpoints.
pub(crate) fn discovery(members: &[(&str, &ReadBackend, u32)]) -> cluster::DiscoveryType {
    let all_known = members.iter().all(|(_, b, _)| b.upstreams.iter().all(Upstream::is_address));
    if all_known { cluster::DiscoveryType::Static } else { cluster::DiscoveryType::StrictDns }
}

/// TLS towards a backend: its certificate must bear the name in its URL.
pub(crate) fn tls(members: &[(&str, &ReadBackend, u32)], options: &RequestOptions) -> TransportSocket {
    // All of a cluster are alike in this.
    let own =
        members.first().and_then(|(_, backend, _)| backend.manner.tls_files.clone()).unwrap_or_default();
    let named = own.server_name.as_deref();
    let hosts: BTreeSet<_> = members
        .iter()
        .flat_map(|(_, b, _)| b.upstreams.iter().map(|u| u.host.as_str()))
        .filter(|host| named.is_none() && host.parse::<IpAddr>().is_ok())
        .chain(named)
        .collect();
    let by_name = hosts.is_empty();
    let addresses = hosts.into_iter().map(|host| SubjectAltNameMatcher {
        san_type: match host.parse::<IpAddr>() {
            Ok(_) => subject_alt_name_matcher::SanType::IpAddress.into(),
            Err(_) => subject_alt_name_matcher::SanType::Dns.into(),
        },
        matcher: Some(StringMatcher {
            match_pattern: Some(string_matcher::MatchPattern::Exact(host.to_owned())),
            ignore_case: false,
        }),
        ..SubjectAltNameMatcher::default()
    });
    let validation = CertificateValidationContext {
        trusted_ca: file(own.authority_file.as_ref().unwrap_or(&options.authorities_file)),
        match_typed_subject_alt_names: addresses.collect(),
        ..CertificateValidationContext::default()
    };
    let context = UpstreamTlsContext {
        common_tls_context: Some(CommonTlsContext {
            tls_certificates: own
                .certificate_file
                .iter()
                .zip(&own.key_file)
                .map(|(certificate, key)| TlsCertificate {
                    certificate_chain: file(certificate),
                    private_key: file(key),
                    ..TlsCertificate::default()
                })
                .collect(),
            alpn_protocols: vec!["h2".into(), "http/1.1".into()],
            validation_context_type: Some(common_tls_context::ValidationContextType::ValidationContext(
                validation,
            )),
            ..CommonTlsContext::default()
        }),
        sni: named.unwrap_or_default().to_owned(),
        auto_host_sni: by_name,
        auto_sni_san_validation: by_name,
        ..UpstreamTlsContext::default()
    };
    TransportSocket {
        name: "envoy.transport_sockets.tls".into(),
        config_type: Some(transport_socket::ConfigType::TypedConfig(pack_any(context))),
    }
}

/// A file.
pub(crate) fn file(path: &str) -> Option<DataSource> {
    Some(DataSource {
        specifier: Some(data_source::Specifier::Filename(path.to_owned())),
        ..DataSource::default()
    })
}

/// The filters that put the key and the path of a backend into requests to it, whichever route they came by.
///
/// They belong to the cluster: a route may send to several, and no key may reach another backend than its own. Of
/// Envoy's filters only scripts may change a path there, read a file that ends in a line break, and put a key where
/// the client's stood.
pub(crate) fn filters(manner: &Manner, rewrites: Rewrites) -> Vec<(&'static str, Any)> {
    if !rewrites.any {
        return Vec::new();
    }
    let source = DataSource {
        specifier: Some(data_source::Specifier::InlineString(script(manner, rewrites.shown))),
        ..DataSource::default()
    };
    let filter = Lua { default_source_code: Some(source), ..Lua::default() };
    vec![
        ("envoy.filters.http.lua", pack_any(filter)),
        ("envoy.filters.http.upstream_codec", pack_any(UpstreamCodec::default())),
    ]
}

/// For whom the keys and tokens are that clients show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shown {
    /// For backends: nobody else looks at them.
    ToBackends,
    /// For the service that Envoy asks.
    ToEnvoy,
    /// The same, and tokens also for backends without a key of their own.
    TokensToBoth,
}

/// What becomes of the heads of a plan's requests on their way to backends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rewrites {
    shown: Shown,
    /// Whether any backend gets another head than the client's. Then all have to begin with that one, for Envoy keeps what
    /// an attempt at one cluster has changed for the next, at another.
    any: bool,
}

impl Rewrites {
    pub(crate) fn of<'a>(identity: &IdentityPlan, manners: impl IntoIterator<Item = &'a Manner>) -> Self {
        let shown = match &identity.jwt {
            Some(jwt) if jwt.forward => Shown::TokensToBoth,
            _ if is_secured(identity) => Shown::ToEnvoy,
            _ => Shown::ToBackends,
        };
        let rewritten = |manner: &Manner| manner.key.is_some() || !manner.path.is_empty();
        Self { shown, any: shown != Shown::ToBackends || manners.into_iter().any(rewritten) }
    }
}

/// Gives each attempt the client's own path and keys, whatever an attempt before has made of them.
const BEGIN: &str = r#"local headers = handle:headers()
  local data = handle:streamInfo():dynamicMetadata()
  local first = data:get("traflux")
  for _, name in ipairs({":path", "authorization", "x-api-key", "api-key"}) do
    if first == nil then data:set("traflux", name, headers:get(name) or "")
    elseif first[name] == "" then headers:remove(name)
    else headers:replace(name, first[name]) end
  end
"#;
/// Takes the client's key away.
const STRIP: &str = r#"  for _, name in ipairs({"authorization", "x-api-key", "api-key"}) do headers:remove(name) end
"#;
/// The same, but for what the service did not name as a key: a token.
const STRIP_BUT_TOKENS: &str = r#"  headers:remove("x-api-key")
  headers:remove("api-key")
  if (headers:get("x-traflux-key") or "") ~= "" then headers:remove("authorization") end
"#;
/// Puts the key where the client's stands, and takes the client's away, wherever that is.
const REPLACE: &str = r#"  local place = "authorization"
  for _, name in ipairs({"authorization", "x-api-key", "api-key"}) do
    if headers:get(name) then place = name headers:remove(name) end
  end
  headers:replace(place, place == "authorization" and "Bearer " .. key or key)
"#;

fn script(manner: &Manner, shown: Shown) -> String {
    let key = manner.key.as_ref().map(|source| match source {
        KeySource::Env(name) => format!("os.getenv(\"{}\")", lua_text(name)),
        KeySource::File(path) => format!("assert(io.open(\"{}\")):read(\"*l\")", lua_text(path)),
    });
    let once = key.as_ref().map(|key| format!("local key = assert({key})\n")).unwrap_or_default();
    let keys = match (key, shown) {
        (Some(_), _) => REPLACE,
        (None, Shown::ToBackends) => "",
        (None, Shown::ToEnvoy) => STRIP,
        (None, Shown::TokensToBoth) => STRIP_BUT_TOKENS,
    };
    let path = if manner.path.is_empty() {
        String::new()
    } else {
        format!("  headers:replace(\":path\", \"{}\" .. headers:get(\":path\"))\n", lua_text(&manner.path))
    };
    format!("{once}function envoy_on_request(handle)\n  {BEGIN}{keys}{path}end")
}

/// The inside of a Lua text.
fn lua_text(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/._-".contains(&byte);
    text.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { format!("\\{b:03}") }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_cannot_break_out_of_a_script() {
        assert_eq!(lua_text("/a\" .. os.exit()"), r"/a\034\032..\032os.exit\040\041");
    }

    #[test]
    fn a_url_is_read_in_parts() {
        let read = |url| Upstream::parse(url).map(|u| (u.tls, u.authority(), u.port, u.path));
        assert_eq!(
            read("https://api.example.com/v1/"),
            Ok((true, "api.example.com".into(), 443, "/v1".into()))
        );
        assert_eq!(read("http://127.0.0.1:8000"), Ok((false, "127.0.0.1:8000".into(), 8000, String::new())));
        assert_eq!(read("http://[::1]:8000/a"), Ok((false, "[::1]:8000".into(), 8000, "/a".into())));
        for wrong in ["ftp://x", "http://", "http://x:0", "http://a@b", "http://x/y?z"] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }
}
