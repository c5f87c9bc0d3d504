//! Selectors, and how they compare.

use std::time::Duration;

use numpy::{IntoPyArray, PyArray1};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList};
use traflux::te::{Comparison, EvaluateOptions, Limit, SelectorKind, TrainedArm, evaluate as compare};
use traflux_lp::multicommodity::select::SelectionEvaluator;
use traflux_te::NetworkEncoder;

use super::Network;
use crate::convert::{detached, invalid, matrices_of, matrix_of, pairs_of};
use crate::errors::{guarded, input, py_err};
use crate::policy::Checkpoint;

/// Adds the functions to the module.
pub(super) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<Evaluation>()?;
    module.add_function(wrap_pyfunction!(selectors, module)?)?;
    module.add_function(wrap_pyfunction!(select, module)?)?;
    module.add_function(wrap_pyfunction!(reroute, module)?)?;
    module.add_function(wrap_pyfunction!(evaluate, module)?)
}

fn kind(name: &str) -> PyResult<SelectorKind> {
    name.parse().map_err(|reason: String| input("input_selector", reason))
}

/// Names of the selectors that need neither history nor training.
#[pyfunction]
fn selectors() -> PyResult<Vec<&'static str>> {
    guarded(|| Ok(SelectorKind::ALL.iter().map(|kind| kind.name()).collect()))
}

/// The pairs that a selector chooses for one matrix ``(nodes, nodes)``, bit/s: ``(pairs,)`` positions, best first.
#[pyfunction]
fn select<'py>(
    py: Python<'py>,
    network: &Network,
    demands: &Bound<'py, PyAny>,
    count: usize,
    selector: &str,
) -> PyResult<Bound<'py, PyArray1<i64>>> {
    guarded(|| {
        let kind = kind(selector)?;
        let base = network.base()?;
        let network = network.inner();
        let matrix = matrix_of(demands, network.nodes().len())?;
        let chosen = detached(py, || {
            let observation = NetworkEncoder::new(network, base).encode(&matrix).map_err(py_err)?;
            kind.policy(network, base, count).act(&observation).map_err(py_err)
        })?;
        Ok(chosen.critical.iter().map(|pair| pair.ix() as i64).collect::<Vec<_>>().into_pyarray(py))
    })
}

/// Say what becomes of a matrix when these pairs leave their shortest paths and move as little as they can.
///
/// Parameters
/// ----------
/// network
///     Where the traffic flows.
/// demands
///     ``(nodes, nodes)``, bit/s; copied.
/// pairs
///     ``(pairs,)``: positions of the pairs that may leave.
///
/// Returns
/// -------
/// dict
///     ``max_utilization``, ``ecmp_max_utilization`` (nobody leaves), ``optimal_max_utilization`` (all may),
///     ``rerouted_share`` of all traffic, and ``loads`` ``(links,)`` in bit/s.
#[pyfunction]
fn reroute<'py>(
    py: Python<'py>,
    network: &Network,
    demands: &Bound<'py, PyAny>,
    pairs: &Bound<'py, PyAny>,
) -> PyResult<Bound<'py, PyDict>> {
    guarded(|| {
        let base = network.base()?;
        let network = network.inner();
        let matrix = matrix_of(demands, network.nodes().len())?;
        let pairs = pairs_of(pairs)?;
        let (outcome, before, optimum) = detached(py, || {
            let mut evaluator = SelectionEvaluator::new(network, base);
            let outcome = evaluator.outcome(&matrix, &pairs).map_err(py_err)?;
            let before = evaluator.base_utilization(&matrix).map_err(py_err)?;
            Ok((outcome, before, evaluator.optimum(&matrix).map_err(py_err)?))
        })?;
        let out = PyDict::new(py);
        out.set_item("max_utilization", outcome.utilization)?;
        out.set_item("ecmp_max_utilization", before)?;
        out.set_item("optimal_max_utilization", optimum)?;
        out.set_item("rerouted_share", outcome.rerouted_share)?;
        out.set_item("loads", outcome.loads.into_pyarray(py))?;
        Ok(out)
    })
}

/// How selectors compare on matrices.
#[pyclass(frozen, module = "traflux._traflux.te")]
pub(crate) struct Evaluation {
    inner: Comparison,
}

