//! What comes of a request?

use std::time::Duration;

use pyo3::prelude::*;
use pyo3::types::PyString;
use traflux_core::Timestamp;
use traflux_gateway::adapter::Clock;
use traflux_gateway::congestion::Feedback;
use traflux_gateway::{Decision, End, Forward as Way, Later as Turn, Outcome, Refusal, Usage, Waiting};

use super::{pairs, time};
use crate::errors::{guarded, input, raise};

/// A decision as an object of Python.
pub(super) fn object(py: Python<'_>, clock: Clock, decision: Decision) -> PyResult<Py<PyAny>> {
    Ok(match decision {
        Decision::Forward(way) => Py::new(py, Forward { way: Some(way), clock })?.into_any(),
        Decision::Wait(waiting) => Py::new(py, Wait { waiting: Some(waiting), clock })?.into_any(),
        Decision::Later(turn) => Py::new(py, Later { turn: Some(turn), clock })?.into_any(),
        Decision::Refuse(refusal) => Py::new(py, Refuse { refusal })?.into_any(),
    })
}

/// Send the request there, then say how it ended: `finish` or `retry`. One that is dropped counts as cancelled.
///
/// A ``now`` is in seconds since 1970; without it the clock of the engine is read.
#[pyclass(module = "traflux.gateway")]
pub(crate) struct Forward {
    way: Option<Way>,
    clock: Clock,
}

impl Forward {
    fn way(&self) -> PyResult<&Way> {
        self.way.as_ref().ok_or_else(ended)
    }
}

/// What may be said of an end.
struct Said {
    outcome: Outcome,
    usage: Option<Usage>,
    feedback: Option<Feedback>,
}

impl Said {
    /// Headers are read by the settings of the engine.
    fn of(
        way: &Way,
        now: Timestamp,
        outcome: Option<&Bound<'_, PyAny>>,
        usage: Option<Usage>,
        headers: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Self> {
        let Some(headers) = headers.filter(|headers| !headers.is_none()) else {
            return Ok(Self { outcome: outcome_of(outcome, false)?, usage, feedback: None });
        };
        let headers = pairs(Some(headers))?;
        let has_retry_after = headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("retry-after"));
        let bytes = headers.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes()));
        let feedback = Feedback::read(bytes, now.since_epoch(), way.feedback_plan());
        Ok(Self { outcome: outcome_of(outcome, has_retry_after)?, usage, feedback: Some(feedback) })
    }

    fn end(&self) -> End<'_> {
        End {
            outcome: self.outcome,
            usage: self.usage,
            feedback: self.feedback.as_ref().unwrap_or(&Feedback::NONE),
        }
    }
}

