"""What REST routes are made of: the parameters they take, who calls, and pages of lists."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Final, Generic, Literal, TypeVar
from urllib.parse import parse_qsl
from uuid import UUID

from pydantic import (
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    FiniteFloat,
    ValidationError,
    model_validator,
)

from marginguard.domain.units import Price
from marginguard.simulator.accounts import Account
from marginguard.simulator.calls import Call
from marginguard.simulator.exchange import Exchange
from marginguard.simulator.refusals import bad_request
from marginguard.simulator.wire import timestamp

MAX_PAGE: Final = 1000

_T = TypeVar("_T")


class Params(BaseModel):
    """What a call may carry; anything else is refused, as a misspelt stop-loss must be."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Nothing(Params):
    """A call without parameters."""


class Id(Params):
    """A call about one trade or order."""

    id: UUID


class OrderParams(Params):
    """What every order says; a `limit` one alone has a price."""

    type: Literal["market", "limit"]
    side: Literal["buy", "sell"]
    price: FiniteFloat | None = None
    client_id: Annotated[str | None, Field(alias="clientId", max_length=64)] = None

    @model_validator(mode="after")
    def _has_a_price_if_it_waits_for_one(self) -> "OrderParams":
        if (self.price is None) == (self.type == "limit"):
            raise ValueError("a limit order needs a price, a market order takes none")
        return self

    @property
    def limit_price(self) -> Price | None:
        """The price to wait for, None at the market."""
        return None if self.price is None else Price(self.price)


class Page(Params):
    """Which entries of a list are wanted: of a period, before the cursor, so many at most."""

    from_: Annotated[AwareDatetime | None, Field(alias="from")] = None
    to: AwareDatetime | None = None
    cursor: AwareDatetime | None = None
    limit: Annotated[int, Field(ge=1, le=MAX_PAGE)] = MAX_PAGE

    def of(
        self,
        items: Iterable[_T],
        time_of: Callable[[_T], datetime],
        payload: Callable[[_T], object],
    ) -> dict[str, object]:
        """Return one page of `items`, which are newest first, and the cursor of the next."""
        found = [item for item in items if self._holds(time_of(item))]
        shown = found[: self.limit]
        return {
            "data": [payload(item) for item in shown],
            "nextCursor": timestamp(time_of(shown[-1])) if len(found) > len(shown) else None,
        }

    def _holds(self, at: datetime) -> bool:
        return (
            (self.from_ is None or at >= self.from_)
            and (self.to is None or at <= self.to)
            and (self.cursor is None or at < self.cursor)
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Context:
    """Who calls, on what, when."""

    exchange: Exchange
    account: Account
    now: datetime


P = TypeVar("P", bound=Params)


@dataclass(frozen=True, slots=True)
class Route(Generic[P]):
    """A signed call: what it takes and what it does."""

    params: type[P]
    handle: Callable[[Context, P], object]


AnyRoute = Route[Any]


def parse_params(params: type[P], call: Call) -> P:
    """Return what `call` carries, in its body or its query; raises `Rejected` if it is wrong.

    A call that changes something and needs nothing may come without a body.
    """
    try:
        if call.method in {"POST", "PUT"}:
            return params.model_validate_json(call.body or b"{}")
        return params.model_validate_strings(dict(parse_qsl(call.query, keep_blank_values=True)))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise bad_request(f"{where}: {first['msg']}" if where else first["msg"]) from error
