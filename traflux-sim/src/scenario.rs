//! Which fleet, which clients, and what happens to them?
//!
//! A scenario is a YAML file. Keys end in their unit; an unknown key, a value out of range or a name that
//! points nowhere is an error that gives the path of the key. What happens over time is a list of
//! [`Process`]es, any number of which compose.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use traflux_core::{
    Consumption, Flow, HourlyPrice, Latency, Rate, Resource, Route, Split, Topology, UnitPrice, WeightTable,
    quantize,
};

use crate::distribution::ServiceTime;
use crate::error::SimError;
use crate::process::Process;

/// The sum of a row of integer weights that this crate makes itself.
pub const WEIGHT_TOTAL: u32 = 10_000;

/// A whole experiment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// Short name.
    pub name: String,
    /// What it shows.
    #[serde(default)]
    pub description: String,
    /// Name of the service that all endpoints serve.
    #[serde(default = "defaults::service")]
    pub service: String,
    /// Virtual length in seconds.
    pub duration_s: f64,
    /// Seeds of the runs.
    #[serde(default = "defaults::seeds")]
    pub seeds: Vec<u64>,
    /// When a client gives up.
    #[serde(default = "defaults::timeout_ms")]
    pub timeout_ms: f64,
    /// The latency that a request should not exceed.
    #[serde(default = "defaults::slo_ms")]
    pub slo_ms: f64,
    /// Mean size of a response, for egress.
    #[serde(default = "defaults::response_bytes")]
    pub response_bytes: f64,
    /// How often a controller decides.
    #[serde(default = "defaults::control_interval_s")]
    pub control_interval_s: f64,
    /// How metrics reach the controller, and weights the data plane.
    #[serde(default)]
    pub metrics: MetricsSettings,
    /// What the data plane does about failing endpoints by itself; `null` turns it off.
    #[serde(default = "defaults::outlier_detection")]
    pub outlier_detection: Option<OutlierDetection>,
    /// Clouds by name.
    pub clouds: BTreeMap<String, Cloud>,
    /// Where clients are.
    pub sources: Vec<Source>,
    /// Who serves them.
    pub endpoints: Vec<Endpoint>,
    /// What happens.
    #[serde(default)]
    pub processes: Vec<Process>,
}

/// How old and how coarse what a controller sees is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MetricsSettings {
    /// Time between two scrapes of a source.
    pub scrape_interval_s: f64,
    /// The window over which a controller should take rates: at least two scrapes.
    pub rate_window_s: f64,
    /// From sending weights to having them in force.
    pub control_delay_s: f64,
    /// Upper bounds of the latency histogram (Envoy's own unless told); above the last there is one more bucket.
    pub histogram_buckets_ms: Vec<f64>,
}

impl Default for MetricsSettings {
    fn default() -> Self {
        Self {
            scrape_interval_s: 15.0,
            rate_window_s: 60.0,
            control_delay_s: 0.5,
            histogram_buckets_ms: vec![
                0.5, 1.0, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1000.0, 2500.0, 5000.0, 10_000.0,
            ],
        }
    }
}

/// Ejection of endpoints that fail many times in a row, by every source for itself.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OutlierDetection {
    /// Failures in a row that eject.
    pub consecutive_failures: u32,
    /// How long the first time; each further time in a row as much longer.
    pub ejection_s: f64,
    /// Largest share of endpoints ejected at a time.
    pub max_ejected_ratio: f64,
}

impl Default for OutlierDetection {
    fn default() -> Self {
        Self { consecutive_failures: 5, ejection_s: 30.0, max_ejected_ratio: 0.5 }
    }
}

/// One cloud.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cloud {
    /// Egress price unless an endpoint says otherwise for a source.
    pub egress_usd_per_gb: f64,
}

/// Clients of one region.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Source {
    /// Unique name.
    pub name: String,
    /// Requests per second before any load process.
    pub base_rps: f64,
}

