//! What can go wrong between a plan and a proxy?

/// A plan that cannot be compiled, or a server that cannot start.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum XdsError {
    /// Something has no name.
    #[error("a {kind} has an empty name")]
    EmptyName {
        /// service, endpoint, node group.
        kind: &'static str,
    },
    /// Two things share a name.
    #[error("{kind} `{name}` appears twice in {owner}")]
    Duplicate {
        /// service, endpoint, row.
        kind: &'static str,
        /// The name.
        name: String,
        /// Where.
        owner: String,
    },
    /// Two names become one when made safe for metrics.
    #[error("{kind} names `{first}` and `{second}` both become `{safe}`")]
    NameCollision {
        /// service or endpoint.
        kind: &'static str,
        /// The earlier name.
        first: String,
        /// The later name.
        second: String,
        /// What both become.
        safe: String,
    },
    /// A row of weights without one weight per endpoint.
    #[error("service `{service}`: the row of `{group}` has {found} weights for {expected} endpoints")]
    RowShape {
        /// The service.
        service: String,
        /// The node group.
        group: String,
        /// Weights found.
        found: usize,
        /// Endpoints.
        expected: usize,
    },
    /// A row that would leave a service without any endpoint.
    #[error("service `{service}`: every weight of `{group}` is 0, which would drop all traffic")]
    EmptyRow {
        /// The service.
        service: String,
        /// The node group.
        group: String,
    },
    /// An endpoint without hosts.
    #[error("service `{service}`: endpoint `{endpoint}` has no host")]
    NoHost {
        /// The service.
        service: String,
        /// The endpoint.
        endpoint: String,
    },
    /// An address that is not an IP address.
    #[error("{owner}: `{address}` is not an IP address")]
    Address {
        /// Listener or endpoint.
        owner: String,
        /// The text.
        address: String,
    },
    /// Port 0.
    #[error("{owner}: port 0 is outside [1, 65535]")]
    Port {
        /// Listener or endpoint.
        owner: String,
    },
    /// Two services that would listen at one address.
    #[error("services `{first}` and `{second}` both listen on {address}")]
    ListenerConflict {
        /// The earlier service.
        first: String,
        /// The later service.
        second: String,
        /// Address and port.
        address: String,
    },
    /// A duration outside its limits.
    #[error("service `{service}`: {what} of {millis} ms is outside [1, {limit_millis}]")]
    DurationRange {
        /// The service.
        service: String,
        /// Which duration.
        what: &'static str,
        /// Its length.
        millis: u128,
        /// The longest allowed.
        limit_millis: u128,
    },
    /// Weights whose sum no proxy accepts.
    #[error("service `{service}`: the weights of `{group}` sum to {sum} in tier {tier}, limit 4294967295")]
    WeightSum {
        /// The service.
        service: String,
        /// The node group.
        group: String,
        /// The tier.
        tier: u8,
        /// The sum.
        sum: u64,
    },
    /// An endpoint with more hosts than its weight can be divided among.
    #[error(
        "service `{service}`: endpoint `{endpoint}` has {hosts} hosts, too many to share weight {weight}"
    )]
    TooManyHosts {
        /// The service.
        service: String,
        /// The endpoint.
        endpoint: String,
        /// Number of hosts.
        hosts: usize,
        /// Its weight.
        weight: u32,
    },
    /// An option outside its limits.
    #[error("option {option} is {value}, which is outside [{low}, {high}]")]
    Option {
        /// Which.
        option: &'static str,
        /// Its value.
        value: u64,
        /// Least.
        low: u64,
        /// Most.
        high: u64,
    },
    /// A certificate or key that cannot be used.
    #[error("{path}: {reason}")]
    Tls {
        /// The file.
        path: String,
        /// Why.
        reason: String,
    },
    /// The server cannot listen, or stopped.
    #[error("discovery server on {address}: {reason}")]
    Serve {
        /// Where.
        address: String,
        /// Why.
        reason: String,
    },
    /// A URL that Envoy cannot be sent to.
    #[error("backend `{backend}`: `{url}` {problem}")]
    Upstream {
        /// The backend.
        backend: String,
        /// The URL.
        url: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A plan that contradicts itself.
    #[error(transparent)]
    Plan(#[from] traflux_core::PlanError),
    /// A message with a field that the writer of configuration files does not know.
    #[error("{message} has field {field}, which is not known here")]
    Field {
        /// Full name of the message.
        message: String,
        /// Number of the field.
        field: u32,
    },
    /// A bootstrap field that would make a configuration that does not work.
    #[error("bootstrap: {field} {problem}")]
    Bootstrap {
        /// Which field.
        field: &'static str,
        /// What is wrong with it.
        problem: String,
    },
}

impl XdsError {
    /// A stable name for metrics and bindings.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::EmptyName { .. } => "xds_empty_name",
            Self::Duplicate { .. } => "xds_duplicate",
            Self::NameCollision { .. } => "xds_name_collision",
            Self::RowShape { .. } => "xds_row_shape",
            Self::EmptyRow { .. } => "xds_empty_row",
            Self::NoHost { .. } => "xds_no_host",
            Self::Address { .. } => "xds_address",
            Self::Port { .. } => "xds_port",
            Self::ListenerConflict { .. } => "xds_listener_conflict",
            Self::DurationRange { .. } => "xds_duration_range",
            Self::WeightSum { .. } => "xds_weight_sum",
            Self::TooManyHosts { .. } => "xds_too_many_hosts",
            Self::Option { .. } => "xds_option",
            Self::Tls { .. } => "xds_tls",
            Self::Serve { .. } => "xds_serve",
            Self::Bootstrap { .. } => "xds_bootstrap",
            Self::Upstream { .. } => "xds_upstream",
            Self::Plan(_) => "xds_plan",
            Self::Field { .. } => "xds_field",
        }
    }

    /// Whether the same call may succeed later with nothing changed here.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Serve { .. })
    }
}
