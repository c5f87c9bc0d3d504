//! Which Envoy resources say what the plan says?
//!
//! [`compile`] is pure: a plan and options in, one [`Snapshot`] per node group out, byte for byte the same
//! on every replica. It refuses what a proxy would refuse, before anything is published.
//!
//! | plan | resource | how |
//! |---|---|---|
//! | service | CDS | native: an EDS cluster over ADS, round robin |
//! | endpoint | EDS | native: a locality; its zone is the endpoint's [`metric_name`], which is what makes latency per endpoint visible |
//! | weight | EDS | native: the same integer as weight of the locality and as sum of its hosts |
//! | tier | EDS | native: what stands by is a lower priority; Envoy turns to it below 1/1.4 healthy |
//! | timeout | RDS | native for Envoy; a gRPC client keeps the deadline of its caller |
//! | connect timeout, HTTP/2 | CDS | native |
//! | listener | LDS | native: HTTP connection manager and router |
//!
//! The zone of a locality is taken for the endpoint's name, so Envoy's own zone-aware routing is switched
//! off in every cluster.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use prost::Message;
use traflux_core::{HostPlan, NodeGroup, ServicePlan, TrafficPlan};

use crate::assignment::{Assigned, assign};
use crate::error::XdsError;
use crate::name::{cluster_name, listener_name, metric_name, route_name};
use crate::options::CompileOptions;
use crate::proto::*;
use crate::resource::{Resource, ResourceKind, ResourceSet, Snapshot};

/// The longest duration that a plan may ask for.
const LONGEST: Duration = Duration::from_secs(24 * 3600);

/// Compiles a plan for every node group that it addresses.
///
/// A service without a row for a group is not sent to that group.
///
/// # Errors
/// [`XdsError`] for whatever a proxy would refuse or could not tell apart.
pub fn compile(
    plan: &TrafficPlan,
    options: &CompileOptions,
) -> Result<BTreeMap<NodeGroup, Snapshot>, XdsError> {
    options.validate()?;
    validate(plan)?;
    plan.node_groups()
        .into_iter()
        .map(|group| compile_group(plan, &group, options).map(|snapshot| (group, snapshot)))
        .collect()
}

fn compile_group(
    plan: &TrafficPlan,
    group: &NodeGroup,
    options: &CompileOptions,
) -> Result<Snapshot, XdsError> {
    let mut sets: [BTreeMap<String, Resource>; 4] = Default::default();
    let mut addresses = BTreeMap::new();
    for service in plan.services() {
        let Some(row) = service.rows.iter().find(|row| row.group == *group) else { continue };
        let mut put = |kind: ResourceKind, name: String, resource| match sets[kind.ix()]
            .insert(name.clone(), resource)
        {
            None => Ok(()),
            Some(_) => Err(XdsError::Duplicate { kind: kind.short(), name, owner: "the plan".to_owned() }),
        };
        let cluster = cluster_name(&service.name);
        let assigned = assign(service, row)?;
        put(ResourceKind::Cluster, cluster.clone(), encode(&cluster_of(service, options)))?;
        put(ResourceKind::Endpoint, cluster, encode(&assignment_of(service, &assigned)?))?;
        let listener = row.listener.as_ref().or(service.listener.as_ref());
        if listener.is_some() || options.grpc_listeners {
            put(ResourceKind::Route, route_name(&service.name), encode(&route_of(service)))?;
        }
        if let Some(listener) = listener {
            let address = format!("{}:{}", listener.address, listener.port);
            if let Some(first) = addresses.insert(address.clone(), service.name.clone()) {
                return Err(XdsError::ListenerConflict { first, second: service.name.clone(), address });
            }
            let owner = || format!("listener of service `{}`", service.name);
            let address = socket_address(&listener.address, listener.port, owner)?;
            put(
                ResourceKind::Listener,
                listener_name(&service.name),
                encode(&listener_of(service, address)),
            )?;
        }
        if options.grpc_listeners {
            let listener = encode(&grpc_listener_of(service)).on_request_only();
            put(ResourceKind::Listener, service.name.clone(), listener)?;
        }
    }
    Ok(Snapshot::new(plan.version().clone(), sets.map(ResourceSet::new)))
}

fn validate(plan: &TrafficPlan) -> Result<(), XdsError> {
    let mut clusters = BTreeMap::new();
    for service in plan.services() {
        unique_safe("service", &service.name, "the plan", &mut clusters)?;
        for (what, duration) in [("timeout", service.timeout), ("connect timeout", service.connect_timeout)] {
            if duration < Duration::from_millis(1) || duration > LONGEST {
                return Err(XdsError::DurationRange {
                    service: service.name.clone(),
                    what,
                    millis: duration.as_millis(),
                    limit_millis: LONGEST.as_millis(),
                });
            }
        }
        let owner = format!("service `{}`", service.name);
        let mut zones = BTreeMap::new();
        let mut hosts = std::collections::BTreeSet::new();
        for endpoint in &service.endpoints {
            unique_safe("endpoint", &endpoint.name, &owner, &mut zones)?;
            if endpoint.hosts.is_empty() {
                return Err(XdsError::NoHost {
                    service: service.name.clone(),
                    endpoint: endpoint.name.clone(),
                });
            }
            for host in &endpoint.hosts {
                // A proxy keeps only the first of two hosts with one address; the second's share would be lost.
                if !hosts.insert((&host.address, host.port)) {
                    let name = format!("{}:{}", host.address, host.port);
                    return Err(XdsError::Duplicate { kind: "host", name, owner });
                }
            }
        }
        let mut groups = std::collections::BTreeSet::new();
        for row in &service.rows {
            if row.group.0.is_empty() {
                return Err(XdsError::EmptyName { kind: "node group" });
            }
            if !groups.insert(&row.group) {
                return Err(XdsError::Duplicate { kind: "row", name: row.group.0.clone(), owner });
            }
        }
    }
    Ok(())
}

