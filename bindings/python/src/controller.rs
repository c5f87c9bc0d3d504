//! How does Python close the loop?
//!
//! The loop is [`traflux::Controller`]; [`stages`] puts objects of Python into the places of its stages, [`worker`] keeps
//! them from stopping it, [`telemetry`] and [`views`] are what goes in and out.

mod stages;
mod views;
mod worker;

use std::sync::{Arc, Mutex, PoisonError, TryLockError};
use std::time::Duration;

use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString};
use tokio::runtime::Runtime;
use traflux::controller::Mode;
use traflux::service::{Assembly, Brought, Given, Learns};
use traflux::{Config, Controller as Loop};
use traflux_core::FleetEstimator;
use traflux_gateway::adapter::Clock;

use crate::errors::{guarded, input, py_err, raise};
use crate::gateway::{from_json, json_text, timestamp};
use stages::{PyActuator, PyEstimator, PyPolicy, PyRecorder, PyReward, PySource};
pub(crate) use views::Observation;
use views::{Decision, Fixed};
use worker::{EventLoop, Now, Reports, Worker};

/// Once around the loop per tick: observe, estimate, act, optimise, guard, control, learn.
///
/// Parameters
/// ----------
/// config
///     What an operator writes, as YAML, JSON or a mapping: sources, services with their endpoints, objective, control,
///     policy. ``metrics`` may be left out, for measurements come from `source`.
/// source
///     ``collect(topology, at, window_s)`` gives telemetry: see `docs/python.md`.
/// policy
///     ``act(observation)`` gives an action: the groups that may move, by index or name, or a mapping; such as a
///     `traflux.policy.Policy`. One whose attribute ``holds`` is true is asked once a step. Without a policy it is what
///     ``policy`` of the configuration says.
/// reward
///     ``reward(before, after)`` gives a number or a mapping of terms. With it, or with a recorder, the policy is asked
///     once a step (dead time and window of the configuration), so that a reward belongs to one action.
/// estimator
///     ``estimate(topology, telemetry, estimate)`` gives what the built-in estimator gave, changed.
/// actuator
///     ``apply(plan)`` puts weights in force; without one they are to be read from the decisions.
/// recorder
///     ``record(transition)`` takes a learning step.
/// deadline
///     How long any of these may take, in seconds or as a `timedelta`. One that takes longer has failed for this tick.
/// mode
///     ``"none"``, ``"frozen"``, ``"learning"`` or ``"shadow"``; without it ``policy.mode`` of the configuration. Where that
///     is ``"none"``, a policy that is given runs ``"learning"`` with a recorder, ``"frozen"`` without.
///
/// Solver and guard are always those of Rust: they keep a stage that is wrong from doing harm.
#[pyclass(module = "traflux", frozen)]
pub(crate) struct Controller {
    inner: Mutex<Inner>,
    fixed: Arc<Fixed>,
    event_loop: EventLoop,
    clock: Clock,
}

struct Inner {
    controller: Loop,
    runtime: Runtime,
    reports: Reports,
    now: Now,
}

