"""Causes of an account's troubles: proved by the exchange's answer, or only possible."""

from datetime import UTC, datetime

import pytest

from marginguard.diagnose.account import AccountFacts, causes_of, causes_of_error
from marginguard.domain.errors import (
    ErrorCode,
    Malformed,
    RateLimited,
    Rejected,
    Transient,
    Unauthorized,
    Unreachable,
)
from marginguard.lnmarkets.answers import Answer, read_error


def facts(**changes):
    given = {"account_id": "main", "where": "mainnet", "valid": False, **changes}
    return AccountFacts(checked_at=datetime(2026, 1, 1, tzinfo=UTC), **given)


def actions(causes, *, proved):
    return [cause.action for cause in causes if cause.proved is proved]


def of(error, **more):
    return causes_of_error(error, account_id="main", where="mainnet", **more)


def test_a_refused_key_proves_no_more_than_that():
    causes = of(Unauthorized("no", status=401, code="UNAUTHORIZED"), clock_offset_s=0.1)
    assert actions(causes, proved=True) == ["update_api_key"]
    possible = [cause.issue for cause in causes if not cause.proved]
    assert any("expired" in issue for issue in possible)
    assert actions(causes, proved=False) == ["update_api_key", "set_network"]


def test_the_clock_is_a_possible_cause_only_while_it_is_not_measured():
    refused = Unauthorized("no", status=401, code="UNAUTHORIZED")
    assert "sync_clock" in actions(of(refused), proved=False)
    assert "sync_clock" not in actions(of(refused, clock_offset_s=3600.0), proved=False)


def test_a_missing_permission_is_proved_by_the_exchanges_code():
    causes = of(Unauthorized("no", status=403, code="FORBIDDEN"))
    assert actions(causes, proved=True) == ["update_permissions"]
    assert actions(causes, proved=False) == []


def test_suspension_and_verification_are_never_more_than_possible():
    # Not even where the exchange's words sound like it: words are not proof.
    causes = of(Rejected("account suspended, kyc required", status=403, code="ACCOUNT_X"))
    assert actions(causes, proved=False) == ["contact_support", "complete_kyc"]
    assert next(c.issue for c in causes if c.proved).startswith("the exchange refuses to read")


def test_an_answer_without_the_exchanges_code_is_somebody_elses():
    causes = of(Rejected("403", status=403, code=None))
    assert actions(causes, proved=True) == ["fix_rest_url"]


def test_an_address_that_does_not_know_its_own_paths_is_a_wrong_one():
    causes = of(Rejected("404", status=404, code="NOT_FOUND"))
    assert actions(causes, proved=True) == ["fix_rest_url"]


@pytest.mark.parametrize(
    ("error", "action"),
    [
        (RateLimited("429"), "wait_or_upgrade"),
        (Unreachable("no route"), "check_network"),
        (Malformed("not JSON"), "update_marginguard"),
        (Transient("503"), "wait_and_retry"),
    ],
)
def test_each_way_of_not_answering_has_its_own_cure(error, action):
    assert actions(of(error), proved=True) == [action]


def test_too_many_calls_are_told_from_other_passing_faults():
    assert isinstance(read_error(Answer(status=429, body=b"")), RateLimited)
    assert not isinstance(read_error(Answer(status=503, body=b"")), RateLimited)


@pytest.mark.parametrize(("spends", "warning"), [(True, False), (False, True)])
def test_an_empty_account_is_a_problem_only_where_a_guard_may_spend(spends, warning):
    (cause,) = causes_of(facts(valid=True, balance=0, spends=spends))
    assert (cause.action, cause.warning) == ("deposit_funds", warning)


def test_what_is_proved_comes_before_what_is_possible():
    refused = Unauthorized("no", status=401, code="UNAUTHORIZED")
    causes = causes_of(facts(failure=refused, code=ErrorCode.INVALID_CREDENTIALS, balance=0))
    proved = [cause.proved for cause in causes if not cause.warning]
    assert proved == sorted(proved, reverse=True)


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"valid": True}, "active"),
        ({"code": ErrorCode.INVALID_CREDENTIALS}, "error"),
        ({"code": ErrorCode.ACCOUNT_FETCH_ERROR}, "unknown"),
        ({"missing": ("account:read",)}, "error"),
    ],
)
def test_an_account_that_nobody_could_ask_is_unknown_and_not_bad(changes, status):
    assert facts(**changes).status == status
