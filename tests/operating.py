"""A running daemon for those who command it, without one."""

import asyncio
from datetime import UTC, datetime, timedelta

from marginguard.domain.operating import GuardNow, Overview, Pause
from marginguard.domain.records import ArmedState
from tests.records import an_action

NOW = datetime(2026, 1, 2, tzinfo=UTC)
LAST = an_action()
OVERVIEW = Overview(
    at=NOW,
    protected="NOT PROTECTED: guard-1 is paused",
    guards=(
        GuardNow(
            guard_id="guard-1",
            account_id="main",
            armed=ArmedState.DISARMED,
            reason="paused",
            since=NOW,
            looked_at=None,
            pause=Pause(until=NOW + timedelta(hours=1), by="root"),
        ),
    ),
    positions=(),
)


class FakeOperator:
    """Notes what is asked of it; `answers` holds a result or an error for the next call."""

    def __init__(self):
        self.asked = []
        self.result = "done"
        self.go_on = asyncio.Event()
        self.go_on.set()
        self.begun = asyncio.Event()
        self.ended = asyncio.Event()

    async def _do(self, *what, by):
        self.asked.append((*what, by))
        self.begun.set()
        await self.go_on.wait()
        self.ended.set()
        if isinstance(self.result, Exception):
            raise self.result
        return self.result

    def overview(self):
        return OVERVIEW

    def last_actions(self):
        return [LAST]

    async def pause(self, guard_id, span, *, by):
        return await self._do("pause", guard_id, span, by=by)

    async def resume(self, guard_id, *, by):
        return await self._do("resume", guard_id, by=by)

    async def reload(self, *, by):
        return await self._do("reload", by=by)

    async def run_now(self, guard_id, *, by, source):
        return await self._do("run-now", guard_id, source, by=by)

    async def settle(self, action_id, *, applied, by):
        return await self._do("settle", action_id, applied, by=by)
