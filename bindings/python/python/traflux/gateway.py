"""Decide in the process which backend serves a request, now or later, and if none, why.

An `Engine` takes each `Request` through a `Plan`; the outcome is one of four objects, told apart by their class or by
``kind``: `Forward` (send it there, then ``finish``), `Wait` (the queue has it), `Later` (a limit gives it a turn) and
`Refuse` (answer it yourself). Times are seconds since 1970 as ``float``, durations `datetime.timedelta`.

>>> from traflux.gateway import Engine, Request
>>> engine = Engine({"routing": {"default": {"backend": ["near", "far"]}}})
>>> forward = engine.decide(Request(path="/v1/chat"))
>>> forward.backend in ("near", "far")
True
>>> forward.finish("success")
"""

from __future__ import annotations

from typing import Union

from traflux._traflux.gateway import (
    Client,
    Denial,
    Engine,
    Forward,
    Identities,
    Later,
    Limiter,
    Plan,
    Refuse,
    Request,
    Reservation,
    UsageReader,
    Wait,
)

Decision = Union[Forward, Wait, Later, Refuse]
"""What comes of a request."""

__all__ = [
    "Client",
    "Decision",
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
