//! How much of each flow goes to each endpoint?

use std::time::Duration;

use napi::bindgen_prelude::{AsyncTask, Float64Array};
use napi::{Env, Result, Task};
use napi_derive::napi;
use traflux_core::{Objective, SolverStatus, TwoStage};
use traflux_lp::EndpointTable;

use crate::errors::{coded, guarded, input};

/// Tables of an endpoint problem; those of routes have flows × resources numbers, row by row.
#[napi(object, object_to_js = false)]
pub struct EndpointInput {
    /// By flow, requests/s.
    pub demand_rps: Float64Array,
    /// By resource, requests/s.
    pub capacity_rps: Float64Array,
    /// By route, seconds; infinite: no such route.
    pub delay_s: Float64Array,
    /// By route, dollars per request.
    pub price_usd: Option<Float64Array>,
    /// By route, the share in force.
    pub previous: Option<Float64Array>,
    /// By route, least share.
    pub lower: Option<Float64Array>,
    /// By route, greatest share.
    pub upper: Option<Float64Array>,
    /// By resource, requests/s that nobody here controls.
    pub background_rps: Option<Float64Array>,
    /// By resource, seconds to serve one request at no load.
    pub service_time_s: Option<Float64Array>,
    /// By resource, requests served at a time.
    pub servers: Option<Float64Array>,
    /// By resource, what fails together.
    pub domains: Option<Vec<u32>>,
    /// Names of flows.
    pub flows: Option<Vec<String>>,
    /// Names of resources.
    pub resources: Option<Vec<String>>,
    /// `TwoStage` as JSON.
    pub objective: Option<String>,
    /// Costs by route of the literal form, instead.
    pub route_costs: Option<Float64Array>,
    /// Name of the solver.
    pub solver: String,
    /// Time limit in milliseconds.
    pub deadline_ms: f64,
}

/// The answer.
#[napi(object, object_from_js = false)]
pub struct EndpointOutput {
    /// By route.
    pub shares: Float64Array,
    /// Least possible maximum utilisation.
    pub max_utilization: f64,
    /// Seconds of delay per second.
    pub objective: f64,
    /// `optimal`, `gap`, `overloaded` or `no_demand`.
    pub status: String,
    /// Relative gap; 0 unless the status is `gap`.
    pub gap: f64,
    /// By resource, requests/s.
    pub loads_rps: Float64Array,
    /// By resource.
    pub capacity_duals: Float64Array,
    /// By flow.
    pub demand_duals: Float64Array,
    /// By route; NaN where there is none.
    pub reduced_costs: Float64Array,
    /// Seconds that one dollar of budget would save.
    pub budget_dual: f64,
    /// Constraints that were softened.
    pub softened: Vec<String>,
    /// Why, in words.
    pub explanation: Vec<String>,
    /// Pivots.
    pub iterations: u32,
    /// Who solved it.
    pub solver: String,
}

/// The same off the main thread. Arrays are copied on the way in, since their owner may write to them meanwhile.
pub struct EndpointTask(Tables);

struct Tables {
    vectors: [Option<Vec<f64>>; 11],
    domains: Option<Vec<usize>>,
    flows: Option<Vec<String>>,
    resources: Option<Vec<String>>,
    objective: Option<String>,
    solver: String,
    deadline_ms: f64,
}

impl Tables {
    fn solve(&self) -> Result<EndpointOutput> {
        let vector = |ix: usize| self.vectors[ix].as_deref();
        let table = EndpointTable {
            price: vector(3),
            previous: vector(4),
            lower: vector(5),
            upper: vector(6),
            background: vector(7),
            service_time: vector(8),
            servers: vector(9),
            domain: self.domains.as_deref(),
            ..EndpointTable::new(
                vector(0).unwrap_or_default(),
                vector(1).unwrap_or_default(),
                vector(2).unwrap_or_default(),
            )
        };
        let objective = match (vector(10), &self.objective) {
            (Some(costs), _) => Objective::MinMaxWeightedCost { costs: costs.to_vec() },
            (None, None) => Objective::TwoStage(TwoStage::default()),
            (None, Some(text)) => Objective::TwoStage(
                serde_json::from_str(text).map_err(|error| input("input_objective", error))?,
            ),
        };
        let deadline = Duration::try_from_secs_f64(self.deadline_ms * 1e-3)
            .map_err(|_| input("input_time", format!("deadlineMs is {}", self.deadline_ms)))?;
        let (flows, resources) = (self.flows.as_deref(), self.resources.as_deref());
        let tabled = table.problem(objective, deadline, flows, resources).map_err(coded)?;
        let mut solver = traflux_lp::by_name(&self.solver).map_err(coded)?;
        let solution = solver.solve(tabled.problem()).map_err(coded)?;
        let (status, gap) = match solution.status {
            SolverStatus::Optimal => ("optimal", 0.0),
            SolverStatus::Gap { gap } => ("gap", gap),
            SolverStatus::Overloaded => ("overloaded", 0.0),
            SolverStatus::NoDemand => ("no_demand", 0.0),
        };
        Ok(EndpointOutput {
            shares: tabled.table(solution.split.shares(), 0.0).into(),
            max_utilization: solution.theta,
            objective: solution.objective,
            status: status.to_owned(),
            gap,
            loads_rps: tabled.loads(&solution).into(),
            reduced_costs: tabled.table(&solution.reduced_costs, f64::NAN).into(),
            explanation: solution.explain(tabled.topology()).iter().map(ToString::to_string).collect(),
            capacity_duals: solution.capacity_duals.into(),
            demand_duals: solution.demand_duals.into(),
            budget_dual: solution.budget_dual,
            softened: solution.softened,
            iterations: u32::try_from(solution.iterations).unwrap_or(u32::MAX),
            solver: solution.solver,
        })
    }
}

impl Task for EndpointTask {
    type Output = EndpointOutput;
    type JsValue = EndpointOutput;

    fn compute(&mut self) -> Result<Self::Output> {
        guarded(|| self.0.solve())
    }

    fn resolve(&mut self, _: Env, output: Self::Output) -> Result<Self::JsValue> {
        Ok(output)
    }
}

/// Solves an endpoint problem.
#[napi]
pub fn solve_endpoints(given: EndpointInput) -> Result<AsyncTask<EndpointTask>> {
    guarded(|| {
        let copy = |array: &Option<Float64Array>| array.as_ref().map(|array| array.to_vec());
        Ok(AsyncTask::new(EndpointTask(Tables {
            vectors: [
                Some(given.demand_rps.to_vec()),
                Some(given.capacity_rps.to_vec()),
                Some(given.delay_s.to_vec()),
                copy(&given.price_usd),
                copy(&given.previous),
                copy(&given.lower),
                copy(&given.upper),
                copy(&given.background_rps),
                copy(&given.service_time_s),
                copy(&given.servers),
                copy(&given.route_costs),
            ],
            domains: given.domains.map(|domains| domains.into_iter().map(|domain| domain as usize).collect()),
            flows: given.flows,
            resources: given.resources,
            objective: given.objective,
            solver: given.solver,
            deadline_ms: given.deadline_ms,
        })))
    })
}

/// Names of the solvers that are compiled in, the default first.
#[napi]
pub fn solvers() -> Result<Vec<&'static str>> {
    guarded(|| Ok(traflux_lp::available()))
}
