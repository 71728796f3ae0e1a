"""What `status` and the start of the daemon read of the notifications."""

from dataclasses import dataclass
from datetime import datetime
from typing import Final, Self

from pydantic import TypeAdapter

from marginguard.domain.notification import FAILING_AFTER
from marginguard.domain.records import ActionRecord
from marginguard.storage.codec import decode_actions
from marginguard.storage.database import Connection
from marginguard.storage.sql_files import statement

JUDGED_BY: Final = 10
"""By how many of the newest settled notifications a channel is judged."""

FAIR_RATE: Final = 0.8
"""The share of delivered ones below which a channel needs looking after."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ChannelRecord:
    """How a channel has done, all users together.

    `delivered` of the newest `settled` (at most `JUDGED_BY`) arrived. `failing` of the `pending`
    failed again and again. `last_error`, with its `action` and `advice`, is of the newest attempt
    that failed and has not been made good by a later one.
    """

    channel: str
    settled: int
    delivered: int
    pending: int
    failing: int
    last_delivery_at: datetime | None
    last_failure_at: datetime | None
    last_error: str | None
    action: str | None
    advice: str | None

    @classmethod
    def unused(cls, channel: str) -> Self:
        """Return the record of a channel by which nothing was ever sent."""
        return cls(
            channel=channel,
            settled=0,
            delivered=0,
            pending=0,
            failing=0,
            last_delivery_at=None,
            last_failure_at=None,
            last_error=None,
            action=None,
            advice=None,
        )

    @property
    def success_rate(self) -> float | None:
        """The share that arrived, from 0 to 1; None where nothing is settled: no verdict."""
        return self.delivered / self.settled if self.settled else None

    @property
    def needs_attention(self) -> bool:
        """Whether somebody should follow the advice."""
        rate = self.success_rate
        return self.failing > 0 or (rate is not None and rate < FAIR_RATE)


@dataclass(frozen=True, kw_only=True, slots=True)
class UnreachableUser:
    """A user of whom a critical notice failed on every channel, and whom nothing reached since."""

    user_id: str
    since: datetime


_CHANNELS = TypeAdapter(tuple[ChannelRecord, ...])
_UNREACHABLE = TypeAdapter(tuple[UnreachableUser, ...])


async def channel_records(connection: Connection) -> tuple[ChannelRecord, ...]:
    """Return how every channel that was ever used has done, by name."""
    rows = await connection.fetch(statement("select_channel_records"), JUDGED_BY, FAILING_AFTER)
    return _CHANNELS.validate_python(tuple(dict(row) for row in rows))


async def unreachable_users(connection: Connection, since: datetime) -> tuple[UnreachableUser, ...]:
    """Return the users whom no channel reaches, as far as notices since then show."""
    rows = await connection.fetch(statement("select_unreachable_users"), since, FAILING_AFTER)
    return _UNREACHABLE.validate_python(tuple(dict(row) for row in rows))


async def untold_actions(connection: Connection, since: datetime) -> tuple[ActionRecord, ...]:
    """Return the actions that ended since then and of which no notification was ever written.

    That happens where the daemon was killed between the two. Ask when the journal has been
    drained and no guard has acted yet. Raises `Malformed`.
    """
    return decode_actions(await connection.fetchval(statement("select_untold_actions"), since))
