"""What executions and notifications of some time show, and what is recommended."""

from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from uuid_utils.compat import uuid7

from marginguard.diagnose import executions, notifications
from marginguard.diagnose.profile import PHASES, profile
from marginguard.domain.errors import ErrorType
from marginguard.domain.history import Delivery, Run
from marginguard.domain.notice import Severity
from marginguard.domain.notification import NotificationStatus
from marginguard.domain.records import ExecutionStatus
from tests.records import NOON

TIMEOUT_S = 30.0
COMPLETED, PARTIAL = ExecutionStatus.COMPLETED, ExecutionStatus.PARTIAL
FAILED, SKIPPED = ExecutionStatus.FAILED, ExecutionStatus.SKIPPED


def a_run(status=COMPLETED, duration_s=1.0, **changes):
    return Run(
        id=uuid7(),
        guard_id="guard-1",
        status=status,
        started_at=NOON + timedelta(minutes=1),
        duration_s=duration_s,
        **changes,
    )


def analyze(*runs, timeout_s=TIMEOUT_S):
    until = NOON + timedelta(hours=1)
    return executions.analyze(runs, since=NOON, until=until, timeout_s=timeout_s)


def actions_of(findings):
    return [finding.action for finding in findings]


@given(st.lists(st.sampled_from(ExecutionStatus)))
def test_every_execution_counts_once_and_what_was_skipped_for_no_success(statuses):
    found = analyze(*map(a_run, statuses))
    assert found.completed + found.partial + found.failed + found.skipped == found.total
    assert found.total == len(statuses)
    tried = found.total - found.skipped
    assert found.success_rate == (found.completed / tried if tried else None)


def test_the_duration_is_that_of_the_completed():
    found = analyze(a_run(duration_s=1.0), a_run(duration_s=3.0), a_run(FAILED, 20.0))
    assert (found.duration.count, found.duration.average_s) == (2, 2.0)
    assert analyze(a_run(FAILED)).duration is None


def test_more_failures_than_successes_are_recommended_about_and_as_many_are_not():
    failed = a_run(FAILED, error="refused", error_type=ErrorType.ACCOUNT)
    assert actions_of(analyze(a_run(), failed).recommendations) == []
    assert actions_of(analyze(a_run(), failed, failed).recommendations) == ["update_api_key"]
    untyped = a_run(PARTIAL)
    assert actions_of(analyze(untyped).recommendations) == ["check_configuration"]


@pytest.mark.parametrize(
    ("error_type", "action"),
    [
        (ErrorType.CONFIGURATION, "fix_config"),
        (ErrorType.API, "verify_api_credentials"),
        (ErrorType.NETWORK, "check_network"),
        (ErrorType.EXECUTION, "check_configuration"),
    ],
)
def test_the_cure_fits_the_commonest_type_of_error(error_type, action):
    commonest = [a_run(FAILED, error_type=error_type) for _ in range(2)]
    found = analyze(*commonest, a_run(FAILED, error_type=ErrorType.ACCOUNT))
    assert actions_of(found.recommendations) == [action]
    assert error_type.value in found.recommendations[0].issue


@pytest.mark.parametrize(
    ("average_s", "timeout_s", "slow"),
    [(14.9, 30.0, False), (15.1, 30.0, True), (29.9, 300.0, False), (30.1, 300.0, True)],
)
def test_an_average_near_the_time_out_or_over_half_a_minute_is_slow(average_s, timeout_s, slow):
    found = analyze(a_run(duration_s=average_s), timeout_s=timeout_s)
    assert actions_of(found.recommendations) == (["profile_executions"] if slow else [])


def test_runs_that_hit_the_time_out_are_said():
    stalled = a_run(FAILED, TIMEOUT_S, error_code="STALLED", error_type=ErrorType.NETWORK)
    found = analyze(a_run(), a_run(), stalled)
    assert actions_of(found.recommendations) == ["raise_timeout"]
    assert found.recommendations[0].issue.startswith("1 of the executions")


def a_delivery(status=NotificationStatus.DELIVERED, channel="email", **changes):
    created = NOON + timedelta(minutes=1)
    delivery = Delivery(
        id=uuid7(),
        user_id="owner",
        channel=channel,
        kind="action_done",
        severity=Severity.WARNING,
        status=status,
        attempts=0,
        created_at=created,
        settled_at=None if status is NotificationStatus.PENDING else created + timedelta(seconds=3),
        subject="A subject",
    )
    return replace(delivery, **changes)


def tell(*deliveries):
    return notifications.analyze(deliveries, since=NOON, until=NOON + timedelta(hours=1))