fn unique_safe(
    kind: &'static str,
    name: &str,
    owner: &str,
    seen: &mut BTreeMap<String, String>,
) -> Result<(), XdsError> {
    if name.is_empty() {
        return Err(XdsError::EmptyName { kind });
    }
    let safe = metric_name(name);
    match seen.insert(safe.clone(), name.to_owned()) {
        None => Ok(()),
        Some(first) if first == name => {
            Err(XdsError::Duplicate { kind, name: first, owner: owner.to_owned() })
        }
        Some(first) => Err(XdsError::NameCollision { kind, first, second: name.to_owned(), safe }),
    }
}

fn encode(message: &impl Message) -> Resource {
    Resource::new(message.encode_to_vec())
}

pub(crate) fn ads() -> Option<ConfigSource> {
    Some(ConfigSource {
        resource_api_version: 2,
        config_source_specifier: Some(config_source::ConfigSourceSpecifier::Ads(AggregatedConfigSource {})),
        ..ConfigSource::default()
    })
}

fn socket_address(address: &str, port: u16, owner: impl Fn() -> String) -> Result<Option<Address>, XdsError> {
    let Ok(ip) = address.parse::<IpAddr>() else {
        return Err(XdsError::Address { owner: owner(), address: address.to_owned() });
    };
    if port == 0 {
        return Err(XdsError::Port { owner: owner() });
    }
    Ok(Some(Address {
        address: Some(address::Address::SocketAddress(SocketAddress {
            address: ip.to_string(),
            port_specifier: Some(socket_address::PortSpecifier::PortValue(port.into())),
            ..SocketAddress::default()
        })),
    }))
}

fn cluster_of(service: &ServicePlan, options: &CompileOptions) -> Cluster {
    let protocol = if service.http2 {
        http_protocol_options::explicit_http_config::ProtocolConfig::Http2ProtocolOptions(
            Http2ProtocolOptions {
                connection_keepalive: Some(KeepaliveSettings {
                    interval: duration(options.http2_keepalive),
                    timeout: duration(service.connect_timeout),
                    ..KeepaliveSettings::default()
                }),
                ..Http2ProtocolOptions::default()
            },
        )
    } else {
        http_protocol_options::explicit_http_config::ProtocolConfig::HttpProtocolOptions(
            Http1ProtocolOptions::default(),
        )
    };
    let http = HttpProtocolOptions {
        upstream_protocol_options: Some(http_protocol_options::UpstreamProtocolOptions::ExplicitHttpConfig(
            http_protocol_options::ExplicitHttpConfig { protocol_config: Some(protocol) },
        )),
        ..HttpProtocolOptions::default()
    };
    Cluster {
        name: cluster_name(&service.name),
        cluster_discovery_type: Some(cluster::ClusterDiscoveryType::Type(cluster::DiscoveryType::Eds.into())),
        eds_cluster_config: Some(cluster::EdsClusterConfig {
            eds_config: ads(),
            ..cluster::EdsClusterConfig::default()
        }),
        connect_timeout: duration(service.connect_timeout),
        lb_policy: cluster::LbPolicy::RoundRobin.into(),
        common_lb_config: Some(cluster::CommonLbConfig {
            healthy_panic_threshold: Some(Percent { value: options.panic_threshold_percent.into() }),
            locality_config_specifier: Some(
                cluster::common_lb_config::LocalityConfigSpecifier::ZoneAwareLbConfig(
                    cluster::common_lb_config::ZoneAwareLbConfig {
                        routing_enabled: Some(Percent { value: 0.0 }),
                        ..Default::default()
                    },
                ),
            ),
            ..cluster::CommonLbConfig::default()
        }),
        // One entry: a map of more would not encode in a fixed order.
        typed_extension_protocol_options: [(
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions".to_owned(),
            pack_any(http),
        )]
        .into(),
        outlier_detection: options.outlier.map(|outlier| OutlierDetection {
            consecutive_gateway_failure: uint32(outlier.consecutive_gateway_failures),
            enforcing_consecutive_gateway_failure: uint32(100),
            // A 500 is an answer of the application: the controller weighs it, a local ejection would not.
            enforcing_consecutive_5xx: uint32(0),
            enforcing_success_rate: uint32(0),
            interval: duration(outlier.interval),
            base_ejection_time: duration(outlier.base_ejection_time),
            max_ejection_percent: uint32(outlier.max_ejection_percent),
            ..OutlierDetection::default()
        }),
        circuit_breakers: Some(CircuitBreakers {
            thresholds: vec![Thresholds {
                max_connections: uint32(options.circuit.max_connections),
                max_pending_requests: uint32(options.circuit.max_pending_requests),
                max_requests: uint32(options.circuit.max_requests),
                max_retries: uint32(options.circuit.max_retries),
                track_remaining: true,
                ..Thresholds::default()
            }],
            ..CircuitBreakers::default()
        }),
        track_cluster_stats: options
            .per_endpoint_stats
            .then(|| TrackClusterStats { per_endpoint_stats: true, ..TrackClusterStats::default() }),
        ..Cluster::default()
    }
}

