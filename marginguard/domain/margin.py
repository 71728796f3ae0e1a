"""The margin mathematics: pure functions over one position (or several) and a price.

Formulas follow LN Markets' documentation of its inverse BTC/USD perpetual; the contract is an
argument, so that the same functions serve linear contracts. Money goes in and out as whole sats
(whole units of the settlement currency for a linear contract).

Rounding is towards safety: a level is never given lower, a remedy never smaller, a liquidation
price never farther from the market and a distance never larger than exact arithmetic gives.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import ROUND_CEILING, Decimal
from fractions import Fraction
from typing import Final

from marginguard.domain.contracts import INVERSE, Contract
from marginguard.domain.model import Assessment, MarginMode, Position, RiskLevel, Side
from marginguard.domain.units import PRICE_STEP, Percent, Price, Sats

FULLY_USED: Final = Percent(100.0)

_RISK_LEVELS: Final = (
    (95, RiskLevel.CRITICAL),
    (90, RiskLevel.HIGH),
    (80, RiskLevel.MEDIUM),
    (70, RiskLevel.LOW),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Remedy:
    """How much margin to add. `capped` says that leverage 1 did not allow all that was asked."""

    amount: Sats
    capped: bool


def profit_and_loss(position: Position, price: Price, contract: Contract = INVERSE) -> Sats:
    """Return the position's profit (or loss, negative) at `price` in sats, rounded down."""
    return Sats(
        contract.profit_and_loss(
            side=position.side,
            quantity=position.quantity,
            entry=position.entry_price,
            price=price,
        )
    )


def equity(position: Position, price: Price, contract: Contract = INVERSE) -> Sats:
    """Return what the position is worth at `price` in sats: its margin plus its P&L."""
    return Sats(position.margin + profit_and_loss(position, price, contract))


def margin_level(position: Position, price: Price, contract: Contract = INVERSE) -> Percent:
    """Return how much of the position's buffer its loss has used up, in percent.

    0 at entry and in profit, 100 at liquidation, more beyond it. A position without a buffer
    is at 100.
    """
    return _level(
        loss=-profit_and_loss(position, price, contract),
        buffer=position.buffer,
    )


def portfolio_level(
    positions: Iterable[Position], price: Price, contract: Contract = INVERSE
) -> Percent:
    """Return the level of several positions taken together: 100 * max(0, -sum(P&L)) / sum(B).

    No position at all is level 0.
    """
    held = tuple(positions)
    if not held:
        return Percent(0.0)
    return _level(
        loss=-sum(profit_and_loss(position, price, contract) for position in held),
        buffer=sum(position.buffer for position in held),
    )


def risk_level(level: Percent) -> RiskLevel:
    """Return the name of a margin level: low from 70, medium 80, high 90, critical 95."""
    return next((risk for bound, risk in _RISK_LEVELS if level >= bound), RiskLevel.SAFE)


def show_level(level: Percent, threshold: Percent | None = None) -> str:
    """Return a level for people to read: never shown lower, so rounded up to one decimal.

    With a `threshold`, it gets as many decimals as it takes to be shown on its side of it.
    """
    # The last bit of a level was rounded up already: 81.10000000000001 is 81.1, not 81.2.
    exact = Decimal(repr(math.nextafter(level, 0.0)))
    for decimals in range(1, 16):
        shown = exact.quantize(Decimal(1).scaleb(-decimals), ROUND_CEILING)
        if threshold is None or (shown >= Decimal(repr(threshold))) == (level >= threshold):
            return str(shown)
    return repr(level)


def exact_liquidation_price(position: Position, contract: Contract = INVERSE) -> Fraction | None:
    """Return the price at which the loss equals the buffer, unrounded; None if there is none.

    Without a buffer (below 0) that lies in the profit, as the exchange has it.
    """
    return _price_at_level(position, FULLY_USED, contract)


def liquidation_price(position: Position, contract: Contract = INVERSE) -> Price | None:
    """Return the price at which the loss equals the buffer; None for a short that has none.

    Rounded to a float towards the market: up for a long, down for a short.
    """
    return _nearer(position, exact_liquidation_price(position, contract))


def liquidation_distance(
    position: Position, price: Price, contract: Contract = INVERSE
) -> Percent | None:
    """Return how far `price` is from liquidation in percent of `price`.

    0 once the price has reached it or gone beyond; None where there is no liquidation price.
    """
    return _distance(position, price, exact_liquidation_price(position, contract))


def trigger_price(
    position: Position, threshold: Percent, contract: Contract = INVERSE
) -> Price | None:
    """Return the price at which the margin level reaches `threshold`; None if it never does.

    Rounded to a float, towards the market if the level has reached `threshold` there, so that
    at it the level is never below `threshold`. Without a buffer it is the liquidation price.
    """
    exact = _price_at_level(position, threshold, contract)
    if exact is None:
        return None
    nearer = _towards_market(position.side, exact)
    if margin_level(position, nearer, contract) >= threshold:
        return nearer
    return _away_from_market(position.side, exact)


