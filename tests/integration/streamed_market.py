"""The simulated exchange behind its stream, and a client that signs as it documents."""

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

from marginguard.domain.model import Side
from marginguard.domain.units import Price, Sats
from marginguard.simulator.accounts import Credentials
from marginguard.simulator.exchange import Exchange, seeded_ids
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
