"""Who signed a call: the exchange's check of key, passphrase, time and signature."""

import base64
import hashlib
import hmac
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from marginguard.simulator.accounts import Account
from marginguard.simulator.calls import Call
from marginguard.simulator.exchange import Exchange
from marginguard.simulator.refusals import forbidden, unauthorized

KEY_HEADER: Final = "lnm-access-key"
PASSPHRASE_HEADER: Final = "lnm-access-passphrase"  # noqa: S105 - a header's name, not a secret
TIMESTAMP_HEADER: Final = "lnm-access-timestamp"
SIGNATURE_HEADER: Final = "lnm-access-signature"
WINDOW_MS: Final = 30_000
"""A signed call is good for this long, before and after the exchange's time."""
_LONGEST_STAMP: Final = 20


@dataclass(frozen=True, kw_only=True, slots=True)
class Proof:
    """What a caller proves itself with.

    `stamp` is in milliseconds since the epoch; `signature` is base64(HMAC-SHA256(secret, signed)).
    """

    key: str
    passphrase: str = field(repr=False)
    stamp: str
    signature: str = field(repr=False)
    signed: bytes = field(repr=False)


def authenticate(exchange: Exchange, call: Call, now: datetime) -> Account:
    """Return the account that signed `call`; raises `Unauthorized` if none did properly.

    Signed is timestamp + method in lower case + path + data.
    """
    key, passphrase, stamp, signature = (
        call.headers.get(name)
        for name in (KEY_HEADER, PASSPHRASE_HEADER, TIMESTAMP_HEADER, SIGNATURE_HEADER)
    )
    if key is None or passphrase is None or stamp is None or signature is None:
        raise unauthorized("Missing authentication headers")
    signed = f"{stamp}{call.method.lower()}{call.path}".encode() + call.signed_data
    proof = Proof(key=key, passphrase=passphrase, stamp=stamp, signature=signature, signed=signed)
    return verified(exchange, proof, now)


def verified(exchange: Exchange, proof: Proof, now: datetime) -> Account:
    """Return the account that gave `proof`; raises `Unauthorized` if it proves nothing."""
    account = exchange.account(proof.key)
    if account is None:
        raise unauthorized("Invalid API key")
    if not _same(proof.passphrase, account.credentials.passphrase):
        raise unauthorized("Invalid passphrase")
    if not _within_window(proof.stamp, now):
        raise unauthorized("Timestamp is not within 30 s of the server's time")
    digest = hmac.digest(account.credentials.secret.encode(), proof.signed, hashlib.sha256)
    if not _same(proof.signature, base64.b64encode(digest).decode()):
        raise unauthorized("Invalid signature")
    return account


def require_permission(account: Account, call: Call) -> None:
    """Raise `Unauthorized` (FORBIDDEN) unless the account's key may make `call`."""
    permission = needed_permission(call.method, call.path)
    if not account.may(permission):
        raise forbidden(permission)


def needed_permission(method: str, path: str) -> str:
    """Return the permission that a signed call needs; `path` is with `/v3`.

    `/v3/futures/isolated/...` needs `futures:isolated:read`, or `...:write` for a change.
    """
    action = "read" if method == "GET" else "write"
    scope = path.removeprefix("/v3/").split("/")
    if scope[0] == "futures":
        return f"futures:{scope[1]}:{action}"
    return f"{scope[0]}:{action}"


def _within_window(stamp: str, now: datetime) -> bool:
    if not (stamp.isascii() and stamp.isdigit() and len(stamp) <= _LONGEST_STAMP):
        return False
    return abs(int(stamp) - int(now.timestamp() * 1000)) <= WINDOW_MS


def _same(given: str, expected: str) -> bool:
    return hmac.compare_digest(given.encode(), expected.encode())
