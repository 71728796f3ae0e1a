"""One process alone may write to a state directory."""

import contextlib
import errno
import fcntl
import os
from pathlib import Path
from typing import Final

from marginguard.domain.errors import ConfigError, DiskFull
from marginguard.storage.state_dir import make_state_dir, secure_state_dir

LOCK_FILE: Final = "journal.lock"
_DISK_FAILS: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS})


def lock_state_dir(state_dir: Path) -> int:
    """Make `state_dir` if it is missing and lock it; the lock lasts while the result is open.

    Raises `ConfigError` when it is not ours or open to others, and `OSError`, which is
    `BlockingIOError` when another process has the lock.
    """
    make_state_dir(state_dir)
    secure_state_dir(state_dir)
    fd = os.open(state_dir / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(fd)
        raise
    # Only so that another process can name this one: a full disk must not prevent the start.
    with contextlib.suppress(OSError):
        os.truncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
    return fd


def _holder(state_dir: Path) -> str:
    """Return words for the process that has the lock, if it has said its number yet."""
    try:
        pid = (state_dir / LOCK_FILE).read_text().strip()
    except OSError:
        return ""
    return f" (process {pid})" if pid else ""


def opening_failed(state_dir: Path, error: OSError) -> ConfigError | DiskFull:
    """Return the error that says what to do when the state directory could not be opened."""
    if isinstance(error, BlockingIOError):
        return ConfigError(
            f"another marginguard{_holder(state_dir)} runs with the state directory {state_dir};"
            " stop it, or give this one another [daemon] state_dir"
        )
    if error.errno in _DISK_FAILS:
        return DiskFull(f"the journal in {state_dir} cannot be opened: {error.strerror}")
    return ConfigError(
        f"[daemon] state_dir {state_dir}: {error.strerror}; name a directory that this user may"
        " write to"
    )
