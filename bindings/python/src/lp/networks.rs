//! How evenly can demands be spread over the links of a network?

use std::num::NonZeroUsize;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use ndarray::Array2;
use numpy::{IntoPyArray, PyArray1, PyArray2};
use pyo3::prelude::*;
use traflux_core::{BaseRouting, GroupIx, LinkIx, Network as Links, PathShare};
use traflux_lp::multicommodity::select::FractionalBound;
use traflux_lp::multicommodity::{
    FlowProblem, FlowStatus, LargeSolver, MinMaxSolver, Preference, max_concurrent_flow, max_total_flow,
};

use crate::convert::{deadline_of, detached, invalid, matrix_of, numbers, pairs_of, square, table, vector};
use crate::errors::py_err;
use crate::te::Network;

/// Adds the classes to the module.
pub(super) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<NetworkSolver>()?;
    module.add_class::<LargeNetworkSolver>()?;
    module.add_class::<FlowSolution>()?;
    module.add_function(wrap_pyfunction!(concurrent_flow, module)?)?;
    module.add_function(wrap_pyfunction!(total_flow, module)?)?;
    module.add_function(wrap_pyfunction!(selection_bound, module)?)
}

/// Where demands are: all pairs, or those that are chosen.
fn problem<'a>(
    network: &'a Links,
    rows: &[f64],
    pairs: Option<(&[GroupIx], &BaseRouting)>,
    background: Option<&[f64]>,
) -> PyResult<FlowProblem<'a>> {
    let mut problem = match pairs {
        None => FlowProblem::all_of_rows(network, rows).map_err(py_err)?,
        Some((pairs, base)) => {
            if let Some(pair) = pairs.iter().find(|pair| pair.ix() >= network.pair_count()) {
                let (pair, pairs) = (pair.ix(), network.pair_count());
                return Err(py_err(traflux_lp::multicommodity::FlowError::Pair { pair, pairs }));
            }
            FlowProblem::critical_of_rows(network, base, rows, pairs).map_err(py_err)?
        }
    };
    if let Some(background) = background {
        problem.add_background(background).map_err(py_err)?;
    }
    Ok(problem)
}

/// An exact solver that is kept for a sequence of problems on one network.
#[pyclass(frozen, module = "traflux._traflux.lp")]
pub(crate) struct NetworkSolver {
    network: Py<Network>,
    inner: Mutex<MinMaxSolver>,
}

#[pymethods]
impl NetworkSolver {
    #[new]
    fn new(network: Py<Network>) -> Self {
        let inner = Mutex::new(MinMaxSolver::new(network.get().inner()));
        Self { network, inner }
    }

    /// Starts the next problem from scratch.
    fn forget(&self, py: Python<'_>) {
        // A solve holds the solver and may want the interpreter.
        py.detach(|| self.inner.lock().unwrap_or_else(PoisonError::into_inner).forget());
    }

    #[pyo3(signature = (demands, *, pairs=None, background=None, prefer=None, deadline=None))]
    fn solve(
        &self,
        py: Python<'_>,
        demands: &Bound<'_, PyAny>,
        pairs: Option<&Bound<'_, PyAny>>,
        background: Option<&Bound<'_, PyAny>>,
        prefer: Option<&str>,
        deadline: Option<Duration>,
    ) -> PyResult<FlowSolution> {
        let network = self.network.get();
        let array = table(demands, "demands")?;
        square(&array, network.inner().nodes().len())?;
        let rows = numbers(&array, "demands")?;
        let pairs = pairs.map(pairs_of).transpose()?;
        let background = background.map(|b| vector(b, "background")).transpose()?;
        let background = match &background {
            Some(array) => Some(array.as_slice().map_err(|_| invalid("background is not contiguous"))?),
            None => None,
        };
        // Shortest paths of all pairs take longer than many a solve.
        let chosen = pairs.as_deref().map(|pairs| Ok::<_, PyErr>((pairs, network.base()?))).transpose()?;
        let preference = match prefer {
            None => Preference::None,
            Some("delay") => Preference::Delay,
            Some("least_rerouted") => Preference::LeastRerouted(network.base()?),
            Some(other) => {
                return Err(invalid(format!("prefer is `{other}`, expected delay or least_rerouted")));
            }
        };
        let solved = detached(py, || {
            let problem = problem(network.inner(), rows, chosen, background)?;
            let solution = {
                let mut solver = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
                solver.solve_preferring(&problem, preference, deadline_of(deadline))
            };
            let solution = solution.map_err(py_err)?;
            let ends = ends(&problem);
            let demand = problem.commodities.iter().map(|commodity| commodity.demand).collect();
            Ok::<_, PyErr>(FlowSolution {
                max_utilization: solution.utilization,
                lower_bound: solution.lower_bound,
                gap: solution.gap(),
                status: solution.status,
                loads: solution.loads,
                link_prices: solution.link_prices,
                base_share: solution.base_share,
                iterations: solution.iterations,
                paths: solution.paths,
                ends,
                demand,
            })
        })?;
        Ok(solved)
    }
}

