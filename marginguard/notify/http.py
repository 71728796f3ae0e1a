"""One HTTP request for a channel: bounded, never redirected, its errors put into words once."""

import asyncio
import math
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import aiohttp

from marginguard.domain.errors import Unreachable
from marginguard.notify.destination import Destination, PrivateAddressError, PublicResolver

_LONGEST_ANSWER_BYTES: Final = 16 * 1024
_BUSY_STATUSES: Final = {408, 425, 429}


class RefusedDestination(Unreachable):
    """Do not send there: the name leads to a private address."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What the other side answered; `body` is at most 16 KiB, and empty after a success."""

    status: int
    retry_after_s: float | None
    body: bytes

    @property
    def accepted(self) -> bool:
        """Whether the request was taken."""
        return 200 <= self.status < 300

    @property
    def passing(self) -> bool:
        """Whether the same request may be taken later: the other side is busy or broken."""
        return self.status in _BUSY_STATUSES or self.status >= 500

    @property
    def in_words(self) -> str:
        """Return what was answered, for a sentence: "answered 404"."""
        redirected = 300 <= self.status < 400
        return f"answered {self.status}" + (", a redirect, not followed" if redirected else "")


class HttpSender:
    """Sends requests with a time limit each; connections are kept between them.

    `ssl_context` replaces the system's certificates, `resolver` the system's names.
    """

    def __init__(
        self,
        *,
        timeout_s: float,
        allow_private: bool = False,
        ssl_context: ssl.SSLContext | None = None,
        resolver: aiohttp.abc.AbstractResolver | None = None,
    ) -> None:
        self._timeout_s = timeout_s
        self._allow_private = allow_private
        self._ssl_context = ssl_context
        self._resolver = resolver
        self._opened: aiohttp.ClientSession | None = None

    async def send(
        self,
        method: str,
        destination: Destination,
        *,
        headers: Mapping[str, str],
        body: bytes,
    ) -> Answer:
        """Send one request and return the answer, whatever its status.

        Raises `Unreachable`, in words without secrets, where no answer came, and
        `RefusedDestination` where the name leads to a private address that is not allowed.
        """
        try:
            async with (
                asyncio.timeout(self._timeout_s),
                self._session().request(
                    method,
                    destination.url,
                    headers=headers,
                    data=body,
                    allow_redirects=False,
                ) as response,
            ):
                return Answer(
                    status=response.status,
                    retry_after_s=_seconds(response.headers.get("Retry-After")),
                    # A 2xx says all: waiting for more could only turn it into a failure.
                    body=b"" if response.ok else await _beginning(response.content),
                )
        except TimeoutError as error:
            raise Unreachable(
                f"{destination.host} gave no answer within {self._timeout_s:g} s"
            ) from error
        except aiohttp.ClientConnectorCertificateError as error:
            raise Unreachable(
                f"the certificate of {destination.host} is not trusted ({error.certificate_error})"
            ) from error
        except aiohttp.ClientConnectorError as error:
            if isinstance(error.os_error, PrivateAddressError):
                raise RefusedDestination(str(error.os_error)) from error
            raise Unreachable(f"cannot connect to {destination.host}: {error.os_error}") from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            # Only the class: the text of some of these holds the URL, and so its secrets.
            raise Unreachable(
                f"the call to {destination.host} failed ({type(error).__name__})"
            ) from error

    async def aclose(self) -> None:
        """Close the kept connections."""
        if self._opened is not None:
            await self._opened.close()
            self._opened = None

    def _session(self) -> aiohttp.ClientSession:
        # Made at the first use, since it belongs to the loop that runs then.
        if self._opened is None:
            resolver = None if self._allow_private else PublicResolver(self._resolver)
            connector = aiohttp.TCPConnector(
                resolver=resolver or self._resolver,
                ssl=self._ssl_context if self._ssl_context is not None else True,
            )
            self._opened = aiohttp.ClientSession(
                connector=connector,
                timeout=aiohttp.ClientTimeout(total=None),  # `send` sets the limit
                cookie_jar=aiohttp.DummyCookieJar(),
            )
        return self._opened


async def _beginning(content: aiohttp.StreamReader) -> bytes:
    body = bytearray()
    while len(body) < _LONGEST_ANSWER_BYTES and (more := await content.readany()):
        body += more
    return bytes(body[:_LONGEST_ANSWER_BYTES])


def _seconds(retry_after: str | None) -> float | None:
    """Return the seconds of a `Retry-After`; None where there are none or they make no sense."""
    try:
        seconds = float(retry_after or "")
    except ValueError:
        return None
    return seconds if math.isfinite(seconds) and seconds >= 0 else None
