"""The simulated exchange with one account, served to a client that signs."""

import contextlib
from collections.abc import AsyncIterator

import aiohttp

from marginguard.domain.units import Price, Sats
from marginguard.simulator.accounts import Credentials
from marginguard.simulator.exchange import Exchange, seeded_ids
from marginguard.simulator.server import serve
from tests.integration.signed_client import Client, StillClock

BALANCE = 10_000_000


def an_exchange() -> Exchange:
    """Return an exchange at 100,000 with one account."""
    exchange = Exchange(price=Price(100_000.0), ids=seeded_ids(1))
    exchange.add_account(
        Credentials(key="key", secret="secret", passphrase="phrase"), Sats(BALANCE)
    )
    return exchange


@contextlib.asynccontextmanager
async def served(exchange: Exchange, clock: StillClock) -> AsyncIterator[Client]:
    """Serve the exchange, practically without limits."""
    timeout = aiohttp.ClientTimeout(total=10)
    async with (
        serve(exchange, clock=clock, rate_scale=1000) as server,
        aiohttp.ClientSession(timeout=timeout) as session,
    ):
        yield Client(session=session, server=server)
