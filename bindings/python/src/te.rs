//! Networks, matrices, paths, selectors and evaluations.

mod evaluate;
mod files;
mod generate;
mod network;

use pyo3::prelude::*;

pub(crate) use network::Network;

/// Puts the names of this file into its module.
pub(crate) fn register(_py: Python<'_>, module: &Bound<'_, PyModule>) -> PyResult<()> {
    network::register(module)?;
    files::register(module)?;
    generate::register(module)?;
    evaluate::register(module)
}
