"""Why an execution failed, by type, and what happened when."""

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marginguard.diagnose.failures import failure_reasons
from marginguard.diagnose.story import (
    headline_of_execution,
    story_of_execution,
    story_of_position,
)
from marginguard.domain.errors import ErrorCode, ErrorType
from marginguard.domain.history import LevelSample
from marginguard.domain.outcome import OutcomeKind
from marginguard.domain.records import ActionStatus, ExecutionStatus
from tests.records import NOON, a_reduction, an_action, an_execution, settled


def failed(error_type, code, error="it did not work", **changes):
    return an_execution(
        status=ExecutionStatus.FAILED,
        positions_succeeded=0,
        positions_failed=1,
        error_type=error_type,
        error_code=code,
        error=error,
        **changes,
    )


def unmet(outcome, status=ActionStatus.REJECTED, **changes):
    return settled(
        an_action(), status=status, outcome=outcome, proof=None, **{"error": "why", **changes}
    )


def types(execution, *actions):
    return [reason.type for reason in failure_reasons(execution, actions)]


def test_what_went_well_has_no_reasons_for_failure():
    assert types(an_execution(), settled(an_action())) == []


@pytest.mark.parametrize(
    ("error_type", "code", "expected"),
    [
        (ErrorType.API, ErrorCode.POSITIONS_UNKNOWN, ["api_error"]),
        (ErrorType.NETWORK, ErrorCode.POSITIONS_UNKNOWN, ["network_error"]),
        (ErrorType.ACCOUNT, ErrorCode.INVALID_CREDENTIALS, ["permission_error"]),
        (ErrorType.NETWORK, ErrorCode.PRICE_UNKNOWN, ["network_error", "market_error"]),
        (ErrorType.CONFIGURATION, ErrorCode.INVALID_CONFIG_SCHEMA, ["configuration_error"]),
        (ErrorType.EXECUTION, ErrorCode.STALLED, ["execution_error"]),
        (ErrorType.EXECUTION, ErrorCode.ACTION_FAILED, ["execution_error"]),
    ],
)
def test_a_run_that_failed_has_the_reason_of_its_error(error_type, code, expected):
    assert types(failed(error_type, code)) == expected


@pytest.mark.parametrize(
    ("outcome", "expected"),
    [
        (OutcomeKind.NOT_SENT.value, "network_error"),
        (OutcomeKind.BUSY.value, "api_error"),
        (OutcomeKind.AMBIGUOUS.value, "api_error"),
        (OutcomeKind.REJECTED.value, "market_error"),
        (OutcomeKind.DONE.value, "execution_error"),
        (None, "execution_error"),
    ],
)
def test_an_action_that_did_not_work_has_the_reason_of_its_outcome(outcome, expected):
    run = failed(ErrorType.EXECUTION, ErrorCode.ACTION_FAILED)
    assert types(run, unmet(outcome)) == [expected]
    assert types(None, unmet(outcome, ActionStatus.UNKNOWN)) == [expected]


def test_words_in_an_error_do_not_decide_its_type():
    misleading = "API permission market timeout ECONNRESET"
    assert types(failed(ErrorType.NETWORK, ErrorCode.POSITIONS_UNKNOWN, misleading)) == [
        "network_error"
    ]


def test_a_dry_run_did_not_fail():
    assert types(None, unmet("dry_run", dry_run=True)) == []


def test_each_reason_has_a_cure_and_says_what_the_record_says():
    [reason] = failure_reasons(None, [unmet("rejected", error="insufficient balance")])
    assert reason.detail == "insufficient balance"
    assert reason.solution
    assert reason.action == "wait_and_retry"


@given(st.lists(st.sampled_from([None, *OutcomeKind]), max_size=6))
def test_each_type_of_reason_is_given_once(outcomes):
    found = types(None, *map(unmet, outcomes))
    assert len(found) == len(set(found))
    assert bool(found) == bool(outcomes)


def test_the_headline_says_how_it_ended():
    assert "COMPLETED" in headline_of_execution(an_execution(), [])
    assert "1 of 1 positions" in headline_of_execution(an_execution(), [])
    run = failed(ErrorType.API, ErrorCode.POSITIONS_UNKNOWN, "503")
    assert headline_of_execution(run, []).endswith("503")
    assert "FAILED" in headline_of_execution(run, [])
    assert "guard-1" in headline_of_execution(None, [an_action()])


def test_a_story_is_in_the_order_of_time_and_ends_with_the_end():
    action = settled(an_action(intended_at=NOON + timedelta(milliseconds=10)))
    story = story_of_execution(an_execution(), [action], [])
    assert [moment.at for moment in story] == sorted(moment.at for moment in story)
    assert story[0].text.startswith("began (source: schedule")
    assert "93,000.5" in story[0].text
    assert story[-1].text.startswith("ended, completed")
    assert "actions 0.40 s" in story[-1].text
    middle = [moment.text for moment in story[1:-1]]
    assert "decided to add 25,000 sats" in middle[0]
    assert "attempt 1" in middle[1]
    assert "the margin rose" in middle[2]


def test_an_action_that_was_never_sent_is_not_told_as_sent():
    dry = settled(an_action(), dry_run=True)
    texts = [moment.text for moment in story_of_execution(None, [dry, an_action()], [])]
    assert not any("sent, attempt" in text for text in texts)
    assert any("nothing was sent" in text for text in texts)


def test_what_cannot_be_told_is_told_as_that():
    unknown = an_action(status=ActionStatus.UNKNOWN, sent_at=NOON, frozen=True, attempts=2)
    [_, __, end] = story_of_execution(None, [unknown], [])
    assert "unknown" in end.text
    assert "frozen" in end.text


def a_sample(minutes, level):
    return LevelSample(
        position_id="trade-1",
        guard_id=None,
        seen_at=NOON + timedelta(minutes=minutes),
        price=93_000.5,
        margin=100_000,
        pl=-70_000,
        level=level,
    )


def test_a_position_is_told_by_its_first_its_highest_and_its_last_level():
    samples = [a_sample(0, 10.0), a_sample(1, 20.0), a_sample(2, 70.0), a_sample(3, 40.0)]
    texts = [moment.text for moment in story_of_position(samples, [], [])]
    assert [text.split(" level")[0] for text in texts] == [
        "trade-1: first",
        "trade-1: highest",
        "trade-1: last",
    ]
    assert all("no guard" in text for text in texts)
    [only] = story_of_position(samples[2:3], [], [])
    assert "highest level 70.0 %" in only.text
    assert story_of_position([], [], []) == ()


def test_a_reduction_says_what_the_position_is_called_from_then_on():
    told = [moment.text for moment in story_of_position([], [a_reduction()], [])]
    assert any("the position is trade-2 from now on" in text for text in told)
