"""How does a stage written in Python fail without stopping the loop?

Each has a daemon thread of its own, which calls it and hands its answer, as JSON, to whoever waits. The thread is one of
Python with nothing of Rust in it: when the interpreter ends while a stage hangs, it can be left behind.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import queue
import threading
from collections.abc import Callable, Mapping
from typing import Any


#: Methods whose answer means nothing: one that answers says what nobody would hear.
_GIVE_NOTHING = frozenset({"apply", "record"})


class Worker:
    """A stage with the thread that calls it."""

    def __init__(self, name: str, stage: Any, seconds: float) -> None:
        self._jobs: queue.SimpleQueue[tuple[Any, ...] | None] = queue.SimpleQueue()
        arguments = (self._jobs, stage, seconds)
        threading.Thread(target=_work, args=arguments, name=f"traflux-{name}", daemon=True).start()

    def call(
        self,
        method: str,
        arguments: tuple[Any, ...],
        loop: asyncio.AbstractEventLoop | None,
        reply: Callable[[bool, str], None],
    ) -> None:
        """Has the method called; `reply` gets whether it went well, and the answer or what was raised."""
        self._jobs.put((method, arguments, loop, reply))

    def stop(self) -> None:
        """Ends the thread once it is idle."""
        self._jobs.put(None)


def _work(jobs: queue.SimpleQueue[tuple[Any, ...] | None], stage: Any, seconds: float) -> None:
    while (job := jobs.get()) is not None:
        method, arguments, loop, reply = job
        try:
            value = _settle(getattr(stage, method)(*arguments), loop, seconds)
            if value is not None and method in _GIVE_NOTHING:
                raise TypeError(f"{method} gives nothing, it gave a {type(value).__name__}")
            reply(True, json.dumps(value, default=_plain, allow_nan=False))
        except BaseException as error:  # A stage that exits ends nothing but its call.
            said = f"{type(error).__name__}: {error}".splitlines()
            reply(False, said[0] if said else "an exception without words")
        del job, arguments, loop, reply


def _settle(value: Any, loop: asyncio.AbstractEventLoop | None, seconds: float) -> Any:
    """The value, or what an awaitable comes to: in the loop where there is one that runs, else in one of its own."""
    if not inspect.isawaitable(value):
        return value

    async def wait() -> Any:
        try:
            return await asyncio.wait_for(value, seconds)
        except asyncio.TimeoutError:
            raise TimeoutError(f"no answer within {seconds * 1e3:.0f} ms") from None

    if loop is not None and loop.is_running():
        return asyncio.run_coroutine_threadsafe(wait(), loop).result()
    return asyncio.run(wait())


def _plain(value: Any) -> Any:
    """Arrays and scalars of NumPy, tensors, and mappings, as JSON has them."""
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} cannot be written as JSON")
