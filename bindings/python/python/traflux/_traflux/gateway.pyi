"""See `traflux.gateway`."""

import os
from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Any, ClassVar, Literal, Union, final

from typing_extensions import TypeAlias

__all__ = [
    "Client",
    "Denial",
    "Engine",
    "Forward",
    "Identities",
    "Later",
    "Limiter",
    "Plan",
    "Refuse",
    "Request",
    "Reservation",
    "UsageReader",
    "Wait",
]

_Text: TypeAlias = Union[str, bytes]
_Pairs: TypeAlias = Union[Mapping[str, str], Iterable[tuple[_Text, _Text]]]
_Source: TypeAlias = Union["Plan", str, Mapping[str, Any]]
_Outcome: TypeAlias = Union[str, int]
_Decision: TypeAlias = Union["Forward", "Wait", "Later", "Refuse"]

@final
class Plan:
    """What is decided for each request: rules, backends, limits, queues.

    Parameters
    ----------
    source
        YAML or JSON as text, or the same as a mapping.

    Raises
    ------
    ConfigError
        For text that cannot be read or a key that there is not, with its path.
    PlanError
        For values that contradict each other, with the path of the key.
    """

    def __new__(cls, source: _Source) -> Plan: ...
    @staticmethod
    def read(path: Union[str, os.PathLike[str]]) -> Plan:
        """Reads a file of YAML or JSON."""
    def to_dict(self) -> dict[str, Any]:
        """The plan as a mapping, with every default."""
    def to_json(self) -> str:
        """The plan as JSON, with every default."""
    def review(self) -> list[str]:
        """What is odd about it: rules that can never decide, backends without use."""
    @property
    def backends(self) -> list[str]:
        """Names of all backends, sorted."""
    def __eq__(self, other: object, /) -> bool: ...
    def __ne__(self, other: object, /) -> bool: ...

@final
class Client:
    """Who asks, as far as it was verified."""

    @property
    def tenant(self) -> str:
        """Whose limits and fair share it draws on."""
    @property
    def key(self) -> str:
        """Name of the API key, never the key."""
    @property
    def user(self) -> str:
        """End user."""
    @property
    def user_tier(self) -> str:
        """Tier."""
    def __eq__(self, other: object, /) -> bool: ...
    def __ne__(self, other: object, /) -> bool: ...

@final
class Identities:
    """The clients of a plan, by what their requests show."""

    def __new__(cls, plan: _Source) -> Identities: ...
    def resolve(self, headers: _Pairs, claims: _Pairs | None = None) -> Client | None:
        """Who sent these headers; `None` where the plan asks for a key and there is no valid one.

        `claims` are verified claims of a token. Both are mappings, or pairs of `str` or `bytes`.
        """

