"""What the exchange sends of the market's past, parsed into domain types.

Every parser takes bytes and raises `Malformed`; see `payload`.
"""

from typing import Annotated

from pydantic import AwareDatetime, Field, FiniteFloat, TypeAdapter

from marginguard.domain.errors import Malformed
from marginguard.domain.model import Candle, FundingSettlement
from marginguard.domain.units import Price
from marginguard.lnmarkets.payload import (
    AnyPrice,
    Identifier,
    Page,
    PagePayload,
    Payload,
    parse_page,
)


class _Candle(Payload):
    time: AwareDatetime
    open: AnyPrice
    high: AnyPrice
    low: AnyPrice
    close: AnyPrice
    volume: Annotated[FiniteFloat, Field(ge=0)]

    def to_candle(self) -> Candle:
        inside = self.low <= min(self.open, self.close) and max(self.open, self.close) <= self.high
        if not inside:
            raise Malformed(f"the candle of {self.time} opens or closes outside of its extremes")
        return Candle(
            opened_at=self.time,
            open=Price(self.open),
            high=Price(self.high),
            low=Price(self.low),
            close=Price(self.close),
            volume=self.volume,
        )


class _FundingSettlement(Payload):
    id: Identifier
    time: AwareDatetime
    # A share of the position's value: whatever is near 1 is no funding rate.
    funding_rate: Annotated[FiniteFloat, Field(gt=-1, lt=1)]
    fixing_price: AnyPrice

    def to_settlement(self) -> FundingSettlement:
        return FundingSettlement(
            id=self.id,
            rate=self.funding_rate,
            fixing_price=Price(self.fixing_price),
            at=self.time,
        )


_CANDLE_PAGE = TypeAdapter(PagePayload[_Candle])
_SETTLEMENT_PAGE = TypeAdapter(PagePayload[_FundingSettlement])


def candle_page(body: bytes) -> Page[Candle]:
    """Parse one page of candles."""
    return parse_page(_CANDLE_PAGE, body, "the list of candles", _Candle.to_candle)


def settlement_page(body: bytes) -> Page[FundingSettlement]:
    """Parse one page of settlements of funding."""
    return parse_page(
        _SETTLEMENT_PAGE,
        body,
        "the list of funding settlements",
        _FundingSettlement.to_settlement,
    )
