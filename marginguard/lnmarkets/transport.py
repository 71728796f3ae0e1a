"""HTTP to the exchange: one pool of connections, and the knowledge of what was sent.

Every call first waits for its turn within the exchange's limits, inside its time-out and
before it is signed. A call that changes something is sent at most once. Whether it was sent
decides what may follow a failure, and aiohttp raises the same errors before and after sending;
so its tracing hook for the request's headers, which runs just before they are written, is what
tells.
"""

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace, TracebackType
from typing import Final, Self, TypedDict, TypeVar

import aiohttp
from yarl import URL

from marginguard.aio import SystemClock
from marginguard.domain.errors import Malformed, Transient, Unreachable
from marginguard.domain.outcome import Outcome, OutcomeKind
from marginguard.lnmarkets import answers
from marginguard.lnmarkets.answers import Answer
from marginguard.lnmarkets.limits import Limits, Urgency
from marginguard.lnmarkets.signing import Signer
from marginguard.ports import Clock

MAX_ANSWER_BYTES: Final = 8 * 1024 * 1024

# Shorter than the 5 s after which common servers drop an idle connection: a request that meets
# the drop on its way ends ambiguous, and an ambiguous one delays the rescue.
_KEEP_ALIVE_S: Final = 4.0

_LEAST_TIMEOUT_S: Final = 0.001

_T = TypeVar("_T")
_FAILURES = (aiohttp.ClientError, TimeoutError, OSError)


