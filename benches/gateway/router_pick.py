"""How long does LiteLLM's Router take to choose a deployment? No network: only the choice is timed.

Prints one line per strategy and number of deployments: strategy, deployments, median and quartiles and p99 in
nanoseconds, and how it was called. A strategy that fails is a line with its error.
"""

import asyncio
import logging
import os
import sys
import time

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
os.environ["LITELLM_MODE"] = "PRODUCTION"

import litellm  # noqa: E402
from litellm import Router  # noqa: E402

litellm.telemetry = False
litellm.suppress_debug_info = True
logging.disable(logging.CRITICAL)

STRATEGIES = [
    "simple-shuffle",
    "least-busy",
    "latency-based-routing",
    "cost-based-routing",
    "usage-based-routing-v2",
]
MESSAGES = [{"role": "user", "content": "Say hello."}]


def deployment(ix):
    return {
        "model_name": "gpt-4o",
        "litellm_params": {
            "model": "openai/gpt-4o",
            "api_key": "none",
            "api_base": f"http://127.0.0.1:{9000 + ix}",
            "rpm": 1_000_000,
            "tpm": 1_000_000_000,
        },
        "model_info": {"id": f"d{ix}"},
    }


async def timed(router, seconds):
    """Picks for so long, as `acompletion` does before each call."""

    async def once():
        return await router.async_get_available_deployment(
            model="gpt-4o", request_kwargs={}, messages=MESSAGES
        )

    for _ in range(20):
        await once()
    times = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times) < 50:
        start = time.perf_counter_ns()
        await once()
        times.append(time.perf_counter_ns() - start)
    return sorted(times)


def main():
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 2.0
    for count in (3, 64):
        for strategy in STRATEGIES:
            try:
                router = Router(
                    model_list=[deployment(ix) for ix in range(count)],
                    routing_strategy=strategy,
                    set_verbose=False,
                )
                times = asyncio.run(asyncio.wait_for(timed(router, seconds), 60 + seconds))
            except Exception as error:  # What a version does not have is said, not hidden.
                print(f"pick {strategy} {count} failed {type(error).__name__}: {error}"[:200], flush=True)
                continue
            at = lambda share: times[int((len(times) - 1) * share)]  # noqa: E731
            print(f"pick {strategy} {count} {at(0.5)} {at(0.25)} {at(0.75)} {at(0.99)}", flush=True)


if __name__ == "__main__":
    main()