/// Play selectors on matrices ``(matrices, nodes, nodes)``, bit/s; they are copied.
#[pyfunction]
#[pyo3(signature = (network, matrices, count, selectors, *, history, stale, delay, block, fallback, tolerance, deadline, trained))]
fn evaluate(
    py: Python<'_>,
    network: &Network,
    matrices: &Bound<'_, PyAny>,
    count: usize,
    selectors: Vec<String>,
    history: usize,
    stale: bool,
    delay: bool,
    block: usize,
    fallback: bool,
    tolerance: Option<f64>,
    deadline: Option<Duration>,
    trained: Vec<(String, Py<Checkpoint>)>,
) -> PyResult<Evaluation> {
    guarded(|| {
        let options = EvaluateOptions {
            count,
            selectors: selectors.iter().map(|name| kind(name)).collect::<PyResult<_>>()?,
            history,
            trained: trained
                .into_iter()
                .map(|(name, checkpoint)| TrainedArm {
                    family: name.clone(),
                    name,
                    checkpoint: checkpoint.get().inner().clone(),
                })
                .collect(),
            stale,
            delay,
            block,
            fallback,
            tolerance,
            limit: deadline.map(Limit::after).unwrap_or_default(),
        };
        let network = network.inner();
        let matrices = matrices_of(matrices, network.nodes().len())?;
        let inner = detached(py, || compare(network, &matrices, &options, &mut |_| {}).map_err(py_err))?;
        Ok(Evaluation { inner })
    })
}

#[pymethods]
impl Evaluation {
    /// Names of the arms, in the order asked for.
    #[getter]
    fn names(&self) -> PyResult<Vec<&str>> {
        guarded(|| Ok(self.inner.arms.iter().map(|arm| arm.name.as_str()).collect()))
    }

    /// Most pairs that could be rerouted.
    #[getter]
    fn count(&self) -> usize {
        self.inner.count
    }

    /// ``(matrices,)``: least possible maximum utilisation of each matrix played.
    #[getter]
    fn optimal<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyArray1<f64>>> {
        guarded(|| Ok(self.inner.optimal.clone().into_pyarray(py)))
    }

    /// ``(matrices,)``: performance ratio that no choice of so many pairs can exceed; ``(0,)`` where it is not known.
    #[getter]
    fn bound<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyArray1<f64>>> {
        guarded(|| Ok(self.inner.bound.clone().into_pyarray(py)))
    }

    /// Selectors for which there was no time.
    #[getter]
    fn late(&self) -> Vec<String> {
        self.inner.late.clone()
    }

    /// Everything about one arm, by matrix.
    fn arm<'py>(&self, py: Python<'py>, name: &str) -> PyResult<Bound<'py, PyDict>> {
        guarded(|| {
            let arm = self.inner.arm(name).ok_or_else(|| invalid(format!("there is no arm `{name}`")))?;
            let out = PyDict::new(py);
            let columns = [
                ("performance_ratio", &arm.performance),
                ("selected_share", &arm.selected),
                ("rerouted_share", &arm.rerouted),
                ("changed_pairs", &arm.changed_pairs),
                ("delay_ratio", &arm.delay_ratio),
                ("selection_us", &arm.selection_us),
            ];
            for (name, values) in columns {
                out.set_item(name, values.clone().into_pyarray(py))?;
            }
            out.set_item("chosen", PyList::new(py, arm.chosen.iter().copied())?)?;
            out.set_item("fallbacks", arm.fallbacks)?;
            Ok(out)
        })
    }

    /// Mean of the performance ratio with its interval of 95 %; `None` without matrices.
    fn summary(&self, name: &str) -> PyResult<Option<(f64, f64, f64)>> {
        guarded(|| {
            let arm = self.inner.arm(name).ok_or_else(|| invalid(format!("there is no arm `{name}`")))?;
            let summary = arm.summary(self.inner.block);
            Ok(summary.map(|s| (s.mean, s.mean_interval.low, s.mean_interval.high)))
        })
    }

    /// The table that the command line prints.
    fn table(&self) -> PyResult<String> {
        guarded(|| Ok(self.inner.table()))
    }
}
