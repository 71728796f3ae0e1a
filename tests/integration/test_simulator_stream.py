"""The simulated exchange's stream over real WebSockets: pushes, limits, faults."""

import asyncio
import base64
import contextlib
import hashlib
import hmac
import itertools
import json
from dataclasses import dataclass, field
from datetime import UTC, datetime
from fractions import Fraction

import aiohttp
import pytest

from marginguard.domain.errors import Rejected
from marginguard.domain.model import Side
from marginguard.domain.units import Price, Sats
from marginguard.simulator.accounts import Credentials
from marginguard.simulator.exchange import Exchange, seeded_ids
from marginguard.simulator.limits import Limits
from marginguard.simulator.orders import CrossRequest
from marginguard.simulator.server import serve
from marginguard.simulator.trades import Order

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
NOW_MS = 1_767_268_800_000
FUNDING_MS = 1_767_283_200_000
MARKET = "futures/inverse/btc_usd"
LAST_PRICE = f"{MARKET}/lastPrice"
TRADES = f"{MARKET}/isolated/trades"
ORDERS = f"{MARKET}/cross/orders"
POSITION = f"{MARKET}/cross/position"
PATIENCE_S = 10


class StillClock:
    """A clock whose time of day stands still, so that pushes have known times."""

    def now(self) -> datetime:
        return NOW

    def monotonic(self) -> float:
        return 0.0


@dataclass
class Stream:
    """One connection, which signs as the exchange's documentation says."""

    socket: aiohttp.ClientWebSocketResponse
    pushed: list = field(default_factory=list)
    ids: itertools.count = field(default_factory=itertools.count)

    async def ask(self, method, **params):
        """Send a request and return its answer; what is pushed meanwhile is kept."""
        request_id = str(next(self.ids))
        await self.send({"jsonrpc": "2.0", "id": request_id, "method": method, "params": params})
        while (frame := await self.receive()).get("id") != request_id:
            self.pushed.append(frame)
        return frame

    async def send(self, request):
        await self.socket.send_str(json.dumps(request))

    async def receive(self):
        message = await self.socket.receive(PATIENCE_S)
        assert message.type is aiohttp.WSMsgType.TEXT, message
        return json.loads(message.data)

    async def push(self, topic):
        """Return the data of the next push on `topic`."""
        for at, frame in enumerate(self.pushed):
            if frame["params"]["topic"] == topic:
                return self.pushed.pop(at)["params"]["data"]
        while True:
            frame = await self.receive()
            assert (frame["jsonrpc"], frame["method"]) == ("2.0", "subscription")
            if frame["params"]["topic"] == topic:
                return frame["params"]["data"]
            self.pushed.append(frame)

    async def subscribe(self, *topics):
        answer = await self.ask("subscribe", topics=list(topics))
        assert answer["result"] == {"subscribed": list(topics)}

    async def authenticate(self, key="key"):
        nonce = "00ff"
        secret = f"secret of {key}".encode()
        digest = hmac.new(secret, f"{NOW_MS}{nonce}".encode(), hashlib.sha256).digest()
        signature = base64.b64encode(digest).decode()
        return await self.ask(
            "authenticate",
            key=key,
            passphrase="phrase",
            timestamp=NOW_MS,
            nonce=nonce,
            signature=signature,
        )


class Market:
    """A served exchange with two accounts, and connections to it."""

    def __init__(self) -> None:
        self.exchange = Exchange(price=Price(100_000.0), ids=seeded_ids(1))
        self.accounts = {
            key: self.exchange.add_account(
                Credentials(key=key, secret=f"secret of {key}", passphrase="phrase"),
                Sats(10_000_000),
            )
            for key in ("key", "other")
        }

    @contextlib.asynccontextmanager
    async def serving(self, **settings):
        async with (
            serve(self.exchange, clock=StillClock(), **settings) as self.server,
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(PATIENCE_S)) as self.session,
        ):
            yield self

    def connect(self, **settings):
        return self.session.ws_connect(self.server.stream_url, **settings)

    @contextlib.asynccontextmanager
    async def stream(self, **settings):
        async with self.connect(**settings) as socket:
            yield Stream(socket)

    def open_trade(self, key="key", **more):
        order = Order(**({"side": Side.LONG, "leverage": Fraction(10), "quantity": 1_000} | more))
        return self.exchange.open_trade(self.accounts[key], order, NOW)

    def move(self, price):
        self.exchange.set_price(Price(float(price)), NOW)

    async def fault(self, name):
        url = f"{self.server.base_url}/simulator/stream"
        async with self.session.post(url, json={"fault": name}) as answer:
            return answer.status, await answer.json()


