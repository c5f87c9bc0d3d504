//! How does an error of Rust arrive in Python?
//!
//! As an object of the class of its family ([`traflux::error_family`], `traflux/_errors.py`), with the code and the
//! transience that Rust gives it. A panic arrives as `InternalPanic`, never as the `BaseException` that PyO3 makes of it.

use std::panic::{AssertUnwindSafe, catch_unwind};

use pyo3::prelude::*;
use pyo3::types::PyType;

/// An error of one of the crates.
pub(crate) trait Coded: std::fmt::Display {
    /// Its stable name.
    fn code(&self) -> &'static str;

    /// Whether the same call may succeed later with nothing changed here.
    fn is_transient(&self) -> bool;
}

macro_rules! coded {
    ($($error:ty),+ $(,)?) => {
        $(
            impl Coded for $error {
                fn code(&self) -> &'static str {
                    <$error>::code(self)
                }

                fn is_transient(&self) -> bool {
                    <$error>::is_transient(self)
                }
            }
        )+
    };
}

coded!(
    traflux::ConfigError,
    traflux::service::RunError,
    traflux::te::EvaluateError,
    traflux_core::EncodeError,
    traflux_core::EnvironmentError,
    traflux_core::NetworkError,
    traflux_core::PolicyError,
    traflux_core::SolveError,
    traflux_core::PlanError,
    traflux_gateway::GatewayError,
    traflux_lp::TableError,
    traflux_lp::multicommodity::FlowError,
    traflux_policy::CheckpointError,
    traflux_sim::SimError,
    traflux_te::TeError,
    traflux_te::format::FormatError,
);

/// The exception for an error of a crate: of the class of its family.
pub(crate) fn py_err<E: Coded>(error: E) -> PyErr {
    raise(traflux::error_family(error.code()), error.code(), error.is_transient(), &error.to_string())
}

/// The exception for a value of Python that does not have the form that is asked for: `InputError`.
///
/// `code` begins with `input_`.
pub(crate) fn input(code: &'static str, message: impl std::fmt::Display) -> PyErr {
    raise("InputError", code, false, &message.to_string())
}

/// An exception of a class of `traflux`.
pub(crate) fn raise(class: &str, code: &str, is_transient: bool, message: &str) -> PyErr {
    Python::attach(|py| {
        let made = py
            .import("traflux._errors")
            .and_then(|module| module.getattr(class))
            .and_then(|class| Ok(class.cast_into::<PyType>()?))
            .and_then(|class| class.call1((message, code, is_transient)));
        made.map_or_else(|error| error, PyErr::from_value)
    })
}

/// Calls, and makes an exception of a panic. Everything that Python calls goes through here.
pub(crate) fn guarded<T>(call: impl FnOnce() -> PyResult<T>) -> PyResult<T> {
    catch_unwind(AssertUnwindSafe(call)).unwrap_or_else(|payload| {
        let message = payload
            .downcast_ref::<&str>()
            .map(|text| (*text).to_owned())
            .or_else(|| payload.downcast_ref::<String>().cloned())
            .unwrap_or_else(|| "a panic without a message".to_owned());
        Err(raise("InternalPanic", "internal_panic", false, &message))
    })
}

/// Panics in Rust, so that a test can see what arrives.
#[pyfunction]
fn _panic(message: String) -> PyResult<()> {
    guarded(|| std::panic::resume_unwind(Box::new(message)))
}

/// Puts the names of this file into its module.
pub(crate) fn register(_py: Python<'_>, module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(_panic, module)?)
}
