//! Which series belongs to which route?
//!
//! A series carries three labels: the source (put on the scrape target), the cluster (the service) and the
//! endpoint (cut out of the statistic's name by the data plane's `stats_tags`). [`LabelMap`] knows how the
//! three are called and how names of the topology look in them; `LabelIndex` finds the position.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use traflux_core::{ResourceIx, RouteIx, Topology};

use crate::answer::Labels;
use crate::queries::Layout;

/// A name as it may stand in a statistic: every character other than `A–Z a–z 0–9 _ -` becomes `_`.
///
/// A dot or colon would break Envoy's extraction of tags from the statistic's name.
///
/// ```
/// assert_eq!(traflux_prom::sanitize("eu.west:8080"), "eu_west_8080");
/// ```
#[must_use]
pub fn sanitize(name: &str) -> String {
    name.chars().map(|c| if c.is_ascii_alphanumeric() || c == '_' || c == '-' { c } else { '_' }).collect()
}

/// How names of a topology look in labels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LabelMap {
    /// The label of the source, put on the scrape target; its values are flow sources as they are.
    pub source_label: String,
    /// The label of the service; its values are sanitised service names.
    pub service_label: String,
    /// The label of the endpoint; its values are sanitised endpoint names.
    pub endpoint_label: String,
    /// Endpoint names by resource, where they differ from the resource's name: two services with an
    /// endpoint of one name have resources of two names.
    pub endpoint_names: BTreeMap<String, String>,
    /// Resources by `address:port` of their hosts, for health gauges of endpoints without a host name.
    pub hosts: BTreeMap<String, String>,
}

impl Default for LabelMap {
    fn default() -> Self {
        Self {
            source_label: "traflux_source".into(),
            service_label: "envoy_cluster_name".into(),
            endpoint_label: "traflux_endpoint".into(),
            endpoint_names: BTreeMap::new(),
            hosts: BTreeMap::new(),
        }
    }
}

impl LabelMap {
    /// The sanitised endpoint name of a resource.
    #[must_use]
    pub fn endpoint(&self, resource: &str) -> String {
        sanitize(self.endpoint_names.get(resource).map_or(resource, String::as_str))
    }
}

/// Positions of routes and resources by label values, for one topology.
#[derive(Debug)]
pub(crate) struct LabelIndex {
    /// service → endpoint → resource.
    endpoints: HashMap<String, HashMap<String, ResourceIx>>,
    /// source → (position of the resource → route), per service.
    routes: HashMap<String, HashMap<String, HashMap<ResourceIx, RouteIx>>>,
    /// Resources by host address.
    hosts: HashMap<String, ResourceIx>,
    /// endpoint → resources, whatever the service.
    any_service: HashMap<String, Vec<ResourceIx>>,
    /// The only source, where there is one.
    only_source: Option<String>,
    /// Endpoints of one service whose labels are equal: their series cannot be told apart.
    pub(crate) clashes: BTreeSet<String>,
}

/// Where a series belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) resource: ResourceIx,
    /// `None`: traffic to the endpoint from a source that the topology does not know.
    pub(crate) route: Option<RouteIx>,
}