@pytest.fixture
async def market():
    async with Market().serving(rate_scale=100) as market:
        yield market


async def test_the_conversation_of_a_client_that_connects(market):
    async with market.stream() as stream:
        hello = await stream.ask("hello", clientName="test", clientVersion="1")
        pong = await stream.ask("ping")
        time = await stream.ask("time")
        authenticated = await stream.authenticate()
        myself = await stream.ask("whoami")
        await stream.subscribe(LAST_PRICE, TRADES)
        dropped = await stream.ask("unsubscribeAll")

    assert hello["result"] == {"version": "1.0.0"}
    assert pong["result"] == "pong"
    assert time["result"] == {"time": NOW_MS}
    assert authenticated["result"]["authenticated"] is True
    assert myself["result"]["apiKey"] == "key"
    assert dropped["result"] == {"unsubscribed": [LAST_PRICE, TRADES]}
    assert {"usIn", "usOut", "usDiff", "rateLimit"} <= set(hello)


async def test_a_binary_frame_is_a_request_too(market):
    async with market.stream() as stream:
        await stream.socket.send_bytes(b'{"jsonrpc":"2.0","id":"1","method":"ping"}')

        assert (await stream.receive())["result"] == "pong"


async def test_a_change_of_price_is_pushed_at_once_on_every_topic_of_the_market(market):
    topics = [f"{MARKET}/{name}" for name in ("lastPrice", "index", "ticker", "buckets")]
    async with market.stream() as stream:
        await stream.subscribe(*topics)
        market.move(99_000.5)
        data = {}
        while data.get(topics[-1], {}).get("buckets", [{}])[0].get("askPrice") != 99_000.5:
            frame = await stream.receive()
            data[frame["params"]["topic"]] = frame["params"]["data"]

    assert data == {
        f"{MARKET}/lastPrice": {"time": NOW_MS, "lastPrice": 99_000.5},
        f"{MARKET}/index": {"time": NOW_MS, "index": 99_000.5},
        f"{MARKET}/ticker": {
            "time": NOW_MS,
            "lastPrice": 99_000.5,
            "index": 99_000.5,
            "funding": {"rate": 0.0001, "time": FUNDING_MS},
        },
        f"{MARKET}/buckets": {
            "time": NOW_MS,
            "buckets": [
                {"minSize": 1, "maxSize": 500_000, "askPrice": 99_000.5, "bidPrice": 99_000.5}
            ],
        },
    }


async def test_every_price_is_pushed_in_order(market):
    prices = [100_000 + step for step in range(1, 200)]
    async with market.stream() as stream:
        await stream.subscribe(LAST_PRICE)
        for price in prices:
            market.move(float(price))
        seen = []
        while not seen or seen[-1] != prices[-1]:
            seen.append((await stream.push(LAST_PRICE))["lastPrice"])

    assert [price for price in seen if price != 100_000] == prices


async def test_a_market_that_stands_still_is_pushed_as_a_heartbeat(market):
    async with market.stream() as stream:
        await stream.subscribe(LAST_PRICE)
        loop = asyncio.get_running_loop()
        times = []
        for _ in range(3):
            await stream.push(LAST_PRICE)
            times.append(loop.time())

    assert all(later - earlier > 0.1 for earlier, later in itertools.pairwise(times))


