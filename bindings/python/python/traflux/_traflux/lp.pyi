"""See `traflux.lp`."""

from datetime import timedelta
from typing import Any

import numpy as np
import numpy.typing as npt
from traflux._traflux.te import Network
from typing_extensions import final

__all__ = [
    "EndpointProblem",
    "EndpointSolution",
    "EndpointSolver",
    "FlowSolution",
    "LargeNetworkSolver",
    "NetworkSolver",
    "concurrent_flow",
    "selection_bound",
    "solvers",
    "total_flow",
]

@final
class EndpointProblem:
    """A question to an endpoint solver: which share of each flow goes to each resource?

    Parameters
    ----------
    demand_rps
        ``(flows,)``, requests/s to plan for, headroom included.
    capacity_rps
        ``(resources,)``, requests/s; 0: nothing fits.
    delay_s
        ``(flows, resources)``, seconds that no load changes; infinite or NaN: there is no such route.
    price_usd
        ``(flows, resources)``, dollars per request.
    previous
        ``(flows, resources)``, shares in force, from which churn is counted; even unless given.
    lower, upper
        ``(flows, resources)``, bounds of shares; 0 and 1 unless given.
    background_rps
        ``(resources,)``, load that no flow here controls.
    service_time_s, servers
        ``(resources,)``, seconds of a request at no load and requests served at a time: the latency curve. Without
        ``service_time_s`` load slows nothing.
    domains
        ``(resources,)``, what fails together has equal numbers.
    flows, resources
        Names for explanations.
    deadline
        Time limit of the solver.
    route_costs
        The literal ``min max share * cost`` with the cost of each route in route order, instead of the two stages.
    **objective
        ``max_utilization`` (0.8), ``slack`` (0.02), ``seconds_per_dollar`` (0), ``churn_seconds`` (0), ``tangents``
        (13), ``budget_per_hour``, ``survive_domain_loss``.

    Notes
    -----
    Arrays are read once, where they lie, into the records of the solver; the problem does not refer to them later.
    """

    def __new__(
        cls,
        demand_rps: npt.ArrayLike,
        capacity_rps: npt.ArrayLike,
        delay_s: npt.ArrayLike,
        *,
        price_usd: npt.ArrayLike | None = None,
        previous: npt.ArrayLike | None = None,
        lower: npt.ArrayLike | None = None,
        upper: npt.ArrayLike | None = None,
        background_rps: npt.ArrayLike | None = None,
        service_time_s: npt.ArrayLike | None = None,
        servers: npt.ArrayLike | None = None,
        domains: list[int] | None = None,
        flows: list[str] | None = None,
        resources: list[str] | None = None,
        deadline: timedelta = ...,
        route_costs: list[float] | None = None,
        **objective: Any,
    ) -> EndpointProblem: ...
    @property
    def shape(self) -> tuple[int, int]:
        """``(flows, resources)``."""
    def solve(self, solver: str = "transport") -> EndpointSolution:
        """Solve with the solver of a name, see :func:`solvers`."""

@final
class EndpointSolver:
    """A solver that is kept between problems; it can be used from any thread."""

    def __new__(cls, name: str = "transport") -> EndpointSolver: ...
    @property
    def name(self) -> str:
        """Its name."""
    def solve(self, problem: EndpointProblem) -> EndpointSolution:
        """Solve one problem without the interpreter's lock."""

@final
class EndpointSolution:
    """The answer of an endpoint solver."""

    @property
    def shares(self) -> npt.NDArray[np.float64]:
        """``(flows, resources)``: share of each flow; rows sum to 1, 0 where there is no route."""
    @property
    def loads_rps(self) -> npt.NDArray[np.float64]:
        """``(resources,)``: requests/s, background included."""
    @property
    def capacity_duals(self) -> npt.NDArray[np.float64]:
        """``(resources,)``: seconds of total delay per second that one more request/s of the cap would save; ≥ 0."""
    @property
    def demand_duals(self) -> npt.NDArray[np.float64]:
        """``(flows,)``: seconds of total delay per second that one more request/s of demand costs."""
    @property
    def reduced_costs(self) -> npt.NDArray[np.float64]:
        """``(flows, resources)``: seconds per request worse than the best movable route; NaN where there is no route."""
    @property
    def budget_dual(self) -> float:
        """Seconds that one dollar of budget would save; 0 where it does not bind."""
    @property
    def status(self) -> str:
        """``"optimal"``, ``"gap"``, ``"overloaded"`` (demand exceeds capacity) or ``"no_demand"``."""
    @property
    def gap(self) -> float:
        """Relative gap where the deadline passed, else 0."""
    @property
    def max_utilization(self) -> float:
        """The least possible maximum utilisation, above 1 where demand exceeds capacity."""
    @property
    def objective(self) -> float:
        """Seconds of delay per second of the second stage; of the literal form, its maximum."""
    @property
    def softened(self) -> list[str]:
        """Constraints that could not be met, in words."""
    @property
    def iterations(self) -> int:
        """Pivots."""
    @property
    def solver(self) -> str:
        """Name of the solver."""
    def explain(self) -> list[str]:
        """Say why the split is as it is, the costliest first."""

