"""See `traflux.te`."""

import os
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import numpy as np
import numpy.typing as npt
from traflux._traflux.policy import Checkpoint
from typing_extensions import final

__all__ = [
    "Evaluation",
    "Network",
    "NetworkFile",
    "diurnal",
    "evaluate",
    "formats",
    "generate_network",
    "matrices_text",
    "network_text",
    "read_matrices",
    "read_network",
    "reroute",
    "scaled",
    "select",
    "selectors",
    "traffic",
]

@final
class Network:
    """A directed network; parallel links are allowed.

    Parameters
    ----------
    nodes
        Unique names, or how many.
    tail, head
        ``(links,)``: positions of the nodes that each link joins.
    capacity
        ``(links,)``, bit/s, positive.
    weight
        ``(links,)``, of the routing protocol, dimensionless, positive; 1 unless given.
    delay_s
        ``(links,)``, seconds of propagation; 0 unless given.
    positions
        ``(nodes,)``: ``(x, y)`` or ``None`` for each, such as longitude and latitude in degrees.
    """

    def __new__(
        cls,
        nodes: Sequence[str] | int,
        tail: Sequence[int] | npt.NDArray[np.integer[Any]],
        head: Sequence[int] | npt.NDArray[np.integer[Any]],
        capacity: npt.ArrayLike,
        *,
        weight: npt.ArrayLike | None = None,
        delay_s: npt.ArrayLike | None = None,
        positions: Sequence[tuple[float, float] | None] | None = None,
    ) -> Network: ...
    @property
    def nodes(self) -> list[str]:
        """Names of the nodes."""
    @property
    def positions(self) -> list[list[float] | None]:
        """Where the nodes are, as far as it is known."""
    @property
    def node_count(self) -> int:
        """How many nodes there are."""
    @property
    def link_count(self) -> int:
        """How many links there are."""
    @property
    def pair_count(self) -> int:
        """How many pairs there are: ``nodes * (nodes - 1)``."""
    @property
    def tail(self) -> npt.NDArray[np.int64]:
        """``(links,)``: where each link starts."""
    @property
    def head(self) -> npt.NDArray[np.int64]:
        """``(links,)``: where each link ends."""
    @property
    def capacity(self) -> npt.NDArray[np.float64]:
        """``(links,)``: bit/s."""
    @property
    def weight(self) -> npt.NDArray[np.float64]:
        """``(links,)``: weight of the routing protocol."""
    @property
    def delay_s(self) -> npt.NDArray[np.float64]:
        """``(links,)``: seconds."""
    @property
    def pairs(self) -> npt.NDArray[np.int64]:
        """``(pairs, 2)``: source and target of each pair."""
    def pair(self, pair: int) -> tuple[int, int]:
        """Source and target of a pair."""
    def pair_index(self, source: int, target: int) -> int:
        """Position of a pair."""
    def node_index(self, name: str) -> int:
        """Position of a node."""
    def share_of_pairs(self, share: float) -> int:
        """How many pairs a share of all is, rounded down, at least 1 for a positive share."""
    def ecmp_loads(self, demands: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """``(links,)``, bit/s, when all pairs take their shortest paths evenly; ``demands`` ``(nodes, nodes)``, bit/s."""
    def max_utilization(self, loads: npt.ArrayLike) -> float:
        """Load over capacity at its greatest; ``loads`` ``(links,)``, bit/s."""
    def shortest_paths(
        self, source: int, target: int, k: int, *, lengths: list[float] | None = None
    ) -> list[tuple[float, list[int]]]:
        """The ``k`` shortest loopless paths: ``(length, links)``; by weight, or by ``lengths`` of links."""
    def disjoint_paths(
        self, source: int, target: int, limit: int, *, lengths: list[float] | None = None
    ) -> list[tuple[float, list[int]]]:
        """As many link-disjoint paths as there are, ``limit`` at most, of the least total length."""
    def without_links(self, links: list[int]) -> Network:
        """The same network without some of its links."""
    def __eq__(self, other: object, /) -> bool: ...
    def __ne__(self, other: object, /) -> bool: ...
    def __reduce__(self) -> Any: ...

@final
class NetworkFile:
    """What a file says about a network."""

    @property
    def network(self) -> Network:
        """Nodes and links."""
    @property
    def demands(self) -> npt.NDArray[np.float64] | None:
        """``(nodes, nodes)``, bit/s, where the same file has some."""
    @property
    def name(self) -> str | None:
        """Name of the network, where the file has one."""
    @property
    def format(self) -> str:
        """The format it was in."""
    @property
    def warnings(self) -> list[str]:
        """What was read in a way its author may not have meant."""

@final
class Evaluation:
    """How selectors compare on matrices."""

    @property
    def names(self) -> list[str]:
        """Names of the arms, in the order asked for."""
    @property
    def count(self) -> int:
        """Most pairs that could be rerouted."""
    @property
    def optimal(self) -> npt.NDArray[np.float64]:
        """``(matrices,)``: least possible maximum utilisation of each matrix played."""
    @property
    def bound(self) -> npt.NDArray[np.float64]:
        """``(matrices,)``: performance ratio that no choice of so many pairs can exceed; ``(0,)`` where it is not known."""
    @property
    def late(self) -> list[str]:
        """Selectors for which there was no time."""
    def arm(self, name: str) -> dict[str, Any]:
        """Everything about one arm, by matrix."""
    def summary(self, name: str) -> tuple[float, float, float] | None:
        """Mean of the performance ratio with its interval of 95 %; `None` without matrices."""
    def table(self) -> str:
        """The table that the command line prints."""

def formats() -> list[str]:
    """Names of the formats of files."""

def read_network(
    path: str | os.PathLike[str],
    *,
    format: str | None = None,
    unit: str | None = None,
    demand_unit: str | None = None,
    default_capacity: float | None = None,
    default_weight: float = 1.0,
    directed: bool | None = None,
) -> NetworkFile:
    """Read a network from a file of any format of :func:`formats`.

    Parameters
    ----------
    path
        The file.
    format
        ``None``: name and content of the file tell.
    unit, demand_unit
        Unit of rates (``"kbit/s"``, ``"Gbit/s"``, …) instead of what the file or its format says.
    default_capacity
        bit/s of links for which the file says none; ``None``: such a link is an error.
    default_weight
        Weight of links for which the file says none.
    directed
        Whether a link leads one way only; ``None``: as the file or its format says.
    """

def read_matrices(
    path: str | os.PathLike[str],
    network: Network,
    *,
    format: str | None = None,
    unit: str | None = None,
    demand_unit: str | None = None,
) -> npt.NDArray[np.float64]:
    """Read demands for a network: ``(matrices, nodes, nodes)``, bit/s."""

def network_text(
    network: Network,
    format: str,
    *,
    demands: npt.ArrayLike | None = None,
    unit: str | None = None,
    demand_unit: str | None = None,
    name: str | None = None,
) -> tuple[str, list[str]]:
    """The text of a network, and what it could not hold; ``demands`` ``(nodes, nodes)``, bit/s, are copied."""

def matrices_text(
    network: Network,
    matrices: npt.ArrayLike,
    format: str,
    *,
    unit: str | None = None,
    demand_unit: str | None = None,
) -> tuple[str, list[str]]:
    """The text of matrices, and what it could not hold; ``matrices`` ``(matrices, nodes, nodes)``, bit/s, are copied."""

def generate_network(kind: str, seed: int, options: dict[str, Any]) -> Network:
    """A network of a kind: ring, grid, full_mesh, waxman or backbone, with the options of that kind."""

def traffic(
    network: Network, model: str, count: int, seed: int, options: dict[str, Any]
) -> npt.NDArray[np.float64]:
    """Independent matrices of a model: ``(count, nodes, nodes)``, bit/s."""

def diurnal(
    mean: npt.ArrayLike, count: int, seed: int, time_zones_of: Network | None, options: dict[str, Any]
) -> npt.NDArray[np.float64]:
    """Matrices one after the other that follow a mean ``(nodes, nodes)`` through days and weeks: ``(count, nodes, nodes)``,
    bit/s.
    """

def scaled(
    network: Network, matrices: npt.ArrayLike, utilization: float, over: str
) -> npt.NDArray[np.float64]:
    """Matrices ``(matrices, nodes, nodes)``, bit/s, scaled so that the maximum utilisation under shortest paths becomes a
    target.
    """

def selectors() -> list[str]:
    """Names of the selectors that need neither history nor training."""

def select(network: Network, demands: npt.ArrayLike, count: int, selector: str) -> npt.NDArray[np.int64]:
    """The pairs that a selector chooses for one matrix ``(nodes, nodes)``, bit/s: ``(pairs,)`` positions, best first."""

def reroute(network: Network, demands: npt.ArrayLike, pairs: npt.ArrayLike) -> dict[str, Any]:
    """Say what becomes of a matrix when these pairs leave their shortest paths and move as little as they can.

    Parameters
    ----------
    network
        Where the traffic flows.
    demands
        ``(nodes, nodes)``, bit/s; copied.
    pairs
        ``(pairs,)``: positions of the pairs that may leave.

    Returns
    -------
    dict
        ``max_utilization``, ``ecmp_max_utilization`` (nobody leaves), ``optimal_max_utilization`` (all may),
        ``rerouted_share`` of all traffic, and ``loads`` ``(links,)`` in bit/s.
    """

def evaluate(
    network: Network,
    matrices: npt.ArrayLike,
    count: int,
    selectors: list[str],
    *,
    history: int,
    stale: bool,
    delay: bool,
    block: int,
    fallback: bool,
    tolerance: float | None,
    deadline: timedelta | None,
    trained: list[tuple[str, Checkpoint]],
) -> Evaluation:
    """Play selectors on matrices ``(matrices, nodes, nodes)``, bit/s; they are copied."""
