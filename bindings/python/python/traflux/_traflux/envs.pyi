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
    """Matrices of one network in the order of time, each with its optimum."""

    def __new__(cls, network: Network, matrices: npt.ArrayLike) -> Series: ...
    def __len__(self) -> int: ...
    @property
    def optimal(self) -> npt.NDArray[np.float64]: ...

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
    ) -> Environments: ...
    @staticmethod
    def fleet(
        *,
        count: int,
        scenario: str | None,
        random: dict[str, Any] | None,
        fidelity: str,
        threads: int,
        auto_reset: bool,
    ) -> Environments: ...
    def __len__(self) -> int: ...
    @property
    def groups(self) -> int: ...
    @property
    def group_features(self) -> list[str]: ...
    @property
    def context_features(self) -> list[str]: ...
    def reset(self, seeds: list[int]) -> dict[str, npt.NDArray[Any]]: ...
    def reset_some(self, seeds: list[int | None]) -> dict[str, npt.NDArray[Any]]: ...
    def step_groups(self, chosen: npt.NDArray[np.int64]) -> dict[str, Any]: ...
    def step_scores(self, scores: npt.NDArray[np.float32]) -> dict[str, Any]: ...
    def step_fleet(
        self,
        critical: npt.NDArray[np.int8],
        headroom: npt.NDArray[np.float64],
        multipliers: npt.NDArray[np.float64],
    ) -> dict[str, Any]: ...
