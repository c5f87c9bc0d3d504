"""Environments for reinforcement learning, as Gymnasium has them.

=============================================  ==================================================================
:class:`FleetEnv`, ``traflux/Fleet-v0``        a simulated multi-cloud fleet under the real controller
:class:`TrafficEngineeringEnv`,                a network: which pairs should leave their shortest paths, matrix by
``traflux/TrafficEngineering-v0``              matrix
:class:`FleetVectorEnv`,                       many of one kind, stepped side by side in Rust, on several threads,
:class:`TrafficEngineeringVectorEnv`           without the interpreter's lock
=============================================  ==================================================================

Observations are dictionaries of ``groups`` (groups, features) float32, ``context`` (features,) float32 and ``mask``
(groups,) int8: 1 where a group may be chosen. Groups that are not there have rows of zeros and a closed mask.
Equal seeds and actions give bit-equal episodes. No episode ends by its own rules: ``terminated`` is always false and
``truncated`` says that its length is over, so the last state still has a value. Environments can be pickled and copied;
the copy has to be reset.
"""

from __future__ import annotations

from gymnasium.envs.registration import register as _register
from gymnasium.envs.registration import registry as _registry

from traflux.envs._fleet import FleetEnv, FleetVectorEnv
from traflux.envs._network import TrafficEngineeringEnv, TrafficEngineeringVectorEnv

__all__ = ["FleetEnv", "FleetVectorEnv", "TrafficEngineeringEnv", "TrafficEngineeringVectorEnv"]

if "traflux/Fleet-v0" not in _registry:
    _register(
        id="traflux/Fleet-v0",
        entry_point="traflux.envs:FleetEnv",
        vector_entry_point="traflux.envs:FleetVectorEnv",
    )
    _register(
        id="traflux/TrafficEngineering-v0",
        entry_point="traflux.envs:TrafficEngineeringEnv",
        vector_entry_point="traflux.envs:TrafficEngineeringVectorEnv",
    )
