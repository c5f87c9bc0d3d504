//! How is an endpoint problem written as tables?
//!
//! A [`SplitProblem`] lists routes with all that is known of each. People and bindings have tables instead: a row for
//! each flow, a column for each resource, and the resource of a route is its column. An [`EndpointTable`] borrows such
//! tables and makes the problem of them, and of the answer tables again.

use std::time::Duration;

use traflux_core::topology::{Consumption, Flow, Resource, Route};
use traflux_core::{
    FlowIx, Generation, HourlyPrice, Latency, LatencyCurve, Objective, ProblemResource, ProblemRoute, Rate,
    SplitProblem, SplitSolution, Topology, TopologyError, UnitPrice,
};

/// Tables of which no problem can be made.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum TableError {
    /// A table of another size.
    #[error("{what} has {found} entries, expected {expected}")]
    Length {
        /// Which table.
        what: &'static str,
        /// Its length.
        found: usize,
        /// What fits.
        expected: usize,
    },
    /// A flow without any route, or a name that is empty or used twice.
    #[error(transparent)]
    Topology(#[from] TopologyError),
}

impl TableError {
    /// A stable name for metrics and bindings.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Length { .. } => "table_length",
            Self::Topology(error) => error.code(),
        }
    }

    /// Whether the same call may succeed later with nothing changed here: never.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        false
    }
}

/// An endpoint problem in tables, borrowed from whoever has them. Tables of routes have `flows × resources` numbers,
/// row by row.
#[derive(Debug, Clone, Copy)]
pub struct EndpointTable<'a> {
    /// By flow: requests/s.
    pub demand: &'a [f64],
    /// By resource: requests/s.
    pub capacity: &'a [f64],
    /// By route: seconds that no load changes. Infinite or NaN: there is no such route.
    pub delay: &'a [f64],
    /// By route: dollars per request; all zero where it is left out.
    pub price: Option<&'a [f64]>,
    /// By route: the share in force, from which churn is counted; even where it is left out.
    pub previous: Option<&'a [f64]>,
    /// By route: least share; 0 where it is left out.
    pub lower: Option<&'a [f64]>,
    /// By route: greatest share; 1 where it is left out.
    pub upper: Option<&'a [f64]>,
    /// By resource: load that no flow here controls, requests/s; 0 where it is left out.
    pub background: Option<&'a [f64]>,
    /// By resource: seconds to serve one request at no load. Where it is left out, load does not slow anything.
    pub service_time: Option<&'a [f64]>,
    /// By resource: requests served at a time; 1 where it is left out.
    pub servers: Option<&'a [f64]>,
    /// By resource: what fails together has equal numbers; nothing where it is left out.
    pub domain: Option<&'a [usize]>,
}

/// A problem made of tables, with the names and the places of its routes.
#[derive(Debug, Clone)]
pub struct TabledProblem {
    problem: SplitProblem,
    topology: Topology,
    /// By route: its place in a table of routes.
    places: Vec<usize>,
}

impl<'a> EndpointTable<'a> {
    /// Tables without anything optional.
    #[must_use]
    pub fn new(demand: &'a [f64], capacity: &'a [f64], delay: &'a [f64]) -> Self {
        Self {
            demand,
            capacity,
            delay,
            price: None,
            previous: None,
            lower: None,
            upper: None,
            background: None,
            service_time: None,
            servers: None,
            domain: None,
        }
    }

