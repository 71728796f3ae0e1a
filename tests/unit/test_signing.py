"""Signatures, against values worked out here with the standard library."""

import base64
import hashlib
import hmac

import pytest

from marginguard.lnmarkets.signing import Credentials, Signer, sign

SECRET = "a secret with ünicode"


def by_hand(message: str) -> str:
    digest = hmac.new(SECRET.encode("utf-8"), message.encode("utf-8"), hashlib.sha256).digest()
    return base64.b64encode(digest).decode()


@pytest.mark.parametrize(
    ("method", "path", "data", "message"),
    [
        ("GET", "/v3/account", "", "1700000000000get/v3/account"),
        (
            "GET",
            "/v3/futures/isolated/trades/closed",
            "?from=2026-01-01T00%3A00%3A00.000Z&limit=10",
            (
                "1700000000000get/v3/futures/isolated/trades/closed"
                "?from=2026-01-01T00%3A00%3A00.000Z&limit=10"
            ),
        ),
        (
            "POST",
            "/v3/futures/isolated/trade/add-margin",
            '{"id":"x","amount":5}',
            '1700000000000post/v3/futures/isolated/trade/add-margin{"id":"x","amount":5}',
        ),
        (
            "DELETE",
            "/v3/futures/isolated/trade/stoploss",
            "?id=x",
            "1700000000000delete/v3/futures/isolated/trade/stoploss?id=x",
        ),
    ],
)
def test_the_signature_covers_timestamp_method_path_and_data(method, path, data, message):
    signature = sign(
        secret=SECRET, timestamp_ms=1_700_000_000_000, method=method, path=path, data=data
    )
    assert signature == by_hand(message)


def test_a_known_signature_stays_as_it_is():
    signature = sign(secret="secret", timestamp_ms=1, method="GET", path="/v3/account", data="")
    # printf '1get/v3/account' | openssl dgst -sha256 -hmac secret -binary | base64
    assert signature == "776+1ZCzS3KbCVjChsoSca92AQg4BCh5PMw8ogEiFO4="


def test_the_headers_carry_the_key_and_a_fresh_timestamp_each_time():
    times = iter([1_700_000_000_000, 1_700_000_000_001])
    signer = Signer(Credentials(key="k", secret=SECRET, passphrase="p"), lambda: next(times))
    first = signer.headers("GET", "/v3/account", "")
    second = signer.headers("GET", "/v3/account", "")
    assert first == {
        "lnm-access-key": "k",
        "lnm-access-passphrase": "p",
        "lnm-access-timestamp": "1700000000000",
        "lnm-access-signature": by_hand("1700000000000get/v3/account"),
    }
    assert second["lnm-access-timestamp"] == "1700000000001"
    assert second["lnm-access-signature"] == by_hand("1700000000001get/v3/account")


def test_credentials_never_show_themselves():
    """Failure 36: secrets never reach a log or an error."""
    shown = repr(Credentials(key="the-key", secret="the-secret", passphrase="the-phrase"))
    assert "the-" not in shown
