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
from fractions import Fraction
from typing import Final

from marginguard.domain.contracts import INVERSE, Contract
from marginguard.domain.model import Assessment, MarginMode, Position, RiskLevel, Side
from marginguard.domain.units import PRICE_STEP, SATS_PER_BTC, Percent, Price, Sats

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


def exact_liquidation_price(position: Position, contract: Contract = INVERSE) -> Fraction | None:
    """Return the price at which the loss equals the buffer, unrounded; None if there is none."""
    return _price_at_level(position, FULLY_USED, contract)


def liquidation_price(position: Position, contract: Contract = INVERSE) -> Price | None:
    """Return the price at which the loss equals the buffer; None for a short that has none.

    Rounded to a float towards the market: up for a long, down for a short.
    """
    return _towards_market(position.side, exact_liquidation_price(position, contract))


def liquidation_distance(
    position: Position, price: Price, contract: Contract = INVERSE
) -> Percent | None:
    """Return how far `price` is from liquidation in percent of `price`.

    0 once the price has reached it or gone beyond; None where there is no liquidation price.
    """
    liquidation = exact_liquidation_price(position, contract)
    if liquidation is None:
        return None
    room = position.side.sign * (Fraction(price) - liquidation)
    return Percent(_float_down(max(Fraction(0), 100 * room / Fraction(price))))


def trigger_price(
    position: Position, threshold: Percent, contract: Contract = INVERSE
) -> Price | None:
    """Return the price at which the margin level reaches `threshold`; None if it never does.

    Rounded to a float towards the market: up for a long, down for a short, so that at it the
    level is never below `threshold`.
    """
    return _towards_market(position.side, _price_at_level(position, threshold, contract))


def room_to_add(position: Position) -> Sats | None:
    """Return the sats that may still be added before leverage falls below 1; None: no cap.

    The exchange refuses to add margin to an isolated trade beyond `quantity * 1e8 / entry`; a
    deposit into the cross margin has no such cap.
    """
    if position.mode is MarginMode.CROSS:
        return None
    ceiling = position.quantity * SATS_PER_BTC / Fraction(position.entry_price)
    return Sats(max(0, math.floor(ceiling) - position.margin))


def margin_to_reach_level(
    position: Position, price: Price, target: Percent, contract: Contract = INVERSE
) -> Remedy:
    """Return the margin to add so that the level at `price` is at most `target` (above 0).

    `ceil(loss * 100 / target - B)`, capped where an isolated trade's leverage would pass 1.
    """
    loss = -profit_and_loss(position, price, contract)
    needed = math.ceil(loss * 100 / Fraction(target)) - position.buffer
    return _capped(position, needed)


def margin_to_reach_distance(
    position: Position, price: Price, distance: Percent, contract: Contract = INVERSE
) -> Remedy:
    """Return the margin to add so that liquidation is `distance` % away from `price`.

    The buffer whose liquidation price is `price * (1 - distance/100)` for a long, with plus for
    a short, less the present buffer; capped where an isolated trade's leverage would pass 1.
    """
    goal = Fraction(price) * (1 - position.side.sign * Fraction(distance) / 100)
    loss = contract.loss_at(
        side=position.side, quantity=position.quantity, entry=position.entry_price, price=goal
    )
    return _capped(position, math.ceil(loss) - position.buffer)


def assess(
    position: Position, price: Price, threshold: Percent | None, contract: Contract = INVERSE
) -> Assessment:
    """Return everything worth knowing of `position` at `price`, with its trigger price."""
    level = margin_level(position, price, contract)
    return Assessment(
        position=position,
        price=price,
        level=level,
        risk=risk_level(level),
        liquidation_price=liquidation_price(position, contract),
        liquidation_distance=liquidation_distance(position, price, contract),
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
    return contract.price_at_loss(
        side=position.side,
        quantity=position.quantity,
        entry=position.entry_price,
        loss=max(0, position.buffer) * Fraction(level) / 100,
    )


def _capped(position: Position, needed: int) -> Remedy:
    wanted = max(0, needed)
    room = room_to_add(position)
    if room is None or wanted <= room:
        return Remedy(amount=Sats(wanted), capped=False)
    return Remedy(amount=room, capped=True)


def _towards_market(side: Side, price: Fraction | None) -> Price | None:
    if price is None:
        return None
    return Price(_float_up(price) if side is Side.LONG else _float_down(price))


def _float_up(exact: Fraction) -> float:
    nearest = float(exact)
    return nearest if nearest >= exact else math.nextafter(nearest, math.inf)


def _float_down(exact: Fraction) -> float:
    nearest = float(exact)
    return nearest if nearest <= exact else math.nextafter(nearest, -math.inf)
