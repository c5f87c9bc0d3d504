//! With which configuration must an Envoy start so that all of this works?
//!
//! Each line that [`envoy_bootstrap`] writes is needed: the node's zone, or there are no series per
//! endpoint; `stats_tags`, or they have no label; a flush each second, or latency percentiles lag counters
//! by five; buckets fine enough for percentiles of milliseconds.

use std::fmt::Write as _;
use std::net::IpAddr;

use crate::error::XdsError;
use crate::name::{ENDPOINT_LABEL, METRIC_LABEL_REGEX, metric_name};

/// Name of the cluster that the discovery server is reached by.
pub const XDS_CLUSTER: &str = "traflux_xds";

/// Bounds of the latency buckets in milliseconds. Neighbours are at most a factor 2.5 apart, from 1 ms to a
/// minute, so that a percentile is known to within its bucket's ratio.
pub const LATENCY_BUCKETS_MS: [f64; 26] = [
    0.5, 1.0, 2.0, 3.0, 5.0, 7.5, 10.0, 15.0, 20.0, 30.0, 40.0, 60.0, 80.0, 100.0, 130.0, 160.0, 200.0,
    250.0, 350.0, 500.0, 750.0, 1000.0, 2500.0, 5000.0, 10_000.0, 60_000.0,
];

/// First wait before an Envoy whose stream broke connects again, and the longest one.
const RECONNECT_BASE: &str = "0.2s";
const RECONNECT_MAX: &str = "2s";

/// TLS towards the discovery server. Paths are as Envoy sees them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BootstrapTls {
    /// Roots of the server's certificate.
    pub ca: String,
    /// Name that the server's certificate must bear.
    pub server_name: String,
    /// Certificate and key that Envoy shows; the certificate should bear the node's id.
    pub client: Option<(String, String)>,
}

/// What differs from one Envoy to the next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EnvoyBootstrap {
    /// `node.id`, unique.
    pub node_id: String,
    /// `node.cluster`.
    pub cluster: String,
    /// The node group: becomes `node.locality.zone`.
    pub group: String,
    /// `node.locality.region`, for sources that are told apart by it.
    pub region: Option<String>,
    /// Host name or IP address of the discovery server.
    pub xds_host: String,
    /// Its port.
    pub xds_port: u16,
    /// Where the admin interface listens. Keep it on loopback: whoever reaches it can stop the proxy.
    pub admin: (IpAddr, u16),
    /// Connections from clients at a time.
    pub max_downstream_connections: u32,
    /// Whether the stream carries differences only (delta xDS) instead of the state of the world. Either
    /// works; with thousands of endpoints in one service, differences are less to send.
    pub delta: bool,
    /// Encryption towards the discovery server.
    pub tls: Option<BootstrapTls>,
}

impl Default for EnvoyBootstrap {
    fn default() -> Self {
        Self {
            node_id: "envoy-1".to_owned(),
            cluster: "edge".to_owned(),
            group: "default".to_owned(),
            region: None,
            xds_host: "127.0.0.1".to_owned(),
            xds_port: 18000,
            admin: (IpAddr::from([127, 0, 0, 1]), 9901),
            max_downstream_connections: 50_000,
            delta: false,
            tls: None,
        }
    }
}

