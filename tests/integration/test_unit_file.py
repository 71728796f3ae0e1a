"""The systemd unit as systemd itself judges it, and what it must say for the guarding's sake."""

import configparser
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from marginguard.config.load import load_config

REPOSITORY = Path(__file__).parents[2]
UNIT = REPOSITORY / "systemd" / "marginguard.service"
PROGRAM = "/opt/marginguard/bin/marginguard"
MOST_EXPOSURE = 1.5

needs_systemd = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None and "CI" not in os.environ,  # CI may not skip it
    reason="systemd-analyze is not installed (apt-get install systemd)",
)


def analyze(*arguments):
    return subprocess.run(
        ["systemd-analyze", *arguments], capture_output=True, text=True, timeout=60, check=False
    )


@pytest.fixture(scope="module")
def service():
    """The `[Service]` section; of a key given twice, the last value."""
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str
    parser.read(UNIT)
    return dict(parser["Service"])


def seconds(value):
    return int(re.fullmatch(r"(\d+)s?", value)[1])


@needs_systemd
def test_systemd_finds_no_fault_with_the_unit(tmp_path):
    # The program is looked for, and only an installation has it in /opt.
    text = UNIT.read_text()
    assert text.count(PROGRAM) == 1
    (tmp_path / UNIT.name).write_text(text.replace(PROGRAM, sys.executable))
    result = analyze("verify", "--man=no", str(tmp_path / UNIT.name))
    # Other units of the machine may have faults of their own.
    assert [line for line in result.stderr.splitlines() if "marginguard" in line] == []
    assert result.returncode == 0, result.stderr


@needs_systemd
def test_the_unit_exposes_little():
    result = analyze("security", "--offline=true", "--no-pager", str(UNIT))
    found = re.search(r"Overall exposure level for marginguard\.service: ([0-9.]+)", result.stdout)
    assert found, result.stdout + result.stderr
    assert float(found[1]) <= MOST_EXPOSURE


def test_the_embedded_database_is_not_the_first_to_get_sigterm(service):
    assert service["KillMode"] == "mixed"


def test_a_stop_leaves_time_for_a_request_that_lives_35_seconds(service):
    assert seconds(service["TimeoutStopSec"]) >= 90


def test_the_unit_comes_back_always_and_for_ever(service):
    assert service["Restart"] == "always"
    assert 1 <= seconds(service["RestartSec"]) <= 10
    assert "StartLimitIntervalSec=0" in UNIT.read_text().splitlines()


def test_the_watchdog_is_heard(service):
    assert service["Type"] == "notify"
    assert service["NotifyAccess"] == "main"
    assert seconds(service["WatchdogSec"]) > 0


def test_the_state_directory_is_the_one_that_the_daemon_uses_and_private(service):
    assert service["StateDirectory"] == "marginguard"
    assert service["StateDirectoryMode"] == "0700"


def test_the_example_configuration_finds_its_credentials_in_the_unit(tmp_path):
    """The names of the unit's LoadCredential= lines are those that the example refers to."""
    loaded = re.findall(r"^LoadCredential=([a-z-]+):(\S+)$", UNIT.read_text(), re.MULTILINE)
    assert loaded
    for name, path in loaded:
        assert path == f"/etc/marginguard/credentials/{name}"
        (tmp_path / name).write_text("a value\n")
        (tmp_path / name).chmod(0o600)
    config = load_config(
        REPOSITORY / "config.example.toml", {"CREDENTIALS_DIRECTORY": str(tmp_path)}
    )
    assert config.accounts[0].key.get_secret_value() == "a value"


def test_the_control_socket_may_be_made_in_the_state_directory(service):
    assert "AF_UNIX" in service["RestrictAddressFamilies"].split()
    assert service["StateDirectory"] == "marginguard"
    assert service["StateDirectoryMode"] == "0700"
