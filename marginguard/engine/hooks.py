"""What the scheduling tells to whom it may concern: the watchdog, the metrics."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from marginguard.domain.units import GuardId


def _ignore(*_args: object) -> None:
    """Do nothing."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Hooks:
    """Called as things happen; none of them may wait or raise.

    `decided` after every run, whatever its result, and by the idle pass while no guard is
    overdue. `began` with the seconds by which a run began later than it was due. `waiting` with
    how many guards are due and wait for a slot, when that changes. `quiet` after every run that
    had nothing to do, with the seconds that it took and those of each of its phases. `stuck` once
    for a run that does not come back, with its guard and the seconds it has run.
    """

    decided: Callable[[], None] = _ignore
    began: Callable[[float], None] = _ignore
    waiting: Callable[[int], None] = _ignore
    quiet: Callable[[float, Mapping[str, float]], None] = _ignore
    stuck: Callable[[GuardId, float], None] = _ignore


NO_HOOKS: Final = Hooks()
