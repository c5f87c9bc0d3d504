//! Where do the protobuf types come from?
//!
//! The only file that names their modules, so that a new release of the generated types is met in one
//! place. None of them is public.

use std::time::Duration;

pub(crate) use envoy_types::pb::envoy::config::cluster::v3::{
    CircuitBreakers, Cluster, OutlierDetection, TrackClusterStats, circuit_breakers::Thresholds, cluster,
};
pub(crate) use envoy_types::pb::envoy::config::core::v3::{
    Address, AggregatedConfigSource, ConfigSource, Http1ProtocolOptions, Http2ProtocolOptions,
    KeepaliveSettings, Locality, Node, SocketAddress, address, config_source, socket_address,
};
pub(crate) use envoy_types::pb::envoy::config::endpoint::v3::{
    ClusterLoadAssignment, Endpoint, LbEndpoint, LocalityLbEndpoints, lb_endpoint,
};
pub(crate) use envoy_types::pb::envoy::config::listener::v3::{
    ApiListener, Filter, FilterChain, Listener, filter,
};
pub(crate) use envoy_types::pb::envoy::config::route::v3::{
    Route, RouteAction, RouteConfiguration, RouteMatch, VirtualHost, route, route_action, route_match,
};
pub(crate) use envoy_types::pb::envoy::extensions::filters::http::router::v3::Router;
pub(crate) use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpConnectionManager, HttpFilter, Rds, http_connection_manager, http_filter,
};
pub(crate) use envoy_types::pb::envoy::extensions::upstreams::http::v3::{
    HttpProtocolOptions, http_protocol_options,
};
pub(crate) use envoy_types::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
    Resource as DeltaResource,
    aggregated_discovery_service_server::{AggregatedDiscoveryService, AggregatedDiscoveryServiceServer},
};
pub(crate) use envoy_types::pb::envoy::r#type::v3::Percent;
pub(crate) use envoy_types::pb::google::protobuf::{
    Any, BoolValue, Duration as ProtoDuration, UInt32Value, value,
};
pub(crate) use envoy_types::util::pack_any;

pub(crate) fn duration(duration: Duration) -> Option<ProtoDuration> {
    Some(ProtoDuration {
        seconds: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(duration.subsec_nanos()).expect("below 10⁹"),
    })
}

pub(crate) fn uint32(value: u32) -> Option<UInt32Value> {
    Some(UInt32Value { value })
}
