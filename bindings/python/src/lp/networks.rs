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
use crate::errors::{guarded, py_err};
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
///
/// It starts from the optimum before where only demands and background have changed. Calls from several threads take
/// turns; a solver for each thread runs side by side.
#[pyclass(frozen, module = "traflux._traflux.lp")]
pub(crate) struct NetworkSolver {
    network: Py<Network>,
    inner: Mutex<MinMaxSolver>,
}

#[pymethods]
impl NetworkSolver {
    #[new]
    fn new(network: Py<Network>) -> PyResult<Self> {
        guarded(|| {
            let inner = Mutex::new(MinMaxSolver::new(network.get().inner()));
            Ok(Self { network, inner })
        })
    }

    /// Start the next problem from scratch, so that nothing in it depends on those before.
    fn forget(&self, py: Python<'_>) -> PyResult<()> {
        guarded(|| {
            // A solve holds the solver and may want the interpreter.
            py.detach(|| self.inner.lock().unwrap_or_else(PoisonError::into_inner).forget());
            Ok(())
        })
    }

    /// Minimise the maximum link utilisation over all paths, without the interpreter's lock.
    ///
    /// Parameters
    /// ----------
    /// demands
    ///     ``(nodes, nodes)``, bit/s, row = source; a C-contiguous float64 array is not copied.
    /// pairs
    ///     ``(pairs,)``: the pairs that are free, others take their shortest paths evenly. ``None``: all.
    /// background
    ///     ``(links,)``, bit/s that stay where they are.
    /// prefer
    ///     Among flows of the same maximum: ``"delay"`` or ``"least_rerouted"``; ``None``: any.
    /// deadline
    ///     When it passes, the flows at hand are given with the gap proven so far.
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
        guarded(|| {
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
            let chosen =
                pairs.as_deref().map(|pairs| Ok::<_, PyErr>((pairs, network.base()?))).transpose()?;
            let preference = match prefer {
                None => Preference::None,
                Some("delay") => Preference::Delay,
                Some("least_rerouted") => Preference::LeastRerouted(network.base()?),
                Some(other) => {
                    return Err(invalid(format!("prefer is `{other}`, expected delay or least_rerouted")));
                }
            };
            detached(py, || {
                let problem = problem(network.inner(), rows, chosen, background)?;
                let solution = {
                    let mut solver = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
                    solver.solve_preferring(&problem, preference, deadline_of(deadline))
                };
                let solution = solution.map_err(py_err)?;
                let ends = ends(&problem);
                let demand = problem.commodities.iter().map(|commodity| commodity.demand).collect();
                Ok(FlowSolution {
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
            })
        })
    }
}

fn ends(problem: &FlowProblem<'_>) -> Vec<[i64; 2]> {
    let commodities = problem.commodities.iter();
    commodities.map(|c| [c.source.ix() as i64, c.target.ix() as i64]).collect()
}

/// A solver for hundreds of nodes, to a tolerance.
///
/// Parameters
/// ----------
/// network
///     Where the traffic flows.
/// tolerance
///     Relative gap that is good enough.
/// threads
///     Threads that look for paths; more than 4 are not used.
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
        guarded(|| {
            let threads =
                NonZeroUsize::new(threads).ok_or_else(|| invalid("threads is 0, at least 1 is needed"))?;
            if !(tolerance >= 0.0 && tolerance.is_finite()) {
                return Err(invalid(format!("tolerance is {tolerance}, must be finite and not negative")));
            }
            Ok(Self { network, inner: LargeSolver { tolerance, threads } })
        })
    }

    /// Minimise the maximum link utilisation.
    ///
    /// ``demands`` ``(nodes, nodes)``, bit/s, and the others as of :meth:`NetworkSolver.solve`.
    #[pyo3(signature = (demands, *, pairs=None, deadline=None))]
    fn solve(
        &self,
        py: Python<'_>,
        demands: &Bound<'_, PyAny>,
        pairs: Option<&Bound<'_, PyAny>>,
        deadline: Option<Duration>,
    ) -> PyResult<FlowSolution> {
        guarded(|| {
            let network = self.network.get();
            let array = table(demands, "demands")?;
            square(&array, network.inner().nodes().len())?;
            let rows = numbers(&array, "demands")?;
            let pairs = pairs.map(pairs_of).transpose()?;
            let chosen =
                pairs.as_deref().map(|pairs| Ok::<_, PyErr>((pairs, network.base()?))).transpose()?;
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
        })
    }
}

/// A path: its share, and its links.
type Listed = (f64, Vec<usize>);

