//! Files of networks and matrices.

use std::path::PathBuf;

use ndarray::Array3;
use numpy::{IntoPyArray, PyArray2, PyArray3};
use pyo3::prelude::*;
use traflux_core::{BitRate, TrafficMatrix};
use traflux_te::format::{
    Format, ReadOptions, WriteOptions, read_matrices_file, read_network_file, write_matrices, write_network,
};

use super::Network;
use crate::convert::{detached, invalid, matrices_of};
use crate::errors::{guarded, py_err};

/// Adds the functions to the module.
pub(super) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<NetworkFile>()?;
    module.add_function(wrap_pyfunction!(formats, module)?)?;
    module.add_function(wrap_pyfunction!(read_network, module)?)?;
    module.add_function(wrap_pyfunction!(read_matrices, module)?)?;
    module.add_function(wrap_pyfunction!(network_text, module)?)?;
    module.add_function(wrap_pyfunction!(matrices_text, module)?)
}

/// Names of the formats of files.
#[pyfunction]
fn formats() -> PyResult<Vec<&'static str>> {
    guarded(|| Ok(Format::ALL.iter().map(|format| format.name()).collect()))
}

/// What a file says about a network.
#[pyclass(frozen, module = "traflux._traflux.te")]
pub(crate) struct NetworkFile {
    /// Nodes and links.
    #[pyo3(get)]
    network: Py<Network>,
    /// Name of the network, where the file has one.
    #[pyo3(get)]
    name: Option<String>,
    /// The format it was in.
    #[pyo3(get)]
    format: String,
    /// What was read in a way its author may not have meant.
    #[pyo3(get)]
    warnings: Vec<String>,
    demands: Option<TrafficMatrix>,
}

#[pymethods]
impl NetworkFile {
    /// ``(nodes, nodes)``, bit/s, where the same file has some.
    #[getter]
    fn demands<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyArray2<f64>>>> {
        guarded(|| {
            let Some(matrix) = &self.demands else { return Ok(None) };
            let rows =
                ndarray::Array2::from_shape_vec((matrix.nodes(), matrix.nodes()), matrix.as_slice().to_vec());
            Ok(Some(rows.map_err(invalid)?.into_pyarray(py)))
        })
    }
}

/// Matrices as one array.
pub(super) fn array_of<'py>(
    py: Python<'py>,
    matrices: &[TrafficMatrix],
    nodes: usize,
) -> PyResult<Bound<'py, PyArray3<f64>>> {
    let mut numbers = Vec::with_capacity(matrices.len() * nodes * nodes);
    matrices.iter().for_each(|matrix| numbers.extend_from_slice(matrix.as_slice()));
    Ok(Array3::from_shape_vec((matrices.len(), nodes, nodes), numbers).map_err(invalid)?.into_pyarray(py))
}

fn format_of(name: Option<&str>) -> PyResult<Option<Format>> {
    name.map(|name| name.parse::<Format>().map_err(py_err)).transpose()
}

fn options(
    unit: Option<&str>,
    demand_unit: Option<&str>,
    default_capacity: Option<f64>,
    default_weight: f64,
    directed: Option<bool>,
) -> PyResult<ReadOptions> {
    Ok(ReadOptions {
        unit: unit.map(|text| text.parse().map_err(py_err)).transpose()?,
        demand_unit: demand_unit.map(|text| text.parse().map_err(py_err)).transpose()?,
        default_capacity: default_capacity.map(|value| BitRate::new(value).map_err(invalid)).transpose()?,
        default_weight,
        directed,
    })
}

