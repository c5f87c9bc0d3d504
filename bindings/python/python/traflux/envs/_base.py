"""What environments of both kinds share: around `traflux._traflux.envs.Environments`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, SupportsFloat, cast

import gymnasium
import numpy as np
import numpy.typing as npt
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from traflux._traflux.envs import Environments

Observation = dict[str, npt.NDArray[Any]]

#: Seeds are drawn below this.
SEEDS = 2**63 - 1


def observation_space(inner: Environments) -> spaces.Dict:
    """Shape of one observation."""
    groups, features = inner.groups, len(inner.group_features)
    return spaces.Dict(
        {
            "groups": spaces.Box(-np.inf, np.inf, (groups, features), np.float32),
            "context": spaces.Box(-np.inf, np.inf, (len(inner.context_features),), np.float32),
            "mask": spaces.MultiBinary(groups),
        }
    )


def observed(played: dict[str, Any]) -> Observation:
    """The tensors among what a step gives."""
    return {name: played[name] for name in ("groups", "context", "mask")}


class SingleEnv(gymnasium.Env[Observation, Any]):
    """One environment."""

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012

    def __init__(self, **arguments: Any) -> None:
        self._arguments = arguments
        self.render_mode = None
        self._inner = self._make(environments=1, threads=1, auto_reset=False, **arguments)
        self.observation_space = cast("spaces.Space[Observation]", observation_space(self._inner))

    def _make(self, environments: int, threads: int, auto_reset: bool, **arguments: Any) -> Environments:
        raise NotImplementedError

    def _play(self, action: Any) -> dict[str, Any]:
        raise NotImplementedError

    @property
    def group_features(self) -> list[str]:
        """Names of the columns of ``groups``."""
        return self._inner.group_features

    @property
    def context_features(self) -> list[str]:
        """Names of the entries of ``context``."""
        return self._inner.context_features

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Begin an episode.

        Parameters
        ----------
        seed
            Decides everything of the episode; ``None``: the next one of the generator that the last seed began.
        options
            Not used.
        """
        super().reset(seed=seed)
        drawn = seed if seed is not None else int(self.np_random.integers(SEEDS))
        played = self._inner.reset([drawn])
        return {name: array[0] for name, array in played.items()}, {}

    def step(self, action: Any) -> tuple[Observation, SupportsFloat, bool, bool, dict[str, Any]]:
        """Apply an action for one learning step.

        Returns
        -------
        tuple
            Observation, reward, ``terminated`` (always false), ``truncated`` (the length of the episode is over), and
            the terms of the reward by name.
        """
        played = self._play(action)
        observation = {name: array[0] for name, array in observed(played).items()}
        info = {name: float(values[0]) for name, values in played["terms"].items()}
        reward = float(played["reward"][0])
        return observation, reward, bool(played["terminated"][0]), bool(played["truncated"][0]), info

    def __getstate__(self) -> dict[str, Any]:
        return self._arguments

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]


class ManyEnv(VectorEnv[Observation, Any, npt.NDArray[Any]]):
    """Environments of one kind, stepped side by side."""

    metadata: dict[str, Any] = {"autoreset_mode": AutoresetMode.NEXT_STEP}  # noqa: RUF012

    def __init__(self, num_envs: int, threads: int, **arguments: Any) -> None:
        self._arguments = {"num_envs": num_envs, "threads": threads, **arguments}
        self.num_envs = num_envs
        self.render_mode = None
        self._inner = self._make(environments=num_envs, threads=threads, auto_reset=True, **arguments)
        self.single_observation_space = observation_space(self._inner)
        self.single_action_space = self._actions()
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)

    def _make(self, environments: int, threads: int, auto_reset: bool, **arguments: Any) -> Environments:
        raise NotImplementedError

    def _actions(self) -> spaces.Space[Any]:
        raise NotImplementedError

    def _play(self, actions: Any) -> dict[str, Any]:
        raise NotImplementedError

    @property
    def group_features(self) -> list[str]:
        """Names of the columns of ``groups``."""
        return self._inner.group_features

    @property
    def context_features(self) -> list[str]:
        """Names of the entries of ``context``."""
        return self._inner.context_features

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Begin an episode in every environment.

        Parameters
        ----------
        seed
            One for each; a single one counts up: environment ``i`` has ``seed + i``. ``None``: drawn.
        options
            Not used.
        """
        if isinstance(seed, int | np.integer):
            super().reset(seed=int(seed))
            seeds: list[int | None] = [int(seed) + at for at in range(self.num_envs)]
        elif seed is None:
            seeds = [None] * self.num_envs
        else:
            seeds = list(seed)
        drawn = [int(self.np_random.integers(SEEDS)) if one is None else one for one in seeds]
        return self._inner.reset(drawn), {}

    def step(
        self, actions: Any
    ) -> tuple[Observation, npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any], dict[str, Any]]:
        """Apply an action to each environment, without the interpreter's lock.

        One whose episode is over begins another instead, with reward 0; its action is not looked at.

        Returns
        -------
        tuple
            Observations ``(environments, …)``, rewards ``(environments,)`` float64, ``terminated`` and ``truncated``
            ``(environments,)`` bool, and the terms of the rewards by name, ``(environments,)`` each.
        """
        played = self._play(actions)
        return observed(played), played["reward"], played["terminated"], played["truncated"], played["terms"]

    def __getstate__(self) -> dict[str, Any]:
        return self._arguments

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]
