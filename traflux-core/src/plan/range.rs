//! Is a value one that its key can have?

use std::fmt::Display;
use std::time::Duration;

use crate::error::PlanError;

/// Fails for a key unless its value `holds`.
pub(crate) fn check(
    holds: bool,
    key: &str,
    value: impl Display,
    expected: impl Display,
) -> Result<(), PlanError> {
    if holds {
        return Ok(());
    }
    Err(PlanError::Key { path: key.to_owned(), problem: format!("{value}, expected {expected}") })
}

/// Fails for a duration of zero, which is written in milliseconds.
pub(crate) fn check_positive(key: &str, value: Duration) -> Result<(), PlanError> {
    check(!value.is_zero(), key, in_millis(value), "more than 0")
}

/// A duration as its key is written.
pub(crate) fn in_millis(value: Duration) -> f64 {
    value.as_secs_f64() * 1e3
}

/// A list as it is written.
pub(crate) fn listed<T: Display>(values: &[T]) -> String {
    let values: Vec<_> = values.iter().map(T::to_string).collect();
    format!("[{}]", values.join(", "))
}
