"""Why a guard does or does not act: the daemon's own decision and the figures behind it."""

from dataclasses import replace
from datetime import timedelta

import pytest

from marginguard.diagnose.debug_decision import Question, causes_of_decisions, whys_of
from marginguard.diagnose.debug_record import GuardRecord, causes_in
from marginguard.domain.budget import Budget
from marginguard.domain.decision import Verdict, View
from marginguard.domain.memory import GuardMemory, Spend
from marginguard.domain.model import ActionKind
from marginguard.domain.pause import Pause
from marginguard.domain.policy import decide
from marginguard.domain.records import ActionStatus, ArmedState
from marginguard.domain.rules import Ladder, Rules, Rung, Step
from tests.records import an_action
from tests.unit.strategies import NOON, a_position, a_quote

BREACH = 92_500.0


def rules(kind=ActionKind.ADD_MARGIN, **changes):
    ladder = Ladder(rungs=(Rung(threshold=60.0, steps=(Step(kind=kind),)),))
    return Rules(guard_id="guard-1", ladder=ladder, **changes)


def question(*, price=BREACH, record=None, balance=10_000_000, now=NOON, **changes):
    return Question(
        rules=changes.pop("rules", rules()),
        positions=(a_position(),),
        quote=a_quote(price),
        balance=balance,
        record=record,
        now=now,
        verify_within=timedelta(seconds=10),
    )


def remembering(memory, *unsettled, **changes):
    return GuardRecord(
        guard_id="guard-1", armed=ArmedState.ARMED, memory=memory, unsettled=unsettled, **changes
    )


def acted_upon(question):
    """Return the memory after the guard acted on its breach, at noon."""
    memory = question.answer().memory
    (episode,) = memory.episodes
    kind = ActionKind.ADD_MARGIN
    level = question.answer().items[0].level
    return memory.acted(episode.id, kind=kind, at=NOON, level=level)


def test_the_decision_is_the_policys_own():
    asked = question()
    view = View(positions=asked.positions, quote=asked.quote, balance=asked.balance)
    assert asked.answer() == decide(view, asked.rules, GuardMemory(), NOON)


def test_the_cooldown_is_told_with_what_is_left_of_it():
    memory = acted_upon(question())
    later = question(record=remembering(memory), now=NOON + timedelta(seconds=20))
    (why,) = whys_of(later, later.answer())
    assert why.verdict is Verdict.COOLDOWN
    assert why.cooldown_left_s == pytest.approx(40.0)


def test_without_a_record_the_cooldown_is_not_known():
    (why,) = whys_of(question(), question().answer())
    assert (why.verdict, why.cooldown_left_s) == (Verdict.ACT, None)


def test_the_budget_is_told_with_the_limit_that_decides_it():
    asked = question(rules=rules(budget=Budget(max_per_day=1_000)))
    (why,) = whys_of(asked, asked.answer())
    assert (why.verdict, why.may_spend) == (Verdict.UNPROTECTED, 1_000)
    assert "max_per_day" in why.spending_limit


def test_what_was_spent_before_counts():
    action = an_action()
    spend = Spend(action_id=action.id, position_id=a_position().id, amount=900, at=NOON)
    asked = question(
        rules=rules(budget=Budget(max_per_day=1_000)),
        record=remembering(GuardMemory(spends=(spend,))),
    )
    (why,) = whys_of(asked, asked.answer())
    assert why.may_spend == 100


def test_an_action_that_is_not_settled_holds_the_next_one_back():
    waiting = replace(
        an_action(kind=ActionKind.ADD_MARGIN, threshold=60.0, position_id=a_position().id),
        status=ActionStatus.SENT,
        sent_at=NOON,
    )
    asked = question(record=remembering(GuardMemory(), waiting), now=NOON + timedelta(seconds=1))
    (why,) = whys_of(asked, asked.answer())
    assert why.verdict is Verdict.SETTLING
    assert str(waiting.id) in why.reason


def test_above_the_last_threshold_no_trigger_is_ahead():
    (why,) = whys_of(question(), question().answer())
    assert (why.next_threshold, why.trigger_price, why.move_usd) == (None, None, None)


def test_a_breach_without_a_way_out_has_a_cause_and_a_cure():
    asked = question(balance=0)
    (cause,) = causes_of_decisions(asked.rules, asked.answer())
    assert cause.action == "unblock_action"
    assert 'fallback = ["close_position"]' in cause.solution


def test_a_breach_that_is_acted_on_has_none():
    asked = question(rules=rules(ActionKind.CLOSE_POSITION))
    assert list(causes_of_decisions(asked.rules, asked.answer())) == []


PAUSED = {
    "armed": ArmedState.DISARMED,
    "since": NOON,
    "pause": Pause(until=NOON + timedelta(hours=1), by="root"),
}


@pytest.mark.parametrize(
    ("changes", "actions"),
    [
        ({"looked_at": NOON}, []),
        ({"looked_at": NOON - timedelta(minutes=5)}, ["start_daemon"]),
        ({"looked_at": NOON, "armed": ArmedState.DISARMED, "since": NOON}, ["arm_guard"]),
        ({"looked_at": NOON, **PAUSED}, ["resume_guard"]),
        ({"looked_at": NOON + timedelta(hours=2), **PAUSED}, ["arm_guard"]),
        ({"armed": None}, ["reload_daemon"]),
    ],
)
def test_the_record_says_why_the_daemon_does_not_let_it_act(changes, actions):
    record = replace(remembering(GuardMemory()), **changes)
    now = record.looked_at if record.pause else NOON
    causes = causes_in(record, now=now, patience=timedelta(minutes=1))
    assert [cause.action for cause in causes] == actions
