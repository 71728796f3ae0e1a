"""What comes over the wire and goes back, free of the web server, and a record of it."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from urllib.parse import parse_qsl

import orjson

from marginguard.domain.errors import Rejected
from marginguard.simulator.refusals import too_many_requests
from marginguard.simulator.wire import timestamp

JSON = "application/json; charset=utf-8"
_FIRST_ERROR_STATUS = 400


@dataclass(frozen=True, kw_only=True, slots=True)
class Call:
    """A request as it came. `path` is with `/v3`; `query` is raw, without question mark."""

    method: str
    path: str
    query: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def asks_for_a_change(self) -> bool:
        """Whether carrying it out could change anything."""
        return self.method not in {"GET", "HEAD", "OPTIONS"}

    @property
    def signed_data(self) -> bytes:
        """The part of the signed text that follows the path."""
        if self.method in {"POST", "PUT"}:
            return self.body
        return f"?{self.query}".encode() if self.query else b""


@dataclass(frozen=True, kw_only=True, slots=True)
class Reply:
    """An answer."""

    status: int
    body: bytes
    content_type: str = JSON
    retry_after_s: int | None = None

    @property
    def ok(self) -> bool:
        """Whether the request was carried out."""
        return self.status < _FIRST_ERROR_STATUS

    @classmethod
    def of(cls, value: object) -> "Reply":
        """Return a 200 answer with `value` as JSON."""
        return cls(status=200, body=orjson.dumps(value))

    @classmethod
    def refusal(cls, error: Rejected, *, retry_after_s: int | None = None) -> "Reply":
        """Return the exchange's answer to what it refuses."""
        body = orjson.dumps({"message": str(error), "code": error.code})
        return cls(status=error.status, body=body, retry_after_s=retry_after_s)

    @classmethod
    def over_limit(cls, message: str, wait_s: float) -> "Reply":
        """Return the answer to a caller that has to wait `wait_s`: told in whole seconds."""
        return cls.refusal(too_many_requests(message), retry_after_s=math.ceil(wait_s))

    @property
    def headers(self) -> dict[str, str]:
        """The headers that matter to a client."""
        headers = {"Content-Type": self.content_type}
        if self.retry_after_s is not None:
            headers["Retry-After"] = str(self.retry_after_s)
        return headers


@dataclass(kw_only=True, slots=True)
class CallRow:
    """One call that asked for a change. `status` is what was answered, None for no answer yet.

    `applied` says whether the exchange carried it out, whatever was answered.
    """

    time: datetime
    account: str | None
    method: str
    path: str
    body: object
    status: int | None = None
    applied: bool = False

    def payload(self) -> dict[str, object]:
        """Return the row as `GET /simulator/calls` gives it."""
        return {
            "time": timestamp(self.time),
            "account": self.account,
            "method": self.method,
            "path": self.path,
            "body": self.body,
            "status": self.status,
            "applied": self.applied,
        }


def row_of(call: Call, account: str | None, now: datetime) -> CallRow:
    """Return the row for a call that has just come in."""
    return CallRow(
        time=now, account=account, method=call.method, path=call.path, body=_readable_body(call)
    )


def _readable_body(call: Call) -> object:
    """Return the JSON that was sent, the query of a call without body, or the text as it is."""
    if not call.body:
        return dict(parse_qsl(call.query)) or None
    try:
        return orjson.loads(call.body)
    except orjson.JSONDecodeError:
        return call.body.decode(errors="replace")
