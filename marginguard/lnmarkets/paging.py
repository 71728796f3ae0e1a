"""Reading lists that the exchange gives out in pages."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, Generic, TypeVar
from urllib.parse import urlencode

from marginguard.domain.errors import Malformed
from marginguard.lnmarkets.payload import Page

PAGE_LIMIT: Final = 1000
"""The most records that the exchange gives at once."""

MAX_PAGES: Final = 5
"""How many pages are followed: a cursor that never ends must not hold a guard up."""

_T = TypeVar("_T")


@dataclass(frozen=True, kw_only=True, slots=True)
class Listing(Generic[_T]):
    """The records of a list; `complete` is False where more pages follow."""

    items: tuple[_T, ...]
    complete: bool


def window(
    *, since: datetime | None = None, until: datetime | None = None, **more: str
) -> dict[str, str]:
    """Return the query that asks for a span of time; both ends are the exchange's time."""
    bounds = {"from": since, "to": until}
    return {name: stamp(at) for name, at in bounds.items() if at is not None} | more


def stamp(at: datetime) -> str:
    """Return a time as the exchange writes it, in UTC and milliseconds."""
    return at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


async def read_pages(
    read: Callable[[str], Awaitable[Page[_T]]],
    query: dict[str, str],
    enough: Callable[[_T], bool] = lambda _record: False,
) -> Listing[_T]:
    """Follow the pages of a list until one holds `enough`, or for `MAX_PAGES`.

    `read` takes a query, percent-encoded. Raises what `read` raises.
    """
    found: list[_T] = []
    cursor: str | None = None
    for _ in range(MAX_PAGES):
        at = {} if cursor is None else {"cursor": cursor}
        page = await read(urlencode({**query, "limit": str(PAGE_LIMIT), **at}))
        found.extend(page.items)
        cursor = page.next_cursor
        if cursor is None or any(enough(record) for record in page.items):
            break
    return Listing(items=tuple(found), complete=cursor is None)


async def read_all(
    read: Callable[[str], Awaitable[Page[_T]]], query: dict[str, str], subject: str
) -> tuple[_T, ...]:
    """Return the whole list; raises `Malformed` where it has more than `MAX_PAGES` pages."""
    listing = await read_pages(read, query)
    if not listing.complete:
        raise Malformed(f"{subject} has more than {MAX_PAGES} pages of {PAGE_LIMIT:,}")
    return listing.items