@final
class Request:
    """A request, as far as decisions look at it. Made once, decided about as often as you like.

    Parameters
    ----------
    method, host, path, query
        Of the HTTP request: the method in capitals, the host without port in lower case, the path without the query.
    headers, claims
        Mappings, or pairs of ``str`` or ``bytes`` as ASGI has them; claims only if they are verified.
    tenant, key, user, user_tier
        Who asks, as far as it is verified: `Identities` tells it from headers.
    model
        The model asked for; empty where there is none.
    input_tokens, output_tokens
        Tokens read, and the most tokens written. Budgets hold exactly where both are upper bounds.
    max_answer_tokens
        The most tokens of one answer, where the request says so.
    stream
        Whether the answer is asked for as a stream.
    idempotent
        Whether sending it twice does no harm; without it the method and the header ``idempotency-key`` tell.
    kind
        Such as ``"batch"``, for the bands of the queue.
    prompt
        Bytes whose beginning is compared to find caches of it.
    held_bytes
        Bytes that are held for it while it waits.
    deadline
        When an answer is of no more use, in seconds since 1970.
    body
        JSON of a call of a language model: model, tokens, stream and prompt are read from it where they are not given.
    """

    def __new__(
        cls,
        *,
        method: str = "GET",
        host: str = "",
        path: str = "/",
        query: str = "",
        headers: _Pairs | None = None,
        claims: _Pairs | None = None,
        tenant: str = "",
        key: str = "",
        user: str = "",
        user_tier: str = "",
        model: str = "",
        input_tokens: int | None = None,
        output_tokens: int | None = None,
        max_answer_tokens: int | None = None,
        stream: bool | None = None,
        idempotent: bool | None = None,
        kind: str = "",
        prompt: bytes | None = None,
        held_bytes: int = 0,
        deadline: float | None = None,
        body: bytes | None = None,
    ) -> Request: ...
    @property
    def method(self) -> str:
        """The method."""
    @property
    def path(self) -> str:
        """The path."""
    @property
    def model(self) -> str:
        """The model asked for; empty where there is none."""
    @property
    def tenant(self) -> str:
        """Whose limits it draws on."""
    @property
    def input_tokens(self) -> int:
        """Tokens read, as far as can be told before; an engine goes by `tokens` of its plan."""
    @property
    def output_tokens(self) -> int:
        """The most tokens written; an engine goes by `tokens` of its plan."""
    @property
    def stream(self) -> bool:
        """Whether the answer is asked for as a stream."""

@final
class Engine:
    """Decides for every request; shared by all threads.

    Parameters
    ----------
    plan
        A `Plan`, or what makes one: text or a mapping.
    seed
        Of all that is drawn at random, and of the hashes of key tables: secret where clients choose their keys.
    settings
        What a plan does not say, as a mapping: `EngineSettings` of the Rust crate. `seed` goes before it.
    now
        When it begins, in seconds since 1970. Every method takes `now`; without it a clock is read that starts with the
        time of day and never goes back. Give it to all calls or to none.
    """

    def __new__(
        cls,
        plan: _Source,
        *,
        seed: int | None = None,
        settings: Mapping[str, Any] | None = None,
        now: float | None = None,
    ) -> Engine: ...
    def decide(self, request: Request, *, now: float | None = None) -> _Decision:
        """Decides: a `Forward`, a `Wait`, a `Later` or a `Refuse`."""
    def decide_many(self, requests: Sequence[Request], *, now: float | None = None) -> list[_Decision]:
        """Decides about many at one moment, in their order; without the GIL."""
    def take_ready(self) -> tuple[tuple[int, int], _Decision] | None:
        """The next decision for somebody who waits, with the ticket of its `Wait`; `None` where there is none. Ask after
        every `finish` and after `upkeep`.
        """
    def explain(self, request: Request, *, now: float | None = None) -> str:
        """What `decide` would look at and what it would find, in words, without changing anything."""
    def metrics(self, *, openmetrics: bool = False, now: float | None = None) -> str:
        """The answer to a scrape of Prometheus: text format 0.0.4, or OpenMetrics 1.0.0."""
    def reload(
        self,
        plan: _Source,
        *,
        seed: int | None = None,
        settings: Mapping[str, Any] | None = None,
        now: float | None = None,
    ) -> None:
        """Puts another plan in force. Levels of limits that stay and everything in flight go on; where it raises, the old
        plan stays. Seed and settings as of the constructor; what is not given stays as it is in force.
        """
    def upkeep(self, *, now: float | None = None) -> None:
        """Does what time alone brings: call it a few times a second."""
    def set_weights(self, rule: str, weights: dict[str, int], *, now: float | None = None) -> None:
        """Takes weights, integers by name of backend, that a controller computed for a rule under ``adaptive``.

        Raises ``gateway_setting`` for a rule or backend that there is not.
        """
    @property
    def plan(self) -> Plan:
        """The plan in force."""
    def now(self) -> float:
        """Now by its clock, in seconds since 1970."""

