"""See `traflux`."""

from collections.abc import Awaitable, Mapping, Sequence
from datetime import timedelta
from typing import Any, Literal, Protocol, Union, final

import numpy as np
from numpy.typing import NDArray
from typing_extensions import TypeAlias

__all__ = [
    "Controller",
    "Decision",
    "Observation",
    "Transition",
]

_Mapping: TypeAlias = Mapping[str, Any]
_Action: TypeAlias = Union[Sequence[int], Sequence[str], NDArray[np.integer[Any]], _Mapping]

class _Source(Protocol):
    def collect(self, topology: dict[str, Any], at: float, window_s: float, /) -> _Mapping | Awaitable[_Mapping]: ...

class _Policy(Protocol):
    def act(self, observation: Observation, /) -> _Action | Awaitable[_Action]: ...

class _Reward(Protocol):
    def reward(
        self, before: dict[str, Any], after: dict[str, Any], /
    ) -> float | Mapping[str, float] | Awaitable[float]: ...

class _Estimator(Protocol):
    def estimate(
        self, topology: dict[str, Any], telemetry: dict[str, Any], estimate: dict[str, Any], /
    ) -> _Mapping | Awaitable[_Mapping]: ...

class _Actuator(Protocol):
    def apply(self, plan: dict[str, Any], /) -> Any: ...

class _Recorder(Protocol):
    def record(self, transition: Transition, /) -> Any: ...

@final
class Controller:
    """Once around the loop per tick: observe, estimate, act, optimise, guard, control, learn.

    Parameters
    ----------
    config
        What an operator writes, as YAML, JSON or a mapping: sources, services with their endpoints, objective, control,
        policy. ``metrics`` may be left out, for measurements come from `source`.
    source
        ``collect(topology, at, window_s)`` gives telemetry: see `docs/python.md`.
    policy
        ``act(observation)`` gives an action: the groups that may move, by index or name, or a mapping; such as a
        `traflux.policy.Policy`. One whose attribute ``holds`` is true is asked once a step. Without a policy it is what
        ``policy`` of the configuration says.
    reward
        ``reward(before, after)`` gives a number or a mapping of terms. With it, or with a recorder, the policy is asked
        once a step (dead time and window of the configuration), so that a reward belongs to one action.
    estimator
        ``estimate(topology, telemetry, estimate)`` gives what the built-in estimator gave, changed.
    actuator
        ``apply(plan)`` puts weights in force; without one they are to be read from the decisions.
    recorder
        ``record(transition)`` takes a learning step.
    deadline
        How long any of these may take, in seconds or as a `timedelta`. One that takes longer has failed for this tick.
    mode
        ``"none"``, ``"frozen"``, ``"learning"`` or ``"shadow"``; without it ``policy.mode`` of the configuration. Where that
        is ``"none"``, a policy that is given runs ``"learning"`` with a recorder, ``"frozen"`` without.

    Solver and guard are always those of Rust: they keep a stage that is wrong from doing harm.
    """

    def __new__(
        cls,
        config: str | _Mapping,
        *,
        source: _Source,
        policy: _Policy | None = None,
        reward: _Reward | None = None,
        estimator: _Estimator | None = None,
        actuator: _Actuator | None = None,
        recorder: _Recorder | None = None,
        deadline: float | timedelta | None = None,
        mode: Literal["none", "frozen", "learning", "shadow"] | None = None,
    ) -> Controller: ...
    def tick(self, *, now: float | None = None) -> Decision:
        """Goes once around the loop, without the GIL. Never raises for what a stage does: what failed is in the decision,
        and what it was to change is held. `now` is in seconds since 1970; without it a clock is read.
        """
    def tick_async(self, *, now: float | None = None) -> Awaitable[Decision]:
        """The same beside an event loop: an awaitable. Stages whose methods are ``async`` run in that loop, others in
        threads of their own.
        """
    @property
    def topology(self) -> dict[str, Any]:
        """What is controlled: flows, routes, resources and groups with their names, as a mapping."""
    def set_frozen(self, frozen: bool) -> None:
        """Stops moving traffic, or moves it again; decisions go on."""
    def learning(self) -> list[tuple[str, int]]:
        """What became of learning steps, by name."""

@final
class Decision:
    """What was decided in a tick, and why."""

    @property
    def tick(self) -> int:
        """Number of the tick, from 1."""
    @property
    def at(self) -> float:
        """When, in seconds since 1970."""
    @property
    def rung(self) -> str:
        """Where the ladder of failure stands: ``"normal"``, ``"hold"``, ``"alarm"`` or ``"ramp"``."""
    @property
    def failures(self) -> list[tuple[str, str, str]]:
        """Stages that failed: ``(stage, code, message)``."""
    @property
    def warnings(self) -> list[str]:
        """What the source wants known."""
    @property
    def acted(self) -> bool:
        """Whether the policy took a new action."""
    @property
    def pushed(self) -> bool:
        """Whether a plan was pushed."""
    @property
    def churn(self) -> float:
        """Fraction of traffic moved."""
    @property
    def plan_version(self) -> str:
        """Version of the plan."""
    @property
    def reward(self) -> float | None:
        """The last reward paid, dimensionless; `None` before the first."""
    @property
    def explanation(self) -> list[str]:
        """Why the split is as it is, in words."""
    @property
    def shares(self) -> dict[str, dict[str, float]]:
        """Shares in force: ``{flow: {endpoint: share}}``."""
    @property
    def weights(self) -> dict[str, dict[str, int]]:
        """Weights sent: ``{flow: {endpoint: weight}}``."""
    def to_dict(self) -> dict[str, Any]:
        """All of it, as a mapping."""

@final
class Observation:
    """What a policy sees."""

    @property
    def groups(self) -> NDArray[np.float32]:
        """Features of the groups: ``float32``, shape ``(groups, features)``. A copy."""
    @property
    def context(self) -> NDArray[np.float32]:
        """Features of the whole: ``float32``, shape ``(features,)``. A copy."""
    @property
    def mask(self) -> NDArray[np.bool_]:
        """Which groups may be chosen: ``bool``, shape ``(groups,)``. A copy."""
    @property
    def group_names(self) -> list[str]:
        """Names of the groups, in the order of the rows."""
    @property
    def group_features(self) -> list[str]:
        """Names of the features of a group, in the order of the columns."""
    @property
    def context_features(self) -> list[str]:
        """Names of the features of the whole."""

@final
class Transition:
    """One learning step: the action that was held, what it led to, and what it earned."""

    @property
    def observation(self) -> Observation:
        """The state in which the action was taken."""
    @property
    def next_observation(self) -> Observation:
        """The state after it."""
    @property
    def critical(self) -> list[int]:
        """Indices of the groups that were chosen, best first."""
    @property
    def log_probability(self) -> float:
        """Logarithm of the action's probability, as the policy said."""
    @property
    def value(self) -> float | None:
        """The critic's value, dimensionless as rewards are, where the policy said one."""
    @property
    def reward(self) -> float:
        """What the step earned, dimensionless."""
    @property
    def reward_terms(self) -> list[tuple[str, float]]:
        """Its terms by name, dimensionless."""
    @property
    def terminated(self) -> bool:
        """Whether the episode ended by its own rules."""
    @property
    def truncated(self) -> bool:
        """Whether the episode was cut off."""
