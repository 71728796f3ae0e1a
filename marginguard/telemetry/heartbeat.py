"""The dead man's switch: pings that stop when the guarding does, so that somebody else notices."""

import asyncio
from typing import ClassVar, Final

import aiohttp
import structlog
from yarl import URL

from marginguard.aio import unless_stopped
from marginguard.domain.errors import ConfigError, ErrorType, MarginguardError
from marginguard.ports import Clock

TIMEOUT_S: Final = 5.0


class _NotHeardError(MarginguardError):
    """Try again with the next ping. Never holds the URL, which is a secret."""

    error_type: ClassVar[ErrorType] = ErrorType.NOTIFICATION


class Heartbeat:
    """Pings `url` after completed cycles, at most once in `interval_s` seconds.

    While the daemon is degraded `/fail` is appended to the URL's path; a change from fine to
    degraded or back is told without waiting for the interval. A ping is never repeated: the next
    one follows. Raises `ConfigError` for a URL that is not http or https.
    """

    def __init__(
        self, url: str, *, interval_s: float, clock: Clock, timeout_s: float = TIMEOUT_S
    ) -> None:
        self._url = _checked(url)
        path = self._url.raw_path.rstrip("/") + "/fail"
        self._fail_url = self._url.with_path(path, encoded=True, keep_query=True)
        self._interval_s = interval_s
        self._clock = clock
        self._timeout_s = timeout_s
        self._due = asyncio.Event()
        self._told: bool | None = None
        self._told_s = float("-inf")
        self._heard = True
        self._log = structlog.get_logger()

    def completed(self, *, degraded: bool) -> None:
        """Note that a cycle has ended, and whether the daemon guards less than it should.

        Returns at once and never raises.
        """
        now_s = self._clock.monotonic()
        if degraded is self._told and now_s - self._told_s < self._interval_s:
            return
        self._told, self._told_s = degraded, now_s
        self._due.set()

    async def run(self, stop: asyncio.Event) -> None:
        """Send the pings until `stop` is set; one that is under way then is given up."""
        await unless_stopped(self._ping_for_ever(), stop)

    async def _ping_for_ever(self) -> None:
        timeout = aiohttp.ClientTimeout(total=self._timeout_s)
        async with aiohttp.ClientSession(
            timeout=timeout, cookie_jar=aiohttp.DummyCookieJar()
        ) as session:
            while True:
                await self._due.wait()
                self._due.clear()
                await self._ping(session, degraded=bool(self._told))

    async def _ping(self, session: aiohttp.ClientSession, *, degraded: bool) -> None:
        try:
            await self._get(session, self._fail_url if degraded else self._url)
        except _NotHeardError as error:
            if self._heard:
                self._heard = False
                self._log.warning(
                    "heartbeat.not_heard",
                    reason=str(error),
                    advice="check [heartbeat] url and the way to it; guarding goes on, and"
                    " whoever listens for the pings will raise the alarm",
                )
            return
        if not self._heard:
            self._heard = True
            self._log.info("heartbeat.heard_again")

    async def _get(self, session: aiohttp.ClientSession, url: URL) -> None:
        """Ask for `url` once; raises `_NotHeardError` unless the answer is a 2xx."""
        try:
            async with session.get(url, allow_redirects=False) as response:
                status = response.status
        except TimeoutError:
            raise _NotHeardError(f"no answer within {self._timeout_s:g} s") from None
        except (aiohttp.ClientError, OSError) as error:
            # Only the class, without the cause: the text of some of these holds the URL.
            cause = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
            raise _NotHeardError(f"the call failed: {type(cause).__name__}") from None
        if not 200 <= status < 300:
            raise _NotHeardError(f"the answer was {status}")


def _checked(url: str) -> URL:
    try:
        parsed = URL(url)
    except ValueError:
        parsed = URL()
    # The address is not shown: it is a secret.
    if parsed.scheme not in {"http", "https"} or not parsed.host:
        raise ConfigError("[heartbeat] url must be an address like https://example.com/ping/token")
    return parsed
