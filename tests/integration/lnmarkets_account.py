"""A client of one account, and the canned exchange to which it speaks."""

import contextlib

from marginguard.lnmarkets.client import AccountClient
from marginguard.lnmarkets.signing import Credentials
from marginguard.lnmarkets.transport import Transport
from marginguard.ports import Exchange
from tests.integration.canned_exchange import CROSS_POSITION, canned_exchange, cross_position

SECRET = "the-secret"
NO_LIMIT = 1e6


@contextlib.asynccontextmanager
async def flat_exchange():
    """Serve an exchange that tells its time and has no cross position."""
    async with canned_exchange() as server:
        server.answer("/v3/time", {"time": "2026-01-02T03:04:15.000Z"})
        server.answer(CROSS_POSITION, cross_position(quantity=0, entryPrice=None))
        yield server


def transport_to(exchange) -> Transport:
    return Transport(exchange.url, timeout_s=5, rate_scale=NO_LIMIT)


def account_of(transport, server_clock) -> Exchange:
    return AccountClient(
        "main",
        Credentials(key="the-key", secret=SECRET, passphrase="the-phrase"),
        transport=transport,
        server_clock=server_clock,
        rate_scale=NO_LIMIT,
    )