@given(
    st.lists(
        st.tuples(
            st.sampled_from(NotificationStatus),
            st.sampled_from(["email", "telegram", "webhook"]),
            st.integers(0, 4),
        )
    )
)
def test_the_channels_add_up_to_the_whole(drawn):
    rows = [a_delivery(status, channel, attempts=n) for status, channel, n in drawn]
    found = tell(*rows)
    for name in ("total", "delivered", "failed", "pending"):
        assert sum(getattr(one, name) for one in found.channels.values()) == getattr(found, name)
    for figures in found.channels.values():
        assert 0 <= figures.failing <= figures.pending
    assert list(found.channels) == sorted({channel for _, channel, _ in drawn})


def test_a_channel_that_fails_more_than_it_delivers_is_recommended_about_by_its_newest_advice():
    older = a_delivery(NotificationStatus.FAILED, last_error="old", advice="a", action="b")
    newer = a_delivery(
        NotificationStatus.FAILED,
        created_at=NOON + timedelta(minutes=9),
        last_error="no such user",
        advice="name another chat",
        action="setup_telegram_chat_id",
    )
    arrived = a_delivery()
    assert tell(older, arrived).recommendations == ()
    [found] = tell(older, newer, arrived, a_delivery(channel="webhook")).recommendations
    assert (found.action, found.solution) == ("setup_telegram_chat_id", "name another chat")
    assert "no such user" in found.issue


def test_what_fails_again_and_again_counts_as_failing_before_it_is_given_up():
    waiting = a_delivery(NotificationStatus.PENDING, attempts=1)
    shut = a_delivery(NotificationStatus.PENDING, attempts=2, last_error="down")
    assert tell(waiting).recommendations == ()
    found = tell(shut)
    assert found.channels["email"].failing == 1
    assert found.success_rate is None
    assert actions_of(found.recommendations) == ["verify_channel_config"]
    assert [one.error for one in found.common_errors] == ["email: down"]


def test_the_delay_is_that_of_what_arrived():
    found = tell(a_delivery(), a_delivery(NotificationStatus.FAILED))
    assert (found.delay.count, found.delay.average_s) == (1, 3.0)


def test_each_phase_is_timed_in_the_runs_that_came_to_it_in_their_order():
    runs = [
        a_run(duration_s=2.0, phases={"actions": 1.5, "positions": 0.5}),
        a_run(FAILED, 4.0, phases={"positions": 3.5, "afterwards": 0.1}),
    ]
    found = profile(runs, timeout_s=TIMEOUT_S)
    assert list(found.phases) == ["positions", "actions", "afterwards"]
    assert (found.phases["positions"].average_s, found.phases["actions"].count) == (2.0, 1)
    assert (found.completed.average_s, found.every.average_s) == (2.0, 3.0)
    assert found.bottlenecks == ()


def test_nothing_on_record_has_no_profile():
    found = profile([], timeout_s=TIMEOUT_S)
    assert (found.runs, found.completed, found.every) == (0, None, None)
    assert (dict(found.phases), found.bottlenecks) == ({}, ())


@pytest.mark.parametrize(
    ("duration_s", "timeout_s", "actions"),
    [
        (14.0, 30.0, []),
        (16.0, 30.0, ["find_slow_phase"]),
        (28.0, 30.0, ["find_slow_phase", "raise_timeout"]),
        (31.0, 300.0, ["find_slow_phase"]),
        (61.0, 300.0, ["find_slow_phase", "raise_timeout"]),
    ],
)
def test_slow_runs_are_measured_by_seconds_and_by_the_time_out(duration_s, timeout_s, actions):
    found = profile([a_run(duration_s=duration_s)], timeout_s=timeout_s)
    assert actions_of(found.bottlenecks) == actions


def test_where_none_completed_the_average_of_those_that_failed_is_slow():
    slow, quick = a_run(FAILED, 20.0), a_run(duration_s=1.0)
    assert actions_of(profile([slow], timeout_s=TIMEOUT_S).bottlenecks) == ["find_slow_phase"]
    assert profile([slow, slow, quick], timeout_s=TIMEOUT_S).bottlenecks == ()


@pytest.mark.parametrize("phase", PHASES)
def test_a_phase_that_takes_a_quarter_of_the_time_out_is_named_with_its_cure(phase):
    slow = a_run(duration_s=9.0, phases={phase: 8.0})
    [found] = profile([slow], timeout_s=TIMEOUT_S).bottlenecks
    assert found.action == PHASES[phase][2]
    assert profile([replace(slow, phases={phase: 7.0})], timeout_s=TIMEOUT_S).bottlenecks == ()
