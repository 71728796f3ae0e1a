"""How a request proves that it comes from the holder of a key."""

import base64
import hmac
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True, slots=True)
class Credentials:
    """An API key of one account; its parts never show in a log or an error."""

    key: str = field(repr=False)
    secret: str = field(repr=False)
    passphrase: str = field(repr=False)


def sign(*, secret: str, timestamp_ms: int, method: str, path: str, data: str) -> str:
    """Return the signature of a request, in base64.

    It is HMAC-SHA256 over the timestamp, the method in lower case, `path` (with the version,
    `/v3/...`) and `data`: for GET and DELETE the query with its question mark, for POST and PUT
    the exact body, else empty. Source: the exchange's documentation of REST v3.
    """
    message = f"{timestamp_ms}{method.lower()}{path}{data}"
    digest = hmac.digest(secret.encode(), message.encode(), "sha256")
    return base64.b64encode(digest).decode("ascii")


class Signer:
    """Signs requests for one account. `timestamp_ms` tells the exchange's time."""

    def __init__(self, credentials: Credentials, timestamp_ms: Callable[[], int]) -> None:
        self._credentials = credentials
        self._timestamp_ms = timestamp_ms

    def headers(self, method: str, path: str, data: str) -> dict[str, str]:
        """Return the headers of one attempt; good for 30 s, so never to be kept."""
        credentials = self._credentials
        timestamp_ms = self._timestamp_ms()
        return {
            "lnm-access-key": credentials.key,
            "lnm-access-passphrase": credentials.passphrase,
            "lnm-access-timestamp": str(timestamp_ms),
            "lnm-access-signature": sign(
                secret=credentials.secret,
                timestamp_ms=timestamp_ms,
                method=method,
                path=path,
                data=data,
            ),
        }