async def test_nothing_is_pushed_that_was_not_asked_for(market):
    async with market.stream() as stream, market.stream() as listening:
        await stream.authenticate()
        await listening.subscribe(LAST_PRICE)
        market.open_trade()
        market.move(99_000)
        while (await listening.push(LAST_PRICE))["lastPrice"] != 99_000:
            pass
        await stream.ask("ping")

        assert stream.pushed == []


async def test_a_trade_is_told_of_from_fill_to_close(market):
    async with market.stream() as stream:
        await stream.authenticate()
        await stream.subscribe(TRADES)
        trade = market.open_trade(client_id="mine")
        market.move(100_500)
        market.exchange.close_trade(market.accounts["key"], trade.id, NOW)
        filled = await stream.push(TRADES)
        closed = await stream.push(TRADES)

    assert filled == {
        "pair": "btc_usd",
        "event": "filled",
        "trade": {
            "id": str(trade.id),
            "clientId": "mine",
            "side": "buy",
            "type": "market",
            "quantity": 1_000,
            "margin": 100_000,
            "leverage": 10,
            "price": 100_000,
            "openingFee": 1_000,
            "createdAt": NOW_MS,
        },
    }
    assert closed == {
        "pair": "btc_usd",
        "event": "closed",
        "trade": {
            "id": str(trade.id),
            "clientId": "mine",
            "closedAt": NOW_MS,
            "closingFee": 995,
            "pl": 4_975,
            "exitPrice": 100_500,
        },
    }


@pytest.mark.parametrize(
    ("price", "event", "fields"),
    [
        (90_909.0, "liquidation", {"closedAt", "closingFee", "exitPrice"}),
        (95_000.0, "stoploss", {"closedAt", "closingFee", "exitPrice", "pl"}),
        (105_000.0, "takeprofit", {"closedAt", "closingFee", "exitPrice", "pl"}),
    ],
)
async def test_what_ends_a_trade_is_told(market, price, event, fields):
    limits = {} if event == "liquidation" else {"stop_loss": 95_000.0, "take_profit": 105_000.0}
    async with market.stream() as stream:
        await stream.authenticate()
        trade = market.open_trade(**limits)
        await stream.subscribe(TRADES)
        market.move(price)
        told = await stream.push(TRADES)

    assert (told["event"], told["trade"]["id"]) == (event, str(trade.id))
    assert told["trade"]["exitPrice"] == price
    assert set(told["trade"]) == {"id", "clientId"} | fields


async def test_a_limit_trade_is_told_of_when_placed_and_when_canceled(market):
    async with market.stream() as stream:
        await stream.authenticate()
        await stream.subscribe(TRADES)
        trade = market.open_trade(price=90_000.0)
        market.exchange.cancel_trade(market.accounts["key"], trade.id, NOW)
        placed = await stream.push(TRADES)
        canceled = await stream.push(TRADES)

    assert (placed["event"], placed["trade"]["type"]) == ("open", "limit")
    assert placed["trade"]["price"] == 90_000
    assert canceled["event"] == "canceled"
    assert canceled["trade"] == {"id": str(trade.id), "clientId": None, "closedAt": NOW_MS}


async def test_funding_is_told_to_those_who_pay_and_to_all(market):
    funding = f"{MARKET}/funding"
    async with market.stream() as stream:
        await stream.authenticate()
        trade = market.open_trade()
        await stream.subscribe(TRADES, funding)
        market.exchange.settle_funding(0.0001, NOW)
        paid = await stream.push(TRADES)
        settled = await stream.push(funding)

    (running,) = market.exchange.running_trades(market.accounts["key"])
    assert paid["event"] == "funding"
    assert paid["trade"] == {
        "id": str(trade.id),
        "clientId": None,
        "margin": 99_900,
        "liquidationPrice": running.liquidation,
        "fundingFee": 100,
        "fundedAt": NOW_MS,
    }
    assert settled == {"pair": "btc_usd", "current": {"rate": 0.0001, "time": FUNDING_MS}}


