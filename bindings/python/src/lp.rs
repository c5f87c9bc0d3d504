//! Linear programs: endpoints, and links of a network.

mod endpoints;
mod networks;

use pyo3::prelude::*;

/// Adds the classes to the module.
pub(crate) fn register(_py: Python<'_>, module: &Bound<'_, PyModule>) -> PyResult<()> {
    endpoints::register(module)?;
    networks::register(module)
}
