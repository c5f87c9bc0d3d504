//! Networks and traffic from a seed.

use numpy::PyArray3;
use pyo3::prelude::*;
use pyo3::types::PyDict;
use serde_json::Value;
use traflux_te::TeError;
use traflux_te::generate::{
    BackboneConfig, Diurnal, DiurnalConfig, LinkModel, Over, TrafficModel, WaxmanConfig, backbone, full_mesh,
    grid, ring, scaled_to, waxman,
};

use super::Network;
use super::files::array_of;
use super::network::ecmp_utilization;
use crate::convert::{detached, invalid, json_of, matrices_of, matrix_of, settings};
use crate::errors::{guarded, py_err};

/// Adds the functions to the module.
pub(super) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(generate_network, module)?)?;
    module.add_function(wrap_pyfunction!(traffic, module)?)?;
    module.add_function(wrap_pyfunction!(diurnal, module)?)?;
    module.add_function(wrap_pyfunction!(scaled, module)?)
}

/// A network of a kind: ring, grid, full_mesh, waxman or backbone, with the options of that kind.
#[pyfunction]
#[pyo3(signature = (kind, seed, options))]
fn generate_network(py: Python<'_>, kind: &str, seed: u64, options: &Bound<'_, PyDict>) -> PyResult<Network> {
    guarded(|| {
        let mut options = match json_of(options.as_any())? {
            Value::Object(options) => options,
            _ => return Err(invalid("options are not named")),
        };
        let mut whole = |name: &str| -> PyResult<usize> {
            let value = options.remove(name).and_then(|value| value.as_u64());
            value
                .map(|value| value as usize)
                .ok_or_else(|| invalid(format!("{kind} needs a whole number `{name}`")))
        };
        let made = match kind {
            "ring" | "full_mesh" => {
                let nodes = whole("nodes")?;
                let links: LinkModel = settings(Value::Object(options))?;
                let make = if kind == "ring" { ring } else { full_mesh };
                detached(py, || make(nodes, &links, seed).map_err(py_err))?
            }
            "grid" => {
                let (rows, columns) = (whole("rows")?, whole("columns")?);
                let links: LinkModel = settings(Value::Object(options))?;
                detached(py, || grid(rows, columns, &links, seed).map_err(py_err))?
            }
            "waxman" => {
                let config: WaxmanConfig = settings(Value::Object(options))?;
                detached(py, || waxman(&config, seed).map_err(py_err))?
            }
            "backbone" => {
                let config: BackboneConfig = settings(Value::Object(options))?;
                detached(py, || backbone(&config, seed).map_err(py_err))?
            }
            other => {
                let known = "ring, grid, full_mesh, waxman, backbone";
                return Err(invalid(format!("there is no network `{other}`, expected one of {known}")));
            }
        };
        Ok(Network::of(made))
    })
}

/// The most numbers that are made in one call: 2 GiB of them.
const MOST: usize = 1 << 28;

/// Refuses more matrices than fit, before they are made.
fn fits(count: usize, nodes: usize) -> PyResult<()> {
    let most = MOST / (nodes * nodes).max(1);
    if count > most {
        return Err(invalid(format!(
            "count is {count}, at most {most} matrices of {nodes} nodes are made in one call"
        )));
    }
    Ok(())
}

/// Independent matrices of a model: ``(count, nodes, nodes)``, bit/s.
#[pyfunction]
#[pyo3(signature = (network, model, count, seed, options))]
fn traffic<'py>(
    py: Python<'py>,
    network: &Network,
    model: &str,
    count: usize,
    seed: u64,
    options: &Bound<'py, PyDict>,
) -> PyResult<Bound<'py, PyArray3<f64>>> {
    guarded(|| {
        let mut options = json_of(options.as_any())?;
        if let Value::Object(options) = &mut options {
            options.insert("model".to_owned(), Value::from(model));
        }
        let model: TrafficModel = settings(options)?;
        let network = network.inner();
        fits(count, network.nodes().len())?;
        let matrices = detached(py, || model.matrices(network, count, seed).map_err(py_err))?;
        array_of(py, &matrices, network.nodes().len())
    })
}

/// Matrices one after the other that follow a mean ``(nodes, nodes)`` through days and weeks: ``(count, nodes, nodes)``,
/// bit/s.
#[pyfunction]
#[pyo3(signature = (mean, count, seed, time_zones_of, options))]
fn diurnal<'py>(
    py: Python<'py>,
    mean: &Bound<'py, PyAny>,
    count: usize,
    seed: u64,
    time_zones_of: Option<&Network>,
    options: &Bound<'py, PyDict>,
) -> PyResult<Bound<'py, PyArray3<f64>>> {
    guarded(|| {
        let nodes = mean.len()?;
        fits(count, nodes)?;
        let mean = matrix_of(mean, nodes)?;
        let config: DiurnalConfig = settings(json_of(options.as_any())?)?;
        let network = time_zones_of.map(Network::inner);
        let matrices = detached(py, || {
            let mut diurnal = Diurnal::new(mean, config, seed).map_err(py_err)?;
            if let Some(network) = network {
                diurnal = diurnal.with_time_zones(network);
            }
            Ok(diurnal.take(count).collect::<Vec<_>>())
        })?;
        array_of(py, &matrices, nodes)
    })
}

/// Matrices ``(matrices, nodes, nodes)``, bit/s, scaled so that the maximum utilisation under shortest paths becomes a
/// target.
#[pyfunction]
#[pyo3(signature = (network, matrices, utilization, over))]
fn scaled<'py>(
    py: Python<'py>,
    network: &Network,
    matrices: &Bound<'py, PyAny>,
    utilization: f64,
    over: &str,
) -> PyResult<Bound<'py, PyArray3<f64>>> {
    guarded(|| {
        let over: Over = settings(Value::from(over))?;
        let base = network.base()?;
        let network = network.inner();
        let matrices = matrices_of(matrices, network.nodes().len())?;
        let scaled = detached(py, || {
            let measure = |demands: &_| ecmp_utilization(network, base, demands);
            scaled_to::<TeError>(&matrices, utilization, over, measure).map_err(py_err)
        })?;
        array_of(py, &scaled, network.nodes().len())
    })
}