    /// Makes the problem. Names are for explanations; where there are none, flows and resources are numbered.
    ///
    /// # Errors
    /// [`TableError`]. Numbers are checked by the solver.
    pub fn problem(
        &self,
        objective: Objective,
        deadline: Duration,
        flow_names: Option<&[String]>,
        resource_names: Option<&[String]>,
    ) -> Result<TabledProblem, TableError> {
        let (flows, resources) = (self.demand.len(), self.capacity.len());
        let routes = flows.saturating_mul(resources);
        self.check(resources, routes)?;
        let flow_names = names("flow names", flow_names, flows)?;
        let resource_names = names("resource names", resource_names, resources)?;
        let at = |table: Option<&[f64]>, place: usize, otherwise: f64| table.map_or(otherwise, |t| t[place]);
        let service = |ix: usize| at(self.service_time, ix, 0.0);

        let mut builder = Topology::builder();
        let mut listed = Vec::with_capacity(resources);
        let mut endpoints = Vec::with_capacity(resources);
        for (ix, name) in resource_names.iter().enumerate() {
            let servers = at(self.servers, ix, 1.0);
            endpoints.push(builder.add_endpoint(
                Resource {
                    name: name.clone(),
                    capacity: Rate::saturating(self.capacity[ix]),
                    concurrency: None,
                    service_time: None,
                    domain: self.domain.map(|d| d[ix].to_string()),
                    hourly_price: HourlyPrice::ZERO,
                },
                0,
            ));
            listed.push(ProblemResource {
                capacity: self.capacity[ix],
                background: at(self.background, ix, 0.0),
                curve: (service(ix) > 0.0)
                    .then(|| LatencyCurve::new(Latency::saturating(service(ix)), servers)),
                multiplier: 1.0,
                domain: self.domain.map(|d| d[ix]),
            });
        }
        let mut problem_routes = Vec::with_capacity(routes);
        let mut places = Vec::with_capacity(routes);
        let mut flow_offsets = Vec::with_capacity(flows + 1);
        flow_offsets.push(0);
        for (flow, name) in flow_names.iter().enumerate() {
            let handle = builder.add_flow(Flow {
                name: name.clone(),
                source: name.clone(),
                service: "service".to_owned(),
            });
            let row = flow * resources..(flow + 1) * resources;
            let reachable = row.clone().filter(|place| self.delay[*place].is_finite()).count();
            let even = 1.0 / reachable.max(1) as f64;
            for place in row.filter(|place| self.delay[*place].is_finite()) {
                let resource = place - flow * resources;
                let (resource_ix, group) = endpoints[resource];
                let price = at(self.price, place, 0.0);
                builder.add_route(Route {
                    name: format!("{name}/{}", resource_names[resource]),
                    flow: handle,
                    group,
                    consumption: vec![Consumption { resource: resource_ix, per_request: 1.0 }],
                    delay: Latency::saturating(self.delay[place]),
                    price: UnitPrice::saturating(price * 1e6),
                });
                problem_routes.push(ProblemRoute {
                    lower: at(self.lower, place, 0.0),
                    upper: at(self.upper, place, 1.0),
                    previous: at(self.previous, place, even),
                    delay: self.delay[place],
                    price,
                    consumption: vec![(resource, 1.0)],
                });
                places.push(place);
            }
            flow_offsets.push(places.len());
        }
        let topology = builder.build()?;
        let problem = SplitProblem {
            generation: Generation(0),
            flow_offsets,
            demand: self.demand.to_vec(),
            routes: problem_routes,
            resources: listed,
            objective,
            deadline,
        };
        Ok(TabledProblem { problem, topology, places })
    }

    fn check(&self, resources: usize, routes: usize) -> Result<(), TableError> {
        let by_route = [
            ("delay", Some(self.delay.len())),
            ("price", self.price.map(<[f64]>::len)),
            ("previous", self.previous.map(<[f64]>::len)),
            ("lower", self.lower.map(<[f64]>::len)),
            ("upper", self.upper.map(<[f64]>::len)),
        ];
        let by_resource = [
            ("background", self.background.map(<[f64]>::len)),
            ("service time", self.service_time.map(<[f64]>::len)),
            ("servers", self.servers.map(<[f64]>::len)),
            ("domain", self.domain.map(<[usize]>::len)),
        ];
        let by_route = by_route.into_iter().map(|(what, found)| (what, found, routes));
        let by_resource = by_resource.into_iter().map(|(what, found)| (what, found, resources));
        for (what, found, expected) in by_route.chain(by_resource) {
            if let Some(found) = found.filter(|found| *found != expected) {
                return Err(TableError::Length { what, found, expected });
            }
        }
        Ok(())
    }
}

impl TabledProblem {
    /// The problem.
    #[must_use]
    pub fn problem(&self) -> &SplitProblem {
        &self.problem
    }

