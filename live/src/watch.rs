//! What do Traflux, Envoy and Prometheus say about themselves?

use std::time::Duration;

use serde_json::Value;

use crate::error::{LiveError, Result};
use crate::fleet::{SOURCES, Service};

/// Longest time for one answer.
const LIMIT: Duration = Duration::from_secs(3);

/// Asks over HTTP.
#[derive(Debug, Clone)]
pub(crate) struct Client(reqwest::Client);

impl Client {
    /// A client without proxies: everything is on loopback.
    pub(crate) fn new() -> Result<Self> {
        let client = reqwest::Client::builder().timeout(LIMIT).no_proxy().build();
        client.map(Self).map_err(|e| LiveError::http("client", e))
    }

    async fn send(&self, url: &str, request: reqwest::RequestBuilder) -> Result<String> {
        let answer = request.send().await.map_err(|e| LiveError::http(url, without_url(&e)))?;
        let status = answer.status();
        let text = answer.text().await.map_err(|e| LiveError::http(url, without_url(&e)))?;
        if status.is_success() { Ok(text) } else { Err(LiveError::http(url, format!("{status}: {text}"))) }
    }

    /// The text at a URL.
    pub(crate) async fn text(&self, url: &str) -> Result<String> {
        self.send(url, self.0.get(url)).await
    }

    /// The JSON at a URL.
    pub(crate) async fn json(&self, url: &str) -> Result<Value> {
        parse(url, &self.text(url).await?)
    }
}

fn parse(url: &str, text: &str) -> Result<Value> {
    serde_json::from_str(text).map_err(|e| LiveError::http(url, e))
}

/// The deepest cause: the outer texts repeat the URL.
fn without_url(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause.to_string()
}

/// Traflux's HTTP API.
#[derive(Debug, Clone)]
pub(crate) struct Api {
    client: Client,
    base: String,
    token: String,
}

/// What a node group was sent and what it acknowledged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Group {
    /// Version of the plan that it was sent.
    pub target: Option<String>,
    /// Version of the plan that all its connected nodes acknowledged.
    pub in_force: Option<String>,
    /// Refused versions of resources that it remembers, so as not to send them again.
    pub parked: usize,
    /// Whether the last known good stands in for something refused.
    pub rolled_back: bool,
}

impl Group {
    /// Whether what it was sent is what it has.
    pub(crate) fn is_settled(&self) -> bool {
        self.target.is_some() && self.target == self.in_force
    }
}

/// Counts and percentiles of pushes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pushes {
    /// Endpoint assignments acknowledged.
    pub weights_acked: u64,
    /// Acknowledgements that the percentiles cover.
    pub count: u64,
    /// Median, milliseconds.
    pub p50_ms: f64,
    /// 95th percentile, milliseconds.
    pub p95_ms: f64,
    /// Maximum, milliseconds.
    pub max_ms: f64,
}

impl Api {
    pub(crate) fn new(client: Client, port: u16, token: &str) -> Self {
        Self { client, base: format!("http://127.0.0.1:{port}"), token: token.to_owned() }
    }

    fn url(&self, path: &str) -> String {
        format!("{}{path}", self.base)
    }

    /// Whether the first plan was handed over and a tick was made.
    pub(crate) async fn is_ready(&self) -> bool {
        self.client.text(&self.url("/readyz")).await.is_ok()
    }

    /// The latest decision.
    pub(crate) async fn decision(&self) -> Result<Decision> {
        Ok(self.decisions(1).await?.remove(0))
    }

    /// The latest decisions, newest first, at least one.
    pub(crate) async fn decisions(&self, limit: usize) -> Result<Vec<Decision>> {
        let mut page = self.client.json(&self.url(&format!("/api/decisions?limit={limit}"))).await?;
        match page["decisions"].take() {
            Value::Array(list) if !list.is_empty() => Ok(list.into_iter().map(Decision).collect()),
            _ => Err(LiveError::missing("a decision")),
        }
    }

    /// Everything known of the data planes.
    pub(crate) async fn data_plane(&self) -> Result<Value> {
        Ok(self.client.json(&self.url("/api/status")).await?["data_plane"].take())
    }

