"""What `marginguard status` finds in a record, and how it fits one screen."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from marginguard.cli.status_findings import advice, of_config, problems, unneeded_guards
from marginguard.cli.status_screen import Answer, Status, screen
from marginguard.config import load_config
from marginguard.diagnose.finding import Finding
from marginguard.domain.model import MarginMode, RiskLevel, Side
from marginguard.domain.records import ArmedState, ExecutionStatus
from marginguard.storage.notification_reading import ChannelRecord, UnreachableUser
from marginguard.storage.reading import GuardView, PositionView
from tests.records import an_action, settled

TRADE = "0f3c1f9e-7311-48a3-82ce-6f447ed4d57{}"
FILE = """
[daemon]
state_dir = "{state_dir}"
[database]
url = "postgresql://nobody@127.0.0.1:1/none"
[[accounts]]
id = "main"
network = "signet"
key = "a-key"
secret = "a-secret"
passphrase = "a-passphrase"
[[guards]]
id = "guard-1"
account = "main"
margin_threshold = 80
action = "close_position"
{guard}
{rest}
"""


@pytest.fixture
def configured(tmp_path):
    def write(rest="", guard=""):
        path = tmp_path / "config.toml"
        path.touch(mode=0o600)
        path.write_text(FILE.format(state_dir=tmp_path / "state", rest=rest, guard=guard))
        return load_config(path, {})

    return write


def now():
    return datetime.now(UTC)


def a_view(number=1, **changes):
    """Return a guarded long as it is read, changed."""
    view = PositionView(
        account_id="main",
        position_id=TRADE.format(number),
        guard_id="guard-1",
        mode=MarginMode.ISOLATED,
        side=Side.LONG,
        quantity=1_000,
        margin=100_000,
        entry_price=100_000.0,
        leverage=10.0,
        price=98_500.0,
        level=15.3,
        risk=RiskLevel.SAFE,
        trigger_price=92_592.6,
        liquidation_price=90_909.0,
        liquidation_distance=7.7,
        pl=-15_228,
        stop_loss=None,
        take_profit=None,
        backstop=91_234.5,
        original_margin=None,
        seen_at=now(),
    )
    return replace(view, **changes)


def a_guard_view(name="guard-1", **changes):
    """Return an armed guard that looked just now, changed."""
    view = GuardView(
        guard_id=name,
        account_id="main",
        armed=ArmedState.ARMED,
        reason="it sees its positions and the price",
        since=now(),
        updated_at=now(),
        paused_until=None,
        paused_by=None,
        checks=10,
        last_checked_at=now(),
        executions=1,
        completed=1,
        partial=0,
        failed=0,
        skipped=0,
        last_execution_id=None,
        last_execution_status=ExecutionStatus.COMPLETED,
        last_execution_at=now() - timedelta(minutes=3),
        last_execution_error=None,
    )
    return replace(view, **changes)


def actions_of(found):
    return [one.action for one in found]


def lines_of(status, width=80, height=None):
    return [line.plain for line in screen(status, width=width, height=height)]


def a_status(**changes):
    status = Status(
        answer=Answer.PROTECTED,
        problems=(),
        positions=[a_view(number) for number in range(3)],
        guards=[a_guard_view(), a_guard_view("night-guard")],
        channels=[
            replace(ChannelRecord.unused("email"), settled=10, delivered=9, last_delivery_at=now()),
            ChannelRecord.unused("telegram"),
        ],
        actions=[settled(an_action(intended_at=now())) for _ in range(10)],
    )
    return replace(status, **changes)


def test_three_positions_two_guards_and_two_channels_fit_80_by_24_with_their_prompt():
    lines = lines_of(a_status(), height=23)
    assert len(lines) <= 23
    assert max(map(len, lines)) <= 80
    assert lines[0] == "PROTECTED: 3 positions, each with an armed guard"
    text = "\n".join(lines)
    for said in (TRADE.format(2), "night-guard (main): armed", "telegram: nothing sent yet"):
        assert said in text
    assert text.count("add 25,000 sats: done") >= 5
    assert "90% of the last 10 arrived, the last 0 s ago" in text


def test_two_reasons_leave_positions_and_guards_on_the_screen():
    problem = Finding(issue="position x is not covered", solution="cover it", action="add_guard")
    lines = lines_of(a_status(answer=Answer.NOT_PROTECTED, problems=[problem] * 2), height=23)
    assert lines[0] == "NOT PROTECTED: 2 reasons"
    assert len(lines) <= 23
    assert any(line.startswith("  night-guard") for line in lines)


def test_advice_never_pushes_the_answer_off_the_screen():
    one = Finding(issue="email fails", solution="mend it", action="verify_smtp_config")
    full = lines_of(a_status(advice=[one] * 3), height=23)
    assert full.count("- email fails") == 3
    assert len(full) <= 23
    for height in range(18, 50):
        assert len(lines_of(a_status(advice=[one] * 10), height=height)) <= height
    tight = lines_of(a_status(advice=[one] * 10), height=23)
    left = 10 - tight.count("- email fails")
    assert f"- {left} more to mend: marginguard status | less" in tight
    assert lines_of(a_status(advice=[one] * 10)).count("- email fails") == 10


def test_without_a_screen_every_action_is_listed():
    assert "\n".join(lines_of(a_status())).count("add 25,000 sats: done") == 10


@pytest.mark.parametrize("width", [30, 40, 79, 80, 100])
def test_nothing_is_wider_than_the_terminal(width):
    seen = a_view(guard_id=None, level=123_456.7, original_margin=10**9, price=1_234_567.5)
    loud = a_guard_view("a-guard-with-quite-a-name", armed=ArmedState.DEGRADED)
    status = a_status(positions=[seen, a_view()], guards=[loud])
    lines = lines_of(status, width=width)
    assert max(map(len, lines)) <= width
    assert "NO GUARD" in " ".join(" ".join(lines).split())


def test_what_is_recorded_does_not_steer_the_terminal():
    guard = a_guard_view(last_execution_error="no\x1b[2J\rluck")
    assert "\x1b" not in "\n".join(lines_of(a_status(guards=[guard])))


def test_an_armed_guard_over_its_position_is_no_problem(configured):
    assert not list(problems(configured(), [a_view()], [a_guard_view()], now()))


def test_an_armed_guard_that_is_held_up_while_others_look_is_named(configured):
    long_ago = now() - timedelta(hours=1)
    stuck = a_guard_view(since=long_ago, last_checked_at=long_ago, last_execution_at=long_ago)
    fine = a_guard_view("night-guard")
    [problem] = problems(configured(), [a_view()], [fine, stuck], now())
    assert "guard guard-1 looked last at" in problem.issue
    assert problem.action == "restart_daemon"
    fresh = replace(stuck, since=now())  # it has just armed itself: that was a look
    assert not list(problems(configured(), [a_view()], [fine, fresh], now()))
    old = a_view(seen_at=long_ago)
    assert actions_of(problems(configured(), [old], [stuck], now())) == ["start_daemon"]


def test_positions_of_accounts_that_are_not_configured_are_left_out(configured):
    mine, foreign = a_view(), a_view(2, account_id="of-another-daemon")
    assert of_config(configured(), [foreign, mine]) == (mine,)


@pytest.mark.parametrize("side", list(Side))
def test_a_breach_that_the_guard_does_not_get_answered_is_unprotected(configured, side):
    trigger = 99_000.0 if side is Side.LONG else 98_000.0
    breached = a_view(side=side, trigger_price=trigger)
    failed = a_guard_view(
        last_execution_status=ExecutionStatus.FAILED, last_execution_error="no balance"
    )
    [problem] = problems(configured(), [breached], [failed], now())
    assert problem.action == "unblock_action"
    assert "UNPROTECTED" in problem.issue
    assert "no balance" in problem.issue
    assert not list(problems(configured(), [a_view()], [failed], now()))
    assert not list(problems(configured(), [breached], [a_guard_view()], now()))


def test_a_paused_guard_is_named_with_its_end_and_who_wanted_it(configured):
    until = now() + timedelta(hours=1)
    resting = a_guard_view(armed=ArmedState.DISARMED, paused_until=until, paused_by="root")
    [problem] = problems(configured(), [a_view()], [resting], now())
    assert problem.action == "resume_guard"
    assert f"{until:%H:%M:%S} UTC by root" in problem.issue
    assert "marginguard resume guard-1" in problem.solution
    shown = " ".join(lines_of(a_status(guards=[resting])))
    assert f"guard-1 (main): PAUSED until {until:%H:%M} UTC" in shown
    over = replace(resting, paused_until=now() - timedelta(seconds=1))
    assert actions_of(problems(configured(), [a_view()], [over], now())) == ["arm_guard"]


def test_a_guard_that_waits_for_a_trade_that_ended_leaves_the_others_protected(configured):
    config, other = configured(), a_view(guard_id="another")
    waiting = a_guard_view(armed=ArmedState.DISARMED, reason="no such position runs")
    assert not list(problems(config, [other], [waiting], now()))
    assert actions_of(unneeded_guards(config, [other], [waiting], now())) == ["arm_guard"]
    for seen in ([a_view()], [replace(other, guard_id=None)]):
        assert "arm_guard" in actions_of(problems(config, seen, [waiting], now()))
        assert not list(unneeded_guards(config, seen, [waiting], now()))
    blind = replace(waiting, last_checked_at=now() - timedelta(hours=1))
    assert "arm_guard" in actions_of(problems(config, [other], [blind], now()))


@pytest.mark.parametrize(
    ("guard", "action"),
    [("dry_run = true", "disable_dry_run"), ("auto_execution = false", "enable_execution")],
)
def test_a_guard_that_does_not_act_does_not_protect(configured, guard, action):
    config = configured(guard=guard)
    assert actions_of(problems(config, [a_view()], [a_guard_view()], now())) == [action]
    assert not list(problems(config, [], [a_guard_view()], now()))


ANA = '[[users]]\nid = "ana"\n'


@pytest.mark.parametrize(
    ("rest", "action"),
    [
        (ANA + 'email = "ana@example.com"', "verify_smtp_config"),
        (ANA + '[notifications.telegram]\ntoken = "1:x"', "setup_telegram_chat_id"),
        (ANA + '[users.notifications]\nchannels = ["webhook"]', "setup_webhook_url"),
        (
            ANA + '[notifications.sms]\nprovider = "gateway"\nurl = "https://sms.example.com"',
            "setup_sms_phone_number",
        ),
        (
            ANA + '[notifications.email]\nhost = "mail"\nsender = "a@example.com"',
            "setup_email_address",
        ),
    ],
)
def test_a_way_that_is_half_set_up_is_named_with_what_lacks(configured, rest, action):
    [found] = advice(configured(rest), [], [])
    assert found.action == action
    assert found.issue
    assert found.solution


def test_what_nobody_asked_for_is_not_missed(configured):
    assert not list(advice(configured(), [], []))
    complete = ANA + 'webhook_url = "https://example.com/hook"'
    assert not list(advice(configured(complete), [], []))


def test_a_channel_is_judged_from_its_first_settled_message_on(configured):
    config = configured()
    email = replace(ChannelRecord.unused("email"), settled=10, delivered=8)
    assert not list(advice(config, [ChannelRecord.unused("email"), email], []))
    [found] = advice(config, [replace(email, delivered=7, last_error="refused")], [])
    assert found.action == "verify_smtp_config"
    assert found.issue == "email: 7 of the last 10 arrived: refused"
    [found] = advice(config, [replace(email, failing=2, advice="do it", action="wait")], [])
    assert (found.action, found.solution) == ("wait", "do it")


def test_a_user_whom_nothing_reaches_comes_first_on_the_screen(configured):
    lost = UnreachableUser(user_id="owner", since=now())
    bad = replace(ChannelRecord.unused("email"), settled=10, delivered=0)
    found = tuple(advice(configured(), [bad], [lost]))
    assert actions_of(found) == ["restore_channel", "verify_smtp_config"]
    lines = lines_of(a_status(advice=found))
    assert lines[1].startswith("- all channels failed for user owner")
    assert lines.index("Guards") < next(i for i, line in enumerate(lines) if "email: 0 of" in line)
