//! How does an error of Rust arrive in Python?
//!
//! As an object of the class of its family (`traflux/_errors.py`), with the code and the transience that Rust
//! gives it. A panic arrives as `InternalPanic`, never as the `BaseException` that PyO3 makes of it.

use std::panic::{AssertUnwindSafe, catch_unwind};

use pyo3::prelude::*;
use pyo3::types::PyType;

/// An error of one of the crates.
pub(crate) trait Coded: std::fmt::Display {
    /// Name of its class in `traflux`.
    const CLASS: &'static str;

    /// Its stable name.
    fn code(&self) -> &'static str;

    /// Whether the same call may succeed later with nothing changed here.
    fn is_transient(&self) -> bool;
}

/// Gives errors of the crates their class.
macro_rules! classes {
    ($($class:literal: $($error:ty),+;)+) => {
        $($(
            impl Coded for $error {
                const CLASS: &'static str = $class;

                fn code(&self) -> &'static str {
                    <$error>::code(self)
                }

                fn is_transient(&self) -> bool {
                    <$error>::is_transient(self)
                }
            }
        )+)+
    };
}

classes! {
    "ConfigError": traflux::ConfigError;
    "TopologyError": traflux_core::TopologyError;
    "PlanError": traflux_core::PlanError;
    "NetworkError": traflux_core::NetworkError, traflux_te::TeError, traflux_te::format::FormatError, traflux::te::EvaluateError;
    "ObserveError": traflux_core::ObserveError;
    "EstimateError": traflux_core::EstimateError;
    "EncodeError": traflux_core::EncodeError;
    "PolicyError": traflux_core::PolicyError, traflux_policy::CheckpointError;
    "SolveError": traflux_core::SolveError, traflux_lp::multicommodity::FlowError, traflux_lp::TableError, traflux_lp::check::CheckError, traflux_lp::multicommodity::check::FlowCheckError;
    "ActuateError": traflux_core::ActuateError;
    "SimulationError": traflux_core::EnvironmentError, traflux_sim::SimError;
    "StoreError": traflux::StoreError;
    "GatewayError": traflux_gateway::GatewayError;
}

/// The exception for an error of a crate.
pub(crate) fn py_err<E: Coded>(error: E) -> PyErr {
    raise(E::CLASS, error.code(), error.is_transient(), &error.to_string())
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
