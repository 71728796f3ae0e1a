"""`marginguard check`, and what every command does with bad input, as a user sees it."""

import json
import os
import signal
import subprocess
import sys
import tomllib
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from marginguard import __version__, logs
from marginguard.cli import COMMANDS, common, main
from marginguard.domain.errors import ConfigError, Transient

ROOT = Path(__file__).parents[2]

GOOD = """
[notifications.webhook]
url = "env:HOOK"
[[accounts]]
id = "main"
network = "signet"
key = "env:SECRET"
secret = "env:SECRET"
passphrase = "env:SECRET"
[[guards]]
id = "long"
account = "main"
margin_threshold = 80
action = "close_position"
"""
ENVIRON = {"HOOK": "https://example.com/hook", "SECRET": "canary-4f1d9b"}


def marginguard(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run the command in a process of its own, as a user does."""
    result = subprocess.run(
        [sys.executable, "-m", "marginguard", *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], **ENVIRON, **environ},
        timeout=60,
    )
    assert "Traceback" not in result.stderr
    assert "canary" not in result.stdout + result.stderr
    return result


def checked(path: Path, text: str, *arguments: str) -> Result:
    """Run `check` on a configuration within this process."""
    path.write_text(text)
    result = CliRunner().invoke(main, ["check", "--config", str(path), *arguments], env=ENVIRON)
    assert isinstance(result.exception, SystemExit | None)
    return result


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "config.toml"


def test_a_good_configuration_is_summed_up(path: Path) -> None:
    path.write_text(GOOD)
    result = marginguard("check", "--config", str(path))
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.splitlines() == [
        f"{path} can be run.",
        "  long: every position on account main (signet), each by how much of its own",
        "    margin is used up; looks every 30s and at every price of the stream",
        "    at 80 %: close the position",
        "    a breach is over 5 points below its threshold; until then the next action",
        "      comes after 1m, or sooner when it gets worse",
        "    spends nothing",
    ]


RUNGS = """
fallback = ["add_margin"]
add_margin_amount = 50_000
backstop_threshold = 97
[guards.budget]
max_per_day = 400_000
[[guards.escalation]]
margin_threshold = 90
action = "increase_liquidation_distance"
fallback = ["reduce_position", "close_position"]
new_liquidation_distance = 20
[guards.individual_configs."0b3f2b6e-8d0a-4f6e-9a39-6c9d5a8d7f10"]
margin_threshold = 70
action = "add_margin"
fallback = []
target_margin_level = 40
escalation = []
"""


def test_every_rung_is_told_in_words_that_fit_a_terminal(path: Path) -> None:
    lines = checked(path, GOOD + RUNGS).stdout.splitlines()
    assert lines[3:] == [
        "    at 80 %: close the position, else add 50,000 sats of margin",
        "    at 90 %: add margin to put liquidation 20 % away from the price, else reduce",
        "             the position by 50 %, else close the position",
        "    at 97 %: the backstop, a stop-loss on the exchange, closes an isolated",
        "             trade; the cross position has none",
        "    position 0b3f2b6e-8d0a-4f6e-9a39-6c9d5a8d7f10:",
        "      at 70 %: add margin to bring the level down to 40 %",
        "      at 97 %: the backstop, a stop-loss on the exchange, closes an isolated",
        "               trade",
        "    a breach is over 5 points below its threshold; until then the next action",
        "      comes after 1m, or sooner when it gets worse",
        "    spends at most: as much as the other bounds allow in one action; 3 times the",
        "      margin that it began with on one position; 400,000 sats in a day (UTC); 6",
        "      times an hour; and leaves 0 sats in the balance",
    ]
    assert max(map(len, lines[1:])) <= 80


def test_json_has_every_rung_with_its_sizes(path: Path) -> None:
    (guard,) = json.loads(checked(path, GOOD + RUNGS, "--json").stdout)["guards"]
    assert guard["rungs"] == [
        {
            "margin_threshold": 80.0,
            "steps": [
                {"action": "close_position"},
                {"action": "add_margin", "add_margin_amount": 50_000},
            ],
        },
        {
            "margin_threshold": 90.0,
            "steps": [
                {"action": "increase_liquidation_distance", "new_liquidation_distance": 20.0},
                {"action": "reduce_position", "reduce_percentage": 50.0},
                {"action": "close_position"},
            ],
        },
    ]
    assert guard["backstop_threshold"] == 97.0
    assert guard["individual_configs"] == {
        "0b3f2b6e-8d0a-4f6e-9a39-6c9d5a8d7f10": {
            "rungs": [
                {
                    "margin_threshold": 70.0,
                    "steps": [{"action": "add_margin", "target_margin_level": 40.0}],
                }
            ],
            "backstop_threshold": 97.0,
        }
    }
    assert guard["budget"]["max_per_day"] == 400_000
    assert "at 80 %: close the position, else add 50,000 sats of margin" in guard["in_words"]


def test_a_guard_that_does_not_act_promises_nothing(path: Path) -> None:
    for switch, words in [
        ("auto_execution = false", "long: only tells, never acts: every position"),
        ("dry_run = true", "long: a dry run, sends nothing: every position"),
    ]:
        told = checked(path, f"{GOOD}{switch}\nbackstop_threshold = 90\n").stdout
        assert words in told
        assert "at 90 %: no backstop is kept on the exchange by a guard that does not" in told


@pytest.mark.parametrize(
    ("mode", "words"),
    [
        ("unitario", "each by how much of its own margin is used up; looks"),
        ("total", "by how much of all their margins together is used up; looks"),
        ("both", "and all by how much of their margins together is; looks"),
    ],
)
def test_what_the_thresholds_are_held_against_is_told(path: Path, mode: str, words: str) -> None:
    told = checked(path, f"{GOOD}protection_mode = '{mode}'\n").stdout
    assert words in " ".join(told.split())


def test_the_configuration_is_found_by_the_environment(path: Path) -> None:
    path.write_text(GOOD)
    result = marginguard("check", MARGINGUARD_CONFIG=str(path))
    assert result.returncode == 0
    assert str(path) in result.stdout


def test_a_missing_configuration_is_one_line(path: Path) -> None:
    result = marginguard("check", "--config", str(path))
    assert (result.returncode, result.stdout) == (2, "")
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"error: {path}: cannot be read (No such file or directory): ")


def test_every_fault_of_the_file_is_a_line_on_stderr(path: Path) -> None:
    result = checked(path, "[daemon]\ninterval = 5\nfoo = 1\n")
    assert (result.exit_code, result.stdout) == (2, "")
    first, second = result.stderr.splitlines()
    assert first.startswith(f"error: {path}: daemon.interval = 5: must be a duration")
    assert second.startswith(f"error: {path}: daemon.foo: unknown key")


def test_a_refused_guard_is_a_fault_and_the_others_are_shown(path: Path) -> None:
    bad = GOOD[GOOD.index("[[guards]]") :].replace("long", "bad").replace("80", "180")
    result = checked(path, GOOD + bad)
    assert result.exit_code == 2
    assert f'{path}: guards[2] "bad".margin_threshold = 180: must be' in result.stderr
    assert "  long: every position on account main" in result.stdout
    assert "  bad: REFUSED, it guards nothing" in result.stdout
    assert "can be run" not in result.stdout


@pytest.mark.parametrize(
    ("old", "new", "action"),
    [
        ('"close_position"', '"close_position"\nenabled = false', "enable_guard"),
        ('"close_position"', '"close_position"\nauto_execution = false', "enable_execution"),
        ('"close_position"', '"close_position"\ndry_run = true', "disable_dry_run"),
        ("80", "95.5", "lower_threshold"),
        (
            '"close_position"',
            '"close_position"\n[[guards.escalation]]\nmargin_threshold = 96',
            "lower_threshold",
        ),
        ('"close_position"', '"close_position"\nprotection_mode = "total"', "set_protection_mode"),
        (
            '"close_position"',
            '"close_position"\nbackstop_threshold = 97',
            "select_isolated_positions",
        ),
        ("[notifications.webhook]\nurl", "[database]\n# url", "set_webhook"),
        (GOOD[GOOD.index("[[guards]]") :], "", "add_guard"),
        (GOOD[GOOD.index("[[accounts]]") :], "", "add_guard"),
        ('"env:SECRET"', '"file:secret"', "protect_secret_file"),
        ("[[guards]]", GOOD[GOOD.index("[[guards]]") :] + "[[guards]]", "separate_guards"),
    ],
)
def test_a_warning_does_not_fail(path: Path, old: str, new: str, action: str) -> None:
    secret = path.parent / "secret"
    secret.write_text("canary")
    secret.chmod(0o644)
    text = GOOD.replace(old, new)
    text = text.replace('id = "long"', 'id = "other"', 1) if action == "separate_guards" else text
    plain = checked(path, text)
    assert plain.exit_code == 0
    assert all(line.startswith("warning: ") for line in plain.stderr.splitlines())
    findings = json.loads(checked(path, text, "--json").stdout)["findings"]
    assert action in {finding["action"] for finding in findings}
    assert len(plain.stderr.splitlines()) == len(findings)


def test_a_good_configuration_has_no_warning(path: Path) -> None:
    assert json.loads(checked(path, GOOD, "--json").stdout)["findings"] == []


def test_a_backstop_warns_only_where_it_is_not_kept(path: Path) -> None:
    kept = f'{GOOD}backstop_threshold = 97\nselected_positions = ["a"]\n'
    assert checked(path, kept).stderr == ""
    assert "for the cross position" in checked(path, kept.replace('"a"', '"a", "cross"')).stderr
    told = checked(path, f"{kept}auto_execution = false\n").stderr
    assert "no stop-loss is kept at backstop_threshold while auto_execution is false" in told


def test_guards_over_different_positions_do_not_overlap(path: Path) -> None:
    guard = GOOD[GOOD.index("[[guards]]") :]
    text = f'{GOOD}selected_positions = ["a"]\n{guard}selected_positions = ["b"]'
    text = text.replace('id = "long"', 'id = "other"', 1)
    assert checked(path, text).stderr == ""
    shared = text.replace('["b"]', '["b", "a"]')
    assert "cover the same positions" in checked(path, shared).stderr
    assert "cover the same positions" not in checked(path, f"{shared}\nenabled = false").stderr


def test_an_account_whose_only_guard_is_off_is_named(path: Path) -> None:
    result = checked(path, f"{GOOD}enabled = false")
    assert 'warning: account "main": no enabled guard covers its positions' in result.stderr
    assert "  long: off" in result.stdout


def test_json_is_one_value_with_findings(path: Path) -> None:
    result = checked(path, GOOD.replace("80", "180"), "--json")
    assert (result.exit_code, result.stderr) == (2, "")
    report = json.loads(result.stdout)
    assert (report["valid"], report["guards"], report["refused_guards"]) == (False, [], ["long"])
    finding = report["findings"][0]
    assert set(finding) == {"severity", "issue", "solution", "action"}
    assert finding["severity"] == "error"
    assert 'guards[1] "long".margin_threshold = 180' in finding["issue"]
    assert finding["action"] == "fix_guard_config"


def test_json_describes_the_guards_of_a_good_configuration(path: Path) -> None:
    report = json.loads(checked(path, GOOD, "--json").stdout)
    assert report["valid"] is True
    (guard,) = report["guards"]
    assert guard.pop("in_words")[1] == "at 80 %: close the position"
    assert guard == {
        "id": "long",
        "account": "main",
        "user": "owner",
        "plan": "lifetime",
        "enabled": True,
        "auto_execution": True,
        "dry_run": False,
        "real_time_monitoring": True,
        "protection_mode": "unitario",
        "selected_positions": "all",
        "max_positions": None,
        "cooldown_s": 60.0,
        "hysteresis": 5.0,
        "rungs": [{"margin_threshold": 80.0, "steps": [{"action": "close_position"}]}],
        "backstop_threshold": None,
        "individual_configs": {},
        "budget": {
            "max_per_action": None,
            "max_per_position": None,
            "max_per_day": None,
            "reserve_balance": 0,
            "max_spending_actions_per_hour": 6,
        },
    }


BEYOND = f"""{GOOD}
selected_positions = ["a", "b", "c"]
protection_mode = "both"
fallback = ["add_margin"]
target_margin_level = 40
[[guards.escalation]]
margin_threshold = 90
[[users]]
id = "ana"
plan = "free"
"""


def test_a_guard_beyond_its_plan_is_refused_and_points_to_the_fix(path: Path) -> None:
    result = checked(path, BEYOND)
    assert result.exit_code == 2
    assert 'guards[1] "long".selected_positions: plan "free" allows a guard 2' in result.stderr
    assert "  long: REFUSED, it guards nothing; --fix shows it within its plan" in result.stdout


def test_fix_prints_the_guard_within_its_plan_and_writes_nothing(path: Path) -> None:
    result = checked(path, BEYOND, "--fix")
    assert (result.exit_code, path.read_text()) == (2, BEYOND)
    fix = result.stdout[result.stdout.index("# guards[1]") :]
    assert fix.splitlines() == [
        '# guards[1] "long", brought within plan "free". Nothing was written.',
        "# changed: selected_positions: the first 2 are kept; NO LONGER GUARDED: c",
        '# changed: protection_mode: "both" becomes "unitario"',
        '# changed: fallback: ["add_margin"] becomes []',
        "# changed: target_margin_level: removed, since no action uses it any more",
        '# or: leave the guard as it is, and move its user to plan "advanced"',
        "[[guards]]",
        'id = "long"',
        'account = "main"',
        "margin_threshold = 80",
        'action = "close_position"',
        'selected_positions = ["a", "b"]',
        'protection_mode = "unitario"',
        "fallback = []",
        "",
        "[[guards.escalation]]",
        "margin_threshold = 90",
    ]
    mended = GOOD[: GOOD.index("[[guards]]")] + BEYOND[BEYOND.index("[[users]]") :] + fix
    assert checked(path, mended).exit_code == 0


def test_what_fix_leaves_to_the_owner_fits_a_terminal(path: Path) -> None:
    text = BEYOND.replace("close_position", "add_margin").replace('["add_margin"]', "[]")
    lines = checked(path, text, "--fix").stdout.splitlines()
    start = lines.index('# guards[1] "long", NOT within plan "free" yet. Nothing was written.')
    left = lines.index(
        '# left to you: action: plan "free" has the action close_position alone, not'
    )
    assert lines[left + 1 : left + 4] == [
        '#              add_margin; the smallest plan that allows it is "advanced"; or',
        "#              write close_position there yourself, which takes more of the",
        "#              position",
    ]
    assert 'action = "add_margin"' in lines[left:]
    assert max(map(len, lines[start:])) <= 80


def test_json_has_the_details_of_what_the_plan_does_not_allow(path: Path) -> None:
    report = json.loads(checked(path, BEYOND, "--json").stdout)
    (beyond,) = report["beyond_plan"]
    assert (beyond["guard"], beyond["suggested_upgrade"]) == ("long", "advanced")
    assert beyond["problems"] == [
        {
            "type": "position_count",
            "current": 3,
            "limit": 2,
            "message": 'plan "free" allows a guard 2 positions at most, not 3',
            "upgrade": "basic",
        },
        {
            "type": "protection_mode_not_available",
            "current": "both",
            "available": ["unitario"],
            "message": 'plan "free" has the protection mode unitario alone, not both',
            "upgrade": "advanced",
        },
        {
            "type": "action_not_available",
            "current": "add_margin",
            "available": ["close_position"],
            "message": 'plan "free" has the action close_position alone, not add_margin',
            "upgrade": "advanced",
        },
    ]
    findings = report["findings"][:3]
    assert {finding["action"] for finding in findings} == {"upgrade_plan"}
    assert findings[0]["solution"] == (
        'move its user to plan "basic", or run `marginguard check --fix`, which prints the guard'
        " brought within its plan"
    )
    assert "fixes" not in report


def test_json_has_the_fix(path: Path) -> None:
    (fix,) = json.loads(checked(path, BEYOND, "--fix", "--json").stdout)["fixes"]
    assert (fix["guard"], fix["plan"], fix["within_plan"]) == ("long", "free", True)
    assert (len(fix["changes"]), fix["left_to_you"]) == (4, [])
    assert fix["suggested_upgrade"] == "advanced"
    assert tomllib.loads(fix["toml"])["guards"][0]["selected_positions"] == ["a", "b"]


def test_what_no_plan_allows_is_to_be_fixed(path: Path) -> None:
    text = GOOD.replace("80", "0.5") + "hysteresis = 0.1"
    (finding,) = json.loads(checked(path, text, "--json").stdout)["findings"][:1]
    assert finding["action"] == "fix_for_plan"
    assert finding["solution"].startswith("run `marginguard check --fix`")


def test_fix_says_when_there_is_nothing_to_fix(path: Path) -> None:
    for text in (GOOD, GOOD.replace("80", "180")):
        words = "No guard is refused for its plan: there is nothing to fix."
        assert checked(path, text, "--fix").stdout.splitlines()[-1] == words
    assert json.loads(checked(path, "x = 1", "--fix", "--json").stdout)["fixes"] == []


def test_a_guard_over_all_positions_says_how_many_its_plan_covers(path: Path) -> None:
    text = f"{GOOD}[[users]]\nid = 'ana'\nplan = 'free'"
    result = checked(path, text)
    assert result.exit_code == 0
    assert 'on plan "free" it covers 2 positions at a time, the riskiest; any more' in result.stderr
    assert "  long: the riskiest 2 positions (plan free) on account main" in result.stdout


def test_json_of_a_file_that_cannot_be_read_is_json_too(path: Path) -> None:
    result = marginguard("check", "--json", "--config", str(path))
    assert (result.returncode, result.stderr) == (2, "")
    report = json.loads(result.stdout)
    assert [finding["action"] for finding in report["findings"]] == ["fix_config"]


def test_wrong_use_ends_with_2() -> None:
    assert marginguard("chekc").returncode == 2
    assert marginguard("check", "--nonsense").returncode == 2


def test_help_names_every_command_and_imports_none() -> None:
    code = (
        "import sys; from click.testing import CliRunner; from marginguard.cli import main;"
        "print(CliRunner().invoke(main, ['--help']).output);"
        "sys.exit('rich' in sys.modules or 'marginguard.config' in sys.modules)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0
    for name, command in COMMANDS.items():
        assert f"{name} " in result.stdout
        assert command.help in result.stdout


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(name: str) -> None:
    result = CliRunner().invoke(main, [name, "--help"])
    assert result.exit_code == 0
    assert f"Usage: main {name}" in result.output


def test_the_version_is_told() -> None:
    assert marginguard("--version").stdout == f"marginguard {__version__}\n"


@pytest.mark.parametrize(
    ("error", "code", "told"),
    [
        (ConfigError("one", "two"), 2, "error: one\nerror: two\n"),
        (Transient("lost"), 3, "error: lost\n"),
        (
            ExceptionGroup("g", [ConfigError("one"), Transient("lost")]),
            3,
            "error: one\nerror: lost\n",
        ),
        (ExceptionGroup("g", [ConfigError("one")]), 2, "error: one\n"),
        (KeyboardInterrupt(), 130, ""),
    ],
)
def test_an_error_ends_a_command_in_words(
    error: BaseException, code: int, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    @click.command()
    def failing() -> None:
        raise error

    monkeypatch.setattr("marginguard.cli.check.check", failing)
    result = CliRunner().invoke(main, ["check"])
    assert (result.exit_code, result.stderr) == (code, told)


def test_a_fault_of_the_program_shows_where_and_ends_with_3(
    capfd: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as caught, common.error_boundary():
        raise ZeroDivisionError
    assert caught.value.code == 3
    assert "ZeroDivisionError" in capfd.readouterr().err


@pytest.mark.parametrize("error", [ZeroDivisionError, ConfigError])
def test_the_words_of_a_fault_hold_no_secret(
    error: type[Exception], capfd: pytest.CaptureFixture[str]
) -> None:
    logs.configure(environ={}, secrets=["hush-hush"])
    with pytest.raises(SystemExit), common.error_boundary():
        raise error("it was hush-hush")
    assert "it was ***" in capfd.readouterr().err


def test_a_closed_pipe_ends_quietly(path: Path) -> None:
    path.write_text(GOOD)
    reader, writer = os.pipe()
    os.close(reader)
    result = subprocess.run(
        [sys.executable, "-m", "marginguard", "check", "--config", str(path)],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], **ENVIRON},
        stdout=writer,
        stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGPIPE, signal.SIG_IGN),
        check=False,
    )
    os.close(writer)
    assert result.stderr == b""
    assert result.returncode != 0


def test_check_refuses_what_could_never_be_told(tmp_path: Path) -> None:
    sender = '[notifications.email]\nhost = "mail.example.com"\nsender = "nobody"\n'
    result = checked(tmp_path / "config.toml", sender + GOOD)
    assert result.exit_code == 2
    assert "[notifications.email] sender: 'nobody' is not an address" in result.stderr
    assert "can be run" not in result.stdout