/// One cluster that serves.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Endpoint {
    /// Unique name.
    pub name: String,
    /// Its cloud.
    pub cloud: String,
    /// Its region.
    #[serde(default)]
    pub region: String,
    /// What fails together; the cloud unless told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub domain: Option<String>,
    /// Requests served at a time.
    pub slots: u32,
    /// Mean service time of one request.
    pub service_ms: f64,
    /// Shape of service times.
    #[serde(default)]
    pub service_time: ServiceTime,
    /// Requests that may wait; one more is refused.
    #[serde(default = "defaults::queue_limit")]
    pub queue_limit: usize,
    /// Provisioned compute per hour.
    pub hourly_usd: f64,
    /// Charge per million requests.
    #[serde(default)]
    pub request_usd_per_million: f64,
    /// Priority tier.
    #[serde(default)]
    pub tier: u8,
    /// Round-trip time by source; a source left out has no route here.
    pub rtt_ms: BTreeMap<String, f64>,
    /// Egress price by source, where it differs from the cloud's.
    #[serde(default)]
    pub egress_usd_per_gb: BTreeMap<String, f64>,
}

impl Endpoint {
    /// Requests per second at full use of all slots.
    #[must_use]
    pub fn capacity(&self) -> Rate {
        Rate::saturating(f64::from(self.slots) / (self.service_ms * 1e-3))
    }
}

mod defaults {
    use super::OutlierDetection;

    pub(super) fn service() -> String {
        "service".to_owned()
    }
    pub(super) fn seeds() -> Vec<u64> {
        (1..=10).collect()
    }
    pub(super) fn timeout_ms() -> f64 {
        2000.0
    }
    pub(super) fn slo_ms() -> f64 {
        250.0
    }
    pub(super) fn response_bytes() -> f64 {
        20_000.0
    }
    pub(super) fn control_interval_s() -> f64 {
        5.0
    }
    pub(super) fn queue_limit() -> usize {
        256
    }
    pub(super) fn outlier_detection() -> Option<OutlierDetection> {
        Some(OutlierDetection::default())
    }
}

/// The scenarios that ship with the crate: name and YAML text.
const BUILT_IN: [(&str, &str); 8] = [
    ("demo", include_str!("../scenarios/demo.yaml")),
    ("steady", include_str!("../scenarios/steady.yaml")),
    ("flash", include_str!("../scenarios/flash.yaml")),
    ("hidden-loss", include_str!("../scenarios/hidden-loss.yaml")),
    ("brownout", include_str!("../scenarios/brownout.yaml")),
    ("outage", include_str!("../scenarios/outage.yaml")),
    ("price", include_str!("../scenarios/price.yaml")),
    ("stale-metrics", include_str!("../scenarios/stale-metrics.yaml")),
];

impl Scenario {
    /// Reads and checks a scenario.
    ///
    /// # Errors
    /// [`SimError::Syntax`] for text that is not YAML, [`SimError::Scenario`] with the path of a key that is
    /// unknown, missing or out of range.
    pub fn from_yaml(text: &str) -> Result<Self, SimError> {
        let value: serde_json::Value =
            serde_saphyr::from_str(text).map_err(|error| SimError::Syntax { reason: error.to_string() })?;
        let scenario: Self = serde_path_to_error::deserialize(value).map_err(|error| {
            let path = error.path().to_string();
            SimError::scenario(path, error.into_inner().to_string())
        })?;
        scenario.check()?;
        Ok(scenario)
    }

    /// The built-in scenario of a name.
    ///
    /// # Errors
    /// [`SimError::UnknownScenario`].
    pub fn built_in(name: &str) -> Result<Self, SimError> {
        match BUILT_IN.iter().find(|(known, _)| *known == name) {
            Some((_, text)) => Self::from_yaml(text),
            None => Err(SimError::UnknownScenario {
                name: name.to_owned(),
                expected: Self::built_in_names().collect::<Vec<_>>().join(", "),
            }),
        }
    }

