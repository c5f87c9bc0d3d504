//! Who sends traffic where, and what does each request consume on the way?
//!
//! A [`Flow`] has demand (one source × one service, or one source–destination pair of a network); a
//! [`Route`] is one way to serve it; a [`Resource`] has capacity, and a route consumes some of each
//! resource it crosses; a [`Group`] is what a policy scores: an endpoint here, a flow in a network.
//!
//! Names are identity and live for ever; indices are dense, valid under one [`Generation`] only, and
//! index every vector of the loop. Identity never contains a weight.

use std::collections::HashMap;
use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::error::TopologyError;
use crate::units::{HourlyPrice, Latency, Rate, UnitPrice};

macro_rules! index {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub struct $name(pub u32);

        impl $name {
            /// The position in a vector.
            #[inline]
            #[must_use]
            pub const fn ix(self) -> usize {
                self.0 as usize
            }
        }

        impl From<usize> for $name {
            /// # Panics
            /// When the index exceeds `u32::MAX`; constructors refuse so many items.
            #[inline]
            fn from(ix: usize) -> Self {
                Self(u32::try_from(ix).expect("there are at most u32::MAX items"))
            }
        }
    };
}

pub(crate) use index;

index!(
    /// Position of a flow.
    FlowIx
);
index!(
    /// Position of a route; the routes of one flow are neighbours.
    RouteIx
);
index!(
    /// Position of a resource.
    ResourceIx
);
index!(
    /// Position of a group.
    GroupIx
);

/// Counts the changes of a topology: indices of one generation mean nothing in another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Generation(pub u64);

/// Something that sends traffic: the clients of one source region to one service.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Flow {
    /// Unique name.
    pub name: String,
    /// Source region or node; the node group that receives this flow's row of weights.
    pub source: String,
    /// The service (an Envoy cluster) whose endpoints serve it.
    pub service: String,
}

/// What one request on a route takes from a resource.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Consumption {
    /// The resource.
    pub resource: ResourceIx,
    /// Units of the resource per request (1 for requests; tokens or bytes per request elsewhere). Positive.
    pub per_request: f64,
}

/// One way to serve a flow.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Route {
    /// Unique name.
    pub name: String,
    /// The flow it serves.
    pub flow: FlowIx,
    /// The group it belongs to.
    pub group: GroupIx,
    /// What a request consumes; the first entry is the endpoint (or the first link).
    pub consumption: Vec<Consumption>,
    /// Delay that no load changes: the round-trip time.
    pub delay: Latency,
    /// Marginal price: egress plus what the endpoint charges per request.
    pub price: UnitPrice,
}

/// Something with capacity: an endpoint, a provider quota, an egress link, a network link.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Resource {
    /// Unique name.
    pub name: String,
    /// Nominal capacity in its own unit per second. Zero is allowed and means that nothing fits.
    pub capacity: Rate,
    /// Requests it serves at a time, where known; shapes the latency curve.
    pub concurrency: Option<u32>,
    /// Mean service time at no load, where known.
    pub service_time: Option<Latency>,
    /// What fails together: a cloud, a region, a rack.
    pub domain: Option<String>,
    /// Paid per hour, used or not.
    pub hourly_price: HourlyPrice,
}

/// What a policy scores: the routes of one endpoint, or of one flow of a network.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Group {
    /// Unique name; for an endpoint that of its resource.
    pub name: String,
    /// The resource whose state describes the group, where one does.
    pub resource: Option<ResourceIx>,
    /// Priority tier: tier 1 carries traffic only while the healthy part of tier 0 cannot.
    pub tier: u8,
}

/// A consistent set of flows, routes, resources and groups under one generation.
///
/// Routes are stored by flow: those of flow `f` are `route_range(f)`, and every per-route vector of the
/// loop has that order.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Topology {
    generation: Generation,
    flows: Vec<Flow>,
    routes: Vec<Route>,
    resources: Vec<Resource>,
    groups: Vec<Group>,
    flow_offsets: Vec<usize>,
    group_routes: Vec<Vec<RouteIx>>,
    #[serde(skip)]
    route_names: HashMap<String, RouteIx>,
}

impl Topology {
    /// Starts an empty topology.
    #[must_use]
    pub fn builder() -> TopologyBuilder {
        TopologyBuilder::default()
    }

    /// Which change of the topology this is.
    #[must_use]
    pub fn generation(&self) -> Generation {
        self.generation
    }

    /// The same topology under another generation.
    #[must_use]
    pub fn with_generation(mut self, generation: Generation) -> Self {
        self.generation = generation;
        self
    }

    /// All flows.
    #[must_use]
    pub fn flows(&self) -> &[Flow] {
        &self.flows
    }

    /// All routes, by flow.
    #[must_use]
    pub fn routes(&self) -> &[Route] {
        &self.routes
    }

    /// All resources.
    #[must_use]
    pub fn resources(&self) -> &[Resource] {
        &self.resources
    }

    /// All groups.
    #[must_use]
    pub fn groups(&self) -> &[Group] {
        &self.groups
    }

    /// Where the routes of each flow begin, and after them the number of routes: flow count + 1 numbers.
    #[must_use]
    pub fn flow_offsets(&self) -> &[usize] {
        &self.flow_offsets
    }

    /// The positions of one flow's routes.
    #[must_use]
    pub fn route_range(&self, flow: FlowIx) -> Range<usize> {
        self.flow_offsets[flow.ix()]..self.flow_offsets[flow.ix() + 1]
    }

    /// The routes of one group.
    #[must_use]
    pub fn routes_of(&self, group: GroupIx) -> &[RouteIx] {
        &self.group_routes[group.ix()]
    }

