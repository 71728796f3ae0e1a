"""Whether accounts can be guarded, over real HTTP with canned answers."""

import asyncio
import contextlib
from datetime import UTC, datetime

import pytest

from marginguard.domain.errors import ErrorCode
from marginguard.domain.model import MarginMode
from marginguard.lnmarkets import validation
from marginguard.lnmarkets.client import AccountClient, PublicClient
from marginguard.lnmarkets.server_clock import ServerClock
from marginguard.lnmarkets.signing import Credentials
from marginguard.lnmarkets.transport import Transport
from marginguard.lnmarkets.validation import (
    AccountValidation,
    Candidate,
    Needs,
    Severity,
    Validations,
    Verdict,
    validate,
    validate_all,
)
from tests.integration.canned_exchange import (
    CROSS_POSITION,
    RUNNING,
    HandClock,
    canned_exchange,
    cross_position,
    trade,
)

ACCOUNT = "/v3/account"
FORBIDDEN = {"code": "FORBIDDEN", "message": "no"}
UNAUTHORIZED = {"code": "UNAUTHORIZED", "message": "no"}
BOTH = Needs(modes=frozenset(MarginMode), acts=True)
ISOLATED = Needs(modes=frozenset({MarginMode.ISOLATED}), acts=True)
ENOUGH = frozenset(BOTH.permissions)


@contextlib.asynccontextmanager
async def an_exchange(*, time="2026-01-02T03:04:05.000Z"):
    async with canned_exchange() as server:
        server.answer("/v3/time", {"time": time})
        server.answer(ACCOUNT, {"balance": 500})
        server.answer(RUNNING, [trade()])
        server.answer(CROSS_POSITION, cross_position())
        yield server


@pytest.fixture
async def exchange():
    async with an_exchange() as server:
        yield server


@contextlib.asynccontextmanager
async def candidate_at(exchange, *, name="main", needs=BOTH, permissions=ENOUGH, measure=True):
    clock = HandClock()
    async with Transport(exchange.url, timeout_s=5, rate_scale=1e6) as transport:
        server_clock = ServerClock(PublicClient(transport).server_time, clock)
        if measure:
            await server_clock.resync()
        account = AccountClient(
            name,
            Credentials(key="k", secret="s", passphrase="p"),
            transport=transport,
            server_clock=server_clock,
            rate_scale=1e6,
        )
        yield Candidate(account=account, needs=needs, permissions=permissions)


async def validated(exchange, **options):
    async with candidate_at(exchange, **options) as candidate:
        return await validate(candidate, HandClock())


def test_the_needed_permissions_are_the_least_there_are():
    assert BOTH.permissions == (
        "account:read",
        "futures:cross:read",
        "futures:cross:write",
        "futures:isolated:read",
        "futures:isolated:write",
    )
    looks = Needs(modes=frozenset({MarginMode.ISOLATED}), acts=False)
    assert looks.permissions == ("account:read", "futures:isolated:read")


async def test_a_good_account_is_valid(exchange):
    found = await validated(exchange)
    assert (found.verdict, found.code, found.findings) == (Verdict.VALID, None, ())
    assert found.balance is not None
    assert found.balance.available == 500
    assert found.last_validated == HandClock().wall


async def test_permissions_for_all_futures_cover_both_kinds_of_position(exchange):
    everything = frozenset({"account:read", "futures:read", "futures:write"})
    assert (await validated(exchange, permissions=everything)).verdict is Verdict.VALID


async def test_a_refused_key_has_invalid_credentials(exchange):
    """Failures 6 and 16: a wrong key, or one of another network."""
    exchange.answer(ACCOUNT, UNAUTHORIZED, status=401)
    found = await validated(exchange, permissions=None)
    assert (found.verdict, found.code) == (Verdict.INVALID, ErrorCode.INVALID_CREDENTIALS)
    assert "network" in found.advice


async def test_a_refused_key_under_an_unmeasured_clock_is_unknown(exchange):
    """Failure 8: the clock may be at fault."""
    exchange.answer(ACCOUNT, UNAUTHORIZED, status=401)
    exchange.answer("/v3/time", b"", status=502)
    found = await validated(exchange, measure=False)
    assert (found.verdict, found.code) == (Verdict.UNKNOWN, ErrorCode.ACCOUNT_FETCH_ERROR)
    assert "clock" in found.reason
    assert [f.action for f in found.findings] == ["check_network"]


@pytest.mark.parametrize("missing", sorted(ENOUGH))
async def test_a_missing_permission_is_named(exchange, missing):
    found = await validated(exchange, permissions=ENOUGH - {missing})
    assert (found.verdict, found.code) == (Verdict.INVALID, ErrorCode.INVALID_ACCOUNT_STATUS)
    assert missing in found.reason


