"""A PostgreSQL server of our own, for the daemon that was given no `[database] url`.

It lives in the state directory, listens on a private socket alone, and ends with the process
that started it, even when that is killed. See `embedded_files` for what lies where.
"""

import asyncio
import contextlib
import os
import signal
import subprocess
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Self

import asyncpg
import structlog

from marginguard.domain.errors import ConfigError
from marginguard.storage import embedded_files as files
from marginguard.storage import embedded_process as processes
from marginguard.storage.database import database_errors
from marginguard.storage.embedded_binaries import MAJOR, Binaries, copied, find_binaries, usable_by
from marginguard.storage.embedded_cluster import create_cluster
from marginguard.storage.embedded_files import Layout, OsUser
from marginguard.storage.embedded_lock import StateDirLocked, StateLock
from marginguard.storage.state_dir import make_state_dir

# Modest, for the smallest of servers that one can rent.
SETTINGS = {
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
    "port": "5432",
    "fsync": "on",
    "full_page_writes": "on",
    "synchronous_commit": "on",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "logging_collector": "off",
    "log_checkpoints": "off",
    "log_line_prefix": "%m [%p] ",
    "max_connections": "20",
    "shared_buffers": "16MB",
    "min_wal_size": "32MB",
    "max_wal_size": "256MB",
    "io_method": "sync",
    "max_logical_replication_workers": "0",
    "jit": "off",
}
START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 10.0
LOCK_PATIENCE_S = 5.0

_READY_POLL_S = 0.01


