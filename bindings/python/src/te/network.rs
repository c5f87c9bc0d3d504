//! Nodes, links and what routers do by themselves.

use std::sync::OnceLock;

use ndarray::Array2;
use numpy::{IntoPyArray, PyArray1, PyArray2, PyReadonlyArray1};
use pyo3::prelude::*;
use pyo3::types::PyDict;
use traflux_core::{
    BaseRouting, BitRate, GroupIx, Latency, Link, LinkIx, Network as Links, NetworkError, Node, NodeIx,
};
use traflux_te::{Path, PathFinder, TeError, ecmp, share_of_pairs};

use crate::convert::{detached, invalid, numbers, square, table, vector};
use crate::errors::{guarded, py_err};

/// Adds the classes to the module.
pub(super) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<Network>()
}

/// A directed network; parallel links are allowed.
///
/// Parameters
/// ----------
/// nodes
///     Unique names, or how many.
/// tail, head
///     ``(links,)``: positions of the nodes that each link joins.
/// capacity
///     ``(links,)``, bit/s, positive.
/// weight
///     ``(links,)``, of the routing protocol, dimensionless, positive; 1 unless given.
/// delay_s
///     ``(links,)``, seconds of propagation; 0 unless given.
/// positions
///     ``(nodes,)``: ``(x, y)`` or ``None`` for each, such as longitude and latitude in degrees.
#[pyclass(frozen, module = "traflux._traflux.te")]
pub(crate) struct Network {
    inner: Links,
    base: OnceLock<Result<BaseRouting, NetworkError>>,
}

/// `(length, links)`.
type Listed = (f64, Vec<usize>);

impl Network {
    pub(crate) fn of(inner: Links) -> Self {
        Self { inner, base: OnceLock::new() }
    }

    pub(crate) fn inner(&self) -> &Links {
        &self.inner
    }

    /// What routers do by themselves: all shortest paths evenly.
    pub(crate) fn base(&self) -> PyResult<&BaseRouting> {
        // Of a large network it takes a while: the interpreter's lock is not held, neither here nor by who waits.
        let base = Python::attach(|py| py.detach(|| self.base.get_or_init(|| ecmp(&self.inner))));
        base.as_ref().map_err(|error| py_err(error.clone()))
    }

    fn node(&self, node: usize) -> PyResult<NodeIx> {
        let nodes = self.inner.nodes().len();
        if node < nodes { Ok(NodeIx::from(node)) } else { Err(invalid(format!("node {node} of {nodes}"))) }
    }

    fn by_link<'py>(&self, py: Python<'py>, of: impl Fn(&Link) -> f64) -> Bound<'py, PyArray1<f64>> {
        self.inner.links().iter().map(of).collect::<Vec<f64>>().into_pyarray(py)
    }

    fn paths(
        &self,
        py: Python<'_>,
        lengths: Option<Vec<f64>>,
        source: usize,
        target: usize,
        find: impl FnOnce(&mut PathFinder<'_>, NodeIx, NodeIx) -> Vec<Path> + Send,
    ) -> PyResult<Vec<Listed>> {
        let (source, target) = (self.node(source)?, self.node(target)?);
        detached(py, || {
            let mut finder = match lengths {
                Some(lengths) => PathFinder::with_lengths(&self.inner, lengths).map_err(py_err)?,
                None => PathFinder::new(&self.inner),
            };
            let links = |path: &Path| path.links.iter().map(|link| link.ix()).collect();
            Ok(find(&mut finder, source, target).iter().map(|path| (path.length, links(path))).collect())
        })
    }
}

