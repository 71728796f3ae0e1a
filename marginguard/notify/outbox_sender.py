"""One channel's task: it sends what is due there, one after the other, and hinders nobody else."""

import asyncio
from collections.abc import Callable
from typing import Final

import structlog

from marginguard.domain.notification import Notification
from marginguard.notify.channel import Action, Channel, Delivered, Delivery, Failed
from marginguard.notify.notice_log import context_of
from marginguard.notify.outbox import Outbox
from marginguard.notify.outbox_rules import OutboxSettings, message_of
from marginguard.notify.routing import Routing
from marginguard.notify.trial import missing_recipient
from marginguard.ports import Clock

_LONGEST_SLEEP_S: Final = 30.0
"""So that a clock that was set, or a machine that slept, holds nothing up for long."""

_CLOSE_TIMEOUT_S: Final = 2.0


def out_of_reach(row: Notification) -> Failed:
    """Return the failure of what is for a user or a channel that the configuration lacks."""
    finding = missing_recipient(row.channel, row.user_id)
    return Failed(
        reason=f"user {row.user_id} cannot be reached by {row.channel} (any more)",
        action=finding.action or Action.WAIT,
        advice=f"if that channel is to be used, set up [notifications.{row.channel}] and give the"
        " user an address there",
        for_good=True,
    )


class Sender:
    """Sends on the channel of one name what the outbox has for it; None: it is not set up.

    A channel that is replaced is closed once what was being sent by it has ended. `routing`
    returns the routing as it is now. `on_attempt` hears what has become of a notification and how
    the attempt ended; `on_change`, that there is something to save.
    """

    def __init__(
        self,
        name: str,
        channel: Channel | None,
        outbox: Outbox,
        *,
        routing: Callable[[], Routing],
        on_attempt: Callable[[Notification, Delivery], None],
        on_change: Callable[[], None],
        clock: Clock,
        settings: OutboxSettings,
    ) -> None:
        self._name = name
        self._channel = channel
        self._replaced: list[Channel] = []
        self._outbox = outbox
        self._routing = routing
        self._on_attempt = on_attempt
        self._on_change = on_change
        self._clock = clock
        self._settings = settings
        self._wake = asyncio.Event()
        self._log = structlog.get_logger()

    @property
    def is_set_up(self) -> bool:
        """Whether there is a channel to send on."""
        return self._channel is not None

    def use(self, channel: Channel | None) -> None:
        """Send on another channel from now on, or on none."""
        if self._channel is not None:
            self._replaced.append(self._channel)
        self._channel = channel
        self.wake()

    def wake(self) -> None:
        """Look at once whether something is due."""
        self._wake.set()

    async def run(self) -> None:
        """Send for ever; ends by cancellation alone."""
        while True:
            self._wake.clear()
            await self._close_replaced()
            row = self._outbox.take_due(self._name)
            if row is None:
                await self._rest()
            elif not self._hold(row):
                self._note(row, await self._attempt(row))

    async def aclose(self) -> None:
        """Close the channel, for a bounded time; call it when `run` has ended."""
        self.use(None)
        await self._close_replaced()

    async def _close_replaced(self) -> None:
        while self._replaced:
            try:
                async with asyncio.timeout(_CLOSE_TIMEOUT_S):
                    await self._replaced.pop().aclose()
            except TimeoutError:
                self._log.info("notify.closed_by_force", channel=self._name)
            except Exception as error:  # noqa: BLE001 - what is not used any more ends nothing
                self._log.warning(
                    "notify.not_closed",
                    channel=self._name,
                    exc_info=error,
                    advice="nothing is lost by it; report it as a bug of marginguard",
                )

    async def _rest(self) -> None:
        due_in_s = self._outbox.next_due_in_s(self._name)
        wait_s = _LONGEST_SLEEP_S if due_in_s is None else min(due_in_s, _LONGEST_SLEEP_S)
        try:
            async with asyncio.timeout(wait_s):
                await self._wake.wait()
        except TimeoutError:
            return

    def _hold(self, row: Notification) -> bool:
        """Put the row off if the user's wishes say so; returns whether they do."""
        if row.critical:
            return False
        preferences = self._routing().preferences_of(row.user_id)
        delivered = self._outbox.delivered_to(row.user_id, row.channel)
        until = preferences.held_until(self._clock.now(), delivered)
        if until is None:
            return False
        self._outbox.hold(row, until)
        self._on_change()
        self._log.info("notify.held", until=until.isoformat(), **context_of(row))
        return True

    async def _attempt(self, row: Notification) -> Delivery:
        channel = self._channel
        recipient = self._routing().recipient(row.user_id, row.channel)
        if recipient is None or channel is None:
            return out_of_reach(row)
        age_s = (self._clock.now() - row.notice.at).total_seconds()
        late = age_s >= self._settings.late_after_s
        try:
            async with asyncio.timeout(self._settings.send_limit_s):
                return await channel.send(message_of(row, to=recipient.to, late=late))
        except TimeoutError:
            return Failed(
                reason=f"{row.channel} took longer than {self._settings.send_limit_s:g} s",
                action=Action.CHECK_NETWORK,
                advice=f"check the settings in [notifications.{row.channel}] with"
                f" `marginguard notify test --channel {row.channel}`",
            )
        except Exception as error:  # noqa: BLE001 - a fault in one channel must not end the daemon
            self._log.error(
                "notify.channel_fault",
                exc_info=error,
                advice="report it as a bug of marginguard",
                **context_of(row),
            )
            return Failed(
                reason=f"the channel has a fault ({type(error).__name__})",
                action=Action.WAIT,
                advice="report it as a bug of marginguard; the log holds the details",
            )

    def _note(self, row: Notification, delivery: Delivery) -> None:
        done = self._outbox.settle(row, delivery)
        self._on_attempt(done, delivery)
        self._on_change()
        if isinstance(delivery, Delivered):
            self._log.info("notify.delivered", **context_of(row))
            return
        write = self._log.info if done.pending and done.attempts == 1 else self._log.warning
        write(
            "notify.retry" if done.pending else "notify.failed",
            reason=delivery.reason,
            attempts=done.attempts,
            next_attempt_at=done.next_attempt_at.isoformat() if done.pending else None,
            advice=delivery.advice,
            **context_of(row),
        )
