"""The lock on the embedded server's directory: one server, one daemon."""

import asyncio
import fcntl
import os
from pathlib import Path

from marginguard.domain.errors import ConfigError

_POLL_S = 0.05


class StateDirLocked(ConfigError):
    """Another process works on this state directory: end it, or use what it runs."""


class StateLock:
    """The lock on a state directory; the kernel frees it when its holder ends."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd: int | None = None

    @property
    def held(self) -> bool:
        """Whether we hold it."""
        return self._fd is not None

    async def acquire(self, *, patience_s: float) -> None:
        """Take the lock, waiting at most `patience_s` for its holder to let go.

        Raises `StateDirLocked`, which names the holder.
        """
        fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            if os.geteuid() == 0:  # the directory's owner shall be able to take it as well
                owner = self._path.parent.stat()
                os.fchown(fd, owner.st_uid, owner.st_gid)
            await self._lock(fd, patience_s)
            os.ftruncate(fd, 0)
            os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
        except BaseException:
            os.close(fd)
            raise
        self._fd = fd

    async def _lock(self, fd: int, patience_s: float) -> None:
        deadline = asyncio.get_running_loop().time() + patience_s
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                if asyncio.get_running_loop().time() >= deadline:
                    holder = os.pread(fd, 32, 0).decode(errors="replace").strip() or "unknown"
                    raise StateDirLocked(
                        f"another marginguard (pid {holder}) works in {self._path.parent}: stop "
                        "it, or give this one a [daemon] state_dir of its own"
                    ) from error
                await asyncio.sleep(_POLL_S)
            else:
                return

    def release(self) -> None:
        """Let go of the lock if it is held; the file stays."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None