#[pymethods]
impl Network {
    #[new]
    #[pyo3(signature = (nodes, tail, head, capacity, *, weight=None, delay_s=None, positions=None))]
    fn new(
        nodes: &Bound<'_, PyAny>,
        tail: Vec<usize>,
        head: Vec<usize>,
        capacity: &Bound<'_, PyAny>,
        weight: Option<&Bound<'_, PyAny>>,
        delay_s: Option<&Bound<'_, PyAny>>,
        positions: Option<Vec<Option<[f64; 2]>>>,
    ) -> PyResult<Self> {
        guarded(|| {
            let names: Vec<String> = match nodes.extract::<usize>() {
                Ok(count) => {
                    Links::check_size(count, 0).map_err(py_err)?;
                    (0..count).map(|ix| ix.to_string()).collect()
                }
                Err(_) => nodes.extract()?,
            };
            let links = tail.len();
            let capacity = vector(capacity, "capacity")?;
            let weight = weight.map(|w| vector(w, "weight")).transpose()?;
            let delay = delay_s.map(|d| vector(d, "delay_s")).transpose()?;
            let of = |array: &Option<PyReadonlyArray1<'_, f64>>| array.as_ref().map(|a| a.as_array().len());
            let lengths = [
                ("head", Some(head.len()), links),
                ("capacity", Some(capacity.as_array().len()), links),
                ("weight", of(&weight), links),
                ("delay_s", of(&delay), links),
                ("positions", positions.as_ref().map(Vec::len), names.len()),
            ];
            for (what, got, expected) in lengths {
                if let Some(got) = got.filter(|got| *got != expected) {
                    return Err(py_err(NetworkError::Length { what, got, expected }));
                }
            }
            let nodes = names.into_iter().enumerate().map(|(ix, name)| Node {
                name,
                position: positions.as_ref().and_then(|positions| positions[ix]),
            });
            let rate = |link: usize| -> PyResult<BitRate> {
                let value = capacity.as_array()[link];
                BitRate::new(value)
                    .map_err(|_| py_err(NetworkError::LinkValue { link, quantity: "capacity", value }))
            };
            let links = (0..links).map(|link| {
                let seconds = delay.as_ref().map_or(0.0, |d| d.as_array()[link]);
                let wrong = NetworkError::LinkValue { link, quantity: "delay", value: seconds };
                Ok(Link {
                    tail: NodeIx::from(tail[link]),
                    head: NodeIx::from(head[link]),
                    capacity: rate(link)?,
                    weight: weight.as_ref().map_or(1.0, |w| w.as_array()[link]),
                    delay: Latency::new(seconds).map_err(|_| py_err(wrong))?,
                })
            });
            let links = links.collect::<PyResult<Vec<Link>>>()?;
            Ok(Self::of(Links::new(nodes.collect(), links).map_err(py_err)?))
        })
    }

    /// Names of the nodes.
    #[getter]
    fn nodes(&self) -> PyResult<Vec<&str>> {
        guarded(|| Ok(self.inner.nodes().iter().map(|node| node.name.as_str()).collect()))
    }

    /// Where the nodes are, as far as it is known.
    #[getter]
    fn positions(&self) -> PyResult<Vec<Option<[f64; 2]>>> {
        guarded(|| Ok(self.inner.nodes().iter().map(|node| node.position).collect()))
    }

    /// How many nodes there are.
    #[getter]
    fn node_count(&self) -> PyResult<usize> {
        guarded(|| Ok(self.inner.nodes().len()))
    }

    /// How many links there are.
    #[getter]
    fn link_count(&self) -> PyResult<usize> {
        guarded(|| Ok(self.inner.links().len()))
    }

    /// How many pairs there are: ``nodes * (nodes - 1)``.
    #[getter]
    fn pair_count(&self) -> PyResult<usize> {
        guarded(|| Ok(self.inner.pair_count()))
    }

    /// ``(links,)``: where each link starts.
    #[getter]
    fn tail<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyArray1<i64>>> {
        guarded(|| {
            Ok(self
                .inner
                .links()
                .iter()
                .map(|link| link.tail.ix() as i64)
                .collect::<Vec<_>>()
                .into_pyarray(py))
        })
    }

    /// ``(links,)``: where each link ends.
    #[getter]
    fn head<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyArray1<i64>>> {
        guarded(|| {
            Ok(self
                .inner
                .links()
                .iter()
                .map(|link| link.head.ix() as i64)
                .collect::<Vec<_>>()
                .into_pyarray(py))
        })
    }

    /// ``(links,)``: bit/s.
    #[getter]
    fn capacity<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyArray1<f64>>> {
        guarded(|| Ok(self.by_link(py, |link| link.capacity.get())))
    }

    /// ``(links,)``: weight of the routing protocol.
    #[getter]
    fn weight<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyArray1<f64>>> {
        guarded(|| Ok(self.by_link(py, |link| link.weight)))
    }

    /// ``(links,)``: seconds.
    #[getter]
    fn delay_s<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyArray1<f64>>> {
        guarded(|| Ok(self.by_link(py, |link| link.delay.as_secs())))
    }

    /// ``(pairs, 2)``: source and target of each pair.
    #[getter]
    fn pairs<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyArray2<i64>>> {
        guarded(|| {
            let count = self.inner.pair_count();
            let ends = (0..count).flat_map(|pair| {
                let (source, target) = self.inner.pair(GroupIx::from(pair));
                [source.ix() as i64, target.ix() as i64]
            });
            Ok(Array2::from_shape_vec((count, 2), ends.collect()).map_err(invalid)?.into_pyarray(py))
        })
    }

    /// Source and target of a pair.
    fn pair(&self, pair: usize) -> PyResult<(usize, usize)> {
        guarded(|| {
            let pairs = self.inner.pair_count();
            if pair >= pairs {
                return Err(py_err(traflux_lp::multicommodity::FlowError::Pair { pair, pairs }));
            }
            let (source, target) = self.inner.pair(GroupIx::from(pair));
            Ok((source.ix(), target.ix()))
        })
    }

