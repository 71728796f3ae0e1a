"""Telling the owner by one webhook, and always in the log; off the critical path."""

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Any, ClassVar, Final
from urllib.parse import urlsplit

import aiohttp
import orjson
import structlog

from marginguard.domain.errors import ConfigError, ErrorType, MarginguardError
from marginguard.domain.notice import Notice, Severity

PAYLOAD_VERSION: Final = "1"
"""Changes when the meaning of a field does; fields may be added within a version."""

_ADVICE: Final = "check [notifications.webhook] url and its receiver; the notice is in this log"


class _NotDeliveredError(MarginguardError):
    """Try again: the receiver did not take the notice. Never holds the URL."""

    error_type: ClassVar[ErrorType] = ErrorType.NOTIFICATION


class NullNotifier:
    """Tells nobody but the log."""

    def tell(self, notice: Notice) -> None:
        """Log the notice."""
        _log_notice(notice)

    async def run(self, stop: asyncio.Event) -> None:
        """Wait until `stop` is set: there is nothing to deliver."""
        await stop.wait()


class WebhookNotifier:
    """Posts every notice as JSON to one URL, in order, one at a time.

    A notice that is not answered by a 2xx within `attempt_timeout_s` is sent again after each of
    the `backoff_s` seconds in turn; then it is given up, with a warning. The queue holds
    `capacity` notices. Raises `ConfigError` for a URL that is not http or https.
    """

    def __init__(
        self,
        url: str,
        *,
        capacity: int = 1_000,
        attempt_timeout_s: float = 5.0,
        backoff_s: Sequence[float] = (1.0, 4.0),
        drain_timeout_s: float = 5.0,
    ) -> None:
        self._url = url
        self._host = _host_of(url)
        self._capacity = capacity
        self._attempt_timeout_s = attempt_timeout_s
        self._backoff_s = tuple(backoff_s)
        self._drain_timeout_s = drain_timeout_s
        self._waiting: deque[Notice] = deque()
        self._sending: Notice | None = None
        self._changed = asyncio.Event()
        self._closing = False
        self._ended = False
        self._dropped = 0
        self._log = structlog.get_logger()

    @property
    def dropped(self) -> int:
        """How many notices the full queue has cost so far."""
        return self._dropped

    def tell(self, notice: Notice) -> None:
        """Log the notice and queue it; returns at once and never raises."""
        _log_notice(notice)
        if self._ended:
            self._not_sent(notice, "the notifier has stopped")
            return
        if len(self._waiting) >= self._capacity:
            self._make_room(notice)
        else:
            self._waiting.append(notice)
        self._changed.set()

    async def run(self, stop: asyncio.Event) -> None:
        """Deliver what is told until `stop` is set, then at most `drain_timeout_s` longer.

        Set `stop` after all who tell have ended: what is told later is only logged.
        """
        timeout = aiohttp.ClientTimeout(total=self._attempt_timeout_s)
        try:
            async with (
                aiohttp.ClientSession(
                    timeout=timeout, cookie_jar=aiohttp.DummyCookieJar()
                ) as session,
                asyncio.TaskGroup() as group,
            ):
                delivery = group.create_task(self._deliver_all(session), name="webhook")
                await stop.wait()
                self._closing = True
                self._changed.set()
                await asyncio.wait({delivery}, timeout=self._drain_timeout_s)
                delivery.cancel()
        finally:
            self._ended = True
            self._report_undelivered()

    async def _deliver_all(self, session: aiohttp.ClientSession) -> None:
        """Deliver until closing with nothing left."""
        while self._waiting or not self._closing:
            if not self._waiting:
                self._changed.clear()
                await self._changed.wait()
                continue
            self._sending = self._waiting.popleft()
            await self._deliver(session, self._sending)
            self._sending = None

    async def _deliver(self, session: aiohttp.ClientSession, notice: Notice) -> None:
        """Post the notice, again after each back-off; give it up with a warning."""
        for delay_s in (*self._backoff_s, None):
            try:
                await self._post(session, notice)
            except _NotDeliveredError as error:
                if delay_s is None:
                    self._not_sent(notice, f"{error} ({len(self._backoff_s) + 1} attempts)")
                    return
                self._log.info(
                    "notify.retry",
                    host=self._host,
                    reason=str(error),
                    delay_s=delay_s,
                    **_ids(notice),
                )
                await asyncio.sleep(delay_s)
            else:
                return

    async def _post(self, session: aiohttp.ClientSession, notice: Notice) -> None:
        """Post the notice once; raises `_NotDeliveredError` unless the answer is a 2xx."""
        try:
            async with session.post(
                self._url,
                data=orjson.dumps(payload(notice)),
                headers={"Content-Type": "application/json"},
                allow_redirects=False,
            ) as response:
                status = response.status
        except TimeoutError as error:
            raise _NotDeliveredError(f"no answer within {self._attempt_timeout_s:g} s") from error
        except aiohttp.ClientConnectorError as error:
            raise _NotDeliveredError(f"cannot connect: {error.os_error}") from error
        except (aiohttp.ClientError, OSError) as error:
            # Only the class: the text of some of these holds the URL, and so its secrets.
            raise _NotDeliveredError(f"the call failed: {type(error).__name__}") from error
        if not 200 <= status < 300:
            raise _NotDeliveredError(f"the receiver answered {status}")

    def _make_room(self, notice: Notice) -> None:
        """Queue `notice` in a full queue: the oldest that is not critical goes."""
        self._waiting.append(notice)
        victim = next(
            (waiting for waiting in self._waiting if waiting.severity is not Severity.CRITICAL),
            self._waiting[0],
        )
        self._waiting.remove(victim)
        self._dropped += 1
        self._log.warning(
            "notify.dropped",
            host=self._host,
            dropped=self._dropped,
            reason=f"{self._capacity} notices are waiting already",
            advice=_ADVICE,
            **_ids(victim),
        )

    def _not_sent(self, notice: Notice, reason: str) -> None:
        self._log.warning(
            "notify.failed",
            host=self._host,
            reason=reason,
            advice=_ADVICE,
            **_ids(notice),
        )

    def _report_undelivered(self) -> None:
        left = [*([self._sending] if self._sending else []), *self._waiting]
        self._waiting.clear()
        for notice in left:
            self._not_sent(notice, "the daemon stopped before it was delivered")