async def test_a_limit_trade_is_told_of_when_it_fills(market):
    async with market.stream() as stream:
        await stream.authenticate()
        market.open_trade(price=99_000.0)
        await stream.subscribe(TRADES)
        market.move(98_900)
        filled = await stream.push(TRADES)

    assert (filled["event"], filled["trade"]["type"]) == ("filled", "limit")
    assert filled["trade"]["price"] == 99_000


async def test_the_cross_position_is_told_of_with_its_orders(market):
    account, cross = market.accounts["key"], market.exchange.cross
    async with market.stream() as stream:
        await stream.authenticate()
        await stream.subscribe(POSITION, ORDERS)
        cross.deposit(account, Sats(500_000), NOW)
        cross.set_leverage(account, 10, NOW)
        order = cross.order(account, CrossRequest(side=Side.LONG, quantity=1_000), NOW)
        events = [await stream.push(POSITION) for _ in range(3)]
        placed = await stream.push(ORDERS)

    assert [told["event"] for told in events] == ["deposit", "leverage", "new"]
    assert events[0]["position"] == {
        "quantity": 0,
        "leverage": 1,
        "margin": 500_000,
        "entryPrice": None,
        "liquidation": None,
        "totalPl": 0,
        "fundingFees": 0,
        "tradingFees": 0,
        "initialMargin": 0,
        "maintenanceMargin": 0,
        "runningMargin": 0,
        "deltaPl": 0,
        "updatedAt": NOW_MS,
    }
    position = events[2]["position"]
    assert (position["quantity"], position["leverage"]) == (1_000, 10)
    assert (position["margin"], position["entryPrice"]) == (499_000, 100_000)
    assert placed == {
        "pair": "btc_usd",
        "event": "new",
        "order": {
            "id": str(order.id),
            "clientId": None,
            "side": "buy",
            "type": "market",
            "quantity": 1_000,
            "price": 100_000,
            "tradingFee": 1_000,
            "createdAt": NOW_MS,
            "filledAt": int(order.filled_at.timestamp() * 1000),
        },
    }


async def test_a_cross_limit_order_is_told_of_until_it_fills_or_is_canceled(market):
    account, cross = market.accounts["key"], market.exchange.cross
    cross.deposit(account, Sats(500_000), NOW)
    async with market.stream() as stream:
        await stream.authenticate()
        await stream.subscribe(ORDERS)
        for price in (99_000.0, 90_000.0):
            request = CrossRequest(side=Side.LONG, quantity=100, price=price)
            order = cross.order(account, request, NOW)
        market.move(98_500)
        cross.cancel(account, order.id, NOW)
        told = [await stream.push(ORDERS) for _ in range(4)]

    common = {"id", "clientId", "side", "type", "quantity", "price", "createdAt"}
    assert [(push["event"], push["order"]["price"]) for push in told] == [
        ("new", 99_000),
        ("new", 90_000),
        ("limit", 99_000),
        ("canceled", 90_000),
    ]
    assert [set(push["order"]) - common for push in told] == [
        {"tradingFee"},
        {"tradingFee"},
        {"tradingFee", "filledAt"},
        {"canceledAt"},
    ]


async def test_the_liquidation_of_a_cross_position_is_told(market):
    account, cross = market.accounts["key"], market.exchange.cross
    cross.deposit(account, Sats(200_000), NOW)
    cross.set_leverage(account, 10, NOW)
    cross.order(account, CrossRequest(side=Side.LONG, quantity=1_000), NOW)
    async with market.stream() as stream:
        await stream.authenticate()
        await stream.subscribe(POSITION)
        market.move(50_000)
        told = await stream.push(POSITION)

    assert (told["event"], told["position"]["quantity"]) == ("liquidation", 0)


async def test_the_minute_that_runs_is_pushed_as_a_candle(market):
    topic = f"{MARKET}/ohlc/1m"
    async with market.stream() as stream:
        await stream.subscribe(topic)
        for price in (100_500, 99_500, 99_900):
            market.move(price)
        while (candle := await stream.push(topic))["close"] != 99_900:
            pass

    assert candle == {
        "time": NOW_MS,
        "open": candle["open"],
        "high": 100_500,
        "low": 99_500,
        "close": 99_900,
        "volume": 0,
    }


