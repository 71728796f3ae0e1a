"""What the validation of accounts tells: once when it starts, and once when it is over."""

import pytest
from uuid_utils.compat import uuid7

from marginguard.app.account_notices import AccountNotices
from marginguard.domain.errors import ErrorCode
from marginguard.lnmarkets.validation import AccountValidation, Verdict
from tests.unit.fakes import Ears, FakeClock
from tests.unit.strategies import NOON


class Told:
    """Hears validations, and remembers what is told of them."""

    def __init__(self):
        self.ears = Ears()
        self._notices = AccountNotices(notifier=self.ears, clock=FakeClock(), new_id=uuid7)

    def hear(self, verdict=Verdict.VALID, *, account="main", **found):
        self._notices.heard(
            AccountValidation(account_id=account, verdict=verdict, last_validated=NOON, **found)
        )

    def refuse(self, account="main"):
        self.hear(
            Verdict.INVALID,
            account=account,
            code=ErrorCode.INVALID_CREDENTIALS,
            reason="the key is not known",
            advice="check key, secret and passphrase",
        )

    @property
    def said(self):
        return [(n.kind.value, n.account_id) for n in self.ears.notices]


def test_a_refused_key_is_told_once_for_its_account_and_once_when_it_works_again():
    told = Told()
    for _ in range(3):
        told.refuse()
    told.refuse(account="second")
    told.hear()
    told.hear()
    told.refuse()
    assert told.said == [
        ("credentials_refused", "main"),
        ("credentials_refused", "second"),
        ("recovered", "main"),
        ("credentials_refused", "main"),
    ]
    first = told.ears.notices[0]
    assert first.severity.value == "critical"
    assert "CANNOT BE GUARDED: the key is not known." in first.text
    assert "check key, secret and passphrase" in first.text
    assert first.data["code"] == "INVALID_CREDENTIALS"


def test_an_account_that_could_not_be_asked_changes_nothing():
    told = Told()
    told.hear(Verdict.UNKNOWN, code=ErrorCode.ACCOUNT_FETCH_ERROR, reason="down")
    told.refuse()
    told.hear(Verdict.UNKNOWN, code=ErrorCode.ACCOUNT_FETCH_ERROR, reason="down")
    told.refuse()
    assert told.said == [("credentials_refused", "main")]


@pytest.mark.parametrize("offset_s", [5.0, -7.3])
def test_a_clock_that_is_off_is_told_once_for_all_accounts_and_when_it_is_right_again(offset_s):
    told = Told()
    for _ in range(2):
        told.hear(clock_offset_s=offset_s)
        told.hear(account="second", clock_offset_s=offset_s)
    told.hear(account="third", clock_offset_s=0.1)
    told.hear(clock_offset_s=None)
    told.hear(clock_offset_s=0.1)
    told.hear(account="second", clock_offset_s=0.1)
    told.hear(clock_offset_s=4.9)
    assert told.said == [("clock_off", None), ("recovered", None)]
    off = told.ears.notices[0]
    assert (off.severity.value, off.data["offset_s"]) == ("warning", offset_s)
    assert f"{offset_s:+.1f} s off" in off.text


def test_a_clock_so_far_off_that_requests_are_refused_is_told_again_as_critical():
    told = Told()
    for offset_s in (6.0, 26.0, 27.0, 10.0, 6.0):
        told.hear(clock_offset_s=offset_s)
    assert [n.severity.value for n in told.ears.notices] == ["warning", "critical"]
