//! What may the operator say in `traflux.yaml`?
//!
//! Keys end in their unit. Unknown keys are refused, and every error names the path of its key. `traflux
//! schema` prints the JSON Schema of [`Config`], `traflux check` reads a file and says what it means.

mod build;
mod parse;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use traflux_core::estimator::EstimatorConfig;
use traflux_core::{ActionBounds, GuardConfig, LadderConfig, RewardWeights};

use crate::controller::Mode;

pub use build::{Built, EndpointSpec, Resolved};
pub(crate) use build::{dns_names, has_hosts};
pub use parse::ConfigError;
pub(crate) use parse::{host_and_port, read_yaml};

/// The whole configuration.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Where traffic comes from: each source is a group of Envoys (or gateways) with weights of its own.
    pub sources: Vec<SourceConfig>,
    /// Where traffic goes to.
    pub services: Vec<ServiceConfig>,
    /// Capacity that endpoints share: the quota of a provider, an egress link.
    #[serde(default)]
    pub shared: Vec<SharedConfig>,
    /// Where measurements come from.
    pub metrics: MetricsConfig,
    /// What is optimised.
    #[serde(default)]
    pub objective: ObjectiveConfig,
    /// How fast and how far weights may move.
    #[serde(default)]
    pub control: ControlSection,
    /// Which policy chooses what may move.
    #[serde(default)]
    pub policy: PolicyConfig,
    /// The discovery server that Envoys connect to.
    #[serde(default)]
    pub xds: XdsConfig,
    /// The HTTP API.
    #[serde(default)]
    pub api: ApiConfig,
    /// Prices that change while the controller runs.
    #[serde(default)]
    pub prices: Option<PricesConfig>,
    /// Endpoints that change while the controller runs.
    #[serde(default)]
    pub discovery: DiscoveryConfig,
    /// Where the last acknowledged weights are kept. `null`: nowhere; a restart then begins at the static ones.
    #[serde(default = "default_state_file")]
    pub state_file: Option<PathBuf>,
}

fn default_state_file() -> Option<PathBuf> {
    Some(PathBuf::from("traflux-state.json"))
}

/// One source of traffic.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SourceConfig {
    /// Unique name; the value of the label `traflux_source` in Prometheus.
    pub name: String,
    /// Which Envoys belong to it. Unset: those whose `node.locality.zone` is the source's name.
    #[serde(default)]
    pub nodes: NodesConfig,
    /// Round-trip time to each endpoint in milliseconds; 0 where not given.
    #[serde(default)]
    pub rtt_ms: BTreeMap<String, f64>,
    /// Egress price to each endpoint in dollars per million requests, on top of the endpoint's own price.
    #[serde(default)]
    pub egress_usd_per_million: BTreeMap<String, f64>,
}

/// Conditions on an Envoy's `node`; all that are set must hold.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct NodesConfig {
    /// `node.locality.zone`.
    pub zone: Option<String>,
    /// `node.locality.region`.
    pub region: Option<String>,
    /// `node.cluster`.
    pub cluster: Option<String>,
    /// Beginning of `node.id`.
    pub id_prefix: Option<String>,
}

/// One service: an Envoy cluster with its listener.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ServiceConfig {
    /// Unique name; the name of the cluster.
    pub name: String,
    /// Where Envoy listens for it. Unset: the listener is configured elsewhere.
    #[serde(default)]
    pub listen: Option<SocketAddr>,
    /// Listeners that differ by source, where several Envoys share one host.
    #[serde(default)]
    pub listen_by_source: BTreeMap<String, SocketAddr>,
    /// Time after which a request counts as failed, in milliseconds.
    #[serde(default = "default_timeout_ms")]
    pub timeout_ms: f64,
    /// Time to connect to an endpoint, in milliseconds.
    #[serde(default = "default_connect_timeout_ms")]
    pub connect_timeout_ms: f64,
    /// Endpoints speak HTTP/2 (gRPC).
    #[serde(default)]
    pub http2: bool,
    /// Where requests may go.
    pub endpoints: Vec<EndpointConfig>,
}

fn default_timeout_ms() -> f64 {
    2000.0
}

fn default_connect_timeout_ms() -> f64 {
    1000.0
}

/// One endpoint: a host, or several hosts among which Envoy chooses by itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EndpointConfig {
    /// Unique over all services.
    pub name: String,
    /// `host:port`; a DNS name is resolved, and again every `discovery.dns_refresh_s`.
    #[serde(default)]
    pub address: Option<String>,
    /// Several hosts instead of one.
    #[serde(default)]
    pub addresses: Vec<String>,
    /// Requests per second that it can serve.
    pub capacity_rps: f64,
    /// Requests that it serves at a time, where known; shapes the latency curve.
    #[serde(default)]
    pub concurrency: Option<u32>,
    /// Mean time to serve one request without load, where known, in milliseconds; learned otherwise.
    #[serde(default)]
    pub service_time_ms: Option<f64>,
    /// What fails together: a cloud, a region.
    #[serde(default)]
    pub domain: Option<String>,
    /// Region, for show.
    #[serde(default)]
    pub region: Option<String>,
    /// Priority tier: tier 1 carries traffic only while the healthy part of tier 0 cannot.
    #[serde(default)]
    pub tier: u8,
    /// Marginal price in dollars per million requests.
    #[serde(default)]
    pub price_usd_per_million: f64,
    /// Paid per hour, used or not, in dollars.
    #[serde(default)]
    pub hourly_usd: f64,
}

