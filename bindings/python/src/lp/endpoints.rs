//! How much of each flow goes to each endpoint?

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use ndarray::Array2;
use numpy::{IntoPyArray, PyArray1, PyArray2, PyReadonlyArray1, PyReadonlyArray2};
use pyo3::prelude::*;
use traflux_core::{Objective, SolverStatus, SplitSolution, TwoStage, WeightSolver};
use traflux_lp::{EndpointTable, TabledProblem};

use crate::convert::{detached, invalid, numbers, settings, shape, table, vector};
use crate::errors::{guarded, py_err};

/// Adds the classes to the module.
pub(super) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<EndpointProblem>()?;
    module.add_class::<EndpointSolution>()?;
    module.add_class::<EndpointSolver>()?;
    module.add_function(wrap_pyfunction!(solvers, module)?)
}

/// Names of the solvers of endpoint problems, the default first.
#[pyfunction]
fn solvers() -> PyResult<Vec<&'static str>> {
    guarded(|| Ok(traflux_lp::available()))
}

/// A question to an endpoint solver: which share of each flow goes to each resource?
///
/// Parameters
/// ----------
/// demand_rps
///     ``(flows,)``, requests/s to plan for, headroom included.
/// capacity_rps
///     ``(resources,)``, requests/s; 0: nothing fits.
/// delay_s
///     ``(flows, resources)``, seconds that no load changes; infinite or NaN: there is no such route.
/// price_usd
///     ``(flows, resources)``, dollars per request.
/// previous
///     ``(flows, resources)``, shares in force, from which churn is counted; even unless given.
/// lower, upper
///     ``(flows, resources)``, bounds of shares; 0 and 1 unless given.
/// background_rps
///     ``(resources,)``, load that no flow here controls.
/// service_time_s, servers
///     ``(resources,)``, seconds of a request at no load and requests served at a time: the latency curve. Without
///     ``service_time_s`` load slows nothing.
/// domains
///     ``(resources,)``, what fails together has equal numbers.
/// flows, resources
///     Names for explanations.
/// deadline
///     Time limit of the solver.
/// route_costs
///     The literal ``min max share * cost`` with the cost of each route in route order, instead of the two stages.
/// **objective
///     ``max_utilization`` (0.8), ``slack`` (0.02), ``seconds_per_dollar`` (0), ``churn_seconds`` (0), ``tangents``
///     (13), ``budget_per_hour``, ``survive_domain_loss``.
///
/// Notes
/// -----
/// Arrays are read once, where they lie, into the records of the solver; the problem does not refer to them later.
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
        guarded(|| {
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
        })
    }

    /// ``(flows, resources)``.
    #[getter]
    fn shape(&self) -> PyResult<(usize, usize)> {
        guarded(|| Ok((self.inner.flows(), self.inner.resources())))
    }

    /// Solve with the solver of a name, see :func:`solvers`.
    #[pyo3(signature = (solver="transport"))]
    fn solve(slf: PyRef<'_, Self>, solver: &str) -> PyResult<EndpointSolution> {
        guarded(|| EndpointSolver::new(solver)?.solve(slf))
    }

    fn __repr__(&self) -> PyResult<String> {
        guarded(|| {
            Ok(format!("EndpointProblem({} flows, {} resources)", self.inner.flows(), self.inner.resources()))
        })
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

/// A solver that is kept between problems; it can be used from any thread.
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
        guarded(|| {
            let inner = traflux_lp::by_name(name).map_err(py_err)?;
            Ok(Self { inner: Mutex::new(inner), name: name.to_owned() })
        })
    }

    /// Its name.
    #[getter]
    fn name(&self) -> &str {
        &self.name
    }

    /// Solve one problem without the interpreter's lock.
    fn solve(&self, problem: PyRef<'_, EndpointProblem>) -> PyResult<EndpointSolution> {
        guarded(|| {
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
        })
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
    /// ``(flows, resources)``: share of each flow; rows sum to 1, 0 where there is no route.
    #[getter]
    fn shares<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyArray2<f64>>> {
        guarded(|| self.table(py, self.solution.split.shares(), 0.0))
    }

    /// ``(flows, resources)``: seconds per request worse than the best movable route; NaN where there is no route.
    #[getter]
    fn reduced_costs<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyArray2<f64>>> {
        guarded(|| self.table(py, &self.solution.reduced_costs, f64::NAN))
    }

    /// ``(resources,)``: requests/s, background included.
    #[getter]
    fn loads_rps<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyArray1<f64>>> {
        guarded(|| Ok(self.problem.get().inner.loads(&self.solution).into_pyarray(py)))
    }

    /// ``(resources,)``: seconds of total delay per second that one more request/s of the cap would save; ≥ 0.
    #[getter]
    fn capacity_duals<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyArray1<f64>>> {
        guarded(|| Ok(self.solution.capacity_duals.clone().into_pyarray(py)))
    }

    /// ``(flows,)``: seconds of total delay per second that one more request/s of demand costs.
    #[getter]
    fn demand_duals<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyArray1<f64>>> {
        guarded(|| Ok(self.solution.demand_duals.clone().into_pyarray(py)))
    }

    /// Seconds that one dollar of budget would save; 0 where it does not bind.
    #[getter]
    fn budget_dual(&self) -> f64 {
        self.solution.budget_dual
    }

    /// ``"optimal"``, ``"gap"``, ``"overloaded"`` (demand exceeds capacity) or ``"no_demand"``.
    #[getter]
    fn status(&self) -> PyResult<&'static str> {
        guarded(|| {
            Ok(match self.solution.status {
                SolverStatus::Optimal => "optimal",
                SolverStatus::Gap { .. } => "gap",
                SolverStatus::Overloaded => "overloaded",
                SolverStatus::NoDemand => "no_demand",
            })
        })
    }

    /// Relative gap where the deadline passed, else 0.
    #[getter]
    fn gap(&self) -> PyResult<f64> {
        guarded(|| Ok(if let SolverStatus::Gap { gap } = self.solution.status { gap } else { 0.0 }))
    }

    /// The least possible maximum utilisation, above 1 where demand exceeds capacity.
    #[getter]
    fn max_utilization(&self) -> f64 {
        self.solution.theta
    }

    /// Seconds of delay per second of the second stage; of the literal form, its maximum.
    #[getter]
    fn objective(&self) -> f64 {
        self.solution.objective
    }

    /// Constraints that could not be met, in words.
    #[getter]
    fn softened(&self) -> Vec<String> {
        self.solution.softened.clone()
    }

    /// Pivots.
    #[getter]
    fn iterations(&self) -> usize {
        self.solution.iterations
    }

    /// Name of the solver.
    #[getter]
    fn solver(&self) -> &str {
        &self.solution.solver
    }

    /// Say why the split is as it is, the costliest first.
    fn explain(&self) -> PyResult<Vec<String>> {
        guarded(|| {
            let sentences = self.solution.explain(self.problem.get().inner.topology());
            Ok(sentences.iter().map(ToString::to_string).collect())
        })
    }

    fn __repr__(&self) -> PyResult<String> {
        guarded(|| {
            Ok(format!("EndpointSolution({}, max_utilization={:.4})", self.status()?, self.solution.theta))
        })
    }
}
