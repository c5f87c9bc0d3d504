//! Values of Python as values of Rust, for networks and solvers.

use std::time::{Duration, Instant};

use ndarray::{ArrayView2, ArrayView3};
use numpy::{
    PyArray1, PyArray2, PyArrayMethods, PyReadonlyArray1, PyReadonlyArray2, PyReadonlyArray3,
    PyUntypedArrayMethods,
};
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyDict, PyFloat, PyInt, PyList, PyString, PyTuple};
use traflux_core::{GroupIx, NetworkError, TrafficMatrix};

use crate::errors::{guarded, input, py_err};

/// An argument that no Rust crate sees.
pub(crate) fn invalid(message: impl std::fmt::Display) -> PyErr {
    input("input_value", message)
}

/// An array of another shape.
pub(crate) fn shape(what: &str, found: &[usize], expected: &[usize]) -> PyErr {
    input("input_shape", format!("{what} has shape {found:?}, expected {expected:?}"))
}

/// A value of another type.
fn kind(message: impl std::fmt::Display) -> PyErr {
    input("input_type", message)
}

/// Calls without the interpreter's lock, and makes an exception of a panic.
pub(crate) fn detached<T: Send>(py: Python<'_>, call: impl FnOnce() -> PyResult<T> + Send) -> PyResult<T> {
    guarded(|| py.detach(call))
}

/// A vector of float64: the caller's memory where it is a contiguous NumPy array of float64, else a copy.
pub(crate) fn vector<'py>(value: &Bound<'py, PyAny>, what: &str) -> PyResult<PyReadonlyArray1<'py, f64>> {
    if let Ok(array) = value.cast::<PyArray1<f64>>()
        && array.is_contiguous()
    {
        return Ok(array.readonly());
    }
    contiguous(value, what)?.extract().map_err(|_| kind(format!("{what} is not a vector of numbers")))
}

/// A table of float64: the caller's memory where it is a C-contiguous NumPy array of float64, else a copy.
pub(crate) fn table<'py>(value: &Bound<'py, PyAny>, what: &str) -> PyResult<PyReadonlyArray2<'py, f64>> {
    if let Ok(array) = value.cast::<PyArray2<f64>>()
        && array.is_c_contiguous()
    {
        return Ok(array.readonly());
    }
    contiguous(value, what)?.extract().map_err(|_| kind(format!("{what} is not a table of numbers")))
}

/// What NumPy makes of a value: the same array where it is float64 and C-contiguous.
fn contiguous<'py>(value: &Bound<'py, PyAny>, what: &str) -> PyResult<Bound<'py, PyAny>> {
    let py = value.py();
    let options = PyDict::new(py);
    options.set_item("dtype", "float64")?;
    py.import("numpy")?
        .call_method("ascontiguousarray", (value,), Some(&options))
        .map_err(|error| kind(format!("{what}: {error}")))
}

/// The numbers of a contiguous table.
pub(crate) fn numbers<'a>(array: &'a PyReadonlyArray2<'_, f64>, what: &str) -> PyResult<&'a [f64]> {
    array.as_slice().map_err(|_| invalid(format!("{what} is not contiguous")))
}

/// Checks that a table has a row and a column for each node.
pub(crate) fn square(array: &PyReadonlyArray2<'_, f64>, nodes: usize) -> PyResult<()> {
    let view: ArrayView2<'_, f64> = array.as_array();
    let (got, expected) = (view.len(), nodes.saturating_mul(nodes));
    if view.shape() == [nodes, nodes] {
        return Ok(());
    }
    if got == expected {
        return Err(shape("demands", view.shape(), &[nodes, nodes]));
    }
    // What the network says of such a matrix.
    Err(py_err(NetworkError::Length { what: "traffic matrix", got, expected }))
}

