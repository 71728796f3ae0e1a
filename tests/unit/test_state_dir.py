"""Whose the state directory is and who can use it: checked before anything is kept in it."""

import os
import stat
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from marginguard.domain.errors import ConfigError
from marginguard.storage.journal_lock import lock_state_dir
from marginguard.storage.state_dir import make_state_dir, secure_state_dir

SOMEBODY = 65_533


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    directory = tmp_path / "state"
    make_state_dir(directory)
    return directory


@pytest.fixture
def _not_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the tests' files belong to a user who is not root, as far as is asked here."""
    uid = os.geteuid() or SOMEBODY
    owned = os.stat_result
    monkeypatch.setattr(os, "geteuid", lambda: uid)

    def theirs(result: os.stat_result) -> os.stat_result:
        values = list(result)
        values[4] = uid if values[4] == 0 else values[4]
        return owned(values)

    stat_of, lstat_of = Path.stat, Path.lstat
    monkeypatch.setattr(Path, "stat", lambda path, **options: theirs(stat_of(path, **options)))
    monkeypatch.setattr(Path, "lstat", lambda path: theirs(lstat_of(path)))


@pytest.mark.usefixtures("_not_root")
def test_a_new_directory_is_its_owners_alone(tmp_path: Path) -> None:
    make_state_dir(tmp_path / "a" / "state")
    assert mode_of(tmp_path / "a" / "state") == 0o700
    with capture_logs() as logs:
        secure_state_dir(tmp_path / "a" / "state")
    assert logs == []


@pytest.mark.skipif(os.geteuid() != 0, reason="root alone can pass on what PostgreSQL needs")
def test_roots_can_be_passed_through_but_not_listed(directory: Path) -> None:
    assert mode_of(directory) == 0o711
    directory.chmod(0o755)
    secure_state_dir(directory)
    assert mode_of(directory) == 0o711


@pytest.mark.usefixtures("_not_root")
@pytest.mark.parametrize("mode", [0o755, 0o750, 0o711, 0o701])
def test_a_directory_that_others_can_read_is_closed_and_that_is_said(
    directory: Path, mode: int
) -> None:
    (directory / "journal.lock").touch(mode=0o600)
    directory.chmod(mode)
    with capture_logs() as logs:
        secure_state_dir(directory)
        secure_state_dir(directory)
    assert mode_of(directory) == 0o700
    (event,) = logs
    assert (event["event"], event["log_level"]) == ("state_dir.closed_to_others", "warning")
    assert event["paths"] == [str(directory)]


@pytest.mark.parametrize("mode", [0o770, 0o707, 0o777, 0o1777])
def test_a_directory_that_others_can_write_to_is_refused_and_left_alone(
    directory: Path, mode: int
) -> None:
    directory.chmod(mode)
    with pytest.raises(ConfigError, match=f"its mode is {mode:04o}") as caught:
        secure_state_dir(directory)
    assert f"chmod go-w {directory}" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert mode_of(directory) == mode


def test_a_directory_that_holds_other_things_is_not_closed(directory: Path) -> None:
    (directory / "letters").write_text("")
    directory.chmod(0o755)
    secure_state_dir(directory)
    assert mode_of(directory) == 0o755


@pytest.mark.parametrize("name", ["journal.log", "journal.lock", "refused.jsonl", "postgres.log"])
def test_a_file_that_others_can_read_is_closed_and_that_is_said(directory: Path, name: str) -> None:
    (directory / name).write_text("secret")
    (directory / name).chmod(0o644)
    with capture_logs() as logs:
        secure_state_dir(directory)
    assert mode_of(directory / name) == 0o600
    assert str(directory / name) in logs[0]["paths"]


@pytest.mark.usefixtures("_not_root")
def test_a_directory_of_another_user_is_refused(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: SOMEBODY + 1)
    with pytest.raises(ConfigError, match="belongs to user id") as caught:
        secure_state_dir(directory)
    assert str(directory) in str(caught.value)


@pytest.mark.skipif(os.geteuid() != 0, reason="root alone can give files away")
@pytest.mark.usefixtures("_not_root")
def test_a_file_that_another_user_left_is_refused_with_what_to_do(directory: Path) -> None:
    (directory / "journal.log").touch(mode=0o600)
    os.chown(directory / "journal.log", SOMEBODY - 1, -1)
    with pytest.raises(ConfigError, match=r"journal\.log belongs to user id") as caught:
        secure_state_dir(directory)
    assert f"chown -R {SOMEBODY} {directory}" in str(caught.value)


def test_a_link_in_place_of_a_file_is_refused(directory: Path, tmp_path: Path) -> None:
    (tmp_path / "target").write_text("")
    (tmp_path / "target").chmod(0o644)
    (directory / "journal.log").symlink_to(tmp_path / "target")
    with pytest.raises(ConfigError, match=r"journal\.log is not a plain file"):
        secure_state_dir(directory)
    assert mode_of(tmp_path / "target") == 0o644


def test_a_directory_that_cannot_be_written_to_is_one_clear_error(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory.chmod(0o500)
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may do anything
    with pytest.raises(ConfigError, match="cannot be written to by the user") as caught:
        lock_state_dir(directory)
    assert "its mode is 0500" in str(caught.value)
    assert f"[daemon] state_dir {directory}" in str(caught.value)
    assert len(caught.value.problems) == 1


def test_a_journal_is_not_opened_where_others_can_write(directory: Path) -> None:
    directory.chmod(0o777)
    with pytest.raises(ConfigError, match="can be written to by other users"):
        lock_state_dir(directory)
    assert list(directory.iterdir()) == []
