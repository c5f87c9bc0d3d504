//! Where does this request go, now or later, and if nowhere, why?

use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList};
use traflux_gateway::adapter::Clock;
use traflux_gateway::observe::Format;
use traflux_gateway::{Engine as Inner, EngineSettings};

use super::decision::object;
use super::plan::{Plan, json_text};
use super::request::Request;
use super::time;
use crate::errors::{guarded, input, py_err};

/// A ticket and the decision for it.
type Ready = ((usize, u64), Py<PyAny>);

/// Decides for every request; shared by all threads.
///
/// Parameters
/// ----------
/// plan
///     A `Plan`, or what makes one: text or a mapping.
/// seed
///     Of all that is drawn at random, and of the hashes of key tables: secret where clients choose their keys.
/// settings
///     What a plan does not say, as a mapping: `EngineSettings` of the Rust crate. `seed` goes before it.
/// now
///     When it begins, in seconds since 1970. Every method takes `now`; without it a clock is read that starts with the
///     time of day and never goes back. Give it to all calls or to none.
#[pyclass(module = "traflux.gateway", frozen)]
pub(crate) struct Engine {
    engine: Inner,
    clock: Clock,
}

#[pymethods]
impl Engine {
    #[new]
    #[pyo3(signature = (plan, *, seed=None, settings=None, now=None))]
    fn new(
        plan: &Bound<'_, PyAny>,
        seed: Option<u64>,
        settings: Option<&Bound<'_, PyAny>>,
        now: Option<f64>,
    ) -> PyResult<Self> {
        guarded(|| {
            let default = EngineSettings::default();
            let (plan, clock) = (Plan::of(plan)?, Clock::start());
            let settings = settings_of(&default, seed, settings)?;
            let engine = Inner::new(&plan, &settings, time(&clock, now)?).map_err(py_err)?;
            Ok(Self { engine, clock })
        })
    }

    /// Decides: a `Forward`, a `Wait`, a `Later` or a `Refuse`.
    #[pyo3(signature = (request, *, now=None))]
    fn decide(&self, py: Python<'_>, request: &Bound<'_, Request>, now: Option<f64>) -> PyResult<Py<PyAny>> {
        guarded(|| {
            // It takes less than letting go of the GIL and getting it back.
            let decision = self.engine.decide(&request.get().asked(&self.engine), time(&self.clock, now)?);
            object(py, self.clock, decision)
        })
    }

