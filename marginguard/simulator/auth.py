"""Who signed a call: the exchange's check of key, passphrase, time and signature."""

import base64
import hashlib
import hmac
from datetime import datetime
from typing import Final

from marginguard.simulator.accounts import Account, Credentials
from marginguard.simulator.calls import Call
from marginguard.simulator.exchange import Exchange
from marginguard.simulator.refusals import unauthorized

KEY_HEADER: Final = "lnm-access-key"
PASSPHRASE_HEADER: Final = "lnm-access-passphrase"  # noqa: S105 - a header's name, not a secret
TIMESTAMP_HEADER: Final = "lnm-access-timestamp"
SIGNATURE_HEADER: Final = "lnm-access-signature"
WINDOW_MS: Final = 30_000
"""A signed call is good for this long, before and after the exchange's time."""


def authenticate(exchange: Exchange, call: Call, now: datetime) -> Account:
    """Return the account that signed `call`; raises `Unauthorized` if none did properly."""
    key, passphrase, stamp, signature = (
        call.headers.get(name)
        for name in (KEY_HEADER, PASSPHRASE_HEADER, TIMESTAMP_HEADER, SIGNATURE_HEADER)
    )
    if key is None or passphrase is None or stamp is None or signature is None:
        raise unauthorized("Missing authentication headers")
    account = exchange.account(key)
    if account is None:
        raise unauthorized("Invalid API key")
    if not _same(passphrase, account.credentials.passphrase):
        raise unauthorized("Invalid passphrase")
    if not _within_window(stamp, now):
        raise unauthorized("Timestamp is not within 30 s of the server's time")
    if not _same(signature, expected_signature(account.credentials, call, stamp)):
        raise unauthorized("Invalid signature")
    return account


def expected_signature(credentials: Credentials, call: Call, stamp: str) -> str:
    """Return base64(HMAC-SHA256(secret, timestamp + method in lower case + path + data))."""
    text = f"{stamp}{call.method.lower()}{call.path}".encode() + call.signed_data
    digest = hmac.digest(credentials.secret.encode(), text, hashlib.sha256)
    return base64.b64encode(digest).decode()


def _within_window(stamp: str, now: datetime) -> bool:
    if not (stamp.isascii() and stamp.isdigit()):
        return False
    return abs(int(stamp) - int(now.timestamp() * 1000)) <= WINDOW_MS


def _same(given: str, expected: str) -> bool:
    return hmac.compare_digest(given.encode(), expected.encode())
