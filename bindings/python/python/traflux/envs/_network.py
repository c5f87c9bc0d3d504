"""A network whose pairs are chosen."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from gymnasium import spaces

from traflux import te
from traflux._errors import InputError
from traflux._traflux.envs import Environments, Series
from traflux.envs._base import ManyEnv, SingleEnv


def _actions(groups: int, count: int, action: str) -> spaces.Space[Any]:
    if action == "pairs":
        return spaces.MultiDiscrete(np.full(count, groups))
    if action == "scores":
        return spaces.Box(-1.0, 1.0, (groups,), np.float32)
    raise InputError(f"action is {action!r}, expected 'pairs' or 'scores'", "input_value")


def _played(inner: Environments, action: str, actions: Any) -> dict[str, Any]:
    if action == "pairs":
        return inner.step_groups(np.ascontiguousarray(actions, dtype=np.int64))
    return inner.step_scores(np.ascontiguousarray(actions, dtype=np.float32))


class _Problem:
    """A network with its matrices and how they are played; the arguments of both classes."""

    def __init__(
        self,
        network: te.Network | None,
        matrices: npt.ArrayLike | None,
        count: int | None,
        steps: int,
        action: str,
        worth: str,
        disturbance_price: float,
        stale: bool,
        start: int,
        stop: int | None,
    ) -> None:
        if network is None:
            network = te.backbone(nodes=10, seed=1)
        if matrices is None:
            mean = te.traffic(network, "lognormal", mean=1e9, sigma=1.0, seed=2)
            matrices = te.diurnal(mean, 288, seed=3)
        self.series = Series(network, matrices)
        self.network = network
        self.count = network.share_of_pairs(0.1) if count is None else count
        self.action = action
        last = len(self.series) - int(stale)
        self.settings: dict[str, Any] = {
            "choose": self.count,
            "start": start,
            "stop": last if stop is None else stop,
            "steps": steps,
            "worth": worth,
            "disturbance_price": disturbance_price,
            "stale": stale,
        }

    def make(self, environments: int, threads: int, auto_reset: bool) -> Environments:
        return Environments.network(
            self.series, count=environments, threads=threads, auto_reset=auto_reset, **self.settings
        )


class TrafficEngineeringEnv(SingleEnv):
    """Traffic matrices of a network, one after the other: which pairs should leave their shortest paths?

    What is chosen is rerouted by a linear program over all paths; everything else takes its shortest paths evenly. The
    reward is what that is worth, less the disturbance. An episode begins at a matrix that the seed decides and goes
    around the end.

    Parameters
    ----------
    network
        Where the traffic flows; ``None``: a small generated backbone.
    matrices
        ``(matrices, nodes, nodes)``, bit/s, row = source; ``None``: a generated day. They are copied once.
    count
        ``K``, most pairs that are chosen; ``None``: 10 % of all.
    steps
        Length of an episode.
    action
        ``"pairs"``: ``(K,)`` positions of pairs, of which one named twice counts once. ``"scores"``: ``(pairs,)`` float32
        from -1 to 1, of which the ``K`` highest of open pairs are chosen.
    worth
        ``"performance_ratio"``: optimal over achieved maximum utilisation, at most 1. ``"inverse_utilization"``: one
        over the achieved one.
    disturbance_price
        What is taken off for all traffic being chosen; in proportion for a part of it.
    stale
        Whether choice and paths meet the next matrix instead of the one they were made for.
    start, stop
        The matrices that are played.
    """

    def __init__(
        self,
        *,
        network: te.Network | None = None,
        matrices: npt.ArrayLike | None = None,
        count: int | None = None,
        steps: int = 64,
        action: str = "pairs",
        worth: str = "performance_ratio",
        disturbance_price: float = 0.0,
        stale: bool = False,
        start: int = 0,
        stop: int | None = None,
    ) -> None:
        super().__init__(
            network=network,
            matrices=matrices,
            count=count,
            steps=steps,
            action=action,
            worth=worth,
            disturbance_price=disturbance_price,
            stale=stale,
            start=start,
            stop=stop,
        )
        self.action_space = _actions(self._inner.groups, self._problem.count, self._problem.action)

    def _make(self, environments: int, threads: int, auto_reset: bool, **arguments: Any) -> Environments:
        self._problem = _Problem(**arguments)
        return self._problem.make(environments, threads, auto_reset)

    def _play(self, action: Any) -> dict[str, Any]:
        return _played(self._inner, self._problem.action, np.asarray(action)[None])

    @property
    def network(self) -> te.Network:
        """The network."""
        return self._problem.network

    @property
    def count(self) -> int:
        """``K``, most pairs that are chosen."""
        return self._problem.count


class TrafficEngineeringVectorEnv(ManyEnv):
    """Many :class:`TrafficEngineeringEnv` on the same matrices, stepped side by side.

    Parameters
    ----------
    num_envs
        How many.
    threads
        On so many threads; what comes out does not depend on it.
    network, matrices, count, steps, action, worth, disturbance_price, stale, start, stop
        As of :class:`TrafficEngineeringEnv`; ``matrices`` are ``(matrices, nodes, nodes)``, bit/s.
    """

    def __init__(
        self,
        num_envs: int = 1,
        *,
        threads: int = 1,
        network: te.Network | None = None,
        matrices: npt.ArrayLike | None = None,
        count: int | None = None,
        steps: int = 64,
        action: str = "pairs",
        worth: str = "performance_ratio",
        disturbance_price: float = 0.0,
        stale: bool = False,
        start: int = 0,
        stop: int | None = None,
    ) -> None:
        super().__init__(
            num_envs,
            threads,
            network=network,
            matrices=matrices,
            count=count,
            steps=steps,
            action=action,
            worth=worth,
            disturbance_price=disturbance_price,
            stale=stale,
            start=start,
            stop=stop,
        )

    def _make(self, environments: int, threads: int, auto_reset: bool, **arguments: Any) -> Environments:
        self._problem = _Problem(**arguments)
        return self._problem.make(environments, threads, auto_reset)

    def _actions(self) -> spaces.Space[Any]:
        return _actions(self._inner.groups, self._problem.count, self._problem.action)

    def _play(self, actions: Any) -> dict[str, Any]:
        return _played(self._inner, self._problem.action, actions)

    @property
    def network(self) -> te.Network:
        """The network."""
        return self._problem.network

    @property
    def count(self) -> int:
        """``K``, most pairs that are chosen."""
        return self._problem.count
