"""HTTP to the exchange: one pool of connections, and the knowledge of what was sent.

A call that changes something is sent at most once. Whether it was sent decides what may follow
a failure, and aiohttp raises the same errors before and after sending; so its tracing hook for
the request's headers, which runs just before they are written, is what tells.
"""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace, TracebackType
from typing import Final, Self, TypeVar

import aiohttp
from yarl import URL

from marginguard.domain.errors import Malformed, Unreachable
from marginguard.domain.outcome import Outcome, OutcomeKind
from marginguard.lnmarkets import answers
from marginguard.lnmarkets.answers import Answer
from marginguard.lnmarkets.signing import Signer

MAX_ANSWER_BYTES: Final = 8 * 1024 * 1024

# Shorter than the 5 s after which common servers drop an idle connection: a request that meets
# the drop on its way ends ambiguous, and an ambiguous one delays the rescue.
_KEEP_ALIVE_S: Final = 4.0

_T = TypeVar("_T")
_FAILURES = (aiohttp.ClientError, TimeoutError, OSError)


class _ResendRefused(aiohttp.ClientError):
    """aiohttp was about to send a call that changes something a second time."""


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

    An async context manager. `timeout_s` bounds a whole request; half of it bounds getting a
    connection (waiting for the pool, DNS, TCP, TLS).
    """

    def __init__(
        self, base_url: str, *, timeout_s: float, max_answer_bytes: int = MAX_ANSWER_BYTES
    ) -> None:
        base = URL(base_url.rstrip("/"))
        self._origin = str(base.origin())
        self._prefix = base.raw_path.rstrip("/")
        self._timeout_s = timeout_s
        self._max_answer_bytes = max_answer_bytes
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
        signer: Signer | None = None,
    ) -> _T:
        """GET `path` (with `query`, percent-encoded, without its question mark) and parse it.

        Raises `Unreachable` when the network fails or time is up, `Transient` for 408, 429 and
        5xx, `Malformed` for an answer that cannot be used, `Unauthorized` when the exchange
        refuses the key, `Rejected` for another 4xx.
        """
        try:
            answer = await self._send(self._reads, "GET", path, query=query, signer=signer)
        except _FAILURES as error:
            raise Unreachable(f"GET {path} failed: {self._cause(error)}") from error
        if answer.ok:
            return parse(answer.body)
        raise answers.read_error(answer)

    async def change(
        self,
        method: str,
        path: str,
        exchange_id: Callable[[bytes], str],
        *,
        signer: Signer,
        query: str = "",
        body: bytes = b"",
    ) -> Outcome:
        """Send a call that changes something, at most once, and tell what became of it.

        `body` is JSON; `exchange_id` takes the id out of the answer, or raises `Malformed`. A
        cancellation goes through as it is: whoever may not lose the outcome shields the call.
        """
        sending = _Sending()
        try:
            answer = await self._send(
                self._changes,
                method,
                path,
                query=query,
                body=body,
                signer=signer,
                sending=sending,
            )
        except _FAILURES as error:
            when = "after" if sending.headers_written else "before"
            return Outcome(
                kind=OutcomeKind.AMBIGUOUS if sending.headers_written else OutcomeKind.NOT_SENT,
                detail=f"{method} {path} failed {when} it was sent: {self._cause(error)}",
            )
        except Malformed as error:
            return Outcome(kind=OutcomeKind.AMBIGUOUS, detail=str(error))
        return answers.outcome(answer, exchange_id)

    def _session(
        self, connector: aiohttp.TCPConnector, traces: list[aiohttp.TraceConfig]
    ) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            connector=connector,
            connector_owner=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"Accept": "application/json"},
            timeout=aiohttp.ClientTimeout(total=self._timeout_s, connect=self._timeout_s / 2),
            trace_configs=traces,
        )

    async def _send(
        self,
        session: aiohttp.ClientSession | None,
        method: str,
        path: str,
        *,
        query: str,
        signer: Signer | None,
        body: bytes = b"",
        sending: _Sending | None = None,
    ) -> Answer:
        if session is None:
            raise RuntimeError("the transport is not open")
        full_path = self._prefix + path
        search = f"?{query}" if query else ""
        headers = signer.headers(method, full_path, body.decode() or search) if signer else {}
        if body:
            headers["Content-Type"] = "application/json"
        async with session.request(
            method,
            # Encoded already: the bytes on the wire are those that were signed.
            URL(self._origin + full_path + search, encoded=True),
            headers=headers,
            data=body or None,
            allow_redirects=False,
            trace_request_ctx=sending,
        ) as response:
            return Answer(
                status=response.status,
                body=await self._read_body(response),
                retry_after_s=answers.retry_after_s(response.headers.get("Retry-After")),
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
            return f"no connection within {self._timeout_s / 2:g} s"
        if isinstance(error, TimeoutError):
            return f"no answer within {self._timeout_s:g} s"
        return str(error) or type(error).__name__
