//! What is sent to the data plane?
//!
//! A [`TrafficPlan`] is the only intermediate form: `traflux-xds` translates it for Envoy, an in-process
//! engine executes it. Its version is a hash of its content, so equal plans have equal versions on every
//! replica, and a restart does not look like a change.

pub mod affinity;
pub mod backend;
pub mod balance;
pub mod congestion;
pub mod control;
pub mod form;
pub mod health;
pub mod identity;
pub mod limit;
pub mod limit_key;
pub mod matching;
pub mod pool;
pub mod queue;
mod range;
pub mod requests;
pub mod retry;
pub mod routing;
pub mod server;
pub mod tokens;

use std::collections::HashMap;
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::error::PlanError;
use crate::split::WeightTable;
use crate::topology::{FlowIx, Topology};
use crate::units::Timestamp;

/// Content hash of a plan: 16 hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PlanVersion(String);

impl PlanVersion {
    /// Takes a version as text.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for PlanVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Receivers that get the same rows of weights: the Envoys (or gateways) of one source region.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct NodeGroup(pub String);

impl fmt::Display for NodeGroup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Where a data plane listens for one service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListenerPlan {
    /// IP address.
    pub address: String,
    /// Port.
    pub port: u16,
}

/// One host of an endpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostPlan {
    /// IP address or DNS name that was resolved.
    pub address: String,
    /// Port.
    pub port: u16,
}

/// An endpoint of a service. Its weight is in [`WeightRow`], never here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointPlan {
    /// Unique within the service.
    pub name: String,
    /// One host, or the hosts of a locality among which the data plane chooses by itself.
    pub hosts: Vec<HostPlan>,
    /// Region, where known.
    pub region: Option<String>,
    /// Priority tier. With a positive weight an endpoint of any tier carries traffic beside the others; with
    /// weight 0 an endpoint of tier 0 is left out, one of a higher tier stands by for the data plane to fail
    /// over to.
    pub tier: u8,
}

/// Weights of one node group over the endpoints of a service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WeightRow {
    /// Who gets it.
    pub group: NodeGroup,
    /// Where this group listens, where that differs from the service's listener (several Envoys on one host).
    pub listener: Option<ListenerPlan>,
    /// One weight per endpoint, in the order of the endpoints; 0 leaves the endpoint out.
    pub weights: Vec<u32>,
}

/// One service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServicePlan {
    /// Unique name; the name of the cluster.
    pub name: String,
    /// Where it listens; `None` when the listener is configured elsewhere and only clusters are ours.
    pub listener: Option<ListenerPlan>,
    /// Time after which a request counts as failed.
    pub timeout: Duration,
    /// Time to connect to a host.
    pub connect_timeout: Duration,
    /// Whether hosts speak HTTP/2 (gRPC).
    pub http2: bool,
    /// Endpoints.
    pub endpoints: Vec<EndpointPlan>,
    /// A row of weights for each node group.
    pub rows: Vec<WeightRow>,
}

/// Everything that is sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrafficPlan {
    version: PlanVersion,
    services: Vec<ServicePlan>,
}

impl TrafficPlan {
    /// Makes a plan and computes its version.
    ///
    /// # Panics
    /// Never: plain data always serialises.
    #[must_use]
    pub fn new(services: Vec<ServicePlan>) -> Self {
        let mut hash = Sha256::new();
        hash_services(&mut hash, &services);
        let digest = hash.finalize();
        let text = digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect::<String>();
        Self { version: PlanVersion(text), services }
    }

    /// Fills rows of weights into services: a flow's row goes to its service, addressed to its source, and a
    /// route's weight to the endpoint named like its group.
    ///
    /// `services` describes everything but the weights; of its rows only the listeners are kept. Endpoints that no route leads to get
    /// weight 0.
    ///
    /// # Errors
    /// [`PlanError::Shape`] when the weights do not belong to the topology.
    pub fn from_weights(
        topology: &Topology,
        services: &[ServicePlan],
        weights: &WeightTable,
    ) -> Result<Self, PlanError> {
        if weights.generation != topology.generation() || weights.weights.len() != topology.routes().len() {
            return Err(PlanError::Shape {
                what: "weights",
                expected: topology.routes().len(),
                found: weights.weights.len(),
            });
        }
        let mut services = services.to_vec();
        for service in &mut services {
            let position: HashMap<&str, usize> =
                service.endpoints.iter().enumerate().map(|(ix, e)| (e.name.as_str(), ix)).collect();
            let mut rows = Vec::new();
            for (ix, flow) in topology.flows().iter().enumerate().filter(|(_, f)| f.service == service.name) {
                let mut row = vec![0; service.endpoints.len()];
                for at in topology.route_range(FlowIx::from(ix)) {
                    let group = &topology.groups()[topology.routes()[at].group.ix()];
                    if let Some(position) = position.get(group.name.as_str()) {
                        row[*position] = weights.weights[at];
                    }
                }
                let group = NodeGroup(flow.source.clone());
                let listener =
                    service.rows.iter().find(|r| r.group == group).and_then(|r| r.listener.clone());
                rows.push(WeightRow { group, listener, weights: row });
            }
            service.rows = rows;
        }
        Ok(Self::new(services))
    }

