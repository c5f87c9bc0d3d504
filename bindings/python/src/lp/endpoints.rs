//! How much of each flow goes to each endpoint?

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use ndarray::Array2;
use numpy::{IntoPyArray, PyArray1, PyArray2, PyReadonlyArray1, PyReadonlyArray2};
use pyo3::prelude::*;
use traflux_core::{Objective, SolverStatus, SplitSolution, TwoStage, WeightSolver};
use traflux_lp::{EndpointTable, TabledProblem};

use crate::convert::{detached, invalid, numbers, settings, shape, table, vector};
use crate::errors::py_err;

/// Adds the classes to the module.
pub(super) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<EndpointProblem>()?;
    module.add_class::<EndpointSolution>()?;
    module.add_class::<EndpointSolver>()?;
    module.add_function(wrap_pyfunction!(solvers, module)?)
}

/// Names of the solvers of endpoint problems that are compiled in, the default first.
#[pyfunction]
fn solvers() -> Vec<&'static str> {
    traflux_lp::available()
}

/// A question to an endpoint solver.
#[pyclass(frozen, module = "traflux._traflux.lp")]
pub(crate) struct EndpointProblem {
    inner: TabledProblem,
}

type Vector<'py> = PyReadonlyArray1<'py, f64>;
type Table<'py> = PyReadonlyArray2<'py, f64>;

fn slice<'a>(array: &'a Option<Vector<'_>>, what: &str) -> PyResult<Option<&'a [f64]>> {
    let contiguous =
        |array: &'a Vector<'_>| array.as_slice().map_err(|_| invalid(format!("{what} is not contiguous")));
    array.as_ref().map(contiguous).transpose()
}

#[pymethods]
impl EndpointProblem {
    #[new]
    #[pyo3(signature = (demand_rps, capacity_rps, delay_s, *, price_usd=None, previous=None, lower=None, upper=None,
        background_rps=None, service_time_s=None, servers=None, domains=None, flows=None, resources=None,
        deadline=Duration::from_secs(1), route_costs=None, **objective))]
    fn new(
        py: Python<'_>,
        demand_rps: &Bound<'_, PyAny>,
        capacity_rps: &Bound<'_, PyAny>,
        delay_s: &Bound<'_, PyAny>,
        price_usd: Option<&Bound<'_, PyAny>>,
        previous: Option<&Bound<'_, PyAny>>,
        lower: Option<&Bound<'_, PyAny>>,
        upper: Option<&Bound<'_, PyAny>>,
        background_rps: Option<&Bound<'_, PyAny>>,
        service_time_s: Option<&Bound<'_, PyAny>>,
        servers: Option<&Bound<'_, PyAny>>,
        domains: Option<Vec<usize>>,
        flows: Option<Vec<String>>,
        resources: Option<Vec<String>>,
        deadline: Duration,
        route_costs: Option<Vec<f64>>,
        objective: Option<&Bound<'_, pyo3::types::PyDict>>,
    ) -> PyResult<Self> {
        let demand = vector(demand_rps, "demand_rps")?;
        let capacity = vector(capacity_rps, "capacity_rps")?;
        let expected = [demand.len()?, capacity.len()?];
        let delay = routes(Some(delay_s), "delay_s", expected)?;
        let price = routes(price_usd, "price_usd", expected)?;
        let previous = routes(previous, "previous", expected)?;
        let lower = routes(lower, "lower", expected)?;
        let upper = routes(upper, "upper", expected)?;
        let background = optional(background_rps, "background_rps")?;
        let service_time = optional(service_time_s, "service_time_s")?;
        let servers = optional(servers, "servers")?;
        let demand = Some(demand);
        let capacity = Some(capacity);
        let tables = EndpointTable {
            price: by_route(&price, "price_usd")?,
            previous: by_route(&previous, "previous")?,
            lower: by_route(&lower, "lower")?,
            upper: by_route(&upper, "upper")?,
            background: slice(&background, "background_rps")?,
            service_time: slice(&service_time, "service_time_s")?,
            servers: slice(&servers, "servers")?,
            domain: domains.as_deref(),
            ..EndpointTable::new(
                slice(&demand, "demand_rps")?.unwrap_or_default(),
                slice(&capacity, "capacity_rps")?.unwrap_or_default(),
                by_route(&delay, "delay_s")?.unwrap_or_default(),
            )
        };
        let options = match objective {
            Some(objective) => crate::convert::json_of(objective.as_any())?,
            None => serde_json::Value::Object(serde_json::Map::new()),
        };
        let goal = settings::<TwoStage>(options)?;
        let objective = match route_costs {
            Some(costs) => Objective::MinMaxWeightedCost { costs },
            None => Objective::TwoStage(goal),
        };
        let made = detached(py, || {
            tables.problem(objective, deadline, flows.as_deref(), resources.as_deref()).map_err(py_err)
        });
        Ok(Self { inner: made? })
    }

    /// `(flows, resources)`.
    #[getter]
    fn shape(&self) -> (usize, usize) {
        (self.inner.flows(), self.inner.resources())
    }

    /// Solves with the solver of a name.
    #[pyo3(signature = (solver="transport"))]
    fn solve(slf: PyRef<'_, Self>, solver: &str) -> PyResult<EndpointSolution> {
        EndpointSolver::new(solver)?.solve(slf)
    }

    fn __repr__(&self) -> String {
        format!("EndpointProblem({} flows, {} resources)", self.inner.flows(), self.inner.resources())
    }
}

