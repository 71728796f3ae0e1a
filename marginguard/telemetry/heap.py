"""Which types of objects fill the memory of this process, counted without stopping it for long."""

import asyncio
import gc
import heapq
import sys
from dataclasses import dataclass
from typing import Final

_CHUNK: Final = 2_000
"""After how many objects the loop gets its turn: some two milliseconds' work."""


@dataclass(frozen=True, kw_only=True, slots=True)
class HeapRow:
    """The living objects of one type: how many, and their own bytes without what they refer to."""

    type: str
    count: int
    bytes: int


async def by_type(limit: int = 20) -> tuple[HeapRow, ...]:
    """Return the `limit` types that take most memory, the largest first.

    Strings and numbers are not among them: the collector does not know of these. Other tasks go
    on meanwhile, so what they make or drop may be counted or not. 400,000 objects take 0.2 s, of
    which the loop is held up for some 20 ms in one piece, while their list is made.
    """
    found = gc.get_objects()
    totals: dict[type, list[int]] = {}
    while found:
        _count(found[-_CHUNK:], totals)
        del found[-_CHUNK:]
        await asyncio.sleep(0)
    largest = heapq.nlargest(limit, totals.items(), key=lambda item: item[1][1])
    return tuple(
        HeapRow(type=_name(kind), count=count, bytes=size) for kind, (count, size) in largest
    )


def _count(objects: list[object], totals: dict[type, list[int]]) -> None:
    for one in objects:
        total = totals.setdefault(type(one), [0, 0])
        total[0] += 1
        total[1] += _size(one)


def _size(one: object) -> int:
    try:
        return sys.getsizeof(one, 0)
    except Exception:  # noqa: BLE001 - a foreign __sizeof__ may raise anything; its size is unknown
        return 0


def _name(kind: type) -> str:
    inside = "" if kind.__module__ == "builtins" else f"{kind.__module__}."
    return f"{inside}{kind.__qualname__}"
