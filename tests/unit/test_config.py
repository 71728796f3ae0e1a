"""What a configuration may say, and what is told of one that may not."""

import re
import tomllib
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from marginguard.config import Config, load_config, rules_of, state_dir_of
from marginguard.config.guards import GuardSettings
from marginguard.config.models import File
from marginguard.config.table import Table
from marginguard.domain.errors import ConfigError
from marginguard.domain.model import ActionKind
from marginguard.domain.rules import Ladder, Rules, Rung, Step

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "config.example.toml"

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
action = "add_margin"
"""
ENVIRON = {"LNM": "some-secret-of-the-account"}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "config.toml"


def load(path: Path, text: str, **environ: str) -> Config:
    path.write_text(text)
    path.chmod(0o600)
    return load_config(path, ENVIRON | environ)


def problems(path: Path, text: str, **environ: str) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        load(path, text, **environ)
    assert str(caught.value) == "\n".join(caught.value.problems)
    return caught.value.problems


def refusal(path: Path, guard: str, before: str = ACCOUNT) -> tuple[str, ...]:
    """Return the problems of the only guard, which must be refused."""
    config = load(path, before + guard)
    assert config.guards == ()
    (refused,) = config.refused_guards
    return refused.problems


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


def test_the_environment_wins_over_the_file(path: Path) -> None:
    config = load(
        path,
        "[daemon]\ninterval = '10s'\nmax_concurrent = 3",
        MARGINGUARD_DAEMON__INTERVAL="20s",
        MARGINGUARD_DATABASE__URL="postgresql:///x",
        MARGINGUARD_NOTIFICATIONS__WEBHOOK__URL="https://example.com/hook",
    )
    assert (config.daemon.interval, config.daemon.max_concurrent) == (timedelta(seconds=20), 3)
    assert config.database.url is not None
    assert config.database.url.get_secret_value() == "postgresql:///x"
    assert config.notifications.webhook.url is not None


def test_a_fault_in_the_environment_names_the_variable(path: Path) -> None:
    lines = problems(
        path, "", MARGINGUARD_DAEMON__INTERVAL="soon", MARGINGUARD_EXCHANGE__TIMOUT="5s"
    )
    assert lines[0].startswith('environment variable MARGINGUARD_DAEMON__INTERVAL = "soon": must')
    assert lines[1] == (
        "environment variable MARGINGUARD_EXCHANGE__TIMOUT: unknown key; did you mean timeout?"
    )


def test_the_environment_does_not_hide_a_fault_of_the_file(path: Path) -> None:
    (line,) = problems(path, "daemon = 5", MARGINGUARD_DAEMON__INTERVAL="20s")
    assert line == f"{path}: daemon: must be a table, written [daemon]"


def test_a_variable_that_is_no_setting_is_left_alone(path: Path) -> None:
    config = load(
        path,
        '[database]\nurl = "env:MARGINGUARD_DATABASE"',
        MARGINGUARD_DATABASE="postgresql:///mine",
        MARGINGUARD_CONFIG="/x",
        MARGINGUARD_MY__OWN="1",
    )
    assert config.database.url is not None


def test_only_the_given_environment_is_read(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MARGINGUARD_DAEMON__INTERVAL", "20s")
    monkeypatch.setenv("STATE_DIRECTORY", "/elsewhere")
    config = load(path, "")
    assert config.daemon.interval == timedelta(seconds=30)
    assert config.daemon.state_dir == Path("/var/lib/marginguard")


def test_the_state_directory_is_as_written_else_systemds_else_the_customary_one(
    path: Path,
) -> None:
    assert load(path, "", STATE_DIRECTORY="/s/a:/s/b").daemon.state_dir == Path("/s/a")
    assert load(path, "", STATE_DIRECTORY="").daemon.state_dir == Path("/var/lib/marginguard")
    text = "[daemon]\nstate_dir = 'here'"
    assert load(path, text, STATE_DIRECTORY="/s/a").daemon.state_dir == path.parent / "here"


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


# The example file


def tables(model: type[BaseModel], name: str = "") -> Iterator[tuple[str, type[BaseModel]]]:
    """Yield every table below `model` with the header it has in the file."""
    for key, field in model.model_fields.items():
        inner = GuardSettings if (model, key) == (File, "guards") else inner_table(field.annotation)
        if inner is not None:
            yield f"{name}{key}", inner
            yield from tables(inner, f"{name}{key}.")


def inner_table(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next(filter(None, map(inner_table, get_args(annotation))), None)


def example_tables() -> dict[str, list[str]]:
    """Return the lines of the example by table header, keys behind a # included."""
    found: dict[str, list[str]] = {}
    header = ""
    for line in EXAMPLE.read_text().splitlines():
        if match := re.fullmatch(r'(?:# )?\[+([a-z_.]+)(\."[-0-9a-f]+"(\.[a-z]+)?)?\]+', line):
            header = match[1] + (match[3] or "")
            header = "plans" if header.startswith("plans.") else header  # their names are free
        found.setdefault(header, []).append(line)
    return found


