"""The lock on an account that every daemon of this machine sees.

A file for each account, locked with flock(2) in a directory that all users share. The kernel
frees the lock when its holder ends, however it ends, and keeps it while its holder is frozen.
The file stays: whoever removed it could not know that nobody was just about to lock it. Its
name is a hash, for it tells of an account; any user may read it, or a daemon of another user
could not see that it is locked. Whoever may run programs on the machine can thus hold a lock
back, which is loud, but can make no two daemons hold one.
"""

import contextlib
import errno
import fcntl
import hashlib
import os
import pwd
import stat
import tempfile
from pathlib import Path
from typing import Final

from marginguard.storage.holder import Holder

SHARED_DIRECTORY: Final = Path("/run/lock")
"""Where Linux distributions let every user keep locks; emptied when the machine starts."""

_READABLE_BY_ALL: Final = 0o644
_LONGEST_LINE: Final = 2048


def account_digest(address: str, key: str) -> str:
    """Return what names an account without telling its key: a hash of both, in hexadecimal.

    `address` is the exchange's REST address, however it is written.
    """
    place = address.rstrip("/").lower()
    return hashlib.sha256(f"{place}\0{key}".encode()).hexdigest()[:32]


def lock_directory(shared: Path = SHARED_DIRECTORY) -> Path:
    """Return the directory for lock files: `shared`, or the temporary one where it is no good.

    No good is one that does not exist, that we cannot write to, or in which others could
    replace our files.
    """
    return shared if _is_good(shared) else Path(tempfile.gettempdir())


def _is_good(directory: Path) -> bool:
    try:
        status = directory.stat()
    except OSError:
        return False
    replaceable = status.st_mode & 0o022 and not status.st_mode & stat.S_ISVTX
    trusted = status.st_uid in {0, os.geteuid()}
    return (
        stat.S_ISDIR(status.st_mode)
        and trusted
        and not replaceable
        and os.access(directory, os.W_OK | os.X_OK)
    )


class HostLock:
    """The lock on one account, for as long as this object holds it."""

    def __init__(self, directory: Path, digest: str, ourselves: Holder) -> None:
        self.path = directory / f"marginguard-{digest}.lock"
        self._ourselves = ourselves
        self._fd: int | None = None

    def hold(self) -> str | None:
        """Take the lock, or see that it is still ours; return who else has it, or None.

        Never waits. Raises `OSError` when there can be no lock file.
        """
        if self._fd is not None:
            if self._is_the_file(self._fd):
                return None
            self.release()  # somebody removed the file: our lock on it keeps nobody out
        fd = self._open()
        if fd is None:
            return f"the file {self.path} belongs to {self._owner()}, who lets nobody read it"
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = Holder.of_line(os.pread(fd, _LONGEST_LINE, 0))
            os.close(fd)
            return f"{holder.in_words()}; `fuser -v {self.path}` shows it"
        except BaseException:
            os.close(fd)
            raise
        if not self._is_the_file(fd):
            os.close(fd)
            return f"the file {self.path} was just replaced"
        self._fd = fd
        self._sign(fd)
        return None

    def release(self) -> None:
        """Let go of the lock if it is held.

        The file stays: between our closing and our removing it another daemon may lock it, and a
        third one would then find no file and lock a new one. It holds no secret.
        """
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def _open(self) -> int | None:
        """Open the file, making it if it is missing; None if its owner does not let us.

        Never made and opened in one go: the kernel refuses that for another user's file in a
        directory that all share (fs.protected_regular).
        """
        flags = os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        with contextlib.suppress(FileExistsError):
            created = os.open(
                self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL | flags, _READABLE_BY_ALL
            )
            os.fchmod(created, _READABLE_BY_ALL)  # whatever the umask is
            return created
        for mode in (os.O_RDWR, os.O_RDONLY):  # flock asks for no more than to read
            with contextlib.suppress(PermissionError):
                fd = os.open(self.path, mode | flags)
                break
        else:
            return None
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            os.close(fd)
            raise FileExistsError(errno.EEXIST, "is not a plain file", str(self.path))
        return fd

    def _sign(self, fd: int) -> None:
        """Write down who we are, where we may; another user's file keeps what it says."""
        with contextlib.suppress(OSError):
            os.ftruncate(fd, 0)
            os.pwrite(fd, self._ourselves.to_line(), 0)

    def _is_the_file(self, fd: int) -> bool:
        """Whether what we have open still has the name that others look for."""
        try:
            return os.path.samestat(os.fstat(fd), self.path.lstat())
        except FileNotFoundError:
            return False

    def _owner(self) -> str:
        try:
            uid = self.path.lstat().st_uid
            return f"the user {pwd.getpwuid(uid).pw_name}"
        except (KeyError, OSError):
            return "another user"