@final
class Forward:
    """Send the request there, then say how it ended: `finish` or `retry`. One that is dropped counts as cancelled.

    A ``now`` is in seconds since 1970; without it the clock of the engine is read.
    """

    kind: ClassVar[Literal["forward"]]
    @property
    def backend(self) -> str:
        """Name of the backend."""
    @property
    def url(self) -> str:
        """Base URL of the endpoint; empty for a backend that is known by its name alone."""
    @property
    def rule(self) -> str:
        """Name of the rule."""
    @property
    def algorithm(self) -> str:
        """Name of the algorithm that chose."""
    @property
    def attempt(self) -> int:
        """Which attempt it is, from 1."""
    @property
    def send_after(self) -> timedelta:
        """How long to wait before sending: nothing at the first attempt, a random back-off at later ones."""
    @property
    def finished(self) -> bool:
        """Whether its end was told."""
    def age(self, *, now: float | None = None) -> timedelta:
        """How long the request has been here, queue and earlier attempts included."""
    def first_byte(self, *, now: float | None = None) -> None:
        """The first byte of the answer has come: the end of all trying again."""
    def pause(self, *, now: float | None = None) -> None:
        """Its stream is quiet: its place in flight goes to another until it resumes."""
    def resume(self) -> None:
        """Its stream goes on, and takes its place again, whether or not there is room."""
    def finish(
        self,
        outcome: _Outcome | None = None,
        *,
        input_tokens: int | None = None,
        output_tokens: int | None = None,
        cached_tokens: int = 0,
        headers: _Pairs | None = None,
        now: float | None = None,
    ) -> None:
        """Settles every limit with what was used.

        `outcome` is a name such as ``"success"``, or the HTTP status of the answer. Without tokens a success is settled
        as reserved, one that was sent in vain (``"cancelled"``, ``"timeout"``, ``"reset"``) as its prompt, any other
        failure as nothing. `headers` are those of the answer: what they say of the provider's limits counts. `now` is in
        seconds since 1970.
        """
    def retry(
        self,
        outcome: _Outcome,
        *,
        input_tokens: int | None = None,
        output_tokens: int | None = None,
        cached_tokens: int = 0,
        headers: _Pairs | None = None,
        now: float | None = None,
    ) -> _Decision:
        """Settles this attempt and, where the plan allows, finds a place for another: a `Forward`, a `Later`, or a
        `Refuse`. Arguments as of `finish`.
        """

@final
class Wait:
    """The request waits; `Engine.take_ready` calls its ticket when it goes on. Dropping it gives up its place.

    A ``now`` is in seconds since 1970; without it the clock of the engine is read.
    """

    kind: ClassVar[Literal["wait"]]
    @property
    def ticket(self) -> tuple[int, int]:
        """Its ticket, by which `Engine.take_ready` calls it."""
    @property
    def starts_in(self) -> timedelta | None:
        """When it is expected to go on, as of when it began to wait; `None` where nothing is known."""
    def position(self, *, now: float | None = None) -> int | None:
        """How many are before it now; `None` once it has left."""
    def cancel(self) -> None:
        """Gives up its place."""

@final
class Later:
    """The request has a turn under a limit: keep it for `after`, then let it `go_on`. Dropping it gives the turn back.

    A ``now`` is in seconds since 1970; without it the clock of the engine is read.
    """

    kind: ClassVar[Literal["later"]]
    @property
    def due(self) -> float:
        """When its turn comes, in seconds since 1970."""
    @property
    def rule(self) -> str:
        """Name of the rule."""
    @property
    def limit(self) -> str | None:
        """Name of the limit that it waits for."""
    def after(self, *, now: float | None = None) -> timedelta:
        """How long that is from now."""
    def go_on(self, *, now: float | None = None) -> _Decision:
        """What becomes of it once its turn has come: as a rule a `Forward`."""
    def cancel(self) -> None:
        """Gives the turn back."""

