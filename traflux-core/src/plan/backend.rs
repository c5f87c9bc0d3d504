//! What serves requests, at which price, and with which key?

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::form::{FromText, millis, one_or_many, text_or_map};
use crate::error::PlanError;

/// A provider, or a service of one's own: one or more endpoints that answer alike.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct BackendPlan {
    /// Where it listens; one URL, or several of equal standing, or `{ url, weight, tier, region, draining }`.
    #[serde(deserialize_with = "one_or_many", skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(feature = "schema", schemars(with = "super::form::OneOrManySchema<UpstreamEndpoint>"))]
    pub url: Vec<UpstreamEndpoint>,
    /// Where the upstream key comes from; never the key itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<KeySource>,
    /// What a request costs where its model says nothing.
    pub price: PricePlan,
    /// Models that it serves; any, when the map is empty.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub models: BTreeMap<String, ModelPlan>,
    /// Time to connect.
    #[serde(rename = "connect_timeout_ms", with = "millis")]
    #[cfg_attr(feature = "schema", schemars(with = "f64"))]
    pub connect_timeout: Duration,
    /// Whether it is being taken out of service: it gets no new requests, what is in flight goes on, and sessions move to
    /// another at their next request.
    pub draining: bool,
    /// Whether HTTP/2 is spoken without asking (gRPC, or plain text with prior knowledge); with TLS it is negotiated
    /// anyway.
    pub http2: bool,
    /// TLS towards URLs with https; the authorities of the system, and no certificate of one's own, without it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<BackendTlsPlan>,
    /// How its endpoints are asked for their load (queue, cache), as model servers show it to Prometheus; not at all
    /// without it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub load: Option<LoadPlan>,
}

impl Default for BackendPlan {
    fn default() -> Self {
        Self {
            url: Vec::new(),
            key: None,
            price: PricePlan::default(),
            models: BTreeMap::new(),
            connect_timeout: Duration::from_secs(2),
            draining: false,
            http2: false,
            tls: None,
            load: None,
        }
    }
}

impl BackendPlan {
    /// Price of a model. One that is not listed, or not known, costs as much as the dearest of each kind, so that what is
    /// reserved by it is an upper bound.
    #[must_use]
    pub fn price_of(&self, model: &str) -> PricePlan {
        match self.models.get(model) {
            Some(known) => known.price.unwrap_or(self.price),
            None => self.models.values().filter_map(|m| m.price).fold(self.price, PricePlan::dearest),
        }
    }

    /// Whether it takes no new requests: it or all of its endpoints drain.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        let mut open = self.url.iter().filter(|endpoint| endpoint.weight > 0).peekable();
        self.draining || open.peek().is_some() && open.all(|endpoint| endpoint.draining)
    }

    /// Whether it serves a model; one that lists none serves all.
    #[must_use]
    pub fn serves(&self, model: &str) -> bool {
        self.models.is_empty() || model.is_empty() || self.models.contains_key(model)
    }
}

/// How a backend is recognised, and what it is shown. Files are read again when they change; connections that are open
/// go on.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct BackendTlsPlan {
    /// Authorities that its certificate may come from, PEM, instead of those of the system.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub authority_file: Option<String>,
    /// Chain of certificates to show it, PEM; with `key_file`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificate_file: Option<String>,
    /// Private key of that certificate, PEM.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_file: Option<String>,
    /// Name that its certificate must bear; the host of the URL, without it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server_name: Option<String>,
}

/// How a model server is asked for its load: the metrics of vLLM, SGLang, text-generation-inference and Triton with
/// TensorRT-LLM, in the text format of Prometheus.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct LoadPlan {
    /// The path of its metrics, whatever path the URL has; `/metrics`.
    pub path: String,
    /// How often each endpoint is asked; 1 s. `congestion.signal` says from which age on reports fade.
    #[serde(rename = "interval_ms", with = "millis")]
    #[cfg_attr(feature = "schema", schemars(with = "f64"))]
    pub interval: Duration,
    /// Time for an answer; 500 ms.
    #[serde(rename = "timeout_ms", with = "millis")]
    #[cfg_attr(feature = "schema", schemars(with = "f64"))]
    pub timeout: Duration,
}

impl Default for LoadPlan {
    fn default() -> Self {
        Self {
            path: "/metrics".into(),
            interval: Duration::from_secs(1),
            timeout: Duration::from_millis(500),
        }
    }
}

impl LoadPlan {
    /// The shortest interval.
    pub const LEAST_INTERVAL: Duration = Duration::from_millis(10);

    /// Checks the ranges.
    ///
    /// # Errors
    /// [`PlanError::Key`] for a path that is none, an interval below 10 ms, and no time to answer.
    pub fn validate(&self) -> Result<(), PlanError> {
        let wrong = |path: &str, problem: String| Err(PlanError::Key { path: path.into(), problem });
        if !self.path.starts_with('/') {
            return wrong("path", format!("`{}` does not begin with `/`", self.path));
        }
        if self.interval < Self::LEAST_INTERVAL {
            return wrong("interval_ms", format!("{:?}, expected at least 10 ms", self.interval));
        }
        if self.timeout.is_zero() {
            return wrong("timeout_ms", "0 ms, expected more".to_owned());
        }
        Ok(())
    }
}

