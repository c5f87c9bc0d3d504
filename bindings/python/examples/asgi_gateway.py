"""An ASGI middleware that lets an engine decide about each request.

The application behind it finds the decision in ``scope["traflux"]`` and sends the request to ``forward.url``. When its
answer has ended, every limit is settled with the tokens that the answer says were used. Requests that have to wait do
so without holding a thread; those that are refused are answered here, with ``Retry-After``.

Run it beside any ASGI server, for example ``uvicorn asgi_gateway:app``.
"""

from __future__ import annotations

import asyncio
import json
import math
from typing import Any

from traflux.gateway import Engine, Forward, Identities, Later, Plan, Refuse, Request, UsageReader, Wait


class Gateway:
    """Asks an engine before it calls an application."""

    def __init__(self, app: Any, plan: Any, *, longest_body: int = 1 << 20) -> None:
        self.app = app
        plan = plan if isinstance(plan, Plan) else Plan(plan)
        self.engine = Engine(plan)
        self.identities = Identities(plan)
        self.longest_body = longest_body
        self._waiting: dict[tuple[int, int], asyncio.Future[Any]] = {}
        self._upkeep: asyncio.Task[None] | None = None

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        if self._upkeep is None or self._upkeep.done():
            self._upkeep = asyncio.ensure_future(self._keep_up())
        if scope["path"] == "/metrics":
            return await answer(send, 200, self.engine.metrics().encode(), "text/plain; version=0.0.4")
        body = await self._read(receive)
        if body is None:
            return await answer(send, 413, b'{"error": "body_too_large"}', "application/json")
        client = self.identities.resolve(scope["headers"])
        if client is None:
            return await answer(send, 401, b'{"error": "key_required"}', "application/json")
        request = Request(
            method=scope["method"],
            path=scope["path"],
            query=scope.get("query_string", b"").decode("latin-1"),
            headers=scope["headers"],
            tenant=client.tenant,
            key=client.key,
            user_tier=client.user_tier,
            held_bytes=len(body),
            body=body if body.lstrip()[:1] == b"{" else None,
        )
        decision = await self._settled(self.engine.decide(request))
        if isinstance(decision, Refuse):
            wait = decision.retry_after
            headers = [] if wait is None else [(b"retry-after", str(math.ceil(wait.total_seconds())).encode())]
            said = json.dumps({"error": decision.reason, "message": str(decision)}).encode()
            return await answer(send, decision.status, said, "application/json", headers)
        await self._forward(decision, scope, body, receive, send)

    async def _forward(self, forward: Forward, scope: dict[str, Any], body: bytes, receive: Any, send: Any) -> None:
        status, headers, usage = 500, None, UsageReader("")
        body_is_read = False

        async def receive_again() -> dict[str, Any]:
            nonlocal body_is_read
            if body_is_read:
                return await receive()
            body_is_read = True
            return {"type": "http.request", "body": body, "more_body": False}

        async def send_on(message: dict[str, Any]) -> None:
            nonlocal status, headers, usage
            if message["type"] == "http.response.start":
                status, headers = message["status"], list(message.get("headers", []))
                kinds = [value for name, value in headers if name.lower() == b"content-type"]
                usage = UsageReader(kinds[0].decode("latin-1") if kinds else "")
            elif message["type"] == "http.response.body" and message.get("body"):
                forward.first_byte()
                usage.push(message["body"])
            await send(message)

        outcome: int | str = "cancelled"
        try:
            await self.app({**scope, "traflux": forward}, receive_again, send_on)
            outcome = status
        except asyncio.CancelledError:
            raise
        except Exception:
            outcome = "reset"
            raise
        finally:
            forward.finish(outcome, headers=headers, **usage.usage())
            self._call_ready()

    async def _settled(self, decision: Forward | Wait | Later | Refuse) -> Forward | Refuse:
        """Waits until it is known where the request goes, or that it does not."""
        while True:
            if isinstance(decision, Later):
                await asyncio.sleep(decision.after().total_seconds())
                decision = decision.go_on()
            elif isinstance(decision, Wait):
                # Whoever is cancelled here drops `decision`, and so gives up its place.
                ticket, turn = decision.ticket, asyncio.get_running_loop().create_future()
                self._waiting[ticket] = turn
                try:
                    self._call_ready()
                    decision = await turn
                finally:
                    self._waiting.pop(ticket, None)
            else:
                return decision

    def _call_ready(self) -> None:
        """Tells those who wait and whose turn it is."""
        while (ready := self.engine.take_ready()) is not None:
            ticket, decision = ready
            turn = self._waiting.pop(ticket, None)
            # One that has left lets go of its place: the decision is dropped.
            if turn is not None and not turn.done():
                turn.set_result(decision)

    async def _keep_up(self) -> None:
        while True:
            await asyncio.sleep(0.1)
            self.engine.upkeep()
            self._call_ready()

    async def _read(self, receive: Any) -> bytes | None:
        body, more = b"", True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
            if len(body) > self.longest_body:
                return None
        return body


async def answer(send: Any, status: int, body: bytes, kind: str, headers: Any = ()) -> None:
    """Sends a whole answer."""
    head = [(b"content-type", kind.encode()), (b"content-length", str(len(body)).encode()), *headers]
    await send({"type": "http.response.start", "status": status, "headers": head})
    await send({"type": "http.response.body", "body": body})


async def backend(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Stands for what sends requests on: says where it would, and what it used."""
    forward = scope["traflux"]
    said = {"backend": forward.backend, "usage": {"prompt_tokens": 10, "completion_tokens": 5}}
    await answer(send, 200, json.dumps(said).encode(), "application/json")


app = Gateway(
    backend,
    """
    backends:
      near: { url: http://127.0.0.1:9001 }
      far: { url: http://127.0.0.1:9002 }
    routing: { default: { backend: [near, far], algorithm: least-latency } }
    limits:
      - { name: requests per second, unit: requests, amount: 100, period_ms: 1000 }
    """,
)
