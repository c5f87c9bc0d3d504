"""A simulated fleet."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces

from traflux._traflux.envs import Environments
from traflux.envs._base import ManyEnv, SingleEnv


def _actions(groups: int) -> spaces.Dict:
    return spaces.Dict(
        {
            "critical": spaces.MultiBinary(groups),
            "headroom": spaces.Box(0.0, 1.0, (1,), np.float64),
            "cost_multipliers": spaces.Box(0.5, 2.0, (groups,), np.float64),
        }
    )


def _make(
    environments: int,
    threads: int,
    auto_reset: bool,
    scenario: str | None,
    random: dict[str, Any] | None,
    fidelity: str,
) -> Environments:
    return Environments.fleet(
        count=environments,
        scenario=scenario,
        random=random,
        fidelity=fidelity,
        threads=threads,
        auto_reset=auto_reset,
    )


class FleetEnv(SingleEnv):
    """A simulated multi-cloud fleet under the real controller.

    One step holds one action for a learning step of the loop (dead time and window, 20 s to 80 s of virtual time), in
    which estimators, solver and guard of production tick every control interval. The reward is minus the cost per request:
    latency, errors, price and churn, whose terms are in ``info``.

    An action is a dictionary of ``critical`` (groups,) 0 or 1: which endpoints may move; ``headroom`` (1,): the solver
    plans for ``demand * (1 + headroom)``; ``cost_multipliers`` (groups,): a factor on the latency of each.

    Parameters
    ----------
    scenario
        Name of a built-in scenario (``"demo"``, ``"flash"``, …) or the YAML text of one; the seed then changes the
        requests. ``None``: another fleet, load and set of faults for each seed.
    random
        What may be drawn where there is no scenario: ``duration_s``, ``endpoints``, ``sources``, ``utilization``,
        ``fleet_rps``, ``events`` (pairs of least and most), ``scrape_intervals_s`` (list).
    fidelity
        ``"requests"``: every request is simulated. ``"fluid"``: rates second by second, many times faster.
    """

    def __init__(
        self, *, scenario: str | None = None, random: dict[str, Any] | None = None, fidelity: str = "requests"
    ) -> None:
        super().__init__(scenario=scenario, random=random, fidelity=fidelity)
        self.action_space = _actions(self._inner.groups)

    def _make(self, environments: int, threads: int, auto_reset: bool, **arguments: Any) -> Environments:
        return _make(environments, threads, auto_reset, **arguments)

    def _play(self, action: Any) -> dict[str, Any]:
        return self._inner.step_fleet(
            np.asarray(action["critical"], dtype=np.int8)[None],
            np.asarray(action["headroom"], dtype=np.float64).reshape(1),
            np.asarray(action["cost_multipliers"], dtype=np.float64)[None],
        )


class FleetVectorEnv(ManyEnv):
    """Many :class:`FleetEnv`, stepped side by side.

    Parameters
    ----------
    num_envs
        How many.
    threads
        On so many threads; what comes out does not depend on it.
    scenario, random, fidelity
        As of :class:`FleetEnv`.
    """

    def __init__(
        self,
        num_envs: int = 1,
        *,
        threads: int = 1,
        scenario: str | None = None,
        random: dict[str, Any] | None = None,
        fidelity: str = "requests",
    ) -> None:
        super().__init__(num_envs, threads, scenario=scenario, random=random, fidelity=fidelity)

    def _make(self, environments: int, threads: int, auto_reset: bool, **arguments: Any) -> Environments:
        return _make(environments, threads, auto_reset, **arguments)

    def _actions(self) -> spaces.Space[Any]:
        return _actions(self._inner.groups)

    def _play(self, actions: Any) -> dict[str, Any]:
        return self._inner.step_fleet(
            np.ascontiguousarray(actions["critical"], dtype=np.int8),
            np.ascontiguousarray(actions["headroom"], dtype=np.float64).reshape(self.num_envs),
            np.ascontiguousarray(actions["cost_multipliers"], dtype=np.float64),
        )
