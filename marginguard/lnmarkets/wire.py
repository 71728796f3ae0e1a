"""What the exchange sends of isolated trades and the account, parsed into domain types.

Every parser takes bytes and raises `Malformed`; see `payload`.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Literal

from pydantic import AwareDatetime, Field, FiniteFloat, TypeAdapter, ValidationError

from marginguard.domain.errors import Malformed
from marginguard.domain.model import (
    Balance,
    ClosedTrade,
    MarginMode,
    PendingTrade,
    Position,
    Side,
)
from marginguard.domain.units import AccountId, PositionId, Price, Sats, Usd
from marginguard.lnmarkets.payload import (
    MAX_PRICE,
    Amount,
    AnyPrice,
    Identifier,
    Leverage,
    LiquidationPrice,
    Page,
    PagePayload,
    Payload,
    PriceOrZero,
    Quantity,
    SignedAmount,
    parse,
    parse_page,
    price_or_none,
    refuse_duplicates,
)


class _RunningTrade(Payload):
    id: Identifier
    side: Literal["buy", "sell"]
    quantity: Quantity
    entry_price: AnyPrice
    margin: Amount
    maintenance_margin: Amount
    leverage: Leverage
    pl: SignedAmount
    liquidation: LiquidationPrice | None
    stoploss: PriceOrZero | None
    takeprofit: PriceOrZero | None
    entry_margin: Amount
    sum_funding_fees: SignedAmount
    sum_cash_in_margin: SignedAmount
    running: bool  # Literal[True] would take the number 1 for it
    closed: bool
    # A share of the price; 0 or null where the stop-loss stays where it is. The exchange's own
    # client libraries do without the field, so that a missing one means the same.
    stoploss_trailing_distance: Annotated[FiniteFloat, Field(ge=0)] | None = None
    # An order without one may come without the field.
    client_id: str | None = None

    def to_position(self) -> Position:
        if not self.running or self.closed:
            raise Malformed(
                f"the running trade {self.id} says running={self.running}, closed={self.closed}"
            )
        side = Side.LONG if self.side == "buy" else Side.SHORT
        if side is Side.LONG and not (self.liquidation and self.liquidation < MAX_PRICE):
            raise Malformed(
                f"the running trade {self.id} is a long whose liquidation price is"
                f" {self.liquidation}"
            )
        return Position(
            id=PositionId(self.id),
            mode=MarginMode.ISOLATED,
            side=side,
            quantity=Usd(self.quantity),
            entry_price=Price(self.entry_price),
            margin=Sats(self.margin),
            maintenance_margin=Sats(self.maintenance_margin),
            leverage=self.leverage,
            pl=Sats(self.pl),
            liquidation_price=price_or_none(self.liquidation),
            stop_loss=price_or_none(self.stoploss),
            take_profit=price_or_none(self.takeprofit),
            entry_margin=Sats(self.entry_margin),
            funding_paid=Sats(self.sum_funding_fees),
            cashed_in=Sats(self.sum_cash_in_margin),
            client_id=self.client_id,
            trailing_stop=bool(self.stoploss_trailing_distance),
        )


class _ClosedTrade(Payload):
    id: Identifier
    canceled: bool = False
    exit_price: PriceOrZero | None
    pl: SignedAmount
    margin: Amount
    closed: bool
    closed_at: AwareDatetime | None
    client_id: str | None = None

    def to_closed_trade(self) -> ClosedTrade:
        if not self.closed:
            raise Malformed(f"the closed trade {self.id} says closed={self.closed}")
        return ClosedTrade(
            id=PositionId(self.id),
            exit_price=price_or_none(self.exit_price),
            pl=Sats(self.pl),
            closed_at=self.closed_at,
            client_id=self.client_id,
            margin=Sats(self.margin),
        )


class _PendingTrade(Payload):
    id: Identifier
    side: Literal["buy", "sell"]
    quantity: Quantity
    price: AnyPrice
    margin: Amount
    leverage: Leverage
    stoploss: PriceOrZero | None
    takeprofit: PriceOrZero | None
    running: bool
    closed: bool
    canceled: bool
    created_at: AwareDatetime
    client_id: str | None = None

    def to_pending_trade(self, *, canceled: bool) -> PendingTrade:
        if self.running or self.closed or self.canceled is not canceled:
            raise Malformed(
                f"the {'canceled' if canceled else 'open'} trade {self.id} says"
                f" running={self.running}, closed={self.closed}, canceled={self.canceled}"
            )
        return PendingTrade(
            id=PositionId(self.id),
            side=Side.LONG if self.side == "buy" else Side.SHORT,
            quantity=Usd(self.quantity),
            price=Price(self.price),
            margin=Sats(self.margin),
            leverage=self.leverage,
            stop_loss=price_or_none(self.stoploss),
            take_profit=price_or_none(self.takeprofit),
            canceled=self.canceled,
            created_at=self.created_at,
            client_id=self.client_id,
        )


class _LiveTrade(Payload):
    """A trade that runs or waits: what an order, a stop-loss or a take-profit answers."""

    id: Identifier
    open: bool
    running: bool
    closed: bool
    canceled: bool
    client_id: str | None = None


class _Account(Payload):
    balance: Amount


class _Ticker(Payload):
    last_price: AnyPrice
    index: AnyPrice


class _Time(Payload):
    time: AwareDatetime


class _Error(Payload):
    code: Annotated[str, Field(pattern=r"^[A-Z][A-Z0-9_]{1,63}$")] | None = None
    message: str = ""


_RUNNING = TypeAdapter(list[_RunningTrade])
_RUNNING_ONE = TypeAdapter(_RunningTrade)
_OPEN = TypeAdapter(list[_PendingTrade])
_CANCELED_ONE = TypeAdapter(_PendingTrade)
_CANCELED_ALL: TypeAdapter[list[_PendingTrade] | _PendingTrade] = TypeAdapter(
    list[_PendingTrade] | _PendingTrade
)
_CANCELED_PAGE = TypeAdapter(PagePayload[_PendingTrade])
_LIVE_ONE = TypeAdapter(_LiveTrade)
_CLOSED_ONE = TypeAdapter(_ClosedTrade)
_CLOSED_PAGE = TypeAdapter(PagePayload[_ClosedTrade])
_ACCOUNT = TypeAdapter(_Account)
_TICKER = TypeAdapter(_Ticker)
_TIME = TypeAdapter(_Time)
_ERROR = TypeAdapter(_Error)


@dataclass(frozen=True, kw_only=True, slots=True)
class Ticker:
    """The market's prices. The exchange puts no time on them.

    `waited_s` is how long the question waited for its turn before it was sent.
    """

    last: Price
    index: Price
    waited_s: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class ApiError:
    """What the exchange says of a refusal; `code` None when it did not say it in its own way."""

    code: str | None
    message: str


def running_trades(body: bytes) -> tuple[Position, ...]:
    """Parse the list of running isolated trades."""
    trades = parse(_RUNNING, body, "the list of running trades")
    refuse_duplicates([trade.id for trade in trades], "the list of running trades")
    return tuple([trade.to_position() for trade in trades])


def running_trade(body: bytes) -> Position:
    """Parse one running isolated trade."""
    return parse(_RUNNING_ONE, body, "the running trade").to_position()


def closed_trade(body: bytes) -> ClosedTrade:
    """Parse one closed isolated trade."""
    return parse(_CLOSED_ONE, body, "the closed trade").to_closed_trade()


def closed_page(body: bytes) -> Page[ClosedTrade]:
    """Parse one page of closed isolated trades.

    Orders that were canceled before they were filled may stand among them, by the exchange's
    own description of the list; those never ran and are left out.
    """
    subject = "the list of closed trades"
    page = parse(_CLOSED_PAGE, body, subject)
    refuse_duplicates([trade.id for trade in page.data], subject)
    ran = [trade for trade in page.data if trade.closed or not trade.canceled]
    return Page(
        items=tuple([trade.to_closed_trade() for trade in ran]),
        next_cursor=page.next_cursor or None,
    )


def open_trades(body: bytes) -> tuple[PendingTrade, ...]:
    """Parse the list of isolated limit orders that wait to be filled."""
    trades = parse(_OPEN, body, "the list of open trades")
    refuse_duplicates([trade.id for trade in trades], "the list of open trades")
    return tuple([trade.to_pending_trade(canceled=False) for trade in trades])


def canceled_page(body: bytes) -> Page[PendingTrade]:
    """Parse one page of isolated limit orders that were canceled."""
    page = parse_page(
        _CANCELED_PAGE,
        body,
        "the list of canceled trades",
        lambda trade: trade.to_pending_trade(canceled=True),
    )
    refuse_duplicates([trade.id for trade in page.items], "the list of canceled trades")
    return page


def canceled_trade(body: bytes) -> PendingTrade:
    """Parse one isolated limit order that was canceled."""
    return parse(_CANCELED_ONE, body, "the canceled trade").to_pending_trade(canceled=True)


def canceled_trades(body: bytes) -> tuple[PendingTrade, ...]:
    """Parse the answer of canceling all limit orders.

    A list, by the look of the exchange; one trade, by its own client library.
    """
    answer = parse(_CANCELED_ALL, body, "the canceled trades")
    canceled = answer if isinstance(answer, list) else [answer]
    return tuple([trade.to_pending_trade(canceled=True) for trade in canceled])


def live_trade_id(body: bytes, *, client_id: str | None = None) -> PositionId:
    """Parse the id of a trade that runs or waits; `client_id`, if given, must be its own."""
    trade = parse(_LIVE_ONE, body, "the trade")
    if trade.closed or trade.canceled or trade.open is trade.running:
        raise Malformed(
            f"the trade {trade.id} says open={trade.open}, running={trade.running},"
            f" closed={trade.closed}, canceled={trade.canceled}"
        )
    if client_id is not None and trade.client_id != client_id:
        raise Malformed(f"the trade {trade.id} has another client id than the one asked for")
    return PositionId(trade.id)


def balance(body: bytes, account_id: AccountId) -> Balance:
    """Parse the account; its balance is what it can spend, in sats."""
    account = parse(_ACCOUNT, body, "the account")
    return Balance(account_id=account_id, available=Sats(account.balance))


def ticker(body: bytes) -> Ticker:
    """Parse the ticker."""
    prices = parse(_TICKER, body, "the ticker")
    return Ticker(last=Price(prices.last_price), index=Price(prices.index))


def server_time(body: bytes) -> datetime:
    """Parse the exchange's time of day, aware."""
    return parse(_TIME, body, "the exchange's time").time


def api_error(body: bytes) -> ApiError | None:
    """Parse the body of a refusal; None when it is not the exchange's own."""
    try:
        error = _ERROR.validate_json(body)
    except ValidationError:
        return None
    return ApiError(code=error.code, message=error.message)
