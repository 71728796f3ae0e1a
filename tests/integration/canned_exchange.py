"""A server with canned answers, and the payloads that the exchange would send."""

import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from aiohttp import web
from aiohttp.test_utils import TestServer

TRADE_ID = "0a1b2c3d-0000-4000-8000-000000000001"
OTHER_ID = "0a1b2c3d-0000-4000-8000-000000000002"

RUNNING = "/v3/futures/isolated/trades/running"
CLOSED = "/v3/futures/isolated/trades/closed"
CLOSE = "/v3/futures/isolated/trade/close"
ADD_MARGIN = "/v3/futures/isolated/trade/add-margin"
CROSS_POSITION = "/v3/futures/cross/position"
FILLED = "/v3/futures/cross/orders/filled"
TRANSFERS = "/v3/futures/cross/transfers"

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def trade(**changes: Any) -> dict[str, Any]:
    """A running trade with some fields changed."""
    return {
        "id": TRADE_ID,
        "type": "market",
        "side": "buy",
        "openingFee": 909,
        "closingFee": 0,
        "maintenanceMargin": 1909,
        "quantity": 1000,
        "margin": 100_000,
        "leverage": 10,
        "price": 100_000,
        "liquidation": 90_909.0,
        "stoploss": 0,
        "stoplossTrailingDistance": None,
        "takeprofit": 0,
        "exitPrice": None,
        "pl": -1740,
        "createdAt": "2026-01-01T00:00:00.000Z",
        "filledAt": "2026-01-01T00:00:01.000Z",
        "closedAt": None,
        "entryPrice": 100_000,
        "entryMargin": 100_000,
        "open": False,
        "running": True,
        "canceled": False,
        "closed": False,
        "sumFundingFees": 12,
        "sumCashInPl": 0,
        "sumCashInMargin": 34,
        "clientId": None,
        **changes,
    }


def closed_trade(**changes: Any) -> dict[str, Any]:
    """A closed trade with some fields changed."""
    return trade(
        **{
            "running": False,
            "closed": True,
            "exitPrice": 95_000.5,
            "pl": -5263,
            "closedAt": "2026-01-02T00:00:00.000Z",
            **changes,
        }
    )


def open_trade(**changes: Any) -> dict[str, Any]:
    """A limit order that waits, with some fields changed."""
    return trade(
        **{
            "type": "limit",
            "open": True,
            "running": False,
            "entryPrice": None,
            "entryMargin": None,
            "filledAt": None,
            "pl": 0,
            "price": 90_000.5,
            **changes,
        }
    )


def canceled_trade(**changes: Any) -> dict[str, Any]:
    """A canceled limit order with some fields changed."""
    canceled = {"open": False, "canceled": True, "closedAt": "2026-01-02T00:00:00.000Z"}
    return open_trade(**{**canceled, **changes})


def cross_position(**changes: Any) -> dict[str, Any]:
    """A cross position, long 1,000 USD, with some fields changed."""
    return {
        "id": "0c000000-0000-4000-8000-000000000001",
        "quantity": 1000,
        "margin": 500_000,
        "leverage": 10,
        "entryPrice": 100_000,
        "liquidation": 66_733.5,
        "initialMargin": 0,
        "maintenanceMargin": 1500,
        "runningMargin": 100_000,
        "totalPl": -5263,
        "deltaPl": 12,
        "fundingFees": 7,
        "tradingFees": 1000,
        "updatedAt": "2026-01-01T00:00:00.000Z",
        **changes,
    }


def cross_order(**changes: Any) -> dict[str, Any]:
    """A filled market order on the cross position, with some fields changed."""
    return {
        "id": "0d000000-0000-4000-8000-000000000001",
        "type": "market",
        "side": "sell",
        "quantity": 1000,
        "price": 95_000.5,
        "tradingFee": 1052,
        "open": False,
        "filled": True,
        "canceled": False,
        "createdAt": "2026-01-02T00:00:00.000Z",
        "filledAt": "2026-01-02T00:00:00.000Z",
        "canceledAt": None,
        "clientId": None,
        **changes,
    }


def waiting_order(**changes: Any) -> dict[str, Any]:
    """A limit order on the cross position that waits, with some fields changed."""
    waits = {"type": "limit", "open": True, "filled": False, "filledAt": None, "tradingFee": 0}
    return cross_order(**{**waits, **changes})


def transfer(**changes: Any) -> dict[str, Any]:
    """A deposit into the cross margin, with some fields changed."""
    return {
        "id": "0e000000-0000-4000-8000-000000000001",
        "amount": 5000,
        "time": "2026-01-02T00:00:00.000Z",
        **changes,
    }


def page(*records: object, cursor: str | None = None) -> dict[str, Any]:
    """One page of a list."""
    return {"data": list(records), "nextCursor": cursor}


@dataclass(frozen=True)
class Seen:
    """A request as it arrived."""

    method: str
    path_qs: str
    headers: dict[str, str]
    body: bytes


@dataclass
class CannedExchange:
    """Answers each path with its handler, and keeps what it was asked."""

    port: int = 0
    handlers: dict[str, Handler] = field(default_factory=dict)
    seen: list[Seen] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v3"

    def answer(
        self, path: str, payload: object = None, *, status: int = 200, **headers: str
    ) -> None:
        """Answer with `payload`: as it is if it is bytes, else as JSON."""
        body = payload if isinstance(payload, bytes) else json.dumps(payload).encode()

        async def handle(_request: web.Request) -> web.StreamResponse:
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            return web.Response(
                status=status, body=body, headers={"Content-Type": "application/json", **named}
            )

        self.handlers[path] = handle

    def calls(self, path: str) -> list[Seen]:
        return [seen for seen in self.seen if seen.path_qs.partition("?")[0] == path]

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.seen.append(
            Seen(
                method=request.method,
                path_qs=request.raw_path,
                headers=dict(request.headers),
                body=await request.read(),
            )
        )
        return await self.handlers[request.path](request)


@contextlib.asynccontextmanager
async def canned_exchange() -> AsyncIterator[CannedExchange]:
    """Run the server on a free port of this machine."""
    exchange = CannedExchange()
    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", exchange.handle)
    server = TestServer(app, host="127.0.0.1")
    await server.start_server()
    assert server.port is not None
    exchange.port = server.port
    try:
        yield exchange
    finally:
        await server.close()


class HandClock:
    """A clock that moves when it is told to."""

    def __init__(self) -> None:
        self.wall = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
        self.seconds = 1000.0

    def now(self) -> datetime:
        return self.wall

    def monotonic(self) -> float:
        return self.seconds

    def pass_time(self, seconds: float) -> None:
        self.wall += timedelta(seconds=seconds)
        self.seconds += seconds
