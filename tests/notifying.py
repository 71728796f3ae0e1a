"""Notices, channels and stores for the tests of telling."""

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import timedelta

from uuid_utils.compat import uuid7

from marginguard.aio import SystemClock
from marginguard.domain.errors import DatabaseUnavailable
from marginguard.domain.notice import Notice, NoticeKind, Severity
from marginguard.domain.notification import Notification
from marginguard.notify.channel import Action, Delivered, Failed
from marginguard.notify.outbox_rules import OutboxSettings
from marginguard.notify.rendering import Renderer
from marginguard.notify.routing import Person, Routing
from marginguard.notify.telegraph import Telegraph
from tests.unit.strategies import NOON

LONG_S = 30.0
REFUSED = Failed(reason="refused", action=Action.VERIFY_SMTP_CONFIG, advice="do it", for_good=True)
DOWN = Failed(reason="down", action=Action.CHECK_NETWORK, advice="look at the network")


def a_notice(**changes):
    """Return a warning about a position, changed."""
    notice = Notice(
        id=uuid7(),
        kind=NoticeKind.POSITION_CHANGED,
        severity=Severity.WARNING,
        text="Something happened.",
        at=NOON,
        guard_id="night",
        account_id="main",
        position_id="trade-1",
    )
    return replace(notice, **changes)


def an_alarm(**changes):
    """Return a critical notice that may be repeated, changed."""
    changes = {"kind": NoticeKind.UNPROTECTED, "severity": Severity.CRITICAL, **changes}
    return a_notice(**changes)


def now_alarm(**changes):
    """Return a critical notice of this very moment, changed."""
    return an_alarm(at=SystemClock().now(), **changes)


def a_notification(**changes):
    """Return a pending row, changed."""
    notice = changes.pop("notice", None) or a_notice()
    row = Notification(
        id=notice.id,
        user_id="owner",
        channel="email",
        notice=notice,
        subject="A subject",
        text="A text.",
        created_at=NOON,
        next_attempt_at=NOON,
    )
    return replace(row, **changes)


class FakeChannel:
    """Answers as scripted, the last answer for ever: a Delivery, "hang", or an exception."""

    def __init__(self, name, *answers):
        self.name = name
        self.answers = list(answers) or [Delivered()]
        self.sent = []
        self.closed = False
        self._arrived = asyncio.Condition()

    async def send(self, message):
        self.sent.append(message)
        async with self._arrived:
            self._arrived.notify_all()
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if answer == "hang":
            await asyncio.Event().wait()
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def aclose(self):
        self.closed = True

    async def until(self, count):
        """Wait until so many messages were tried."""
        async with asyncio.timeout(LONG_S), self._arrived:
            await self._arrived.wait_for(lambda: len(self.sent) >= count)


class MemoryStore:
    """Keeps rows in memory, as the database would."""

    def __init__(self, *rows):
        self.rows = {row.key: row for row in rows}
        self.away = False
        self.saves = 0
        self._saved = asyncio.Condition()

    async def save(self, rows):
        self.saves += 1
        for row in rows:
            known = self.rows.get(row.key)
            if known is None or known.revision < row.revision:
                self.rows[row.key] = row
        async with self._saved:
            self._saved.notify_all()

    async def left_behind(self):
        return ()

    async def unfinished(self, *, resent_only=False):
        if self.away:
            raise DatabaseUnavailable("away")
        open_ = {(row.id, row.user_id) for row in self.rows.values() if row.pending}
        return tuple(row for row in self.rows.values() if (row.id, row.user_id) in open_)

    async def delivered_since(self, since):
        return [
            (row.user_id, row.channel, row.settled_at)
            for row in self.rows.values()
            if row.settled_at is not None and row.settled_at >= since
        ]

    def of(self, notice, channel, user_id="owner"):
        return self.rows.get((notice.id, user_id, channel))

    async def until(self, condition):
        """Wait until `condition()` holds after a save."""
        async with asyncio.timeout(LONG_S), self._saved:
            await self._saved.wait_for(condition)


QUICK = OutboxSettings(first_backoff_s=0.01, max_backoff_s=0.02, refresh_s=600.0)


def a_person(user_id="owner", **changes):
    addresses = {c: f"{user_id}@{c}" for c in ("telegram", "email", "webhook", "sms")}
    return Person(**{"user_id": user_id, "addresses": addresses, **changes})


def a_routing(channels, *people, owners=None, **more):
    people = people or (a_person(),)
    usable = {channel.name for channel in channels}
    return Routing(people, usable=usable, owners=owners or {"main": people[0].user_id}, **more)


def a_telegraph(channels, *people, store, clock, routing=None, **more):
    return Telegraph(
        channels,
        routing=routing or a_routing(channels, *people),
        store=store,
        clock=clock,
        **{"settings": QUICK, "renderer": Renderer(), **more},
    )


@asynccontextmanager
async def running(telegraph):
    """Run the telegraph inside the block; it is stopped at its end."""
    stop = asyncio.Event()
    task = asyncio.create_task(telegraph.run(stop))
    try:
        yield telegraph
    finally:
        stop.set()
        async with asyncio.timeout(LONG_S):
            await task


def after(**span):
    return NOON + timedelta(**span)


@dataclass(kw_only=True)
class Noted:
    """A use of the operator that changed nothing."""

    command: str
    by: str
    answer: str
    accepted: bool


class FakeOperator:
    """Shows `now`, and remembers what it is asked; `error` is raised instead of changing."""

    def __init__(self, now):
        self.now = now
        self.actions = []
        self.calls = []
        self.notes = []
        self.error = None
        self.note_error = None

    def overview(self):
        return self.now

    def last_actions(self):
        return self.actions

    async def note(self, command, *, by, answer, accepted):
        if self.note_error is not None:
            raise self.note_error
        self.notes.append(Noted(command=command, by=by, answer=answer, accepted=accepted))

    async def pause(self, guard_id, span, *, by):
        return self._called(("pause", guard_id, span, by), f"{guard_id} is paused.")

    async def resume(self, guard_id, *, by):
        return self._called(("resume", guard_id, by), f"{guard_id} acts again.")

    def _called(self, call, answer):
        if self.error is not None:
            raise self.error
        self.calls.append(call)
        return answer
