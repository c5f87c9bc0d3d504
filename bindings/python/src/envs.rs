//! Environments that are stepped together, without the interpreter's lock.
//!
//! One class for both kinds and for one environment as for many: the Gymnasium classes of `traflux.envs` are thin
//! around it.

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, PoisonError};

use ndarray::{Array1, Array2, Array3};
use numpy::{IntoPyArray, PyReadonlyArray1, PyReadonlyArray2};
use pyo3::prelude::*;
use pyo3::types::PyDict;
use traflux::lab::environment::{Episodes, Fidelity, FleetEnvironment};
use traflux_core::{Action, Environment, EnvironmentError, GroupIx, Observation, Step, VectorEnvironment};
use traflux_sim::te::{EnvironmentSettings, NetworkEnvironment, SelectionReward, TrafficSeries, Worth};
use traflux_sim::{RandomSettings, Scenario};
use traflux_te::{SelectionEncoder, ecmp};

use crate::convert::{detached, invalid, matrices_of};
use crate::errors::{guarded, py_err};
use crate::te::Network;

type Boxed = Box<dyn Environment + Send>;

/// Adds the classes to the module.
pub(crate) fn register(_py: Python<'_>, module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<Environments>()?;
    module.add_class::<Series>()
}

/// Matrices of one network in the order of time, each with its optimum.
///
/// Parameters
/// ----------
/// network
///     Where the traffic flows.
/// matrices
///     ``(matrices, nodes, nodes)``, bit/s; copied. Each is solved for its optimum, without the interpreter's lock.
#[pyclass(frozen, module = "traflux._traflux.envs")]
pub(crate) struct Series {
    inner: Arc<TrafficSeries>,
}

#[pymethods]
impl Series {
    #[new]
    fn new(py: Python<'_>, network: &Network, matrices: &Bound<'_, PyAny>) -> PyResult<Self> {
        guarded(|| {
            let matrices = matrices_of(matrices, network.inner().nodes().len())?;
            let network = network.inner().clone();
            let inner = detached(py, move || {
                let base = ecmp(&network).map_err(py_err)?;
                TrafficSeries::new(network, base, matrices).map_err(py_err)
            })?;
            Ok(Self { inner: Arc::new(inner) })
        })
    }

    fn __len__(&self) -> PyResult<usize> {
        guarded(|| Ok(self.inner.matrices().len()))
    }

    /// ``(matrices,)``: least possible maximum utilisation of each matrix.
    #[getter]
    fn optimal<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, numpy::PyArray1<f64>>> {
        guarded(|| Ok(self.inner.optimal().to_vec().into_pyarray(py)))
    }
}

/// Environments of one kind, stepped together.
#[pyclass(frozen, module = "traflux._traflux.envs")]
pub(crate) struct Environments {
    inner: Mutex<State>,
    count: usize,
    /// Rows of an observation; groups that are not there are rows of zeros with a closed mask.
    groups: usize,
    group_features: Vec<String>,
    context_features: Vec<String>,
    /// How many groups may be chosen by scores.
    choose: usize,
}

struct State {
    vector: VectorEnvironment<Boxed>,
    /// By environment: the mask and the number of groups of the last observation.
    masks: Vec<Vec<bool>>,
}

impl Environments {
    fn build(
        environments: Vec<Boxed>,
        groups: usize,
        choose: usize,
        threads: usize,
        auto_reset: bool,
    ) -> PyResult<Self> {
        let threads =
            NonZeroUsize::new(threads).ok_or_else(|| invalid("threads is 0, at least 1 is needed"))?;
        let count = environments.len();
        let vector = VectorEnvironment::new(environments, threads).with_auto_reset(auto_reset);
        let space = vector.space().ok_or_else(|| invalid("0 environments, at least 1 is needed"))?;
        Ok(Self {
            inner: Mutex::new(State { vector, masks: vec![Vec::new(); count] }),
            count,
            groups,
            group_features: space.group_features,
            context_features: space.context_features,
            choose,
        })
    }

    fn with<T: Send>(
        &self,
        py: Python<'_>,
        act: impl FnOnce(&mut State) -> PyResult<T> + Send,
    ) -> PyResult<T> {
        detached(py, || act(&mut self.inner.lock().unwrap_or_else(PoisonError::into_inner)))
    }

