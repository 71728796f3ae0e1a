"""The lock on an account that every process of the machine sees; Failure 27."""

import json
import os
import pwd
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest

from marginguard.storage.holder import Holder
from marginguard.storage.host_lock import HostLock, account_digest, lock_directory

DIGEST = account_digest("https://api.example.com/v3", "my-api-key")
NOON = datetime(2026, 3, 14, 12, tzinfo=UTC)
OURSELVES = Holder.ourselves(config=Path("/etc/marginguard/config.toml"), since=NOON)

HOLD = """
import sys
from datetime import UTC, datetime
from pathlib import Path
from marginguard.storage.holder import Holder
from marginguard.storage.host_lock import HostLock
ourselves = Holder.ourselves(config=Path("/elsewhere.toml"), since=datetime.now(UTC))
lock = HostLock(Path(sys.argv[1]), sys.argv[2], ourselves)
print(lock.hold() or "held", flush=True)
sys.stdin.read()
"""


def lock_in(directory: Path) -> HostLock:
    return HostLock(directory, DIGEST, OURSELVES)


@contextmanager
def another_daemon(directory: Path) -> Iterator["subprocess.Popen[str]"]:
    """Run a process that has the lock."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(directory), DIGEST],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "held\n"
            yield process
        finally:
            process.kill()


def test_a_free_lock_is_taken_and_stays_ours(tmp_path: Path) -> None:
    lock = lock_in(tmp_path)
    assert lock.hold() is None
    assert lock.hold() is None
    lock.release()


def test_another_process_is_named_and_its_lock_is_not_taken(tmp_path: Path) -> None:
    """Failure 27: the other one says who holds it."""
    with another_daemon(tmp_path) as process:
        holder = lock_in(tmp_path).hold()
    assert holder is not None
    assert f"pid {process.pid}" in holder
    assert "/elsewhere.toml" in holder
    assert f"since {datetime.now(UTC):%Y-}" in holder
    assert "fuser" in holder


def test_a_process_that_is_killed_leaves_the_lock_free(tmp_path: Path) -> None:
    with another_daemon(tmp_path) as process:
        process.kill()
        process.wait()
        lock = lock_in(tmp_path)
        assert lock.hold() is None
        lock.release()


def test_a_frozen_process_keeps_its_lock(tmp_path: Path) -> None:
    """Failure 26: whoever is frozen still has the lock when it goes on."""
    with another_daemon(tmp_path) as process:
        os.kill(process.pid, signal.SIGSTOP)
        os.waitid(os.P_PID, process.pid, os.WSTOPPED)
        assert lock_in(tmp_path).hold() is not None
        os.kill(process.pid, signal.SIGCONT)
        os.waitid(os.P_PID, process.pid, os.WCONTINUED)
        assert lock_in(tmp_path).hold() is not None


def test_a_child_process_does_not_keep_the_lock(tmp_path: Path) -> None:
    lock = lock_in(tmp_path)
    assert lock.hold() is None
    with subprocess.Popen(["sleep", "600"], close_fds=False) as child:
        lock.release()
        try:
            other = lock_in(tmp_path)
            assert other.hold() is None
            other.release()
        finally:
            child.kill()


def test_a_lock_whose_file_was_removed_is_taken_again(tmp_path: Path) -> None:
    lock = lock_in(tmp_path)
    assert lock.hold() is None
    lock.path.unlink()
    assert lock.hold() is None
    assert lock_in(tmp_path).hold() is not None, "the lock is on the file that others see"
    lock.release()


def test_a_lock_whose_file_was_removed_may_be_lost_to_another(tmp_path: Path) -> None:
    lock = lock_in(tmp_path)
    assert lock.hold() is None
    lock.path.unlink()
    with another_daemon(tmp_path) as process:
        assert f"pid {process.pid}" in (lock.hold() or "")


def test_accounts_do_not_share_a_lock(tmp_path: Path) -> None:
    with another_daemon(tmp_path):
        lock = HostLock(tmp_path, account_digest("https://api.example.com/v3", "other"), OURSELVES)
        assert lock.hold() is None
        lock.release()


def test_the_key_is_not_told_and_the_way_the_address_is_written_does_not_matter(
    tmp_path: Path,
) -> None:
    lock = lock_in(tmp_path)
    lock.hold()
    assert "my-api-key" not in lock.path.name + lock.path.read_text()
    lock.release()
    assert account_digest("https://API.example.com/v3/", "my-api-key") == DIGEST
    assert account_digest("https://api.signet.example.com/v3", "my-api-key") != DIGEST
    assert account_digest("https://api.example.com/v3", "My-api-key") != DIGEST


def test_every_user_can_see_that_it_is_locked_and_none_but_its_owner_can_write(
    tmp_path: Path,
) -> None:
    umask = os.umask(0o077)
    try:
        lock = lock_in(tmp_path)
        lock.hold()
    finally:
        os.umask(umask)
    assert stat.S_IMODE(lock.path.stat().st_mode) == 0o644
    lock.release()


def test_a_file_that_may_only_be_read_can_be_locked(tmp_path: Path) -> None:
    """It is another user's, whose daemon has ended."""
    path = lock_in(tmp_path).path
    path.write_text("")
    opened: list[int] = []

    def read_only(path: Path, flags: int, mode: int = 0o777) -> int:
        opened.append(flags & os.O_ACCMODE)
        if flags & os.O_RDWR and not flags & os.O_CREAT:
            raise PermissionError(13, "Permission denied")
        return os_open(path, flags, mode)

    os_open = os.open
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "open", read_only)
        lock = lock_in(tmp_path)
        assert lock.hold() is None
    assert opened[-1] == os.O_RDONLY
    assert lock_in(tmp_path).hold() is not None
    lock.release()


