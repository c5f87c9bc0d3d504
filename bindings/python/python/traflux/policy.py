"""Trained policies: read a checkpoint, act on an observation.

Examples
--------
>>> import numpy as np
>>> from traflux import policy
>>> checkpoint = policy.Checkpoint.shipped()
>>> actor = policy.Policy(checkpoint, count=2)
>>> groups = np.zeros((4, len(checkpoint.group_features)), dtype=np.float32)
>>> action = actor.act(groups, np.zeros(len(checkpoint.context_features), dtype=np.float32))
>>> len(action["critical"]) <= 2
True
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from traflux._traflux.controller import Observation
from traflux._traflux.policy import Checkpoint
from traflux._traflux.policy import Policy as _Policy

__all__ = ["Checkpoint", "Policy", "load"]


class Policy:
    """A trained policy that acts; it can be used from any thread, and as the ``policy`` of a :class:`traflux.Controller`.

    Parameters
    ----------
    checkpoint
        Who acts.
    count
        Most groups that are chosen; ``None``: as many as it was trained to choose.
    seed
        Draw actions at random from this seed, for exploration; ``None``: the most probable action, always.
    margin
        How far outside the range of its training an input may be, in spans of that range.
    fallback
        Whether a plain policy acts outside that range.
    """

    #: A controller holds its action for a whole step (dead time and window), as its training did.
    holds = True

    def __init__(
        self,
        checkpoint: Checkpoint,
        *,
        count: int | None = None,
        seed: int | None = None,
        margin: float = 0.5,
        fallback: bool = True,
    ) -> None:
        self._inner = _Policy(checkpoint, count=count, seed=seed, margin=margin, fallback=fallback)
        self.checkpoint = checkpoint

    @property
    def count(self) -> int:
        """Most groups that are chosen."""
        return self._inner.count

    @property
    def group_features(self) -> list[str]:
        """Names of the columns of ``groups``."""
        return self._inner.group_features

    @property
    def context_features(self) -> list[str]:
        """Names of the entries of ``context``."""
        return self._inner.context_features

    @property
    def decisions(self) -> int:
        """How many decisions were taken."""
        return self._inner.decisions

    @property
    def fallbacks(self) -> int:
        """How many of them were the plain policy's."""
        return self._inner.fallbacks

    def act(
        self,
        groups: npt.ArrayLike | Mapping[str, Any] | Observation,
        context: npt.ArrayLike | None = None,
        mask: npt.ArrayLike | None = None,
    ) -> dict[str, Any]:
        """Choose.

        Parameters
        ----------
        groups
            ``(groups, features)``, float32; or an observation of :mod:`traflux.envs` or of :class:`traflux.Controller` with
            all three. Of a controller's, which may have more features, it sees those that it was made for.
        context
            ``(context features,)``, float32.
        mask
            ``(groups,)``: which may be chosen; ``None``: all.

        Returns
        -------
        dict
            ``critical``: int64, at most :attr:`count` positions, best first. ``headroom``: float. ``cost_multipliers``:
            ``(groups,)`` float64. ``log_probability``: float. ``value``: float or ``None``.
        """
        if isinstance(groups, Observation):
            return self._inner.act_on(groups)
        if isinstance(groups, Mapping):
            given: Mapping[str, Any] = groups
            return self._inner.act(given["groups"], given["context"], given["mask"])
        if context is None:
            context = np.zeros(0, dtype=np.float32)
        return self._inner.act(groups, context, mask)


def load(path: str | os.PathLike[str], **options: Any) -> Policy:
    """Read a checkpoint that ``traflux train`` or ``traflux te train`` wrote; options as of :class:`Policy`."""
    return Policy(Checkpoint.load(os.fspath(path)), **options)
