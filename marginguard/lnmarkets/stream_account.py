"""An account's events, as the stream pushes them."""

import asyncio
import secrets
from collections.abc import Callable
from dataclasses import dataclass

from marginguard.domain.errors import Unauthorized
from marginguard.domain.units import AccountId, PositionId
from marginguard.lnmarkets.server_clock import ServerClock
from marginguard.lnmarkets.signing import Credentials
from marginguard.lnmarkets.stream import Stream, StreamLimits, StreamTimings
from marginguard.lnmarkets.stream_connection import Connection
from marginguard.lnmarkets.stream_protocol import (
    ACCOUNT_TOPICS,
    AccountEvent,
    Frame,
    authentication,
    permissions,
)
from marginguard.ports import Clock


@dataclass(frozen=True, kw_only=True, slots=True)
class AccountListener:
    """Who is told what an account's stream brings; each call must return quickly.

    `on_account_event(kind, position_id)` is as `stream_protocol.AccountEvent`.
    `on_snapshot_needed` follows every (re)connection: what happened before it is known to a read
    alone. `on_permissions` tells what the key may do. `on_refused` is called at every attempt
    that the exchange refuses, every 30 s.
    """

    on_account_event: Callable[[str, PositionId | None], None]
    on_snapshot_needed: Callable[[], None]
    on_permissions: Callable[[frozenset[str]], None]
    on_refused: Callable[[Unauthorized], None]


class AccountStream:
    """One connection for an account's private topics."""

    def __init__(
        self,
        url: str,
        account_id: AccountId,
        credentials: Credentials,
        *,
        listener: AccountListener,
        server_clock: ServerClock,
        clock: Clock,
        limits: StreamLimits,
        timings: StreamTimings = StreamTimings(),
    ) -> None:
        self.name = f"account {account_id}"
        self._credentials = credentials
        self._listener = listener
        self._server_clock = server_clock
        self._limits = limits
        self._permissions: frozenset[str] | None = None
        self._stream = Stream(
            url,
            self,
            on_snapshot_needed=listener.on_snapshot_needed,
            clock=clock,
            limits=limits,
            timings=timings,
        )

    @property
    def permissions(self) -> frozenset[str] | None:
        """What the key may do, as the stream told last; None before it did."""
        return self._permissions

    async def run(self, stop: asyncio.Event) -> None:
        """Stay connected until `stop` is set."""
        await self._stream.run(stop)

    async def greet(self, connection: Connection) -> None:
        """Authenticate and subscribe."""
        try:
            granted = await self._authenticate(connection)
        except Unauthorized:
            # A signature whose time is off is refused in the same way as a wrong key.
            await self._server_clock.resync()
            try:
                granted = await self._authenticate(connection)
            except Unauthorized as error:
                self._listener.on_refused(error)
                raise
        self._permissions = granted
        self._listener.on_permissions(granted)
        await connection.subscribe(ACCOUNT_TOPICS)

    def push(self, frame: Frame) -> None:
        """Tell the listener of an event."""
        if isinstance(frame, AccountEvent):
            self._listener.on_account_event(frame.kind, frame.position_id)

    async def watch(self) -> None:
        """Return at once: an account may be silent for days, and the heartbeat tells of life."""

    async def _authenticate(self, connection: Connection) -> frozenset[str]:
        await self._limits.authentications.acquire()
        result = await connection.call(
            "authenticate",
            authentication(
                self._credentials,
                timestamp_ms=self._server_clock.timestamp_ms(),
                nonce=secrets.token_hex(16),
            ),
        )
        return permissions(result)
