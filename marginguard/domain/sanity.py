"""Whether a price that jumped may be believed."""

from collections import deque
from collections.abc import Iterable
from fractions import Fraction
from typing import Final

from marginguard.domain.contracts import INVERSE, Contract
from marginguard.domain.model import Position
from marginguard.domain.units import Percent, Price

WITNESS_LIFE_S: Final = 5.0
"""How long an index or a position's P&L, once read, speaks for a price."""

_MAX_POSITIONS: Final = 16


def jumps(price: Price, reference: Price, max_jump: Percent) -> bool:
    """Return whether `price` lies more than `max_jump` percent away from `reference`."""
    return abs(price - reference) > reference * max_jump / 100


def bears_out(
    position: Position, price: Price, max_jump: Percent, contract: Contract = INVERSE
) -> bool:
    """Return whether the P&L that the exchange reports for `position` speaks for `price`.

    The exchange rounds the P&L down to a whole sat, so that it was made at some price between
    those of `pl` and `pl + 1`; both must be within `max_jump` percent. The formula is the
    contract's own, solved for the price.
    """
    for pl in (position.pl, position.pl + 1):
        implied = contract.price_at_loss(
            side=position.side,
            quantity=position.quantity,
            entry=position.entry_price,
            loss=Fraction(-pl),
        )
        if implied is None or jumps(price, Price(float(implied)), max_jump):
            return False
    return True


def is_confirmed(
    *,
    last: Price,
    index: Price | None,
    accepted: Price | None,
    unconfirmed: Price | None,
    max_jump: Percent,
    positions: Iterable[Position] = (),
) -> bool:
    """Return whether something bears out the last price.

    That is the last price `accepted` before it, the `index`, the price read just before it that
    nothing had confirmed (two readings that agree are no accident), or the P&L of one of
    `positions`. Each of them confirms and none vetoes. Without an accepted price (the first
    reading) the others decide.
    """
    for seen in (accepted, index, unconfirmed):
        if seen is not None and not jumps(last, seen, max_jump):
            return True
    return any(bears_out(position, last, max_jump) for position in positions)


class Belief:
    """What has been seen of the market, and which new price may be believed on it.

    Every source of prices shares one. Times are monotonic seconds, given by the caller.
    """

    def __init__(self, max_jump: Percent, *, witness_life_s: float = WITNESS_LIFE_S) -> None:
        self._max_jump = max_jump
        self._witness_life_s = witness_life_s
        self._accepted: Price | None = None
        self._unconfirmed: Price | None = None
        self._index: tuple[Price, float] | None = None
        self._positions: deque[tuple[Position, float]] = deque(maxlen=_MAX_POSITIONS)

    @property
    def max_jump(self) -> Percent:
        """The percentage that a price may move without being doubted."""
        return self._max_jump

    @property
    def accepted(self) -> Price | None:
        """The last price that was believed."""
        return self._accepted

    def index(self, at_s: float) -> Price | None:
        """Return the index if it was seen recently."""
        if self._index is None or at_s - self._index[1] > self._witness_life_s:
            return None
        return self._index[0]

    def saw_index(self, price: Price, at_s: float) -> None:
        """Take note of the index."""
        self._index = (price, at_s)

    def saw_position(self, position: Position, at_s: float) -> None:
        """Take note of a position as the exchange just reported it."""
        self._positions.append((position, at_s))

    def judge(self, last: Price, at_s: float) -> bool:
        """Return whether a price just seen may be believed, and remember it."""
        accepted = self._accepted
        # Nearly every price is near the one before it.
        if accepted is not None and not jumps(last, accepted, self._max_jump):
            confirmed = True
        else:
            confirmed = self._is_confirmed(last, at_s, self._unconfirmed)
        if confirmed:
            self._accepted, self._unconfirmed = last, None
        else:
            self._unconfirmed = last
        return confirmed

    def reconsider(self, last: Price, at_s: float) -> bool:
        """Return whether a price seen earlier is believed by now; it is no witness for itself."""
        confirmed = self._is_confirmed(last, at_s, None)
        if confirmed:
            self._accepted, self._unconfirmed = last, None
        return confirmed

    def _is_confirmed(self, last: Price, at_s: float, unconfirmed: Price | None) -> bool:
        oldest_s = at_s - self._witness_life_s
        return is_confirmed(
            last=last,
            index=self.index(at_s),
            accepted=self._accepted,
            unconfirmed=unconfirmed,
            max_jump=self._max_jump,
            positions=[position for position, seen_s in self._positions if seen_s >= oldest_s],
        )
