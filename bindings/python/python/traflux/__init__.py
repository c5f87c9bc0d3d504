"""Traffic control: request gateways, closed loops, networks, and environments to learn in.

Modules
-------
gateway
    Decide in the process which backend serves a request, now or later, and if none, why.
lp
    Optimal splits over endpoints and flows over networks.
te
    Networks, traffic matrices, paths and selectors.
envs
    Environments for reinforcement learning.
policy
    Checkpoints of policies.

Everything is computed by the Rust crates; arrays are NumPy's.
"""

from __future__ import annotations

from traflux._errors import (
    ActuateError,
    ConfigError,
    EncodeError,
    EstimateError,
    GatewayError,
    InputError,
    InternalPanic,
    NetworkError,
    ObserveError,
    PlanError,
    PolicyError,
    SimulationError,
    SolveError,
    StoreError,
    TopologyError,
    TrafluxError,
)
from traflux._traflux import __version__
from traflux._traflux.controller import Controller, Decision, Observation, Transition

__all__ = [
    "ActuateError",
    "ConfigError",
    "Controller",
    "Decision",
    "EncodeError",
    "EstimateError",
    "GatewayError",
    "InputError",
    "InternalPanic",
    "NetworkError",
    "Observation",
    "ObserveError",
    "PlanError",
    "PolicyError",
    "SimulationError",
    "SolveError",
    "StoreError",
    "TopologyError",
    "TrafluxError",
    "Transition",
    "__version__",
]
