"""What a guard beyond its plan could be instead."""

import tomllib
from pathlib import Path
from typing import Any

import pytest
import tomlkit

from marginguard.config import Config, load_config
from marginguard.config.plan_fix import Correction, corrected

HEAD = """
[[users]]
id = "ana"
plan = "{plan}"
[[accounts]]
id = "main"
network = "signet"
key = "env:MAIN"
secret = "env:MAIN"
passphrase = "env:MAIN"
[plans.careful]
actions = ["close_position", "add_margin"]
lowest_threshold = 12.5
modes = ["both", "unitario"]
"""
GUARD = """
[[guards]]
id = "long"
account = "main"
"""
CLOSES = f"{GUARD}margin_threshold = 80\naction = 'close_position'\n"
ADDS = f"{GUARD}margin_threshold = 80\naction = 'add_margin'\n"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "config.toml"


def load(path: Path, guard: str, plan: str) -> Config:
    path.write_text(HEAD.format(plan=plan) + guard)
    return load_config(path, {"MAIN": "some-secret"})


def fixed(path: Path, guard: str, plan: str = "free") -> Correction:
    config = load(path, guard, plan)
    before = path.read_text()
    correction = corrected(config.refused_guards[0], config.terms())
    assert correction is not None
    assert corrected(config.refused_guards[0], config.terms()) == correction
    assert path.read_text() == before
    return correction


def differences(guard: str, correction: Correction) -> dict[str, Any]:
    """Return the keys that were changed (with their new value) or removed (with None)."""
    old = tomllib.loads(guard)["guards"][0]
    new = correction.table
    return {key: new.get(key) for key in {*old, *new} if old.get(key) != new.get(key)}


def test_positions_beyond_the_number_are_cut_and_named(path: Path) -> None:
    guard = f"""{CLOSES}
selected_positions = ["c", "a", "c", "d", "b"]
[guards.individual_configs.a]
margin_threshold = 70
[guards.individual_configs.d]
margin_threshold = 60
"""
    correction = fixed(path, guard)
    assert differences(guard, correction) == {
        "selected_positions": ["c", "a"],
        "individual_configs": {"a": {"margin_threshold": 70}},
    }
    assert correction.changes == (
        "selected_positions: the first 2 are kept; NO LONGER GUARDED: d, b",
        "individual_configs.d: removed with its position",
    )
    assert (correction.left, correction.within_plan) == ((), True)


def test_a_mode_becomes_the_first_of_the_plan(path: Path) -> None:
    guard = f"{CLOSES}protection_mode = 'total'"
    assert differences(guard, fixed(path, guard)) == {"protection_mode": "unitario"}
    correction = fixed(path, guard, "careful")
    assert differences(guard, correction) == {"protection_mode": "both"}
    assert correction.changes == ('protection_mode: "total" becomes "both"',)


def test_every_threshold_that_is_too_low_is_raised(path: Path) -> None:
    guard = f"""{CLOSES.replace("80", "10")}
[[guards.escalation]]
margin_threshold = 30
[guards.individual_configs.x]
margin_threshold = 9.5
[[guards.individual_configs.x.escalation]]
margin_threshold = 21
[guards.individual_configs.y]
margin_threshold = 25
"""
    correction = fixed(path, guard)
    assert correction.changes == (
        "margin_threshold: 10 becomes 20, so that the guard acts later",
        "individual_configs.x.margin_threshold: 9.5 becomes 20, so that the guard acts later",
    )
    assert correction.table["margin_threshold"] == 20
    assert isinstance(correction.table["margin_threshold"], int)
    assert correction.table["individual_configs"]["x"]["margin_threshold"] == 20
    assert (correction.left, correction.within_plan) == ((), True)
    assert fixed(path, guard, "careful").table["margin_threshold"] == 12.5


def test_rungs_that_no_longer_rise_are_left_to_the_owner(path: Path) -> None:
    guard = f"{CLOSES.replace('80', '10')}[[guards.escalation]]\nmargin_threshold = 15\n"
    correction = fixed(path, guard)
    assert correction.within_plan
    (left,) = correction.left
    assert left.startswith("escalation[1].margin_threshold: must be above margin_threshold (20)")


