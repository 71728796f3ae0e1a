"""The common ground of all payloads: strict types, and one way to parse.

Types are strict, numbers finite and within sane bounds, a missing field is an error and an
unknown one is ignored. One bad record refuses the whole answer: a position that was left out
would not be guarded.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Final, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, TypeAdapter, ValidationError
from pydantic.alias_generators import to_camel

from marginguard.domain.errors import Malformed
from marginguard.domain.units import Price

MAX_SATS: Final = 2_100_000_000_000_000  # all the bitcoin that will ever exist
MAX_PRICE: Final = 1e9

_T = TypeVar("_T")
_R = TypeVar("_R")

AnyPrice = Annotated[FiniteFloat, Field(gt=0, lt=MAX_PRICE)]
PriceOrZero = Annotated[FiniteFloat, Field(ge=0, lt=MAX_PRICE)]
# No upper bound: rounding leaves a short at leverage 1 with an astronomical price.
LiquidationPrice = Annotated[FiniteFloat, Field(ge=0)]
Leverage = Annotated[FiniteFloat, Field(gt=0)]
Amount = Annotated[int, Field(ge=0, le=MAX_SATS)]
SignedAmount = Annotated[int, Field(ge=-MAX_SATS, le=MAX_SATS)]
Quantity = Annotated[int, Field(gt=0, le=MAX_SATS)]
Identifier = Annotated[str, Field(pattern=r"^[0-9A-Za-z-]{1,64}$")]


class Payload(BaseModel):
    """What every payload is read as."""

    model_config = ConfigDict(strict=True, extra="ignore", alias_generator=to_camel)


class PagePayload(Payload, Generic[_T]):
    """One page of a list."""

    data: list[_T]
    next_cursor: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Page(Generic[_T]):
    """One page of a list, and the cursor of the next page if there is one."""

    items: tuple[_T, ...]
    next_cursor: str | None


def parse(adapter: TypeAdapter[_T], body: bytes, subject: str) -> _T:
    """Return what `body` holds; raises `Malformed`, which names `subject` and the field."""
    try:
        return adapter.validate_json(body)
    except ValidationError as error:
        # The values themselves stay out: they may be long, and are nobody's business in a log.
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "the answer"
        more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
        raise Malformed(f"{subject} does not parse: {where}: {first['msg']}{more}") from None


def parse_page(
    adapter: TypeAdapter[PagePayload[_T]], body: bytes, subject: str, convert: Callable[[_T], _R]
) -> Page[_R]:
    """Return the page that `body` holds, its records converted; raises `Malformed`."""
    page = parse(adapter, body, subject)
    return Page(
        items=tuple([convert(record) for record in page.data]),
        next_cursor=page.next_cursor or None,
    )


def refuse_duplicates(ids: list[str], subject: str) -> None:
    """Raise `Malformed` if an id comes twice."""
    if len(set(ids)) != len(ids):
        raise Malformed(f"{subject} holds the same id twice")


def price_or_none(price: float | None) -> Price | None:
    """Return the price; the exchange says 0 or null where there is none."""
    return Price(price) if price else None
