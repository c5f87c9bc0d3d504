//! May this request go now, and if not, when? Limits alone, without rules and backends.

use std::time::Duration;

use pyo3::prelude::*;
use pyo3::types::PyDict;
use traflux_gateway::PicoDollars;
use traflux_gateway::adapter::Clock;
use traflux_gateway::limit::{
    Check, Cost, DenialReason, Key, LimitIx, Limiter as Inner, LimiterSettings, Reservation as Held,
};

use super::plan::json_text;
use super::time;
use crate::errors::{guarded, input, py_err, raise};

/// Many limits and keys; a reservation takes from several of them, all or none.
///
/// Parameters
/// ----------
/// settings
///     ``{"scopes": [{"name", "max_keys"}], "limits": [{"name", "scope", "unit", "rule", "max_wait_ms"}]}``, where a
///     unit is ``"requests"``, ``"input_tokens"``, ``"output_tokens"``, ``"total_tokens"`` or ``"pico_dollars"`` and a
///     rule such as ``{"token_bucket": {"amount": 100, "period_ms": 1000, "burst": 100}}``.
/// seed
///     Of the hashes of key tables: secret where clients choose their keys.
/// now
///     When it begins, in seconds since 1970; of other calls, when they happen. Without it a clock is read.
#[pyclass(module = "traflux.gateway", frozen)]
pub(crate) struct Limiter {
    limiter: Inner,
    clock: Clock,
}

impl Limiter {
    fn limit(&self, name: &str) -> PyResult<LimitIx> {
        self.limiter.limit(name).ok_or_else(|| input("input_limit", format!("there is no limit `{name}`")))
    }
}

#[pymethods]
impl Limiter {
    #[new]
    #[pyo3(signature = (settings, *, seed=0, now=None))]
    fn new(settings: &Bound<'_, PyAny>, seed: u64, now: Option<f64>) -> PyResult<Self> {
        guarded(|| {
            let settings: LimiterSettings = serde_json::from_str(&json_text(settings)?)
                .map_err(|error| input("input_settings", format!("settings: {error}")))?;
            let clock = Clock::start();
            let limiter = Inner::new(&settings, time(&clock, now)?, seed).map_err(py_err)?;
            Ok(Self { limiter, clock })
        })
    }

    /// Charges one limit for one key, finally. `None` where it was charged, else a `Denial`.
    #[pyo3(signature = (limit, key="", units=1, *, now=None))]
    fn check(&self, limit: &str, key: &str, units: u64, now: Option<f64>) -> PyResult<Option<Denial>> {
        guarded(|| {
            let (ix, now) = (self.limit(limit)?, time(&self.clock, now)?);
            let denial = |code, retry_after| Some(Denial { limit: limit.to_owned(), code, retry_after });
            Ok(match self.limiter.check(now, ix, key, units) {
                Check::Allowed => None,
                Check::Wait(wait) => denial("limit_wait", Some(wait)),
                Check::Never => denial("limit_too_large", None),
                Check::NoRoom => denial("limit_stale_key", None),
            })
        })
    }

    /// Takes an estimate from all limits given, or from none: a `Reservation`, or a `Denial`.
    ///
    /// `limits` are keys by name of limit; the key of a limit without scope is not looked at.
    #[pyo3(signature = (limits, *, requests=1, input_tokens=0, output_tokens=0, pico_dollars=0, now=None))]
    fn reserve(
        &self,
        py: Python<'_>,
        limits: &Bound<'_, PyDict>,
        requests: u64,
        input_tokens: u64,
        output_tokens: u64,
        pico_dollars: u64,
        now: Option<f64>,
    ) -> PyResult<Py<PyAny>> {
        guarded(|| {
            let now = time(&self.clock, now)?;
            let mut asked = Vec::with_capacity(limits.len());
            for (name, key) in limits.iter() {
                let ix = self.limit(name.extract()?)?;
                let scope = self.limiter.describe(ix).and_then(|(_, _, scope)| scope);
                let key = match scope {
                    None => Some(Key::ONLY),
                    Some(scope) => self.limiter.key(now, scope, key.extract()?),
                };
                let Some(key) = key else {
                    let limit = name.extract()?;
                    let denial = Denial { limit, code: "limit_stale_key", retry_after: None };
                    return Ok(Py::new(py, denial)?.into_any());
                };
                asked.push((ix, key));
            }
            let cost = Cost { requests, input_tokens, output_tokens, price: PicoDollars::new(pico_dollars) };
            match self.limiter.reserve(now, &asked, &cost) {
                Ok(held) => {
                    let held = Reservation { held: Some(held), estimate: cost, clock: self.clock };
                    Ok(Py::new(py, held)?.into_any())
                }
                Err(denial) => {
                    let limit = self.limiter.describe(denial.limit).map(|(name, ..)| name.to_owned());
                    let retry_after = match denial.reason {
                        DenialReason::Wait(wait) => Some(wait),
                        _ => None,
                    };
                    let limit = limit.unwrap_or_default();
                    Ok(Py::new(py, Denial { limit, code: denial.reason.code(), retry_after })?.into_any())
                }
            }
        })
    }

