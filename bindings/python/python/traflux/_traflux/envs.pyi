"""See `traflux.envs`."""

from typing import Any

import numpy as np
import numpy.typing as npt
from traflux._traflux.te import Network
from typing_extensions import final

__all__ = [
    "Environments",
    "Series",
]

@final
class Series:
    """Matrices of one network in the order of time, each with its optimum.

    Parameters
    ----------
    network
        Where the traffic flows.
    matrices
        ``(matrices, nodes, nodes)``, bit/s; copied. Each is solved for its optimum, without the interpreter's lock.
    """

    def __new__(cls, network: Network, matrices: npt.ArrayLike) -> Series: ...
    def __len__(self) -> int: ...
    @property
    def optimal(self) -> npt.NDArray[np.float64]:
        """``(matrices,)``: least possible maximum utilisation of each matrix."""

@final
class Environments:
    """Environments of one kind, stepped together."""

    @staticmethod
    def network(
        series: Series,
        *,
        count: int,
        choose: int,
        start: int,
        stop: int,
        steps: int,
        worth: str,
        disturbance_price: float,
        stale: bool,
        threads: int,
        auto_reset: bool,
    ) -> Environments:
        """A network whose pairs are chosen."""
    @staticmethod
    def fleet(
        *,
        count: int,
        scenario: str | None,
        random: dict[str, Any] | None,
        fidelity: str,
        threads: int,
        auto_reset: bool,
    ) -> Environments:
        """A simulated fleet under the real controller."""
    def __len__(self) -> int: ...
    @property
    def groups(self) -> int:
        """Rows of an observation."""
    @property
    def group_features(self) -> list[str]:
        """Names of the features of a group."""
    @property
    def context_features(self) -> list[str]:
        """Names of the features of the whole."""
    def reset(self, seeds: list[int]) -> dict[str, npt.NDArray[Any]]:
        """Begins an episode in every environment: observations, ``groups`` ``(environments, groups, features)`` and ``context``
        ``(environments, features)`` float32, ``mask`` ``(environments, groups)`` int8.
        """
    def reset_some(self, seeds: list[int | None]) -> dict[str, npt.NDArray[Any]]:
        """Begins an episode where there is a seed: observations as of ``reset``, ``(environments, ...)``; rows of the others
        are zero.
        """
    def step_groups(self, chosen: npt.NDArray[np.int64]) -> dict[str, Any]:
        """Steps with lists of groups, ``(environments, chosen)``; a group named twice counts once."""
    def step_scores(self, scores: npt.NDArray[np.float32]) -> dict[str, Any]:
        """Steps with scores of groups, ``(environments, groups)``: the highest of the open ones are chosen."""
    def step_fleet(
        self,
        critical: npt.NDArray[np.int8],
        headroom: npt.NDArray[np.float64],
        multipliers: npt.NDArray[np.float64],
    ) -> dict[str, Any]:
        """Steps with what a fleet's policy decides: which groups may move ``(environments, groups)``, headroom
        ``(environments,)`` and cost multipliers ``(environments, groups)``.
        """