def test_a_file_that_nobody_may_read_counts_as_held_and_names_its_owner(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock_in(tmp_path).path.write_text("")

    def closed(path: Path, flags: int, mode: int = 0o777) -> int:
        if flags & os.O_CREAT:
            raise FileExistsError(17, "File exists")
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", closed)
    owner = pwd.getpwuid(os.geteuid()).pw_name
    assert f"belongs to the user {owner}" in (lock_in(tmp_path).hold() or "")


@pytest.mark.parametrize("kind", ["link", "pipe", "directory"])
def test_what_is_no_plain_file_is_not_used(tmp_path: Path, kind: str) -> None:
    path = lock_in(tmp_path).path
    target = tmp_path / "target"
    target.write_text("precious")
    match kind:
        case "link":
            path.symlink_to(target)
        case "pipe":
            os.mkfifo(path)
        case "directory":
            path.mkdir()
    with pytest.raises(OSError, match=r".+"):
        lock_in(tmp_path).hold()
    assert target.read_text() == "precious"


def test_a_directory_that_is_not_there_is_an_error_of_the_system(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        lock_in(tmp_path / "missing").hold()


@pytest.mark.parametrize("mode", [0o1777, 0o755, 0o700])
def test_the_shared_directory_is_used_where_it_is_safe(tmp_path: Path, mode: int) -> None:
    shared = tmp_path / "lock"
    shared.mkdir()
    shared.chmod(mode)
    assert lock_directory(shared) == shared


@pytest.mark.parametrize("mode", [0o777, 0o775])
def test_a_directory_in_which_others_could_replace_our_files_is_not_used(
    tmp_path: Path, mode: int
) -> None:
    shared = tmp_path / "lock"
    shared.mkdir()
    shared.chmod(mode)
    assert lock_directory(shared) != shared


def test_a_missing_or_strange_directory_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert lock_directory(tmp_path / "missing") != tmp_path / "missing"
    (tmp_path / "file").write_text("")
    assert lock_directory(tmp_path / "file") != tmp_path / "file"
    if os.geteuid() == 0:
        os.chown(tmp_path, 65534, 65534)
        assert lock_directory(tmp_path) != tmp_path
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert lock_directory(Path("/")) != Path("/")


def test_what_a_holder_says_comes_back(tmp_path: Path) -> None:
    read = Holder.of_line(OURSELVES.to_line())
    assert (read.pid, read.host, read.config, read.since) == (
        os.getpid(),
        OURSELVES.host,
        "/etc/marginguard/config.toml",
        NOON,
    )
    assert "since 2026-03-14 12:00:00 UTC" in read.in_words()


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"\xff\xfe",
        b"[]",
        b"{",
        b'{"pid": true, "host": 5, "since": "yesterday", "config": "\\u001b[2J"}',
        json.dumps({"pid": "1", "host": "x" * 5000}).encode(),
        b"[" * 2000,
    ],
)
def test_a_lock_file_full_of_nonsense_names_nobody(line: bytes) -> None:
    assert Holder.of_line(line).in_words() == "pid unknown"


def test_a_database_session_carries_who_it_belongs_to() -> None:
    holder = Holder(pid=7, host="a host", token="0a1b2c3d")
    assert Holder.of_session(holder.application_name, None) == holder
    long = Holder(pid=4_194_304, host="é" + "h" * 200, token="0a1b2c3d")
    assert len(long.application_name.encode()) <= 63
    assert long.application_name.isascii()
    read = Holder.of_session(long.application_name, NOON)
    assert (read.pid, read.token, read.since) == (long.pid, long.token, NOON)


@pytest.mark.parametrize("name", [None, "", "psql", "marginguard", "marginguard a b c"])
def test_a_session_of_something_else_names_nobody(name: str | None) -> None:
    assert Holder.of_session(name, None).pid is None
