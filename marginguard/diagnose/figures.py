"""Durations in short, errors by how often, and what happened when: the same for every analysis."""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

BARS: Final = "▁▂▃▄▅▆▇█"
NONE_BAR: Final = "·"


@dataclass(frozen=True, kw_only=True, slots=True)
class Timing:
    """How long something took, in seconds, over `count` times; `count` is at least 1."""

    count: int
    average_s: float
    fastest_s: float
    slowest_s: float
    p99_s: float


@dataclass(frozen=True, kw_only=True, slots=True)
class CommonError:
    """An error and how often it came."""

    error: str
    count: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Slice:
    """A part of the time looked at: what succeeded and what failed in it, by number."""

    start: datetime
    succeeded: int
    failed: int


def timing(seconds: Iterable[float]) -> Timing | None:
    """Return the figures of some durations; None where there are none.

    The 99th percentile is by nearest rank: a duration that 99 % are no longer than, and one
    that occurred.
    """
    ordered = sorted(seconds)
    if not ordered:
        return None
    # fsum is exact; rounding of the quotient must not put the average outside the extremes.
    average = min(max(math.fsum(ordered) / len(ordered), ordered[0]), ordered[-1])
    return Timing(
        count=len(ordered),
        average_s=average,
        fastest_s=ordered[0],
        slowest_s=ordered[-1],
        p99_s=ordered[math.ceil(len(ordered) * 99 / 100) - 1],
    )


def common_errors(errors: Iterable[str | None], *, limit: int = 5) -> tuple[CommonError, ...]:
    """Return the commonest errors first, those equally common by name."""
    counts = Counter(error or "no error was recorded" for error in errors)
    ranked = sorted(counts.items(), key=lambda entry: (-entry[1], entry[0]))
    return tuple(CommonError(error=error, count=count) for error, count in ranked[:limit])


def pattern(
    events: Iterable[tuple[datetime, bool | None]], *, since: datetime, until: datetime, slices: int
) -> tuple[Slice, ...]:
    """Return how many events succeeded (True) and failed (False) in equal parts of the time.

    None is neither. An event at `until` or later (the clocks of two machines differ) counts with
    the last part, one before `since` with the first.
    """
    width = (until - since) / slices
    counts = [[0, 0] for _ in range(slices)]
    for at, succeeded in events:
        if succeeded is None:
            continue
        index = min(max((at - since) // width if width else 0, 0), slices - 1)
        counts[index][not succeeded] += 1
    return tuple(
        Slice(start=since + index * width, succeeded=succeeded, failed=failed)
        for index, (succeeded, failed) in enumerate(counts)
    )


def sparkline(counts: Sequence[int]) -> str:
    """Return one character a count: its height among the counts, a dot for none."""
    highest = max(counts, default=0)
    return "".join(
        BARS[math.ceil(count * len(BARS) / highest) - 1] if count else NONE_BAR for count in counts
    )


def success_rate(succeeded: int, failed: int) -> float | None:
    """Return the share that succeeded, from 0 to 1; None where there were none."""
    return succeeded / (succeeded + failed) if succeeded + failed else None