#[pymethods]
impl Forward {
    /// `"forward"`.
    #[classattr]
    #[pyo3(name = "kind")]
    fn kind() -> &'static str {
        "forward"
    }

    /// Name of the backend.
    #[getter]
    fn backend(&self) -> PyResult<&str> {
        guarded(|| Ok(self.way()?.backend()))
    }

    /// Base URL of the endpoint; empty for a backend that is known by its name alone.
    #[getter]
    fn url(&self) -> PyResult<&str> {
        guarded(|| Ok(self.way()?.url()))
    }

    /// Name of the rule.
    #[getter]
    fn rule(&self) -> PyResult<&str> {
        guarded(|| Ok(self.way()?.rule()))
    }

    /// Name of the algorithm that chose.
    #[getter]
    fn algorithm(&self) -> PyResult<String> {
        guarded(|| Ok(self.way()?.algorithm().to_string()))
    }

    /// Which attempt it is, from 1.
    #[getter]
    fn attempt(&self) -> PyResult<usize> {
        guarded(|| Ok(self.way()?.attempt()))
    }

    /// How long to wait before sending: nothing at the first attempt, a random back-off at later ones.
    #[getter]
    fn send_after(&self) -> PyResult<Duration> {
        guarded(|| Ok(self.way()?.send_after()))
    }

    /// Whether its end was told.
    #[getter]
    fn finished(&self) -> bool {
        self.way.is_none()
    }

    /// How long the request has been here, queue and earlier attempts included.
    #[pyo3(signature = (*, now=None))]
    fn age(&self, now: Option<f64>) -> PyResult<Duration> {
        guarded(|| Ok(self.way()?.age(time(&self.clock, now)?)))
    }

    /// The first byte of the answer has come: the end of all trying again.
    #[pyo3(signature = (*, now=None))]
    fn first_byte(&mut self, now: Option<f64>) -> PyResult<()> {
        guarded(|| {
            let now = time(&self.clock, now)?;
            self.way.as_mut().ok_or_else(ended).map(|way| way.first_byte(now))
        })
    }

    /// Its stream is quiet: its place in flight goes to another until it resumes.
    #[pyo3(signature = (*, now=None))]
    fn pause(&mut self, now: Option<f64>) -> PyResult<()> {
        guarded(|| {
            let now = time(&self.clock, now)?;
            self.way.as_mut().ok_or_else(ended).map(|way| way.pause(now))
        })
    }

    /// Its stream goes on, and takes its place again, whether or not there is room.
    fn resume(&mut self) -> PyResult<()> {
        guarded(|| self.way.as_mut().ok_or_else(ended).map(Way::resume))
    }

    /// Settles every limit with what was used.
    ///
    /// `outcome` is a name such as ``"success"``, or the HTTP status of the answer. Without tokens a success is settled
    /// as reserved, one that was sent in vain (``"cancelled"``, ``"timeout"``, ``"reset"``) as its prompt, any other
    /// failure as nothing. `headers` are those of the answer: what they say of the provider's limits counts. `now` is in
    /// seconds since 1970.
    #[pyo3(signature = (
        outcome=None, *, input_tokens=None, output_tokens=None, cached_tokens=0, headers=None, now=None,
    ))]
    fn finish(
        &mut self,
        outcome: Option<&Bound<'_, PyAny>>,
        input_tokens: Option<u64>,
        output_tokens: Option<u64>,
        cached_tokens: u64,
        headers: Option<&Bound<'_, PyAny>>,
        now: Option<f64>,
    ) -> PyResult<()> {
        guarded(|| {
            let now = time(&self.clock, now)?;
            let usage = usage(input_tokens, output_tokens, cached_tokens);
            let said = Said::of(self.way()?, now, outcome, usage, headers)?;
            self.way.take().ok_or_else(ended)?.finish(now, &said.end());
            Ok(())
        })
    }

    /// Settles this attempt and, where the plan allows, finds a place for another: a `Forward`, a `Later`, or a
    /// `Refuse`. Arguments as of `finish`.
    #[pyo3(signature = (
        outcome, *, input_tokens=None, output_tokens=None, cached_tokens=0, headers=None, now=None,
    ))]
    fn retry(
        &mut self,
        py: Python<'_>,
        outcome: &Bound<'_, PyAny>,
        input_tokens: Option<u64>,
        output_tokens: Option<u64>,
        cached_tokens: u64,
        headers: Option<&Bound<'_, PyAny>>,
        now: Option<f64>,
    ) -> PyResult<Py<PyAny>> {
        guarded(|| {
            let now = time(&self.clock, now)?;
            let usage = usage(input_tokens, output_tokens, cached_tokens);
            let said = Said::of(self.way()?, now, Some(outcome), usage, headers)?;
            let decision = self.way.take().ok_or_else(ended)?.retry(now, &said.end());
            object(py, self.clock, decision)
        })
    }

    fn __repr__(&self) -> PyResult<String> {
        guarded(|| {
            Ok(match &self.way {
                Some(way) => format!("Forward(backend={:?}, rule={:?})", way.backend(), way.rule()),
                None => "Forward(finished)".to_owned(),
            })
        })
    }
}

/// The request waits; `Engine.take_ready` calls its ticket when it goes on. Dropping it gives up its place.
///
/// A ``now`` is in seconds since 1970; without it the clock of the engine is read.
#[pyclass(module = "traflux.gateway")]
pub(crate) struct Wait {
    waiting: Option<Waiting>,
    clock: Clock,
}

impl Wait {
    fn waiting(&self) -> PyResult<&Waiting> {
        self.waiting.as_ref().ok_or_else(ended)
    }
}

#[pymethods]
impl Wait {
    /// `"wait"`.
    #[classattr]
    #[pyo3(name = "kind")]
    fn kind() -> &'static str {
        "wait"
    }

    /// Its ticket, by which `Engine.take_ready` calls it.
    #[getter]
    fn ticket(&self) -> PyResult<(usize, u64)> {
        guarded(|| {
            self.waiting().map(|waiting| {
                let (room, ticket) = waiting.ticket();
                (room, ticket.get())
            })
        })
    }

    /// How many are before it now; `None` once it has left.
    #[pyo3(signature = (*, now=None))]
    fn position(&self, now: Option<f64>) -> PyResult<Option<u32>> {
        guarded(|| {
            let now = time(&self.clock, now)?;
            Ok(self.waiting()?.outlook_now(now).map(|outlook| outlook.position))
        })
    }

    /// When it is expected to go on, as of when it began to wait; `None` where nothing is known.
    #[getter]
    fn starts_in(&self) -> PyResult<Option<Duration>> {
        guarded(|| Ok(self.waiting()?.outlook().starts_in))
    }

    /// Gives up its place.
    fn cancel(&mut self) -> PyResult<()> {
        guarded(|| {
            drop(self.waiting.take());
            Ok(())
        })
    }

    fn __repr__(&self) -> PyResult<String> {
        guarded(|| {
            Ok(match &self.waiting {
                Some(waiting) => format!("Wait(position={})", waiting.outlook().position),
                None => "Wait(cancelled)".to_owned(),
            })
        })
    }
}

/// The request has a turn under a limit: keep it for `after`, then let it `go_on`. Dropping it gives the turn back.
///
/// A ``now`` is in seconds since 1970; without it the clock of the engine is read.
#[pyclass(module = "traflux.gateway")]
pub(crate) struct Later {
    turn: Option<Turn>,
    clock: Clock,
}

