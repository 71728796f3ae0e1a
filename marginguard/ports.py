"""What the engine needs of the outside world, as narrow protocols.

The engine, the exchange client, the storage and the notifiers meet here and in `app.py` alone.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Protocol
from uuid import UUID

from marginguard.domain.model import (
    Balance,
    ClosedTrade,
    CrossOrder,
    NewTrade,
    Position,
    PriceQuote,
    Side,
    Sighting,
    Transfer,
)
from marginguard.domain.notice import Notice
from marginguard.domain.notification import Notification
from marginguard.domain.operating import Overview
from marginguard.domain.outcome import Outcome
from marginguard.domain.records import (
    ActionRecord,
    ExecutionRecord,
    ExecutionSource,
    GuardState,
    Record,
)
from marginguard.domain.units import AccountId, GuardId, PositionId, Price, Sats, Usd


class Clock(Protocol):
    """The time of day, and time that only ever goes forward."""

    def now(self) -> datetime:
        """Return the wall clock's time, aware, in UTC."""
        ...

    def monotonic(self) -> float:
        """Return seconds that never jump; for deadlines and ages."""
        ...


class Exchange(Protocol):
    """One account on the exchange.

    Reads raise `Transient` (or a subclass), `Rejected` or `Unauthorized`; a read that returns
    is complete. It began after it was asked for; only with `max_age_s` above 0 may it be one
    that began up to so many seconds before, and after every change of ours on the account: good
    for a routine look, never for a proof. Calls that change something never raise for what the
    exchange or the network does: they return an `Outcome`.
    """

    async def balance(self, *, max_age_s: float = 0.0) -> Balance:
        """Return what the account can spend."""
        ...

    async def running_positions(self, *, max_age_s: float = 0.0) -> tuple[Position, ...]:
        """Return every running position; an empty tuple means that there are none."""
        ...

    async def closed_trade(self, position_id: PositionId, since: datetime) -> ClosedTrade | None:
        """Return the closed trade of this id if it ended at or after `since`."""
        ...

    async def deposits(self, since: datetime) -> tuple[Transfer, ...]:
        """Return the transfers into and out of the cross margin since then, by our clock."""
        ...

    async def close_position(self, position_id: PositionId) -> Outcome:
        """Ask once to close the position whole."""
        ...

    async def add_margin(self, position_id: PositionId, amount: Sats) -> Outcome:
        """Ask once to add `amount` sats (above 0) to the position's margin."""
        ...

    async def closed_by_client_id(self, client_id: str, since: datetime) -> ClosedTrade | None:
        """Return the closed trade that was opened with this tag, if it ended since then."""
        ...

    async def cross_order(self, client_id: str, since: datetime) -> CrossOrder | None:
        """Return the cross order with this tag if it was filled at or after `since`."""
        ...

    async def reduce_cross(self, side: Side, quantity: Usd, client_id: str) -> Outcome:
        """Ask once to buy (long) or sell (short) against the cross position, at the market."""
        ...

    async def open_trade(self, order: NewTrade) -> Outcome:
        """Ask once to open an isolated trade; the outcome's `exchange_id` is its id."""
        ...

    async def set_stop_loss(self, position_id: PositionId, price: Price | None) -> Outcome:
        """Ask once to set the stop-loss of an isolated trade, or (None) to do without one."""
        ...

    async def resync_clock(self) -> None:
        """Measure the exchange's clock again, after it refused a signature; never raises."""
        ...


class PriceSource(Protocol):
    """Where the last price comes from."""

    async def quote(self) -> PriceQuote:
        """Return a fresh quote; raises `Transient` or `StaleData` when there is none."""
        ...

    def bear_out(self, position: Position) -> None:
        """Take note of a position just read: its P&L may confirm a price that jumped."""
        ...


class Journal(Protocol):
    """The write-ahead record on the local disk, drained to the database."""

    async def append(self, *records: Record, patience_s: float = 0.0) -> None:
        """Make the records durable, in order; return once they are.

        Then waits at most `patience_s` for the database to hold them too. Raises `DiskFull`
        when they cannot be written.
        """
        ...

    def unsettled_actions(self) -> Sequence[ActionRecord]:
        """Return the newest record of every action that is not settled, oldest first."""
        ...

    def guard_states(self) -> Mapping[GuardId, GuardState]:
        """Return the newest state of every guard."""
        ...


class Observations(Protocol):
    """What is seen but need not survive a crash: it reaches the database soon, or not at all.

    Nothing here waits or raises.
    """

    def positions(
        self,
        account_id: AccountId,
        seen: Mapping[PositionId, Sighting],
        at: datetime,
    ) -> None:
        """Note all running positions of an account, each with who looks after it."""
        ...

    def checked(self, guard_id: GuardId, account_id: AccountId, at: datetime) -> None:
        """Note that a guard looked and had nothing to do."""
        ...


class Notifier(Protocol):
    """Tells the owner, off the critical path."""

    def tell(self, notice: Notice) -> None:
        """Queue a notice; returns at once and never raises."""
        ...


class OutboxStore(Protocol):
    """Where notifications are kept until they are delivered, and afterwards for the record."""

    async def save(self, rows: Sequence[Notification]) -> None:
        """Keep the rows, where an older revision never replaces a newer one.

        Returns within about a second, once they are in the database or, while that is away, on
        the disk or (the disk being full, too) in memory alone; never raises for any of these.
        """
        ...

    async def left_behind(self) -> tuple[Notification, ...]:
        """Return what an earlier life left on the disk, without the database; never raises."""
        ...

    async def unfinished(self, *, resent_only: bool = False) -> tuple[Notification, ...]:
        """Return the database's pending notifications, with the others of the same notices.

        With `resent_only` those that were made pending again within the last minutes. Raises
        `DatabaseUnavailable`.
        """
        ...

    async def delivered_since(self, since: datetime) -> Sequence[tuple[str, str, datetime]]:
        """Return user, channel and time of what was delivered since then, the oldest first.

        Raises `DatabaseUnavailable`.
        """
        ...


class Operator(Protocol):
    """A running daemon, for whoever speaks to it: the control socket, Telegram.

    `by` says who asks. Everything that changes something is recorded with it, refused or not, and
    returns what came of it in a plain sentence; raises `Refused` with the reason and what can be
    done instead.
    """

    def overview(self) -> Overview:
        """Return the guards and positions as they are known now, without reading anything."""
        ...

    def last_actions(self) -> Sequence[ActionRecord]:
        """Return the actions that ended last since the daemon started, newest first, at most 10."""
        ...

    async def note(self, command: str, *, by: str, answer: str, accepted: bool) -> None:
        """Record a use that changes nothing, or that was not understood."""
        ...

    async def pause(self, guard_id: str, span: timedelta, *, by: str) -> str:
        """Let a guard do no more than alert for a while (at most `LONGEST_PAUSE`)."""
        ...

    async def resume(self, guard_id: str, *, by: str) -> str:
        """End a guard's pause at once."""
        ...

    async def reload(self, *, by: str) -> str:
        """Read the configuration again; refused where it is not valid."""
        ...

    async def run_now(
        self, guard_id: str, *, by: str, source: ExecutionSource
    ) -> ExecutionRecord | None:
        """Run a guard at once under its usual rules; None where it had nothing to do."""
        ...

    async def settle(self, action_id: UUID, *, applied: bool, by: str) -> str:
        """Settle an action whose outcome no reading can tell by the owner's word."""
        ...
