"""How long does a decision take from Python, beside LiteLLM's choice and aiolimiter?

All sides in one run on one machine: ``python benches/decide.py [--seconds N]``. LiteLLM and aiolimiter are measured
where they can be imported, otherwise the line says that they cannot. The plan is that of the comparison in Rust: 64
backends with prices, and limits of requests, tokens and dollars that hold for every request. No network: only the
choice is timed. Times are medians of batches, in nanoseconds per decision, with the quartiles.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import statistics
import time

from traflux.gateway import Engine, Forward, Limiter, Request

BACKENDS = 64
TENANTS = 1_000
BATCH = 250


def plan():
    price = {"input_dollars_per_million": 1.25, "output_dollars_per_million": 10}
    names = [f"b{ix}" for ix in range(BACKENDS)]
    return {
        "backends": {
            name: {"url": f"https://{name}.example.com", "models": {"gpt-5": {"price": price}}} for name in names
        },
        "routing": {"default": {"backend": names, "algorithm": "least-latency"}},
        "limits": [
            {"name": "rpm", "unit": "requests", "amount": 1_000_000_000, "by": "tenant"},
            {"name": "tpm", "unit": "tokens", "amount": 1_000_000_000_000, "by": "tenant"},
            {"name": "budget", "unit": "dollars", "amount": 1_000_000, "period_ms": 60_000},
        ],
    }


def made(ix):
    return Request(
        method="POST",
        path="/v1/chat/completions",
        tenant=f"tenant-{ix % TENANTS:04}",
        model="gpt-5",
        input_tokens=1_000,
        output_tokens=500,
        stream=True,
    )


def measured(name, batch, seconds):
    """Runs `batch`, which says how many it did and in how many nanoseconds, for so long."""
    for _ in range(3):
        batch()
    times, end = [], time.perf_counter() + seconds
    while time.perf_counter() < end or len(times) < 20:
        count, taken = batch()
        times.append(taken / count)
    low, median, high = statistics.quantiles(times, n=4)
    print(f"{name:<58} {median:>10.0f} ns ({low:.0f} to {high:.0f})", flush=True)
    return median


def ours(seconds):
    engine = Engine(plan(), seed=1)
    requests = [made(ix) for ix in range(4 * TENANTS)]
    for begin in range(0, len(requests), BATCH):
        for forward in engine.decide_many(requests[begin : begin + BATCH]):
            assert isinstance(forward, Forward)
            forward.finish("success", input_tokens=1_000, output_tokens=100)
    at = 0

    def some():
        nonlocal at
        at = (at + BATCH) % len(requests)
        return requests[at : at + BATCH]

    def decide():
        some_requests, call, kept = some(), engine.decide, []
        keep = kept.append
        began = time.perf_counter_ns()
        for request in some_requests:
            keep(call(request))
        taken = time.perf_counter_ns() - began
        for forward in kept:
            forward.finish("success", input_tokens=1_000, output_tokens=100)
        return len(some_requests), taken

    def decide_many():
        some_requests = some()
        began = time.perf_counter_ns()
        kept = engine.decide_many(some_requests)
        taken = time.perf_counter_ns() - began
        for forward in kept:
            forward.finish("success", input_tokens=1_000, output_tokens=100)
        return len(some_requests), taken

    def whole():
        began = time.perf_counter_ns()
        for ix in range(BATCH):
            engine.decide(made(ix)).finish("success", input_tokens=1_000, output_tokens=100)
        return BATCH, time.perf_counter_ns() - began

    one = measured("decide(), of 64 backends under three limits", decide, seconds)
    many = measured("decide_many(), each of 250", decide_many, seconds)
    measured("Request(), decide() and finish(), together", whole, seconds)
    return one, many


def limits(seconds):
    bucket = {"token_bucket": {"amount": 1_000_000_000, "period_ms": 1_000, "burst": 1_000_000_000}}
    limiter = Limiter({"limits": [{"name": "rps", "rule": bucket}]})

    def check():
        began = time.perf_counter_ns()
        for _ in range(BATCH):
            limiter.check("rps")
        return BATCH, time.perf_counter_ns() - began

    mine = measured("Limiter.check(), one bucket", check, seconds)
    try:
        from aiolimiter import AsyncLimiter
    except ImportError as error:
        print(f"aiolimiter cannot be had: {error}")
        return
    other = AsyncLimiter(1_000_000_000, 1)

    async def acquire():
        began = time.perf_counter_ns()
        for _ in range(BATCH):
            await other.acquire()
        return BATCH, time.perf_counter_ns() - began

    loop = asyncio.new_event_loop()
    theirs = measured("aiolimiter, acquire()", lambda: loop.run_until_complete(acquire()), seconds)
    loop.close()
    print(f"    {theirs / mine:.1f} x")


def litellm(seconds, mine):
    os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
    os.environ["LITELLM_MODE"] = "PRODUCTION"
    try:
        import litellm
        from litellm import Router
    except ImportError as error:
        print(f"LiteLLM cannot be had: {error}")
        return
    litellm.telemetry = False
    litellm.suppress_debug_info = True
    logging.disable(logging.CRITICAL)
    least = float("inf")
    for strategy in ("simple-shuffle", "least-busy", "latency-based-routing", "usage-based-routing-v2"):
        router = Router(
            model_list=[
                {
                    "model_name": "gpt-5",
                    "litellm_params": {
                        "model": "openai/gpt-5",
                        "api_key": "none",
                        "api_base": f"http://127.0.0.1:{9000 + ix}",
                        "rpm": 1_000_000,
                        "tpm": 1_000_000_000,
                    },
                    "model_info": {"id": f"d{ix}"},
                }
                for ix in range(BACKENDS)
            ],
            routing_strategy=strategy,
            set_verbose=False,
        )
        messages = [{"role": "user", "content": "Say hello."}]

        async def pick(router=router):
            began = time.perf_counter_ns()
            for _ in range(10):
                await router.async_get_available_deployment(model="gpt-5", request_kwargs={}, messages=messages)
            return 10, time.perf_counter_ns() - began

        loop = asyncio.new_event_loop()
        theirs = measured(f"LiteLLM, {strategy}", lambda: loop.run_until_complete(pick()), seconds)
        loop.close()
        print(f"    {theirs / mine:.0f} x")
        least = min(least, theirs / mine)
    print(f"least ratio of LiteLLM to decide(): {least:.0f} x (goal 100)")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each measurement")
    seconds = parser.parse_args().seconds
    one, many = ours(seconds)
    limits(seconds)
    litellm(seconds, one)
    print(f"decide() {one:.0f} ns (goal 1500), decide_many() {many:.0f} ns each (goal 400)")


if __name__ == "__main__":
    main()