    /// Services that describe only what a topology knows: names of services and endpoints, no hosts. Enough
    /// for an in-process engine or a simulator.
    #[must_use]
    pub fn services_of(topology: &Topology) -> Vec<ServicePlan> {
        let mut services: Vec<ServicePlan> = Vec::new();
        for (ix, flow) in topology.flows().iter().enumerate() {
            let at = services.iter().position(|s| s.name == flow.service).unwrap_or_else(|| {
                services.push(ServicePlan {
                    name: flow.service.clone(),
                    listener: None,
                    timeout: Duration::from_secs(2),
                    connect_timeout: Duration::from_secs(1),
                    http2: false,
                    endpoints: Vec::new(),
                    rows: Vec::new(),
                });
                services.len() - 1
            });
            for route in topology.route_range(FlowIx::from(ix)) {
                let group = &topology.groups()[topology.routes()[route].group.ix()];
                if services[at].endpoints.iter().all(|e| e.name != group.name) {
                    services[at].endpoints.push(EndpointPlan {
                        name: group.name.clone(),
                        hosts: Vec::new(),
                        region: None,
                        tier: group.tier,
                    });
                }
            }
        }
        services
    }

    /// Hash of the content.
    #[must_use]
    pub fn version(&self) -> &PlanVersion {
        &self.version
    }

    /// The services.
    #[must_use]
    pub fn services(&self) -> &[ServicePlan] {
        &self.services
    }

    /// The groups that rows are addressed to, each once, sorted.
    #[must_use]
    pub fn node_groups(&self) -> Vec<NodeGroup> {
        let mut groups: Vec<_> =
            self.services.iter().flat_map(|s| s.rows.iter().map(|r| r.group.clone())).collect();
        groups.sort();
        groups.dedup();
        groups
    }
}

/// Feeds every field, strings and lists with their length before them, so that different plans never
/// feed the same bytes.
fn hash_services(hash: &mut Sha256, services: &[ServicePlan]) {
    fn number(hash: &mut Sha256, value: u64) {
        hash.update(value.to_le_bytes());
    }
    fn text(hash: &mut Sha256, value: &str) {
        number(hash, value.len() as u64);
        hash.update(value.as_bytes());
    }
    fn optional(hash: &mut Sha256, value: Option<&str>) {
        number(hash, u64::from(value.is_some()));
        text(hash, value.unwrap_or(""));
    }
    fn listener(hash: &mut Sha256, value: Option<&ListenerPlan>) {
        optional(hash, value.map(|l| l.address.as_str()));
        number(hash, value.map_or(0, |l| u64::from(l.port)));
    }
    number(hash, services.len() as u64);
    for service in services {
        text(hash, &service.name);
        listener(hash, service.listener.as_ref());
        number(hash, u64::try_from(service.timeout.as_nanos()).unwrap_or(u64::MAX));
        number(hash, u64::try_from(service.connect_timeout.as_nanos()).unwrap_or(u64::MAX));
        number(hash, u64::from(service.http2));
        number(hash, service.endpoints.len() as u64);
        for endpoint in &service.endpoints {
            text(hash, &endpoint.name);
            optional(hash, endpoint.region.as_deref());
            number(hash, u64::from(endpoint.tier));
            number(hash, endpoint.hosts.len() as u64);
            for host in &endpoint.hosts {
                text(hash, &host.address);
                number(hash, u64::from(host.port));
            }
        }
        number(hash, service.rows.len() as u64);
        for row in &service.rows {
            text(hash, &row.group.0);
            listener(hash, row.listener.as_ref());
            number(hash, row.weights.len() as u64);
            for weight in &row.weights {
                number(hash, u64::from(*weight));
            }
        }
    }
}

/// What an actuator says when it took a plan. Taking is not yet being in force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    /// The plan taken.
    pub version: PlanVersion,
    /// Whether it differs from what was sent before.
    pub changed: bool,
}

/// What a node group acknowledged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InForce {
    /// The plan that every connected node of the group acknowledged last.
    pub version: PlanVersion,
    /// Since when.
    pub since: Timestamp,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(weight: u32) -> TrafficPlan {
        TrafficPlan::new(vec![ServicePlan {
            name: "checkout".into(),
            listener: None,
            timeout: Duration::from_secs(2),
            connect_timeout: Duration::from_secs(1),
            http2: false,
            endpoints: vec![EndpointPlan {
                name: "a".into(),
                hosts: vec![HostPlan { address: "127.0.0.1".into(), port: 80 }],
                region: None,
                tier: 0,
            }],
            rows: vec![WeightRow { group: NodeGroup("us".into()), listener: None, weights: vec![weight] }],
        }])
    }

    #[test]
    fn equal_plans_have_equal_versions_and_a_weight_changes_it() {
        assert_eq!(plan(1).version(), plan(1).version());
        assert_ne!(plan(1).version(), plan(2).version());
        assert_eq!(plan(1).version().as_str().len(), 16);
    }
}
