"""Optimal splits over endpoints, and flows over the links of networks.

Arrays are NumPy's. A C-contiguous ``float64`` array is read where it lies, without a copy; anything else array-like is
converted first, which copies it. An array must not be written to while a call that reads it runs: solvers run without
the interpreter's lock, so several threads solve at the same time.

Endpoint problems
    :class:`EndpointProblem`, :class:`EndpointSolver`, :class:`EndpointSolution`, :func:`solvers`
Network problems
    :class:`NetworkSolver` (exact), :class:`LargeNetworkSolver` (hundreds of nodes, to a tolerance),
    :class:`FlowSolution`, :func:`concurrent_flow`, :func:`total_flow`, :func:`selection_bound`

Examples
--------
>>> from traflux import lp
>>> problem = lp.EndpointProblem([100.0], [100.0, 100.0], [[0.002, 0.080]], service_time_s=[0.02, 0.02], servers=[8, 8])
>>> problem.solve().shares.round(3)
array([[0.8, 0.2]])
"""

from __future__ import annotations

from traflux._traflux.lp import (
    EndpointProblem,
    EndpointSolution,
    EndpointSolver,
    FlowSolution,
    LargeNetworkSolver,
    NetworkSolver,
    concurrent_flow,
    selection_bound,
    solvers,
    total_flow,
)

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
