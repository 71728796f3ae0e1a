"""What the exchange sends, parsed strictly from its bytes into domain types.

Types are strict, numbers finite and within sane bounds, a missing field is an error and an
unknown one is ignored. One bad record refuses the whole answer: a position that was left out
would not be guarded. Every parser raises `Malformed`.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Final, Literal, TypeVar

from pydantic import (
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    FiniteFloat,
    TypeAdapter,
    ValidationError,
)
from pydantic.alias_generators import to_camel

from marginguard.domain.errors import Malformed
from marginguard.domain.model import Balance, ClosedTrade, MarginMode, Position, Side
from marginguard.domain.units import AccountId, PositionId, Price, Sats, Usd

MAX_SATS: Final = 2_100_000_000_000_000  # all the bitcoin that will ever exist
MAX_PRICE: Final = 1e9

_T = TypeVar("_T")
_WirePrice = Annotated[FiniteFloat, Field(gt=0, lt=MAX_PRICE)]
_PriceOrZero = Annotated[FiniteFloat, Field(ge=0, lt=MAX_PRICE)]
_Amount = Annotated[int, Field(ge=0, le=MAX_SATS)]
_SignedAmount = Annotated[int, Field(ge=-MAX_SATS, le=MAX_SATS)]
_Id = Annotated[str, Field(pattern=r"^[0-9A-Za-z-]{1,64}$")]


class _Payload(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore", alias_generator=to_camel)


class _RunningTrade(_Payload):
    id: _Id
    side: Literal["buy", "sell"]
    quantity: Annotated[int, Field(gt=0, le=MAX_SATS)]
    entry_price: _WirePrice
    margin: _Amount
    maintenance_margin: _Amount
    leverage: Annotated[FiniteFloat, Field(gt=0)]
    pl: _SignedAmount
    # No upper bound: rounding leaves a short at leverage 1 with an astronomical price.
    liquidation: Annotated[FiniteFloat, Field(ge=0)] | None
    stoploss: _PriceOrZero | None
    takeprofit: _PriceOrZero | None
    entry_margin: _Amount
    sum_funding_fees: _SignedAmount
    sum_cash_in_margin: _SignedAmount
    running: bool  # Literal[True] would take the number 1 for it
    closed: bool
    # Nothing rests on it, and an order without one may come without the field.
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
            liquidation_price=_price_or_none(self.liquidation),
            stop_loss=_price_or_none(self.stoploss),
            take_profit=_price_or_none(self.takeprofit),
            entry_margin=Sats(self.entry_margin),
            funding_paid=Sats(self.sum_funding_fees),
            cashed_in=Sats(self.sum_cash_in_margin),
            client_id=self.client_id,
        )


class _ClosedTrade(_Payload):
    id: _Id
    exit_price: _PriceOrZero | None
    pl: _SignedAmount
    closed: bool
    closed_at: AwareDatetime | None

    def to_closed_trade(self) -> ClosedTrade:
        if not self.closed:
            raise Malformed(f"the closed trade {self.id} says closed={self.closed}")
        return ClosedTrade(
            id=PositionId(self.id),
            exit_price=_price_or_none(self.exit_price),
            pl=Sats(self.pl),
            closed_at=self.closed_at,
        )


class _ClosedPage(_Payload):
    data: list[_ClosedTrade]
    next_cursor: str | None


class _Account(_Payload):
    balance: _Amount


class _Ticker(_Payload):
    last_price: _WirePrice
    index: _WirePrice


class _Time(_Payload):
    time: AwareDatetime


class _Error(_Payload):
    code: Annotated[str, Field(pattern=r"^[A-Z][A-Z0-9_]{1,63}$")] | None = None
    message: str = ""


_RUNNING = TypeAdapter(list[_RunningTrade])
_RUNNING_ONE = TypeAdapter(_RunningTrade)
_CLOSED_ONE = TypeAdapter(_ClosedTrade)
_CLOSED_PAGE = TypeAdapter(_ClosedPage)
_ACCOUNT = TypeAdapter(_Account)
_TICKER = TypeAdapter(_Ticker)
_TIME = TypeAdapter(_Time)
_ERROR = TypeAdapter(_Error)


@dataclass(frozen=True, kw_only=True, slots=True)
class Ticker:
    """The market's prices. The exchange puts no time on them."""

    last: Price
    index: Price


@dataclass(frozen=True, kw_only=True, slots=True)
class ClosedPage:
    """One page of closed trades, and the cursor of the next page if there is one."""

    trades: tuple[ClosedTrade, ...]
    next_cursor: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class ApiError:
    """What the exchange says of a refusal; `code` None when it did not say it in its own way."""

    code: str | None
    message: str


def running_trades(body: bytes) -> tuple[Position, ...]:
    """Parse the list of running isolated trades."""
    trades = _parse(_RUNNING, body, "the list of running trades")
    _refuse_duplicates([trade.id for trade in trades], "the list of running trades")
    return tuple([trade.to_position() for trade in trades])


def running_trade(body: bytes) -> Position:
    """Parse one running isolated trade."""
    return _parse(_RUNNING_ONE, body, "the running trade").to_position()


def closed_trade(body: bytes) -> ClosedTrade:
    """Parse one closed isolated trade."""
    return _parse(_CLOSED_ONE, body, "the closed trade").to_closed_trade()


def closed_page(body: bytes) -> ClosedPage:
    """Parse one page of closed isolated trades."""
    page = _parse(_CLOSED_PAGE, body, "the list of closed trades")
    _refuse_duplicates([trade.id for trade in page.data], "the list of closed trades")
    return ClosedPage(
        trades=tuple([trade.to_closed_trade() for trade in page.data]),
        next_cursor=page.next_cursor or None,
    )


def balance(body: bytes, account_id: AccountId) -> Balance:
    """Parse the account; its balance is what it can spend, in sats."""
    account = _parse(_ACCOUNT, body, "the account")
    return Balance(account_id=account_id, available=Sats(account.balance))


def ticker(body: bytes) -> Ticker:
    """Parse the ticker."""
    prices = _parse(_TICKER, body, "the ticker")
    return Ticker(last=Price(prices.last_price), index=Price(prices.index))


def server_time(body: bytes) -> datetime:
    """Parse the exchange's time of day, aware."""
    return _parse(_TIME, body, "the exchange's time").time


def api_error(body: bytes) -> ApiError | None:
    """Parse the body of a refusal; None when it is not the exchange's own."""
    try:
        error = _ERROR.validate_json(body)
    except ValidationError:
        return None
    return ApiError(code=error.code, message=error.message)


def _parse(adapter: TypeAdapter[_T], body: bytes, subject: str) -> _T:
    try:
        return adapter.validate_json(body)
    except ValidationError as error:
        # The values themselves stay out: they may be long, and are nobody's business in a log.
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "the answer"
        more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
        raise Malformed(f"{subject} does not parse: {where}: {first['msg']}{more}") from None


def _refuse_duplicates(ids: list[str], subject: str) -> None:
    if len(set(ids)) != len(ids):
        raise Malformed(f"{subject} holds the same id twice")


def _price_or_none(price: float | None) -> Price | None:
    """Return the price; the exchange says 0 or null where there is none."""
    return Price(price) if price else None
