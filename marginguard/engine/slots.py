"""Which guard goes first when more of them are due than may run at once."""

import asyncio
import heapq
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from typing import Final

AGEING_S: Final = 10.0
"""In this time a guard that waits gains one level of priority, so that none waits for ever."""

GIVEN_WAY: Final = 7
"""How many slots in a row routine leaves to breaches before it takes one."""


def _new_future() -> "asyncio.Future[None]":
    return asyncio.get_running_loop().create_future()


@dataclass(eq=False, kw_only=True, slots=True)
class Turn:
    """A place in the line since `since_s` (monotonic); `breached` says that the risk is real."""

    priority: int
    since_s: float
    breached: bool = False
    granted: "asyncio.Future[None]" = field(default_factory=_new_future)

    @property
    def rank_s(self) -> float:
        """Who has the smallest goes first.

        A level of priority is worth `AGEING_S` of waiting. Since all that wait age alike, this
        need not be worked out anew: a guard is passed by another of a larger priority only if
        that one came within `AGEING_S` for each level between them.
        """
        return self.since_s - self.priority * AGEING_S


class Slots:
    """A number of slots, and the lines of those who wait for one.

    A breach goes before routine, and among equals the larger priority goes first, age counting
    as `Turn.rank_s` says. While breaches never cease every eighth slot is routine's, so that
    nobody starves. `on_waiting` hears how many wait, whenever that changes.
    """

    def __init__(self, number: int, *, on_waiting: Callable[[int], None]) -> None:
        self._free = number
        self._on_waiting = on_waiting
        self._waiting = 0
        self._order = count()
        self._breaches: list[tuple[float, int, Turn]] = []
        self._routine: list[tuple[float, int, Turn]] = []
        self._given_way = 0

    async def take(self, turn: Turn) -> None:
        """Wait for a slot. Who got one gives it back; who is cancelled has none."""
        if self._free > 0:
            self._free -= 1
            turn.granted.set_result(None)
            return
        self._line_up(turn)
        self._count(+1)
        try:
            await turn.granted
        except asyncio.CancelledError:
            if turn.granted.cancelled():
                self._count(-1)
            else:
                self.give_back()
            raise

    def give_back(self) -> None:
        """Pass a slot on to whose turn it is."""
        turn = self._next()
        if turn is None:
            self._free += 1
            return
        self._count(-1)
        turn.granted.set_result(None)

    def hasten(self, turn: Turn) -> None:
        """Move a turn that is still waited for to the breaches."""
        if not turn.breached:
            turn.breached = True
            self._line_up(turn)

    def _line_up(self, turn: Turn) -> None:
        line = self._breaches if turn.breached else self._routine
        heapq.heappush(line, (turn.rank_s, next(self._order), turn))

    def _next(self) -> Turn | None:
        breach, routine = _first(self._breaches, breached=True), _first(self._routine)
        if breach is None or routine is None:
            self._given_way = 0
            return routine or breach
        if self._given_way < GIVEN_WAY:
            self._given_way += 1
            return breach
        self._given_way = 0
        return routine

    def _count(self, change: int) -> None:
        self._waiting += change
        self._on_waiting(self._waiting)


def _first(line: list[tuple[float, int, Turn]], *, breached: bool = False) -> Turn | None:
    """Return who is first in a line, after dropping those who are not in it any more."""
    while line and (line[0][2].granted.done() or line[0][2].breached is not breached):
        heapq.heappop(line)
    return line[0][2] if line else None