    /// Position of a pair.
    fn pair_index(&self, source: usize, target: usize) -> PyResult<usize> {
        guarded(|| {
            let (source, target) = (self.node(source)?, self.node(target)?);
            if source == target {
                return Err(invalid("source and target are the same node"));
            }
            Ok(self.inner.pair_ix(source, target).ix())
        })
    }

    /// Position of a node.
    fn node_index(&self, name: &str) -> PyResult<usize> {
        guarded(|| {
            self.inner.node(name).map(NodeIx::ix).ok_or_else(|| invalid(format!("there is no node `{name}`")))
        })
    }

    /// How many pairs a share of all is, rounded down, at least 1 for a positive share.
    fn share_of_pairs(&self, share: f64) -> PyResult<usize> {
        guarded(|| Ok(share_of_pairs(&self.inner, share)))
    }

    /// ``(links,)``, bit/s, when all pairs take their shortest paths evenly; ``demands`` ``(nodes, nodes)``, bit/s.
    fn ecmp_loads<'py>(
        &self,
        py: Python<'py>,
        demands: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyArray1<f64>>> {
        guarded(|| {
            let array = table(demands, "demands")?;
            square(&array, self.inner.nodes().len())?;
            let rows = numbers(&array, "demands")?;
            let loads = detached(py, || {
                self.inner.check_rows(rows).map_err(py_err)?;
                Ok(self.base()?.loads_of_rows(&self.inner, rows))
            })?;
            Ok(loads.into_pyarray(py))
        })
    }

    /// Load over capacity at its greatest; ``loads`` ``(links,)``, bit/s.
    fn max_utilization(&self, loads: &Bound<'_, PyAny>) -> PyResult<f64> {
        guarded(|| {
            let loads = vector(loads, "loads")?;
            let loads = loads.as_slice().map_err(|_| invalid("loads is not contiguous"))?;
            let (got, expected) = (loads.len(), self.inner.links().len());
            if got != expected {
                return Err(py_err(NetworkError::Length { what: "loads", got, expected }));
            }
            Ok(self.inner.max_utilization(loads))
        })
    }

    /// The ``k`` shortest loopless paths: ``(length, links)``; by weight, or by ``lengths`` of links.
    #[pyo3(signature = (source, target, k, *, lengths=None))]
    fn shortest_paths(
        &self,
        py: Python<'_>,
        source: usize,
        target: usize,
        k: usize,
        lengths: Option<Vec<f64>>,
    ) -> PyResult<Vec<Listed>> {
        guarded(|| self.paths(py, lengths, source, target, |finder, s, t| finder.k_shortest(s, t, k)))
    }

    /// As many link-disjoint paths as there are, ``limit`` at most, of the least total length.
    #[pyo3(signature = (source, target, limit, *, lengths=None))]
    fn disjoint_paths(
        &self,
        py: Python<'_>,
        source: usize,
        target: usize,
        limit: usize,
        lengths: Option<Vec<f64>>,
    ) -> PyResult<Vec<Listed>> {
        guarded(|| self.paths(py, lengths, source, target, |finder, s, t| finder.disjoint(s, t, limit)))
    }

    /// The same network without some of its links.
    fn without_links(&self, links: Vec<usize>) -> PyResult<Self> {
        guarded(|| {
            let count = self.inner.links().len();
            if let Some(link) = links.iter().find(|link| **link >= count) {
                return Err(invalid(format!("link {link} of {count}")));
            }
            let down: Vec<LinkIx> = links.into_iter().map(LinkIx::from).collect();
            Ok(Self::of(self.inner.without_links(&down)))
        })
    }

    fn __eq__(&self, other: &Self) -> PyResult<bool> {
        guarded(|| Ok(self.inner == other.inner))
    }

    fn __repr__(&self) -> PyResult<String> {
        guarded(|| {
            Ok(format!("Network({} nodes, {} links)", self.inner.nodes().len(), self.inner.links().len()))
        })
    }

    fn __reduce__<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        guarded(|| {
            let py = slf.py();
            let this = slf.get();
            let options = PyDict::new(py);
            options.set_item("weight", this.weight(py)?)?;
            options.set_item("delay_s", this.delay_s(py)?)?;
            options.set_item("positions", this.positions()?)?;
            let tail: Vec<usize> = this.inner.links().iter().map(|link| link.tail.ix()).collect();
            let head: Vec<usize> = this.inner.links().iter().map(|link| link.head.ix()).collect();
            let positional = (this.nodes()?, tail, head, this.capacity(py)?);
            let make = py.import("traflux.te")?.getattr("_network")?;
            Ok((make, (positional, options)).into_pyobject(py)?.into_any())
        })
    }
}

/// Loads and matrices that `scaled_to` measures.
pub(super) fn ecmp_utilization(
    network: &Links,
    base: &BaseRouting,
    demands: &traflux_core::TrafficMatrix,
) -> Result<f64, TeError> {
    network.check_matrix(demands)?;
    Ok(network.max_utilization(&base.loads(network, demands)))
}