class _ResendRefused(aiohttp.ClientError):
    """aiohttp was about to send a call that changes something a second time."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Key:
    """What a signed call needs: who signs it, and the calls that the key may make."""

    signer: Signer
    limits: Limits


@dataclass(frozen=True, kw_only=True, slots=True)
class _Request:
    """A call before it is signed."""

    method: str
    path: str
    query: str = ""
    body: bytes = b""
    urgency: Urgency = Urgency.LOOK


class _Signed(TypedDict):
    """What of a signed request goes over the wire."""

    url: URL
    headers: dict[str, str]
    data: bytes | None


@dataclass(slots=True)
class _Sending:
    """How far a call that changes something has come."""

    headers_written: bool = False


async def _note_headers(
    _session: aiohttp.ClientSession,
    context: SimpleNamespace,
    _params: aiohttp.TraceRequestHeadersSentParams,
) -> None:
    sending: _Sending = context.trace_request_ctx
    # aiohttp resends PUT and DELETE by itself when a connection breaks, a fresh one included.
    if sending.headers_written:
        raise _ResendRefused("the connection broke, and a call that changes is not sent twice")
    sending.headers_written = True


class Transport:
    """Sends requests to one base address, such as `https://api.lnmarkets.com/v3`.

    An async context manager. `timeout_s` bounds a whole request, its wait for a turn included;
    half of it bounds getting a connection (waiting for the pool, DNS, TCP, TLS). `rate_scale`
    multiplies the limit on unsigned calls, for a simulated exchange that allows more. By `clock`
    nothing is sent later than `timeout_s` after it was asked for, whatever stood still meanwhile.

    `on_call` hears of every call that was signed: the call, the answer's status or "no answer", and
    the seconds it took.
    """

    def __init__(
        self,
        base_url: str,
        *,
        timeout_s: float,
        max_answer_bytes: int = MAX_ANSWER_BYTES,
        rate_scale: float = 1.0,
        on_call: Callable[[str, str, float], None] | None = None,
        clock: Clock | None = None,
    ) -> None:
        base = URL(base_url.rstrip("/"))
        self._origin = str(base.origin())
        self._prefix = base.raw_path.rstrip("/")
        self._timeout_s = timeout_s
        self._max_answer_bytes = max_answer_bytes
        self._on_call = on_call
        self._clock = clock or SystemClock()
        self._unsigned = Limits.of_address(rate_scale=rate_scale)
        self._resources = contextlib.AsyncExitStack()
        self._reads: aiohttp.ClientSession | None = None
        self._changes: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        connector = aiohttp.TCPConnector(keepalive_timeout=_KEEP_ALIVE_S)
        self._resources.push_async_callback(connector.close)
        trace = aiohttp.TraceConfig()
        trace.on_request_headers_sent.append(_note_headers)
        # One pool of connections; reads go without the hook, which costs a tenth of a call.
        self._reads = await self._resources.enter_async_context(self._session(connector, []))
        self._changes = await self._resources.enter_async_context(self._session(connector, [trace]))
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._reads = self._changes = None
        await self._resources.aclose()

    async def read(
        self,
        path: str,
        parse: Callable[[bytes], _T],
        *,
        query: str = "",
        key: Key | None = None,
    ) -> _T:
        """GET `path` and parse the answer; raises what `fetch` raises, and `Malformed`."""
        return parse((await self.fetch(path, query=query, key=key)).body)

    async def fetch(self, path: str, *, query: str = "", key: Key | None = None) -> Answer:
        """GET `path` (with `query`, percent-encoded, without its question mark).

        Returns a 2xx answer. Raises `Unreachable` when the network fails or time is up,
        `Transient` for 408, 429 and 5xx and where the exchange's limits leave no room in time,
        `Malformed` for an answer that cannot be used, `Unauthorized` when the exchange refuses
        the key, `Rejected` for another 4xx.
        """
        request = _Request(method="GET", path=path, query=query)
        try:
            answer = await self._send(self._reads, request, key)
        except _FAILURES as error:
            raise Unreachable(f"GET {path} failed: {self._cause(error)}") from error
        if answer.ok:
            return answer
        raise answers.read_error(answer)

    async def change(
        self,
        method: str,
        path: str,
        exchange_id: Callable[[bytes], str | None],
        *,
        key: Key,
        query: str = "",
        body: bytes = b"",
        urgency: Urgency = Urgency.PROTECT,
    ) -> Outcome:
        """Send a call that changes something, at most once, and tell what became of it.

        `body` is JSON; `exchange_id` takes the id out of the answer, or raises `Malformed`. A
        cancellation goes through as it is: whoever may not lose the outcome shields the call.
        """
        sending = _Sending()
        request = _Request(method=method, path=path, query=query, body=body, urgency=urgency)
        try:
            answer = await self._send(self._changes, request, key, sending)
        except _FAILURES as error:
            return self._failed(request, sending, self._cause(error))
        except Transient as error:
            return self._failed(request, sending, str(error), error.retry_after_s)
        return answers.outcome(answer, exchange_id)

    def _session(
        self, connector: aiohttp.TCPConnector, traces: list[aiohttp.TraceConfig]
    ) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            connector=connector,
            connector_owner=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"Accept": "application/json"},
            # A POST without a body would name a type that the exchange need not take.
            skip_auto_headers=["Content-Type"],
            trace_configs=traces,
        )

    async def _send(
        self,
        session: aiohttp.ClientSession | None,
        request: _Request,
        key: Key | None,
        sending: _Sending | None = None,
    ) -> Answer:
        if session is None:
            raise RuntimeError("the transport is not open")
        clock = asyncio.get_running_loop().time
        called_s, asked_s = clock(), self._clock.monotonic()
        limits = key.limits if key else self._unsigned
        await limits.take(self._timeout_s, request.urgency)
        sent_s = clock()
        # The loop's clock stands still while the machine is suspended, and its timers with it.
        if self._clock.monotonic() - asked_s > self._timeout_s:
            raise Transient(f"it could not be sent within {self._timeout_s:g} s")
        try:
            async with session.request(
                request.method,
                **self._signed(request, key),
                allow_redirects=False,
                trace_request_ctx=sending,
                timeout=self._timeout(self._timeout_s - (sent_s - called_s)),
            ) as response:
                answer = Answer(
                    status=response.status,
                    body=await self._read_body(response),
                    retry_after_s=answers.retry_after_s(response.headers.get("Retry-After")),
                    waited_s=sent_s - called_s,
                    took_s=clock() - sent_s,
                )
        except _FAILURES:
            self._tell(request, "no answer", clock() - sent_s)
            raise
        self._tell(request, str(answer.status), answer.took_s)
        if answer.over_limit:
            limits.pause(answer.retry_after_s)
        return answer

    def _signed(self, request: _Request, key: Key | None) -> _Signed:
        """Return address, headers and body of a request, signed at this moment."""
        path = self._prefix + request.path
        search = f"?{request.query}" if request.query else ""
        headers: dict[str, str] = {}
        if key:
            headers = key.signer.headers(request.method, path, request.body.decode() or search)
        if request.body:
            headers["Content-Type"] = "application/json"
        # Encoded already: the bytes on the wire are those that were signed.
        url = URL(self._origin + path + search, encoded=True)
        return {"url": url, "headers": headers, "data": request.body or None}

    def _tell(self, request: _Request, result: str, took_s: float) -> None:
        if self._on_call is not None:
            self._on_call(f"{request.method} {request.path}", result, took_s)

    def _timeout(self, left_s: float) -> aiohttp.ClientTimeout:
        # Never 0, which would mean no limit at all.
        return aiohttp.ClientTimeout(
            total=max(left_s, _LEAST_TIMEOUT_S), connect=max(left_s / 2, _LEAST_TIMEOUT_S)
        )

    def _failed(
        self, request: _Request, sending: _Sending, cause: str, retry_after_s: float | None = None
    ) -> Outcome:
        """Return how a call ended that got no answer, or none that may be read."""
        sent = sending.headers_written
        when = "after" if sent else "before"
        return Outcome(
            kind=OutcomeKind.AMBIGUOUS if sent else OutcomeKind.NOT_SENT,
            detail=f"{request.method} {request.path} failed {when} it was sent: {cause}",
            retry_after_s=retry_after_s,
        )

    async def _read_body(self, response: aiohttp.ClientResponse) -> bytes:
        body = b""
        async for chunk in response.content.iter_any():
            body = body + chunk if body else chunk
            if len(body) > self._max_answer_bytes:
                response.close()
                raise Malformed(
                    f"the exchange's answer is longer than {self._max_answer_bytes:,} bytes"
                )
        return body

    def _cause(self, error: Exception) -> str:
        if isinstance(error, aiohttp.ConnectionTimeoutError):
            return "no connection in time"
        if isinstance(error, TimeoutError):
            return f"no answer within {self._timeout_s:g} s"
        return str(error) or type(error).__name__
