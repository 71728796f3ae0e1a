"""Streams against the whole protocol of the simulated exchange."""

import contextlib
from collections.abc import AsyncIterator
from fractions import Fraction

import aiohttp
import pytest

from marginguard.domain.errors import Unauthorized
from marginguard.domain.model import Side
from marginguard.domain.units import Price, Sats, Usd
from marginguard.simulator import accounts as simulator_accounts
from marginguard.simulator.accounts import Account
from marginguard.simulator.exchange import Exchange, seeded_ids
from marginguard.simulator.server import RunningServer, serve
from marginguard.simulator.trades import Order
from tests.integration.hearing import Budget, Hearing, private, public, running


@pytest.fixture
def hearing():
    return Hearing()


@contextlib.asynccontextmanager
async def simulated(key: str = "key") -> AsyncIterator[tuple[Exchange, Account, RunningServer]]:
    """The simulated exchange at 100,000, with one account."""
    exchange = Exchange(price=Price(100_000.0), ids=seeded_ids(1))
    account = exchange.add_account(
        simulator_accounts.Credentials(key=key, secret="a-secret", passphrase="a-passphrase"),
        Sats(10_000_000),
    )
    async with serve(exchange) as server:
        yield exchange, account, server


async def steer(server: RunningServer, fault: str) -> None:
    async with (
        aiohttp.ClientSession(server.base_url) as session,
        session.post("/simulator/stream", json={"fault": fault}) as answer,
    ):
        assert answer.status == 200


async def test_prices_of_the_simulated_exchange_survive_kill_and_silence(hearing):
    """Failure 17, failure 18: against the exchange's whole protocol."""
    budget = Budget(2)
    async with simulated() as (exchange, _account, server):
        stream = public(server, hearing, stale_after_s=0.5, limits=budget.limits())
        async with running(stream):
            await hearing.until(("index", 100_000))
            exchange.set_price(Price(99_000.5), server.clock.now())
            await hearing.until(("last", 99_000.5))
            await steer(server, "kill")
            await hearing.until(("snapshot",), 2)
            await steer(server, "silence")
            await budget.spent.wait()
            await steer(server, "resume")
            exchange.set_price(Price(98_000.0), server.clock.now())
            budget.more.set()
            await hearing.until(("snapshot",), 3)
            await hearing.until(("last", 98_000))


async def test_an_account_of_the_simulated_exchange_hears_of_its_trades(hearing):
    async with simulated() as (exchange, account, server):
        stream = private(server, hearing)
        async with running(stream):
            await hearing.until(("snapshot",))
            order = Order(side=Side.LONG, leverage=Fraction(10), quantity=Usd(1_000))
            trade = exchange.open_trade(account, order, server.clock.now())
            exchange.set_price(Price(90_000.0), server.clock.now())
            await hearing.until(("event", "isolated.liquidation", str(trade.id)))
        assert stream.permissions == set(account.permissions)
        assert stream.permissions


async def test_the_simulated_exchange_refuses_an_unknown_key(hearing):
    async with simulated(key="another") as (_exchange, _account, server):
        stream = private(server, hearing)
        async with running(stream):
            await hearing.until(("refused", Unauthorized))
        assert stream.permissions is None
