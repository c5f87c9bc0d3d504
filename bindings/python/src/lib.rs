//! How does Python reach the engines of Traflux?
//!
//! One file per module of the package; each converts values and calls a crate of the family. What goes wrong there
//! arrives as a subclass of `traflux.TrafluxError`, see `errors`.

mod controller;
mod convert;
mod envs;
mod errors;
mod gateway;
mod lp;
mod policy;
mod te;

use pyo3::prelude::*;

/// A submodule of `traflux._traflux` with what `register` puts into it.
fn submodule(
    parent: &Bound<'_, PyModule>,
    name: &str,
    register: fn(Python<'_>, &Bound<'_, PyModule>) -> PyResult<()>,
) -> PyResult<()> {
    let py = parent.py();
    let path = format!("traflux._traflux.{name}");
    let module = PyModule::new(py, &path)?;
    register(py, &module)?;
    parent.add(name, &module)?;
    // A submodule of an extension is no file; only here does `import` find it.
    py.import("sys")?.getattr("modules")?.set_item(path, module)
}

/// The compiled half of the package `traflux`; use that.
#[pymodule]
fn _traflux(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    submodule(module, "errors", errors::register)?;
    submodule(module, "gateway", gateway::register)?;
    submodule(module, "controller", controller::register)?;
    submodule(module, "lp", lp::register)?;
    submodule(module, "te", te::register)?;
    submodule(module, "envs", envs::register)?;
    submodule(module, "policy", policy::register)
}
