"""How far the database has followed the journal, and who waits for it."""

import asyncio
import contextlib
import time

from marginguard.storage.timing import OnWork, unmeasured


class DrainProgress:
    """Lets an append wait, for a bounded time, until the database holds its records.

    `on_work` hears of every such wait as "commit"; "failed" is one that was in vain.
    """

    def __init__(self, drained_seq: int, *, on_work: OnWork = unmeasured) -> None:
        self.drained_seq = drained_seq
        self._on_work = on_work
        self._down = False
        self._waiting: list[tuple[int, asyncio.Future[None]]] = []

    def reached(self, seq: int) -> None:
        """Note that the database holds everything up to `seq`."""
        self.drained_seq = max(self.drained_seq, seq)
        for wanted, waiter in self._waiting:
            if wanted <= self.drained_seq and not waiter.done():
                waiter.set_result(None)

    def database_down(self, *, down: bool) -> None:
        """Note whether the database is known to be away; nobody waits for it then."""
        self._down = down
        if down:
            for _, waiter in self._waiting:
                if not waiter.done():
                    waiter.set_result(None)

    async def wait(self, seq: int, patience_s: float) -> None:
        """Wait at most `patience_s` for the database to hold everything up to `seq`."""
        if patience_s <= 0:
            return
        began_s = time.monotonic()
        await self._wait(seq, patience_s)
        result = "ok" if seq <= self.drained_seq else "failed"
        self._on_work("commit", result, time.monotonic() - began_s)

    async def _wait(self, seq: int, patience_s: float) -> None:
        if self._down or seq <= self.drained_seq:
            return
        place = (seq, asyncio.get_running_loop().create_future())
        self._waiting.append(place)
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(patience_s):
                    await place[1]
        finally:
            self._waiting.remove(place)
