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
    ClusterLoadAssignment, Endpoint, LbEndpoint, LocalityLbEndpoints, cluster_load_assignment,
    endpoint::HealthCheckConfig, lb_endpoint,
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

/// What only request plans need; names that two packages share are given by their modules.
pub(crate) mod rich {
    pub(crate) use envoy_types::pb::envoy::config::bootstrap::v3::{Admin, Bootstrap, bootstrap};
    pub(crate) use envoy_types::pb::envoy::config::cluster::v3::circuit_breakers::thresholds::RetryBudget;
    pub(crate) use envoy_types::pb::envoy::config::cluster::v3::{
        LoadBalancingPolicy, load_balancing_policy,
    };
    pub(crate) use envoy_types::pb::envoy::config::common::mutation_rules::v3::{
        HeaderMutation as Mutation, header_mutation as mutation,
    };
    pub(crate) use envoy_types::pb::envoy::config::core::v3::HealthStatus;
    pub(crate) use envoy_types::pb::envoy::config::core::v3::RuntimePercent;
    pub(crate) use envoy_types::pb::envoy::config::core::v3::{
        DataSource, HealthCheck, HttpProtocolOptions as CommonHttpOptions, HttpUri, RequestMethod,
        RuntimeFractionalPercent, TransportSocket, TypedExtensionConfig, data_source, health_check, http_uri,
        transport_socket,
    };
    pub(crate) use envoy_types::pb::envoy::config::core::v3::{RuntimeDouble, RuntimeUInt32};
    pub(crate) use envoy_types::pb::envoy::config::overload::v3::{
        OverloadManager, ResourceMonitor, resource_monitor,
    };
    pub(crate) use envoy_types::pb::envoy::config::route::v3::{
        DirectResponseAction, HeaderMatcher, QueryParameterMatcher, RateLimit, RetryPolicy, WeightedCluster,
        header_matcher, query_parameter_matcher, rate_limit, retry_policy, weighted_cluster,
    };
    pub(crate) use envoy_types::pb::envoy::extensions::clusters::aggregate::v3::ClusterConfig as AggregateConfig;
    pub(crate) use envoy_types::pb::envoy::extensions::common::ratelimit::v3::{
        LocalRateLimitDescriptor, rate_limit_descriptor,
    };
    pub(crate) use envoy_types::pb::envoy::extensions::filters::http::adaptive_concurrency::v3::{
        AdaptiveConcurrency, GradientControllerConfig, adaptive_concurrency, gradient_controller_config,
    };
    pub(crate) use envoy_types::pb::envoy::extensions::filters::http::admission_control::v3::{
        AdmissionControl, admission_control,
    };
    pub(crate) use envoy_types::pb::envoy::extensions::filters::http::body_size_limit::v3::BodySizeLimit;
    pub(crate) use envoy_types::pb::envoy::extensions::filters::http::ext_authz::v3::{
        AuthorizationResponse, ExtAuthz, HttpService, ext_authz,
    };
    pub(crate) use envoy_types::pb::envoy::extensions::filters::http::header_mutation::v3::{
        HeaderMutation, Mutations,
    };
    pub(crate) use envoy_types::pb::envoy::extensions::filters::http::json_to_metadata::v3::{
        JsonToMetadata, json_to_metadata,
    };
    pub(crate) use envoy_types::pb::envoy::extensions::filters::http::local_ratelimit::v3::LocalRateLimit;
    pub(crate) use envoy_types::pb::envoy::extensions::filters::http::lua::v3::Lua;
    pub(crate) use envoy_types::pb::envoy::extensions::filters::http::stateful_session::v3::StatefulSession;
    pub(crate) use envoy_types::pb::envoy::extensions::filters::http::upstream_codec::v3::UpstreamCodec;
    pub(crate) use envoy_types::pb::envoy::extensions::http::stateful_session::cookie::v3::CookieBasedSessionState;
    pub(crate) use envoy_types::pb::envoy::extensions::http::stateful_session::header::v3::HeaderBasedSessionState;
    pub(crate) use envoy_types::pb::envoy::extensions::load_balancing_policies::{
        common::v3::{ConsistentHashingLbConfig, SlowStartConfig},
        least_request::v3::{LeastRequest, least_request},
        maglev::v3::Maglev,
        round_robin::v3::RoundRobin,
    };
    pub(crate) use envoy_types::pb::envoy::extensions::resource_monitors::downstream_connections::v3::DownstreamConnectionsConfig;
    pub(crate) use envoy_types::pb::envoy::extensions::retry::host::previous_hosts::v3::PreviousHostsPredicate;
    pub(crate) use envoy_types::pb::envoy::extensions::retry::priority::previous_priorities::v3::PreviousPrioritiesConfig;
    pub(crate) use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::{
        CertificateValidationContext, CommonTlsContext, DownstreamTlsContext, SubjectAltNameMatcher,
        TlsCertificate, TlsParameters, UpstreamTlsContext, common_tls_context, subject_alt_name_matcher,
        tls_parameters,
    };
    pub(crate) use envoy_types::pb::envoy::r#type::http::v3::Cookie;
    pub(crate) use envoy_types::pb::envoy::r#type::matcher::v3::{
        ListStringMatcher, MetadataMatcher, RegexMatcher, StringMatcher, ValueMatcher, metadata_matcher,
        string_matcher, value_matcher,
    };
    pub(crate) use envoy_types::pb::envoy::r#type::metadata::v3::{MetadataKey, metadata_key};
    pub(crate) use envoy_types::pb::envoy::r#type::v3::{
        FractionalPercent, HttpStatus, Int32Range, Int64Range, TokenBucket, fractional_percent,
    };
    pub(crate) use envoy_types::pb::google::protobuf::UInt64Value;
}

pub(crate) fn duration(duration: Duration) -> Option<ProtoDuration> {
    Some(ProtoDuration {
        seconds: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(duration.subsec_nanos()).expect("below 10⁹"),
    })
}

pub(crate) fn uint32(value: u32) -> Option<UInt32Value> {
    Some(UInt32Value { value })
}