    /// The priority tier of a route: that of its group.
    #[must_use]
    pub fn tier(&self, route: RouteIx) -> u8 {
        self.groups[self.routes[route.ix()].group.ix()].tier
    }

    /// Finds a flow by name.
    #[must_use]
    pub fn flow(&self, name: &str) -> Option<FlowIx> {
        self.flows.iter().position(|f| f.name == name).map(FlowIx::from)
    }

    /// Finds a route by name.
    #[must_use]
    pub fn route(&self, name: &str) -> Option<RouteIx> {
        self.route_names.get(name).copied()
    }

    /// Finds a resource by name.
    #[must_use]
    pub fn resource(&self, name: &str) -> Option<ResourceIx> {
        self.resources.iter().position(|r| r.name == name).map(ResourceIx::from)
    }

    /// Finds a group by name.
    #[must_use]
    pub fn group(&self, name: &str) -> Option<GroupIx> {
        self.groups.iter().position(|g| g.name == name).map(GroupIx::from)
    }
}

/// Collects flows, resources, groups and routes, and checks that they fit together.
#[derive(Debug, Clone, Default)]
pub struct TopologyBuilder {
    generation: Generation,
    flows: Vec<Flow>,
    routes: Vec<Route>,
    resources: Vec<Resource>,
    groups: Vec<Group>,
}

impl TopologyBuilder {
    /// Sets the generation (0 unless told).
    #[must_use]
    pub fn generation(mut self, generation: Generation) -> Self {
        self.generation = generation;
        self
    }

    /// Adds a flow.
    pub fn add_flow(&mut self, flow: Flow) -> FlowIx {
        self.flows.push(flow);
        FlowIx::from(self.flows.len() - 1)
    }

    /// Adds a resource.
    pub fn add_resource(&mut self, resource: Resource) -> ResourceIx {
        self.resources.push(resource);
        ResourceIx::from(self.resources.len() - 1)
    }

    /// Adds a group.
    pub fn add_group(&mut self, group: Group) -> GroupIx {
        self.groups.push(group);
        GroupIx::from(self.groups.len() - 1)
    }

    /// Adds an endpoint: a resource and the group of the same name.
    pub fn add_endpoint(&mut self, resource: Resource, tier: u8) -> (ResourceIx, GroupIx) {
        let name = resource.name.clone();
        let resource = self.add_resource(resource);
        (resource, self.add_group(Group { name, resource: Some(resource), tier }))
    }

    /// Adds a route, in any order of flows.
    pub fn add_route(&mut self, route: Route) {
        self.routes.push(route);
    }

    /// Checks everything and sorts the routes by flow, keeping the order given within a flow.
    ///
    /// # Errors
    /// [`TopologyError`] for a name used twice, an index that does not exist, a flow without a route, a
    /// consumption that is not positive, or more than `u32::MAX` routes.
    pub fn build(self) -> Result<Topology, TopologyError> {
        let Self { generation, flows, mut routes, resources, groups } = self;
        if routes.len() >= u32::MAX as usize {
            return Err(TopologyError::TooManyRoutes { count: routes.len() });
        }
        unique("flow", flows.iter().map(|f| f.name.as_str()))?;
        unique("resource", resources.iter().map(|r| r.name.as_str()))?;
        unique("group", groups.iter().map(|g| g.name.as_str()))?;
        for group in &groups {
            if group.resource.is_some_and(|r| r.ix() >= resources.len()) {
                return Err(TopologyError::UnknownIndex { kind: "resource", owner: group.name.clone() });
            }
        }
        for route in &routes {
            let unknown = |kind| TopologyError::UnknownIndex { kind, owner: route.name.clone() };
            if route.flow.ix() >= flows.len() {
                return Err(unknown("flow"));
            }
            if route.group.ix() >= groups.len() {
                return Err(unknown("group"));
            }
            for consumption in &route.consumption {
                if consumption.resource.ix() >= resources.len() {
                    return Err(unknown("resource"));
                }
                if !(consumption.per_request.is_finite() && consumption.per_request > 0.0) {
                    return Err(TopologyError::Consumption {
                        route: route.name.clone(),
                        value: consumption.per_request,
                    });
                }
            }
        }
        routes.sort_by_key(|route| route.flow);
        let mut flow_offsets = vec![0; flows.len() + 1];
        for route in &routes {
            flow_offsets[route.flow.ix() + 1] += 1;
        }
        for ix in 0..flows.len() {
            if flow_offsets[ix + 1] == 0 {
                return Err(TopologyError::NoRoute { flow: flows[ix].name.clone() });
            }
            flow_offsets[ix + 1] += flow_offsets[ix];
        }
        let mut route_names = HashMap::with_capacity(routes.len());
        let mut group_routes = vec![Vec::new(); groups.len()];
        for (ix, route) in routes.iter().enumerate() {
            if route_names.insert(route.name.clone(), RouteIx::from(ix)).is_some() {
                return Err(TopologyError::Duplicate { kind: "route", name: route.name.clone() });
            }
            group_routes[route.group.ix()].push(RouteIx::from(ix));
        }
        Ok(Topology { generation, flows, routes, resources, groups, flow_offsets, group_routes, route_names })
    }
}

fn unique<'a>(kind: &'static str, names: impl Iterator<Item = &'a str>) -> Result<(), TopologyError> {
    let mut seen = std::collections::HashSet::new();
    for name in names {
        if name.is_empty() {
            return Err(TopologyError::EmptyName { kind });
        }
        if !seen.insert(name) {
            return Err(TopologyError::Duplicate { kind, name: name.to_owned() });
        }
    }
    Ok(())
}