impl Later {
    fn turn(&self) -> PyResult<&Turn> {
        self.turn.as_ref().ok_or_else(ended)
    }
}

#[pymethods]
impl Later {
    /// `"later"`.
    #[classattr]
    #[pyo3(name = "kind")]
    fn kind() -> &'static str {
        "later"
    }

    /// When its turn comes, in seconds since 1970.
    #[getter]
    fn due(&self) -> PyResult<f64> {
        guarded(|| Ok(self.turn()?.due().as_secs_f64()))
    }

    /// How long that is from now.
    #[pyo3(signature = (*, now=None))]
    fn after(&self, now: Option<f64>) -> PyResult<Duration> {
        guarded(|| Ok(self.turn()?.after(time(&self.clock, now)?)))
    }

    /// Name of the rule.
    #[getter]
    fn rule(&self) -> PyResult<&str> {
        guarded(|| Ok(self.turn()?.rule()))
    }

    /// Name of the limit that it waits for.
    #[getter]
    fn limit(&self) -> PyResult<Option<String>> {
        guarded(|| Ok(self.turn()?.limit().map(|name| name.to_string())))
    }

    /// What becomes of it once its turn has come: as a rule a `Forward`.
    #[pyo3(signature = (*, now=None))]
    fn go_on(&mut self, py: Python<'_>, now: Option<f64>) -> PyResult<Py<PyAny>> {
        guarded(|| {
            let now = time(&self.clock, now)?;
            let decision = self.turn.take().ok_or_else(ended)?.go_on(now);
            object(py, self.clock, decision)
        })
    }

    /// Gives the turn back.
    fn cancel(&mut self) -> PyResult<()> {
        guarded(|| {
            drop(self.turn.take());
            Ok(())
        })
    }

    fn __repr__(&self) -> PyResult<String> {
        guarded(|| {
            Ok(match &self.turn {
                Some(turn) => format!("Later(due={}, rule={:?})", turn.due().as_secs_f64(), turn.rule()),
                None => "Later(gone)".to_owned(),
            })
        })
    }
}

/// Answer the request yourself.
#[pyclass(module = "traflux.gateway", frozen)]
pub(crate) struct Refuse {
    pub(super) refusal: Refusal,
}

#[pymethods]
impl Refuse {
    /// `"refuse"`.
    #[classattr]
    #[pyo3(name = "kind")]
    fn kind() -> &'static str {
        "refuse"
    }

    /// Why: a stable name such as ``"limited"``.
    #[getter]
    fn reason(&self) -> PyResult<&'static str> {
        guarded(|| Ok(self.refusal.reason.code()))
    }

    /// The HTTP status to answer with.
    #[getter]
    fn status(&self) -> PyResult<u16> {
        guarded(|| Ok(self.refusal.reason.status()))
    }

    /// The rule that decided, where one did.
    #[getter]
    fn rule(&self) -> Option<&str> {
        self.refusal.rule.as_deref()
    }

    /// The limit that refused, for reasons of limits.
    #[getter]
    fn limit(&self) -> Option<&str> {
        self.refusal.limit.as_deref()
    }

    /// When it makes sense to come back; `None` where time alone does not help.
    #[getter]
    fn retry_after(&self) -> Option<Duration> {
        self.refusal.retry_after
    }

    fn __str__(&self) -> PyResult<String> {
        guarded(|| Ok(self.refusal.to_string()))
    }

    fn __repr__(&self) -> PyResult<String> {
        guarded(|| Ok(format!("Refuse(reason={:?}, status={})", self.reason()?, self.status()?)))
    }
}

fn ended() -> PyErr {
    raise("InputError", "input_ended", false, "it has ended; a decision ends once")
}

fn usage(input_tokens: Option<u64>, output_tokens: Option<u64>, cached: u64) -> Option<Usage> {
    (input_tokens.is_some() || output_tokens.is_some()).then(|| Usage {
        input: input_tokens.unwrap_or(0),
        cached,
        output: output_tokens.unwrap_or(0),
    })
}

/// An outcome by its name or by an HTTP status; a success where nothing is said.
fn outcome_of(value: Option<&Bound<'_, PyAny>>, has_retry_after: bool) -> PyResult<Outcome> {
    let Some(value) = value.filter(|value| !value.is_none()) else { return Ok(Outcome::Success) };
    // The text first: a number that is asked of a text makes an exception, which takes longer than all of this.
    let Ok(name) = value.cast::<PyString>() else {
        let status = value.extract::<u16>();
        let status = status
            .map_err(|_| input("input_outcome", "an outcome is a name or the HTTP status of an answer"))?;
        return Ok(Outcome::of_status(status, has_retry_after));
    };
    let name = name.to_str()?;
    Outcome::ALL.into_iter().find(|outcome| outcome.name() == name).ok_or_else(|| {
        let names = Outcome::ALL.map(Outcome::name).join(", ");
        input("input_outcome", format!("unknown outcome `{name}`, expected a status or one of {names}"))
    })
}
