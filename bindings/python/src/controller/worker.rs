//! How long does the loop wait for a stage written in Python?
//!
//! No longer than the deadline: the stage is called by a thread of its own (`traflux/_stages.py`), and what comes later
//! is thrown away. As long as that thread has not come back, the stage fails at once. An exception and an answer that
//! cannot be read are failures with a message.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use pyo3::prelude::*;
use pyo3::types::PyTuple;
use traflux::controller::Failure;
use traflux_core::Timestamp;

use super::lock;
use crate::errors::guarded;

/// Why a stage gave nothing.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Failed {
    /// It raised, or gave what cannot be read.
    Raised(String),
    /// It did not answer in time.
    Late(Duration),
    /// It is still busy with an earlier call that was late.
    Busy,
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Raised(message) => f.write_str(message),
            Self::Late(limit) => write!(f, "no answer within {} ms", limit.as_millis()),
            Self::Busy => f.write_str("still busy with an earlier call that was late"),
        }
    }
}

/// The event loop of asynchronous stages, where there is one.
#[derive(Clone, Default)]
pub(super) struct EventLoop(Arc<Mutex<Option<Py<PyAny>>>>);

impl EventLoop {
    pub(super) fn set(&self, event_loop: Option<Py<PyAny>>) {
        *lock(&self.0) = event_loop;
    }

    fn get(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        lock(&self.0).as_ref().map(|event_loop| event_loop.clone_ref(py))
    }
}

/// The time of the tick that is under way.
#[derive(Clone)]
pub(super) struct Now(Arc<Mutex<Timestamp>>);

impl Now {
    pub(super) fn new() -> Self {
        Self(Arc::new(Mutex::new(Timestamp::ZERO)))
    }

    pub(super) fn set(&self, now: Timestamp) {
        *lock(&self.0) = now;
    }

    pub(super) fn get(&self) -> Timestamp {
        *lock(&self.0)
    }
}

/// Failures of stages that have no error of their own, until the tick's end.
#[derive(Clone, Default)]
pub(super) struct Reports(Arc<Mutex<Vec<Failure>>>);

impl Reports {
    pub(super) fn add(&self, stage: &'static str, code: &'static str, message: impl ToString) {
        lock(&self.0).push(Failure { stage, code, message: message.to_string() });
    }

    pub(super) fn take(&self) -> Vec<Failure> {
        std::mem::take(&mut lock(&self.0))
    }

    pub(super) fn has(&self, stage: &str) -> bool {
        lock(&self.0).iter().any(|failure| failure.stage == stage)
    }
}

/// An object of Python with the thread that calls it.
pub(super) struct Worker {
    worker: Py<PyAny>,
    busy: Arc<AtomicBool>,
    deadline: Duration,
    event_loop: EventLoop,
}

impl Worker {
    /// Starts the thread; it ends with the worker.
    pub(super) fn new(
        name: &'static str,
        object: Py<PyAny>,
        deadline: Duration,
        event_loop: EventLoop,
    ) -> PyResult<Self> {
        let worker = Python::attach(|py| {
            let class = py.import("traflux._stages")?.getattr("Worker")?;
            Ok::<_, PyErr>(class.call1((name, object, deadline.as_secs_f64()))?.unbind())
        })?;
        Ok(Self { worker, busy: Arc::default(), deadline, event_loop })
    }

    /// How long a call may take.
    pub(super) fn deadline(&self) -> Duration {
        self.deadline
    }

    /// Calls a method of the object; what it gave, as JSON. To be called without the GIL.
    pub(super) fn call(
        &self,
        method: &'static str,
        arguments: impl for<'py> FnOnce(Python<'py>) -> PyResult<Bound<'py, PyTuple>>,
    ) -> Result<String, Failed> {
        if self.busy.swap(true, Ordering::AcqRel) {
            return Err(Failed::Busy);
        }
        let (answer, answers) = sync_channel(1);
        let asked = Python::attach(|py| {
            let reply = Py::new(py, Reply { answer, busy: Arc::clone(&self.busy) })?;
            let event_loop = self.event_loop.get(py);
            self.worker.call_method1(py, "call", (method, arguments(py)?, event_loop, reply))
        });
        if let Err(error) = asked {
            self.busy.store(false, Ordering::Release);
            return Err(Failed::Raised(error.to_string()));
        }
        match answers.recv_timeout(self.deadline) {
            Ok((true, text)) => Ok(text),
            Ok((false, message)) => Err(Failed::Raised(message)),
            Err(RecvTimeoutError::Timeout) => Err(Failed::Late(self.deadline)),
            Err(RecvTimeoutError::Disconnected) => Err(Failed::Raised("its thread has ended".to_owned())),
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // Where Python is ending its threads end with it.
        let _ = Python::try_attach(|py| self.worker.call_method0(py, "stop").map(drop));
    }
}

/// Takes the answer of a stage.
#[pyclass(frozen)]
struct Reply {
    answer: SyncSender<(bool, String)>,
    busy: Arc<AtomicBool>,
}

#[pymethods]
impl Reply {
    fn __call__(&self, went_well: bool, text: String) -> PyResult<()> {
        guarded(|| {
            self.busy.store(false, Ordering::Release);
            // Nobody listens to an answer that is late.
            let _ = self.answer.try_send((went_well, text));
            Ok(())
        })
    }
}