    /// Names of the built-in scenarios.
    pub fn built_in_names() -> impl Iterator<Item = &'static str> {
        BUILT_IN.iter().map(|(name, _)| *name)
    }

    /// Checks ranges, names and that the parts fit together. [`from_yaml`](Self::from_yaml) has done so.
    ///
    /// # Errors
    /// [`SimError::Scenario`] or [`SimError::Topology`].
    pub fn check(&self) -> Result<(), SimError> {
        within("duration_s", self.duration_s, 1e-3, 1e8)?;
        within("timeout_ms", self.timeout_ms, 1.0, 3.6e6)?;
        within("slo_ms", self.slo_ms, 0.0, 3.6e6)?;
        within("response_bytes", self.response_bytes, 0.0, 1e12)?;
        within("control_interval_s", self.control_interval_s, 0.01, 1e6)?;
        let metrics = &self.metrics;
        within("metrics.scrape_interval_s", metrics.scrape_interval_s, 0.01, 1e5)?;
        within("metrics.rate_window_s", metrics.rate_window_s, 2.0 * metrics.scrape_interval_s, 1e6)?;
        within("metrics.control_delay_s", metrics.control_delay_s, 0.0, 1e5)?;
        let bounds = &metrics.histogram_buckets_ms;
        let rising =
            bounds.windows(2).all(|w| w[0] < w[1]) && bounds.iter().all(|b| b.is_finite() && *b > 0.0);
        if !rising || !(1..=crate::scrape::MAX_BUCKETS - 1).contains(&bounds.len()) {
            return Err(SimError::scenario(
                "metrics.histogram_buckets_ms",
                format!(
                    "{} bounds, expected 1 to {}, positive and rising",
                    bounds.len(),
                    crate::scrape::MAX_BUCKETS - 1
                ),
            ));
        }
        if let Some(outlier) = &self.outlier_detection {
            within("outlier_detection.ejection_s", outlier.ejection_s, 0.1, 1e6)?;
            within("outlier_detection.max_ejected_ratio", outlier.max_ejected_ratio, 0.0, 1.0)?;
            if outlier.consecutive_failures == 0 {
                return Err(SimError::scenario("outlier_detection.consecutive_failures", "0 is below 1"));
            }
        }
        for (name, cloud) in &self.clouds {
            within(format!("clouds.{name}.egress_usd_per_gb"), cloud.egress_usd_per_gb, 0.0, 1e6)?;
        }
        if self.sources.is_empty() {
            return Err(SimError::scenario("sources", "0 sources, at least 1 is needed"));
        }
        if self.endpoints.is_empty() {
            return Err(SimError::scenario("endpoints", "0 endpoints, at least 1 is needed"));
        }
        if self.sources.len() > 1000 || self.endpoints.len() > 10_000 {
            return Err(SimError::scenario("endpoints", "more than 1000 sources or 10000 endpoints"));
        }
        for (ix, source) in self.sources.iter().enumerate() {
            within(format!("sources[{ix}].base_rps"), source.base_rps, 0.0, 1e7)?;
            if self.sources[..ix].iter().any(|s| s.name == source.name) {
                return Err(SimError::scenario(
                    format!("sources[{ix}].name"),
                    format!("`{}` is named twice", source.name),
                ));
            }
        }
        let mut names = std::collections::BTreeSet::new();
        for (ix, endpoint) in self.endpoints.iter().enumerate() {
            self.check_endpoint(&format!("endpoints[{ix}]"), endpoint)?;
            if !names.insert(endpoint.name.as_str()) {
                return Err(SimError::scenario(
                    format!("endpoints[{ix}].name"),
                    format!("`{}` is named twice", endpoint.name),
                ));
            }
        }
        for (ix, process) in self.processes.iter().enumerate() {
            process.check(&format!("processes[{ix}]"), self)?;
        }
        self.topology().map(drop)
    }

    fn check_endpoint(&self, path: &str, endpoint: &Endpoint) -> Result<(), SimError> {
        if !self.clouds.contains_key(&endpoint.cloud) {
            return Err(SimError::scenario(
                format!("{path}.cloud"),
                format!("`{}` is not among the clouds", endpoint.cloud),
            ));
        }
        within(format!("{path}.service_ms"), endpoint.service_ms, 1e-3, 3.6e6)?;
        within(format!("{path}.hourly_usd"), endpoint.hourly_usd, 0.0, 1e6)?;
        within(format!("{path}.request_usd_per_million"), endpoint.request_usd_per_million, 0.0, 1e9)?;
        if endpoint.slots > 1_000_000 {
            return Err(SimError::scenario(
                format!("{path}.slots"),
                format!("{} is above 1000000", endpoint.slots),
            ));
        }
        if let Some((key, problem)) = endpoint.service_time.problem() {
            return Err(SimError::scenario(format!("{path}.service_time.{key}"), problem));
        }
        for (key, map) in [("rtt_ms", &endpoint.rtt_ms), ("egress_usd_per_gb", &endpoint.egress_usd_per_gb)] {
            for (source, value) in map {
                if self.sources.iter().all(|s| s.name != *source) {
                    return Err(SimError::scenario(
                        format!("{path}.{key}.{source}"),
                        format!("`{source}` is not a source"),
                    ));
                }
                within(format!("{path}.{key}.{source}"), *value, 0.0, 1e6)?;
            }
        }
        Ok(())
    }

    /// The egress price from an endpoint to a source, in dollars per gigabyte.
    #[must_use]
    pub fn egress_usd_per_gb(&self, endpoint: &Endpoint, source: &str) -> f64 {
        endpoint
            .egress_usd_per_gb
            .get(source)
            .copied()
            .unwrap_or_else(|| self.clouds.get(&endpoint.cloud).map_or(0.0, |cloud| cloud.egress_usd_per_gb))
    }

    /// The fleet as every other crate sees it, at nominal capacities and prices. Flows are sources; routes
    /// are named `source/endpoint`; resources and groups carry the endpoints' names.
    ///
    /// # Errors
    /// [`SimError::Topology`], for example for a source that reaches no endpoint.
    pub fn topology(&self) -> Result<Topology, SimError> {
        let mut builder = Topology::builder();
        let handles: Vec<_> = self
            .endpoints
            .iter()
            .map(|endpoint| {
                builder.add_endpoint(
                    Resource {
                        name: endpoint.name.clone(),
                        capacity: endpoint.capacity(),
                        concurrency: Some(endpoint.slots),
                        service_time: Some(Latency::saturating(endpoint.service_ms * 1e-3)),
                        domain: Some(endpoint.domain.clone().unwrap_or_else(|| endpoint.cloud.clone())),
                        hourly_price: HourlyPrice::saturating(endpoint.hourly_usd),
                    },
                    endpoint.tier,
                )
            })
            .collect();
        for source in &self.sources {
            let flow = builder.add_flow(Flow {
                name: source.name.clone(),
                source: source.name.clone(),
                service: self.service.clone(),
            });
            for (endpoint, (resource, group)) in self.endpoints.iter().zip(&handles) {
                let Some(rtt_ms) = endpoint.rtt_ms.get(&source.name) else { continue };
                let egress =
                    UnitPrice::of_egress(self.response_bytes, self.egress_usd_per_gb(endpoint, &source.name));
                builder.add_route(Route {
                    name: format!("{}/{}", source.name, endpoint.name),
                    flow,
                    group: *group,
                    consumption: vec![Consumption { resource: *resource, per_request: 1.0 }],
                    delay: Latency::saturating(rtt_ms * 1e-3),
                    price: egress + UnitPrice::saturating(endpoint.request_usd_per_million),
                });
            }
        }
        Ok(builder.build()?)
    }

    /// Static weights in proportion to nominal capacity: what everything starts with.
    ///
    /// # Errors
    /// As [`topology`](Self::topology).
    pub fn capacity_weights(&self) -> Result<WeightTable, SimError> {
        let topology = self.topology()?;
        let amounts: Vec<f64> = topology
            .routes()
            .iter()
            .map(|route| topology.resources()[route.consumption[0].resource.ix()].capacity.get())
            .collect();
        let total = WEIGHT_TOTAL.max(topology.resources().len() as u32);
        Ok(quantize(&Split::proportional(&topology, &amounts), total)?)
    }

    /// The sum of all endpoints' nominal capacities.
    #[must_use]
    pub fn fleet_capacity(&self) -> Rate {
        self.endpoints.iter().map(Endpoint::capacity).sum()
    }
}

/// Checks a range, both ends included; NaN is outside.
pub(crate) fn within(path: impl Into<String>, value: f64, low: f64, high: f64) -> Result<(), SimError> {
    if (low..=high).contains(&value) {
        Ok(())
    } else {
        Err(SimError::scenario(path, format!("{value} is outside [{low}, {high}]")))
    }
}
