"""What a guard's rungs come to."""

from pathlib import Path

import pytest

from marginguard.app.settings import engine_settings, guards_to_run
from marginguard.config import rules_of
from marginguard.domain.model import ActionKind
from marginguard.domain.rules import Ladder, ProtectionMode, Rung, Step
from tests.unit.guard_tables import ADDS, CLOSES, ESCALATION, load, rules

CLOSE = ActionKind.CLOSE_POSITION
REDUCE = ActionKind.REDUCE_POSITION
ADD = ActionKind.ADD_MARGIN
INCREASE = ActionKind.INCREASE_LIQUIDATION_DISTANCE


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "config.toml"


def rung(threshold: float, *steps: Step) -> Rung:
    return Rung(threshold=threshold, steps=steps)


def kinds(ladder: Ladder) -> list[list[ActionKind]]:
    return [[step.kind for step in rung.steps] for rung in ladder.rungs]


def test_an_action_and_its_fallbacks_are_the_steps_of_a_rung_each_with_its_size(path: Path) -> None:
    guard = """
action = "increase_liquidation_distance"
fallback = ["add_margin", "reduce_position", "close_position"]
new_liquidation_distance = 20
target_margin_level = 40
reduce_percentage = 30
"""
    steps = (
        Step(kind=INCREASE, new_liquidation_distance=20),
        Step(kind=ADD, target_margin_level=40),
        Step(kind=REDUCE, reduce_percentage=30),
        Step(kind=CLOSE),
    )
    assert rules(path, guard).ladder == Ladder(rungs=(rung(80, *steps),))


def test_a_rung_takes_from_the_guard_what_it_does_not_say(path: Path) -> None:
    guard = f"""{ADDS}
fallback = ["reduce_position"]
target_margin_level = 40
backstop_threshold = 97
{ESCALATION}
margin_threshold = 85
reduce_percentage = 25
{ESCALATION}
margin_threshold = 90
fallback = []
target_margin_level = 60
"""
    assert rules(path, guard).ladder == Ladder(
        rungs=(
            rung(80, Step(kind=ADD, target_margin_level=40), Step(kind=REDUCE)),
            rung(
                85,
                Step(kind=ADD, target_margin_level=40),
                Step(kind=REDUCE, reduce_percentage=25),
            ),
            rung(90, Step(kind=ADD, target_margin_level=60)),
        ),
        backstop=97,
    )


def test_a_fallback_that_was_written_for_another_action_keeps_what_makes_sense(path: Path) -> None:
    guard = f"""{ADDS}
fallback = ["reduce_position", "close_position"]
{ESCALATION}
margin_threshold = 85
action = "reduce_position"
{ESCALATION}
margin_threshold = 90
action = "close_position"
"""
    assert kinds(rules(path, guard).ladder) == [[ADD, REDUCE, CLOSE], [REDUCE, CLOSE], [CLOSE]]


def test_closing_may_fall_back_to_adding_margin(path: Path) -> None:
    """A closing that is refused leaves the position to be liquidated: margin buys time."""
    found = rules(path, f"{CLOSES}fallback = ['add_margin']")
    assert kinds(found.ladder) == [[CLOSE, ADD]]


@pytest.mark.parametrize(
    ("outer", "inner", "amount", "target"),
    [
        ("add_margin_amount = 5", "", 5, 50),
        ("add_margin_amount = 5", "add_margin_amount = 7", 7, 50),
        ("add_margin_amount = 5", "target_margin_level = 40", None, 40),
        ("target_margin_level = 40", "add_margin_amount = 5", 5, 40),
    ],
)
def test_an_amount_and_a_target_replace_one_another_from_the_inside(
    path: Path, outer: str, inner: str, amount: int | None, target: float
) -> None:
    found = rules(path, f"{ADDS}{outer}\n{ESCALATION}margin_threshold = 90\n{inner}\n")
    (step,) = found.ladder.rungs[1].steps
    assert step.add_margin_amount == amount
    if amount is None:
        assert step.target_margin_level == target


def test_a_position_of_its_own_config_has_the_guards_ladder_with_its_differences(
    path: Path,
) -> None:
    guard = f"""{ADDS}
backstop_threshold = 97
{ESCALATION}
margin_threshold = 90
action = "close_position"
[guards.individual_configs.same]
[guards.individual_configs.lower]
margin_threshold = 70
target_margin_level = 30
backstop_threshold = 95
[guards.individual_configs.flat]
escalation = []
[guards.individual_configs.own]
action = "reduce_position"
reduce_percentage = 20
[[guards.individual_configs.own.escalation]]
margin_threshold = 85
[[guards.individual_configs.own.escalation]]
margin_threshold = 88
reduce_percentage = 60
"""
    found = rules(path, guard)
    assert found.individual["same"] == found.ladder
    assert found.individual["lower"] == Ladder(
        rungs=(rung(70, Step(kind=ADD, target_margin_level=30)), rung(90, Step(kind=CLOSE))),
        backstop=95,
    )
    assert found.individual["flat"] == Ladder(rungs=found.ladder.rungs[:1], backstop=97)
    assert found.individual["own"].rungs == (
        rung(80, Step(kind=REDUCE, reduce_percentage=20)),
        rung(85, Step(kind=REDUCE, reduce_percentage=20)),
        rung(88, Step(kind=REDUCE, reduce_percentage=60)),
    )
    assert set(found.individual) == {"same", "lower", "flat", "own"}


def test_the_cross_position_has_no_backstop_in_a_ladder_of_its_own(path: Path) -> None:
    guard = f"{CLOSES}backstop_threshold = 97\n[guards.individual_configs.cross]\n"
    found = rules(path, f"{guard}margin_threshold = 98")
    assert (found.ladder.backstop, found.individual["cross"].backstop) == (97, None)


def test_the_mode_and_the_bounds_of_a_reduction_reach_the_rules(path: Path) -> None:
    before = "[actions]\nreopen_slippage = 0.25\nmin_improvement = 15\n"
    found = rules(path, f"{CLOSES}protection_mode = 'both'", before)
    assert found.mode is ProtectionMode.BOTH
    assert (found.reopen_slippage, found.min_improvement) == (0.25, 15)


def test_the_daemon_gets_the_rules_and_the_time_to_verify(path: Path) -> None:
    config = load(path, CLOSES, "[actions]\nverify_within = '12s'\nmin_improvement = 15\n")
    (guard,) = guards_to_run(config, dry_run=False)
    assert guard.rules == rules_of(config.guards[0], config.actions)
    assert guard.rules.min_improvement == 15
    assert engine_settings(config, spending_from_s=0).verify_within_s == 12
