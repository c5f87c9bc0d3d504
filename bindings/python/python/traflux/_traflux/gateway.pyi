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
    def __new__(cls, source: _Source) -> Plan: ...
    @staticmethod
    def read(path: Union[str, os.PathLike[str]]) -> Plan: ...
    def to_dict(self) -> dict[str, Any]: ...
    def to_json(self) -> str: ...
    def review(self) -> list[str]: ...
    @property
    def backends(self) -> list[str]: ...
    def __eq__(self, other: object, /) -> bool: ...
    def __ne__(self, other: object, /) -> bool: ...

@final
class Client:
    @property
    def tenant(self) -> str: ...
    @property
    def key(self) -> str: ...
    @property
    def user(self) -> str: ...
    @property
    def user_tier(self) -> str: ...
    def __eq__(self, other: object, /) -> bool: ...
    def __ne__(self, other: object, /) -> bool: ...

@final
class Identities:
    def __new__(cls, plan: _Source) -> Identities: ...
    def resolve(self, headers: _Pairs, claims: _Pairs | None = None) -> Client | None: ...

@final
class Request:
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
    def method(self) -> str: ...
    @property
    def path(self) -> str: ...
    @property
    def model(self) -> str: ...
    @property
    def tenant(self) -> str: ...
    @property
    def input_tokens(self) -> int: ...
    @property
    def output_tokens(self) -> int: ...
    @property
    def stream(self) -> bool: ...

@final
class Engine:
    def __new__(
        cls,
        plan: _Source,
        *,
        seed: int | None = None,
        settings: Mapping[str, Any] | None = None,
        now: float | None = None,
    ) -> Engine: ...
    def decide(self, request: Request, *, now: float | None = None) -> _Decision: ...
    def decide_many(self, requests: Sequence[Request], *, now: float | None = None) -> list[_Decision]: ...
    def take_ready(self) -> tuple[tuple[int, int], _Decision] | None: ...
    def explain(self, request: Request, *, now: float | None = None) -> str: ...
    def metrics(self, *, openmetrics: bool = False, now: float | None = None) -> str: ...
    def reload(
        self,
        plan: _Source,
        *,
        seed: int | None = None,
        settings: Mapping[str, Any] | None = None,
        now: float | None = None,
    ) -> None: ...
    def upkeep(self, *, now: float | None = None) -> None: ...
    def set_weights(self, rule: str, weights: dict[str, int], *, now: float | None = None) -> None: ...
    @property
    def plan(self) -> Plan: ...
    def now(self) -> float: ...

@final
class Forward:
    kind: ClassVar[Literal["forward"]]
    @property
    def backend(self) -> str: ...
    @property
    def url(self) -> str: ...
    @property
    def rule(self) -> str: ...
    @property
    def algorithm(self) -> str: ...
    @property
    def attempt(self) -> int: ...
    @property
    def send_after(self) -> timedelta: ...
    @property
    def finished(self) -> bool: ...
    def age(self, *, now: float | None = None) -> timedelta: ...
    def first_byte(self, *, now: float | None = None) -> None: ...
    def pause(self, *, now: float | None = None) -> None: ...
    def resume(self) -> None: ...
    def finish(
        self,
        outcome: _Outcome | None = None,
        *,
        input_tokens: int | None = None,
        output_tokens: int | None = None,
        cached_tokens: int = 0,
        headers: _Pairs | None = None,
        now: float | None = None,
    ) -> None: ...
    def retry(
        self,
        outcome: _Outcome,
        *,
        input_tokens: int | None = None,
        output_tokens: int | None = None,
        cached_tokens: int = 0,
        headers: _Pairs | None = None,
        now: float | None = None,
    ) -> _Decision: ...

@final
class Wait:
    kind: ClassVar[Literal["wait"]]
    @property
    def ticket(self) -> tuple[int, int]: ...
    @property
    def starts_in(self) -> timedelta | None: ...
    def position(self, *, now: float | None = None) -> int | None: ...
    def cancel(self) -> None: ...

@final
class Later:
    kind: ClassVar[Literal["later"]]
    @property
    def due(self) -> float: ...
    @property
    def rule(self) -> str: ...
    @property
    def limit(self) -> str | None: ...
    def after(self, *, now: float | None = None) -> timedelta: ...
    def go_on(self, *, now: float | None = None) -> _Decision: ...
    def cancel(self) -> None: ...

@final
class Refuse:
    kind: ClassVar[Literal["refuse"]]
    @property
    def reason(self) -> str: ...
    @property
    def status(self) -> int: ...
    @property
    def rule(self) -> str | None: ...
    @property
    def limit(self) -> str | None: ...
    @property
    def retry_after(self) -> timedelta | None: ...

@final
class Limiter:
    def __new__(cls, settings: Mapping[str, Any], *, seed: int = 0, now: float | None = None) -> Limiter: ...
    def check(self, limit: str, key: str = "", units: int = 1, *, now: float | None = None) -> Denial | None: ...
    def reserve(
        self,
        limits: dict[str, str],
        *,
        requests: int = 1,
        input_tokens: int = 0,
        output_tokens: int = 0,
        pico_dollars: int = 0,
        now: float | None = None,
    ) -> Reservation | Denial: ...
    def level(self, limit: str, key: str = "", *, now: float | None = None) -> tuple[int, int, int] | None: ...

@final
class Reservation:
    def settle(
        self,
        *,
        requests: int | None = None,
        input_tokens: int | None = None,
        output_tokens: int | None = None,
        pico_dollars: int | None = None,
        now: float | None = None,
    ) -> None: ...
    def cancel(self, *, now: float | None = None) -> None: ...
    def keep(self) -> None: ...

@final
class Denial:
    @property
    def limit(self) -> str: ...
    @property
    def code(self) -> str: ...
    @property
    def retry_after(self) -> timedelta | None: ...

@final
class UsageReader:
    def __new__(cls, content_type: str) -> UsageReader: ...
    def push(self, chunk: bytes) -> None: ...
    def usage(self) -> dict[str, int]: ...
