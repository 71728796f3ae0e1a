"""Stream v1 on the wire: JSON-RPC 2.0 requests, and frames parsed strictly; pure.

Numbers are finite and within sane bounds, times are whole milliseconds. What is unknown (a
topic, an event, a field) is ignored; what is known and malformed raises `Malformed`. Parsed by
hand instead of by models: frames come by the hundred, and each has two fields of interest.
"""

import base64
import hmac
import re
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final, NamedTuple

import orjson

from marginguard.domain.errors import Malformed, MarginguardError, Rejected, Transient, Unauthorized
from marginguard.domain.units import CROSS, PositionId, Price
from marginguard.lnmarkets.payload import MAX_PRICE
from marginguard.lnmarkets.signing import Credentials

MAX_MESSAGE_BYTES: Final = 16 * 1024

LAST_PRICE: Final = "futures/inverse/btc_usd/lastPrice"
INDEX: Final = "futures/inverse/btc_usd/index"
ISOLATED_TRADES: Final = "futures/inverse/btc_usd/isolated/trades"
CROSS_POSITION: Final = "futures/inverse/btc_usd/cross/position"
WALLET_DEPOSIT: Final = "wallet/deposit"
WALLET_WITHDRAWAL: Final = "wallet/withdrawal"

PUBLIC_TOPICS: Final = (LAST_PRICE, INDEX)
ACCOUNT_TOPICS: Final = (ISOLATED_TRADES, CROSS_POSITION, WALLET_DEPOSIT, WALLET_WITHDRAWAL)

_PRICE_FIELDS: Final = MappingProxyType({LAST_PRICE: "lastPrice", INDEX: "index"})
_TRADE_EVENTS: Final = frozenset(
    {"open", "filled", "closed", "canceled", "liquidation", "stoploss", "takeprofit", "funding"}
)
_CROSS_EVENTS: Final = frozenset(
    {"new", "limit", "cancel", "leverage", "deposit", "withdraw", "liquidation", "funding"}
)
_MAX_TIME_MS: Final = 10_000_000_000_000  # the year 2286
_MESSAGE_LENGTH: Final = 200
_ID: Final = re.compile(r"[0-9A-Za-z-]{1,64}")
_CODE: Final = re.compile(r"[A-Z][A-Z0-9_]{1,63}")
_PERMISSION: Final = re.compile(r"[0-9A-Za-z:_-]{1,64}")
_REFUSALS: Final = MappingProxyType(
    {"UNAUTHORIZED": 401, "FORBIDDEN": 403, "BAD_REQUEST": 400, "NOT_FOUND": 404}
)


class Tick(NamedTuple):
    """A price of `topic` (`LAST_PRICE` or `INDEX`); `time_ms` is the exchange's, since 1970.

    A tuple because one is made for every price, and costs a third of a frozen dataclass.
    """

    topic: str
    time_ms: int
    price: Price


@dataclass(frozen=True, kw_only=True, slots=True)
class AccountEvent:
    """Something happened to an account.

    `kind` is `isolated.EVENT`, `cross.EVENT`, `wallet.deposit` or `wallet.withdrawal`, with
    EVENT as the exchange names it. What changed is not told in full: read it.
    """

    kind: str
    position_id: PositionId | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """The answer to the request of this id: a result, or an error."""

    id: str
    result: object = None
    error: MarginguardError | None = None


Frame = Tick | AccountEvent | Answer


def request(request_id: str, method: str, params: dict[str, object] | None = None) -> bytes:
    """Return a request as it is sent."""
    message = {"jsonrpc": "2.0", "id": request_id, "method": method, "params": params or {}}
    return orjson.dumps(message)


def authentication(credentials: Credentials, *, timestamp_ms: int, nonce: str) -> dict[str, object]:
    """Return the parameters of `authenticate`.

    The signature is base64(HMAC-SHA256(secret, timestamp + nonce)). Source: the exchange's
    documentation of Stream v1.
    """
    digest = hmac.digest(credentials.secret.encode(), f"{timestamp_ms}{nonce}".encode(), "sha256")
    return {
        "key": credentials.key,
        "passphrase": credentials.passphrase,
        "timestamp": timestamp_ms,
        "nonce": nonce,
        "signature": base64.b64encode(digest).decode("ascii"),
    }


def parse(data: bytes) -> Frame | None:
    """Parse one message; None if it is of a kind that we do not know. Raises `Malformed`."""
    try:
        message = orjson.loads(data)
    except orjson.JSONDecodeError:
        raise Malformed("a message of the stream is not JSON") from None
    if type(message) is not dict:
        raise Malformed("a message of the stream is not an object")
    if message.get("method") == "subscription":
        return _push(message.get("params"))
    if "result" in message or "error" in message:
        return _answer(message)
    if type(message.get("method")) is str:
        return None
    raise Malformed("a message of the stream is neither a push nor an answer")