impl LabelIndex {
    pub(crate) fn new(topology: &Topology, map: &LabelMap) -> Self {
        let labels: Vec<String> = topology.resources().iter().map(|r| map.endpoint(&r.name)).collect();
        let mut endpoints: HashMap<String, HashMap<String, ResourceIx>> = HashMap::new();
        let mut routes: HashMap<String, HashMap<String, HashMap<ResourceIx, RouteIx>>> = HashMap::new();
        let mut any_service: HashMap<String, Vec<ResourceIx>> = HashMap::new();
        let mut clashes = BTreeSet::new();
        for (flow_ix, flow) in topology.flows().iter().enumerate() {
            let service = sanitize(&flow.service);
            let by_endpoint = endpoints.entry(service.clone()).or_default();
            let by_resource = routes.entry(flow.source.clone()).or_default().entry(service).or_default();
            for ix in topology.route_range(flow_ix.into()) {
                // The first entry is the endpoint; what follows are quotas and links.
                let Some(consumption) = topology.routes()[ix].consumption.first() else { continue };
                let label = &labels[consumption.resource.ix()];
                let before = by_endpoint.insert(label.clone(), consumption.resource);
                if before.is_some_and(|before| before != consumption.resource) {
                    clashes.insert(format!("{}/{label}", flow.service));
                }
                by_resource.insert(consumption.resource, ix.into());
            }
        }
        for by_endpoint in endpoints.values() {
            for (label, resource) in by_endpoint {
                let list = any_service.entry(label.clone()).or_default();
                if !list.contains(resource) {
                    list.push(*resource);
                }
            }
        }
        let positions: HashMap<&str, ResourceIx> =
            topology.resources().iter().enumerate().map(|(ix, r)| (r.name.as_str(), ix.into())).collect();
        let hosts = map
            .hosts
            .iter()
            .filter_map(|(address, resource)| Some((address.clone(), *positions.get(resource.as_str())?)))
            .collect();
        let mut sources = routes.keys();
        let only_source = match (sources.next(), sources.next()) {
            (Some(source), None) => Some(source.clone()),
            _ => None,
        };
        Self { endpoints, routes, hosts, any_service, only_source, clashes }
    }

    /// Where a series of an endpoint belongs; `None` when the topology does not know the endpoint.
    ///
    /// A series without a source label belongs to the only source, where there is only one.
    pub(crate) fn place(&self, labels: &Labels, map: &LabelMap, layout: Layout) -> Option<Place> {
        let endpoint = labels.get(&map.endpoint_label)?;
        let service = service_of(labels.get(&map.service_label)?, endpoint, layout);
        let resource = *self.endpoints.get(service)?.get(endpoint)?;
        let source = labels.get(&map.source_label).or(self.only_source.as_deref());
        let route = source.and_then(|source| self.routes.get(source)?.get(service)?.get(&resource)).copied();
        Some(Place { resource, route })
    }

    /// The resource of a gauge that is labelled by cluster and host.
    pub(crate) fn host(&self, labels: &Labels, map: &LabelMap, layout: Layout) -> Option<ResourceIx> {
        let cluster = labels.get(&map.service_label)?;
        if let Layout::ClusterPerEndpoint = layout {
            let (service, endpoint) = cluster.rsplit_once(CLUSTER_SEPARATOR)?;
            return self.endpoints.get(service)?.get(endpoint).copied();
        }
        let by_endpoint = self.endpoints.get(cluster)?;
        labels
            .get("envoy_endpoint_hostname")
            .and_then(|name| by_endpoint.get(name).or_else(|| by_endpoint.get(&sanitize(name))).copied())
            .or_else(|| self.hosts.get(labels.get("envoy_endpoint_address")?).copied())
    }

    /// The resources of a user's signal: by endpoint name, in the service where the answer names one.
    pub(crate) fn signal(&self, endpoint: &str, service: Option<&str>) -> Vec<ResourceIx> {
        let clean = sanitize(endpoint);
        match service {
            Some(service) => {
                self.endpoints.get(service).and_then(|e| e.get(&clean)).copied().into_iter().collect()
            }
            None => self.any_service.get(&clean).cloned().unwrap_or_default(),
        }
    }
}

/// Stands between service and endpoint in the name of a cluster per endpoint.
pub const CLUSTER_SEPARATOR: &str = "__";

fn service_of<'a>(cluster: &'a str, endpoint: &str, layout: Layout) -> &'a str {
    match layout {
        Layout::ZonePerEndpoint => cluster,
        Layout::ClusterPerEndpoint => cluster
            .strip_suffix(endpoint)
            .and_then(|rest| rest.strip_suffix(CLUSTER_SEPARATOR))
            .unwrap_or(cluster),
    }
}