/// Writes the bootstrap configuration of an Envoy, as YAML.
///
/// ```
/// let yaml = traflux_xds::envoy_bootstrap(&traflux_xds::EnvoyBootstrap {
///     node_id: "edge-1".into(),
///     group: "eu-west".into(),
///     ..Default::default()
/// })?;
/// assert!(yaml.contains("zone: \"eu-west\""));
/// # Ok::<(), traflux_xds::XdsError>(())
/// ```
///
/// # Errors
/// [`XdsError::Bootstrap`] for an empty id or group, a group that would break metric names, or port 0.
pub fn envoy_bootstrap(envoy: &EnvoyBootstrap) -> Result<String, XdsError> {
    let problem = |field, problem: &str| XdsError::Bootstrap { field, problem: problem.to_owned() };
    if envoy.node_id.is_empty() {
        return Err(problem("node_id", "is empty"));
    }
    if envoy.cluster.is_empty() {
        return Err(problem("cluster", "is empty"));
    }
    if envoy.group.is_empty() {
        return Err(problem("group", "is empty"));
    }
    if envoy.group != metric_name(&envoy.group) {
        let safe = metric_name(&envoy.group);
        return Err(problem("group", &format!("`{}` breaks metric names; `{safe}` would not", envoy.group)));
    }
    if envoy.xds_host.is_empty() {
        return Err(problem("xds_host", "is empty"));
    }
    if envoy.xds_port == 0 || envoy.admin.1 == 0 {
        return Err(problem(if envoy.xds_port == 0 { "xds_port" } else { "admin" }, "has port 0"));
    }
    if envoy.max_downstream_connections == 0 {
        return Err(problem("max_downstream_connections", "is 0"));
    }
    let mut yaml = String::with_capacity(4096);
    write_yaml(&mut yaml, envoy).expect("a String takes any text");
    Ok(yaml)
}

fn write_yaml(yaml: &mut String, envoy: &EnvoyBootstrap) -> std::fmt::Result {
    let buckets = LATENCY_BUCKETS_MS.map(|bound| bound.to_string()).join(", ");
    // STATIC takes addresses only; a name is looked up again and again.
    let discovery = if envoy.xds_host.parse::<IpAddr>().is_ok() { "STATIC" } else { "STRICT_DNS" };
    write!(
        yaml,
        r#"# The zone is the node group: Traflux decides by it which weights this Envoy gets, and without a zone
# Envoy has no latency per endpoint.
node:
  id: {id}
  cluster: {cluster}
  locality:
    zone: {group}{region}
admin:
  address:
    socket_address: {{ address: {admin}, port_value: {admin_port} }}
# Histograms are merged on flush only; counters are live. At the default of 5 s they would disagree.
stats_flush_interval: 1s
stats_config:
  stats_tags:
    # cluster.<cluster>.zone.<from>.<endpoint>.<stat> becomes <stat> with the endpoint as a label.
    - tag_name: {ENDPOINT_LABEL}
      regex: '{METRIC_LABEL_REGEX}'
  histogram_bucket_settings:
    - match: {{ suffix: upstream_rq_time }}
      buckets: [{buckets}]
overload_manager:
  resource_monitors:
    - name: envoy.resource_monitors.global_downstream_max_connections
      typed_config:
        "@type": type.googleapis.com/envoy.extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig
        max_active_downstream_connections: {connections}
dynamic_resources:
  ads_config:
    api_type: {api_type}
    transport_api_version: V3
    set_node_on_first_message_only: true
    grpc_services:
      - envoy_grpc:
          cluster_name: {XDS_CLUSTER}
          # A server that was restarted is found again within seconds; by default Envoy waits up to 30 s.
          retry_policy:
            retry_back_off: {{ base_interval: {RECONNECT_BASE}, max_interval: {RECONNECT_MAX} }}
  cds_config: {{ ads: {{}}, resource_api_version: V3 }}
  lds_config: {{ ads: {{}}, resource_api_version: V3 }}
static_resources:
  clusters:
    - name: {XDS_CLUSTER}
      type: {discovery}
      connect_timeout: 2s
      typed_extension_protocol_options:
        envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
          "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
          explicit_http_config:
            http2_protocol_options:
              # A server that died without closing is noticed within 15 s.
              connection_keepalive: {{ interval: 10s, timeout: 5s }}
      load_assignment:
        cluster_name: {XDS_CLUSTER}
        endpoints:
          - lb_endpoints:
              - endpoint:
                  address:
                    socket_address: {{ address: {host}, port_value: {port} }}
"#,
        id = quoted(&envoy.node_id),
        cluster = quoted(&envoy.cluster),
        group = quoted(&envoy.group),
        region = envoy.region.as_ref().map_or_else(String::new, |r| format!("\n    region: {}", quoted(r))),
        admin = quoted(&envoy.admin.0.to_string()),
        admin_port = envoy.admin.1,
        connections = envoy.max_downstream_connections,
        api_type = if envoy.delta { "DELTA_GRPC" } else { "GRPC" },
        host = quoted(&envoy.xds_host),
        port = envoy.xds_port,
    )?;
    let Some(tls) = &envoy.tls else { return Ok(()) };
    write!(
        yaml,
        r#"      transport_socket:
        name: envoy.transport_sockets.tls
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext
          sni: {name}
          common_tls_context:
            alpn_protocols: [h2]
            validation_context:
              trusted_ca: {{ filename: {ca} }}
              match_typed_subject_alt_names:
                - san_type: {san_type}
                  matcher: {{ exact: {name} }}
"#,
        name = quoted(&tls.server_name),
        ca = quoted(&tls.ca),
        san_type = if tls.server_name.parse::<IpAddr>().is_ok() { "IP_ADDRESS" } else { "DNS" },
    )?;
    if let Some((certificate, key)) = &tls.client {
        write!(
            yaml,
            r#"            tls_certificates:
              - certificate_chain: {{ filename: {certificate} }}
                private_key: {{ filename: {key} }}
"#,
            certificate = quoted(certificate),
            key = quoted(key),
        )?;
    }
    Ok(())
}

