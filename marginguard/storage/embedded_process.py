"""Processes of the embedded server: starting, waiting for their end, ending them.

A process is always signalled and awaited through a pidfd, which never comes to mean another
process when the kernel gives the pid to somebody else.
"""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

from marginguard.storage.embedded_files import OsUser

# A fast shutdown, then an immediate one, after which PostgreSQL itself kills its children
# within 5 s; at last the kernel's word. Committed work survives each of them.
QUIT_PATIENCE_S = 7.0
KILL_PATIENCE_S = 5.0

_EXEC_SCRIPT = Path(__file__).with_name("embedded_exec.py")
# No more than this: the server's user has no business with the daemon's secrets.
_ENVIRONMENT = {"LC_ALL": "C", "TZ": "UTC", "PATH": "/usr/local/bin:/usr/bin:/bin"}


def spawn(command: Sequence[str | Path], *, user: OsUser, output: int) -> subprocess.Popen[bytes]:
    """Start `command` as `user`, both its outputs going to the file descriptor `output`.

    It gets SIGINT when this process ends, however that comes about. The kernel ties that to the
    thread which starts it, so this must be the main thread. It leads a session of its own, out
    of reach of a terminal's Ctrl-C, which is for the daemon alone.
    """
    if threading.current_thread() is not threading.main_thread():
        raise RuntimeError("the embedded server must be started from the main thread")
    script = [sys.executable, "-I", "-S", os.fspath(_EXEC_SCRIPT)]
    identity = [str(os.getpid()), str(user.uid), str(user.gid)]
    return subprocess.Popen(  # noqa: S603 - our own script and an installed program, no shell
        [*script, *identity, *(os.fspath(word) for word in command)],
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        cwd="/",
        env=_ENVIRONMENT,
        start_new_session=True,
    )


async def ended(process: subprocess.Popen[bytes]) -> int:
    """Wait until a child has ended and return its exit status (negative: the signal)."""
    while (status := process.poll()) is None:
        with _pidfd(process.pid) as fd:
            await _readable(fd, timeout_s=None)
    return status


async def end(pid: int, *, patience_s: float) -> signal.Signals | None:
    """Ask the process `pid`, which must be a postmaster of ours, to end, ever more firmly.

    SIGINT is given `patience_s` seconds. Returns the signal after which it ended, or None if
    it outlived them all (a process that hangs in the kernel).
    """
    with _pidfd(pid) as fd:
        return await _end(
            fd,
            (signal.SIGINT, patience_s),
            (signal.SIGQUIT, QUIT_PATIENCE_S),
            (signal.SIGKILL, KILL_PATIENCE_S),
        )


async def end_orphans(data: Path, *, patience_s: float) -> list[int]:
    """End every server process that works on `data`; return their pids.

    To be called with the lock held: what runs then was left behind by a daemon that is dead.
    A process counts as ours only if it is a postgres whose working directory is `data`: a pid
    that is merely written in `postmaster.pid` may long belong to somebody else.
    """
    found: list[int] = []
    written = _written_pid(data / "postmaster.pid")
    if written is not None and await _end_if_ours(
        written, data, (signal.SIGINT, patience_s), (signal.SIGQUIT, QUIT_PATIENCE_S)
    ):
        found.append(written)
    firmly = (signal.SIGQUIT, QUIT_PATIENCE_S), (signal.SIGKILL, KILL_PATIENCE_S)
    # And what outlived its postmaster, or was never written down.
    return found + [pid for pid in _all_pids() if await _end_if_ours(pid, data, *firmly)]


def is_server_of(pid: int, data: Path) -> bool:
    """Tell whether the process `pid` is a postgres that works on the directory `data`."""
    process = Path("/proc") / str(pid)
    try:
        # "(deleted)": the package was upgraded while the server ran.
        program = (process / "exe").readlink().name.removesuffix(" (deleted)")
        return program == "postgres" and (process / "cwd").samefile(data)
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return False  # it has ended, or it is somebody else's


def live_server(data: Path) -> int | None:
    """Return the pid of the postmaster that works on `data`, or None if there is none."""
    pid = _written_pid(data / "postmaster.pid")
    return pid if pid is not None and is_server_of(pid, data) else None


async def _end_if_ours(pid: int, data: Path, *steps: tuple[signal.Signals, float]) -> bool:
    if not is_server_of(pid, data):
        return False
    try:
        with _pidfd(pid) as fd:
            # Looked at again: now it is certain that the descriptor means the one we saw.
            if not is_server_of(pid, data):
                return False
            await _end(fd, *steps)
    except ProcessLookupError:
        return False  # it ended by itself
    return True


async def _end(fd: int, *steps: tuple[signal.Signals, float]) -> signal.Signals | None:
    for signal_number, patience_s in steps:
        with contextlib.suppress(ProcessLookupError):  # ended already: the wait will tell
            signal.pidfd_send_signal(fd, signal_number)
        if await _readable(fd, timeout_s=patience_s):
            return signal_number
    return None


async def _readable(fd: int, *, timeout_s: float | None) -> bool:
    """Wait for a pidfd to become readable, which says that its process has ended."""
    has_ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_reader(fd, has_ended.set)
    try:
        async with asyncio.timeout(timeout_s):
            await has_ended.wait()
    except TimeoutError:
        return False
    finally:
        loop.remove_reader(fd)
    return True


@contextlib.contextmanager
def _pidfd(pid: int) -> Iterator[int]:
    fd = os.pidfd_open(pid)
    try:
        yield fd
    finally:
        os.close(fd)


def _written_pid(pid_file: Path) -> int | None:
    try:
        first_line, *_ = pid_file.read_text().splitlines() or [""]
    except FileNotFoundError:
        return None
    return int(first_line) if first_line.strip().isdecimal() else None


def _all_pids() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdecimal()]
