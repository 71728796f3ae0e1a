"""What the file of a configuration may say, and what is told of one that may not."""

import re
from datetime import timedelta
from pathlib import Path

import pytest

from marginguard.config import load_config, rules_of
from marginguard.domain.errors import ConfigError
from marginguard.domain.model import ActionKind
from marginguard.domain.rules import Ladder, Rules, Rung, Step
from tests.unit.config_files import ACCOUNT, ENVIRON, GUARD, load, problems


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "config.toml"


def test_an_empty_file_has_the_defaults(path: Path) -> None:
    config = load(path, "")
    assert config.path == path
    assert (config.daemon.interval, config.daemon.timeout) == (timedelta(seconds=30),) * 2
    assert (config.daemon.max_concurrent, config.daemon.retry_attempts) == (10, 3)
    assert config.daemon.retry_delay == timedelta(seconds=5)
    assert config.daemon.blind_after == timedelta(seconds=60)
    assert (config.exchange.timeout, config.exchange.stale_after) == (timedelta(seconds=5),) * 2
    assert config.exchange.max_jump == 5
    assert (config.actions.retry_attempts, config.actions.base_delay) == (3, timedelta(seconds=1))
    assert config.actions.max_delay == timedelta(seconds=10)
    assert config.actions.settle_delay == timedelta(seconds=2)
    assert config.actions.verify_within == timedelta(seconds=10)
    assert (config.actions.reopen_slippage, config.actions.min_improvement) == (0.5, 10)
    assert config.database.url is None
    assert config.notifications.webhook.url is None
    assert (config.accounts, config.guards, config.refused_guards) == ((), (), ())


def test_a_guard_becomes_the_rules_that_decisions_follow(path: Path) -> None:
    guard = f"""{GUARD}
selected_positions = ["a", "b"]
target_margin_level = 40
cooldown = "90s"
hysteresis = 7.5
auto_execution = false
budget = {{ max_per_day = 1000, reserve_balance = 5, max_spending_actions_per_hour = 2 }}
"""
    config = load(path, ACCOUNT + guard)
    rules = rules_of(config.guards[0], config.actions)
    step = Step(kind=ActionKind.ADD_MARGIN, target_margin_level=40.0)
    assert rules.ladder == Ladder(rungs=(Rung(threshold=80.0, steps=(step,)),))
    assert rules.selected == {"a", "b"}
    assert (rules.cooldown, rules.hysteresis) == (timedelta(seconds=90), 7.5)
    assert rules.auto_execution is False
    assert (rules.budget.max_per_day, rules.budget.reserve_balance) == (1000, 5)
    assert rules.budget.max_spending_actions_per_hour == 2
    assert rules.budget.max_per_action is None


def test_a_guard_with_only_what_is_required_has_the_defaults_of_the_decisions(path: Path) -> None:
    config = load(path, ACCOUNT + GUARD)
    (settings,) = config.guards
    assert (settings.enabled, settings.dry_run) == (True, False)
    rung = Rung(threshold=80.0, steps=(Step(kind=ActionKind.ADD_MARGIN),))
    rules = rules_of(settings, config.actions)
    assert rules == Rules(guard_id="long", ladder=Ladder(rungs=(rung,)))


def test_a_network_gives_the_addresses(path: Path) -> None:
    (account,) = load(path, ACCOUNT).accounts
    assert account.rest_url == "https://api.signet.lnmarkets.com/v3"
    (account,) = load(path, ACCOUNT.replace("signet", "mainnet")).accounts
    assert account.rest_url == "https://api.lnmarkets.com/v3"


@pytest.mark.parametrize(
    "url",
    ["http://127.0.0.1:8080/v3", "http://[::1]:1/v3", "http://localhost/v3/", "https://a.test/v3"],
)
def test_an_address_is_encrypted_or_on_this_machine(path: Path, url: str) -> None:
    text = ACCOUNT.replace('network = "signet"', f'rest_url = "{url}"')
    (account,) = load(path, text).accounts
    assert account.rest_url == url.rstrip("/")