    /// The node group of a source.
    pub(crate) async fn group(&self, source: usize) -> Result<Group> {
        let status = self.data_plane().await?;
        let groups = status["groups"].as_array().map(Vec::as_slice).unwrap_or_default();
        let name = SOURCES[source];
        let group = groups
            .iter()
            .find(|g| g["group"] == name)
            .ok_or_else(|| LiveError::missing(format!("node group {name}")))?;
        let text = |value: &Value| value.as_str().map(str::to_owned);
        Ok(Group {
            target: text(&group["target"]),
            in_force: text(&group["in_force"]["version"]),
            parked: group["parked"].as_array().map_or(0, Vec::len),
            rolled_back: group["rolled_back"].as_bool().unwrap_or(false),
        })
    }

    /// How long pushes took.
    pub(crate) async fn pushes(&self) -> Result<Pushes> {
        let status = self.data_plane().await?;
        let millis = |key: &str| status["push_to_ack"][key].as_f64().unwrap_or(f64::INFINITY) * 1e-3;
        Ok(Pushes {
            weights_acked: status["counters"]["acks"]["endpoint"].as_u64().unwrap_or(0),
            count: status["push_to_ack"]["count"].as_u64().unwrap_or(0),
            p50_ms: millis("p50_micros"),
            p95_ms: millis("p95_micros"),
            max_ms: millis("max_micros"),
        })
    }

    /// How often resources of a kind were sent and refused since the start: (responses, refusals).
    pub(crate) async fn responses_and_refusals(&self, kind: &str) -> Result<(u64, u64)> {
        let status = self.data_plane().await?;
        let count = |which: &str| status["counters"][which][kind].as_u64().unwrap_or(0);
        Ok((count("responses"), count("nacks")))
    }

    /// Stops weights from moving, or lets them move again.
    pub(crate) async fn freeze(&self, frozen: bool) -> Result<()> {
        let url = self.url(if frozen { "/api/freeze" } else { "/api/resume" });
        let request = self.client.0.post(&url).bearer_auth(&self.token);
        self.client.send(&url, request).await.map(drop)
    }

    /// Changes parameters.
    pub(crate) async fn patch(&self, parameters: &Value) -> Result<()> {
        let url = self.url("/api/parameters");
        let request = self.client.0.patch(&url).bearer_auth(&self.token).json(parameters);
        self.client.send(&url, request).await.map(drop)
    }

    /// Replaces services and endpoints.
    pub(crate) async fn replace_services(&self, services: &[Value]) -> Result<()> {
        let url = self.url("/api/services");
        let body = serde_json::json!({ "services": services });
        let request = self.client.0.put(&url).bearer_auth(&self.token).json(&body);
        self.client.send(&url, request).await.map(drop)
    }
}

/// One decision of the controller.
#[derive(Debug, Clone)]
pub(crate) struct Decision(Value);

impl Decision {
    /// Where the ladder of failure stands.
    pub(crate) fn rung(&self) -> &str {
        self.0["rung"].as_str().unwrap_or("?")
    }

    /// Version of the plan.
    pub(crate) fn plan(&self) -> &str {
        self.0["plan_version"].as_str().unwrap_or("?")
    }

    /// Shares of a service for a source, in the order of its endpoints.
    pub(crate) fn shares(&self, service: &Service, source: usize) -> Result<Vec<f64>> {
        let flows = self.0["flows"].as_array().map(Vec::as_slice).unwrap_or_default();
        let flow = flows
            .iter()
            .find(|f| f["service"] == service.name && f["source"] == SOURCES[source])
            .ok_or_else(|| LiveError::missing(format!("flow {}/{}", SOURCES[source], service.name)))?;
        let mut shares = vec![0.0; service.endpoints.len()];
        for pair in flow["shares"].as_array().map(Vec::as_slice).unwrap_or_default() {
            if let (Some(name), Some(share)) = (pair[0].as_str(), pair[1].as_f64())
                && let Some(position) = service.position(name)
            {
                shares[position] = share;
            }
        }
        Ok(shares)
    }

    /// All that its plan says to a source: the rows of weights of all services.
    pub(crate) fn rows(&self, source: usize) -> Vec<(&Value, &Value)> {
        let flows = self.0["flows"].as_array().map(Vec::as_slice).unwrap_or_default();
        let own = flows.iter().filter(|flow| flow["source"] == SOURCES[source]);
        own.map(|flow| (&flow["service"], &flow["weights"])).collect()
    }

    /// (endpoint, reason) of everything that might move.
    pub(crate) fn critical(&self) -> Vec<(String, String)> {
        let list = self.0["critical"].as_array().map(Vec::as_slice).unwrap_or_default();
        let text = |v: &Value| v.as_str().unwrap_or("?").to_owned();
        list.iter().map(|pair| (text(&pair[0]), text(&pair[1]))).collect()
    }

