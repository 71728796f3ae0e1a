"""A position's margin level over time, as a chart: what is drawn, however it is drawn."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from marginguard.diagnose.story import asked
from marginguard.domain.history import LevelSample
from marginguard.domain.records import ActionRecord, ActionStatus
from marginguard.domain.units import Percent

HIGHEST: Final = 100.0
GAP: Final = timedelta(minutes=5)
"""Samples are taken every minute at least: a longer pause is time in which nobody looked."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Point:
    """A level at a time."""

    at: datetime
    level: Percent


@dataclass(frozen=True, kw_only=True, slots=True)
class Mark:
    """An action, at the level that called for it."""

    at: datetime
    level: Percent
    text: str
    worked: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Chart:
    """What there is to draw from `start` to `end`.

    `lines` are pieces of the level over time, with gaps where nobody looked. Levels above 100 %
    are drawn at 100. `thresholds` are the levels at which actions were called for.
    """

    title: str
    start: datetime
    end: datetime
    lines: Sequence[Sequence[Point]]
    thresholds: Sequence[Percent]
    marks: Sequence[Mark]

    def x(self, at: datetime) -> float:
        """Return where a time lies, from 0 at the start to 1 at the end."""
        span = (self.end - self.start).total_seconds()
        share = (at - self.start).total_seconds() / span if span else 0.0
        return min(max(share, 0.0), 1.0)

    def ticks(self, count: int) -> tuple[tuple[float, str], ...]:
        """Return `count` times (at least 2) with where they lie, evenly from start to end."""
        span = self.end - self.start
        form = "%H:%M" if span < timedelta(days=1) else "%m-%d %H:%M"
        if span < timedelta(minutes=count):
            form = "%H:%M:%S"
        places = [index / (count - 1) for index in range(count)]
        return tuple((place, f"{self.start + place * span:{form}}") for place in places)


def y(level: float) -> float:
    """Return how high a level lies, from 0 at none to 1 at liquidation."""
    return min(max(level, 0.0), HIGHEST) / HIGHEST


def chart(
    title: str,
    samples: Sequence[LevelSample],
    actions: Sequence[ActionRecord],
    *,
    thresholds: Sequence[Percent] = (),
) -> Chart:
    """Return the chart of a position's levels (oldest first, at least one) and actions.

    `thresholds` are those of the configuration; those of the actions are added.
    """
    start = samples[0].seen_at
    shown = [one for one in actions if one.kind.protects and start <= one.intended_at]
    # A breach may be answered, and the position gone, before it is sampled again.
    end = max(samples[-1].seen_at, *(one.intended_at for one in shown), start)
    return Chart(
        title=title,
        start=start,
        end=end,
        lines=_pieces(samples),
        thresholds=sorted({*thresholds, *(one.threshold for one in shown)}),
        marks=[
            Mark(
                at=one.intended_at,
                level=one.level,
                text=f"{asked(one)}: {'dry run' if one.dry_run else one.status.value}",
                worked=one.status is ActionStatus.DONE,
            )
            for one in shown
        ],
    )


def _pieces(samples: Sequence[LevelSample]) -> tuple[tuple[Point, ...], ...]:
    pieces: list[list[Point]] = []
    for sample in samples:
        point = Point(at=sample.seen_at, level=sample.level)
        if not pieces or point.at - pieces[-1][-1].at > GAP:
            pieces.append([])
        pieces[-1].append(point)
    return tuple(tuple(piece) for piece in pieces)