@final
class Refuse:
    """Answer the request yourself."""

    kind: ClassVar[Literal["refuse"]]
    @property
    def reason(self) -> str:
        """Why: a stable name such as ``"limited"``."""
    @property
    def status(self) -> int:
        """The HTTP status to answer with."""
    @property
    def rule(self) -> str | None:
        """The rule that decided, where one did."""
    @property
    def limit(self) -> str | None:
        """The limit that refused, for reasons of limits."""
    @property
    def retry_after(self) -> timedelta | None:
        """When it makes sense to come back; `None` where time alone does not help."""

@final
class Limiter:
    """Many limits and keys; a reservation takes from several of them, all or none.

    Parameters
    ----------
    settings
        ``{"scopes": [{"name", "max_keys"}], "limits": [{"name", "scope", "unit", "rule", "max_wait_ms"}]}``, where a
        unit is ``"requests"``, ``"input_tokens"``, ``"output_tokens"``, ``"total_tokens"`` or ``"pico_dollars"`` and a
        rule such as ``{"token_bucket": {"amount": 100, "period_ms": 1000, "burst": 100}}``.
    seed
        Of the hashes of key tables: secret where clients choose their keys.
    now
        When it begins, in seconds since 1970; of other calls, when they happen. Without it a clock is read.
    """

    def __new__(cls, settings: Mapping[str, Any], *, seed: int = 0, now: float | None = None) -> Limiter: ...
    def check(self, limit: str, key: str = "", units: int = 1, *, now: float | None = None) -> Denial | None:
        """Charges one limit for one key, finally. `None` where it was charged, else a `Denial`."""
    def reserve(
        self,
        limits: dict[str, str],
        *,
        requests: int = 1,
        input_tokens: int = 0,
        output_tokens: int = 0,
        pico_dollars: int = 0,
        now: float | None = None,
    ) -> Reservation | Denial:
        """Takes an estimate from all limits given, or from none: a `Reservation`, or a `Denial`.

        `limits` are keys by name of limit; the key of a limit without scope is not looked at.
        """
    def level(self, limit: str, key: str = "", *, now: float | None = None) -> tuple[int, int, int] | None:
        """How full a limit is for a key, in its unit: ``(limit, used, remaining)``; `None` for a key that there is not."""

@final
class Reservation:
    """What a request holds of its limits until it ends. One that is dropped is cancelled.

    A ``now`` is in seconds since 1970; without it the clock of the limiter is read.
    """

    def settle(
        self,
        *,
        requests: int | None = None,
        input_tokens: int | None = None,
        output_tokens: int | None = None,
        pico_dollars: int | None = None,
        now: float | None = None,
    ) -> None:
        """Replaces the estimate by what was used: gives back what is left, charges what is beyond as debt. What is not
        given was as estimated.
        """
    def cancel(self, *, now: float | None = None) -> None:
        """Gives everything back."""
    def keep(self) -> None:
        """Lets the estimate stand, where what was used is not known."""

@final
class Denial:
    """A limit has no room."""

    @property
    def limit(self) -> str:
        """Name of the limit; of several the one with the longest wait."""
    @property
    def code(self) -> str:
        """Why: ``"limit_wait"``, ``"limit_in_flight"``, ``"limit_too_large"``, ``"limit_stale_key"`` (no room for its key)
        or ``"limit_unknown"``.
        """
    @property
    def retry_after(self) -> timedelta | None:
        """When there is room if nothing else is charged; `None` where time alone does not help."""

@final
class UsageReader:
    """Reads tokens from the answer of a language model while it passes.

    `content_type` is that of the answer: JSON or server-sent events; of others nothing is read.
    """

    def __new__(cls, content_type: str) -> UsageReader: ...
    def push(self, chunk: bytes) -> None:
        """Takes in a piece of the body."""
    def usage(self) -> dict[str, int]:
        """What was found: the arguments of `Forward.finish` that say so; empty where the answer does not."""