/// Flows with a proof of how good they are.
#[pyclass(frozen, module = "traflux._traflux.lp")]
pub(crate) struct FlowSolution {
    /// Maximum link utilisation of these flows.
    #[pyo3(get)]
    max_utilization: f64,
    /// No flows can have a lower maximum link utilisation.
    #[pyo3(get)]
    lower_bound: f64,
    /// Relative gap: ``(max_utilization - lower_bound) / max_utilization``.
    #[pyo3(get)]
    gap: f64,
    /// Pivots.
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
    /// ``"optimal"``, ``"deadline"`` or ``"stalled"``.
    #[getter]
    fn status(&self) -> PyResult<&'static str> {
        guarded(|| {
            Ok(match self.status {
                FlowStatus::Optimal => "optimal",
                FlowStatus::Deadline => "deadline",
                FlowStatus::Stalled => "stalled",
            })
        })
    }

    /// ``(links,)``: bit/s, background included.
    #[getter]
    fn loads<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyArray1<f64>>> {
        guarded(|| Ok(self.loads.clone().into_pyarray(py)))
    }

    /// ``(links,)``: what the maximum falls by for each bit/s taken off a link; they prove the bound.
    #[getter]
    fn link_prices<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyArray1<f64>>> {
        guarded(|| Ok(self.link_prices.clone().into_pyarray(py)))
    }

    /// ``(commodities,)``: fraction that stays on its shortest paths; 0 unless rerouting is to be least.
    #[getter]
    fn base_share<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyArray1<f64>>> {
        guarded(|| Ok(self.base_share.clone().into_pyarray(py)))
    }

    /// ``(commodities,)``: bit/s.
    #[getter]
    fn demand<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyArray1<f64>>> {
        guarded(|| Ok(self.demand.clone().into_pyarray(py)))
    }

    /// ``(commodities, 2)``: source and target of each demand that was free.
    #[getter]
    fn ends<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyArray2<i64>>> {
        guarded(|| {
            let flat = self.ends.iter().flatten().copied().collect();
            // Two numbers for each pair, so the sizes agree.
            Ok(Array2::from_shape_vec((self.ends.len(), 2), flat).unwrap_or_default().into_pyarray(py))
        })
    }

    /// By commodity: ``(share, links)`` of each of its paths; shares and ``base_share`` sum to 1.
    #[getter]
    fn paths(&self) -> PyResult<Vec<Vec<Listed>>> {
        guarded(|| {
            let links = |links: &[LinkIx]| links.iter().map(|link| link.ix()).collect();
            let listed =
                |paths: &Vec<PathShare>| paths.iter().map(|path| (path.share, links(&path.links))).collect();
            Ok(self.paths.iter().map(listed).collect())
        })
    }

    fn __repr__(&self) -> PyResult<String> {
        guarded(|| {
            Ok(format!(
                "FlowSolution({}, max_utilization={:.6}, gap={:.1e})",
                self.status()?,
                self.max_utilization,
                self.gap
            ))
        })
    }
}

/// Say by which factor all demands can grow together until they just fit; ``demands`` ``(nodes, nodes)``, bit/s.
#[pyfunction]
#[pyo3(signature = (network, demands, *, deadline=None))]
fn concurrent_flow(
    py: Python<'_>,
    network: &Network,
    demands: &Bound<'_, PyAny>,
    deadline: Option<Duration>,
) -> PyResult<f64> {
    guarded(|| {
        with_all_pairs(py, network, demands, |problem| {
            Ok(max_concurrent_flow(problem, deadline_of(deadline)).map_err(py_err)?.factor)
        })
    })
}

/// Say how much of the demands fits at most, bit/s; ``demands`` ``(nodes, nodes)``, bit/s.
#[pyfunction]
#[pyo3(signature = (network, demands, *, deadline=None))]
fn total_flow(
    py: Python<'_>,
    network: &Network,
    demands: &Bound<'_, PyAny>,
    deadline: Option<Duration>,
) -> PyResult<f64> {
    guarded(|| {
        with_all_pairs(py, network, demands, |problem| {
            Ok(max_total_flow(problem, deadline_of(deadline)).map_err(py_err)?.total)
        })
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

/// Give a maximum utilisation that no choice of ``count`` pairs can go below.
///
/// ``demands``: ``(nodes, nodes)``, bit/s; copied.
#[pyfunction]
#[pyo3(signature = (network, demands, count, *, deadline=None))]
fn selection_bound(
    py: Python<'_>,
    network: &Network,
    demands: &Bound<'_, PyAny>,
    count: usize,
    deadline: Option<Duration>,
) -> PyResult<f64> {
    guarded(|| {
        let matrix = matrix_of(demands, network.inner().nodes().len())?;
        let base = network.base()?;
        detached(py, || {
            let mut bound = FractionalBound::new(network.inner(), base);
            Ok(bound.solve(&matrix, count, deadline_of(deadline)).map_err(py_err)?.lower_bound)
        })
    })
}
