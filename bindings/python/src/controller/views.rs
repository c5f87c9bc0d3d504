//! What do stages and callers get to see?

use std::sync::{Arc, Mutex};

use numpy::{PyArray1, PyArray2, ToPyArray};
use pyo3::prelude::*;
use pyo3::types::PyDict;
use traflux_core::{Observation as Seen, ObservationSpace, Topology, Transition as Step};

use super::lock;
use crate::errors::{guarded, input};
use crate::gateway::from_json;

/// What stays the same as long as the controller.
pub(super) struct Fixed {
    pub(super) topology: Topology,
    pub(super) topology_json: String,
    pub(super) space: ObservationSpace,
    /// The topology as stages see it, made once.
    view: Mutex<Option<Py<PyAny>>>,
}

impl Fixed {
    pub(super) fn new(_py: Python<'_>, topology: &Topology, space: ObservationSpace) -> PyResult<Self> {
        let topology_json =
            serde_json::to_string(topology).map_err(|error| input("input_topology", error))?;
        Ok(Self { topology: topology.clone(), topology_json, space, view: Mutex::new(None) })
    }

    /// The topology as a mapping.
    pub(super) fn view<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let mut view = lock(&self.view);
        if let Some(view) = &*view {
            return Ok(view.bind(py).clone());
        }
        let made = from_json(py, &self.topology_json)?;
        *view = Some(made.clone().unbind());
        Ok(made)
    }

    /// The index of a group by name.
    pub(super) fn group(&self, name: &str) -> Option<usize> {
        self.topology.group(name).map(traflux_core::GroupIx::ix)
    }
}

/// What a policy sees.
#[pyclass(module = "traflux", frozen)]
pub(crate) struct Observation {
    pub(super) seen: Seen,
    pub(super) fixed: Arc<Fixed>,
}

impl Observation {
    /// The tensors.
    pub(crate) fn seen(&self) -> &Seen {
        &self.seen
    }

    /// What their columns are.
    pub(crate) fn space(&self) -> &ObservationSpace {
        &self.fixed.space
    }
}

#[pymethods]
impl Observation {
    /// Features of the groups: ``float32``, shape ``(groups, features)``. A copy.
    #[getter]
    fn groups<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyArray2<f32>>> {
        guarded(|| Ok(self.seen.groups.to_pyarray(py)))
    }

    /// Features of the whole: ``float32``, shape ``(features,)``. A copy.
    #[getter]
    fn context<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyArray1<f32>>> {
        guarded(|| Ok(self.seen.context.to_pyarray(py)))
    }

    /// Which groups may be chosen: ``bool``, shape ``(groups,)``. A copy.
    #[getter]
    fn mask<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyArray1<bool>>> {
        guarded(|| Ok(self.seen.mask.to_pyarray(py)))
    }

    /// Names of the groups, in the order of the rows.
    #[getter]
    fn group_names(&self) -> PyResult<Vec<&str>> {
        guarded(|| Ok(self.fixed.topology.groups().iter().map(|group| group.name.as_str()).collect()))
    }

    /// Names of the features of a group, in the order of the columns.
    #[getter]
    fn group_features(&self) -> PyResult<Vec<&str>> {
        guarded(|| Ok(self.fixed.space.group_features.iter().map(String::as_str).collect()))
    }

    /// Names of the features of the whole.
    #[getter]
    fn context_features(&self) -> PyResult<Vec<&str>> {
        guarded(|| Ok(self.fixed.space.context_features.iter().map(String::as_str).collect()))
    }

    fn __repr__(&self) -> PyResult<String> {
        guarded(|| {
            Ok(format!(
                "Observation(groups={}, features={})",
                self.seen.groups.nrows(),
                self.seen.groups.ncols()
            ))
        })
    }
}

/// One learning step: the action that was held, what it led to, and what it earned.
#[pyclass(module = "traflux", frozen)]
pub(crate) struct Transition {
    pub(super) step: Step,
    pub(super) fixed: Arc<Fixed>,
}

#[pymethods]
impl Transition {
    /// The state in which the action was taken.
    #[getter]
    fn observation(&self) -> PyResult<Observation> {
        guarded(|| Ok(Observation { seen: self.step.observation.clone(), fixed: Arc::clone(&self.fixed) }))
    }

    /// The state after it.
    #[getter]
    fn next_observation(&self) -> PyResult<Observation> {
        guarded(|| {
            Ok(Observation { seen: self.step.next_observation.clone(), fixed: Arc::clone(&self.fixed) })
        })
    }

    /// Indices of the groups that were chosen, best first.
    #[getter]
    fn critical(&self) -> PyResult<Vec<usize>> {
        guarded(|| Ok(self.step.action.critical.iter().map(|group| group.ix()).collect()))
    }

