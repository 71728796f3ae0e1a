"""Finding out why positions ended without our doing, off every guard's way, and telling it."""

import asyncio
from collections.abc import Callable
from datetime import datetime
from typing import Final
from uuid import UUID

import structlog

from marginguard.aio import sleep_or_stop
from marginguard.domain.ending import Ending, Vanished, ending_of
from marginguard.domain.errors import MarginguardError
from marginguard.domain.model import ClosedTrade
from marginguard.domain.units import AccountId
from marginguard.engine import telling_ends
from marginguard.engine.executor import Executor
from marginguard.ports import Clock, Notifier

READ_WITHIN_S: Final = 10.0
"""How long one read of a closed trade may take."""

_ATTEMPTS: Final = 2


class Ends:
    """Holds what vanished from one account until it is told why.

    `note` takes no time; `tell` reads from the exchange and belongs into a task of its own.
    """

    def __init__(
        self,
        *,
        account_id: AccountId,
        executor: Executor,
        notifier: Notifier,
        clock: Clock,
        new_id: Callable[[], UUID],
    ) -> None:
        self._account_id = account_id
        self._executor = executor
        self._notifier = notifier
        self._clock = clock
        self._new_id = new_id
        self._waiting: list[tuple[Vanished, datetime]] = []

    def note(self, vanished: Vanished, since: datetime) -> None:
        """Take note of a position that no longer runs, and when it was last seen to."""
        self._waiting.append((vanished, since))

    @property
    def waiting(self) -> bool:
        """Whether there is something to tell."""
        return bool(self._waiting)

    async def tell(self) -> None:
        """Tell of everything noted how it ended, as far as that can be read in time."""
        waiting, self._waiting = self._waiting, []
        await asyncio.gather(*(self._tell_one(vanished, since) for vanished, since in waiting))

    async def _tell_one(self, vanished: Vanished, since: datetime) -> None:
        position = vanished.position
        closed = await self._closed(vanished, since)
        ending = None if closed is None else ending_of(position, closed)
        if vanished.told and ending is not Ending.LIQUIDATED:
            return
        if closed is None or ending is None:
            notice = telling_ends.of_vanished(
                position, self._account_id, notice_id=self._new_id(), at=self._clock.now()
            )
        else:
            notice = telling_ends.of_ended(
                vanished,
                closed,
                ending,
                self._account_id,
                notice_id=self._new_id(),
                at=self._clock.now(),
            )
        self._notifier.tell(notice)

    async def _closed(self, vanished: Vanished, since: datetime) -> ClosedTrade | None:
        """Return the closed trade; None where two reads do not bring it, or the daemon stops."""
        why = "the exchange does not list it as closed"
        for attempt in range(_ATTEMPTS):
            pause_s = self._executor.settings.settle_delay_s
            if attempt and await sleep_or_stop(pause_s, self._executor.stop):
                break
            try:
                async with asyncio.timeout(READ_WITHIN_S):
                    closed = await self._executor.exchange.closed_trade(vanished.position.id, since)
            except TimeoutError:
                why = f"no answer within {READ_WITHIN_S:g} s"
            except MarginguardError as error:
                why = str(error)
            else:
                if closed is not None:
                    return closed
        structlog.get_logger().warning(
            "position.end_unknown",
            account=self._account_id,
            position=vanished.position.id,
            error=why,
            advice="see the exchange's list of closed trades for how it ended",
        )
        return None