fn ends(problem: &FlowProblem<'_>) -> Vec<[i64; 2]> {
    let commodities = problem.commodities.iter();
    commodities.map(|c| [c.source.ix() as i64, c.target.ix() as i64]).collect()
}

/// A solver for hundreds of nodes, to a tolerance.
#[pyclass(frozen, module = "traflux._traflux.lp")]
pub(crate) struct LargeNetworkSolver {
    network: Py<Network>,
    inner: LargeSolver,
}

#[pymethods]
impl LargeNetworkSolver {
    #[new]
    #[pyo3(signature = (network, *, tolerance=1e-4, threads=1))]
    fn new(network: Py<Network>, tolerance: f64, threads: usize) -> PyResult<Self> {
        let threads =
            NonZeroUsize::new(threads).ok_or_else(|| invalid("threads is 0, at least 1 is needed"))?;
        if !(tolerance >= 0.0 && tolerance.is_finite()) {
            return Err(invalid(format!("tolerance is {tolerance}, must be finite and not negative")));
        }
        Ok(Self { network, inner: LargeSolver { tolerance, threads } })
    }

    #[pyo3(signature = (demands, *, pairs=None, deadline=None))]
    fn solve(
        &self,
        py: Python<'_>,
        demands: &Bound<'_, PyAny>,
        pairs: Option<&Bound<'_, PyAny>>,
        deadline: Option<Duration>,
    ) -> PyResult<FlowSolution> {
        let network = self.network.get();
        let array = table(demands, "demands")?;
        square(&array, network.inner().nodes().len())?;
        let rows = numbers(&array, "demands")?;
        let pairs = pairs.map(pairs_of).transpose()?;
        let chosen = pairs.as_deref().map(|pairs| Ok::<_, PyErr>((pairs, network.base()?))).transpose()?;
        detached(py, || {
            let problem = problem(network.inner(), rows, chosen, None)?;
            let solution = self.inner.solve(&problem, deadline_of(deadline)).map_err(py_err)?;
            let paths = (0..problem.commodities.len()).map(|at| solution.paths.shares(at)).collect();
            Ok(FlowSolution {
                max_utilization: solution.utilization,
                lower_bound: solution.lower_bound,
                gap: solution.gap(),
                status: solution.status,
                loads: solution.loads,
                link_prices: solution.link_prices,
                base_share: vec![0.0; problem.commodities.len()],
                iterations: solution.iterations,
                paths,
                ends: ends(&problem),
                demand: problem.commodities.iter().map(|commodity| commodity.demand).collect(),
            })
        })
    }
}

/// Flows with a proof of how good they are.
#[pyclass(frozen, module = "traflux._traflux.lp")]
pub(crate) struct FlowSolution {
    #[pyo3(get)]
    max_utilization: f64,
    #[pyo3(get)]
    lower_bound: f64,
    #[pyo3(get)]
    gap: f64,
    #[pyo3(get)]
    iterations: usize,
    status: FlowStatus,
    loads: Vec<f64>,
    link_prices: Vec<f64>,
    base_share: Vec<f64>,
    paths: Vec<Vec<PathShare>>,
    ends: Vec<[i64; 2]>,
    demand: Vec<f64>,
}