/// Capacity that endpoints share, in a unit of its own per second: tokens of a provider's quota, bytes of an
/// egress link.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SharedConfig {
    /// Unique name, also among endpoints.
    pub name: String,
    /// What all requests together may take per second. As with endpoints `objective.max_utilization` of it is
    /// used freely.
    pub capacity_per_s: f64,
    /// What one request to each of these endpoints takes of it; other endpoints take nothing.
    pub per_request: BTreeMap<String, f64>,
    /// Only requests of these sources take of it: an egress link. Empty: those of all sources.
    #[serde(default)]
    pub sources: Vec<String>,
}

/// Where measurements come from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MetricsConfig {
    /// A Prometheus that scrapes the Envoys.
    pub prometheus: PrometheusConfig,
}

/// How Prometheus is asked.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PrometheusConfig {
    /// Base URL, such as `http://127.0.0.1:9090`.
    pub url: String,
    /// Time over which rates and latencies are measured, in seconds; at least four scrape intervals.
    #[serde(default = "default_window_s")]
    pub window_s: f64,
    /// Scrape interval of the Envoys, in seconds.
    #[serde(default = "default_scrape_interval_s")]
    pub scrape_interval_s: f64,
    /// Limit on each query, in milliseconds.
    #[serde(default = "default_query_timeout_ms")]
    pub timeout_ms: f64,
    /// Label that names the source.
    #[serde(default = "default_source_label")]
    pub source_label: String,
    /// The Envoys export native histograms.
    #[serde(default)]
    pub native_histograms: bool,
    /// Credentials.
    #[serde(default)]
    pub auth: AuthConfig,
    /// Headers to add, such as `X-Scope-OrgID`.
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
    /// Signals of your own: any query whose answer names endpoints.
    #[serde(default)]
    pub signals: Vec<SignalConfig>,
}

fn default_window_s() -> f64 {
    60.0
}

fn default_scrape_interval_s() -> f64 {
    15.0
}

fn default_query_timeout_ms() -> f64 {
    2000.0
}

fn default_source_label() -> String {
    "traflux_source".to_owned()
}

/// Credentials for an HTTP source. Secrets stay in files.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct AuthConfig {
    /// User name for basic authentication.
    pub username: Option<String>,
    /// File with the password.
    pub password_file: Option<PathBuf>,
    /// File with a bearer token, read again for each request.
    pub bearer_token_file: Option<PathBuf>,
    /// File with the certificate authority that signed the server's certificate.
    pub ca_file: Option<PathBuf>,
    /// File with a client certificate.
    pub cert_file: Option<PathBuf>,
    /// File with its key.
    pub key_file: Option<PathBuf>,
}

/// A signal of the user's own.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SignalConfig {
    /// Its name.
    pub name: String,
    /// A query in PromQL whose answer has one series per endpoint.
    pub query: String,
    /// The label that names the endpoint.
    #[serde(default = "default_endpoint_label")]
    pub label: String,
    /// Above it the endpoint counts as in breach. Unset: the policy sees the signal, nothing else does.
    #[serde(default)]
    pub limit: Option<f64>,
}

fn default_endpoint_label() -> String {
    "traflux_endpoint".to_owned()
}

/// What is optimised.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ObjectiveConfig {
    /// Name of the solver: `transport` (default), `microlp`; with the feature of that name `clarabel`, `highs`.
    pub solver: String,
    /// Utilisation of the capacity counted on that may be used freely.
    pub max_utilization: f64,
    /// What saving 10 ms on a million requests is worth, in dollars. `null`: price plays no part.
    pub usd_per_million_for_10_ms: Option<f64>,
    /// Most dollars per hour of marginal price.
    pub budget_usd_per_hour: Option<f64>,
    /// Milliseconds of latency that one failed request is worth.
    pub error_ms: f64,
    /// Milliseconds of latency that moving one request is worth.
    pub churn_ms: f64,
    /// Least demand headroom, as a fraction.
    pub headroom: f64,
    /// Limit on the solver, in milliseconds.
    pub deadline_ms: f64,
    /// Weights of the reward.
    pub reward: RewardWeights,
}

impl Default for ObjectiveConfig {
    fn default() -> Self {
        Self {
            solver: "transport".to_owned(),
            max_utilization: 0.8,
            usd_per_million_for_10_ms: Some(1.0),
            budget_usd_per_hour: None,
            error_ms: 2000.0,
            churn_ms: 2.0,
            headroom: 0.1,
            deadline_ms: 1000.0,
            reward: RewardWeights::default(),
        }
    }
}