def leaves(model: type[BaseModel]) -> dict[str, FieldInfo]:
    return {
        key: field
        for key, field in model.model_fields.items()
        if inner_table(field.annotation) is None
    }


@pytest.mark.parametrize(("header", "model"), list(tables(File)))
def test_the_example_has_every_key_of(header: str, model: type[Table]) -> None:
    found = example_tables()
    lines = found.get(header, [])
    if header in {"guards.escalation", "guards.individual_configs"} or header.count(".") > 1:
        lines = lines + found["guards"]  # which has all the keys that can be given again below it
    for key in leaves(model):
        assert any(re.match(rf"(# )?{key} = ", line) for line in lines), f"{header}.{key}"


def test_the_example_has_no_key_that_is_unknown(path: Path) -> None:
    models = dict(tables(File))
    for header, lines in example_tables().items():
        for line in lines:
            if header and (match := re.match(r"(?:# )?([a-z_]+) = ", line)):
                assert match[1] in models[header].model_fields, line


@pytest.mark.parametrize("header", ["daemon", "exchange", "actions", "guards.budget", "guards"])
def test_the_example_shows_the_defaults(header: str) -> None:
    written = tomllib.loads(EXAMPLE.read_text())
    for part in header.split("."):
        written = written[part][0] if isinstance(written[part], list) else written[part]
    model = dict(tables(File))[header]
    fields = leaves(model)
    own = {key: written[key] for key in fields if key in written and key != "state_dir"}
    required = {key: own[key] for key in own if fields[key].is_required()}
    if "dry_run" in own:
        own["dry_run"] = False  # its comment says that the default differs
    assert model(**own).model_dump() == model(**required).model_dump()


def test_the_example_can_be_run(tmp_path: Path) -> None:
    for name in ("lnm-key", "lnm-secret", "lnm-passphrase"):
        (tmp_path / name).write_text("some-secret\n")
    config = load_config(EXAMPLE, {"CREDENTIALS_DIRECTORY": str(tmp_path)})
    assert config.refused_guards == ()
    (guard,) = config.guards
    assert guard.dry_run, "whoever starts from the example must not act by accident"


def test_every_line_of_the_example_that_is_switched_off_can_be_switched_on(path: Path) -> None:
    """Each commented table as a whole: whoever takes the # away has something that works."""
    text = EXAMPLE.read_text()
    for start, end in [("# Who owns accounts", "# An account on"), ("# Further rungs", r"\Z")]:
        part = re.search(f"(?s){start}.*?{end}", text)
        assert part is not None
        on = re.sub(r"(?m)^# (?=\[|[a-z_]+ = )", "", part[0])
        text = text.replace(part[0], on)
    for name in ("lnm-key", "lnm-secret", "lnm-passphrase"):
        text = text.replace(f"credential:{name}", "env:LNM")
    text = text.replace("credential:ana-webhook-url", "https://example.com/hook")
    config = load(path, text)
    assert [user.id for user in config.users] == ["ana"]
    assert config.plans["family"].priority == 4
    assert config.refused_guards == ()
    (guard,) = config.guards
    assert len(guard.escalation) == len(guard.individual_configs) == 1


@pytest.mark.parametrize(("header", "model"), list(tables(File)))
def test_every_key_says_what_is_allowed_in(header: str, model: type[Table]) -> None:
    for key, field in model.model_fields.items():
        assert field.description, f"{header}.{key}"


def test_the_state_directory_is_found_whatever_else_is_wrong(path: Path) -> None:
    path.write_text('nonsense = 1\n[daemon]\ninterval = 3\nstate_dir = "here"\n[[guards]]\n')
    assert state_dir_of(path, {}) == path.parent / "here"
    assert state_dir_of(path, {"MARGINGUARD_DAEMON__STATE_DIR": "/there"}) == Path("/there")
    path.write_text("")
    assert state_dir_of(path, {"STATE_DIRECTORY": "/by/systemd"}) == Path("/by/systemd")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[daemon]\nstate_dir = 5", "daemon.state_dir = 5: must be the path of a directory"),
        ("daemon = 1", "daemon"),
        ("[daemon", "is not valid TOML"),
    ],
)
def test_a_state_directory_that_is_none_is_told(path: Path, text: str, words: str) -> None:
    path.write_text(text)
    with pytest.raises(ConfigError, match=re.escape(words)):
        state_dir_of(path, {})