@pytest.mark.parametrize(
    ("path", "permission"),
    [
        (ACCOUNT, "account:read"),
        (RUNNING, "futures:isolated:read"),
        (CROSS_POSITION, "futures:cross:read"),
    ],
)
async def test_a_read_that_is_forbidden_is_a_missing_permission(exchange, path, permission):
    """Failure 6: what the stream says is held against what the exchange does."""
    exchange.answer(path, FORBIDDEN, status=403)
    found = await validated(exchange)
    assert (found.verdict, found.code) == (Verdict.INVALID, ErrorCode.INVALID_ACCOUNT_STATUS)
    assert found.reason == f"the key lacks the permission {permission}"


async def test_what_the_guards_do_not_need_is_not_asked_for(exchange):
    exchange.answer(CROSS_POSITION, FORBIDDEN, status=403)
    found = await validated(exchange, needs=ISOLATED, permissions=frozenset(ISOLATED.permissions))
    assert found.verdict is Verdict.VALID
    assert exchange.calls(CROSS_POSITION) == []


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (500, b""),
        (503, b""),
        (429, b""),
        (200, b"<html>"),
        (200, b'{"balance": -1}'),
        (403, b"<html>"),
    ],
)
async def test_an_account_that_cannot_be_read_is_unknown(exchange, status, body):
    """Failures 3, 6 and 10: a gateway's word says nothing about the account."""
    exchange.answer(ACCOUNT, body, status=status)
    found = await validated(exchange)
    assert (found.verdict, found.code) == (Verdict.UNKNOWN, ErrorCode.ACCOUNT_FETCH_ERROR)
    assert found.balance is None


async def test_another_refusal_by_the_exchange_is_about_the_account(exchange):
    exchange.answer(ACCOUNT, {"code": "BAD_REQUEST", "message": "suspended"}, status=400)
    found = await validated(exchange)
    assert (found.verdict, found.code) == (Verdict.INVALID, ErrorCode.INVALID_ACCOUNT_STATUS)
    assert "suspended" in found.reason


@pytest.mark.parametrize("more", ["account:write", "account:withdraw", "wallet:withdraw"])
async def test_a_key_that_may_withdraw_may_more_than_is_needed(exchange, more):
    found = await validated(exchange, permissions=ENOUGH | {more})
    assert found.verdict is Verdict.VALID
    (finding,) = found.findings
    assert (finding.severity, finding.action) == (Severity.WARNING, "update_api_key")
    assert more in finding.issue


async def test_unknown_permissions_to_act_are_told(exchange):
    found = await validated(exchange, permissions=None)
    assert found.verdict is Verdict.VALID
    (finding,) = found.findings
    assert "not known" in finding.issue
    looks = Needs(modes=frozenset(MarginMode), acts=False)
    assert (await validated(exchange, permissions=None, needs=looks)).findings == ()


@pytest.mark.parametrize(
    ("time", "severity"),
    [
        ("2026-01-02T03:04:15.000Z", Severity.WARNING),
        ("2026-01-02T03:03:35.000Z", Severity.CRITICAL),
    ],
)
async def test_a_clock_that_is_off_is_told(time, severity):
    """Failure 8: guarding goes on with the exchange's time."""
    async with an_exchange(time=time) as exchange:
        found = await validated(exchange)
    assert found.verdict is Verdict.VALID
    (finding,) = found.findings
    assert (finding.severity, finding.action) == (severity, "sync_clock")


async def test_one_bad_account_does_not_hurt_the_others(exchange):
    async with (
        an_exchange() as refusing,
        an_exchange() as broken,
        candidate_at(exchange, name="good") as good,
        candidate_at(refusing, name="refused") as refused,
        candidate_at(broken, name="down") as down,
    ):
        refusing.answer(ACCOUNT, UNAUTHORIZED, status=401)
        broken.answer(ACCOUNT, b"", status=502)
        found = await validate_all([refused, good, down], HandClock())
    assert [(a.account_id, a.verdict) for a in found.accounts] == [
        ("refused", Verdict.INVALID),
        ("good", Verdict.VALID),
        ("down", Verdict.UNKNOWN),
    ]
    assert [found.count(verdict) for verdict in Verdict] == [1, 1, 1]
    assert found.code is None


async def test_many_accounts_are_validated_a_bounded_number_at_a_time(monkeypatch):
    """Otherwise guards would have to wait for a connection behind all of them."""
    running, most = 0, 0

    async def validate_slowly(candidate, _clock):
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0)
        running -= 1
        return AccountValidation(
            account_id=candidate, verdict=Verdict.VALID, last_validated=datetime.now(UTC)
        )

    monkeypatch.setattr(validation, "validate", validate_slowly)
    found = await validate_all(range(100), HandClock())
    assert [a.account_id for a in found.accounts] == list(range(100))
    assert 1 < most <= 32


def test_no_account_at_all_has_a_code_of_its_own():
    assert Validations(accounts=()).code is ErrorCode.NO_EXCHANGE_ACCOUNTS