fn routes<'py>(
    value: Option<&Bound<'py, PyAny>>,
    what: &str,
    expected: [usize; 2],
) -> PyResult<Option<Table<'py>>> {
    let Some(value) = value else { return Ok(None) };
    let array = table(value, what)?;
    let found = array.as_array().shape().to_vec();
    if found == expected { Ok(Some(array)) } else { Err(shape(what, &found, &expected)) }
}

fn optional<'py>(value: Option<&Bound<'py, PyAny>>, what: &str) -> PyResult<Option<Vector<'py>>> {
    value.map(|value| vector(value, what)).transpose()
}

fn by_route<'a>(array: &'a Option<Table<'_>>, what: &str) -> PyResult<Option<&'a [f64]>> {
    array.as_ref().map(|array| numbers(array, what)).transpose()
}

/// A solver that is kept between problems.
#[pyclass(frozen, module = "traflux._traflux.lp")]
pub(crate) struct EndpointSolver {
    inner: Mutex<Box<dyn WeightSolver>>,
    name: String,
}

#[pymethods]
impl EndpointSolver {
    #[new]
    #[pyo3(signature = (name="transport"))]
    fn new(name: &str) -> PyResult<Self> {
        let inner = traflux_lp::by_name(name).map_err(py_err)?;
        Ok(Self { inner: Mutex::new(inner), name: name.to_owned() })
    }

    /// Its name.
    #[getter]
    fn name(&self) -> &str {
        &self.name
    }

    /// Solves one problem without the interpreter's lock.
    fn solve(&self, problem: PyRef<'_, EndpointProblem>) -> PyResult<EndpointSolution> {
        let py = problem.py();
        let problem: Py<EndpointProblem> = problem.into();
        let asked = problem.get();
        let solution = detached(py, || {
            self.inner
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .solve(asked.inner.problem())
                .map_err(py_err)
        });
        let solution = solution?;
        Ok(EndpointSolution { solution, problem })
    }
}

/// The answer of an endpoint solver.
#[pyclass(frozen, module = "traflux._traflux.lp")]
pub(crate) struct EndpointSolution {
    solution: SplitSolution,
    problem: Py<EndpointProblem>,
}

impl EndpointSolution {
    fn table<'py>(
        &self,
        py: Python<'py>,
        by_route: &[f64],
        none: f64,
    ) -> PyResult<Bound<'py, PyArray2<f64>>> {
        let problem = &self.problem.get().inner;
        let cells = problem.table(by_route, none);
        let table = Array2::from_shape_vec((problem.flows(), problem.resources()), cells);
        Ok(table.map_err(invalid)?.into_pyarray(py))
    }
}

#[pymethods]
impl EndpointSolution {
    #[getter]
    fn shares<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyArray2<f64>>> {
        self.table(py, self.solution.split.shares(), 0.0)
    }

    #[getter]
    fn reduced_costs<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyArray2<f64>>> {
        self.table(py, &self.solution.reduced_costs, f64::NAN)
    }

    #[getter]
    fn loads_rps<'py>(&self, py: Python<'py>) -> Bound<'py, PyArray1<f64>> {
        self.problem.get().inner.loads(&self.solution).into_pyarray(py)
    }

    #[getter]
    fn capacity_duals<'py>(&self, py: Python<'py>) -> Bound<'py, PyArray1<f64>> {
        self.solution.capacity_duals.clone().into_pyarray(py)
    }

    #[getter]
    fn demand_duals<'py>(&self, py: Python<'py>) -> Bound<'py, PyArray1<f64>> {
        self.solution.demand_duals.clone().into_pyarray(py)
    }

    #[getter]
    fn budget_dual(&self) -> f64 {
        self.solution.budget_dual
    }

    #[getter]
    fn status(&self) -> &'static str {
        match self.solution.status {
            SolverStatus::Optimal => "optimal",
            SolverStatus::Gap { .. } => "gap",
            SolverStatus::Overloaded => "overloaded",
            SolverStatus::NoDemand => "no_demand",
        }
    }

    #[getter]
    fn gap(&self) -> f64 {
        if let SolverStatus::Gap { gap } = self.solution.status { gap } else { 0.0 }
    }

    #[getter]
    fn max_utilization(&self) -> f64 {
        self.solution.theta
    }

    #[getter]
    fn objective(&self) -> f64 {
        self.solution.objective
    }

    #[getter]
    fn softened(&self) -> Vec<String> {
        self.solution.softened.clone()
    }

    #[getter]
    fn iterations(&self) -> usize {
        self.solution.iterations
    }

    #[getter]
    fn solver(&self) -> &str {
        &self.solution.solver
    }

    /// Why the split is as it is, the costliest first.
    fn explain(&self) -> Vec<String> {
        let sentences = self.solution.explain(self.problem.get().inner.topology());
        sentences.iter().map(ToString::to_string).collect()
    }

    fn __repr__(&self) -> String {
        format!("EndpointSolution({}, max_utilization={:.4})", self.status(), self.solution.theta)
    }
}