/// Read a network from a file of any format of :func:`formats`.
///
/// Parameters
/// ----------
/// path
///     The file.
/// format
///     ``None``: name and content of the file tell.
/// unit, demand_unit
///     Unit of rates (``"kbit/s"``, ``"Gbit/s"``, …) instead of what the file or its format says.
/// default_capacity
///     bit/s of links for which the file says none; ``None``: such a link is an error.
/// default_weight
///     Weight of links for which the file says none.
/// directed
///     Whether a link leads one way only; ``None``: as the file or its format says.
#[pyfunction]
#[pyo3(signature = (path, *, format=None, unit=None, demand_unit=None, default_capacity=None, default_weight=1.0, directed=None))]
fn read_network(
    py: Python<'_>,
    path: PathBuf,
    format: Option<&str>,
    unit: Option<&str>,
    demand_unit: Option<&str>,
    default_capacity: Option<f64>,
    default_weight: f64,
    directed: Option<bool>,
) -> PyResult<NetworkFile> {
    guarded(|| {
        let format = format_of(format)?;
        let options = options(unit, demand_unit, default_capacity, default_weight, directed)?;
        let file = detached(py, || read_network_file(&path, format, &options).map_err(py_err))?;
        Ok(NetworkFile {
            network: Py::new(py, Network::of(file.network))?,
            name: file.name,
            format: file.format.name().to_owned(),
            warnings: file.warnings.iter().map(ToString::to_string).collect(),
            demands: file.demands,
        })
    })
}

/// Read demands for a network: ``(matrices, nodes, nodes)``, bit/s.
#[pyfunction]
#[pyo3(signature = (path, network, *, format=None, unit=None, demand_unit=None))]
fn read_matrices<'py>(
    py: Python<'py>,
    path: PathBuf,
    network: &Network,
    format: Option<&str>,
    unit: Option<&str>,
    demand_unit: Option<&str>,
) -> PyResult<Bound<'py, PyArray3<f64>>> {
    guarded(|| {
        let format = format_of(format)?;
        let options = options(unit, demand_unit, None, 1.0, None)?;
        let network = network.inner();
        let matrices = detached(py, || read_matrices_file(&path, format, network, &options).map_err(py_err))?;
        array_of(py, &matrices, network.nodes().len())
    })
}

fn write_options(
    unit: Option<&str>,
    demand_unit: Option<&str>,
    name: Option<String>,
) -> PyResult<WriteOptions> {
    Ok(WriteOptions {
        unit: unit.map(|text| text.parse().map_err(py_err)).transpose()?,
        demand_unit: demand_unit.map(|text| text.parse().map_err(py_err)).transpose()?,
        name,
    })
}

/// The text of a network, and what it could not hold; ``demands`` ``(nodes, nodes)``, bit/s, are copied.
#[pyfunction]
#[pyo3(signature = (network, format, *, demands=None, unit=None, demand_unit=None, name=None))]
fn network_text(
    py: Python<'_>,
    network: &Network,
    format: &str,
    demands: Option<&Bound<'_, PyAny>>,
    unit: Option<&str>,
    demand_unit: Option<&str>,
    name: Option<String>,
) -> PyResult<(String, Vec<String>)> {
    guarded(|| {
        let format = format.parse::<Format>().map_err(py_err)?;
        let options = write_options(unit, demand_unit, name)?;
        let network = network.inner();
        let demands = demands.map(|demands| matrices_of(demands, network.nodes().len())).transpose()?;
        let first = demands.as_deref().and_then(<[TrafficMatrix]>::first);
        let written = detached(py, || write_network(network, first, format, &options).map_err(py_err))?;
        Ok((written.text, written.warnings.iter().map(ToString::to_string).collect()))
    })
}

/// The text of matrices, and what it could not hold; ``matrices`` ``(matrices, nodes, nodes)``, bit/s, are copied.
#[pyfunction]
#[pyo3(signature = (network, matrices, format, *, unit=None, demand_unit=None))]
fn matrices_text(
    py: Python<'_>,
    network: &Network,
    matrices: &Bound<'_, PyAny>,
    format: &str,
    unit: Option<&str>,
    demand_unit: Option<&str>,
) -> PyResult<(String, Vec<String>)> {
    guarded(|| {
        let format = format.parse::<Format>().map_err(py_err)?;
        let options = write_options(unit, demand_unit, None)?;
        let network = network.inner();
        let matrices = matrices_of(matrices, network.nodes().len())?;
        let written = detached(py, || write_matrices(network, &matrices, format, &options).map_err(py_err))?;
        Ok((written.text, written.warnings.iter().map(ToString::to_string).collect()))
    })
}
