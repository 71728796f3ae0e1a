"""One read for all who ask at the same time: the exchange allows few."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from marginguard.aio import SystemClock
from marginguard.domain.errors import MarginguardError

_T = TypeVar("_T")

_CLOCK: Final = SystemClock()


@dataclass(frozen=True, kw_only=True, slots=True)
class _Read(Generic[_T]):
    """A read, begun at `begun_s` (monotonic) after so many `changes`, and what it brought."""

    begun_s: float
    changes: int
    result: _T | MarginguardError


class Shared(Generic[_T]):
    """A read that several may wait for.

    Who asks gets what a read brought, its failure included, that began after the asking: never
    an answer that was under way before. So any number that ask at once cost two reads at most.

    Who is content with less, because nothing is to be proved by it, says how old the read may
    be. Then one that worked is enough if it began no longer than that before the asking, and
    after every change of ours: `changes` counts those. `now_s` never jumps, and passes while the
    machine is suspended.
    """

    def __init__(
        self,
        read: Callable[[], Awaitable[_T]],
        *,
        changes: Callable[[], int] = lambda: 0,
        now_s: Callable[[], float] = _CLOCK.monotonic,
    ) -> None:
        self._read = read
        self._now_s = now_s
        self._changes = changes
        self._line = asyncio.Lock()
        self._begun = 0
        self._last: _Read[_T] | None = None

    async def get(self, *, max_age_s: float = 0.0) -> _T:
        """Return what a read brought that began just now; raises what it raised.

        With `max_age_s` above 0 one that began up to so many seconds ago may do.
        """
        begun_before, oldest_s = self._begun, self._now_s() - max_age_s
        async with self._line:
            last = self._last
            if last is None or (
                self._begun == begun_before
                and not (max_age_s > 0 and self._will_do(last, oldest_s))
            ):
                last = await self._read_now()
        if isinstance(last.result, MarginguardError):
            raise last.result
        return last.result

    def _will_do(self, last: _Read[_T], oldest_s: float) -> bool:
        return (
            last.begun_s >= oldest_s
            and last.changes == self._changes()
            and not isinstance(last.result, MarginguardError)
        )

    async def _read_now(self) -> _Read[_T]:
        self._begun += 1
        self._last = None
        begun_s, changes = self._now_s(), self._changes()
        result: _T | MarginguardError
        try:
            result = await self._read()
        except MarginguardError as error:
            result = error
        self._last = _Read(begun_s=begun_s, changes=changes, result=result)
        return self._last
