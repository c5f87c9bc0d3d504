"""The example of an ASGI middleware, called as a server calls it."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import pathlib

import pytest

EXAMPLE = pathlib.Path(__file__).parents[1] / "examples" / "asgi_gateway.py"


@pytest.fixture
def example():
    spec = importlib.util.spec_from_file_location("asgi_gateway", EXAMPLE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


async def ask(app, path="/v1/chat", body=b"{}", headers=()):
    sent = []
    scope = {"type": "http", "method": "POST", "path": path, "query_string": b"", "headers": list(headers)}

    async def receive():
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message):
        sent.append(message)

    await app(scope, receive, send)
    text = b"".join(message.get("body", b"") for message in sent[1:])
    return sent[0]["status"], dict(sent[0]["headers"]), text


def test_a_request_goes_to_a_backend_and_is_counted(example):
    async def go():
        status, _, body = await ask(example.app)
        return status, json.loads(body), await ask(example.app, "/metrics")

    status, body, (_, _, metrics) = asyncio.run(go())
    assert status == 200 and body["backend"] in ("near", "far")
    assert f'requests_total{{backend="{body["backend"]}",model="",outcome="success"}} 1'.encode() in metrics


def test_a_refusal_says_when_to_come_back(example):
    plan = {
        "routing": {"default": {"backend": "a"}},
        "limits": [{"name": "tokens", "unit": "tokens", "amount": 100, "period_ms": 60000}],
    }

    async def go():
        app = example.Gateway(example.backend, plan)
        body = b'{"max_tokens": 90, "prompt": "1234"}'
        return [await ask(app, body=body) for _ in range(8)]

    answers = asyncio.run(go())
    statuses = [status for status, _, _ in answers]
    # 15 tokens are used of up to 99: the first leaves 85, which 99 do not fit into.
    assert statuses == [200] + [429] * 7
    _, headers, body = answers[1]
    assert int(headers[b"retry-after"]) in range(1, 61) and json.loads(body)["error"] == "limited"


def test_who_finds_no_room_waits_for_it(example):
    plan = {
        "routing": {"default": {"backend": "a"}},
        "congestion": {"concurrency": {"algorithm": {"kind": "fixed"}, "initial": 1, "min": 1, "max": 1}},
    }
    busy = most = 0

    async def slow(scope, receive, send):
        nonlocal busy, most
        busy += 1
        most = max(most, busy)
        await asyncio.sleep(0.01)
        busy -= 1
        await example.backend(scope, receive, send)

    async def go():
        app = example.Gateway(slow, plan)
        return await asyncio.wait_for(asyncio.gather(*(ask(app) for _ in range(10))), 30)

    assert [status for status, _, _ in asyncio.run(go())] == [200] * 10
    assert most == 1


def test_a_body_that_is_no_json_of_ours_still_goes_through(example):
    assert asyncio.run(ask(example.app, body=b"plain text"))[0] == 200
