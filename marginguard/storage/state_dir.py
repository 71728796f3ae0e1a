"""The directory that holds whatever the daemon keeps."""

import os
import pwd
import stat
from pathlib import Path
from typing import Final

import structlog

from marginguard.domain.errors import ConfigError

_PRIVATE_FILES: Final = (
    "journal.*",
    "refused.jsonl",
    "postgres.lock",
    "postgres.log",
    "postgres.log.1",
)
_OURS: Final = "journal.lock"
"""What a state directory in use has, and hardly any other directory."""


def make_state_dir(state_dir: Path) -> None:
    """Create the state directory if it is missing; an existing one is left as it is.

    It is its owner's alone. Root's can be passed through by others, but not listed: PostgreSQL
    does not run as root, and its data lies within. Raises `OSError`.
    """
    if not state_dir.is_dir():
        state_dir.mkdir(parents=True, exist_ok=True)
        state_dir.chmod(_widest_mode())


def secure_state_dir(state_dir: Path) -> None:
    """See to it that the existing directory is ours and that no other user can use it.

    What others can only read is closed to them, and that is logged. Raises `ConfigError` for
    what only somebody else can put right: another owner, a directory that others can write to
    (what lies in it may not be ours) or that we cannot; `OSError` for what the system says.
    """
    status = state_dir.stat()
    if os.geteuid() not in {0, status.st_uid}:
        raise ConfigError(
            f"[daemon] state_dir {state_dir} belongs to {_user(status.st_uid)}: run marginguard as"
            f" that user, or name a directory of {_user(os.geteuid())}"
        )
    if status.st_mode & 0o022:
        raise ConfigError(
            f"[daemon] state_dir {state_dir} can be written to by other users (its mode is"
            f" {stat.S_IMODE(status.st_mode):04o}): see that all in it is yours, then"
            f" `chmod go-w {state_dir}`, or name a directory of its own"
        )
    read_only = os.statvfs(state_dir).f_flag & os.ST_RDONLY  # a failing disk: not the operator's
    if not read_only and not os.access(state_dir, os.W_OK | os.X_OK):
        raise ConfigError(
            f"[daemon] state_dir {state_dir} cannot be written to by {_user(os.geteuid())} (its"
            f" mode is {stat.S_IMODE(status.st_mode):04o}): `chmod 0700 {state_dir}`, or name"
            " another directory"
        )
    _close(state_dir, status)


def _close(state_dir: Path, status: os.stat_result) -> None:
    """Take from others what they may read; raises `ConfigError` for a file that is not ours."""
    too_open: list[Path] = []
    for path in sorted({path for name in _PRIVATE_FILES for path in state_dir.glob(name)}):
        file = path.lstat()
        if not stat.S_ISREG(file.st_mode):
            raise ConfigError(
                f"{path} is not a plain file: find out who made it and remove it, or name another"
                " [daemon] state_dir"
            )
        if os.geteuid() not in {0, file.st_uid}:
            raise ConfigError(
                f"{path} belongs to {_user(file.st_uid)}, who ran marginguard here: `chown -R"
                f" {os.geteuid()} {state_dir}`, or name another [daemon] state_dir"
            )
        if file.st_mode & 0o077:
            path.chmod(0o600)
            too_open.append(path)
    # A directory that holds anything else may be somebody's home, which is not ours to close.
    in_use = (state_dir / _OURS).exists() or not any(state_dir.iterdir())
    if in_use and stat.S_IMODE(status.st_mode) & ~_widest_mode() & 0o077:
        state_dir.chmod(stat.S_IMODE(status.st_mode) & (_widest_mode() | 0o700))
        too_open.append(state_dir)
    if too_open:
        structlog.get_logger().warning(
            "state_dir.closed_to_others",
            paths=[str(path) for path in too_open],
            advice="other users could read what the daemon keeps, and now cannot; see who did",
        )


def _widest_mode() -> int:
    return 0o711 if os.geteuid() == 0 else 0o700


def _user(uid: int) -> str:
    try:
        return f"the user {pwd.getpwuid(uid).pw_name}"
    except KeyError:
        return f"user id {uid}"
