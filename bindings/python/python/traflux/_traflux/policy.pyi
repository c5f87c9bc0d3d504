"""See `traflux.policy`."""

import os
from typing import Any

import numpy.typing as npt
from traflux._traflux.controller import Observation
from typing_extensions import final

__all__ = [
    "Checkpoint",
    "Policy",
]

@final
class Checkpoint:
    """A trained policy in a file, with everything needed to use it rightly."""

    @staticmethod
    def load(path: str | os.PathLike[str]) -> Checkpoint:
        """Read and check a file that ``traflux train`` or ``traflux te train`` wrote."""
    @staticmethod
    def from_bytes(data: bytes) -> Checkpoint:
        """Read and check the bytes of a file."""
    @staticmethod
    def shipped() -> Checkpoint:
        """The fleet policy that comes with the program."""
    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the file and rename it into place."""
    def to_bytes(self) -> bytes:
        """The bytes of the file; equal checkpoints have equal ones."""
    @property
    def group_features(self) -> list[str]:
        """Names of the features of a group, in the order of columns."""
    @property
    def context_features(self) -> list[str]:
        """Names of the features of the whole, in order."""
    @property
    def critical(self) -> int:
        """Most groups that it was trained to choose."""
    @property
    def command(self) -> str:
        """The command that trained it."""
    @property
    def seed(self) -> int:
        """Its seed."""
    @property
    def steps(self) -> int:
        """Environment steps that it learned from."""
    def __reduce__(self) -> Any: ...

@final
class Policy:
    """A policy that acts."""

    def __new__(
        cls,
        checkpoint: Checkpoint,
        *,
        count: int | None = None,
        seed: int | None = None,
        margin: float = 0.5,
        fallback: bool = True,
    ) -> Policy: ...
    @property
    def count(self) -> int:
        """Most groups that are chosen."""
    @property
    def group_features(self) -> list[str]:
        """Names of the columns of ``groups``."""
    @property
    def context_features(self) -> list[str]:
        """Names of the entries of ``context``."""
    @property
    def decisions(self) -> int:
        """How many decisions were taken."""
    @property
    def fallbacks(self) -> int:
        """How many of them were the plain policy's."""
    def act(
        self, groups: npt.ArrayLike, context: npt.ArrayLike, mask: npt.ArrayLike | None
    ) -> dict[str, Any]:
        """Chooses for one observation: ``groups`` ``(groups, features)`` and ``context`` ``(features,)`` float32, ``mask``
        ``(groups,)`` bool.
        """
    def act_on(self, observation: Observation) -> dict[str, Any]:
        """Chooses for an observation of a `Controller`, of which it sees the features that it was made for: as ``act``."""