@pytest.mark.parametrize(
    "url",
    [
        "http://example.com/v3",
        "http://127.0.0.1.example.com/v3",
        "http://10.0.0.1/v3",
        "https://example.com/v2",
        "https://example.com:99999/v3",
        "https://user:word@example.com/v3",
        "https://example.com/v3?x=1",
        "ftp://localhost/v3",
        "/v3",
        "",
    ],
)
def test_an_address_that_would_leak_or_cannot_work_is_refused(path: Path, url: str) -> None:
    text = ACCOUNT.replace('network = "signet"', f'rest_url = "{url}"')
    (line,) = problems(path, text)
    assert line.startswith(f'{path}: accounts[1] "main".rest_url = "')
    assert "must be an https:// address" in line
    assert "word" not in line


@pytest.mark.parametrize(
    ("addresses", "words"),
    [
        ("", "give network"),
        ('network = "signet"\nrest_url = "http://localhost/v3"', "not both"),
        ('network = "signet"\nstream_url = "ws://localhost/v1"', "not both"),
    ],
)
def test_an_account_is_on_one_exchange(path: Path, addresses: str, words: str) -> None:
    (line,) = problems(path, ACCOUNT.replace('network = "signet"', addresses))
    assert line.startswith(f'{path}: accounts[1] "main": give ')
    assert words in line


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("250ms", timedelta(milliseconds=250)),
        ("1.5m", timedelta(seconds=90)),
        ("1h30m", timedelta(minutes=90)),
        ("7d", timedelta(days=7)),
    ],
)
def test_a_duration_has_a_unit(path: Path, written: str, meant: timedelta) -> None:
    text = f'[daemon]\nretry_delay = "{written}"'
    assert load(path, text).daemon.retry_delay == meant


@pytest.mark.parametrize(
    "written",
    ['"5"', "5", '"5 s"', '"1h x 5s"', '"-5s"', '"0s"', '"5mm"', '"8d"', '"1y"', "true", '"infs"'],
)
def test_anything_else_is_not_a_duration(path: Path, written: str) -> None:
    (line,) = problems(path, f"[daemon]\nretry_delay = {written}")
    assert line.startswith(f"{path}: daemon.retry_delay = {written}: must be a duration")


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("nonsense = 1", "nonsense: unknown key; known here are daemon,"),
        ("[deamon]", "deamon: unknown key; did you mean daemon?"),
        ("[daemon]\ntimout = '5s'", "daemon.timout: unknown key; did you mean timeout?"),
        ("daemon = 5", "daemon: must be a table, written [daemon]"),
        ("accounts = 5", "accounts: must be tables, written [[accounts]]"),
        ("accounts = [5]", "accounts[1]: must be a table"),
        ("[guards]\nid = 'x'", "guards: must be tables, written [[guards]]"),
        ("[daemon]\nmax_concurrent = 0", "daemon.max_concurrent = 0: must be a whole number"),
        ("[daemon]\nmax_concurrent = 1.5", "daemon.max_concurrent = 1.5: must be a whole"),
        ("[daemon]\nmax_concurrent = true", "daemon.max_concurrent = true: must be a whole"),
        ("[exchange]\nmax_jump = nan", "exchange.max_jump = nan: must be a percentage"),
        ("[exchange]\nmax_jump = inf", "exchange.max_jump = inf: must be a percentage"),
        ("[database]\nurl = 5", "database.url: must be postgresql://"),
        ("[daemon]\nstate_dir = ''", 'daemon.state_dir = "": must be the path of a directory'),
        ("[daemon", "is not valid TOML: "),
        ("x = 1\nx = 2", "is not valid TOML: "),
        (f"x = {'[' * 5000}", "is not valid TOML: nested too deeply"),
        ('"a\\nb" = 1', r'"a\nb": unknown key'),
    ],
)
def test_a_fault_of_the_file_is_one_line_that_names_it(path: Path, text: str, line: str) -> None:
    (found,) = problems(path, text)
    assert found.startswith(f"{path}: {line}")
    assert found.isprintable()


