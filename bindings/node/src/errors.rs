//! How does an error of Rust arrive in Node?
//!
//! As a text that `index.js` makes an error of: its class ([`traflux::error_family`]), its code, whether trying again may
//! help, and its message. A panic becomes one with the code `internal_panic`.

use std::panic::{AssertUnwindSafe, catch_unwind};

use napi::{Error, Result};
use napi_derive::napi;

/// Stands before the parts, so that errors of napi itself are told apart.
const MARK: &str = "traflux\u{1}";

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
    traflux_core::NetworkError,
    traflux_core::PlanError,
    traflux_core::SolveError,
    traflux_gateway::GatewayError,
    traflux_lp::TableError,
    traflux_lp::multicommodity::FlowError,
    traflux_te::format::FormatError,
);

/// The error of a crate as Node gets it.
pub(crate) fn coded<E: Coded>(error: E) -> Error {
    raise(error.code(), error.is_transient(), &error.to_string())
}

/// An error of a value of Node that does not have the form that is asked for; `code` begins with `input_`.
pub(crate) fn input(code: &str, message: impl std::fmt::Display) -> Error {
    raise(code, false, &message.to_string())
}

fn raise(code: &str, is_transient: bool, message: &str) -> Error {
    let class = traflux::error_family(code);
    Error::from_reason(format!("{MARK}{class}\u{1}{code}\u{1}{}\u{1}{message}", u8::from(is_transient)))
}

/// Calls, and makes an error of a panic. Everything that Node calls goes through here.
pub(crate) fn guarded<T>(call: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(call)).unwrap_or_else(|payload| {
        let message = payload
            .downcast_ref::<&str>()
            .map(|text| (*text).to_owned())
            .or_else(|| payload.downcast_ref::<String>().cloned())
            .unwrap_or_else(|| "a panic without a message".to_owned());
        Err(raise("internal_panic", false, &message))
    })
}

/// Panics in Rust, so that a test can see what arrives.
#[napi]
pub fn panic_for_tests(message: String) -> Result<()> {
    guarded(|| std::panic::resume_unwind(Box::new(message)))
}
