"""What the environment says of a configuration, and where the state directory is found."""

import re
from datetime import timedelta
from pathlib import Path

import pytest

from marginguard.config import state_dir_of
from marginguard.domain.errors import ConfigError
from tests.unit.config_files import load, problems


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "config.toml"


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
