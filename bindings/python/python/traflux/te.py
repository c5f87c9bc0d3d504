"""Networks, traffic matrices, files, paths, selectors and how they compare.

Matrices are plain arrays in bit/s, ``(nodes, nodes)`` for one and ``(matrices, nodes, nodes)`` for many, row = source;
the diagonal does not count. Pairs are positions in the order ``(0, 1), (0, 2), …, (1, 0), (1, 2), …``, see
:attr:`Network.pairs`.

Examples
--------
>>> from traflux import te
>>> network = te.backbone(nodes=10, seed=1)
>>> demands = te.traffic(network, "exponential", mean=1e9, seed=2)
>>> chosen = te.select(network, demands, count=9)
>>> te.reroute(network, demands, chosen)["max_utilization"] <= network.max_utilization(network.ecmp_loads(demands))
True
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from traflux._traflux import te as _te
from traflux._traflux.policy import Checkpoint
from traflux._traflux.te import Network, NetworkFile, formats, read_matrices, read_network, reroute, selectors

if TYPE_CHECKING:
    import networkx
    import pandas

__all__ = [
    "Evaluation",
    "Network",
    "NetworkFile",
    "backbone",
    "diurnal",
    "evaluate",
    "formats",
    "from_networkx",
    "full_mesh",
    "grid",
    "read_matrices",
    "read_network",
    "reroute",
    "ring",
    "scale",
    "select",
    "selectors",
    "to_networkx",
    "traffic",
    "waxman",
    "write_matrices",
    "write_network",
]

_PathLike = str | os.PathLike[str]


def _network(arguments: Sequence[Any], options: Mapping[str, Any]) -> Network:
    """What pickle makes a network with."""
    return Network(*arguments, **options)


def ring(nodes: int, *, seed: int = 0, **links: Any) -> Network:
    """Make a circle of nodes.

    Parameters
    ----------
    nodes
        At least 3.
    seed
        Equal seeds give equal networks.
    **links
        ``capacities`` (list, bit/s, one is drawn for each link), ``weight`` (``"hops"``, ``"inverse_capacity"`` or
        ``"distance"``), ``side_km``.
    """
    return _te.generate_network("ring", seed, {"nodes": nodes, **links})


def grid(rows: int, columns: int, *, seed: int = 0, **links: Any) -> Network:
    """Make a grid; node ``(r, c)`` has position ``r * columns + c``. Options of links as in :func:`ring`."""
    return _te.generate_network("grid", seed, {"rows": rows, "columns": columns, **links})


def full_mesh(nodes: int, *, seed: int = 0, **links: Any) -> Network:
    """Join every node with every other. Options of links as in :func:`ring`."""
    return _te.generate_network("full_mesh", seed, {"nodes": nodes, **links})


def waxman(nodes: int = 30, *, seed: int = 0, **options: Any) -> Network:
    """Make the random network of Waxman (1988).

    Parameters
    ----------
    nodes
        At least 3.
    seed
        Equal seeds give equal networks.
    **options
        ``alpha`` in (0, 1], ``beta`` positive, ``survivable``, ``links`` (a dict of the options of :func:`ring`).
    """
    return _te.generate_network("waxman", seed, {"nodes": nodes, **options})


def backbone(nodes: int = 20, *, seed: int = 0, **options: Any) -> Network:
    """Make a sparse network that looks like a backbone.

    Parameters
    ----------
    nodes
        At least 3.
    seed
        Equal seeds give equal networks.
    **options
        ``mean_degree`` (2.5 to 3.5 for real ones), ``survivable``, ``links`` (a dict of the options of :func:`ring`).
    """
    return _te.generate_network("backbone", seed, {"nodes": nodes, **options})


def traffic(
    network: Network, model: str = "gravity", *, count: int | None = None, seed: int = 0, **options: Any
) -> npt.NDArray[np.float64]:
    """Draw independent matrices.

    Parameters
    ----------
    network
        Where the traffic flows.
    model
        ``"gravity"`` (``mass``: ``"degree"``, ``"capacity"`` or ``"random"``; ``total``), ``"exponential"``
        (``mean``), ``"uniform"`` (``low``, ``high``), ``"uniform_around"`` (``mean``, ``half_width``), ``"bimodal"``
        (``small``, ``large``, ``large_share``, ``deviation``) or ``"lognormal"`` (``mean``, ``sigma``); rates in bit/s.
    count
        How many; ``None`` for one without the first axis.
    seed
        Equal seeds give equal matrices.

    Returns
    -------
    ndarray of float64
        ``(count, nodes, nodes)``, or ``(nodes, nodes)``; bit/s. ``input_value`` for more than 2 GiB.
    """
    matrices = _te.traffic(network, model, 1 if count is None else count, seed, options)
    return matrices[0] if count is None else matrices


def diurnal(
    mean: npt.ArrayLike, count: int, *, seed: int = 0, time_zones_of: Network | None = None, **options: Any
) -> npt.NDArray[np.float64]:
    """Follow a mean matrix through days and weeks.

    Parameters
    ----------
    mean
        ``(nodes, nodes)``, bit/s.
    count
        How many matrices.
    seed
        Equal seeds give equal matrices.
    time_zones_of
        A network whose nodes have longitudes: noon follows the sun.
    **options
        ``interval_seconds`` (300), ``daily_amplitude``, ``weekend_factor``, ``phase_spread``, ``noise_sigma``,
        ``noise_correlation``, ``burst_probability``, ``burst_factor``, ``burst_steps``.

    Returns
    -------
    ndarray of float64
        ``(count, nodes, nodes)``, bit/s; ``input_value`` for more than 2 GiB.
    """
    return _te.diurnal(np.asarray(mean, dtype=np.float64), count, seed, time_zones_of, options)


def scale(
    network: Network, matrices: npt.ArrayLike, utilization: float, *, over: str = "each"
) -> npt.NDArray[np.float64]:
    """Scale matrices so that the fullest link has a utilisation under shortest paths.

    Parameters
    ----------
    network
        Where the traffic flows.
    matrices
        ``(matrices, nodes, nodes)``, bit/s.
    utilization
        The target, such as 0.9.
    over
        What has it: ``"each"`` matrix by itself, the ``"max"`` or the ``"mean"`` over all.

    Returns
    -------
    ndarray of float64
        ``(matrices, nodes, nodes)``, bit/s.
    """
    return _te.scaled(network, matrices, utilization, over)


def write_network(
    path: _PathLike,
    network: Network,
    *,
    format: str = "node-link",
    demands: npt.ArrayLike | None = None,
    unit: str | None = None,
    demand_unit: str | None = None,
    name: str | None = None,
) -> list[str]:
    """Write a network to a file, with ``demands`` of ``(nodes, nodes)``, bit/s, where the format holds them.

    Returns
    -------
    list of str
        What the format could not hold.
    """
    text, warnings = _te.network_text(
        network, format, demands=demands, unit=unit, demand_unit=demand_unit, name=name
    )
    Path(path).write_text(text, encoding="utf-8")
    return warnings


def write_matrices(
    path: _PathLike,
    network: Network,
    matrices: npt.ArrayLike,
    *,
    format: str = "rows",
    unit: str | None = None,
    demand_unit: str | None = None,
) -> list[str]:
    """Write matrices ``(matrices, nodes, nodes)``, bit/s, to a file.

    Returns
    -------
    list of str
        What the format could not hold.
    """
    text, warnings = _te.matrices_text(network, matrices, format, unit=unit, demand_unit=demand_unit)
    Path(path).write_text(text, encoding="utf-8")
    return warnings


def select(
    network: Network, demands: npt.ArrayLike, *, count: int, selector: str = "quick"
) -> npt.NDArray[np.int64]:
    """Choose the pairs that should leave their shortest paths.

    Parameters
    ----------
    network
        Where the traffic flows.
    demands
        ``(nodes, nodes)``, bit/s.
    count
        Most pairs that are chosen; :meth:`Network.share_of_pairs` counts them.
    selector
        One of :func:`selectors`.

    Returns
    -------
    ndarray of int64
        Positions of pairs, best first; at most ``count``.
    """
    return _te.select(network, demands, count, selector)


class Evaluation:
    """How selectors compare on the same matrices.

    Attributes
    ----------
    names : list of str
        The arms, in the order asked for.
    count : int
        Most pairs that could be rerouted.
    optimal : ndarray of float64, shape (matrices,)
        Least possible maximum utilisation of each matrix played.
    bound : ndarray of float64, shape (matrices,) or (0,)
        Performance ratio that no choice of so many pairs can exceed; empty where it is not known.
    late : list of str
        Selectors for which there was no time.
    """

    def __init__(self, inner: _te.Evaluation) -> None:
        self._inner = inner
        self.names: list[str] = inner.names
        self.count: int = inner.count
        self.optimal: npt.NDArray[np.float64] = inner.optimal
        self.bound: npt.NDArray[np.float64] = inner.bound
        self.late: list[str] = inner.late

    def arm(self, name: str) -> dict[str, Any]:
        """Give all about one arm.

        Returns
        -------
        dict
            By matrix: ``performance_ratio`` (optimal over achieved utilisation, at most 1), ``selected_share`` and
            ``rerouted_share`` (of all traffic), ``selection_us`` (µs); ``changed_pairs`` from the second matrix on;
            ``delay_ratio`` where asked for. ``chosen``: ``(pair, times)``, most often first. ``fallbacks``: how often a
            trained arm left the choice to a plain one.
        """
        return self._inner.arm(name)

    def summary(self, name: str) -> tuple[float, float, float] | None:
        """Give the mean performance ratio with its interval of 95 %: ``(mean, low, high)``."""
        return self._inner.summary(name)

    def to_pandas(self) -> pandas.DataFrame:
        """Give one row per selector and matrix.

        Returns
        -------
        pandas.DataFrame
            Columns ``selector``, ``matrix``, ``optimal_max_utilization``, ``max_utilization``, ``performance_ratio``,
            ``selected_share``, ``rerouted_share``, ``selection_us``.
        """
        import pandas

        frames = []
        for name in self.names:
            arm = self._inner.arm(name)
            ratio = arm["performance_ratio"]
            frame = pandas.DataFrame({"selector": name, "matrix": np.arange(len(ratio))})
            frame["optimal_max_utilization"] = self.optimal
            frame["max_utilization"] = self.optimal / ratio
            for column in ("performance_ratio", "selected_share", "rerouted_share", "selection_us"):
                frame[column] = arm[column]
            frames.append(frame)
        return pandas.concat(frames, ignore_index=True)

    def __repr__(self) -> str:
        return f"Evaluation({', '.join(self.names)}; {len(self.optimal)} matrices)"

    def __str__(self) -> str:
        return self._inner.table()


def evaluate(
    network: Network,
    matrices: npt.ArrayLike,
    *,
    count: int,
    selectors: Sequence[str] = ("ecmp", "top-k", "top-k-critical", "quick"),
    trained: Mapping[str, Checkpoint] | None = None,
    history: int = 0,
    stale: bool = False,
    delay: bool = False,
    block: int = 12,
    fallback: bool = True,
    tolerance: float | None = None,
    deadline: timedelta | None = None,
) -> Evaluation:
    """Play selectors on matrices, without the interpreter's lock.

    Parameters
    ----------
    network
        Where the traffic flows.
    matrices
        ``(matrices, nodes, nodes)``, bit/s.
    count
        Most pairs that may be rerouted.
    selectors
        Names of :func:`selectors`.
    trained
        Checkpoints by the name of their arm.
    history
        The first so many matrices are history, on which a fixed set is found; the others are played.
    stale
        Choice and paths of one matrix are applied to the next.
    delay
        Compare end-to-end delay too.
    block
        Neighbouring matrices that are drawn together for intervals.
    fallback
        Whether trained selectors leave the choice to greedy relief outside the range of their training.
    tolerance
        Relative gap that is good enough; 0 is exact. ``None``: exact up to 100 nodes, 1e-4 beyond.
    deadline
        When to end with the matrices played by then.
    """
    arms = list((trained or {}).items())
    return Evaluation(
        _te.evaluate(
            network,
            matrices,
            count,
            list(selectors),
            history=history,
            stale=stale,
            delay=delay,
            block=block,
            fallback=fallback,
            tolerance=tolerance,
            deadline=deadline,
            trained=arms,
        )
    )


def to_networkx(network: Network) -> networkx.MultiDiGraph[str]:
    """Make a NetworkX graph: nodes by name with ``pos``, links in order with ``capacity`` (bit/s), ``weight``, ``delay_s``."""
    import networkx

    graph: networkx.MultiDiGraph[str] = networkx.MultiDiGraph()
    names = network.nodes
    for name, position in zip(names, network.positions, strict=True):
        graph.add_node(name, **({} if position is None else {"pos": tuple(position)}))
    columns = (network.tail, network.head, network.capacity, network.weight, network.delay_s)
    for link, (tail, head, capacity, weight, delay) in enumerate(zip(*columns, strict=True)):
        graph.add_edge(
            names[tail],
            names[head],
            key=link,
            capacity=float(capacity),
            weight=float(weight),
            delay_s=float(delay),
        )
    return graph


def from_networkx(
    graph: networkx.Graph[Any],
    *,
    capacity: str = "capacity",
    weight: str = "weight",
    delay: str = "delay_s",
    position: str = "pos",
    default_capacity: float | None = None,
) -> Network:
    """Make a network of a NetworkX graph.

    Undirected links become two, there and back, next to each other. Links with whole-number keys that
    :func:`to_networkx` gave keep their order.

    Parameters
    ----------
    graph
        Any kind; nodes are named by ``str``.
    capacity, weight, delay, position
        Names of attributes: bit/s, dimensionless (1 where missing), seconds (0), ``(x, y)`` (none).
    default_capacity
        bit/s of links without a capacity; ``None``: such a link is an error (``KeyError``).
    """
    nodes = list(graph.nodes)
    index = {node: at for at, node in enumerate(nodes)}
    positions = [graph.nodes[node].get(position) for node in nodes]
    if graph.is_multigraph():
        edges = [(key, tail, head, data) for tail, head, key, data in graph.edges(keys=True, data=True)]
        if all(isinstance(key, int) for key, *_ in edges) and len({key for key, *_ in edges}) == len(edges):
            edges.sort(key=lambda edge: edge[0])
    else:
        edges = [(at, tail, head, data) for at, (tail, head, data) in enumerate(graph.edges(data=True))]
    ends: list[tuple[int, int]] = []
    values: list[tuple[float, float, float]] = []
    for _, tail, head, data in edges:
        rate = data[capacity] if default_capacity is None else data.get(capacity, default_capacity)
        value = (float(rate), float(data.get(weight, 1.0)), float(data.get(delay, 0.0)))
        ends.append((index[tail], index[head]))
        values.append(value)
        if not graph.is_directed():
            ends.append((index[head], index[tail]))
            values.append(value)
    table = np.array(values, dtype=np.float64).reshape(-1, 3)
    return Network(
        [str(node) for node in nodes],
        [tail for tail, _ in ends],
        [head for _, head in ends],
        np.ascontiguousarray(table[:, 0]),
        weight=np.ascontiguousarray(table[:, 1]),
        delay_s=np.ascontiguousarray(table[:, 2]),
        positions=[None if place is None else (float(place[0]), float(place[1])) for place in positions],
    )