    /// How full a limit is for a key, in its unit: ``(limit, used, remaining)``; `None` for a key that there is not.
    #[pyo3(signature = (limit, key="", *, now=None))]
    fn level(&self, limit: &str, key: &str, now: Option<f64>) -> PyResult<Option<(u64, u64, u64)>> {
        guarded(|| {
            let (ix, now) = (self.limit(limit)?, time(&self.clock, now)?);
            let key = match self.limiter.describe(ix).and_then(|(_, _, scope)| scope) {
                None => Some(Key::ONLY),
                Some(scope) => self.limiter.key(now, scope, key),
            };
            let level = key.and_then(|key| self.limiter.level(now, ix, key));
            Ok(level.map(|level| (level.limit, level.used, level.remaining)))
        })
    }
}

/// What a request holds of its limits until it ends. One that is dropped is cancelled.
///
/// A ``now`` is in seconds since 1970; without it the clock of the limiter is read.
#[pyclass(module = "traflux.gateway")]
pub(crate) struct Reservation {
    held: Option<Held>,
    estimate: Cost,
    clock: Clock,
}

#[pymethods]
impl Reservation {
    /// Replaces the estimate by what was used: gives back what is left, charges what is beyond as debt. What is not
    /// given was as estimated.
    #[pyo3(signature = (*, requests=None, input_tokens=None, output_tokens=None, pico_dollars=None, now=None))]
    fn settle(
        &mut self,
        requests: Option<u64>,
        input_tokens: Option<u64>,
        output_tokens: Option<u64>,
        pico_dollars: Option<u64>,
        now: Option<f64>,
    ) -> PyResult<()> {
        guarded(|| {
            let now = time(&self.clock, now)?;
            let actual = Cost {
                requests: requests.unwrap_or(self.estimate.requests),
                input_tokens: input_tokens.unwrap_or(self.estimate.input_tokens),
                output_tokens: output_tokens.unwrap_or(self.estimate.output_tokens),
                price: pico_dollars.map_or(self.estimate.price, PicoDollars::new),
            };
            self.held.take().ok_or_else(ended)?.settle(now, &actual);
            Ok(())
        })
    }

    /// Gives everything back.
    #[pyo3(signature = (*, now=None))]
    fn cancel(&mut self, now: Option<f64>) -> PyResult<()> {
        guarded(|| {
            let now = time(&self.clock, now)?;
            self.held.take().ok_or_else(ended)?.cancel(now);
            Ok(())
        })
    }

    /// Lets the estimate stand, where what was used is not known.
    fn keep(&mut self) -> PyResult<()> {
        guarded(|| {
            self.held.take().ok_or_else(ended)?.keep();
            Ok(())
        })
    }

    fn __repr__(&self) -> PyResult<&'static str> {
        guarded(|| Ok(if self.held.is_some() { "Reservation(held)" } else { "Reservation(ended)" }))
    }
}

/// A limit has no room.
#[pyclass(module = "traflux.gateway", frozen, get_all)]
pub(crate) struct Denial {
    /// Name of the limit; of several the one with the longest wait.
    limit: String,
    /// Why: ``"limit_wait"``, ``"limit_in_flight"``, ``"limit_too_large"``, ``"limit_stale_key"`` (no room for its key)
    /// or ``"limit_unknown"``.
    code: &'static str,
    /// When there is room if nothing else is charged; `None` where time alone does not help.
    retry_after: Option<Duration>,
}

#[pymethods]
impl Denial {
    fn __repr__(&self) -> PyResult<String> {
        guarded(|| Ok(format!("Denial(limit={:?}, code={:?})", self.limit, self.code)))
    }
}

fn ended() -> PyErr {
    raise("InputError", "input_ended", false, "it has ended; a reservation ends once")
}