def room_to_add(position: Position, contract: Contract = INVERSE) -> Sats | None:
    """Return the sats that may still be added before leverage falls below 1; None: no cap.

    The exchange refuses to add margin to an isolated trade beyond its value at entry
    (`quantity * 1e8 / entry`); a deposit into the cross margin has no such cap.
    """
    if position.mode is MarginMode.CROSS:
        return None
    ceiling = contract.notional(quantity=position.quantity, entry=position.entry_price)
    return Sats(max(0, math.floor(ceiling) - position.margin))


def margin_to_reach_level(
    position: Position, price: Price, target: Percent, contract: Contract = INVERSE
) -> Remedy:
    """Return the margin to add so that the level at `price` is at most `target`.

    `ceil(loss * 100 / target - B)`, and a buffer of 1 sat at least; capped where an isolated
    trade's leverage would fall below 1. Raises `ValueError` for a target of 0 or less.
    """
    if target <= 0:
        raise ValueError(f"a target level must be above 0, not {target}")
    loss = -profit_and_loss(position, price, contract)
    return _adding_up_to(math.ceil(loss * 100 / Fraction(target)), position, contract)


def margin_to_reach_distance(
    position: Position, price: Price, distance: Percent, contract: Contract = INVERSE
) -> Remedy:
    """Return the margin to add so that liquidation is `distance` % away from `price`.

    The buffer whose liquidation price is `price * (1 - distance/100)` for a long, with plus for
    a short, less the present buffer; capped where an isolated trade's leverage would fall below
    1. Raises `ValueError` unless `distance` is between 0 and 100: no margin puts it farther.
    """
    if not 0 < distance < 100:
        raise ValueError(f"a liquidation distance must be between 0 and 100 %, not {distance}")
    goal = Fraction(price) * (1 - position.side.sign * Fraction(distance) / 100)
    loss = contract.loss_at(
        side=position.side, quantity=position.quantity, entry=position.entry_price, price=goal
    )
    return _adding_up_to(math.ceil(loss), position, contract)


def assess(
    position: Position, price: Price, threshold: Percent | None, contract: Contract = INVERSE
) -> Assessment:
    """Return everything worth knowing of `position` at `price`, with its trigger price."""
    level = margin_level(position, price, contract)
    liquidation = exact_liquidation_price(position, contract)
    return Assessment(
        position=position,
        price=price,
        level=level,
        risk=risk_level(level),
        liquidation_price=_nearer(position, liquidation),
        liquidation_distance=_distance(position, price, liquidation),
        trigger_price=(None if threshold is None else trigger_price(position, threshold, contract)),
    )


def to_price_step(price: Fraction | Price) -> Price:
    """Return the multiple of the exchange's price step (0.5) that is nearest to `price`."""
    steps = Fraction(price) / Fraction(PRICE_STEP)
    return Price(math.floor(steps + Fraction(1, 2)) * PRICE_STEP)


def _level(*, loss: int, buffer: int) -> Percent:
    if buffer <= 0:
        return FULLY_USED
    return Percent(_float_up(Fraction(100 * max(0, loss), buffer)))


def _price_at_level(position: Position, level: Percent, contract: Contract) -> Fraction | None:
    buffer = position.buffer
    part = Fraction(level) / 100 if buffer > 0 and level != FULLY_USED else 1
    return contract.price_at_loss(
        side=position.side,
        quantity=position.quantity,
        entry=position.entry_price,
        loss=Fraction(buffer * part),
    )


def _nearer(position: Position, exact: Fraction | None) -> Price | None:
    return None if exact is None else _towards_market(position.side, exact)


def _distance(position: Position, price: Price, liquidation: Fraction | None) -> Percent | None:
    if liquidation is None:
        return None
    market = Fraction(price)
    room = position.side.sign * (market - liquidation)
    return Percent(_float_down(max(Fraction(0), 100 * room / market)))


def _adding_up_to(buffer: int, position: Position, contract: Contract) -> Remedy:
    # Without any buffer the level is 100 whatever the loss, so 1 sat is the least.
    wanted = max(0, max(1, buffer) - position.buffer)
    room = room_to_add(position, contract)
    if room is None or wanted <= room:
        return Remedy(amount=Sats(wanted), capped=False)
    return Remedy(amount=room, capped=True)


def _towards_market(side: Side, price: Fraction) -> Price:
    return Price(_float_up(price) if side is Side.LONG else _float_down(price))


def _away_from_market(side: Side, price: Fraction) -> Price:
    return Price(_float_down(price) if side is Side.LONG else _float_up(price))


def _float_up(exact: Fraction) -> float:
    nearest = float(exact)
    return math.nextafter(nearest, math.inf) if _excess(nearest, exact) < 0 else nearest


def _float_down(exact: Fraction) -> float:
    nearest = float(exact)
    return math.nextafter(nearest, -math.inf) if _excess(nearest, exact) > 0 else nearest


def _excess(number: float, exact: Fraction) -> int:
    """Return something of the sign of `number - exact`."""
    # Integers instead of fractions: this runs several times for every position at every price.
    numerator, denominator = number.as_integer_ratio()
    return numerator * exact.denominator - exact.numerator * denominator
