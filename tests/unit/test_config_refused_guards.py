"""A fault in a guard refuses that guard alone."""

from pathlib import Path

import pytest

from tests.unit.config_files import ACCOUNT, GUARD, load, refusal


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "config.toml"


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ("margin_threshold = 0", "margin_threshold = 0: must be a number above 0 and below 100"),
        ("margin_threshold = 100", "margin_threshold = 100: must be a number above 0 and below"),
        ("margin_threshold = nan", "margin_threshold = nan: must be a number"),
        ("margin_threshold = inf", "margin_threshold = inf: must be a number"),
        ("margin_threshold = true", "margin_threshold = true: must be a number"),
        ("margin_threshold = 'x'", 'margin_threshold = "x": must be a number'),
        ("", "margin_threshold: is missing: it must be a number above 0"),
    ],
)
def test_a_threshold_lies_between_0_and_100(path: Path, change: str, line: str) -> None:
    (found,) = refusal(path, GUARD.replace("margin_threshold = 80", change))
    assert found.startswith(f'{path}: guards[1] "long".{line}')


@pytest.mark.parametrize(
    ("added", "line"),
    [
        ("margn = 1", "margn: unknown key; known here are id, account,"),
        ("cooldwn = '1s'", "cooldwn: unknown key; did you mean cooldown?"),
        ("enabled = 'perhaps'", 'enabled = "perhaps": must be true or false'),
        ("selected_positions = []", 'selected_positions = []: must be "all" or a list'),
        ("selected_positions = ['all']", 'selected_positions = ["all"]: must be "all" or'),
        ("selected_positions = ['']", 'selected_positions = [""]: must be "all" or a list'),
        ("selected_positions = [5]", 'selected_positions = [5]: must be "all" or a list'),
        ("selected_positions = 'some'", 'selected_positions = "some": must be "all" or'),
        ("add_margin_amount = 0", "add_margin_amount = 0: must be a whole number of sats"),
        ("add_margin_amount = 1.5", "add_margin_amount = 1.5: must be a whole number"),
        ("add_margin_amount = true", "add_margin_amount = true: must be a whole number"),
        ("target_margin_level = 80", "target_margin_level = 80: must be below margin_threshold"),
        ("add_margin_amount = 5\ntarget_margin_level = 40", "add_margin_amount = 5: give either"),
        ("hysteresis = 80", "hysteresis = 80: must be below margin_threshold (80)"),
        ("hysteresis = -1", "hysteresis = -1: must be a number from 0"),
        ("cooldown = '1s'", 'cooldown = "1s": must be at least actions.settle_delay (2s)'),
        ("budget = 5", "budget: must be a table"),
        ("budget = {x = 1}", "budget.x: unknown key; known here are max_per_action"),
        (
            "add_margin_amount = 100\nbudget = {max_per_action = 99}",
            "budget.max_per_action = 99: must be at least add_margin_amount (100)",
        ),
        (
            "add_margin_amount = 100\nbudget = {max_per_day = 99}",
            "budget.max_per_day = 99: must be at least add_margin_amount (100)",
        ),
        (
            "budget = {max_spending_actions_per_hour = 0}",
            "budget.max_spending_actions_per_hour = 0: must be a whole number from 1",
        ),
    ],
)
def test_a_fault_in_a_guard_refuses_it_in_one_line(path: Path, added: str, line: str) -> None:
    (found,) = refusal(path, f"{GUARD}{added}\n")
    assert found.startswith(f'{path}: guards[1] "long".{line}')


def test_an_unknown_action_names_the_known_ones(path: Path) -> None:
    (line,) = refusal(path, GUARD.replace("add_margin", "explode"))
    assert line == (
        f'{path}: guards[1] "long".action = "explode": must be close_position,'
        " reduce_position, add_margin or increase_liquidation_distance"
    )


def test_a_guard_of_an_account_that_does_not_exist_names_those_that_do(path: Path) -> None:
    config = load(path, ACCOUNT + GUARD.replace('"main"', '"man"'))
    (refused,) = config.refused_guards
    assert refused.account == "man"
    assert refused.problems == (
        f'{path}: guards[1] "long".account = "man": must be the id of one of the accounts (main)',
    )


def test_the_default_target_matters_only_to_a_guard_that_uses_it(path: Path) -> None:
    low = GUARD.replace("80", "40")
    (line,) = refusal(path, low)
    assert "target_margin_level = 50 (the default): must be below margin_threshold (40)" in line
    assert load(path, ACCOUNT + low + "add_margin_amount = 5").guards
    assert load(path, ACCOUNT + low.replace("add_margin", "close_position")).guards


def test_a_fault_in_one_guard_leaves_the_others_guarding(path: Path) -> None:
    """Failure 40: a guard that cannot run is refused alone."""
    bad = GUARD.replace("long", "bad").replace("80", "180")
    config = load(path, ACCOUNT + bad + "guards_is_not_a_table = 1\n" + GUARD)
    assert [guard.id for guard in config.guards] == ["long"]
    (refused,) = config.refused_guards
    assert (refused.id, refused.account, len(refused.problems)) == ("bad", "main", 2)


def test_a_guard_that_is_no_table_is_refused_alone(path: Path) -> None:
    config = load(path, "guards = [5]")
    (refused,) = config.refused_guards
    assert (refused.id, refused.account) == ("guards[1]", None)
    assert refused.problems == (f"{path}: guards[1]: must be a table",)


def test_of_two_guards_with_one_id_the_first_guards(path: Path) -> None:
    """The second is known by its place, so that nobody takes it for the first."""
    config = load(path, ACCOUNT + GUARD + GUARD.replace("80", "70"))
    assert [guard.margin_threshold for guard in config.guards] == [80]
    (refused,) = config.refused_guards
    assert refused.id == "guards[2]"
    assert refused.problems[0].startswith(f'{path}: guards[2] "long".id = "long": is used by')


def test_a_refused_guard_does_not_take_the_id_from_a_good_one(path: Path) -> None:
    config = load(path, ACCOUNT + GUARD.replace("80", "180") + GUARD)
    assert [guard.id for guard in config.guards] == ["long"]
    assert [guard.id for guard in config.refused_guards] == ["guards[1]"]