def permissions(result: object) -> frozenset[str]:
    """Return the permissions in the result of `authenticate`; raises `Malformed`.

    Raises `Unauthorized` if the result says that the key was not taken.
    """
    if type(result) is not dict or type(result.get("authenticated")) is not bool:
        raise Malformed("the answer to authenticate does not say whether the key was taken")
    if not result["authenticated"]:
        raise Unauthorized("the stream did not take the key", status=401, code="UNAUTHORIZED")
    granted = result.get("permissions")
    if type(granted) is not list:
        raise Malformed("the answer to authenticate has no list of permissions")
    for permission in granted:
        if type(permission) is not str or not _PERMISSION.fullmatch(permission):
            raise Malformed("the answer to authenticate has a permission that is none")
    return frozenset(granted)


def _push(params: object) -> Frame | None:
    if type(params) is not dict:
        raise Malformed("a push has no parameters")
    topic = params.get("topic")
    if type(topic) is not str:
        raise Malformed("a push has no topic")
    data = params.get("data")
    if topic in _PRICE_FIELDS:
        return _tick(topic, data)
    if topic not in ACCOUNT_TOPICS:
        return None
    if type(data) is not dict:
        raise Malformed(f"{topic}: the data is not an object")
    if topic == ISOLATED_TRADES:
        return _trade_event(data)
    if topic == CROSS_POSITION:
        return _cross_event(data)
    return AccountEvent(kind=topic.replace("/", "."), position_id=None)


def _tick(topic: str, data: object) -> Tick:
    if type(data) is not dict:
        raise Malformed(f"{topic}: the data is not an object")
    name = _PRICE_FIELDS[topic]
    price = data.get(name)
    # By exact type: True is an int to Python, and no price.
    if type(price) is not float:
        if type(price) is not int:
            raise Malformed(f"{topic}: {name} is not a number")
        price = float(price)
    if not 0 < price < MAX_PRICE:
        raise Malformed(f"{topic}: {name} is out of all bounds")
    time_ms = data.get("time")
    if type(time_ms) is not int or not 0 < time_ms < _MAX_TIME_MS:
        raise Malformed(f"{topic}: time is not in whole milliseconds since 1970")
    return Tick(topic, time_ms, Price(price))


def _trade_event(data: dict[str, Any]) -> AccountEvent | None:
    event = _event(ISOLATED_TRADES, data)
    if event not in _TRADE_EVENTS:
        return None
    trade = data.get("trade")
    trade_id = trade.get("id") if type(trade) is dict else None
    if type(trade_id) is not str or not _ID.fullmatch(trade_id):
        raise Malformed(f"{ISOLATED_TRADES}: the event {event} names no trade")
    return AccountEvent(kind=f"isolated.{event}", position_id=PositionId(trade_id))


def _cross_event(data: dict[str, Any]) -> AccountEvent | None:
    event = _event(CROSS_POSITION, data)
    if event not in _CROSS_EVENTS:
        return None
    return AccountEvent(kind=f"cross.{event}", position_id=CROSS)


def _event(topic: str, data: dict[str, Any]) -> str:
    event = data.get("event")
    if type(event) is not str:
        raise Malformed(f"{topic}: no event is named")
    return event


def _answer(message: dict[str, Any]) -> Answer:
    answered = message.get("id")
    if type(answered) is not str:
        raise Malformed("an answer of the stream does not say to what")
    if message.get("error") is None:
        if "result" not in message:
            raise Malformed("an answer of the stream has neither result nor error")
        return Answer(id=answered, result=message["result"])
    return Answer(id=answered, error=_error(message["error"]))


def _error(error: object) -> MarginguardError:
    """Return what the exchange's refusal of a request means, by `error.data.code` alone."""
    if type(error) is not dict:
        return Malformed("the stream answered with an error that is not an object")
    data = error.get("data")
    code = data.get("code") if type(data) is dict else None
    if type(code) is not str or not _CODE.fullmatch(code):
        return Transient("the stream answered with an error that has no code")
    message = error.get("message")
    text = message if type(message) is str else ""
    said = "".join(c if c.isprintable() else " " for c in text[:_MESSAGE_LENGTH])
    reason = f"the stream answered {code}" + (f": {said}" if said else "")
    status = _REFUSALS.get(code)
    if status is None:
        return Transient(reason)
    kind = Unauthorized if status in {401, 403} else Rejected
    return kind(reason, status=status, code=code)