def test_fallbacks_that_the_plan_lacks_are_left_out_with_their_sizes(path: Path) -> None:
    guard = f"""{CLOSES}
fallback = ["add_margin", "increase_liquidation_distance"]
add_margin_amount = 500
new_liquidation_distance = 20
"""
    correction = fixed(path, guard)
    assert differences(guard, correction) == {
        "fallback": [],
        "add_margin_amount": None,
        "new_liquidation_distance": None,
    }
    assert correction.changes == (
        'fallback: ["add_margin", "increase_liquidation_distance"] becomes []',
        "add_margin_amount: removed, since no action uses it any more",
        "new_liquidation_distance: removed, since no action uses it any more",
    )
    assert correction.within_plan


def test_adding_margin_stands_in_for_putting_liquidation_away(path: Path) -> None:
    guard = f"""{GUARD}
margin_threshold = 80
action = "increase_liquidation_distance"
fallback = ["add_margin", "close_position"]
new_liquidation_distance = 20
"""
    correction = fixed(path, guard, "advanced")
    assert differences(guard, correction) == {
        "action": "add_margin",
        "fallback": ["close_position"],
        "new_liquidation_distance": None,
    }
    assert correction.changes[0] == "action: increase_liquidation_distance becomes add_margin"
    assert correction.within_plan


@pytest.mark.parametrize(
    ("action", "plan", "choice"),
    [
        ("add_margin", "free", "; or write close_position there yourself"),
        ("add_margin", "basic", "; or write reduce_position or close_position there yourself"),
        ("reduce_position", "free", "; or write close_position there yourself"),
        # Nor does what spends sats stand in for what does not.
        ("reduce_position", "careful", "; or write close_position there yourself"),
    ],
)
def test_a_harsher_action_is_proposed_in_words_and_never_put_in(
    path: Path, action: str, plan: str, choice: str
) -> None:
    guard = ADDS.replace("add_margin", action)
    correction = fixed(path, guard, plan)
    assert (differences(guard, correction), correction.within_plan) == ({}, False)
    (left,) = correction.left
    assert left.startswith(f'action: plan "{plan}" has ')
    assert choice in left


def test_the_owners_own_fallback_does_not_move_up(path: Path) -> None:
    guard = f"{ADDS}fallback = ['close_position']"
    correction = fixed(path, guard)
    assert correction.table["action"] == "add_margin"
    assert not correction.within_plan


def test_actions_of_further_rungs_and_single_positions_are_brought_within_too(path: Path) -> None:
    guard = f"""{CLOSES}
[[guards.escalation]]
margin_threshold = 90
action = "increase_liquidation_distance"
new_liquidation_distance = 20
[guards.individual_configs.x]
action = "increase_liquidation_distance"
new_liquidation_distance = 20
escalation = []
"""
    table = fixed(path, guard, "careful").table
    assert table["escalation"] == [{"margin_threshold": 90, "action": "add_margin"}]
    assert table["individual_configs"]["x"] == {"action": "add_margin", "escalation": []}


def test_other_faults_are_left_to_the_owner(path: Path) -> None:
    correction = fixed(path, f"{CLOSES}protection_mode = 'both'\nhysteresis = 90")
    assert correction.within_plan
    (left,) = correction.left
    assert left.startswith("hysteresis: must be below margin_threshold (80)")


def test_only_what_the_plan_refuses_is_fixed(path: Path) -> None:
    for guard in (f"{CLOSES}hysteresis = 90", f"{CLOSES}protection_mode = 'some'"):
        config = load(path, guard, "free")
        assert corrected(config.refused_guards[0], config.terms()) is None


@pytest.mark.parametrize("plan", ["free", "basic", "advanced", "careful"])
def test_what_is_within_the_plan_and_leaves_nothing_can_be_run(path: Path, plan: str) -> None:
    guard = f"""{CLOSES.replace("80", "3")}
hysteresis = 1
protection_mode = "both"
selected_positions = {[f"p{number}" for number in range(20)]}
fallback = ["increase_liquidation_distance"]
new_liquidation_distance = 20
[guards.individual_configs.p3]
margin_threshold = 70
"""
    config = load(path, guard, plan)
    (refused,) = config.refused_guards
    correction = corrected(refused, config.terms())
    assert correction is not None
    if plan in {"advanced", "careful"}:
        # Margin added down to the level of 50 would not end a breach that begins below it.
        assert ["target_margin_level" in left for left in correction.left] == [True]
        correction.table["add_margin_amount"] = 500
    else:
        assert correction.left == ()
    assert load(path, tomlkit.dumps({"guards": [correction.table]}), plan).refused_guards == ()