    /// Logarithm of the action's probability, as the policy said.
    #[getter]
    fn log_probability(&self) -> f64 {
        self.step.action.log_probability
    }

    /// The critic's value, dimensionless as rewards are, where the policy said one.
    #[getter]
    fn value(&self) -> Option<f64> {
        self.step.action.value
    }

    /// What the step earned, dimensionless.
    #[getter]
    fn reward(&self) -> f64 {
        self.step.reward.total
    }

    /// Its terms by name, dimensionless.
    #[getter]
    fn reward_terms(&self) -> Vec<(String, f64)> {
        self.step.reward.terms.clone()
    }

    /// Whether the episode ended by its own rules.
    #[getter]
    fn terminated(&self) -> bool {
        self.step.terminated
    }

    /// Whether the episode was cut off.
    #[getter]
    fn truncated(&self) -> bool {
        self.step.truncated
    }
}

/// What was decided in a tick, and why.
#[pyclass(module = "traflux", frozen)]
pub(crate) struct Decision {
    pub(super) decision: traflux::Decision,
}

#[pymethods]
impl Decision {
    /// Number of the tick, from 1.
    #[getter]
    fn tick(&self) -> u64 {
        self.decision.tick
    }

    /// When, in seconds since 1970.
    #[getter]
    fn at(&self) -> f64 {
        self.decision.at_s
    }

    /// Where the ladder of failure stands: ``"normal"``, ``"hold"``, ``"alarm"`` or ``"ramp"``.
    #[getter]
    fn rung(&self) -> PyResult<&'static str> {
        guarded(|| Ok(self.decision.rung.name()))
    }

    /// Stages that failed: ``(stage, code, message)``.
    #[getter]
    fn failures(&self) -> PyResult<Vec<(&str, &str, &str)>> {
        guarded(|| {
            let failures = &self.decision.failures;
            Ok(failures
                .iter()
                .map(|failure| (failure.stage, failure.code, failure.message.as_str()))
                .collect())
        })
    }

    /// What the source wants known.
    #[getter]
    fn warnings(&self) -> PyResult<Vec<&str>> {
        guarded(|| Ok(self.decision.warnings.iter().map(String::as_str).collect()))
    }

    /// Whether the policy took a new action.
    #[getter]
    fn acted(&self) -> bool {
        self.decision.acted
    }

    /// Whether a plan was pushed.
    #[getter]
    fn pushed(&self) -> bool {
        self.decision.pushed
    }

    /// Fraction of traffic moved.
    #[getter]
    fn churn(&self) -> f64 {
        self.decision.churn
    }

    /// Version of the plan.
    #[getter]
    fn plan_version(&self) -> &str {
        &self.decision.plan_version
    }

    /// The last reward paid, dimensionless; `None` before the first.
    #[getter]
    fn reward(&self) -> PyResult<Option<f64>> {
        guarded(|| Ok(self.decision.reward.as_ref().map(|reward| reward.total)))
    }

    /// Why the split is as it is, in words.
    #[getter]
    fn explanation(&self) -> PyResult<Vec<&str>> {
        guarded(|| Ok(self.decision.explanation.iter().map(String::as_str).collect()))
    }

    /// Shares in force: ``{flow: {endpoint: share}}``.
    #[getter]
    fn shares<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        guarded(|| by_flow(py, self.decision.flows.iter().map(|flow| (&flow.name, &flow.shares))))
    }

    /// Weights sent: ``{flow: {endpoint: weight}}``.
    #[getter]
    fn weights<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        guarded(|| by_flow(py, self.decision.flows.iter().map(|flow| (&flow.name, &flow.weights))))
    }

    /// All of it, as a mapping.
    fn to_dict<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        guarded(|| {
            let text =
                serde_json::to_string(&self.decision).map_err(|error| input("input_decision", error))?;
            from_json(py, &text)
        })
    }

    fn __repr__(&self) -> PyResult<String> {
        guarded(|| {
            let decision = &self.decision;
            Ok(format!(
                "Decision(tick={}, rung={:?}, pushed={}, failures={})",
                decision.tick,
                decision.rung.name(),
                if decision.pushed { "True" } else { "False" },
                decision.failures.len()
            ))
        })
    }
}

fn by_flow<'a, 'py, T: Copy + IntoPyObject<'py> + 'a>(
    py: Python<'py>,
    flows: impl Iterator<Item = (&'a String, &'a Vec<(String, T)>)>,
) -> PyResult<Bound<'py, PyDict>> {
    let all = PyDict::new(py);
    for (name, row) in flows {
        let dict = PyDict::new(py);
        for (endpoint, value) in row {
            dict.set_item(endpoint, *value)?;
        }
        all.set_item(name, dict)?;
    }
    Ok(all)
}