@final
class NetworkSolver:
    """An exact solver that is kept for a sequence of problems on one network.

    It starts from the optimum before where only demands and background have changed. Calls from several threads take
    turns; a solver for each thread runs side by side.
    """

    def __new__(cls, network: Network) -> NetworkSolver: ...
    def forget(self) -> None:
        """Start the next problem from scratch, so that nothing in it depends on those before."""
    def solve(
        self,
        demands: npt.ArrayLike,
        *,
        pairs: npt.ArrayLike | None = None,
        background: npt.ArrayLike | None = None,
        prefer: str | None = None,
        deadline: timedelta | None = None,
    ) -> FlowSolution:
        """Minimise the maximum link utilisation over all paths, without the interpreter's lock.

        Parameters
        ----------
        demands
            ``(nodes, nodes)``, bit/s, row = source; a C-contiguous float64 array is not copied.
        pairs
            ``(pairs,)``: the pairs that are free, others take their shortest paths evenly. ``None``: all.
        background
            ``(links,)``, bit/s that stay where they are.
        prefer
            Among flows of the same maximum: ``"delay"`` or ``"least_rerouted"``; ``None``: any.
        deadline
            When it passes, the flows at hand are given with the gap proven so far.
        """

@final
class LargeNetworkSolver:
    """A solver for hundreds of nodes, to a tolerance.

    Parameters
    ----------
    network
        Where the traffic flows.
    tolerance
        Relative gap that is good enough.
    threads
        Threads that look for paths; more than 4 are not used.
    """

    def __new__(
        cls, network: Network, *, tolerance: float = 1e-4, threads: int = 1
    ) -> LargeNetworkSolver: ...
    def solve(
        self,
        demands: npt.ArrayLike,
        *,
        pairs: npt.ArrayLike | None = None,
        deadline: timedelta | None = None,
    ) -> FlowSolution:
        """Minimise the maximum link utilisation.

        ``demands`` ``(nodes, nodes)``, bit/s, and the others as of :meth:`NetworkSolver.solve`.
        """

@final
class FlowSolution:
    """Flows with a proof of how good they are."""

    @property
    def max_utilization(self) -> float:
        """Maximum link utilisation of these flows."""
    @property
    def lower_bound(self) -> float:
        """No flows can have a lower maximum link utilisation."""
    @property
    def gap(self) -> float:
        """Relative gap: ``(max_utilization - lower_bound) / max_utilization``."""
    @property
    def status(self) -> str:
        """``"optimal"``, ``"deadline"`` or ``"stalled"``."""
    @property
    def loads(self) -> npt.NDArray[np.float64]:
        """``(links,)``: bit/s, background included."""
    @property
    def link_prices(self) -> npt.NDArray[np.float64]:
        """``(links,)``: what the maximum falls by for each bit/s taken off a link; they prove the bound."""
    @property
    def ends(self) -> npt.NDArray[np.int64]:
        """``(commodities, 2)``: source and target of each demand that was free."""
    @property
    def demand(self) -> npt.NDArray[np.float64]:
        """``(commodities,)``: bit/s."""
    @property
    def base_share(self) -> npt.NDArray[np.float64]:
        """``(commodities,)``: fraction that stays on its shortest paths; 0 unless rerouting is to be least."""
    @property
    def paths(self) -> list[list[tuple[float, list[int]]]]:
        """By commodity: ``(share, links)`` of each of its paths; shares and ``base_share`` sum to 1."""
    @property
    def iterations(self) -> int:
        """Pivots."""

def concurrent_flow(network: Network, demands: npt.ArrayLike, *, deadline: timedelta | None = None) -> float:
    """Say by which factor all demands can grow together until they just fit; ``demands`` ``(nodes, nodes)``, bit/s."""

def total_flow(network: Network, demands: npt.ArrayLike, *, deadline: timedelta | None = None) -> float:
    """Say how much of the demands fits at most, bit/s; ``demands`` ``(nodes, nodes)``, bit/s."""

def selection_bound(
    network: Network, demands: npt.ArrayLike, count: int, *, deadline: timedelta | None = None
) -> float:
    """Give a maximum utilisation that no choice of ``count`` pairs can go below.

    ``demands``: ``(nodes, nodes)``, bit/s; copied.
    """

def solvers() -> list[str]:
    """Names of the solvers of endpoint problems, the default first."""