/// Matrices `(matrices, nodes, nodes)`, or one `(nodes, nodes)`, in bit/s. They are copied: they outlive the call.
pub(crate) fn matrices_of(value: &Bound<'_, PyAny>, nodes: usize) -> PyResult<Vec<TrafficMatrix>> {
    let array = contiguous(value, "matrices")?;
    let array = if array.getattr("ndim")?.extract::<usize>()? == 2 {
        array
            .call_method1("reshape", ((1, nodes, nodes),))
            .map_err(|_| invalid(format!("matrices is not one of {nodes} nodes")))?
    } else {
        array
    };
    let array: PyReadonlyArray3<'_, f64> =
        array.extract().map_err(|_| kind("matrices is not an array of three dimensions"))?;
    let view: ArrayView3<'_, f64> = array.as_array();
    if view.shape()[1..] != [nodes, nodes] {
        return Err(shape("matrices", view.shape(), &[view.shape()[0], nodes, nodes]));
    }
    view.outer_iter()
        .map(|rows| TrafficMatrix::from_rows(nodes, rows.iter().copied().collect()).map_err(py_err))
        .collect()
}

/// One matrix `(nodes, nodes)`, or a stack of one, in bit/s.
pub(crate) fn matrix_of(value: &Bound<'_, PyAny>, nodes: usize) -> PyResult<TrafficMatrix> {
    let mut matrices = matrices_of(value, nodes)?;
    match (matrices.pop(), matrices.len()) {
        (Some(matrix), 0) => Ok(matrix),
        (last, before) => {
            let found = before + usize::from(last.is_some());
            Err(shape("matrices", &[found, nodes, nodes], &[1, nodes, nodes]))
        }
    }
}

/// Positions of pairs.
pub(crate) fn pairs_of(value: &Bound<'_, PyAny>) -> PyResult<Vec<GroupIx>> {
    let list: Vec<i64> = match value.call_method0("tolist") {
        Ok(list) => list.extract()?,
        Err(_) => value.extract()?,
    };
    list.into_iter()
        .map(|ix| u32::try_from(ix).map(GroupIx).map_err(|_| invalid(format!("pair {ix} is not a position"))))
        .collect()
}

/// The moment that is a time from now; `None` where there is no limit.
pub(crate) fn deadline_of(time: Option<Duration>) -> Option<Instant> {
    time.and_then(|time| Instant::now().checked_add(time))
}

/// A value of Python as one of JSON, for options that Rust reads by name.
pub(crate) fn json_of(value: &Bound<'_, PyAny>) -> PyResult<serde_json::Value> {
    use serde_json::Value;
    if value.is_none() {
        return Ok(Value::Null);
    }
    if let Ok(flag) = value.cast::<PyBool>() {
        return Ok(Value::Bool(flag.is_true()));
    }
    if value.is_instance_of::<PyInt>() {
        return Ok(Value::from(value.extract::<i64>()?));
    }
    if value.is_instance_of::<PyString>() {
        return Ok(Value::from(value.extract::<String>()?));
    }
    if let Ok(dict) = value.cast::<PyDict>() {
        let entries = dict.iter().map(|(key, value)| Ok((key.extract::<String>()?, json_of(&value)?)));
        return Ok(Value::Object(entries.collect::<PyResult<_>>()?));
    }
    if value.is_instance_of::<PyList>() || value.is_instance_of::<PyTuple>() {
        let items = value.try_iter()?.map(|item| json_of(&item?));
        return Ok(Value::Array(items.collect::<PyResult<_>>()?));
    }
    if value.is_instance_of::<PyFloat>() || value.hasattr("__float__")? {
        let number: f64 = value.extract()?;
        return serde_json::Number::from_f64(number)
            .map(Value::Number)
            .ok_or_else(|| invalid(format!("{number} is not finite")));
    }
    Err(kind(format!("{} cannot be an option", value.get_type().name()?)))
}

/// Options by name as a settings type of Rust.
pub(crate) fn settings<T: serde::de::DeserializeOwned>(value: serde_json::Value) -> PyResult<T> {
    serde_json::from_value(value).map_err(invalid)
}
