"""Decisions about requests: what they say, how they end, and that nothing is kept of them."""

from __future__ import annotations

import datetime
import gc
import pathlib
import pickle
import resource
import threading
import time

import pytest

import traflux
from traflux.gateway import (
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

PLAN = """
backends:
  near: { url: http://10.0.0.1, models: { small: {} } }
  far: { url: http://10.0.0.2, models: { small: {} } }
routing:
  rules:
    - { name: gold, match: { user_tier: gold }, route: { backend: near } }
  default: { backend: [near, far], algorithm: round-robin }
limits:
  - { name: tpm, unit: tokens, amount: 1000, by: tenant }
"""


STATM = pathlib.Path("/proc/self/statm")


def resident_kib():
    """Memory in use now, not its high-water mark, which tests before this one may have raised."""
    gc.collect()
    return int(STATM.read_text().split()[1]) * resource.getpagesize() // 1024


def chat(**more):
    return Request(method="POST", path="/v1/chat", model="small", tenant="acme", **more)


def test_a_request_is_forwarded_by_the_rule_that_matches():
    engine = Engine(PLAN, now=0.0)
    forward = engine.decide(chat(user_tier="gold", input_tokens=10, output_tokens=10), now=0.0)
    assert isinstance(forward, Forward) and forward.kind == "forward"
    assert (forward.backend, forward.url, forward.rule) == ("near", "http://10.0.0.1", "gold")
    assert forward.attempt == 1 and forward.send_after == datetime.timedelta(0)
    assert forward.age(now=2.0) == datetime.timedelta(seconds=2)
    forward.first_byte(now=0.1)
    forward.finish("success", input_tokens=10, output_tokens=5, now=0.2)
    assert forward.finished


def test_a_limit_is_reserved_by_upper_bounds_and_settled_with_what_was_used():
    engine = Engine(PLAN, now=0.0)
    first = engine.decide(chat(input_tokens=500, output_tokens=500), now=0.0)
    refused = engine.decide(chat(input_tokens=500, output_tokens=500), now=0.0)
    assert isinstance(refused, Refuse)
    assert (refused.reason, refused.status, refused.limit) == ("limited", 429, "tpm")
    assert refused.retry_after == datetime.timedelta(seconds=60)
    first.finish("success", input_tokens=100, output_tokens=100, now=0.0)
    # 200 of 1,000 tokens are used: 800 are left.
    second = engine.decide(chat(input_tokens=400, output_tokens=400), now=0.0)
    assert isinstance(second, Forward)
    assert isinstance(engine.decide(chat(input_tokens=1, output_tokens=0), now=0.0), Refuse)


def test_a_forward_ends_once():
    forward = Engine(PLAN).decide(chat())
    forward.finish(200)
    with pytest.raises(traflux.InputError) as caught:
        forward.finish(200)
    assert caught.value.code == "input_ended" and not caught.value.is_transient


def test_a_forward_that_is_dropped_gives_back_the_tokens_of_its_answer():
    engine = Engine(PLAN, now=0.0)
    del_me = engine.decide(chat(input_tokens=100, output_tokens=800), now=0.0)
    assert isinstance(engine.decide(chat(output_tokens=900), now=0.0), Refuse)
    del del_me
    assert isinstance(engine.decide(chat(output_tokens=901), now=0.0), Refuse)
    assert isinstance(engine.decide(chat(output_tokens=900), now=0.0), Forward)


def test_a_failure_is_tried_elsewhere_until_nothing_is_left():
    engine = Engine({"routing": {"default": {"backend": ["near", "far"]}}}, seed=1, now=0.0)
    seen, decision = [], engine.decide(Request(), now=0.0)
    while isinstance(decision, Forward):
        seen.append(decision.backend)
        decision = decision.retry("connect_failure", now=0.0)
    assert set(seen) == {"near", "far"} and len(seen) <= 8
    assert isinstance(decision, Refuse) and decision.reason == "exhausted" and decision.status == 502


def test_a_turn_comes_later_and_goes_on():
    limit = {"name": "rps", "unit": "requests", "amount": 1, "period_ms": 1000, "max_wait_ms": 5000}
    engine = Engine({"routing": {"default": {"backend": "a"}}, "limits": [limit]}, now=0.0)
    assert isinstance(engine.decide(Request(), now=0.0), Forward)
    later = engine.decide(Request(), now=0.0)
    assert isinstance(later, Later) and later.limit == "rps"
    assert later.due == pytest.approx(1.0, abs=1e-6)
    assert later.after(now=0.25) == datetime.timedelta(milliseconds=750)
    assert isinstance(later.go_on(now=1.001), Forward)


def test_who_waits_is_called_by_ticket_when_there_is_room():
    plan = {
        "routing": {"default": {"backend": "a"}},
        "congestion": {"concurrency": {"algorithm": {"kind": "fixed"}, "initial": 1, "min": 1, "max": 1}},
    }
    engine = Engine(plan, now=0.0)
    held, waits = [], None
    for _ in range(1000):
        decision = engine.decide(Request(), now=0.0)
        if isinstance(decision, Wait):
            waits = decision
            break
        held.append(decision)
    assert waits is not None and waits.position(now=0.0) == 0
    assert engine.take_ready() is None
    held.pop().finish("success", now=0.1)
    ready = engine.take_ready()
    assert ready is not None
    ticket, decision = ready
    assert ticket == waits.ticket and isinstance(decision, Forward)


def test_many_are_decided_as_one_after_another():
    requests = [Request(path=f"/{ix}") for ix in range(20)]
    one, many = Engine(PLAN, seed=7, now=0.0), Engine(PLAN, seed=7, now=0.0)
    single = [one.decide(request, now=0.0) for request in requests]
    together = many.decide_many(requests, now=0.0)
    assert [d.backend for d in together] == [d.backend for d in single]
    assert len({d.backend for d in together}) == 2


def test_a_reload_keeps_levels_and_a_plan_that_is_wrong_changes_nothing():
    engine = Engine(PLAN, now=0.0)
    engine.decide(chat(input_tokens=1000), now=0.0).finish("success", input_tokens=1000, now=0.0)
    with pytest.raises(traflux.ConfigError) as caught:
        engine.reload("routing: { default: { backendd: near } }", now=0.0)
    assert caught.value.code == "config_key" and "routing.default" in str(caught.value)
    plan = Plan(PLAN).to_dict()
    plan["routing"]["rules"] = []
    engine.reload(plan, now=0.0)
    assert engine.plan.to_dict()["routing"]["rules"] == []
    refused = engine.decide(chat(input_tokens=1, user_tier="gold"), now=0.0)
    assert isinstance(refused, Refuse) and refused.limit == "tpm"


def test_metrics_count_and_explanations_tell():
    engine = Engine(PLAN, now=0.0)
    engine.decide(chat(user_tier="gold"), now=0.0).finish("success", now=0.5)
    assert 'traflux_gateway_requests_total{backend="near",model="small",outcome="success"} 1' in engine.metrics(now=1.0)
    assert engine.metrics(openmetrics=True, now=1.0).endswith("# EOF\n")
    told = engine.explain(chat(user_tier="gold"), now=1.0)
    assert "rule gold: matches" in told and "limit tpm: " in told


def test_what_a_body_says_is_read():
    body = b'{"model": "small", "stream": true, "max_tokens": 50, "messages": [{"role": "user", "content": "12345678"}]}'
    request = Request(method="POST", body=body)
    assert (request.model, request.stream, request.output_tokens) == ("small", True, 50)
    assert request.input_tokens > 8
    with pytest.raises(traflux.GatewayError) as caught:
        Request(body=b"[1]")
    assert caught.value.code == "gateway_body"
    reader = UsageReader("application/json")
    reader.push(b'{"usage": {"prompt_tokens": 7,')
    reader.push(b' "completion_tokens": 3}}')
    assert reader.usage() == {"input_tokens": 7, "output_tokens": 3, "cached_tokens": 0}


def test_clients_are_told_by_their_keys():
    # printf %s secret | sha256sum
    sha = "2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b"
    identities = Identities({"identity": {"api_keys": [{"name": "ci", "sha256": sha, "tenant": "acme"}]}})
    client = identities.resolve([(b"authorization", b"Bearer secret")])
    assert client is not None and (client.tenant, client.key) == ("acme", "ci")


def test_a_limiter_reserves_from_all_or_none():
    limiter = Limiter(
        {
            "scopes": [{"name": "tenant"}],
            "limits": [
                {"name": "requests", "rule": {"token_bucket": {"amount": 10, "period_ms": 1000, "burst": 10}}},
                {
                    "name": "tokens",
                    "scope": "tenant",
                    "unit": "total_tokens",
                    "rule": {"token_bucket": {"amount": 100, "period_ms": 1000, "burst": 100}},
                },
            ],
        },
        now=0.0,
    )
    limits = {"requests": "", "tokens": "acme"}
    held = limiter.reserve(limits, input_tokens=60, output_tokens=40, now=0.0)
    assert isinstance(held, Reservation)
    denied = limiter.reserve(limits, input_tokens=1, now=0.0)
    assert isinstance(denied, Denial) and (denied.limit, denied.code) == ("tokens", "limit_wait")
    assert denied.retry_after == datetime.timedelta(milliseconds=10)
    assert limiter.level("requests", now=0.0) == (10, 1, 9), "the denial took no request"
    held.settle(input_tokens=20, output_tokens=10, now=0.0)
    assert limiter.level("tokens", "acme", now=0.0) == (100, 30, 70)
    assert limiter.check("requests", now=0.0) is None
    assert isinstance(limiter.check("requests", units=11, now=0.0), Denial)


@pytest.mark.parametrize(
    ("call", "code"),
    [
        (lambda: Engine("a: ["), "config_syntax"),
        (lambda: Engine({"routing": {"default": {"backend": []}}}), "plan_key"),
        (lambda: Engine(PLAN, settings={"seeed": 1}), "input_settings"),
        (lambda: Engine(PLAN).decide(Request(), now=-1.0), "input_time"),
        (lambda: Engine(PLAN).decide(Request(), now=float("nan")), "input_time"),
        (lambda: Engine(PLAN).decide(chat()).finish("well"), "input_outcome"),
        (lambda: Request(headers=[1]), "input_pairs"),
        (lambda: Engine(object()), "input_json"),
        (lambda: Engine(PLAN).set_weights("golden", {"near": 1}), "gateway_setting"),
        (lambda: Engine(PLAN).set_weights("gold", {"far": 1}), "gateway_setting"),
    ],
)
def test_what_is_wrong_says_so(call, code):
    with pytest.raises(traflux.TrafluxError) as caught:
        call()
    assert caught.value.code == code and str(caught.value)


def test_a_panic_is_an_exception_like_others():
    from traflux._traflux import errors

    with pytest.raises(traflux.InternalPanic) as caught:
        errors._panic("lost")
    assert caught.value.code == "internal_panic" and str(caught.value) == "lost"
    assert isinstance(caught.value, Exception)


def test_errors_survive_pickling():
    error = pickle.loads(pickle.dumps(traflux.ObserveError("late", "observe_timeout", True)))
    assert (type(error), error.code, error.is_transient, str(error)) == (
        traflux.ObserveError,
        "observe_timeout",
        True,
        "late",
    )


@pytest.mark.skipif(not STATM.exists(), reason="the memory in use is read from /proc")
def test_a_million_calls_leave_nothing_behind():
    engine = Engine({"routing": {"default": {"backend": ["near", "far"]}}})
    request = Request(path="/v1", tenant="acme", input_tokens=10, output_tokens=10)

    def calls(count):
        for _ in range(count):
            engine.decide(request).finish("success", input_tokens=10, output_tokens=5)

    calls(100_000)
    before = resident_kib()
    calls(1_000_000)
    assert resident_kib() - before < 1_024


def test_many_decisions_let_other_threads_run():
    """While one thread decides about many, another counts in Python."""
    engine = Engine({"routing": {"default": {"backend": ["near", "far"]}}, "queue": {"max_waiting": 0}})
    requests = [Request()] * 300_000
    turns, done = [], threading.Event()

    def count():
        while not done.is_set():
            turns.append(time.perf_counter())
            time.sleep(0.001)

    thread = threading.Thread(target=count)
    thread.start()
    began = time.perf_counter()
    kept = engine.decide_many(requests)
    ended = time.perf_counter()
    done.set()
    thread.join()
    during = [turn for turn in turns if began < turn < ended]
    assert len(kept) == len(requests) and len(during) >= 3, f"{len(during)} turns in {ended - began:.3f} s"