def test_every_fault_of_the_file_is_told_at_once(path: Path) -> None:
    lines = problems(path, "x = 1\n[daemon]\ntimeout = 1\n[[accounts]]\nid = 'a b'")
    assert len(lines) == 6
    assert any('accounts[1] "a b".key: is missing: it must be env:NAME' in line for line in lines)


def test_a_file_that_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    for path, words in [(tmp_path / "none.toml", "No such file"), (tmp_path, "Is a directory")]:
        with pytest.raises(ConfigError, match=re.escape(f"{path}: cannot be read ({words}")):
            load_config(path, {})
    binary = tmp_path / "binary.toml"
    binary.write_bytes(b"id = \xff")
    with pytest.raises(ConfigError, match="byte 5 is not UTF-8 text"):
        load_config(binary, {})


def test_a_byte_order_mark_is_ignored(path: Path) -> None:
    path.write_bytes(b"\xef\xbb\xbf[daemon]\ninterval = '5s'\n")
    assert load_config(path, {}).daemon.interval == timedelta(seconds=5)


def test_two_accounts_with_one_key_are_refused_without_showing_it(path: Path) -> None:
    """Each would have limits of its own, and the exchange counts them together."""
    (line,) = problems(path, ACCOUNT + ACCOUNT.replace('"main"', '"other"'))
    assert line.startswith(f'{path}: accounts[2] "other".key')
    assert "is another account's too" in line
    assert ENVIRON["LNM"] not in line


def test_two_accounts_of_one_id_are_refused(path: Path) -> None:
    (line,) = problems(path, ACCOUNT + ACCOUNT)
    assert line.startswith(f'{path}: accounts[2] "main".id = "main": is used twice')


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("[daemon]\ntimeout = '31s'", 'daemon.timeout = "31s": must be at most 30s'),
        (
            "[daemon]\ninterval = '60s'\nblind_after = '2m'\ntimeout = '61s'",
            'daemon.timeout = "61s": must be at most 1m',
        ),
        (
            "[daemon]\ntimeout = '5s'",
            'exchange.timeout = "5s" (the default): must be shorter than daemon.timeout (5s)',
        ),
        ("[actions]\nbase_delay = '11s'", 'actions.base_delay = "11s": must be at most'),
        ("[retention]\ndays = 400", "retention.days = 400: must be at most retention.failure_days"),
        ("[actions]\nsettle_delay = '30s'", 'actions.settle_delay = "30s": must be shorter'),
        (
            "[actions]\nverify_within = '1s'",
            'actions.verify_within = "1s": must be at least actions.settle_delay (2s)',
        ),
        ("[actions]\nreopen_slippage = 0", "actions.reopen_slippage = 0: must be a percentage"),
        ("[actions]\nreopen_slippage = 11", "actions.reopen_slippage = 11: must be a percentage"),
        ("[actions]\nmin_improvement = -1", "actions.min_improvement = -1: must be a percentage"),
        (
            "[actions]\nmin_improvement = 1000",
            "actions.min_improvement = 1000: must be a percentage from 0 to below 1000",
        ),
    ],
)
def test_timing_that_contradicts_itself_is_refused(path: Path, text: str, line: str) -> None:
    (found,) = problems(path, text)
    assert found.startswith(f"{path}: {line}")


def test_a_very_short_interval_may_keep_a_sensible_timeout(path: Path) -> None:
    config = load(path, "[daemon]\ninterval = '150ms'\ntimeout = '30s'")
    assert config.daemon.interval == timedelta(milliseconds=150)


def test_a_configuration_cannot_be_changed(path: Path) -> None:
    config = load(path, ACCOUNT + GUARD)
    for target, name in [
        (config, "guards"),
        (config.daemon, "interval"),
        (config.accounts[0], "rest_url"),
        (config.guards[0], "dry_run"),
    ]:
        with pytest.raises((AttributeError, ValueError), match=r"frozen|assign"):
            setattr(target, name, None)
