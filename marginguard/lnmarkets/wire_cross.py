"""What the exchange sends of the cross margin, parsed into domain types.

Every parser takes bytes and raises `Malformed`; see `payload`.
"""

from typing import Annotated, Literal

from pydantic import AwareDatetime, Field, TypeAdapter

from marginguard.domain.errors import Malformed
from marginguard.domain.model import (
    CrossOrder,
    FundingFee,
    MarginMode,
    OrderType,
    Position,
    Side,
    Transfer,
)
from marginguard.domain.units import CROSS, Price, Sats, Usd
from marginguard.lnmarkets.payload import (
    MAX_PRICE,
    MAX_SATS,
    Amount,
    AnyPrice,
    Identifier,
    Leverage,
    LiquidationPrice,
    Page,
    PagePayload,
    Payload,
    Quantity,
    SignedAmount,
    parse,
    parse_page,
    price_or_none,
    refuse_duplicates,
)


class _Position(Payload):
    id: Identifier
    quantity: Annotated[int, Field(ge=-MAX_SATS, le=MAX_SATS)]
    margin: Amount
    maintenance_margin: Amount
    running_margin: Amount
    leverage: Leverage
    entry_price: AnyPrice | None
    liquidation: LiquidationPrice | None
    total_pl: SignedAmount
    funding_fees: SignedAmount

    def to_position(self) -> Position | None:
        if self.quantity == 0:
            return None
        if self.entry_price is None:
            raise Malformed("the cross position runs and has no entry price")
        side = Side.LONG if self.quantity > 0 else Side.SHORT
        if side is Side.LONG and not (self.liquidation and self.liquidation < MAX_PRICE):
            raise Malformed(
                f"the cross position is a long whose liquidation price is {self.liquidation}"
            )
        return Position(
            id=CROSS,
            mode=MarginMode.CROSS,
            side=side,
            quantity=Usd(abs(self.quantity)),
            entry_price=Price(self.entry_price),
            margin=Sats(self.margin),
            maintenance_margin=Sats(self.maintenance_margin),
            leverage=self.leverage,
            pl=Sats(self.total_pl),
            liquidation_price=price_or_none(self.liquidation),
            stop_loss=None,
            take_profit=None,
            entry_margin=Sats(self.running_margin),
            funding_paid=Sats(self.funding_fees),
            cashed_in=Sats(0),
            client_id=None,
        )


class _Order(Payload):
    id: Identifier
    type: Literal["market", "limit", "liquidation"]
    side: Literal["buy", "sell"]
    quantity: Quantity
    price: AnyPrice
    trading_fee: Amount
    open: bool
    filled: bool
    canceled: bool
    created_at: AwareDatetime
    filled_at: AwareDatetime | None
    client_id: str | None = None

    def to_order(self) -> CrossOrder:
        waits = (self.open, self.filled, self.canceled) == (True, False, False)
        filled = (self.open, self.filled, self.canceled) == (False, True, False)
        if not (waits or filled) or filled is (self.filled_at is None):
            raise Malformed(
                f"the cross order {self.id} says open={self.open}, filled={self.filled},"
                f" canceled={self.canceled}, and it was filled at {self.filled_at}"
            )
        return CrossOrder(
            id=self.id,
            type=OrderType(self.type),
            side=Side.LONG if self.side == "buy" else Side.SHORT,
            quantity=Usd(self.quantity),
            price=Price(self.price),
            trading_fee=Sats(self.trading_fee),
            created_at=self.created_at,
            filled_at=self.filled_at,
            client_id=self.client_id,
        )


class _Transfer(Payload):
    id: Identifier
    amount: SignedAmount
    time: AwareDatetime

    def to_transfer(self) -> Transfer:
        return Transfer(id=self.id, amount=Sats(self.amount), at=self.time)


class _FundingFee(Payload):
    settlement_id: Identifier
    fee: SignedAmount
    time: AwareDatetime

    def to_funding_fee(self) -> FundingFee:
        return FundingFee(settlement_id=self.settlement_id, fee=Sats(self.fee), at=self.time)


_POSITION = TypeAdapter(_Position)
_ORDER = TypeAdapter(_Order)
_ORDERS = TypeAdapter(list[_Order])
_ORDER_PAGE = TypeAdapter(PagePayload[_Order])
_TRANSFER_PAGE = TypeAdapter(PagePayload[_Transfer])
_FUNDING_FEE_PAGE = TypeAdapter(PagePayload[_FundingFee])


def position(body: bytes) -> Position | None:
    """Parse the cross position; None when its quantity is 0, which means that none runs."""
    return parse(_POSITION, body, "the cross position").to_position()


def position_id(body: bytes) -> str:
    """Parse the exchange's own id of the cross position, running or not."""
    answer = parse(_POSITION, body, "the cross position")
    answer.to_position()
    return answer.id


def order(body: bytes) -> CrossOrder:
    """Parse one order on the cross position."""
    return parse(_ORDER, body, "the cross order").to_order()


def filled_order(body: bytes) -> CrossOrder:
    """Parse one order on the cross position that was filled at once."""
    found = order(body)
    if found.filled_at is None:
        raise Malformed(f"the cross order {found.id} is not filled")
    return found


def open_orders(body: bytes) -> tuple[CrossOrder, ...]:
    """Parse the list of orders that wait to be filled."""
    subject = "the list of open cross orders"
    found = tuple([record.to_order() for record in parse(_ORDERS, body, subject)])
    refuse_duplicates([waiting.id for waiting in found], subject)
    if any(waiting.filled_at is not None for waiting in found):
        raise Malformed(f"{subject} holds one that is filled")
    return found


def filled_page(body: bytes) -> Page[CrossOrder]:
    """Parse one page of filled orders."""
    subject = "the list of filled cross orders"
    page = parse_page(_ORDER_PAGE, body, subject, _Order.to_order)
    refuse_duplicates([found.id for found in page.items], subject)
    if any(found.filled_at is None for found in page.items):
        raise Malformed(f"{subject} holds one that is not filled")
    return page


def transfer_page(body: bytes) -> Page[Transfer]:
    """Parse one page of transfers between the balance and the cross margin."""
    subject = "the list of transfers"
    page = parse_page(_TRANSFER_PAGE, body, subject, _Transfer.to_transfer)
    refuse_duplicates([transfer.id for transfer in page.items], subject)
    return page


def funding_fee_page(body: bytes) -> Page[FundingFee]:
    """Parse one page of funding that the cross position paid or received."""
    return parse_page(
        _FUNDING_FEE_PAGE, body, "the list of funding fees", _FundingFee.to_funding_fee
    )