/// How fast and how far weights may move.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ControlSection {
    /// Time between decisions, in seconds.
    pub interval_s: f64,
    /// Sum of each row of weights.
    pub weight_total: u32,
    /// A plan is pushed only when some share moved by more than this.
    pub dead_band: f64,
    /// Least time between pushes, in seconds.
    pub min_push_interval_s: f64,
    /// Limits on shares and steps.
    pub guard: GuardConfig,
    /// The ladder of failure.
    pub ladder: LadderConfig,
    /// The estimators.
    pub estimator: EstimatorConfig,
    /// Decisions kept for the API; fewer where a fleet is so large that they would fill the memory.
    pub decisions_kept: usize,
}

impl Default for ControlSection {
    fn default() -> Self {
        Self {
            interval_s: 5.0,
            weight_total: 10_000,
            dead_band: 0.003,
            min_push_interval_s: 1.0,
            guard: GuardConfig::default(),
            ladder: LadderConfig::default(),
            estimator: EstimatorConfig::default(),
            decisions_kept: 720,
        }
    }
}

/// Which policy chooses what may move.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct PolicyConfig {
    /// What the controller does with its decisions.
    pub mode: Mode,
    /// How many endpoints a policy may choose; those in breach move beside them. `null`: as many as the
    /// checkpoint was trained to choose, all without a checkpoint.
    pub k: Option<usize>,
    /// A trained checkpoint. `null`: the one that comes with the program.
    pub checkpoint: Option<PathBuf>,
    /// Where mode `learning` keeps what it learned: written after updates and at the end, read first at the
    /// start when it is there. `null`: what was learned ends with the process.
    pub save_to: Option<PathBuf>,
    /// Seed of an exploring policy.
    pub seed: u64,
    /// Learning rate of mode `learning`.
    pub learning_rate: f64,
    /// Limits of an action.
    pub bounds: ActionBounds,
}

impl Default for PolicyConfig {
    fn default() -> Self {
        Self {
            mode: Mode::None,
            k: None,
            checkpoint: None,
            save_to: None,
            seed: 1,
            learning_rate: 3e-4,
            bounds: ActionBounds::default(),
        }
    }
}

/// The discovery server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct XdsConfig {
    /// Where Envoys connect to. Anything but loopback should have `tls`.
    pub listen: SocketAddr,
    /// Certificates. Unset: plain text.
    pub tls: Option<TlsConfig>,
    /// Most streams at a time.
    pub max_streams: usize,
}

impl Default for XdsConfig {
    fn default() -> Self {
        Self { listen: SocketAddr::from(([127, 0, 0, 1], 18000)), tls: None, max_streams: 1000 }
    }
}

/// Certificates of a server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TlsConfig {
    /// Certificate chain.
    pub cert_file: PathBuf,
    /// Private key.
    pub key_file: PathBuf,
    /// Authority that signed client certificates; set: clients must show one.
    #[serde(default)]
    pub client_ca_file: Option<PathBuf>,
    /// A client certificate must bear the id of its Envoy.
    #[serde(default)]
    pub authorize_node_id: bool,
}

/// The HTTP API.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ApiConfig {
    /// Where it listens. Anything but loopback needs `allow_remote: true`.
    pub listen: SocketAddr,
    /// Allows an address that is not loopback.
    pub allow_remote: bool,
    /// File with the bearer token for whatever changes state. Unset: such calls are refused.
    pub token_file: Option<PathBuf>,
}

impl Default for ApiConfig {
    fn default() -> Self {
        Self { listen: SocketAddr::from(([127, 0, 0, 1], 9902)), allow_remote: false, token_file: None }
    }
}

/// Prices that change.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PricesConfig {
    /// A JSON or CSV file, read at every tick and taken over when its content changed.
    #[serde(default)]
    pub file: Option<PathBuf>,
    /// A URL that answers with JSON.
    #[serde(default)]
    pub url: Option<String>,
    /// Time between requests to `url`, in seconds.
    #[serde(default = "default_refresh_s")]
    pub refresh_s: f64,
    /// Limit on each request to `url`, in milliseconds.
    #[serde(default = "default_query_timeout_ms")]
    pub timeout_ms: f64,
    /// Headers to add to requests to `url`.
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
    /// Credentials for `url`.
    #[serde(default)]
    pub auth: AuthConfig,
}

fn default_refresh_s() -> f64 {
    30.0
}

/// Endpoints that change.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct DiscoveryConfig {
    /// A YAML file with a list `services` that replaces the one of the configuration, read again when its
    /// content changes.
    pub file: Option<PathBuf>,
    /// Time between looks at the file, in seconds.
    pub file_refresh_s: f64,
    /// Time between resolutions of DNS names, in seconds.
    pub dns_refresh_s: f64,
}

impl Default for DiscoveryConfig {
    fn default() -> Self {
        Self { file: None, file_refresh_s: 2.0, dns_refresh_s: 30.0 }
    }
}
