"""The stream's conversation on one connection: a request in, its answer out. No sockets here.

JSON-RPC 2.0. What the exchange answers is in its documentation and its clients; the numbers of
its errors are not all known, so that a client must act on `error.data.code`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from types import MappingProxyType
from typing import Annotated, Any, Final, Generic, TypeVar

import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from marginguard.domain.errors import Rejected
from marginguard.ports import Clock
from marginguard.simulator.accounts import Account
from marginguard.simulator.auth import Proof, verified
from marginguard.simulator.exchange import Exchange
from marginguard.simulator.limits import Window
from marginguard.simulator.refusals import (
    bad_request,
    forbidden,
    not_found,
    too_many_requests,
    unauthorized,
)
from marginguard.simulator.stream_payloads import PRIVATE, PUBLIC, Push, milliseconds

VERSION: Final = "1.0.0"
_PARSE_ERROR: Final = -32700
_INVALID_REQUEST: Final = -32600
_METHOD_NOT_FOUND: Final = -32601
_INVALID_PARAMS: Final = -32602
_NUMBERS: Final[Mapping[int, int]] = MappingProxyType(
    {
        HTTPStatus.BAD_REQUEST: _INVALID_PARAMS,
        HTTPStatus.UNAUTHORIZED: -32001,
        HTTPStatus.FORBIDDEN: -32003,
        HTTPStatus.NOT_FOUND: _METHOD_NOT_FOUND,
        HTTPStatus.TOO_MANY_REQUESTS: -32029,
    }
)
"""The JSON-RPC number of a refusal, by the status that REST would give it."""

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)


class _Model(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True, strict=True)


class _Request(_Model):
    jsonrpc: Annotated[str, Field(pattern="^2[.]0$")]
    id: str | int
    method: str
    params: dict[str, Any] = Field(default_factory=dict)


class _Nothing(_Model):
    pass


class _Hello(_Model):
    client_name: Annotated[str, Field(alias="clientName")]
    client_version: Annotated[str, Field(alias="clientVersion")]


class _Authenticate(_Model):
    key: str
    passphrase: str
    timestamp: int | str
    nonce: str
    signature: str


class _Topics(_Model):
    topics: list[str]


_P = TypeVar("_P", bound=_Model)


@dataclass(frozen=True, slots=True)
class _Method(Generic[_P]):
    params: type[_P]
    handle: Callable[[_P], object]


class Session:
    """What one connection has said so far: who it is and what it listens to.

    `may_authenticate` counts an attempt and returns the seconds it has to wait, 0 for none.
    `messages` is the connection's own limit.
    """

    def __init__(
        self,
        exchange: Exchange,
        clock: Clock,
        *,
        messages: Window,
        may_authenticate: Callable[[], float],
    ) -> None:
        self._exchange = exchange
        self._clock = clock
        self._messages = messages
        self._may_authenticate = may_authenticate
        self._account: Account | None = None
        self._topics: dict[str, None] = {}  # a set that keeps its order
        self._methods: Mapping[str, _Method[Any]] = {
            "hello": _Method(_Hello, self._hello),
            "ping": _Method(_Nothing, self._ping),
            "time": _Method(_Nothing, self._time),
            "authenticate": _Method(_Authenticate, self._authenticate),
            "whoami": _Method(_Nothing, self._whoami),
            "subscribe": _Method(_Topics, self._subscribe),
            "unsubscribe": _Method(_Topics, self._unsubscribe),
            "unsubscribeAll": _Method(_Nothing, self._unsubscribe_all),
        }

    def wants(self, push: Push) -> bool:
        """Return whether `push` goes to this connection."""
        if push.topic not in self._topics:
            return False
        return push.account is None or (
            self._account is not None and self._account.key == push.account
        )

    def answer(self, message: str | bytes) -> bytes:
        """Carry out the request in `message` and return the answer; a wrong one is refused."""
        arrived = self._clock.now()
        wait_s = self._messages.take(self._clock.monotonic())
        body = self._body(message, over_limit=wait_s > 0)
        return orjson.dumps({"jsonrpc": "2.0"} | body | self._measured(arrived))

    def _body(self, message: str | bytes, *, over_limit: bool) -> dict[str, object]:
        try:
            value = orjson.loads(message)
        except orjson.JSONDecodeError:
            return _error(None, _PARSE_ERROR, bad_request("Parse error"))
        try:
            request = _Request.model_validate(value)
        except ValidationError:
            return _error(_id_in(value), _INVALID_REQUEST, bad_request("Invalid request"))
        try:
            if over_limit:
                raise too_many_requests("Too many messages on this connection")
            return {"id": request.id, "result": self._carry_out(request)}
        except Rejected as refused:
            return _error(request.id, _NUMBERS[refused.status], refused)

    def _carry_out(self, request: _Request) -> object:
        method = self._methods.get(request.method)
        if method is None:
            raise not_found(f"Method {request.method!r} not found")
        return method.handle(_parsed(method.params, request.params))

    def _measured(self, arrived: datetime) -> dict[str, object]:
        left = self._clock.now()
        remaining = self._messages.remaining(self._clock.monotonic())
        return {
            "usIn": _microseconds(arrived),
            "usOut": _microseconds(left),
            "usDiff": _microseconds(left) - _microseconds(arrived),
            "rateLimit": {"remaining": remaining, "limit": self._messages.limit},
        }

    def _hello(self, _params: _Hello) -> object:
        return {"version": VERSION}

    def _ping(self, _params: _Nothing) -> object:
        return "pong"

    def _time(self, _params: _Nothing) -> object:
        return {"time": milliseconds(self._clock.now())}

    def _authenticate(self, params: _Authenticate) -> object:
        if self._may_authenticate() > 0:
            raise too_many_requests("Too many attempts to authenticate")
        stamp = str(params.timestamp)
        proof = Proof(
            key=params.key,
            passphrase=params.passphrase,
            stamp=stamp,
            signature=params.signature,
            signed=f"{stamp}{params.nonce}".encode(),
        )
        account = verified(self._exchange, proof, self._clock.now())
        if account is not self._account:
            self._topics = {topic: None for topic in self._topics if topic in PUBLIC}
        self._account = account
        return {"authenticated": True, "permissions": list(account.permissions)}

    def _whoami(self, _params: _Nothing) -> object:
        account = self._authenticated()
        return {
            "apiKey": account.key,
            "userId": str(account.id),
            "permissions": list(account.permissions),
        }

    def _subscribe(self, params: _Topics) -> object:
        for topic in params.topics:
            self._require_open(topic)
        wanted = dict.fromkeys(params.topics)
        self._topics |= wanted
        return {"subscribed": list(wanted)}

    def _unsubscribe(self, params: _Topics) -> object:
        dropped = [topic for topic in dict.fromkeys(params.topics) if topic in self._topics]
        for topic in dropped:
            del self._topics[topic]
        return {"unsubscribed": dropped}

    def _unsubscribe_all(self, _params: _Nothing) -> object:
        dropped = list(self._topics)
        self._topics.clear()
        return {"unsubscribed": dropped}

    def _require_open(self, topic: str) -> None:
        """Raise unless this connection may subscribe to `topic`."""
        if topic in PUBLIC:
            return
        permission = PRIVATE.get(topic)
        if permission is None:
            raise bad_request(f"Unknown topic {topic!r}")
        if not self._authenticated().may(permission):
            raise forbidden(permission)

    def _authenticated(self) -> Account:
        if self._account is None:
            raise unauthorized("Not authenticated")
        return self._account


def _id_in(value: object) -> str | int | None:
    """Return the id that a request which is none can be told by."""
    given = value.get("id") if isinstance(value, dict) else None
    return given if isinstance(given, str | int) and not isinstance(given, bool) else None


def _parsed(model: type[_P], params: dict[str, Any]) -> _P:
    try:
        return model.model_validate(params)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise bad_request(f"{where}: {first['msg']}" if where else first["msg"]) from error


def _error(request_id: str | int | None, number: int, refused: Rejected) -> dict[str, object]:
    error = {"code": number, "message": str(refused), "data": {"code": refused.code}}
    return {"id": request_id, "error": error}


def _microseconds(at: datetime) -> int:
    return (at - _EPOCH) // _MICROSECOND