def payload(notice: Notice) -> dict[str, Any]:
    """Return what a receiver gets: JSON with every field present, null where it says nothing.

    `id` is the same at every attempt, so that a receiver can drop what it has already.
    """
    return {
        "id": str(notice.id),
        "timestamp": notice.at.isoformat(),
        "type": notice.kind.value,
        "version": PAYLOAD_VERSION,
        "severity": notice.severity.value,
        "text": notice.text,
        "guard_id": notice.guard_id,
        "account_id": notice.account_id,
        "position_id": notice.position_id,
        "execution_id": None if notice.execution_id is None else str(notice.execution_id),
        "data": dict(notice.data),
    }


def _host_of(url: str) -> str:
    """Return the host of an http or https URL; raises `ConfigError` for anything else."""
    try:
        parts = urlsplit(url)
        host = parts.hostname if parts.port != 0 else None
    except ValueError:
        host = None
    # The address is not shown: it may hold a token.
    if host is None or parts.scheme not in {"http", "https"}:
        raise ConfigError(
            "[notifications.webhook] url must be an address like https://example.com/path"
        )
    return host


def _log_notice(notice: Notice) -> None:
    log = structlog.get_logger()
    write = {
        Severity.INFO: log.info,
        Severity.WARNING: log.warning,
        Severity.CRITICAL: log.critical,
    }[notice.severity]
    write(f"notice.{notice.kind.value}", text=notice.text, **_ids(notice))


def _ids(notice: Notice) -> dict[str, str]:
    ids = {
        "notice_id": notice.id,
        "guard_id": notice.guard_id,
        "account_id": notice.account_id,
        "position_id": notice.position_id,
        "execution_id": notice.execution_id,
    }
    return {key: str(value) for key, value in ids.items() if value is not None}
