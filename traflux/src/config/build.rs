//! From a configuration to what the controller controls.

use std::collections::BTreeMap;
use std::time::Duration;

use traflux_core::estimator::EstimatorConfig;
use traflux_core::{
    AssembleConfig, Consumption, EndpointPlan, Flow, HostPlan, HourlyPrice, LadderConfig, Latency,
    ListenerPlan, NodeGroup, Rate, Resource, ResourceIx, Route, ServicePlan, Topology, TwoStage, UnitPrice,
    WeightRow,
};
use traflux_policy::{EncoderConfig, FleetEncoder, SignalFeature};

use super::parse::host_and_port;
use super::{Config, ConfigError, EndpointConfig, ServiceConfig};
use crate::controller::{ControlConfig, Fleet};

/// An endpoint of the configuration with the service it belongs to.
#[derive(Debug, Clone, Copy)]
pub struct EndpointSpec<'a> {
    /// Its service.
    pub service: &'a ServiceConfig,
    /// Itself.
    pub endpoint: &'a EndpointConfig,
}

/// What a configuration comes to.
#[derive(Debug, Clone)]
pub struct Built {
    /// Topology, static split and services.
    pub fleet: Fleet,
    /// Numbers of the loop.
    pub control: ControlConfig,
}

/// Addresses of DNS names, by name.
pub type Resolved = BTreeMap<String, Vec<String>>;

impl EndpointConfig {
    /// Its hosts as written: `host:port`.
    pub fn hosts(&self) -> impl Iterator<Item = &str> {
        self.address.iter().chain(&self.addresses).map(String::as_str)
    }
}

impl Config {
    /// All endpoints.
    pub fn endpoints(&self) -> impl Iterator<Item = EndpointSpec<'_>> {
        self.services.iter().flat_map(|service| {
            service.endpoints.iter().map(move |endpoint| EndpointSpec { service, endpoint })
        })
    }

    /// The host names that must be resolved before hosts can be sent to Envoy.
    pub fn dns_names(&self) -> Vec<String> {
        dns_names(&self.services)
    }

    /// The same configuration without the endpoints that have no host yet: a name that cannot be resolved must
    /// not keep the others from the Envoys. A service of which nothing would be left keeps everything; no plan
    /// is made of it then, and the Envoys keep what they have.
    #[must_use]
    pub(crate) fn reachable(&self, resolved: &Resolved) -> Self {
        let mut config = self.clone();
        for service in &mut config.services {
            if has_hosts(service, resolved) {
                service.endpoints.retain(|endpoint| !host_plans(endpoint, resolved).is_empty());
            }
        }
        config
    }

    /// Builds topology, services and numbers.
    ///
    /// `resolved` gives the addresses of DNS names; a name without an entry leaves its host out.
    ///
    /// # Errors
    /// [`ConfigError::Key`] for what only shows when everything is put together.
    pub fn build(&self, resolved: &Resolved) -> Result<Built, ConfigError> {
        Ok(Built { fleet: self.fleet(resolved)?, control: self.control() })
    }

    /// Numbers of the loop.
    #[must_use]
    pub fn control(&self) -> ControlConfig {
        let objective = &self.objective;
        let prometheus = &self.metrics.prometheus;
        ControlConfig {
            window_s: prometheus.window_s,
            dead_time_s: prometheus.scrape_interval_s + self.control.min_push_interval_s,
            weight_total: self.control.weight_total,
            dead_band: self.control.dead_band,
            min_push_interval_s: self.control.min_push_interval_s,
            guard: self.control.guard,
            ladder: LadderConfig {
                // Between two scrapes nothing newer can come.
                fresh_within_s: self.control.ladder.fresh_within_s.max(2.5 * prometheus.scrape_interval_s),
                // A tick must be able to count its own length.
                max_elapsed_s: self.control.ladder.max_elapsed_s.max(self.control.interval_s),
                ..self.control.ladder
            },
            assemble: AssembleConfig {
                objective: TwoStage {
                    max_utilization: objective.max_utilization,
                    seconds_per_dollar: seconds_per_dollar(objective.usd_per_million_for_10_ms),
                    churn_seconds: objective.churn_ms * 1e-3,
                    budget_per_hour: objective.budget_usd_per_hour,
                    survive_domain_loss: self.control.guard.survive_domain_loss,
                    ..TwoStage::default()
                },
                error_seconds: objective.error_ms * 1e-3,
                headroom: objective.headroom,
                deadline_ms: objective.deadline_ms,
                ..AssembleConfig::default()
            },
            action_bounds: self.policy.bounds,
        }
    }

    /// Numbers of the estimator: limits of the user's signals are its too, and it calls what exceeds them in breach.
    #[must_use]
    pub fn estimator(&self) -> EstimatorConfig {
        let mut estimator = self.control.estimator.clone();
        // What is decided now acts until the next decision is in force.
        estimator.control_delay_s = estimator.control_delay_s.max(self.control.interval_s);
        for signal in &self.metrics.prometheus.signals {
            if let Some(limit) = signal.limit {
                estimator.health.signal_limits.entry(signal.name.clone()).or_insert(limit);
            }
        }
        estimator
    }

    /// The encoder: with the user's signals as features.
    #[must_use]
    pub fn encoder(&self) -> FleetEncoder {
        let signals = &self.metrics.prometheus.signals;
        let signals = signals
            .iter()
            .map(|signal| SignalFeature { name: signal.name.clone(), scale: signal.limit.unwrap_or(1.0) })
            .collect();
        FleetEncoder::new(EncoderConfig { signals })
    }

    fn fleet(&self, resolved: &Resolved) -> Result<Fleet, ConfigError> {
        let mut builder = Topology::builder();
        let mut placed = BTreeMap::new();
        for spec in self.endpoints() {
            let endpoint = spec.endpoint;
            let ids = builder.add_endpoint(
                Resource {
                    name: endpoint.name.clone(),
                    capacity: Rate::saturating(endpoint.capacity_rps),
                    concurrency: endpoint.concurrency,
                    service_time: endpoint.service_time_ms.map(|ms| Latency::saturating(ms * 1e-3)),
                    domain: endpoint.domain.clone(),
                    hourly_price: HourlyPrice::saturating(endpoint.hourly_usd),
                },
                endpoint.tier,
            );
            placed.insert(endpoint.name.as_str(), ids);
        }
        let shared: Vec<ResourceIx> = self
            .shared
            .iter()
            .map(|shared| {
                builder.add_resource(Resource {
                    name: shared.name.clone(),
                    capacity: Rate::saturating(shared.capacity_per_s),
                    concurrency: None,
                    service_time: None,
                    domain: None,
                    hourly_price: HourlyPrice::ZERO,
                })
            })
            .collect();
        // What a request takes of its endpoint, and behind it of what endpoints share.
        let consumption = |source: &str, endpoint: &str, own: ResourceIx| {
            let taken = self.shared.iter().zip(&shared).filter_map(|(shared, resource)| {
                let here = shared.sources.is_empty() || shared.sources.iter().any(|s| s == source);
                let per_request = *shared.per_request.get(endpoint)?;
                here.then_some(Consumption { resource: *resource, per_request })
            });
            std::iter::once(Consumption { resource: own, per_request: 1.0 }).chain(taken).collect()
        };
        for source in &self.sources {
            for service in &self.services {
                let flow = builder.add_flow(Flow {
                    name: format!("{}/{}", source.name, service.name),
                    source: source.name.clone(),
                    service: service.name.clone(),
                });
                for endpoint in &service.endpoints {
                    let (resource, group) = placed[endpoint.name.as_str()];
                    let lookup =
                        |table: &BTreeMap<String, f64>| table.get(&endpoint.name).copied().unwrap_or(0.0);
                    builder.add_route(Route {
                        name: format!("{}/{}", source.name, endpoint.name),
                        flow,
                        group,
                        consumption: consumption(&source.name, &endpoint.name, resource),
                        delay: Latency::saturating(lookup(&source.rtt_ms) * 1e-3),
                        price: UnitPrice::saturating(
                            lookup(&source.egress_usd_per_million) + endpoint.price_usd_per_million,
                        ),
                    });
                }
            }
        }
        let topology = builder.build().map_err(|e| ConfigError::key("services", e.to_string()))?;
        let services = self.services.iter().map(|s| service_plan(s, resolved)).collect();
        Ok(Fleet::new(topology, services))
    }
}