    /// Its flows and resources by name, as [`SplitSolution::explain`] wants them.
    #[must_use]
    pub fn topology(&self) -> &Topology {
        &self.topology
    }

    /// How many flows there are.
    #[must_use]
    pub fn flows(&self) -> usize {
        self.problem.demand.len()
    }

    /// How many resources there are.
    #[must_use]
    pub fn resources(&self) -> usize {
        self.problem.resources.len()
    }

    /// A table of routes from numbers in route order, with `none` where there is no route.
    ///
    /// # Panics
    /// When there is not one number for each route.
    #[must_use]
    pub fn table(&self, by_route: &[f64], none: f64) -> Vec<f64> {
        assert_eq!(by_route.len(), self.places.len(), "one number for each route");
        let mut table = vec![none; self.flows() * self.resources()];
        for (place, value) in self.places.iter().zip(by_route) {
            table[*place] = *value;
        }
        table
    }

    /// By resource: load in requests/s under a solution of this problem, background included.
    ///
    /// # Panics
    /// When the solution is one of another problem.
    #[must_use]
    pub fn loads(&self, solution: &SplitSolution) -> Vec<f64> {
        let mut loads: Vec<f64> = self.problem.resources.iter().map(|r| r.background).collect();
        for flow in 0..self.flows() {
            let range = solution.split.range(FlowIx::from(flow));
            for (route, share) in range.clone().zip(&solution.split.shares()[range]) {
                for (resource, rate) in &self.problem.routes[route].consumption {
                    loads[*resource] += self.problem.demand[flow] * share * rate;
                }
            }
        }
        loads
    }
}

fn names(kind: &'static str, given: Option<&[String]>, count: usize) -> Result<Vec<String>, TableError> {
    match given {
        Some(given) if given.len() == count => Ok(given.to_vec()),
        Some(given) => Err(TableError::Length { what: kind, found: given.len(), expected: count }),
        None => Ok((0..count).map(|ix| format!("{}-{ix}", kind.trim_end_matches(" names"))).collect()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::TransportSolver;
    use traflux_core::{TwoStage, WeightSolver};

    const DEADLINE: Duration = Duration::from_secs(1);

    #[test]
    fn tables_become_a_problem_and_its_answer_a_table() {
        // The near endpoint may be filled to 0.8 of its 100; the second flow cannot reach it.
        let delay = [0.002, 0.080, f64::INFINITY, 0.010];
        let table = EndpointTable {
            service_time: Some(&[0.020, 0.020]),
            servers: Some(&[8.0, 8.0]),
            ..EndpointTable::new(&[100.0, 10.0], &[100.0, 100.0], &delay)
        };
        let objective = Objective::TwoStage(TwoStage::default());
        let tabled = table.problem(objective, DEADLINE, None, None).unwrap();
        let solution = TransportSolver::new().solve(tabled.problem()).unwrap();
        let shares = tabled.table(solution.split.shares(), 0.0);
        assert!((shares[0] - 0.8).abs() < 1e-9 && (shares[1] - 0.2).abs() < 1e-9, "{shares:?}");
        assert_eq!(shares[2..], [0.0, 1.0]);
        let loads = tabled.loads(&solution);
        assert!((loads[0] - 80.0).abs() < 1e-6 && (loads[1] - 30.0).abs() < 1e-6, "{loads:?}");
        let first = solution.explain(tabled.topology())[0].to_string();
        assert!(first.starts_with("resource-0 is capped"), "{first}");
    }

    #[test]
    fn tables_that_do_not_fit_are_refused_with_what_would() {
        let objective = || Objective::TwoStage(TwoStage::default());
        let table = EndpointTable::new(&[1.0], &[1.0, 1.0], &[0.0]);
        let error = table.problem(objective(), DEADLINE, None, None).unwrap_err();
        assert_eq!(error.code(), "table_length");
        assert_eq!(error.to_string(), "delay has 1 entries, expected 2");
        let nowhere = EndpointTable::new(&[1.0], &[1.0], &[f64::NAN]);
        let error = nowhere.problem(objective(), DEADLINE, None, None).unwrap_err();
        assert_eq!(error.code(), "topology_no_route");
    }
}
