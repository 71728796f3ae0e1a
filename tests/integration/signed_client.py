"""A client of the simulated exchange that signs independently of the simulator's own code."""

import base64
import hashlib
import hmac
import json
from dataclasses import dataclass, field
from datetime import UTC, datetime
from urllib.parse import urlencode

import aiohttp
from yarl import URL

from marginguard.simulator.server import RunningServer

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
TRADE = "/v3/futures/isolated/trade"


class StillClock:
    """A clock that is moved by hand."""

    def __init__(self) -> None:
        self.time = NOW

    def now(self) -> datetime:
        return self.time

    def monotonic(self) -> float:
        return 0.0


@dataclass
class Answer:
    status: int
    text: str
    headers: dict[str, str]

    @property
    def value(self):
        return json.loads(self.text)


@dataclass
class Client:
    """Signs as the exchange's documentation says, independently of the simulator's own code."""

    session: aiohttp.ClientSession
    server: RunningServer
    key: str = "key"
    secret: str = "secret"
    passphrase: str = "phrase"
    at: datetime = NOW
    changed_headers: dict[str, str | None] = field(default_factory=dict)

    async def call(self, method: str, path: str, body: object = None, **query: object) -> Answer:
        data = ""
        if query:
            data = f"?{urlencode(query)}"
        if body is not None:
            data = json.dumps(body)
        stamp = str(int(self.at.timestamp() * 1000))
        text = f"{stamp}{method.lower()}{path}{data}"
        digest = hmac.new(self.secret.encode(), text.encode(), hashlib.sha256).digest()
        headers = {
            "lnm-access-key": self.key,
            "lnm-access-passphrase": self.passphrase,
            "lnm-access-timestamp": stamp,
            "lnm-access-signature": base64.b64encode(digest).decode(),
        } | self.changed_headers
        target = path + (data if query else "")
        return await self.plain(
            method,
            target,
            data if body is not None else None,
            {name: value for name, value in headers.items() if value is not None},
        )

    async def plain(self, method, target, data=None, headers=None) -> Answer:
        # Encoded as it is: the client would otherwise rewrite the query that was signed.
        url = URL(f"{self.server.base_url}{target}", encoded=True)
        async with self.session.request(method, url, data=data, headers=headers) as response:
            return Answer(response.status, await response.text(), dict(response.headers))

    async def open_trade(self, **more: object) -> dict[str, object]:
        body = {"type": "market", "side": "buy", "leverage": 10, "quantity": 1_000} | more
        answer = await self.call("POST", TRADE, body)
        assert answer.status == 200, answer.text
        return answer.value

    async def fault(self, method: str, path: str, fault: str, **more: object) -> None:
        rule = {"method": method, "path": path, "fault": fault, "times": 1} | more
        answer = await self.plain("POST", "/simulator/faults", json.dumps(rule))
        assert answer.status == 200, answer.text

    async def running(self) -> list[dict[str, object]]:
        return (await self.call("GET", f"{TRADE}s/running")).value

    async def calls(self) -> list[dict[str, object]]:
        return (await self.plain("GET", "/simulator/calls")).value