async def test_adding_margin_and_a_refused_command_have_no_event(market):
    async with market.stream() as stream:
        await stream.authenticate()
        trade = market.open_trade()
        await stream.subscribe(TRADES)
        market.exchange.add_margin(market.accounts["key"], trade.id, 5_000)
        with pytest.raises(Rejected):
            market.open_trade(quantity=0)
        market.exchange.close_trade(market.accounts["key"], trade.id, NOW)

        assert (await stream.push(TRADES))["event"] == "closed"


async def test_accounts_hear_of_their_own_trades_alone(market):
    async with market.stream() as mine, market.stream() as theirs:
        await mine.authenticate("key")
        await theirs.authenticate("other")
        for stream in (mine, theirs):
            await stream.subscribe(TRADES)
        own = market.open_trade("key")
        foreign = market.open_trade("other")

        assert (await mine.push(TRADES))["trade"]["id"] == str(own.id)
        assert (await theirs.push(TRADES))["trade"]["id"] == str(foreign.id)


async def test_a_message_of_16_kib_is_answered_and_a_longer_one_ends_the_connection(market):
    request = '{"jsonrpc":"2.0","id":"1","method":"ping","params":{"filler":"%s"}}'
    most = request % ("x" * (16 * 1024 - len(request) + 2))
    async with market.stream() as stream:
        await stream.socket.send_str(most)
        answer = await stream.receive()
        await stream.socket.send_str(most + " ")
        message = await stream.socket.receive(PATIENCE_S)

    assert len(most) == 16_384
    assert answer["result"] == "pong"
    assert (message.type, message.data) == (aiohttp.WSMsgType.CLOSE, 1009)


async def test_a_connection_takes_10_messages_a_second():
    async with Market().serving() as market, market.stream() as stream:
        answers = [await stream.ask("ping") for _ in range(11)]

    assert [answer.get("result") for answer in answers] == ["pong"] * 10 + [None]
    assert answers[-1]["error"]["data"] == {"code": "TOO_MANY_REQUESTS"}


async def test_an_address_may_try_to_authenticate_20_times_a_minute_over_all_connections():
    async with Market().serving(limits=Limits(messages_per_s=100)) as market:
        async with market.stream() as stream:
            for _ in range(20):
                assert "result" in await stream.authenticate()
        async with market.stream() as stream:
            refused = await stream.authenticate()

    assert refused["error"]["data"] == {"code": "TOO_MANY_REQUESTS"}


async def test_a_connection_that_says_nothing_is_closed():
    limits = Limits(idle_timeout_s=1.0)
    async with Market().serving(limits=limits) as market, market.stream() as stream:
        await stream.subscribe(LAST_PRICE)
        message = await stream.socket.receive(PATIENCE_S)
        while message.type is aiohttp.WSMsgType.TEXT:
            message = await stream.socket.receive(PATIENCE_S)

    assert (message.type, message.extra) == (aiohttp.WSMsgType.CLOSE, "idle")


async def test_a_ping_frame_keeps_a_connection_open_and_is_answered():
    limits = Limits(idle_timeout_s=1.0)
    async with Market().serving(limits=limits) as market, market.stream(autoping=False) as stream:
        for number in range(12):
            await stream.socket.ping(b"%d" % number)
            message = await stream.socket.receive(PATIENCE_S)
            assert (message.type, message.data) == (aiohttp.WSMsgType.PONG, b"%d" % number)
            await asyncio.sleep(0.1)  # together longer than the time-out


async def test_an_address_has_32_connections_and_gets_one_when_one_ends(market):
    async with contextlib.AsyncExitStack() as stack:
        first = await stack.enter_async_context(market.connect())
        for _ in range(31):
            await stack.enter_async_context(market.connect())
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await stack.enter_async_context(market.connect())
        await first.close()
        async with market.stream() as stream:
            again = await stream.ask("ping")

    assert refused.value.status == 429
    assert refused.value.headers["Retry-After"] == "1"
    assert again["result"] == "pong"


