"""Who owns an account, on which plan, and where users are reached."""

from pathlib import Path

import pytest

from marginguard.app.settings import disarmed_guards, guards_to_run
from marginguard.config import Config, UserSettings, load_config
from marginguard.domain.errors import ConfigError
from marginguard.domain.model import ActionKind
from marginguard.domain.plans import BUILT_IN, FREE, LIFETIME
from marginguard.domain.rules import ProtectionMode

ANA = "[[users]]\nid = 'ana'\nplan = 'free'\n"
BEN = "[[users]]\nid = 'ben'\nplan = 'pro'\n"


def an_account(name: str, user: str = "") -> str:
    owner = f"user = '{user}'\n" if user else ""
    keys = "".join(f"{key} = 'env:{name}'\n" for key in ("key", "secret", "passphrase"))
    return f"[[accounts]]\nid = '{name}'\nnetwork = 'signet'\n{owner}{keys}"


def a_guard(account: str, more: str = "") -> str:
    return (
        f"[[guards]]\nid = 'of-{account}'\naccount = '{account}'\nmargin_threshold = 80\n"
        f"action = 'close_position'\n{more}\n"
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "config.toml"


def load(path: Path, text: str) -> Config:
    path.write_text(text)
    path.chmod(0o600)
    return load_config(path, {"main": "key-of-main", "other": "key-of-other"})


def problems(path: Path, text: str) -> list[str]:
    """Return what the file is refused for, without where it stands."""
    with pytest.raises(ConfigError) as caught:
        load(path, text)
    return [problem.removeprefix(f"{path}: ") for problem in caught.value.problems]


def test_without_users_everything_is_the_owners_on_lifetime(path: Path) -> None:
    config = load(path, an_account("main") + a_guard("main"))
    assert config.users == (UserSettings(id="owner", plan="lifetime"),)
    assert config.accounts[0].user == "owner"
    assert config.plan_of("main") is LIFETIME
    (guard,) = guards_to_run(config, dry_run=False)
    assert (guard.user_id, guard.plan, guard.priority) == ("owner", "lifetime", 5)
    assert guard.rules.max_positions is None
    assert load(path, an_account("main", "owner")).accounts[0].user == "owner"


def test_the_only_user_owns_every_account(path: Path) -> None:
    config = load(path, ANA + an_account("main") + an_account("other", "ana"))
    assert [account.user for account in config.accounts] == ["ana", "ana"]
    assert config.plan_of("other") is FREE


def test_a_guard_runs_on_the_plan_of_its_accounts_owner(path: Path) -> None:
    accounts = an_account("main", "ana") + an_account("other", "ben")
    config = load(path, ANA + BEN + accounts + a_guard("main") + a_guard("other"))
    first, second = guards_to_run(config, dry_run=False)
    assert (first.user_id, first.plan, first.priority) == ("ana", "free", 1)
    assert first.rules.max_positions == 2
    assert (second.user_id, second.plan, second.priority) == ("ben", "pro", 4)
    assert second.rules.max_positions is None


def test_with_several_users_an_account_says_whose_it_is(path: Path) -> None:
    assert problems(path, ANA + BEN + an_account("main")) == [
        (
            'accounts[1] "main".user: is missing: with several users it must be the id of one'
            " of them (ana, ben)"
        )
    ]


@pytest.mark.parametrize(("users", "known"), [("", "owner"), (ANA, "ana"), (ANA + BEN, "ana, ben")])
def test_an_account_of_nobody_names_who_there_is(path: Path, users: str, known: str) -> None:
    assert problems(path, users + an_account("main", "eve")) == [
        f'accounts[1] "main".user = "eve": must be the id of one of the users ({known})'
    ]


def test_a_plan_that_does_not_exist_is_refused_with_those_that_do(path: Path) -> None:
    text = ANA.replace("free", "gold") + "[plans.family]\npriority = 2\n"
    assert problems(path, text) == [
        'users[1] "ana".plan = "gold": must be one of free, basic, advanced, pro, lifetime, family'
    ]


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("id = 'a b'", 'id = "a b": must be a name of up to 64 letters'),
        ("plan = 5", "plan = 5: must be the name of a plan"),
        ("email = 'ana'", 'email = "ana": must be an address such as "name@example.com"'),
        ("email = 'ana@'", 'email = "ana@": must be an address'),
        ("email = 'Ana <a@b.c>'", 'email = "Ana <a@b.c>": must be an address'),
        ('email = "a@b.c\\n"', r'email = "a@b.c\n": must be an address'),
        ("telegram_chat_id = 0", "telegram_chat_id = 0: must be a chat's number"),
        ("telegram_chat_id = true", "telegram_chat_id = true: must be a chat's number"),
        ("telegram_chat_id = 'ana'", 'telegram_chat_id = "ana": must be a chat\'s number'),
        ("webhook_url = 'http://example.com'", "webhook_url: must be an https:// address"),
        ("phone = '600111222'", 'phone = "600111222": must be a number with + and country'),
        ("phone = '+34 600'", 'phone = "+34 600": must be a number'),
        ("timezone = 'Mars/Base'", 'timezone = "Mars/Base": must be the name of a time zone'),
        ("timezone = 'Europe'", 'timezone = "Europe": must be the name of a time zone'),
        ("timezone = '../etc/passwd'", 'timezone = "../etc/passwd": must be the name of a time'),
        ("timezone = ''", 'timezone = "": must be the name of a time zone'),
        ("mail = 'a@b.c'", "mail: unknown key; did you mean email?"),
    ],
)
def test_a_fault_of_a_user_is_one_line(path: Path, line: str, fault: str) -> None:
    name = "a b" if line.startswith("id") else "ana"
    text = f"[[users]]\n{line}\n" if line.startswith("id") else f"[[users]]\nid = 'ana'\n{line}\n"
    (found,) = problems(path, text)
    assert found.startswith(f'users[1] "{name}".{fault}')