    fn played<'py>(
        &self,
        py: Python<'py>,
        actions: impl FnOnce(&State) -> PyResult<Vec<Action>> + Send,
    ) -> PyResult<Bound<'py, PyDict>> {
        let (tensors, steps) = self.with(py, |state| {
            let actions = actions(state)?;
            let steps = state.vector.step(&actions).map_err(py_err)?;
            state.remember(steps.iter().map(|step| &step.observation));
            Ok((self.tensors(steps.iter().map(|step| &step.observation)), steps))
        })?;
        let out = tensors.into_dict(py)?;
        let numbers = |of: fn(&Step) -> f64| steps.iter().map(of).collect::<Vec<f64>>().into_pyarray(py);
        let flags = |of: fn(&Step) -> bool| steps.iter().map(of).collect::<Vec<bool>>().into_pyarray(py);
        out.set_item("reward", numbers(|step| step.reward.total))?;
        out.set_item("terminated", flags(|step| step.terminated))?;
        out.set_item("truncated", flags(|step| step.truncated))?;
        let terms = PyDict::new(py);
        for step in &steps {
            let named = step.reward.terms.iter().map(|(name, value)| (name.as_str(), *value));
            for (name, _) in named.chain(step.info.iter().copied()) {
                if !terms.contains(name)? {
                    let column: Vec<f64> = steps.iter().map(|step| told(step, name)).collect();
                    terms.set_item(name, column.into_pyarray(py))?;
                }
            }
        }
        out.set_item("terms", terms)?;
        Ok(out)
    }

    fn tensors<'a>(&self, observations: impl ExactSizeIterator<Item = &'a Observation>) -> Tensors {
        let count = observations.len();
        let mut tensors = Tensors {
            groups: Array3::zeros((count, self.groups, self.group_features.len())),
            context: Array2::zeros((count, self.context_features.len())),
            mask: Array2::from_elem((count, self.groups), 0),
        };
        for (at, observation) in observations.enumerate() {
            let rows = observation.len().min(self.groups);
            let mut lane = tensors.groups.index_axis_mut(ndarray::Axis(0), at);
            lane.slice_mut(ndarray::s![..rows, ..])
                .assign(&observation.groups.slice(ndarray::s![..rows, ..]));
            tensors.context.row_mut(at).assign(&observation.context);
            for (cell, open) in tensors.mask.row_mut(at).iter_mut().zip(&observation.mask) {
                *cell = i8::from(*open);
            }
        }
        tensors
    }

    fn shape(&self, what: &str, found: &[usize], expected: &[usize]) -> PyResult<()> {
        if found == expected {
            return Ok(());
        }
        Err(crate::convert::shape(what, found, expected))
    }
}

impl State {
    fn remember<'a>(&mut self, observations: impl Iterator<Item = &'a Observation>) {
        for (mask, observation) in self.masks.iter_mut().zip(observations) {
            mask.clone_from(&observation.mask);
        }
    }
}

/// Observations of all environments.
struct Tensors {
    groups: Array3<f32>,
    context: Array2<f32>,
    mask: Array2<i8>,
}

impl Tensors {
    fn into_dict(self, py: Python<'_>) -> PyResult<Bound<'_, PyDict>> {
        let out = PyDict::new(py);
        out.set_item("groups", self.groups.into_pyarray(py))?;
        out.set_item("context", self.context.into_pyarray(py))?;
        out.set_item("mask", self.mask.into_pyarray(py))?;
        Ok(out)
    }
}

/// More environments than this in one are a mistake rather than a wish.
const MOST: usize = 1 << 16;

fn few(count: usize) -> PyResult<std::ops::Range<usize>> {
    if count > MOST {
        return Err(invalid(format!("{count} environments are more than {MOST}")));
    }
    Ok(0..count)
}

#[pymethods]
impl Environments {
    /// A network whose pairs are chosen.
    #[staticmethod]
    #[pyo3(signature = (series, *, count, choose, start, stop, steps, worth, disturbance_price, stale, threads, auto_reset))]
    fn network(
        series: &Series,
        count: usize,
        choose: usize,
        start: usize,
        stop: usize,
        steps: usize,
        worth: &str,
        disturbance_price: f64,
        stale: bool,
        threads: usize,
        auto_reset: bool,
    ) -> PyResult<Self> {
        guarded(|| {
            let worth = match worth {
                "performance_ratio" => Worth::PerformanceRatio,
                "inverse_utilization" => Worth::InverseUtilization,
                other => {
                    let known = "performance_ratio, inverse_utilization";
                    return Err(invalid(format!("worth is `{other}`, expected one of {known}")));
                }
            };
            let reward = SelectionReward { worth, disturbance_price, stale };
            let series = Arc::clone(&series.inner);
            let settings = EnvironmentSettings { matrices: start..stop, steps, reward };
            let encoder = SelectionEncoder::new(series.network(), series.base(), choose);
            let made = NetworkEnvironment::new(Arc::clone(&series), encoder, settings).map_err(py_err)?;
            let environments = few(count)?.map(|_| Box::new(made.clone()) as Boxed).collect();
            Self::build(environments, series.network().pair_count(), choose, threads, auto_reset)
        })
    }

