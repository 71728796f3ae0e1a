"""Small pieces of structured concurrency: interruptible sleep, supervised tasks, the clock."""

import asyncio
import contextlib
import time
from collections.abc import Coroutine
from datetime import UTC, datetime
from typing import Any, TypeVar

from marginguard.domain.errors import MarginguardError

_T = TypeVar("_T")


class TaskEndedError(MarginguardError):
    """A task that runs for the daemon's whole life returned without being asked to."""


class SystemClock:
    """The machine's clocks."""

    def now(self) -> datetime:
        """Return the wall clock's time in UTC."""
        return datetime.now(UTC)

    def monotonic(self) -> float:
        """Return seconds that never jump, and that pass while the machine is suspended."""
        return time.clock_gettime(time.CLOCK_BOOTTIME)


async def sleep_or_stop(delay_s: float, stop: asyncio.Event) -> bool:
    """Sleep for `delay_s` seconds or until `stop` is set; return whether it is set."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(max(0.0, delay_s)):
            await stop.wait()
    return stop.is_set()


async def until_stopped(work: Coroutine[Any, Any, None], name: str, stop: asyncio.Event) -> None:
    """Run `work`, which must not return before `stop` is set.

    Raises `TaskEndedError` if it does: a task that ends unasked takes the daemon down.
    """
    await work
    if not stop.is_set():
        raise TaskEndedError(f"the task {name} ended unasked")


async def unless_stopped(work: Coroutine[Any, Any, _T], stop: asyncio.Event) -> _T | None:
    """Return the result of `work`, or None, `work` cancelled, once `stop` is set before that."""
    working = asyncio.ensure_future(work)
    stopping = asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait({working, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        return None
    finally:
        for task in (working, stopping):
            task.cancel()
        await asyncio.gather(working, stopping, return_exceptions=True)
