//! What of a plan for requests does a controller control?

use std::collections::BTreeSet;

use traflux_core::plan::backend::BackendPlan;
use traflux_core::plan::control::ControlPlan;
use traflux_core::plan::requests::RequestPlan;
use traflux_core::plan::routing::{Algorithm, RoutePlan};
use traflux_core::{
    Consumption, Flow, HourlyPrice, Latency, Rate, Resource, Route, Split, Topology, TopologyError,
    TrafficPlan, UnitPrice,
};

use super::price::{Typical, price_at};
use crate::controller::Fleet;

/// The node group of the engine: it has no name of its own, because every plan is for one engine.
pub(super) const ENGINE: &str = "engine";

/// The fleet of a plan: a flow for each rule, and for the default route, that goes by `adaptive` and has at least two
/// backends of positive weight; an endpoint for each backend of these, with its capacity as `control` says (0: not
/// known), its price for a typical request, and the tier of its first endpoints. The static split is that of the plan's
/// weights within the lowest tier. `None` where no rule leaves anything to a controller.
///
/// ```
/// use traflux::core::plan::{control::ControlPlan, requests::RequestPlan};
///
/// let plan: RequestPlan = serde_json::from_str(
///     r#"{"routing": {
///         "rules": [{"name": "chat", "match": {"path": "/v1"}, "route": {"backend": ["near", {"name": "far", "weight": 3}]}}],
///         "default": {"backend": "near"}}}"#,
/// )?;
/// let fleet = traflux::gateway::fleet(&plan, &ControlPlan::default())?.ok_or("nothing to control")?;
/// assert_eq!(fleet.topology.flows().len(), 1, "the default route has one backend and nothing to decide");
/// assert_eq!(fleet.fallback.shares(), [0.25, 0.75]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// [`TopologyError`] for names that are empty or used twice; a plan that was validated has none.
pub fn fleet(plan: &RequestPlan, control: &ControlPlan) -> Result<Option<Fleet>, TopologyError> {
    let routes = controlled(plan);
    if routes.is_empty() {
        return Ok(None);
    }
    let mut builder = Topology::builder();
    let names: BTreeSet<&str> =
        routes.iter().flat_map(|(_, route)| backends(plan, route)).map(|b| b.0).collect();
    let ids: Vec<_> = names
        .iter()
        .map(|name| {
            let capacity = control.capacity_rps.get(*name).copied().unwrap_or(0.0);
            let resource = Resource {
                name: (*name).to_owned(),
                capacity: Rate::saturating(capacity),
                concurrency: None,
                service_time: None,
                domain: None,
                hourly_price: HourlyPrice::ZERO,
            };
            builder.add_endpoint(resource, tier(plan, name))
        })
        .collect();
    let mut amounts = Vec::new();
    for (rule, route) in &routes {
        let flow = builder.add_flow(Flow {
            name: (*rule).to_owned(),
            source: ENGINE.to_owned(),
            service: (*rule).to_owned(),
        });
        let lowest = backends(plan, route).map(|(name, _)| tier(plan, name)).min();
        for (name, weight) in backends(plan, route) {
            let Some((resource, group)) = names.iter().position(|n| *n == name).map(|at| ids[at]) else {
                continue;
            };
            amounts.push(if Some(tier(plan, name)) == lowest { f64::from(weight) } else { 0.0 });
            builder.add_route(Route {
                name: route_name(rule, name),
                flow,
                group,
                consumption: vec![Consumption { resource, per_request: 1.0 }],
                delay: Latency::ZERO,
                price: plan
                    .backends
                    .get(name)
                    .map_or(UnitPrice::ZERO, |backend| price_at(backend, &Typical::default())),
            });
        }
    }
    let topology = builder.build()?;
    let fallback = Split::proportional(&topology, &amounts);
    let services = TrafficPlan::services_of(&topology);
    Ok(Some(Fleet { topology: topology.into(), fallback, services }))
}

/// The name of a route; rules and backends may have any names, so the length says where one ends.
pub(super) fn route_name(rule: &str, backend: &str) -> String {
    format!("{}/{rule}/{backend}", rule.len())
}

/// The rules that a controller has something to decide for, in the order of the plan.
fn controlled(plan: &RequestPlan) -> Vec<(&str, &RoutePlan)> {
    let rules = plan.routing.rules.iter().map(|rule| (rule.name.as_str(), &rule.route));
    let mut seen = BTreeSet::new();
    rules
        .chain(plan.routing.default.iter().map(|route| ("default", route)))
        // To the engine a rule named `default` and the default route are one name; the rule goes before.
        .filter(|(name, _)| seen.insert(*name))
        .filter(|(_, route)| route.algorithm.unwrap_or(plan.routing.strategy) == Algorithm::Adaptive)
        .filter(|(_, route)| backends(plan, route).count() >= 2)
        .collect()
}

/// Backends of a route that may have traffic: of positive weight, and not being taken out of service.
fn backends<'a>(plan: &'a RequestPlan, route: &'a RoutePlan) -> impl Iterator<Item = (&'a str, u32)> {
    let drains = |name: &str| plan.backends.get(name).is_some_and(BackendPlan::is_draining);
    route.weights().filter(move |(name, weight)| *weight > 0 && !drains(name))
}

/// The tier of a backend: that of its first endpoints.
fn tier(plan: &RequestPlan, backend: &str) -> u8 {
    let endpoints = plan.backends.get(backend).map_or(&[][..], |backend| &backend.url);
    endpoints.iter().filter(|endpoint| endpoint.weight > 0).map(|endpoint| endpoint.tier).min().unwrap_or(0)
}
