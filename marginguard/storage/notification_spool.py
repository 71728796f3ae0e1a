"""The file that holds the notifications which the database does not hold yet."""

import asyncio
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import structlog

from marginguard.domain.errors import Malformed
from marginguard.domain.notification import Notification
from marginguard.storage.notification_rows import decode, encode

_ADVICE = "free space in the state directory; guarding and telling go on"


class NotificationSpool:
    """Keeps a few notifications in one file, which is replaced whole; it is fine without a disk."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._writing = asyncio.Lock()
        self._holds_some = False
        self._failed = False

    async def keep(self, rows: Callable[[], Sequence[Notification]]) -> None:
        """Make the file hold what `rows` returns, and that durably; never raises `OSError`.

        `rows` is asked when it is this caller's turn, so that the newest always win.
        """
        async with self._writing:
            now = rows()
            if not now and not self._holds_some:
                return
            try:
                await asyncio.to_thread(_replace, self._path, now)
            except OSError as error:
                if not self._failed:
                    structlog.get_logger().warning(
                        "notify.not_spooled", path=str(self._path), error=str(error), advice=_ADVICE
                    )
                self._failed = True
            else:
                self._holds_some = bool(now)
                self._failed = False

    async def read(self) -> tuple[Notification, ...]:
        """Return what the file holds; a damaged line is told of in the log and left out."""
        try:
            content = await asyncio.to_thread(self._path.read_bytes)
        except FileNotFoundError:
            return ()
        except OSError as error:
            structlog.get_logger().warning(
                "notify.spool_unreadable", path=str(self._path), error=str(error), advice=_ADVICE
            )
            return ()
        self._holds_some = True
        found = []
        for line in content.splitlines():
            try:
                found.append(decode(line))
            except Malformed as error:
                structlog.get_logger().warning(
                    "notify.spool_damaged",
                    path=str(self._path),
                    error=str(error),
                    advice="a notification was lost: look at `marginguard status`",
                )
        return tuple(found)


def _replace(path: Path, rows: Sequence[Notification]) -> None:
    """Replace the file in one step: after a crash it is the old one or the new one."""
    if not rows:
        path.unlink(missing_ok=True)
        return
    fresh = path.with_name(f"{path.name}.new")
    fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "wb") as file:
        for row in rows:
            file.write(encode(row) + b"\n")
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
