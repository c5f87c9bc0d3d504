"""See `traflux.policy`."""

import os
from typing import Any

import numpy.typing as npt
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
    """See `traflux.policy.Policy`."""

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
    def count(self) -> int: ...
    @property
    def group_features(self) -> list[str]: ...
    @property
    def context_features(self) -> list[str]: ...
    @property
    def decisions(self) -> int: ...
    @property
    def fallbacks(self) -> int: ...
    def act(
        self, groups: npt.ArrayLike, context: npt.ArrayLike, mask: npt.ArrayLike | None
    ) -> dict[str, Any]: ...