class EmbeddedServer:
    """The embedded server in `state_dir`.

    `start` may be called again after it failed, or after the server ended by itself; `stop`
    must be called in the end, whatever `start` did (`async with` does). `lock_patience_s` is
    how long to wait for another process, such as a reading command, to let go of the directory.
    """

    def __init__(
        self,
        *,
        state_dir: Path,
        start_timeout_s: float = START_TIMEOUT_S,
        lock_patience_s: float = LOCK_PATIENCE_S,
    ) -> None:
        self._layout = Layout(state_dir=state_dir.resolve(), major=MAJOR)
        self._lock = StateLock(self._layout.lock)
        self._start_timeout_s = start_timeout_s
        self._lock_patience_s = lock_patience_s
        self._process: subprocess.Popen[bytes] | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    @property
    def pid(self) -> int | None:
        """The server's process id, or None when it was not started."""
        return self._process.pid if self._process is not None else None

    async def start(self) -> str:
        """Start the server, making its data directory at first, and return its URL.

        The URL holds the password. Must be called from the main thread. Raises `ConfigError`
        (`StateDirLocked` if another process holds the directory) when somebody must change
        something, and `DatabaseUnavailable` when starting again may work.
        """
        log = structlog.get_logger()
        began = time.monotonic()
        if self._process is None or self._process.poll() is not None:
            with files.state_dir_errors(self._layout):
                await self._launch()
        with database_errors():
            url = await self._ready()
        log.info(
            "database.embedded_ready",
            pid=self.pid,
            data=str(self._layout.data),
            seconds=round(time.monotonic() - began, 3),
        )
        return url

    async def stop(self, timeout_s: float = STOP_TIMEOUT_S) -> None:
        """Stop the server, by force after `timeout_s` seconds, and let go of the directory."""
        try:
            if self._process is not None and self._process.poll() is None:
                await self._end(self._process, timeout_s)
        finally:
            self._lock.release()

    async def wait_ended(self) -> int:
        """Wait until the server has ended, asked to or not; return its exit status.

        Returns at once when none was started.
        """
        return 0 if self._process is None else await processes.ended(self._process)

    async def _end(self, process: subprocess.Popen[bytes], timeout_s: float) -> None:
        log = structlog.get_logger()
        by = await processes.end(process.pid, patience_s=timeout_s)
        if by is None:
            log.critical(
                "database.embedded_does_not_end",
                pid=process.pid,
                advice="it hangs in the kernel: look at the disk",
            )
            return
        process.poll()
        if by is not signal.SIGINT:
            log.warning("database.embedded_stopped_by_force", signal=by.name, pid=process.pid)

    async def _launch(self) -> None:
        """Take the lock and leave a server starting; what it needs is made on the way."""
        binaries = find_binaries()
        layout = self._layout
        user = files.server_user(layout)
        files.check_reachable(layout.state_dir, user)
        make_state_dir(layout.state_dir)
        files.check_reachable(layout.state_dir, user)  # what was made now obeyed our umask
        if not self._lock.held:
            await self._lock.acquire(patience_s=self._lock_patience_s)
        try:
            files.refuse_other_major(layout)
            await self._end_orphans()
            if not usable_by(binaries, user):
                binaries = await asyncio.to_thread(copied, binaries, layout.state_dir)
            output = files.open_log(layout)
            try:
                if not layout.cluster.exists():
                    await create_cluster(
                        layout, binaries, user, output=output, timeout_s=self._start_timeout_s
                    )
                self._process = self._spawn(binaries, user, output)
            finally:
                os.close(output)
        except BaseException:
            if self._process is None:  # one that was running keeps the directory
                self._lock.release()
            raise

    async def _end_orphans(self) -> None:
        """End a server that outlived its daemon, then remove what would stop a new one."""
        layout = self._layout
        pids = await processes.end_orphans(layout.data, patience_s=STOP_TIMEOUT_S)
        if pids:
            structlog.get_logger().warning("database.orphans_ended", pids=pids)
        leftovers = [
            layout.data / "postmaster.pid",
            layout.socket_dir / files.SOCKET_NAME,
            layout.socket_dir / f"{files.SOCKET_NAME}.lock",
        ]
        for leftover in leftovers:
            leftover.unlink(missing_ok=True)

    def _spawn(self, binaries: Binaries, user: OsUser, output: int) -> subprocess.Popen[bytes]:
        layout = self._layout
        files.make_private_dir(layout.socket_dir, user)
        settings = SETTINGS | {"unix_socket_directories": f"{layout.socket_dir}"}
        options = [word for key, value in settings.items() for word in ("-c", f"{key}={value}")]
        return processes.spawn(
            [binaries.postgres, "-D", layout.data, *options], user=user, output=output
        )

    async def _ready(self) -> str:
        """Wait until the server lets us in, and see that it keeps what it commits."""
        with files.state_dir_errors(self._layout):
            url = self._layout.url()
        try:
            async with asyncio.timeout(self._start_timeout_s):
                connection = await self._connect(url)
                try:
                    fsync = await connection.fetchval("SHOW fsync")
                finally:
                    await connection.close()
        except TimeoutError as error:
            raise files.start_failed(
                self._layout,
                f"it is not ready after {self._start_timeout_s:g} s (it may be recovering)",
            ) from error
        if fsync != "on":
            raise ConfigError(
                f"the embedded PostgreSQL runs with fsync={fsync}, and a power failure would lose "
                f"records: remove that setting from {self._layout.data}/postgresql.conf"
            )
        return url

    async def _connect(self, url: str) -> "asyncpg.Connection[asyncpg.Record]":
        while True:
            try:
                return await asyncpg.connect(url, timeout=self._start_timeout_s)
            except (OSError, asyncpg.PostgresConnectionError, asyncpg.CannotConnectNowError):
                if self._process is not None and (status := self._process.poll()) is not None:
                    raise files.start_failed(
                        self._layout, f"it ended with status {status}"
                    ) from None
            await asyncio.sleep(_READY_POLL_S)


def running_server(state_dir: Path) -> str | None:
    """Return the URL of the server that runs in `state_dir`, or None if none runs.

    For commands of the daemon's user, or root's. Raises `ConfigError` if we may not look.
    """
    layout = Layout(state_dir=state_dir.resolve(), major=MAJOR)
    with files.state_dir_errors(layout):
        if processes.live_server(layout.data) is None:
            return None
        if not files.is_private(layout.socket_dir, layout.data.stat().st_uid):
            raise ConfigError(f"{layout.socket_dir} is not the server's own: refusing to use it")
        return layout.url()


@contextlib.asynccontextmanager
async def server_for_reading(state_dir: Path) -> AsyncIterator[str]:
    """Give the URL of the running daemon's server, or of one that runs for the block.

    Raises as `EmbeddedServer.start` does; `StateDirLocked` if the directory's holder has no
    server running (it is starting, or uses another database).
    """
    async with EmbeddedServer(state_dir=state_dir, lock_patience_s=0.0) as server:
        try:
            url = await server.start()
        except StateDirLocked:
            running = running_server(state_dir)
            if running is None:
                raise
            url = running
        yield url
