"""The client against the simulated exchange: what reductions and stop-losses do, and faults."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta
from fractions import Fraction
from uuid import UUID

import pytest

from marginguard.domain.model import NewTrade, Side
from marginguard.domain.outcome import OutcomeKind
from marginguard.domain.units import CROSS, Price, Sats
from marginguard.lnmarkets.client import AccountClient, PublicClient
from marginguard.lnmarkets.server_clock import ServerClock
from marginguard.lnmarkets.signing import Credentials as Keys
from marginguard.lnmarkets.transport import Transport
from marginguard.simulator.accounts import Credentials
from marginguard.simulator.exchange import Exchange, seeded_ids
from marginguard.simulator.faults import Fault, FaultKind
from marginguard.simulator.server import RunningServer, serve
from tests.integration.signed_client import NOW, TRADE, StillClock

KEYS = {"key": "key", "secret": "secret", "passphrase": "phrase"}
NO_LIMIT = 1e6
STOP_LOSS = f"{TRADE}/stoploss"
CROSS_ORDER = "/v3/futures/cross/order"
TAG = "mine"


@dataclass
class World:
    """A simulated exchange with one account, and the client of that account."""

    exchange: Exchange
    server: RunningServer
    client: AccountClient

    @property
    def owner(self):
        return self.exchange.accounts[0]

    def move(self, price: float) -> None:
        self.exchange.set_price(Price(price), NOW)

    async def position(self, position_id):
        positions = await self.client.running_positions()
        return next((p for p in positions if p.id == position_id), None)

    async def trade(self, **changes) -> str:
        outcome = await self.client.open_trade(a_trade(**changes))
        assert outcome.kind is OutcomeKind.DONE, outcome.detail
        return outcome.exchange_id

    def fault(self, method, path, fault, **more) -> None:
        self.server.faults.add(Fault(method=method, path=path, fault=FaultKind(fault), **more))


@pytest.fixture
async def world() -> AsyncIterator[World]:
    exchange = Exchange(price=Price(100_000.0), ids=seeded_ids(1))
    owner = exchange.add_account(Credentials(**KEYS), Sats(10_000_000))
    exchange.cross.deposit(owner, Sats(500_000), NOW)
    exchange.cross.set_leverage(owner, 10, NOW)
    async with (
        serve(exchange, clock=StillClock(), rate_scale=1000) as server,
        Transport(server.rest_url, timeout_s=5, rate_scale=NO_LIMIT) as transport,
    ):
        yield World(exchange=exchange, server=server, client=client_of(transport))


def client_of(transport: Transport) -> AccountClient:
    return AccountClient(
        "main",
        Keys(**KEYS),
        transport=transport,
        server_clock=ServerClock(PublicClient(transport).server_time, StillClock()),
        rate_scale=NO_LIMIT,
    )


def a_trade(**changes) -> NewTrade:
    wanted = {"side": Side.LONG, "quantity": 500, "leverage": 10.0, "client_id": TAG}
    return NewTrade(**{**wanted, **changes})


async def test_a_trade_is_reopened_smaller_with_its_exits_and_found_by_its_tag(world):
    first = await world.trade(quantity=1_000, client_id="first", stop_loss=91_000.0)
    world.move(95_000)
    await world.client.close_position(first)
    leverage = float(Fraction(500 * 10**8, 47_123 * 95_000))

    reopened = await world.trade(leverage=leverage, stop_loss=91_000.0, take_profit=120_000.0)

    assert reopened != first
    position = await world.position(reopened)
    assert (position.quantity, position.entry_price, position.client_id) == (500, 95_000, TAG)
    assert (position.stop_loss, position.take_profit) == (91_000, 120_000)
    assert 47_122 <= position.margin <= 47_123  # the leverage is a float; never more than asked
    assert not position.trailing_stop
    assert (await world.client.closed_by_client_id("first", NOW)).id == first
    assert await world.client.closed_by_client_id(TAG, NOW) is None


async def test_a_tag_does_not_keep_an_order_from_being_carried_out_twice(world):
    one, two = await world.trade(), await world.trade()
    assert one != two
    assert [p.client_id for p in await world.client.running_positions()] == [TAG, TAG]
    await world.client.close_position(two)
    assert (await world.client.closed_by_client_id(TAG, NOW)).id == two
    for _ in range(2):
        await world.client.reduce_cross(Side.SHORT, 100, TAG)
    assert (await world.position(CROSS)).quantity == 200


async def test_a_tagged_trade_that_was_stopped_out_is_found_with_its_end(world):
    trade_id = await world.trade(stop_loss=95_000.0)
    world.move(94_000)
    ended = await world.client.closed_by_client_id(TAG, NOW - timedelta(seconds=1))
    assert (ended.id, ended.exit_price) == (trade_id, 95_000)
    assert await world.client.closed_by_client_id(TAG, NOW + timedelta(minutes=3)) is None


async def test_the_cross_position_is_reduced_and_the_order_found_by_its_tag(world):
    await world.client.reduce_cross(Side.LONG, 1_000, "opening")
    outcome = await world.client.reduce_cross(Side.SHORT, 400, TAG)
    assert outcome.kind is OutcomeKind.DONE
    assert (await world.position(CROSS)).quantity == 600
    found = await world.client.cross_order(TAG, NOW)
    assert (found.id, found.side, found.quantity) == (outcome.exchange_id, Side.SHORT, 400)
    assert await world.client.cross_order("another", NOW) is None


async def test_a_stop_loss_is_set_moved_and_removed(world):
    trade_id = await world.trade()
    for price in (92_000.0, 93_000.5, None):
        assert (await world.client.set_stop_loss(trade_id, price)).kind is OutcomeKind.DONE
        assert (await world.position(trade_id)).stop_loss == price


@pytest.mark.parametrize(
    ("side", "price"),
    [
        (Side.LONG, 90_908.5),
        (Side.LONG, 100_000.0),
        (Side.SHORT, 111_111.5),
        (Side.SHORT, 100_000.0),
    ],
)
async def test_a_stop_loss_outside_the_exchanges_rules_is_rejected(world, side, price):
    """Failure 7: on a running trade as on an order for one."""
    trade_id = await world.trade(side=side)
    outcomes = [
        await world.client.set_stop_loss(trade_id, price),
        await world.client.open_trade(a_trade(side=side, stop_loss=price)),
    ]
    assert [outcome.kind for outcome in outcomes] == [OutcomeKind.REJECTED] * 2
    (position,) = await world.client.running_positions()
    assert position.stop_loss is None


async def test_a_stop_loss_of_a_trade_that_no_longer_runs_is_rejected(world):
    """Failure 11."""
    trade_id = await world.trade()
    await world.client.close_position(trade_id)
    for price in (95_000.0, None):
        outcome = await world.client.set_stop_loss(trade_id, price)
        assert outcome.kind is OutcomeKind.REJECTED


async def test_a_users_trailing_stop_is_seen_as_such_and_followed(world):
    trade_id = await world.trade()
    world.exchange.set_trailing_stop(world.owner, UUID(trade_id), Fraction("0.05"))
    position = await world.position(trade_id)
    assert (position.stop_loss, position.trailing_stop) == (95_000, True)
    world.move(110_000)
    position = await world.position(trade_id)
    assert (position.stop_loss, position.trailing_stop) == (104_500, True)


FAULTS = [
    # the fault, whether the exchange carries the call out, how the call ends
    pytest.param("status", {"status": 400}, False, OutcomeKind.REJECTED, id="400"),
    pytest.param("status", {"status": 429}, False, OutcomeKind.BUSY, id="429"),
    pytest.param("status", {"status": 503}, False, OutcomeKind.BUSY, id="503"),
    pytest.param("status", {"status": 502}, False, OutcomeKind.AMBIGUOUS, id="502"),
    pytest.param("status_after", {"status": 504}, True, OutcomeKind.AMBIGUOUS, id="504-after"),
    pytest.param("drop_request", {}, False, OutcomeKind.AMBIGUOUS, id="drop-request"),
    pytest.param("drop_response", {}, True, OutcomeKind.AMBIGUOUS, id="drop-response"),
    pytest.param("malformed", {}, True, OutcomeKind.AMBIGUOUS, id="malformed"),
    pytest.param("delay", {"delay": 0.01}, True, OutcomeKind.DONE, id="delay"),
]


every_fault = pytest.mark.parametrize(("fault", "more", "applied", "kind"), FAULTS)


def last_row(world: World) -> tuple[str, str, bool]:
    row = world.server.calls[-1]
    return row.method, row.path, row.applied


@every_fault
async def test_whatever_happens_to_an_order_the_reads_tell_whether_a_trade_was_opened(
    world, fault, more, applied, kind
):
    """Failures 1 to 5 and 7, as in the following."""
    world.fault("POST", TRADE, fault, **more)
    assert (await world.client.open_trade(a_trade())).kind is kind
    tags = [p.client_id for p in await world.client.running_positions()]
    assert tags == ([TAG] if applied else [])
    assert await world.client.closed_by_client_id(TAG, NOW) is None
    assert last_row(world) == ("POST", TRADE, applied)
    assert world.server.calls[-1].body["clientId"] == TAG


@every_fault
async def test_whatever_happens_to_a_reduction_the_reads_tell_whether_it_was_carried_out(
    world, fault, more, applied, kind
):
    await world.client.reduce_cross(Side.LONG, 1_000, "opening")
    world.fault("POST", CROSS_ORDER, fault, **more)
    assert (await world.client.reduce_cross(Side.SHORT, 400, TAG)).kind is kind
    assert (await world.client.cross_order(TAG, NOW) is not None) is applied
    assert (await world.position(CROSS)).quantity == (600 if applied else 1_000)
    assert last_row(world) == ("POST", CROSS_ORDER, applied)
    assert world.server.calls[-1].body["clientId"] == TAG


@every_fault
@pytest.mark.parametrize(("method", "price"), [("PUT", 93_000.0), ("DELETE", None)])
async def test_whatever_happens_to_a_stop_loss_the_reads_tell_whether_it_was_changed(
    world, method, price, fault, more, applied, kind
):
    trade_id = await world.trade(stop_loss=92_000.0)
    world.fault(method, STOP_LOSS, fault, **more)
    assert (await world.client.set_stop_loss(trade_id, price)).kind is kind
    assert (await world.position(trade_id)).stop_loss == (price if applied else 92_000)
    assert last_row(world) == (method, STOP_LOSS, applied)
    assert world.server.calls[-1].body["id"] == trade_id


@pytest.mark.parametrize("processed", [False, True])
async def test_an_order_that_is_never_answered_is_ambiguous_and_told_by_its_tag(world, processed):
    """Failure 1, for what opens a trade."""
    world.fault("POST", TRADE, "blackhole", processed=processed)
    async with Transport(world.server.rest_url, timeout_s=0.2, rate_scale=NO_LIMIT) as impatient:
        outcome = await client_of(impatient).open_trade(a_trade())
    assert outcome.kind is OutcomeKind.AMBIGUOUS
    tags = [p.client_id for p in await world.client.running_positions()]
    assert tags == ([TAG] if processed else [])