def test_a_user_is_reached_where_the_file_says(path: Path) -> None:
    config = load(
        path,
        "[[users]]\nid = 'ana'\nemail = 'ana@example.com'\ntelegram_chat_id = -1001234567890\n"
        "webhook_url = 'env:main'\nphone = '+34600111222'\ntimezone = 'Europe/Madrid'\n".replace(
            "env:main", "https://example.com/a-token-of-sixteen"
        ),
    )
    (ana,) = config.users
    assert (ana.plan, ana.email, ana.phone) == ("lifetime", "ana@example.com", "+34600111222")
    assert (ana.telegram_chat_id, ana.timezone) == ("-1001234567890", "Europe/Madrid")
    assert {"https://example.com/a-token-of-sixteen"} < config.secret_values()
    text = "[[users]]\nid = 'ben'\ntelegram_chat_id = '@our_channel'"
    assert load(path, text).users[0].telegram_chat_id == "@our_channel"


def test_two_users_of_one_id_are_refused(path: Path) -> None:
    (line,) = problems(path, ANA + ANA)
    assert line == 'users[2] "ana".id = "ana": is used twice: each user needs its own'


# Plans of the file


def test_a_built_in_plan_keeps_what_the_file_does_not_change(path: Path) -> None:
    config = load(path, "[plans.free]\npositions = 'unlimited'\nlowest_threshold = 12.5")
    free = config.plans["free"]
    assert (free.max_positions, free.min_threshold, free.priority) == (None, 12.5, 1)
    assert free.actions == FREE.actions
    assert {**config.plans, "free": FREE} == BUILT_IN


def test_a_new_plan_is_like_lifetime_but_for_what_it_gives(path: Path) -> None:
    text = """
[plans.family]
positions = 3
modes = ["both"]
actions = ["add_margin", "close_position"]
priority = 9
"""
    family = load(path, text).plans["family"]
    assert (family.name, family.max_positions, family.priority) == ("family", 3, 9)
    assert family.modes == (ProtectionMode.BOTH,)
    assert family.actions == (ActionKind.ADD_MARGIN, ActionKind.CLOSE_POSITION)
    assert family.min_threshold == LIFETIME.min_threshold
    assert load(path, "[plans.vip]").plans["vip"].actions == LIFETIME.actions


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("positions = 0", "positions = 0: must be a whole number, 1 or more, or"),
        ("positions = true", "positions = true: must be a whole number"),
        ("positions = 'all'", 'positions = "all": must be a whole number, 1 or more, or "unl'),
        ("modes = []", "modes = []: must be a list of modes (unitario, total, both) with"),
        ("modes = ['one']", 'modes = ["one"]: must be a list of modes'),
        ("actions = []", "actions = []: must have close_position: the last thing to do is"),
        ("actions = ['add_margin']", 'actions = ["add_margin"]: must have close_position'),
        ("actions = ['set_stop_loss']", 'actions = ["set_stop_loss"]: must be a list of actions'),
        ("lowest_threshold = 100", "lowest_threshold = 100: must be a number from 0 to below"),
        ("priority = 0", "priority = 0: must be a whole number from 1 to 100"),
        ("position = 3", "position: unknown key; did you mean positions?"),
    ],
)
def test_a_fault_of_a_plan_is_one_line(path: Path, line: str, fault: str) -> None:
    (found,) = problems(path, f"[plans.free]\n{line}\n")
    assert found.startswith(f"plans.free.{fault}")