/// The host names of services that must be resolved.
pub(crate) fn dns_names(services: &[ServiceConfig]) -> Vec<String> {
    let mut names: Vec<String> = services
        .iter()
        .flat_map(|service| &service.endpoints)
        .flat_map(|endpoint| endpoint.hosts().filter_map(|host| host_and_port(host).ok()))
        .map(|(host, _)| host)
        .filter(|host| host.parse::<std::net::IpAddr>().is_err())
        .collect();
    names.sort();
    names.dedup();
    names
}

/// `X` dollars per million requests for 10 ms each are 10⁴ seconds of delay for `X` dollars.
fn seconds_per_dollar(usd_per_million_for_10_ms: Option<f64>) -> f64 {
    usd_per_million_for_10_ms.map_or(0.0, |usd| 1e4 / usd)
}

fn service_plan(service: &ServiceConfig, resolved: &Resolved) -> ServicePlan {
    let endpoints = service
        .endpoints
        .iter()
        .map(|endpoint| EndpointPlan {
            name: endpoint.name.clone(),
            hosts: host_plans(endpoint, resolved),
            region: endpoint.region.clone(),
            tier: endpoint.tier,
        })
        .collect();
    ServicePlan {
        name: service.name.clone(),
        listener: service.listen.map(listener),
        timeout: Duration::from_secs_f64(service.timeout_ms * 1e-3),
        connect_timeout: Duration::from_secs_f64(service.connect_timeout_ms * 1e-3),
        http2: service.http2,
        endpoints,
        // Rows without weights: they carry the listeners that differ by source.
        rows: service
            .listen_by_source
            .iter()
            .map(|(source, listen)| WeightRow {
                group: NodeGroup(source.clone()),
                listener: Some(listener(*listen)),
                weights: Vec::new(),
            })
            .collect(),
    }
}

/// Whether any endpoint of a service has a host.
pub(crate) fn has_hosts(service: &ServiceConfig, resolved: &Resolved) -> bool {
    service.endpoints.iter().any(|endpoint| !host_plans(endpoint, resolved).is_empty())
}

fn host_plans(endpoint: &EndpointConfig, resolved: &Resolved) -> Vec<HostPlan> {
    endpoint
        .hosts()
        .filter_map(|host| host_and_port(host).ok())
        .flat_map(|(host, port)| match host.parse::<std::net::IpAddr>() {
            Ok(_) => vec![HostPlan { address: host, port }],
            Err(_) => resolved
                .get(&host)
                .into_iter()
                .flatten()
                .map(|address| HostPlan { address: address.clone(), port })
                .collect(),
        })
        .collect()
}

fn listener(listen: std::net::SocketAddr) -> ListenerPlan {
    ListenerPlan { address: listen.ip().to_string(), port: listen.port() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dollar_per_million_for_ten_milliseconds_is_ten_thousand_seconds_per_dollar() {
        assert_eq!(seconds_per_dollar(Some(1.0)), 1e4);
        assert_eq!(seconds_per_dollar(None), 0.0);
    }
}