#[pymethods]
impl FlowSolution {
    #[getter]
    fn status(&self) -> &'static str {
        match self.status {
            FlowStatus::Optimal => "optimal",
            FlowStatus::Deadline => "deadline",
            FlowStatus::Stalled => "stalled",
        }
    }

    #[getter]
    fn loads<'py>(&self, py: Python<'py>) -> Bound<'py, PyArray1<f64>> {
        self.loads.clone().into_pyarray(py)
    }

    #[getter]
    fn link_prices<'py>(&self, py: Python<'py>) -> Bound<'py, PyArray1<f64>> {
        self.link_prices.clone().into_pyarray(py)
    }

    #[getter]
    fn base_share<'py>(&self, py: Python<'py>) -> Bound<'py, PyArray1<f64>> {
        self.base_share.clone().into_pyarray(py)
    }

    #[getter]
    fn demand<'py>(&self, py: Python<'py>) -> Bound<'py, PyArray1<f64>> {
        self.demand.clone().into_pyarray(py)
    }

    #[getter]
    fn ends<'py>(&self, py: Python<'py>) -> Bound<'py, PyArray2<i64>> {
        let flat = self.ends.iter().flatten().copied().collect();
        // Two numbers for each pair, so the sizes agree.
        Array2::from_shape_vec((self.ends.len(), 2), flat).unwrap_or_default().into_pyarray(py)
    }

    /// Paths of each commodity: `(share, links)`.
    #[getter]
    fn paths(&self) -> Vec<Vec<(f64, Vec<usize>)>> {
        let links = |links: &[LinkIx]| links.iter().map(|link| link.ix()).collect();
        let listed =
            |paths: &Vec<PathShare>| paths.iter().map(|path| (path.share, links(&path.links))).collect();
        self.paths.iter().map(listed).collect()
    }

    fn __repr__(&self) -> String {
        format!(
            "FlowSolution({}, max_utilization={:.6}, gap={:.1e})",
            self.status(),
            self.max_utilization,
            self.gap
        )
    }
}

/// By how much all demands can grow together.
#[pyfunction]
#[pyo3(signature = (network, demands, *, deadline=None))]
fn concurrent_flow(
    py: Python<'_>,
    network: &Network,
    demands: &Bound<'_, PyAny>,
    deadline: Option<Duration>,
) -> PyResult<f64> {
    with_all_pairs(py, network, demands, |problem| {
        Ok(max_concurrent_flow(problem, deadline_of(deadline)).map_err(py_err)?.factor)
    })
}

/// How much of the demands fits at most, in bit/s.
#[pyfunction]
#[pyo3(signature = (network, demands, *, deadline=None))]
fn total_flow(
    py: Python<'_>,
    network: &Network,
    demands: &Bound<'_, PyAny>,
    deadline: Option<Duration>,
) -> PyResult<f64> {
    with_all_pairs(py, network, demands, |problem| {
        Ok(max_total_flow(problem, deadline_of(deadline)).map_err(py_err)?.total)
    })
}

/// Solves for all pairs of a matrix, which is read in place.
fn with_all_pairs(
    py: Python<'_>,
    network: &Network,
    demands: &Bound<'_, PyAny>,
    solve: impl FnOnce(&FlowProblem<'_>) -> PyResult<f64> + Send,
) -> PyResult<f64> {
    let array = table(demands, "demands")?;
    square(&array, network.inner().nodes().len())?;
    let rows = numbers(&array, "demands")?;
    detached(py, || solve(&FlowProblem::all_of_rows(network.inner(), rows).map_err(py_err)?))
}

/// A utilisation that no choice of so many pairs can go below.
#[pyfunction]
#[pyo3(signature = (network, demands, count, *, deadline=None))]
fn selection_bound(
    py: Python<'_>,
    network: &Network,
    demands: &Bound<'_, PyAny>,
    count: usize,
    deadline: Option<Duration>,
) -> PyResult<f64> {
    let matrix = matrix_of(demands, network.inner().nodes().len())?;
    let base = network.base()?;
    detached(py, || {
        let mut bound = FractionalBound::new(network.inner(), base);
        Ok(bound.solve(&matrix, count, deadline_of(deadline)).map_err(py_err)?.lower_bound)
    })
}