fn assignment_of(service: &ServicePlan, assigned: &[Assigned]) -> Result<ClusterLoadAssignment, XdsError> {
    let mut endpoints = Vec::with_capacity(assigned.len());
    for one in assigned {
        let plan = &service.endpoints[one.endpoint];
        let zone = metric_name(&plan.name);
        let hosts = plan.hosts.iter().zip(&one.hosts);
        endpoints.push(LocalityLbEndpoints {
            locality: Some(Locality {
                region: plan.region.clone().unwrap_or_else(|| cluster_name(&service.name)),
                zone: zone.clone(),
                sub_zone: String::new(),
            }),
            load_balancing_weight: uint32(one.weight),
            priority: one.priority,
            lb_endpoints: hosts
                .map(|(host, weight)| host_of(service, &plan.name, &zone, host, *weight))
                .collect::<Result<_, _>>()?,
            ..LocalityLbEndpoints::default()
        });
    }
    Ok(ClusterLoadAssignment {
        cluster_name: cluster_name(&service.name),
        endpoints,
        ..ClusterLoadAssignment::default()
    })
}

fn host_of(
    service: &ServicePlan,
    endpoint: &str,
    zone: &str,
    host: &HostPlan,
    weight: u32,
) -> Result<LbEndpoint, XdsError> {
    let owner = || format!("endpoint `{endpoint}` of service `{}`", service.name);
    Ok(LbEndpoint {
        load_balancing_weight: uint32(weight),
        host_identifier: Some(lb_endpoint::HostIdentifier::Endpoint(Endpoint {
            address: socket_address(&host.address, host.port, owner)?,
            // Becomes the label `envoy_endpoint_hostname` of the per-endpoint counters.
            hostname: zone.to_owned(),
            ..Endpoint::default()
        })),
        ..LbEndpoint::default()
    })
}

fn route_of(service: &ServicePlan) -> RouteConfiguration {
    RouteConfiguration {
        name: route_name(&service.name),
        virtual_hosts: vec![VirtualHost {
            name: cluster_name(&service.name),
            domains: vec!["*".to_owned()],
            routes: vec![Route {
                r#match: Some(RouteMatch {
                    path_specifier: Some(route_match::PathSpecifier::Prefix("/".to_owned())),
                    ..RouteMatch::default()
                }),
                action: Some(route::Action::Route(RouteAction {
                    cluster_specifier: Some(route_action::ClusterSpecifier::Cluster(cluster_name(
                        &service.name,
                    ))),
                    timeout: duration(service.timeout),
                    ..RouteAction::default()
                })),
                ..Route::default()
            }],
            ..VirtualHost::default()
        }],
        // The cluster may still be on its way when the route arrives at a starting proxy.
        validate_clusters: Some(BoolValue { value: false }),
        ..RouteConfiguration::default()
    }
}

fn connection_manager(service: &ServicePlan) -> HttpConnectionManager {
    HttpConnectionManager {
        stat_prefix: cluster_name(&service.name),
        route_specifier: Some(http_connection_manager::RouteSpecifier::Rds(Rds {
            config_source: ads(),
            route_config_name: route_name(&service.name),
        })),
        http_filters: vec![HttpFilter {
            name: "envoy.filters.http.router".to_owned(),
            config_type: Some(http_filter::ConfigType::TypedConfig(pack_any(Router::default()))),
            ..HttpFilter::default()
        }],
        ..HttpConnectionManager::default()
    }
}

fn listener_of(service: &ServicePlan, address: Option<Address>) -> Listener {
    let manager = HttpConnectionManager {
        use_remote_address: Some(BoolValue { value: true }),
        ..connection_manager(service)
    };
    Listener {
        name: listener_name(&service.name),
        address,
        filter_chains: vec![FilterChain {
            filters: vec![Filter {
                name: "envoy.filters.network.http_connection_manager".to_owned(),
                config_type: Some(filter::ConfigType::TypedConfig(pack_any(manager))),
            }],
            ..FilterChain::default()
        }],
        ..Listener::default()
    }
}

fn grpc_listener_of(service: &ServicePlan) -> Listener {
    Listener {
        name: service.name.clone(),
        api_listener: Some(ApiListener { api_listener: Some(pack_any(connection_manager(service))) }),
        ..Listener::default()
    }
}

#[cfg(test)]
mod tests;