    /// Endpoints that the policy chose.
    pub(crate) fn chosen(&self) -> Vec<String> {
        let list = self.0["action"]["chosen"].as_array().map(Vec::as_slice).unwrap_or_default();
        list.iter().filter_map(|v| v.as_str().map(str::to_owned)).collect()
    }

    /// Sentences that explain the split.
    pub(crate) fn explanation(&self) -> Vec<&str> {
        let list = self.0["explanation"].as_array().map(Vec::as_slice).unwrap_or_default();
        list.iter().filter_map(Value::as_str).collect()
    }

    /// Stages that failed, in words.
    pub(crate) fn failures(&self) -> Vec<String> {
        let list = self.0["failures"].as_array().map(Vec::as_slice).unwrap_or_default();
        list.iter().map(|f| format!("{}: {}", f["stage"].as_str().unwrap_or("?"), f["message"])).collect()
    }

    /// Whether an endpoint is healthy and shows no loss of capacity.
    pub(crate) fn is_trusted(&self, endpoint: &str) -> bool {
        let list = self.0["endpoints"].as_array().map(Vec::as_slice).unwrap_or_default();
        let found = list.iter().find(|e| e["name"] == endpoint);
        found.is_some_and(|e| e["health"] == "healthy" && e["attribution"] == "normal")
    }
}

/// The admin interface of an Envoy.
#[derive(Debug, Clone)]
pub(crate) struct Admin {
    client: Client,
    base: String,
}

impl Admin {
    pub(crate) fn new(client: Client, port: u16) -> Self {
        Self { client, base: format!("http://127.0.0.1:{port}") }
    }

    /// Whether all its first resources have come.
    pub(crate) async fn is_ready(&self) -> bool {
        self.client.text(&format!("{}/ready", self.base)).await.is_ok()
    }

    /// Shares that Envoy itself works by, in the order of the service's endpoints.
    pub(crate) async fn shares(&self, service: &Service) -> Result<Vec<f64>> {
        let clusters = self.client.json(&format!("{}/clusters?format=json", self.base)).await?;
        let list = clusters["cluster_statuses"].as_array().map(Vec::as_slice).unwrap_or_default();
        let cluster = list
            .iter()
            .find(|c| c["name"] == service.name)
            .ok_or_else(|| LiveError::missing(format!("cluster {}", service.name)))?;
        let mut weights = vec![0.0; service.endpoints.len()];
        for host in cluster["host_statuses"].as_array().map(Vec::as_slice).unwrap_or_default() {
            let zone = host["locality"]["zone"].as_str().unwrap_or_default();
            if let Some(position) = service.position(zone) {
                weights[position] = host["weight"].as_f64().unwrap_or(0.0);
            }
        }
        let sum: f64 = weights.iter().sum();
        if sum <= 0.0 {
            return Err(LiveError::missing(format!("a weight in cluster {}", service.name)));
        }
        Ok(weights.into_iter().map(|w| w / sum).collect())
    }
}

/// Prometheus.
#[derive(Debug, Clone)]
pub(crate) struct Metrics {
    client: Client,
    base: String,
}

impl Metrics {
    pub(crate) fn new(client: Client, port: u16) -> Self {
        Self { client, base: format!("http://127.0.0.1:{port}") }
    }

    /// Whether it answers queries.
    pub(crate) async fn is_ready(&self) -> bool {
        self.client.text(&format!("{}/-/ready", self.base)).await.is_ok()
    }

    /// The 95th percentile that Envoy's histogram shows for an endpoint over the last 5 s, milliseconds; `None`
    /// where there is none.
    pub(crate) async fn p95_ms(&self, endpoint: &str) -> Result<Option<f64>> {
        let query = format!(
            "histogram_quantile(0.95, sum by (le) \
             (rate(envoy_cluster_upstream_rq_time_bucket{{traflux_endpoint=\"{endpoint}\"}}[5s])))"
        );
        let url = format!("{}/api/v1/query", self.base);
        let text = self.client.send(&url, self.client.0.get(&url).query(&[("query", query)])).await?;
        let answer = parse(&url, &text)?;
        let value = answer["data"]["result"][0]["value"][1].as_str().and_then(|v| v.parse::<f64>().ok());
        Ok(value.filter(|v| v.is_finite()))
    }
}
