"""Signed calls of one account, reads and changes."""

from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Final, TypeVar
from urllib.parse import urlencode

import orjson

from marginguard.domain.errors import Rejected, Transient, Unauthorized
from marginguard.domain.outcome import Outcome
from marginguard.lnmarkets.limits import Limits, Urgency
from marginguard.lnmarkets.paging import Listing, read_all, read_pages
from marginguard.lnmarkets.payload import Page
from marginguard.lnmarkets.server_clock import ServerClock
from marginguard.lnmarkets.signing import Credentials, Signer
from marginguard.lnmarkets.transport import Key, Transport

_T = TypeVar("_T")

_CLOCK_SLACK: Final = timedelta(minutes=2)


class SignedCalls:
    """Calls with the key of one account, within the limits of that key.

    Reads raise as `Transport.fetch` says, after one clock resync and one resend where the key
    is refused: a signature whose time is off is refused in the same way. Nothing else is
    retried here. A change that is refused so ends `rejected` with `unauthorized`, and its
    caller decides whether to resync and send again.
    """

    def __init__(
        self,
        credentials: Credentials,
        *,
        transport: Transport,
        server_clock: ServerClock,
        rate_scale: float = 1.0,
    ) -> None:
        self._transport = transport
        self._server_clock = server_clock
        self.changes = 0
        """Counts up whenever a change begins or ends: a read from before may not show it."""
        self._key = Key(
            signer=Signer(credentials, server_clock.timestamp_ms),
            limits=Limits.of_key(rate_scale=rate_scale),
        )

    async def read(self, path: str, parse: Callable[[bytes], _T], query: str = "") -> _T:
        """GET `path` and parse the answer."""
        try:
            return await self._transport.read(path, parse, query=query, key=self._key)
        except Unauthorized as refused:
            try:
                await self._server_clock.resync()
            except (Transient, Rejected) as error:
                raise Transient(
                    f"{refused}; whether the key or the time of the signature is at fault is not"
                    f" known, because the exchange's clock cannot be measured: {error}"
                ) from error
        return await self._transport.read(path, parse, query=query, key=self._key)

    async def read_all(
        self,
        path: str,
        parse: Callable[[bytes], Page[_T]],
        query: dict[str, str],
        subject: str,
    ) -> tuple[_T, ...]:
        """GET a list page by page, the whole of it; raises `Malformed` if it is too long."""
        return await read_all(lambda page: self.read(path, parse, page), query, subject)

    async def read_until(
        self,
        path: str,
        parse: Callable[[bytes], Page[_T]],
        query: dict[str, str],
        enough: Callable[[_T], bool],
    ) -> Listing[_T]:
        """GET a list page by page, until one holds `enough` or there are too many."""
        return await read_pages(lambda page: self.read(path, parse, page), query, enough)

    async def change(
        self,
        method: str,
        path: str,
        exchange_id: Callable[[bytes], str | None],
        *,
        body: Mapping[str, object] | None = None,
        query: Mapping[str, str] | None = None,
        urgency: Urgency = Urgency.PROTECT,
    ) -> Outcome:
        """Send a call that changes something, once; see `Transport.change`."""
        self.changes += 1
        try:
            return await self._transport.change(
                method,
                path,
                exchange_id,
                key=self._key,
                body=b"" if body is None else orjson.dumps(body),
                query="" if query is None else urlencode(query),
                urgency=urgency,
            )
        finally:
            self.changes += 1

    def exchange_time(self, at: datetime) -> datetime:
        """Return what the exchange's clock shows when ours shows `at`."""
        return at + timedelta(seconds=self._server_clock.offset_s or 0.0)

    def earliest_exchange_time(self, at: datetime) -> datetime:
        """Return a time that the exchange's clock shows no later than ours shows `at`.

        For finding one thing by its id: a clock that is off by up to two minutes more than was
        measured does not hide it.
        """
        return self.exchange_time(at) - _CLOCK_SLACK