async def test_an_address_opens_so_many_connections_an_hour():
    async with Market().serving(limits=Limits(new_connections_per_hour=3)) as market:
        for _ in range(3):
            async with market.stream() as stream:
                await stream.ask("ping")
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await market.connect()

    assert refused.value.status == 429
    assert refused.value.headers["Retry-After"] == "3600"


async def test_killed_connections_end_without_a_word_and_new_ones_work(market):
    async with market.stream() as stream, market.stream() as other:
        await stream.subscribe(LAST_PRICE)
        answer = await market.fault("kill")
        for killed in (stream, other):
            message = await killed.socket.receive(PATIENCE_S)
            while message.type is aiohttp.WSMsgType.TEXT:
                message = await killed.socket.receive(PATIENCE_S)
            assert message.type in {aiohttp.WSMsgType.CLOSED, aiohttp.WSMsgType.ERROR}
            assert killed.socket.close_code in {None, 1006}
    async with market.stream() as stream:
        again = await stream.ask("ping")

    assert answer == (200, {"fault": "kill"})
    assert again["result"] == "pong"


async def test_silence_leaves_sockets_open_but_nothing_is_pushed_or_answered(market):
    """Failure 17: a half-open socket."""
    async with market.stream(autoping=False) as stream:
        await stream.subscribe(LAST_PRICE)
        await market.fault("silence")
        stream.pushed.clear()
        with contextlib.suppress(TimeoutError):
            while True:  # what was under way
                await stream.socket.receive(0.05)
        await stream.send({"jsonrpc": "2.0", "id": "lost", "method": "ping"})
        await stream.socket.ping()
        market.move(99_000)
        with pytest.raises(TimeoutError):  # longer than the heartbeat
            await stream.socket.receive(1.2)
        async with market.connect() as new:
            await new.send_str('{"jsonrpc":"2.0","id":"1","method":"ping"}')
            with pytest.raises(TimeoutError):
                await new.receive(0.2)
        await market.fault("resume")
        answer = await stream.ask("ping")
        beat = await stream.push(LAST_PRICE)

    assert answer["result"] == "pong"
    assert beat["lastPrice"] == 99_000
    assert all("lost" not in json.dumps(frame) for frame in stream.pushed)


@pytest.mark.parametrize("body", [{"fault": "explode"}, {}, {"fault": "kill", "times": 2}])
async def test_a_wrong_fault_is_refused(market, body):
    url = f"{market.server.base_url}/simulator/stream"
    async with market.session.post(url, json=body) as answer:
        assert answer.status == 400
        assert (await answer.json())["code"] == "BAD_REQUEST"


async def test_a_connection_that_does_not_read_is_cut():
    """Failure 26: a frozen client."""
    async with Market().serving() as market, market.stream() as stream:
        await stream.subscribe(f"{MARKET}/ticker")
        for step in range(1_500):
            market.move(100_000.0 + step)
        message = await stream.socket.receive(PATIENCE_S)
        while message.type is aiohttp.WSMsgType.TEXT:
            message = await stream.socket.receive(PATIENCE_S)

    assert message.type in {aiohttp.WSMsgType.CLOSED, aiohttp.WSMsgType.ERROR}


async def test_the_server_says_goodbye_when_it_ends():
    market = Market()
    async with aiohttp.ClientSession() as session:
        async with market.serving():
            socket = await session.ws_connect(market.server.stream_url)
            last = asyncio.create_task(socket.receive(PATIENCE_S))
        message = await last

    assert (message.type, message.data) == (aiohttp.WSMsgType.CLOSE, 1001)


async def test_an_exchange_is_not_watched_after_its_server_ended():
    market = Market()
    async with market.serving():
        async with market.stream() as stream:
            await stream.ask("ping")
        assert len(market.exchange.observers) == 1

    assert market.exchange.observers == []