#[pymethods]
impl Controller {
    #[new]
    #[pyo3(signature = (
        config, *, source, policy=None, reward=None, estimator=None, actuator=None, recorder=None, deadline=None,
        mode=None,
    ))]
    fn new(
        config: &Bound<'_, PyAny>,
        source: Py<PyAny>,
        policy: Option<Py<PyAny>>,
        reward: Option<Py<PyAny>>,
        estimator: Option<Py<PyAny>>,
        actuator: Option<Py<PyAny>>,
        recorder: Option<Py<PyAny>>,
        deadline: Option<&Bound<'_, PyAny>>,
        mode: Option<&str>,
    ) -> PyResult<Self> {
        guarded(|| {
            let py = config.py();
            let text = match config.cast::<PyString>() {
                Ok(text) => text.to_str()?.to_owned(),
                Err(_) => json_text(config)?,
            };
            let config = Config::parse_for_any_source(&text).map_err(py_err)?;
            let brought = Brought {
                mode: mode.map(mode_of).transpose()?,
                policy: policy.is_some(),
                learns: if recorder.is_some() { Learns::Caller } else { Learns::Nobody },
            };
            let assembly = Assembly::new(&config, &brought).map_err(py_err)?;
            let built = config.build(&traflux::config::Resolved::new()).map_err(py_err)?;
            let fixed = Arc::new(Fixed::new(py, &built.fleet.topology, assembly.space())?);
            let now = Now::new();
            let (deadline, event_loop, reports) =
                (deadline_of(deadline)?, EventLoop::default(), Reports::default());
            let worker = |name, object| Worker::new(name, object, deadline, event_loop.clone());
            // An action of which somebody learns is held until it is paid for, as is one that was learned so.
            let learns = recorder.is_some() || reward.is_some();
            let source = PySource { worker: worker("observe", source)?, fixed: Arc::clone(&fixed) };
            let actuator = actuator.map(|object| worker("control", object)).transpose()?;
            let mut given = Given {
                source: Box::new(source),
                actuator: Box::new(PyActuator::new(actuator, now.clone())),
                estimator: None,
                policy: None,
                reward: None,
                recorder: None,
            };
            if let Some(object) = estimator {
                given.estimator = Some(Box::new(PyEstimator {
                    worker: worker("estimate", object)?,
                    before: FleetEstimator::new(config.estimator()),
                    fixed: Arc::clone(&fixed),
                    reports: reports.clone(),
                }));
            }
            if let Some(object) = policy {
                let holds = learns
                    || object
                        .bind(py)
                        .getattr_opt("holds")?
                        .is_some_and(|holds| holds.is_truthy().unwrap_or(false));
                let worker = worker("act", object)?;
                given.policy = Some(Box::new(PyPolicy { worker, fixed: Arc::clone(&fixed), holds }));
            }
            if let Some(object) = reward {
                let (worker, fixed) = (worker("reward", object)?, Arc::clone(&fixed));
                given.reward = Some(Box::new(PyReward { worker, fixed, reports: reports.clone() }));
            }
            if let Some(object) = recorder {
                let (worker, fixed) = (worker("record", object)?, Arc::clone(&fixed));
                given.recorder = Some(Box::new(PyRecorder { worker, fixed, reports: reports.clone() }));
            }
            let controller = assembly.controller(built, given).map_err(py_err)?;
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
            let inner = Mutex::new(Inner { controller, runtime, reports, now });
            Ok(Self { inner, fixed, event_loop, clock: Clock::start() })
        })
    }

    /// Goes once around the loop, without the GIL. Never raises for what a stage does: what failed is in the decision,
    /// and what it was to change is held. `now` is in seconds since 1970; without it a clock is read.
    #[pyo3(signature = (*, now=None))]
    fn tick(&self, py: Python<'_>, now: Option<f64>) -> PyResult<Decision> {
        guarded(|| {
            let now = now.map_or_else(|| Ok(self.clock.now()), timestamp)?;
            py.detach(|| {
                let mut inner = match self.inner.try_lock() {
                    Ok(inner) => inner,
                    Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
                    Err(TryLockError::WouldBlock) => return Err(busy()),
                };
                let Inner { controller, runtime, reports, now: told } = &mut *inner;
                told.set(now);
                let mut decision = runtime.block_on(controller.tick(now));
                decision.failures.extend(reports.take());
                Ok(Decision { decision })
            })
        })
    }

    /// The same beside an event loop: an awaitable. Stages whose methods are ``async`` run in that loop, others in
    /// threads of their own.
    #[pyo3(signature = (*, now=None))]
    fn tick_async<'py>(slf: &Bound<'py, Self>, now: Option<f64>) -> PyResult<Bound<'py, PyAny>> {
        guarded(|| {
            let py = slf.py();
            let event_loop = py.import("asyncio")?.call_method0("get_running_loop")?;
            slf.get().event_loop.set(Some(event_loop.clone().unbind()));
            let keywords = PyDict::new(py);
            keywords.set_item("now", now)?;
            let tick =
                py.import("functools")?.getattr("partial")?.call((slf.getattr("tick")?,), Some(&keywords))?;
            event_loop.call_method1("run_in_executor", (py.None(), tick))
        })
    }

    /// What is controlled: flows, routes, resources and groups with their names, as a mapping.
    #[getter]
    fn topology<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        guarded(|| from_json(py, &self.fixed.topology_json))
    }

    /// Stops moving traffic, or moves it again; decisions go on.
    fn set_frozen(&self, py: Python<'_>, frozen: bool) -> PyResult<()> {
        guarded(|| py.detach(|| self.locked(|inner| inner.controller.set_frozen(frozen))))
    }

    /// What became of learning steps, by name.
    fn learning(&self, py: Python<'_>) -> PyResult<Vec<(&'static str, u64)>> {
        guarded(|| {
            py.detach(|| {
                self.locked(|inner| {
                    let stats = inner.controller.learning();
                    vec![
                        ("recorded", stats.recorded),
                        ("dropped_unacknowledged", stats.dropped_unacknowledged),
                        ("dropped_unmeasured", stats.dropped_unmeasured),
                    ]
                })
            })
        })
    }

    fn __repr__(&self) -> PyResult<String> {
        guarded(|| {
            let topology = &self.fixed.topology;
            Ok(format!("Controller(flows={}, routes={})", topology.flows().len(), topology.routes().len()))
        })
    }
}

impl Controller {
    fn locked<T>(&self, call: impl FnOnce(&mut Inner) -> T) -> PyResult<T> {
        match self.inner.try_lock() {
            Ok(mut inner) => Ok(call(&mut inner)),
            Err(TryLockError::Poisoned(poisoned)) => Ok(call(&mut poisoned.into_inner())),
            Err(TryLockError::WouldBlock) => Err(busy()),
        }
    }
}

fn busy() -> PyErr {
    raise("InputError", "input_busy", true, "a tick of this controller is under way")
}

fn mode_of(name: &str) -> PyResult<Mode> {
    [Mode::None, Mode::Frozen, Mode::Learning, Mode::Shadow]
        .into_iter()
        .find(|mode| mode.name() == name)
        .ok_or_else(|| {
            input("input_mode", format!("unknown mode `{name}`, expected none, frozen, learning or shadow"))
        })
}

/// A second where nothing is said: a tick is some seconds apart from the next.
fn deadline_of(value: Option<&Bound<'_, PyAny>>) -> PyResult<Duration> {
    let Some(value) = value else { return Ok(Duration::from_secs(1)) };
    let deadline = value
        .extract::<Duration>()
        .ok()
        .or_else(|| value.extract().ok().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()));
    deadline
        .filter(|deadline| !deadline.is_zero())
        .ok_or_else(|| input("input_deadline", "a deadline is a positive number of seconds or a timedelta"))
}

/// Puts the names of this file into its module.
pub(crate) fn register(_py: Python<'_>, module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<Controller>()?;
    module.add_class::<Decision>()?;
    module.add_class::<Observation>()?;
    module.add_class::<views::Transition>()
}

/// What was said of a stage that cannot fail by itself.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
