"""Which actions and sizes of a guard contradict each other and refuse it."""

from pathlib import Path

import pytest

from tests.unit.guard_tables import ADDS, CLOSES, ESCALATION, INDIVIDUAL, load, refusal


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "config.toml"


@pytest.mark.parametrize(
    ("guard", "line"),
    [
        (f"{ADDS}fallback = ['add_margin']", 'fallback = ["add_margin"]: repeats add_margin: '),
        (
            f"{ADDS}fallback = ['close_position', 'close_position']",
            'fallback = ["close_position", "close_position"]: repeats close_position: ',
        ),
        (
            f"{CLOSES}fallback = ['reduce_position']",
            'fallback = ["reduce_position"]: has reduce_position after close_position: ',
        ),
        (
            f"{ADDS}fallback = ['close_position', 'reduce_position']",
            'fallback = ["close_position", "reduce_position"]: has reduce_position after close',
        ),
        (
            f"{CLOSES}{ESCALATION}margin_threshold = 90\nfallback = ['close_position']",
            'escalation[1].fallback = ["close_position"]: repeats close_position: ',
        ),
        (
            f"{CLOSES}{INDIVIDUAL}action = 'add_margin'\nfallback = ['add_margin']",
            'individual_configs.x.fallback = ["add_margin"]: repeats add_margin: ',
        ),
    ],
)
def test_a_fallback_that_cannot_help_is_refused(path: Path, guard: str, line: str) -> None:
    (found,) = refusal(path, guard)
    assert found.startswith(line)


@pytest.mark.parametrize(
    ("guard", "key"),
    [
        ("action = 'increase_liquidation_distance'", ""),
        (f"{ADDS}fallback = ['increase_liquidation_distance']", ""),
        (
            f"{CLOSES}{ESCALATION}margin_threshold = 90\naction = 'increase_liquidation_distance'",
            "escalation[1].",
        ),
        (
            f"{ADDS}{INDIVIDUAL}fallback = ['increase_liquidation_distance']",
            "individual_configs.x.",
        ),
        # Told once, where the action is named, though every rung lacks it.
        (
            (
                "action = 'increase_liquidation_distance'\n"
                f"{ESCALATION}margin_threshold = 90\n{INDIVIDUAL}margin_threshold = 70"
            ),
            "",
        ),
    ],
)
def test_a_distance_is_needed_where_liquidation_is_to_be_put_away(
    path: Path, guard: str, key: str
) -> None:
    (found,) = refusal(path, guard)
    assert found == (
        f"{key}new_liquidation_distance: is missing: increase_liquidation_distance needs it, a"
        " number above 0 and below 100 (percent of the price)"
    )


@pytest.mark.parametrize(
    ("guard", "line"),
    [
        (f"{CLOSES}add_margin_amount = 5", "add_margin_amount = 5: has no effect, since no action"),
        (f"{CLOSES}target_margin_level = 50", "target_margin_level = 50: has no effect"),
        (f"{ADDS}reduce_percentage = 50", "reduce_percentage = 50: has no effect"),
        (f"{ADDS}new_liquidation_distance = 5", "new_liquidation_distance = 5: has no effect"),
        (
            (
                f"{ADDS}{ESCALATION}margin_threshold = 90\naction = 'close_position'\n"
                "target_margin_level = 40"
            ),
            (
                "escalation[1].target_margin_level = 40: has no effect, since no action here is"
                " add_margin: remove it, or name add_margin as action or fallback"
            ),
        ),
        (
            f"{ADDS}{INDIVIDUAL}reduce_percentage = 40",
            "individual_configs.x.reduce_percentage = 40: has no effect",
        ),
    ],
)
def test_a_size_that_no_action_uses_is_refused(path: Path, guard: str, line: str) -> None:
    (found,) = refusal(path, guard)
    assert found.startswith(line)


@pytest.mark.parametrize(
    "guard",
    [
        f"{CLOSES}add_margin_amount = 5\nfallback = ['add_margin']",
        f"{CLOSES}add_margin_amount = 5\n{ESCALATION}margin_threshold = 90\naction = 'add_margin'",
        f"{CLOSES}add_margin_amount = 5\n{INDIVIDUAL}action = 'add_margin'",
        # The individual config's size serves the guard's rung.
        (
            f"{CLOSES}{ESCALATION}margin_threshold = 90\naction = 'add_margin'\n"
            f"{INDIVIDUAL}add_margin_amount = 5"
        ),
    ],
)
def test_a_size_that_any_action_uses_is_allowed(path: Path, guard: str) -> None:
    assert load(path, guard).refused_guards == ()


@pytest.mark.parametrize(
    ("guard", "line"),
    [
        (
            (
                f"{ADDS}target_margin_level = 60\n{ESCALATION}margin_threshold = 90\n"
                "target_margin_level = 90"
            ),
            (
                "escalation[1].target_margin_level = 90: must be below"
                " escalation[1].margin_threshold (90), or"
            ),
        ),
        (
            f"{ADDS}{INDIVIDUAL}margin_threshold = 40",
            (
                "target_margin_level = 50 (the default): must be below"
                " individual_configs.x.margin_threshold (40), or"
            ),
        ),
        (
            f"{CLOSES}{INDIVIDUAL}action = 'add_margin'\ntarget_margin_level = 80",
            "individual_configs.x.target_margin_level = 80: must be below margin_threshold (80)",
        ),
        (
            f"{ADDS}{INDIVIDUAL}add_margin_amount = 5\ntarget_margin_level = 40",
            "individual_configs.x.add_margin_amount = 5: give either this or target_margin_level",
        ),
    ],
)
def test_a_target_that_would_not_end_the_breach_is_refused(
    path: Path, guard: str, line: str
) -> None:
    (found,) = refusal(path, guard)
    assert found.startswith(line)


def test_a_rung_may_aim_below_its_own_threshold_alone(path: Path) -> None:
    guard = f"{ADDS}{ESCALATION}margin_threshold = 90\ntarget_margin_level = 85"
    assert load(path, guard).refused_guards == ()


@pytest.mark.parametrize("limit", ["max_per_action", "max_per_position", "max_per_day"])
@pytest.mark.parametrize(
    ("guard", "key"),
    [
        (f"{ADDS}add_margin_amount = 100\n", ""),
        (f"{CLOSES}fallback = ['add_margin']\nadd_margin_amount = 100\n", ""),
        (f"{ADDS}{ESCALATION}margin_threshold = 90\nadd_margin_amount = 100\n", "escalation[1]."),
        (f"{ADDS}{INDIVIDUAL}add_margin_amount = 100\n", "individual_configs.x."),
    ],
)
def test_a_budget_smaller_than_one_action_is_refused(
    path: Path, guard: str, key: str, limit: str
) -> None:
    (found,) = refusal(path, f"{guard}[guards.budget]\n{limit} = 99")
    assert found == (
        f"budget.{limit} = 99: must be at least {key}add_margin_amount (100), or it is never added"
    )
    assert load(path, f"{guard}[guards.budget]\n{limit} = 100").refused_guards == ()


def test_a_budget_must_hold_the_largest_of_several_amounts(path: Path) -> None:
    guard = f"{ADDS}add_margin_amount = 50\n[guards.budget]\nmax_per_day = 99\n"
    (found,) = refusal(path, f"{guard}{INDIVIDUAL}add_margin_amount = 100")
    assert "at least individual_configs.x.add_margin_amount (100)" in found
