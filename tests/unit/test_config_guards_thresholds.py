"""Which values and rungs of a guard, and which individual configs, refuse it."""

from pathlib import Path

import pytest

from tests.unit.guard_tables import (
    ADDS,
    CLOSES,
    ESCALATION,
    GUARD,
    INDIVIDUAL,
    load,
    refusal,
    rules,
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "config.toml"


@pytest.mark.parametrize(
    ("guard", "line"),
    [
        (f"{CLOSES}fallback = 'add_margin'", 'fallback = "add_margin": must be a list of actions'),
        (f"{CLOSES}fallback = ['pray']", 'fallback = ["pray"]: must be a list of actions'),
        ("action = 'set_stop_loss'", 'action = "set_stop_loss": must be close_position, reduce'),
        (f"{CLOSES}fallback = ['set_stop_loss']", 'fallback = ["set_stop_loss"]: must be a list'),
        (f"{CLOSES}protection_mode = 'all'", 'protection_mode = "all": must be "unitario" or "tot'),
        (
            "action = 'reduce_position'\nreduce_percentage = 0",
            "reduce_percentage = 0: must be a nu",
        ),
        ("action = 'reduce_position'\nreduce_percentage = 100", "reduce_percentage = 100: must be"),
        ("action = 'reduce_position'\nreduce_percentage = nan", "reduce_percentage = nan: must be"),
        (f"{ADDS}target_margin_level = 0", "target_margin_level = 0: must be a number above 0"),
        (
            "action = 'increase_liquidation_distance'\nnew_liquidation_distance = 100",
            "new_liquidation_distance = 100: must be a number above 0 and below 100",
        ),
        (f"{CLOSES}backstop_threshold = 100", "backstop_threshold = 100: must be a number above"),
        (f"{CLOSES}escalation = 5", "escalation: must be tables, written [[guards.escalation]]"),
        (f"{CLOSES}{ESCALATION}action = 'add_margin'", "escalation[1].margin_threshold: is miss"),
        (
            f"{CLOSES}{ESCALATION}margin_threshold = 101",
            "escalation[1].margin_threshold = 101: must be a number above 0 and below 100",
        ),
        (
            f"{CLOSES}{ESCALATION}margin_threshold = 90\nreduce_percent = 5",
            "escalation[1].reduce_percent: unknown key; did you mean reduce_percentage?",
        ),
        (f"{CLOSES}individual_configs = 5", "individual_configs: must be tables, written"),
        (f"{CLOSES}individual_configs = {{ x = 5 }}", "individual_configs.x: must be a table"),
        (
            f"{CLOSES}[guards.individual_configs.action]\nmargin_threshold = 0",
            "individual_configs.action.margin_threshold = 0: must be a number above 0",
        ),
        (
            f"{CLOSES}[guards.individual_configs.'a b']\ncooldown = '5s'",
            'individual_configs."a b".cooldown: unknown key; known here are margin_threshold,',
        ),
        (
            f"{CLOSES}[[guards.individual_configs.x.escalation]]\nmargin_threshold = -1",
            "individual_configs.x.escalation[1].margin_threshold = -1: must be a number",
        ),
    ],
)
def test_a_value_that_is_not_allowed_is_refused_in_one_line(
    path: Path, guard: str, line: str
) -> None:
    (found,) = refusal(path, guard)
    assert found.startswith(line)


@pytest.mark.parametrize(
    ("guard", "line"),
    [
        (
            f"{CLOSES}{ESCALATION}margin_threshold = 80",
            "escalation[1].margin_threshold = 80: must be above margin_threshold (80)",
        ),
        (
            f"{CLOSES}{ESCALATION}margin_threshold = 90\n{ESCALATION}margin_threshold = 85",
            (
                "escalation[2].margin_threshold = 85: must be above escalation[1].margin_threshold"
                " (90)"
            ),
        ),
        (
            f"{CLOSES}[[guards.individual_configs.x.escalation]]\nmargin_threshold = 75",
            (
                "individual_configs.x.escalation[1].margin_threshold = 75: must be above"
                " margin_threshold (80)"
            ),
        ),
        (
            f"{CLOSES}{ESCALATION}margin_threshold = 90\n{INDIVIDUAL}margin_threshold = 92",
            (
                "individual_configs.x.margin_threshold = 92: must be below"
                " escalation[1].margin_threshold (90), which holds for this position too"
            ),
        ),
    ],
)
def test_rungs_that_do_not_rise_are_refused(path: Path, guard: str, line: str) -> None:
    (found,) = refusal(path, guard)
    assert found.startswith(line)


@pytest.mark.parametrize(
    ("guard", "line"),
    [
        (f"{CLOSES}backstop_threshold = 80", "backstop_threshold = 80: must be above the highest"),
        (
            f"{CLOSES}backstop_threshold = 90\n{ESCALATION}margin_threshold = 95",
            (
                "backstop_threshold = 90: must be above the highest rung,"
                " escalation[1].margin_threshold (95)"
            ),
        ),
        (
            f"{CLOSES}backstop_threshold = 90\n{INDIVIDUAL}margin_threshold = 95",
            (
                "backstop_threshold = 90: must be above the highest rung,"
                " individual_configs.x.margin_threshold (95)"
            ),
        ),
        (
            f"{CLOSES}{ESCALATION}margin_threshold = 95\n{INDIVIDUAL}backstop_threshold = 95",
            (
                "individual_configs.x.backstop_threshold = 95: must be above the highest rung,"
                " escalation[1].margin_threshold (95)"
            ),
        ),
        (
            f"{CLOSES}backstop_threshold = 97\nselected_positions = ['cross']",
            "backstop_threshold = 97: has no effect: the exchange keeps no stop-loss for the cross",
        ),
        (
            f"{CLOSES}[guards.individual_configs.cross]\nbackstop_threshold = 97",
            "individual_configs.cross.backstop_threshold = 97: has no effect: the exchange keeps",
        ),
    ],
)
def test_a_backstop_that_is_not_the_last_line_is_refused(path: Path, guard: str, line: str) -> None:
    (found,) = refusal(path, guard)
    assert found.startswith(line)


@pytest.mark.parametrize(
    ("guard", "line"),
    [
        (
            f"{CLOSES}hysteresis = 40\n{INDIVIDUAL}margin_threshold = 40",
            "hysteresis = 40: must be below individual_configs.x.margin_threshold (40), or",
        ),
        (
            f"{CLOSES}{INDIVIDUAL}margin_threshold = 5",
            "hysteresis = 5 (the default): must be below individual_configs.x.margin_threshold (5)",
        ),
    ],
)
def test_a_breach_that_could_never_end_is_refused(path: Path, guard: str, line: str) -> None:
    (found,) = refusal(path, guard)
    assert found.startswith(line)


@pytest.mark.parametrize(
    ("guard", "line"),
    [
        (
            f"{CLOSES}protection_mode = 'total'\n{INDIVIDUAL}",
            'individual_configs: have no effect with protection_mode "total"',
        ),
        (
            f"{CLOSES}selected_positions = ['y']\n{INDIVIDUAL}",
            "individual_configs.x: has no effect: add this position to selected_positions",
        ),
        (
            f"{CLOSES}[guards.individual_configs.all]",
            "individual_configs.all: must be the id of one position",
        ),
        (
            f"{CLOSES}[guards.individual_configs.' ']",
            'individual_configs." ": must be the id of one position',
        ),
    ],
)
def test_an_individual_config_without_effect_is_refused(path: Path, guard: str, line: str) -> None:
    (found,) = refusal(path, guard)
    assert found.startswith(line)


def test_an_individual_config_is_allowed_where_it_has_an_effect(path: Path) -> None:
    for more in ("protection_mode = 'both'", "selected_positions = ['x']", ""):
        assert load(path, f"{CLOSES}{more}\n{INDIVIDUAL}margin_threshold = 70").guards


def test_an_id_that_matches_no_position_yet_is_not_refused(path: Path) -> None:
    """The daemon waits for it, and says so."""
    found = rules(path, f"{CLOSES}selected_positions = ['not-there-yet']")
    assert found.selected == {"not-there-yet"}


def test_every_contradiction_is_told_at_once_and_the_other_guards_go_on(path: Path) -> None:
    """Failure 40: a guard that cannot run is refused alone."""
    bad = f"{CLOSES}backstop_threshold = 70\nreduce_percentage = 5\nfallback = ['close_position']\n"
    good = GUARD.replace("long", "good") + CLOSES
    config = load(path, bad + good)
    assert [guard.id for guard in config.guards] == ["good"]
    (refused,) = config.refused_guards
    assert (refused.id, len(refused.problems)) == ("long", 3)