    /// Decides about many at one moment, in their order; without the GIL.
    #[pyo3(signature = (requests, *, now=None))]
    fn decide_many<'py>(
        &self,
        py: Python<'py>,
        requests: &Bound<'py, PyAny>,
        now: Option<f64>,
    ) -> PyResult<Bound<'py, PyList>> {
        guarded(|| {
            let now = time(&self.clock, now)?;
            let requests: Vec<Bound<'py, Request>> = match requests.cast::<PyList>() {
                Ok(list) => list.iter().map(cast).collect::<PyResult<_>>()?,
                Err(_) => requests.try_iter()?.map(|item| cast(item?)).collect::<PyResult<_>>()?,
            };
            let asked: Vec<&Request> = requests.iter().map(Bound::get).collect();
            let decisions: Vec<_> = py.detach(|| {
                asked.iter().map(|request| self.engine.decide(&request.asked(&self.engine), now)).collect()
            });
            let objects: PyResult<Vec<_>> =
                decisions.into_iter().map(|decision| object(py, self.clock, decision)).collect();
            PyList::new(py, objects?)
        })
    }

    /// The next decision for somebody who waits, with the ticket of its `Wait`; `None` where there is none. Ask after
    /// every `finish` and after `upkeep`.
    fn take_ready(&self, py: Python<'_>) -> PyResult<Option<Ready>> {
        guarded(|| {
            let Some(((room, ticket), decision)) = py.detach(|| self.engine.take_ready()) else {
                return Ok(None);
            };
            Ok(Some(((room, ticket.get()), object(py, self.clock, decision)?)))
        })
    }

    /// What `decide` would look at and what it would find, in words, without changing anything.
    #[pyo3(signature = (request, *, now=None))]
    fn explain(&self, py: Python<'_>, request: &Bound<'_, Request>, now: Option<f64>) -> PyResult<String> {
        guarded(|| {
            let (request, now) = (request.get(), time(&self.clock, now)?);
            Ok(py.detach(|| self.engine.explain(&request.asked(&self.engine), now).to_string()))
        })
    }

    /// The answer to a scrape of Prometheus: text format 0.0.4, or OpenMetrics 1.0.0.
    #[pyo3(signature = (*, openmetrics=false, now=None))]
    fn metrics(&self, py: Python<'_>, openmetrics: bool, now: Option<f64>) -> PyResult<String> {
        guarded(|| {
            let now = time(&self.clock, now)?;
            let format = if openmetrics { Format::OpenMetrics } else { Format::Prometheus };
            Ok(py.detach(|| self.engine.scrape(now, format)))
        })
    }

    /// Puts another plan in force. Levels of limits that stay and everything in flight go on; where it raises, the old
    /// plan stays. Seed and settings as of the constructor; what is not given stays as it is in force.
    #[pyo3(signature = (plan, *, seed=None, settings=None, now=None))]
    fn reload(
        &self,
        py: Python<'_>,
        plan: &Bound<'_, PyAny>,
        seed: Option<u64>,
        settings: Option<&Bound<'_, PyAny>>,
        now: Option<f64>,
    ) -> PyResult<()> {
        guarded(|| {
            let (plan, now) = (Plan::of(plan)?, time(&self.clock, now)?);
            let settings = settings_of(&self.engine.settings(), seed, settings)?;
            py.detach(|| self.engine.reload(&plan, &settings, now)).map_err(py_err)
        })
    }

    /// Does what time alone brings: call it a few times a second.
    #[pyo3(signature = (*, now=None))]
    fn upkeep(&self, py: Python<'_>, now: Option<f64>) -> PyResult<()> {
        guarded(|| {
            let now = time(&self.clock, now)?;
            py.detach(|| self.engine.upkeep(now));
            Ok(())
        })
    }

    /// Takes weights, integers by name of backend, that a controller computed for a rule under ``adaptive``.
    ///
    /// Raises ``gateway_setting`` for a rule or backend that there is not.
    #[pyo3(signature = (rule, weights, *, now=None))]
    fn set_weights(
        &self,
        py: Python<'_>,
        rule: &str,
        weights: &Bound<'_, PyDict>,
        now: Option<f64>,
    ) -> PyResult<()> {
        guarded(|| {
            let now = time(&self.clock, now)?;
            let weights: Vec<(String, u32)> = weights
                .iter()
                .map(|(name, weight)| Ok((name.extract()?, weight.extract()?)))
                .collect::<PyResult<_>>()?;
            let weights: Vec<(&str, u32)> =
                weights.iter().map(|(name, weight)| (name.as_str(), *weight)).collect();
            py.detach(|| self.engine.set_weights(now, rule, &weights)).map_err(py_err)
        })
    }

    /// The plan in force.
    #[getter]
    fn plan(&self) -> PyResult<Plan> {
        guarded(|| Ok(Plan { plan: self.engine.plan() }))
    }

    /// Now by its clock, in seconds since 1970.
    fn now(&self) -> PyResult<f64> {
        guarded(|| Ok(self.clock.now().as_secs_f64()))
    }

    fn __repr__(&self) -> PyResult<String> {
        guarded(|| {
            let plan = self.engine.plan();
            Ok(format!("Engine(rules={}, backends={})", plan.routing.rules.len(), plan.backend_names().len()))
        })
    }
}

fn cast<'py>(item: Bound<'py, PyAny>) -> PyResult<Bound<'py, Request>> {
    Ok(item.cast_into::<Request>()?)
}

/// Settings that are given, with what is not said as it is in force.
fn settings_of(
    in_force: &EngineSettings,
    seed: Option<u64>,
    settings: Option<&Bound<'_, PyAny>>,
) -> PyResult<EngineSettings> {
    let mut read = match settings {
        None => in_force.clone(),
        Some(settings) => in_force
            .changed(&json_text(settings)?)
            .map_err(|error| input("input_settings", format!("settings: {error}")))?,
    };
    read.seed = seed.unwrap_or(read.seed);
    Ok(read)
}