/// A double-quoted YAML scalar, which can hold any text.
pub(crate) fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => {
                out.push('\\');
                out.push(c);
            }
            c if c.is_control() => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_region_stands_beside_the_zone_where_one_is_given() {
        let with = |region| envoy_bootstrap(&EnvoyBootstrap { region, ..Default::default() }).unwrap();
        assert!(!with(None).contains("region:"));
        assert!(
            with(Some("eu \"1\"".into()))
                .contains("    zone: \"default\"\n    region: \"eu \\\"1\\\"\"\nadmin:")
        );
    }

    #[test]
    fn a_group_with_a_dot_is_refused_with_a_name_that_works() {
        let error =
            envoy_bootstrap(&EnvoyBootstrap { group: "eu.west".into(), ..Default::default() }).unwrap_err();
        assert_eq!(error.to_string(), "bootstrap: group `eu.west` breaks metric names; `eu_west` would not");
    }

    #[test]
    fn text_cannot_break_out_of_its_quotes() {
        assert_eq!(quoted("a\"b\\c\n"), r#""a\"b\\c\u000a""#);
        let yaml =
            envoy_bootstrap(&EnvoyBootstrap { node_id: "x\"\nadmin: {}".into(), ..Default::default() });
        assert!(yaml.unwrap().contains(r#"id: "x\"\u000aadmin: {}""#));
    }

    #[test]
    fn a_host_name_is_looked_up_and_an_address_is_not() {
        let with = |host: &str| {
            envoy_bootstrap(&EnvoyBootstrap { xds_host: host.into(), ..Default::default() }).unwrap()
        };
        assert!(with("traflux.internal").contains("type: STRICT_DNS"));
        assert!(with("10.0.0.1").contains("type: STATIC"));
    }

    #[test]
    fn a_client_certificate_appears_only_where_one_is_given() {
        let tls = |client| EnvoyBootstrap {
            tls: Some(BootstrapTls { ca: "/ca.pem".into(), server_name: "traflux".into(), client }),
            ..Default::default()
        };
        assert!(!envoy_bootstrap(&tls(None)).unwrap().contains("private_key"));
        let with = envoy_bootstrap(&tls(Some(("/c.pem".into(), "/k.pem".into())))).unwrap();
        assert!(with.contains(r#"private_key: { filename: "/k.pem" }"#));
    }

    #[test]
    fn differences_are_asked_for_only_where_wanted() {
        let with = |delta| envoy_bootstrap(&EnvoyBootstrap { delta, ..Default::default() }).unwrap();
        assert!(with(false).contains("api_type: GRPC\n"));
        assert!(with(true).contains("api_type: DELTA_GRPC\n"));
    }

    #[test]
    fn buckets_rise() {
        assert!(LATENCY_BUCKETS_MS.windows(2).all(|w| w[0] < w[1]));
    }
}