    /// A simulated fleet under the real controller.
    #[staticmethod]
    #[pyo3(signature = (*, count, scenario, random, fidelity, threads, auto_reset))]
    fn fleet(
        count: usize,
        scenario: Option<&str>,
        random: Option<&Bound<'_, PyDict>>,
        fidelity: &str,
        threads: usize,
        auto_reset: bool,
    ) -> PyResult<Self> {
        guarded(|| {
            let (episodes, groups) = match scenario {
                Some(text) => {
                    let built_in = Scenario::built_in_names().any(|name| name == text);
                    let scenario =
                        if built_in { Scenario::built_in(text) } else { Scenario::from_yaml(text) };
                    let scenario = scenario.map_err(py_err)?;
                    let groups = scenario.endpoints.len();
                    (Episodes::Fixed(Box::new(scenario)), groups)
                }
                None => {
                    let settings = random_settings(random)?;
                    let groups = settings.endpoints.1;
                    (Episodes::Random(settings), groups)
                }
            };
            let fidelity: Fidelity = fidelity.parse().map_err(|reason: String| invalid(reason))?;
            let make = || Box::new(FleetEnvironment::new(episodes.clone()).with_fidelity(fidelity)) as Boxed;
            let environments = few(count)?.map(|_| make()).collect();
            Self::build(environments, groups, groups, threads, auto_reset)
        })
    }

    fn __len__(&self) -> usize {
        self.count
    }

    /// Rows of an observation.
    #[getter]
    fn groups(&self) -> usize {
        self.groups
    }

    /// Names of the features of a group.
    #[getter]
    fn group_features(&self) -> Vec<String> {
        self.group_features.clone()
    }

    /// Names of the features of the whole.
    #[getter]
    fn context_features(&self) -> Vec<String> {
        self.context_features.clone()
    }

