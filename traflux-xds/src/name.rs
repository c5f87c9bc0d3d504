//! Under which name does a thing appear in Envoy's metrics?
//!
//! Envoy builds metric names by joining parts with dots and takes them apart by regular expression, so a
//! dot or a colon inside a cluster or zone name ends up in the wrong label. Names are therefore made safe
//! once, here; the label of an endpoint in Prometheus is [`metric_name`] of its name in the plan.

/// The label that the bootstrap's `stats_tags` gives to the per-endpoint series of Envoy.
pub const ENDPOINT_LABEL: &str = "traflux_endpoint";

/// The `stats_tags` expression that takes the endpoint out of `cluster.<c>.zone.<from>.<to>.<stat>`: the
/// first group is cut out of the metric name, the second is the value of [`ENDPOINT_LABEL`].
pub const METRIC_LABEL_REGEX: &str = r"^cluster\.[^.]+\.(zone\.[^.]+\.([^.]+)\.)";

/// Makes a name safe: letters, digits, `_` and `-` stay, everything else becomes `_`.
///
/// ```
/// assert_eq!(traflux_xds::metric_name("eu-1:10.0.0.7"), "eu-1_10_0_0_7");
/// ```
#[must_use]
pub fn metric_name(name: &str) -> String {
    name.chars().map(|c| if c.is_ascii_alphanumeric() || c == '_' || c == '-' { c } else { '_' }).collect()
}

/// The cluster (CDS and EDS name) of a service.
#[must_use]
pub fn cluster_name(service: &str) -> String {
    metric_name(service)
}

/// The route configuration of a service.
#[must_use]
pub fn route_name(service: &str) -> String {
    format!("route/{}", metric_name(service))
}

/// The socket listener of a service. A proxyless gRPC client asks for the bare service name instead.
#[must_use]
pub fn listener_name(service: &str) -> String {
    format!("listener/{}", metric_name(service))
}
