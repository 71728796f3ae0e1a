"""How long work on the database takes, told to whoever measures."""

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import TypeAlias

OnWork: TypeAlias = Callable[[str, str, float], None]
"""Hears of work on the database: its name, "ok" or "failed", and the seconds it took.

It neither waits nor raises.
"""


def unmeasured(_work: str, _result: str, _duration_s: float) -> None:
    """Take no measurement."""


@contextlib.contextmanager
def timed(on_work: OnWork, work: str) -> Iterator[None]:
    """Tell `on_work` of the block as `work`; what it raises goes through."""
    began_s, result = time.monotonic(), "failed"
    try:
        yield
        result = "ok"
    finally:
        on_work(work, result, time.monotonic() - began_s)