    /// Begins an episode in every environment: observations, ``groups`` ``(environments, groups, features)`` and ``context``
    /// ``(environments, features)`` float32, ``mask`` ``(environments, groups)`` int8.
    fn reset<'py>(&self, py: Python<'py>, seeds: Vec<u64>) -> PyResult<Bound<'py, PyDict>> {
        guarded(|| {
            let tensors = self.with(py, |state| {
                let observations = state.vector.reset(&seeds).map_err(py_err)?;
                state.remember(observations.iter());
                Ok(self.tensors(observations.iter()))
            })?;
            tensors.into_dict(py)
        })
    }

    /// Begins an episode where there is a seed: observations as of ``reset``, ``(environments, ...)``; rows of the others
    /// are zero.
    fn reset_some<'py>(&self, py: Python<'py>, seeds: Vec<Option<u64>>) -> PyResult<Bound<'py, PyDict>> {
        guarded(|| {
            let tensors = self.with(py, |state| {
                let observations = state.vector.reset_some(&seeds).map_err(py_err)?;
                for (mask, observation) in state.masks.iter_mut().zip(&observations) {
                    if let Some(observation) = observation {
                        mask.clone_from(&observation.mask);
                    }
                }
                let empty = Observation {
                    groups: Array2::zeros((0, self.group_features.len())),
                    context: Array1::zeros(self.context_features.len()),
                    mask: Vec::new(),
                };
                Ok(self.tensors(observations.iter().map(|o| o.as_ref().unwrap_or(&empty))))
            })?;
            tensors.into_dict(py)
        })
    }

    /// Steps with lists of groups, ``(environments, chosen)``; a group named twice counts once.
    fn step_groups<'py>(
        &self,
        py: Python<'py>,
        chosen: PyReadonlyArray2<'py, i64>,
    ) -> PyResult<Bound<'py, PyDict>> {
        guarded(|| {
            let array = chosen.as_array();
            self.shape("action", &array.shape()[..1], &[self.count])?;
            let mut actions = Vec::with_capacity(self.count);
            for row in array.rows() {
                let groups: Result<Vec<GroupIx>, _> =
                    row.iter().map(|ix| u32::try_from(*ix).map(GroupIx)).collect();
                let groups = groups.map_err(|_| invalid("an action names a negative group"))?;
                let mut action = Action::choose(groups);
                let mut seen = std::collections::HashSet::new();
                action.critical.retain(|group| seen.insert(*group));
                actions.push(action);
            }
            self.played(py, |_| Ok(actions))
        })
    }

    /// Steps with scores of groups, ``(environments, groups)``: the highest of the open ones are chosen.
    fn step_scores<'py>(
        &self,
        py: Python<'py>,
        scores: PyReadonlyArray2<'py, f32>,
    ) -> PyResult<Bound<'py, PyDict>> {
        guarded(|| {
            let array = scores.as_array();
            self.shape("action", array.shape(), &[self.count, self.groups])?;
            // Infinite scores are how a learner masks.
            refuse(array.iter().any(|score| score.is_nan()), "scores")?;
            let rows: Vec<Vec<f32>> = array.rows().into_iter().map(|row| row.to_vec()).collect();
            self.played(py, |state| {
                let pairs = rows.iter().zip(&state.masks);
                Ok(pairs.map(|(scores, mask)| Action::highest(scores, mask, self.choose)).collect())
            })
        })
    }

    /// Steps with what a fleet's policy decides: which groups may move ``(environments, groups)``, headroom
    /// ``(environments,)`` and cost multipliers ``(environments, groups)``.
    fn step_fleet<'py>(
        &self,
        py: Python<'py>,
        critical: PyReadonlyArray2<'py, i8>,
        headroom: PyReadonlyArray1<'py, f64>,
        multipliers: PyReadonlyArray2<'py, f64>,
    ) -> PyResult<Bound<'py, PyDict>> {
        guarded(|| {
            let (critical, headroom, multipliers) =
                (critical.as_array(), headroom.as_array(), multipliers.as_array());
            self.shape("critical", critical.shape(), &[self.count, self.groups])?;
            self.shape("headroom", headroom.shape(), &[self.count])?;
            self.shape("cost_multipliers", multipliers.shape(), &[self.count, self.groups])?;
            refuse(headroom.iter().any(|value| !value.is_finite()), "headroom")?;
            refuse(multipliers.iter().any(|value| !value.is_finite()), "cost_multipliers")?;
            let actions: Vec<Action> = (0..self.count)
                .map(|at| {
                    let chosen = critical
                        .row(at)
                        .iter()
                        .enumerate()
                        .filter(|(_, on)| **on != 0)
                        .map(|(ix, _)| GroupIx::from(ix))
                        .collect();
                    Action {
                        headroom: headroom[at],
                        cost_multipliers: multipliers.row(at).to_vec(),
                        ..Action::choose(chosen)
                    }
                })
                .collect();
            self.played(py, |state| {
                let bounds = traflux_core::ActionBounds::default();
                let actions = actions.into_iter().zip(&state.masks);
                Ok(actions.map(|(action, mask)| action.clamped(&bounds, mask.len())).collect())
            })
        })
    }
}

/// Refuses an action with a number that is none: a learner that diverged is to hear of it.
fn refuse(is_wrong: bool, what: &str) -> PyResult<()> {
    if is_wrong {
        return Err(py_err(EnvironmentError::Action {
            reason: format!("not all {what} are finite numbers"),
        }));
    }
    Ok(())
}

/// A number of a step by its name; 0 where the step does not tell it.
fn told(step: &Step, name: &str) -> f64 {
    let info = || step.info.iter().find(|(known, _)| *known == name).map(|(_, value)| *value);
    step.reward.term(name).or_else(info).unwrap_or(0.0)
}

/// Settings of random fleets; those of training by default.
fn random_settings(given: Option<&Bound<'_, PyDict>>) -> PyResult<RandomSettings> {
    let mut settings = traflux::lab::environment::training_scenarios();
    let Some(given) = given else { return Ok(settings) };
    for (key, value) in given.iter() {
        let key: String = key.extract()?;
        match key.as_str() {
            "duration_s" => settings.duration_s = value.extract()?,
            "endpoints" => settings.endpoints = value.extract()?,
            "sources" => settings.sources = value.extract()?,
            "utilization" => settings.utilization = value.extract()?,
            "fleet_rps" => settings.fleet_rps = value.extract()?,
            "events" => settings.events = value.extract()?,
            "scrape_intervals_s" => settings.scrape_intervals_s = value.extract()?,
            other => return Err(invalid(format!("unknown setting `{other}` of random fleets"))),
        }
    }
    Ok(settings)
}
