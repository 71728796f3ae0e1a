"""Ground truth: every request that left a process, and what the exchange made of it."""

from dataclasses import dataclass, field
from typing import Final
from uuid import UUID

from marginguard.domain.model import ActionKind
from marginguard.domain.records import ActionRecord
from marginguard.domain.units import CROSS

REQUEST_LIFE_S: Final = 30.0
"""How long the exchange takes a signed request for."""

MOST_LATE_S: Final = 29.5
"""How long after its signing a request is carried out at the latest."""


@dataclass(frozen=True, kw_only=True)
class Wish:
    """A call that changes something, as the exchange gets it."""

    call: str
    position_id: str
    amount: int = 0
    client_id: str | None = None
    price: float | None = None
    order: object = None

    def __str__(self) -> str:
        size = f" {self.amount}" if self.amount else ""
        price = "" if self.call != "set_stop_loss" else f" {self.price}"
        tag = f" as {self.client_id}" if self.client_id else ""
        return f"{self.call} {self.position_id}{size}{price}{tag}"

    def answers(self, record: ActionRecord) -> bool:
        """Whether this is what `record` intends to ask for now."""
        if self.call == "close":
            return record.closes and record.position_id == self.position_id
        if self.call == "open_trade":
            return record.is_reopening and record.client_id == self.client_id
        if record.position_id != self.position_id:
            return False
        if self.call == "add_margin":
            return record.kind.spends and record.amount == self.amount
        if self.call == "reduce_cross":
            return (
                record.kind is ActionKind.REDUCE_POSITION
                and record.position_id == CROSS
                and (record.quantity, record.client_id) == (self.amount, self.client_id)
            )
        return record.kind is ActionKind.SET_STOP_LOSS and record.stop_loss == self.price


@dataclass(kw_only=True)
class Request:
    """A request that was signed and sent. Times are the world's, in seconds.

    `record` is the intent it answers, None if there is none; `process` the number of the process
    that sent it. `settled` says that it got an answer which leaves no doubt.
    """

    wish: Wish
    account: str
    record: ActionRecord | None
    signed_s: float
    process: int
    applied_s: float | None = None
    refusal: str | None = None
    exchange_id: str | None = None
    settled: bool = False

    @property
    def spends(self) -> bool:
        """Whether it takes sats from the account's balance."""
        return self.wish.call == "add_margin"

    def may_still_come(self, now_s: float) -> bool:
        """Whether somebody who sees no more than the answers must expect it to be carried out."""
        return not self.settled and now_s - self.signed_s < REQUEST_LIFE_S


@dataclass
class Ledger:
    """All requests, and all changes that others made."""

    requests: list[Request] = field(default_factory=list)
    foreign: list[tuple[float, str, str, str]] = field(default_factory=list)

    def applied(self) -> list[Request]:
        """Return what was carried out, in that order."""
        done = [request for request in self.requests if request.applied_s is not None]
        return sorted(done, key=lambda request: request.applied_s or 0.0)

    def of(self, action_id: UUID) -> list[Request]:
        """Return the requests of one action."""
        return [r for r in self.requests if r.record is not None and r.record.id == action_id]

    def touched(
        self, account: str, position_id: str, since_s: float, until_s: float, *what: str
    ) -> bool:
        """Whether somebody else did one of these things to the position in that time."""
        return any(
            since_s <= at_s <= until_s and (where, which) == (account, position_id) and how in what
            for at_s, where, which, how in self.foreign
        )
