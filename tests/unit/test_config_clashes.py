"""Two guards on one position: which may be, and which are refused."""

from pathlib import Path

import pytest

from marginguard.config import Config, load_config
from marginguard.config.clashes import share_positions

ACCOUNTS = """
[[accounts]]
id = "main"
network = "signet"
key = "env:MAIN"
secret = "env:MAIN"
passphrase = "env:MAIN"
[[accounts]]
id = "other"
network = "signet"
key = "env:OTHER"
secret = "env:OTHER"
passphrase = "env:OTHER"
"""


def a_guard(
    name: str, action: str = "close_position", more: str = "", account: str = "main"
) -> str:
    return (
        f"[[guards]]\nid = '{name}'\naccount = '{account}'\nmargin_threshold = 80\n"
        f"action = '{action}'\n{more}\n"
    )


def load(path: Path, *guards: str) -> Config:
    path.write_text(ACCOUNTS + "".join(guards))
    return load_config(path, {"MAIN": "key-1", "OTHER": "key-2"})


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "config.toml"


def refused(path: Path, *guards: str) -> list[str]:
    return [guard.id for guard in load(path, *guards).refused_guards]


def test_of_two_guards_that_clash_the_later_one_is_refused_with_what_to_do(path: Path) -> None:
    config = load(path, a_guard("adds", "add_margin"), a_guard("closes"))
    assert [guard.id for guard in config.guards] == ["adds"]
    (later,) = config.refused_guards
    assert (later.id, later.code) == ("closes", "INVALID_CONFIG_SCHEMA")
    assert later.problems == (
        (
            f'{path}: guards[2] "closes".selected_positions: clashes with guard "adds" above, which'
            " goes on: both would act on the same positions, and not only close them (add_margin);"
            " make them rungs of one guard ([[guards.escalation]]), select different positions, or"
            " let one only tell (auto_execution = false)"
        ),
    )


@pytest.mark.parametrize("action", ["add_margin", "reduce_position"])
def test_two_guards_that_do_the_same_would_do_it_twice(path: Path, action: str) -> None:
    assert refused(path, a_guard("one", action), a_guard("two", action)) == ["two"]


@pytest.mark.parametrize(
    "more",
    [
        "fallback = ['add_margin']",
        "[[guards.escalation]]\nmargin_threshold = 90\naction = 'add_margin'",
        "[guards.individual_configs.x]\naction = 'add_margin'",
    ],
)
def test_fallbacks_rungs_and_single_positions_clash_too(path: Path, more: str) -> None:
    assert refused(path, a_guard("one"), a_guard("two", more=more)) == ["two"]
    assert refused(path, a_guard("one", more=more), a_guard("two")) == ["two"]


@pytest.mark.parametrize("switch", ["auto_execution = false", "dry_run = true", "enabled = false"])
def test_a_guard_that_does_not_act_may_stand_beside_one_that_does(path: Path, switch: str) -> None:
    acting = a_guard("acting", "add_margin")
    assert refused(path, acting, a_guard("quiet", more=switch)) == []
    assert refused(path, a_guard("quiet", more=switch), acting) == []


def test_two_guards_may_both_close(path: Path) -> None:
    more = "[[guards.escalation]]\nmargin_threshold = 90"
    assert refused(path, a_guard("one"), a_guard("two", more=more)) == []


@pytest.mark.parametrize(
    ("first", "second", "clash"),
    [
        ("'all'", "['a']", True),
        ("['a']", "'all'", True),
        ("['a', 'b']", "['b', 'c']", True),
        ("['a']", "['b']", False),
    ],
)
def test_only_guards_over_the_same_positions_clash(
    path: Path, first: str, second: str, clash: bool
) -> None:
    one = a_guard("one", "add_margin", f"selected_positions = {first}")
    two = a_guard("two", "add_margin", f"selected_positions = {second}")
    assert refused(path, one, two) == (["two"] if clash else [])


def test_what_is_done_to_other_positions_does_not_clash(path: Path) -> None:
    """Both only close `x`; that one of them adds to the others is nothing to the other."""
    more = "[guards.individual_configs.x]\naction = 'close_position'\nfallback = []"
    one = a_guard("one", "add_margin", more)
    assert refused(path, one, a_guard("two", more="selected_positions = ['x']")) == []
    assert refused(path, one, a_guard("two", more="selected_positions = ['x', 'y']")) == ["two"]


def test_what_one_does_to_positions_that_the_other_leaves_does_not_clash(path: Path) -> None:
    more = "[guards.individual_configs.y]\naction = 'add_margin'"
    one = a_guard("one", more=more)
    assert refused(path, one, a_guard("two", more="selected_positions = ['x']")) == []
    assert refused(path, one, a_guard("two", more="selected_positions = ['y']")) == ["two"]


def test_guards_of_different_accounts_do_not_clash(path: Path) -> None:
    one, two = a_guard("one", "add_margin"), a_guard("two", "add_margin", account="other")
    config = load(path, one, two)
    assert config.refused_guards == ()
    assert not share_positions(*config.guards)


def test_a_guard_does_not_clash_with_one_that_is_refused(path: Path) -> None:
    bad = a_guard("bad", "add_margin", "hysteresis = 90")
    assert refused(path, bad, a_guard("good", "add_margin")) == ["bad"]


def test_a_guard_is_told_of_every_guard_it_clashes_with(path: Path) -> None:
    ids = ("a", "b")
    guards = [a_guard(one, "add_margin", f"selected_positions = ['{one}']") for one in ids]
    (found,) = load(path, *guards, a_guard("c")).refused_guards
    assert [f'guard "{one}"' in problem for one in ids for problem in found.problems] == [
        True,
        False,
        False,
        True,
    ]