def test_a_plan_has_a_name(path: Path) -> None:
    (line,) = problems(path, "[plans.'a b']\n")
    assert line.startswith('plans."a b": must be a name of up to 64 letters')
    (line,) = problems(path, "plans = { free = 5 }")
    assert line == "plans.free: must be a table"


# Guards beyond their plan


def test_a_guard_beyond_its_plan_is_refused_alone_and_all_is_told(path: Path) -> None:
    """Failure 40: the others go on."""
    more = """
selected_positions = ["a", "b", "c"]
protection_mode = "both"
fallback = ["add_margin"]
add_margin_amount = 500
[[guards.escalation]]
margin_threshold = 90
[guards.individual_configs.a]
margin_threshold = 15
"""
    accounts = an_account("main", "ana") + an_account("other", "ben")
    config = load(path, ANA + BEN + accounts + a_guard("main", more) + a_guard("other", more))
    assert [guard.id for guard in config.guards] == ["of-other"]
    (refused,) = config.refused_guards
    start = f'{path}: guards[1] "of-main".'
    assert [problem.removeprefix(start) for problem in refused.problems] == [
        (
            'selected_positions: plan "free" allows a guard 2 positions at most, not 3; the'
            ' smallest plan that allows it is "basic"'
        ),
        (
            'protection_mode = "both": plan "free" has the protection mode unitario alone, not'
            ' both; the smallest plan that allows it is "advanced"'
        ),
        (
            'fallback = ["add_margin"]: plan "free" has the action close_position alone, not'
            ' add_margin; the smallest plan that allows it is "advanced"'
        ),
        (
            'individual_configs.a.margin_threshold = 15: plan "free" allows no threshold below'
            ' 20 %; the smallest plan that allows it is "basic"'
        ),
    ]
    assert (refused.id, refused.code) == ("of-main", "PLAN_LIMITATIONS_EXCEEDED")
    assert refused.upgrade == "advanced"
    assert [one.line for one in refused.beyond_plan] == list(refused.problems)
    (disarmed,) = disarmed_guards(config)
    assert disarmed.reason.startswith(
        "its configuration is refused (PLAN_LIMITATIONS_EXCEEDED): " + start
    )


def test_what_no_plan_allows_says_so(path: Path) -> None:
    guard = a_guard("main").replace("80", "0.5") + "hysteresis = 0.1"
    (refused,) = load(path, an_account("main") + guard).refused_guards
    assert refused.problems[0].endswith(
        'margin_threshold = 0.5: plan "lifetime" allows no threshold below 1 %; no plan allows it'
    )
    assert refused.upgrade is None


def test_a_guard_that_contradicts_itself_is_told_what_its_plan_lacks_too(path: Path) -> None:
    more = "protection_mode = 'both'\nhysteresis = 90"
    (refused,) = load(path, ANA + an_account("main") + a_guard("main", more)).refused_guards
    assert refused.code == "INVALID_CONFIG_SCHEMA"
    assert ["hysteresis" in problem for problem in refused.problems] == [True, False]
    assert [one.problem.current for one in refused.beyond_plan] == ["both"]


def test_a_plan_of_the_file_is_what_a_guard_is_held_against(path: Path) -> None:
    text = ANA + an_account("main") + a_guard("main", "protection_mode = 'both'")
    assert load(path, text).refused_guards
    config = load(path, f"{text}[plans.free]\nmodes = ['unitario', 'both']")
    assert config.refused_guards == ()
    vip = "[plans.vip]\nmodes = ['both']\npriority = 1\npositions = 1"
    (refused,) = load(path, text + vip).refused_guards
    assert refused.upgrade == "vip"