/// A model of a backend.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct ModelPlan {
    /// Price, where it differs from the backend's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub price: Option<PricePlan>,
    /// The most tokens of input and output together.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub context_tokens: Option<u64>,
}

/// One address of a backend. In short, its URL.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema), schemars(with = "EndpointSchema"))]
pub struct UpstreamEndpoint {
    /// Base URL: scheme, host, port, and a path that is put before the request's.
    pub url: String,
    /// Weight against the other endpoints of the backend.
    pub weight: u32,
    /// Priority tier: a higher one serves when lower ones cannot.
    pub tier: u8,
    /// Region, where known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// Whether it is being taken out of service, as [`BackendPlan::draining`] has it.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub draining: bool,
}

#[derive(Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
struct EndpointForm {
    /// Base URL: scheme, host, port, and a path that is put before the request's.
    url: String,
    /// Weight against the other endpoints of the backend.
    #[serde(default = "one")]
    weight: u32,
    /// Priority tier: a higher one serves when lower ones cannot.
    #[serde(default)]
    tier: u8,
    /// Region, where known.
    region: Option<String>,
    /// Whether it is being taken out of service: requests under way end, and no new ones come.
    #[serde(default)]
    draining: bool,
}

const fn one() -> u32 {
    1
}

/// A URL, or a URL with weight, tier, region and whether it drains.
#[cfg(feature = "schema")]
#[derive(schemars::JsonSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "only its schema is used")]
enum EndpointSchema {
    Url(String),
    Long(EndpointForm),
}

impl TryFrom<EndpointForm> for UpstreamEndpoint {
    type Error = String;

    fn try_from(form: EndpointForm) -> Result<Self, String> {
        let short = Self::from_text(&form.url)?;
        let EndpointForm { weight, tier, region, draining, .. } = form;
        Ok(Self { weight, tier, region, draining, ..short })
    }
}

impl FromText for UpstreamEndpoint {
    const EXPECTED: &'static str = "a URL, or a map with `url`, `weight`, `tier`, `region` and `draining`";

    fn from_text(text: &str) -> Result<Self, String> {
        let rest = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://"));
        if rest.is_none_or(|rest| rest.is_empty() || rest.starts_with('/')) {
            return Err(format!("`{text}` is no URL with http:// or https:// and a host"));
        }
        Ok(Self { url: text.to_owned(), weight: one(), tier: 0, region: None, draining: false })
    }
}

impl<'de> Deserialize<'de> for UpstreamEndpoint {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        text_or_map::<Self, EndpointForm, D>(deserializer)
    }
}

/// What a backend charges.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct PricePlan {
    /// Dollars per million tokens read.
    pub input_dollars_per_million: f64,
    /// Dollars per million tokens read from its cache; as input, without it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cached_dollars_per_million: Option<f64>,
    /// Dollars per million tokens written.
    pub output_dollars_per_million: f64,
    /// Dollars per request.
    pub request_dollars: f64,
}

impl PricePlan {
    /// The dearer of two, each kind by itself.
    fn dearest(self, other: Self) -> Self {
        let cached =
            |price: Self| price.cached_dollars_per_million.unwrap_or(price.input_dollars_per_million);
        Self {
            input_dollars_per_million: self.input_dollars_per_million.max(other.input_dollars_per_million),
            cached_dollars_per_million: Some(cached(self).max(cached(other))),
            output_dollars_per_million: self.output_dollars_per_million.max(other.output_dollars_per_million),
            request_dollars: self.request_dollars.max(other.request_dollars),
        }
    }
}

/// Where a secret comes from. It is read when the gateway starts and when the file changes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum KeySource {
    /// An environment variable.
    Env(String),
    /// A file, of which the last line break is not part of the secret.
    File(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_that_is_not_known_costs_as_the_dearest_of_each_kind() {
        let backend: BackendPlan = serde_json::from_str(
            r#"{"url": "http://x", "price": {"request_dollars": 0.5}, "models": {
                "cheap": {"price": {"input_dollars_per_million": 1, "output_dollars_per_million": 9}},
                "dear": {"price": {"input_dollars_per_million": 4, "cached_dollars_per_million": 2, "output_dollars_per_million": 8}},
                "usual": {}}}"#,
        )
        .unwrap_or_else(|e| panic!("{e}"));
        let dearest = PricePlan {
            input_dollars_per_million: 4.0,
            cached_dollars_per_million: Some(2.0),
            output_dollars_per_million: 9.0,
            request_dollars: 0.5,
        };
        assert_eq!((backend.price_of(""), backend.price_of("other")), (dearest, dearest));
        assert_eq!(backend.price_of("usual"), backend.price);
        assert_eq!(backend.price_of("cheap").input_dollars_per_million, 1.0);
        let plain = BackendPlan { models: BTreeMap::new(), ..backend };
        assert_eq!(plain.price_of("any"), plain.price);
    }
}
