"""Telling users by every channel that they want: kept first, sent by tasks of their own."""

import asyncio
import itertools
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import Final

import structlog

from marginguard.domain.errors import Transient
from marginguard.domain.notice import Notice, Severity
from marginguard.domain.notification import Notification
from marginguard.notify.channel import Channel, Delivered, Delivery
from marginguard.notify.notice_log import context_of, ids_of, log_notice
from marginguard.notify.outbox import Outbox
from marginguard.notify.outbox_rules import OutboxSettings
from marginguard.notify.outbox_sender import Sender, out_of_reach
from marginguard.notify.payload import payload_of
from marginguard.notify.preferences import CHANNELS
from marginguard.notify.reachability import Reachability
from marginguard.notify.rendering import Recipient, Renderer
from marginguard.notify.routing import Routing
from marginguard.ports import Clock, OutboxStore

LOG_CHANNEL: Final = "log"
"""The channel in the record of a notice about an action that no user is told of."""

_BATCH: Final = 10
_LAST_SAVE_S: Final = 3.0
_NO_CHANNELS: Final[Mapping[str, Channel | None]] = {}


class Telegraph:
    """Implements `ports.Notifier`: tells each user by the routing, whatever single channels do.

    A notice is logged, made ready for each user and channel, kept by the store and only then
    sent. `on_result` hears the channel and a word for each attempt: delivered, retry, failed or
    dropped. `on_unreachable` hears the users of whom a critical notice has failed on every
    channel, each time that these change; nothing reaches them until they are gone from it.
    """

    def __init__(
        self,
        channels: Sequence[Channel],
        *,
        routing: Routing,
        renderer: Renderer,
        store: OutboxStore,
        clock: Clock,
        settings: OutboxSettings | None = None,
        on_result: Callable[[str, str], None] = lambda _channel, _word: None,
        on_unreachable: Callable[[frozenset[str]], None] = lambda _users: None,
    ) -> None:
        self._renderer = renderer
        self._store = store
        self._clock = clock
        self._settings = settings or OutboxSettings()
        self._on_result = on_result
        self._reachability = Reachability(on_unreachable)
        self._outbox = Outbox(settings=self._settings, clock=clock)
        self._told: deque[Notice] = deque()
        self._wake = asyncio.Event()
        self._progress = asyncio.Event()
        # One for each channel there could be: a reload may set it up, or change it.
        given = {channel.name: channel for channel in channels}
        self._senders = {name: self._sender(name, given.get(name)) for name in CHANNELS}
        self._routing = self._checked(routing)
        self._keeping = False
        self._ended = False
        self._log = structlog.get_logger()

    @property
    def unreachable(self) -> frozenset[str]:
        """The users of whom a critical notice has failed on every channel, and nothing arrived."""
        return self._reachability.unreachable

    def tell(self, notice: Notice) -> None:
        """Log the notice and queue it; returns at once and never raises."""
        log_notice(notice)
        if self._ended:
            self._log.warning(
                "notify.not_told",
                reason="the notifier has stopped",
                advice="the notice is in this log alone",
                **ids_of(notice),
            )
            return
        self._told.append(notice)
        self._wake.set()

    def reroute(
        self,
        routing: Routing,
        *,
        channels: Mapping[str, Channel | None] = _NO_CHANNELS,
        renderer: Renderer | None = None,
    ) -> None:
        """Use other addresses and wishes from now on, and other channels and templates.

        `channels` has those that change, by name; None: that one is not set up any more. What
        is being sent by the one before is let end; what waits goes by the new one, at once.
        """
        for name, channel in channels.items():
            self._senders[name].use(channel)
            self._outbox.try_again(name)
        self._renderer = renderer or self._renderer
        self._routing = self._checked(routing)
        self._give_up_unsendable()
        self._wake_senders()
        self._wake.set()

    async def run(self, stop: asyncio.Event) -> None:
        """Tell until `stop` is set, then try at most `drain_timeout_s` longer what is due.

        Set `stop` after all who tell have ended, and stop the store after this has returned:
        what is left is kept there and sent at the next start.
        """
        try:
            self._admit(await self._store.left_behind())
            async with asyncio.TaskGroup() as group:
                works = [self._keep_told(), self._refresh()]
                works += [sender.run() for sender in self._senders.values()]
                tasks = [group.create_task(work) for work in works]
                await stop.wait()
                await self._drain()
                for task in tasks:
                    task.cancel()
        finally:
            self._ended = True
            await self._close()

    async def _keep_told(self) -> None:
        """Turn what is told into notifications, and save every change, for ever."""
        while True:
            if not (self._told or self._outbox.has_changes):
                self._wake.clear()
                self._progress.set()
                await self._wake.wait()
                continue
            self._keeping = True
            await self._keep_once()
            self._keeping = False
            self._wake_senders()
            await asyncio.sleep(0)

    async def _keep_once(self) -> None:
        # A flood of notices lets the guards have their turn in between.
        for _ in range(min(len(self._told), _BATCH)):
            self._address(self._told.popleft())
        changed = self._outbox.take_changed()
        await self._store.save(changed)
        self._outbox.mark_kept(changed)

    def _address(self, notice: Notice) -> None:
        ways = self._routing.first(notice)
        if notice.severity is Severity.CRITICAL:
            ways += self._open_ways_beside(ways)
        for user_id, channel in ways:
            self._enqueue(notice, user_id, channel)
        if not ways and "action_id" in notice.data:
            # What the record lacks is taken for untold at the next start.
            self._outbox.note_told(self._render(notice, "", LOG_CHANNEL))

    def _open_ways_beside(self, ways: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
        """Return a further way for each user whose ways have all failed again and again."""
        shut = self._outbox.ways.is_shut
        beside = []
        for user_id in dict.fromkeys(user_id for user_id, _ in ways):
            chosen = {channel for user, channel in ways if user == user_id}
            if all(shut(user_id, channel) for channel in chosen):
                others = self._routing.channels_of(user_id)
                fresh = (c for c in others if c not in chosen and not shut(user_id, c))
                beside += [(user_id, channel) for channel in itertools.islice(fresh, 1)]
        return beside

    def _enqueue(self, notice: Notice, user_id: str, channel: str) -> None:
        def render(told: Notice) -> Notification:
            return self._render(told, user_id, channel)

        if self._outbox.fold(notice, user_id, channel, render):
            self._log.info("notify.coalesced", user=user_id, channel=channel, **ids_of(notice))
        else:
            self._add(render(notice))

    def _add(self, row: Notification) -> None:
        dropped = self._outbox.add(row)
        if dropped is not None:
            self._on_result(dropped.channel, "dropped")
            self._log.warning(
                "notify.dropped",
                reason=dropped.last_error,
                advice="the notice is in this log; see whether the channel works:"
                f" marginguard notify test --channel {dropped.channel}",
                **context_of(dropped),
            )

    def _render(self, notice: Notice, user_id: str, channel: str) -> Notification:
        now = self._clock.now()
        recipient = self._routing.recipient(user_id, channel) or Recipient(user_id=user_id, to="")
        try:
            message = self._renderer.message(notice, channel, recipient)
        except Exception as error:  # noqa: BLE001 - a template's fault must not cost the notice
            self._log.error(
                "notify.not_rendered",
                exc_info=error,
                advice="correct the template, or report it; the plain text is sent",
                **ids_of(notice),
            )
            return Notification(
                id=notice.id, user_id=user_id, channel=channel, notice=notice, created_at=now,
                next_attempt_at=now, text=notice.text,
                subject=f"marginguard {notice.severity.value.upper()}: {notice.kind.value}",
                payload=payload_of(notice, user_id) if channel == "webhook" else None,
            )  # fmt: skip
        return Notification(
            id=notice.id,
            user_id=user_id,
            channel=channel,
            notice=notice,
            subject=message.subject,
            text=message.text,
            created_at=now,
            next_attempt_at=now,
            html=message.html,
            payload=message.payload,
            late_note=message.late_note,
        )

    def _checked(self, routing: Routing) -> Routing:
        """Return the routing; raises `ValueError` if it uses what nobody sends on."""
        set_up = {name for name, sender in self._senders.items() if sender.is_set_up}
        if missing := routing.usable - set_up:
            raise ValueError(f"no such channels: {', '.join(sorted(missing))}")
        return routing

    def _sender(self, name: str, channel: Channel | None) -> Sender:
        return Sender(
            name,
            channel,
            self._outbox,
            routing=lambda: self._routing,
            on_attempt=self._after_attempt,
            on_change=self._wake.set,
            clock=self._clock,
            settings=self._settings,
        )

    def _after_attempt(self, row: Notification, delivery: Delivery) -> None:
        """Turn to the next channel when a critical notice needs it."""
        if isinstance(delivery, Delivered):
            self._on_result(row.channel, "delivered")
            self._reachability.reached(row.user_id)
            return
        self._on_result(row.channel, "retry" if row.pending else "failed")
        # A single hiccup is not worth a message elsewhere; being told to wait is.
        if row.critical and (self._is_shut(row) or delivery.retry_after_s is not None):
            self._escalate(row)

    def _is_shut(self, row: Notification) -> bool:
        return row.failing or (row.pending and self._outbox.ways.is_shut(row.user_id, row.channel))

    def _escalate(self, row: Notification) -> None:
        others = [
            other
            for other in self._outbox.family(row.id, row.user_id)
            if other.channel != row.channel
        ]
        # Where one has arrived or may yet arrive, that is enough.
        if not all(self._is_shut(other) for other in others):
            return
        tried = {row.channel, *(other.channel for other in others)}
        channels = self._routing.channels_of(row.user_id)
        following = next((channel for channel in channels if channel not in tried), None)
        if following is not None:
            self._log.warning(
                "notify.escalated", to=following, reason=row.last_error, **context_of(row)
            )
            self._add(self._render(row.notice, row.user_id, following))
        elif self._is_shut(row):
            self._reachability.lost(row, tried)

    def _admit(self, rows: Sequence[Notification]) -> None:
        """Take in stored notifications; those for channels that are gone have failed.

        Those of users who are not known here are left alone: another daemon may share the store.
        """
        self._outbox.admit([row for row in rows if self._routing.knows(row.user_id)])
        self._give_up_unsendable()
        self._wake_senders()
        self._wake.set()

    def _give_up_unsendable(self) -> None:
        """Turn to other channels with what waits for one that is not set up."""
        for row in self._outbox.waiting:
            sender = self._senders.get(row.channel)
            if sender is None or not sender.is_set_up:
                failure = out_of_reach(row)
                self._after_attempt(self._outbox.settle(row, failure), failure)

    async def _refresh(self) -> None:
        """Take in what is pending in the store, and then what somebody has made pending again."""
        whole = True
        counted = False
        while True:
            try:
                self._admit(await self._store.unfinished(resent_only=not whole))
                whole = False
                if not counted:
                    since = self._clock.now() - timedelta(days=1)
                    self._outbox.count_delivered(await self._store.delivered_since(since))
                    counted = True
            except Transient as error:
                whole = True
                self._log.debug("notify.not_refreshed", error=str(error))
            await asyncio.sleep(self._settings.refresh_s)

    def _wake_senders(self) -> None:
        for sender in self._senders.values():
            sender.wake()

    async def _drain(self) -> None:
        """Wait until nothing more can be done now, for a bounded time."""
        outbox = self._outbox
        try:
            async with asyncio.timeout(self._settings.drain_timeout_s):
                while self._told or self._keeping or outbox.has_changes or not outbox.is_idle:
                    self._progress.clear()
                    await self._progress.wait()
        except TimeoutError:
            return

    async def _close(self) -> None:
        """Keep what is left, say what that is, and close the channels."""
        while self._told:
            self._address(self._told.popleft())
        try:
            async with asyncio.timeout(_LAST_SAVE_S):
                await self._store.save(self._outbox.take_changed())
        except TimeoutError:
            self._log.warning(
                "notify.not_kept", advice="what was told last may be missing in the record"
            )
        for row in self._outbox.pending:
            self._log.warning(
                "notify.undelivered",
                advice="it is sent when the daemon starts again",
                **context_of(row),
            )
        for sender in self._senders.values():
            await sender.aclose()
