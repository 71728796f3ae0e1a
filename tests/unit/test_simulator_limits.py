"""What the simulated exchange takes from one caller, and what a key may do."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marginguard.domain.errors import ConfigError
from marginguard.simulator.accounts import DEFAULT_PERMISSIONS, Account, Credentials
from marginguard.simulator.auth import needed_permission
from marginguard.simulator.limits import EXCHANGE_LIMITS, CallLimits, Limits, RateLimit, Window
from marginguard.simulator.rest import _SIGNED


def account(*permissions: str) -> Account:
    credentials = Credentials(key="key", secret="secret", passphrase="phrase")
    return Account(id=None, credentials=credentials, balance=0, permissions=permissions)


def test_a_window_takes_its_limit_and_tells_the_rest_how_long_to_wait():
    window = Window(limit=2, span_s=10.0)

    waits = [window.take(now_s) for now_s in (100.0, 103.0, 104.0, 109.5, 110.0, 111.0, 113.0)]

    assert waits == [0, 0, 6.0, 0.5, 0, 2.0, 0]


def test_a_window_tells_how_much_it_still_takes():
    window = Window(limit=2, span_s=1.0)
    window.take(5.0)

    assert (window.remaining(5.5), window.remaining(6.0)) == (1, 2)


@given(
    steps=st.lists(st.integers(0, 30), max_size=60),
    limit=st.integers(1, 6),
    span_s=st.integers(1, 20),
)
def test_no_span_of_its_length_holds_more_than_the_limit(steps, limit, span_s):
    window = Window(limit=limit, span_s=float(span_s))
    now_s, taken = 0, []
    for step in steps:
        now_s += step
        if window.take(float(now_s)) == 0:
            taken.append(now_s)

    for first in taken:
        assert sum(first <= at < first + span_s for at in taken) <= limit


def test_every_key_has_a_window_of_its_own():
    limit = RateLimit(limit=1, span_s=1.0)

    assert [limit.take(key, 0.0) for key in ("a", "b", "a")] == [0, 0, 1.0]


def test_signed_calls_count_for_the_key_and_others_for_the_address():
    calls = CallLimits(EXCHANGE_LIMITS)

    signed = [calls.take("key", "192.0.2.1", 0.0) for _ in range(6)]
    other_key = calls.take("other", "192.0.2.1", 0.0)
    unsigned = [calls.take(None, "192.0.2.1", 0.0) for _ in range(2)]
    other_address = calls.take(None, "192.0.2.2", 0.0)

    assert signed == [0, 0, 0, 0, 0, 1.0]
    assert unsigned == [0, 1.0]
    assert (other_key, other_address) == (0, 0)


def test_rates_grow_with_the_scale_and_sizes_do_not():
    scaled = EXCHANGE_LIMITS.scaled(2.5)

    assert (scaled.signed_per_s, scaled.unsigned_per_s, scaled.messages_per_s) == (13, 3, 25)
    assert (scaled.new_connections_per_hour, scaled.authentications_per_minute) == (1_250, 50)
    assert (scaled.message_bytes, scaled.idle_timeout_s, scaled.connections) == (16_384, 120.0, 32)


def test_the_limits_are_the_documented_ones():
    documented = Limits(
        signed_per_s=5,
        unsigned_per_s=1,
        messages_per_s=10,
        message_bytes=16_384,
        idle_timeout_s=120.0,
        connections=32,
        new_connections_per_hour=500,
        authentications_per_minute=20,
    )

    assert documented == EXCHANGE_LIMITS


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan"), float("inf")])
def test_a_scale_must_be_above_0(scale):
    with pytest.raises(ConfigError, match="rate scale"):
        EXCHANGE_LIMITS.scaled(scale)


@pytest.mark.parametrize(
    ("held", "asked", "granted"),
    [
        ("account:read", "account:read", True),
        ("futures:isolated:read", "futures:isolated:read", True),
        ("futures:read", "futures:isolated:read", True),
        ("futures:write", "futures:cross:write", True),
        ("futures:isolated:write", "futures:isolated:read", False),
        ("futures:isolated:read", "futures:isolated:write", False),
        ("futures:cross:read", "futures:isolated:read", False),
        ("futures:write", "futures:isolated:read", False),
        ("read", "futures:isolated:read", False),
        ("account:read", "futures:isolated:read", False),
    ],
)
def test_a_permission_is_granted_by_itself_or_by_a_wider_one(held, asked, granted):
    assert account("account:withdrawals:write", held).may(asked) is granted


def test_every_signed_route_needs_a_permission_that_trading_keys_have():
    trading = account(*DEFAULT_PERMISSIONS)

    needed = {needed_permission(method, f"/v3{path}") for method, path in _SIGNED}

    assert {"account:read", "futures:isolated:read", "futures:isolated:write"} <= needed
    assert all(trading.may(permission) for permission in needed)
    assert not any(account().may(permission) for permission in needed)


@pytest.mark.parametrize(
    ("method", "path", "permission"),
    [
        ("GET", "/v3/account", "account:read"),
        ("GET", "/v3/futures/isolated/trades/running", "futures:isolated:read"),
        ("POST", "/v3/futures/isolated/trade/close", "futures:isolated:write"),
        ("DELETE", "/v3/futures/isolated/trade/stoploss", "futures:isolated:write"),
        ("GET", "/v3/futures/cross/position", "futures:cross:read"),
        ("PUT", "/v3/futures/cross/leverage", "futures:cross:write"),
    ],
)
def test_a_change_needs_write_and_a_look_needs_read(method, path, permission):
    assert needed_permission(method, path) == permission
