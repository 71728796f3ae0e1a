"""What a guard's rungs come to, and which contradictions in them refuse the guard."""

from pathlib import Path

import pytest

from marginguard.app.settings import engine_settings, guards_to_run
from marginguard.config import Config, load_config, rules_of
from marginguard.domain.model import ActionKind
from marginguard.domain.rules import Ladder, ProtectionMode, Rules, Rung, Step

CLOSE = ActionKind.CLOSE_POSITION
REDUCE = ActionKind.REDUCE_POSITION
ADD = ActionKind.ADD_MARGIN
INCREASE = ActionKind.INCREASE_LIQUIDATION_DISTANCE

ACCOUNT = """
[[accounts]]
id = "main"
network = "signet"
key = "env:LNM"
secret = "env:LNM"
passphrase = "env:LNM"
"""
GUARD = """
[[guards]]
id = "long"
account = "main"
margin_threshold = 80
"""
ADDS = "action = 'add_margin'\n"
CLOSES = "action = 'close_position'\n"
ESCALATION = "[[guards.escalation]]\n"
INDIVIDUAL = "[guards.individual_configs.x]\n"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "config.toml"


def load(path: Path, guard: str, before: str = "") -> Config:
    path.write_text(before + ACCOUNT + GUARD + guard)
    return load_config(path, {"LNM": "some-secret"})


def rules(path: Path, guard: str, before: str = "") -> Rules:
    config = load(path, guard, before)
    assert config.refused_guards == ()
    return rules_of(config.guards[0], config.actions)


def refusal(path: Path, guard: str) -> list[str]:
    """Return the faults of the guard, which must be refused, without where it stands."""
    config = load(path, guard)
    assert config.guards == ()
    start = f'{path}: guards[1] "long".'
    problems = config.refused_guards[0].problems
    assert all(problem.startswith(start) and problem.isprintable() for problem in problems)
    return [problem.removeprefix(start) for problem in problems]


def rung(threshold: float, *steps: Step) -> Rung:
    return Rung(threshold=threshold, steps=steps)


def kinds(ladder: Ladder) -> list[list[ActionKind]]:
    return [[step.kind for step in rung.steps] for rung in ladder.rungs]


# What the tables come to


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


# What is refused


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
