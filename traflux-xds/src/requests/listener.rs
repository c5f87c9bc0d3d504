//! How does Envoy listen?

use std::net::SocketAddr;

use traflux_core::plan::server::{HeaderStyle, ServerPlan, TlsPlan};

use super::route::TIMEOUT_GAP;
use super::support::Report;
use super::upstream::file;
use crate::error::XdsError;
use crate::proto::rich::*;
use crate::proto::*;

/// Name of the listener.
pub(crate) const LISTENER: &str = "traflux";

/// An address with port, or why it is none.
pub(crate) fn socket(field: &str, text: &str) -> Result<SocketAddr, XdsError> {
    // A host name would be looked up once and by nobody knows whom.
    let text = text.replace("localhost:", "127.0.0.1:");
    let address: SocketAddr =
        text.parse().map_err(|_| XdsError::Address { owner: field.to_owned(), address: text.clone() })?;
    if address.port() == 0 {
        return Err(XdsError::Port { owner: field.to_owned() });
    }
    Ok(address)
}

/// The filter that refuses bodies that are too long.
pub(crate) fn body_limit(server: &ServerPlan) -> (String, Any) {
    let most = UInt64Value { value: server.max_body_bytes as u64 };
    let filter = BodySizeLimit { max_request_bytes: Some(most) };
    ("envoy.filters.http.body_size_limit".to_owned(), pack_any(filter))
}

/// The listener with these filters before the router.
pub(crate) fn listener(
    server: &ServerPlan,
    filters: Vec<(String, Any)>,
    routes: http_connection_manager::RouteSpecifier,
) -> Result<Listener, XdsError> {
    let address = socket("server.listen", &server.listen)?;
    let router = ("envoy.filters.http.router".to_owned(), pack_any(Router::default()));
    let manager = HttpConnectionManager {
        stat_prefix: LISTENER.into(),
        route_specifier: Some(routes),
        http_filters: filters
            .into_iter()
            .chain([router])
            .map(|(name, config)| HttpFilter {
                name,
                config_type: Some(http_filter::ConfigType::TypedConfig(config)),
                ..HttpFilter::default()
            })
            .collect(),
        use_remote_address: Some(BoolValue { value: true }),
        max_request_headers_kb: uint32(kilobytes(server.max_header_bytes)),
        request_headers_timeout: duration(server.header_timeout),
        request_timeout: duration(server.header_timeout + server.body_timeout),
        stream_idle_timeout: duration(server.stream_idle_timeout),
        drain_timeout: duration(server.drain_timeout),
        // Rules see paths in one form, so that none leads around them, and hosts without port.
        normalize_path: Some(BoolValue { value: true }),
        strip_port_mode: Some(http_connection_manager::StripPortMode::StripAnyHostPort(true)),
        ..HttpConnectionManager::default()
    };
    Ok(Listener {
        name: LISTENER.into(),
        address: super::upstream::address(&address.ip().to_string(), address.port()),
        filter_chains: vec![FilterChain {
            filters: vec![Filter {
                name: "envoy.filters.network.http_connection_manager".into(),
                config_type: Some(filter::ConfigType::TypedConfig(pack_any(manager))),
            }],
            transport_socket: server.tls.as_ref().map(tls),
            ..FilterChain::default()
        }],
        ..Listener::default()
    })
}

fn kilobytes(bytes: usize) -> u32 {
    u32::try_from(bytes.div_ceil(1024)).unwrap_or(u32::MAX).clamp(1, 8192)
}

fn tls(plan: &TlsPlan) -> TransportSocket {
    use tls_parameters::TlsProtocol;
    let least = if plan.tls13_only { TlsProtocol::TlSv13 } else { TlsProtocol::TlSv12 };
    let validation = plan.client_authority_file.as_ref().map(|authority| {
        common_tls_context::ValidationContextType::ValidationContext(CertificateValidationContext {
            trusted_ca: file(authority),
            ..CertificateValidationContext::default()
        })
    });
    let context = DownstreamTlsContext {
        require_client_certificate: plan.client_authority_file.is_some().then_some(BoolValue { value: true }),
        common_tls_context: Some(CommonTlsContext {
            tls_params: Some(TlsParameters {
                tls_minimum_protocol_version: least.into(),
                tls_maximum_protocol_version: TlsProtocol::TlSv13.into(),
                ..TlsParameters::default()
            }),
            tls_certificates: vec![TlsCertificate {
                certificate_chain: file(&plan.certificate_file),
                private_key: file(&plan.key_file),
                ..TlsCertificate::default()
            }],
            alpn_protocols: vec!["h2".into(), "http/1.1".into()],
            validation_context_type: validation,
            ..CommonTlsContext::default()
        }),
        ..DownstreamTlsContext::default()
    };
    TransportSocket {
        name: "envoy.transport_sockets.tls".into(),
        config_type: Some(transport_socket::ConfigType::TypedConfig(pack_any(context))),
    }
}

/// Says how the server's settings are expressed.
pub(crate) fn report(server: &ServerPlan, report: &mut Report) {
    let at = |field: &str| format!("server.{field}");
    report.native(at("listen"), "address of the listener");
    if server.levels_file.is_some() {
        report.unsupported(at("levels_file"), "levels are lost with the process");
    }
    if server.limit_headers == HeaderStyle::Off {
        report.native(at("limit_headers"), "Envoy says when to come back and no more");
    } else {
        report.unsupported(at("limit_headers"), "refusals say when to come back, and nothing of limits");
    }
    if server.admin.is_some() {
        report.approximated(at("admin"), "admin", "Envoy's own interface, with other paths and more power; of this machine alone, whatever the address");
    }
    if let Some(tls) = &server.tls {
        for field in ["certificate_file", "key_file"] {
            report.approximated(
                at(&format!("tls.{field}")),
                "DownstreamTlsContext",
                "read when Envoy starts, not when the file changes",
            );
        }
        if tls.client_authority_file.is_some() {
            report.approximated(
                at("tls.client_authority_file"),
                "require_client_certificate, trusted_ca",
                "read when Envoy starts, not when the file changes",
            );
        }
        report.native(at("tls.tls13_only"), "tls_minimum_protocol_version");
    }
    report.approximated(
        at("max_connections"),
        "global_downstream_max_connections",
        "connections beyond it are closed rather than kept waiting",
    );
    let exact = server.max_header_bytes == kilobytes(server.max_header_bytes) as usize * 1024;
    report.exact_if(exact, at("max_header_bytes"), "max_request_headers_kb", "whole kilobytes, at most 8192");
    report.native(at("max_body_bytes"), "body_size_limit");
    if server.admin_key.is_some() {
        report.unsupported(
            at("admin_key"),
            "Envoy's own interface knows no token: it listens on this machine alone",
        );
    }
    report.unsupported(
        at("max_buffered_bytes"),
        "Envoy bounds the body of each request, not of all together, but by the memory of its overload manager",
    );
    report.native(at("header_timeout_ms"), "request_headers_timeout");
    report.approximated(
        at("body_timeout_ms"),
        "request_timeout",
        "one bound on head and body together, the sum of both",
    );
    report.approximated(at("request_timeout_ms"), "per_try_idle_timeout", TIMEOUT_GAP);
    report
        .unsupported(at("stream_quiet_after_ms"), "a quiet stream counts as a request in flight to its end");
    report.approximated(
        at("drain_timeout_ms"),
        "drain_timeout",
        "Envoy's command line decides how long it lives on: --drain-time-s, --parent-shutdown-time-s",
    );
}
