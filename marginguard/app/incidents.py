"""Gathering what an incident's archive holds: from the machine, the file, the journal."""

import json
import platform
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, Final

import tomlkit

import marginguard
from marginguard.config import Config
from marginguard.diagnose.incident import LeftOut, Part
from marginguard.diagnose.incident_config import secrets_in, without_secrets

_JOURNAL_TIMEOUT_S: Final = 60.0
_MOST_LINES: Final = 200_000
_SERVER_LOG_BYTES: Final = 1024 * 1024


def raw_config(path: Path) -> Mapping[str, Any] | None:
    """Return what the file says, resolved in nothing; None if it is not TOML that can be read."""
    try:
        return tomllib.loads(path.read_bytes().decode("utf-8-sig"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError):
        return None


def known_secrets(config: Config | None, raw: Mapping[str, Any] | None) -> frozenset[str]:
    """Return everything that must not be in the archive."""
    written = frozenset[str]() if raw is None else frozenset(secrets_in(raw))
    return written if config is None else written | config.secret_values()


def config_part(raw: Mapping[str, Any]) -> Part:
    """Return the configuration without its secrets, comments and personal data."""
    return Part(name="config.toml", text=tomlkit.dumps(without_secrets(raw)))


def versions_part(server: str | None) -> Part:
    """Return the versions of everything that takes part; `server` is PostgreSQL's."""
    versions = {
        "marginguard": marginguard.__version__,
        "python": sys.version,
        "platform": platform.platform(),
        "postgresql": server,
        "packages": dict(_packages()),
    }
    return Part(name="versions.json", text=json.dumps(versions, indent=2) + "\n")


def state_part(state_dir: Path) -> Part | LeftOut:
    """Return what lies in the state directory, by name, size and time, and the room left."""
    name = "state.json"
    try:
        files = {
            str(path.relative_to(state_dir)): {
                "bytes": (status := path.lstat()).st_size,
                "mode": oct(status.st_mode),
                "modified": datetime.fromtimestamp(status.st_mtime, UTC).isoformat(),
            }
            for path in sorted(state_dir.iterdir())
        }
        free = shutil.disk_usage(state_dir).free
    except OSError as error:
        return LeftOut(part=name, reason=f"{state_dir}: {error.strerror}")
    found = {"directory": str(state_dir), "free_bytes": free, "files": files}
    return Part(name=name, text=json.dumps(found, indent=2) + "\n")


def server_log_part(state_dir: Path) -> Part | LeftOut:
    """Return the end of the embedded server's log."""
    name = "postgres.log"
    try:
        with (state_dir / name).open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - _SERVER_LOG_BYTES))
            return Part(name=name, text=file.read().decode(errors="replace"))
    except OSError as error:
        return LeftOut(part=name, reason=f"{state_dir / name}: {error.strerror}")


def journal_part(unit: str, since: datetime) -> Part | LeftOut:
    """Return the unit's log since then, if journalctl lets us read it."""
    name = "journal.log"
    command = shutil.which("journalctl")
    if command is None:
        return LeftOut(part=name, reason="this machine has no journalctl")
    arguments = ["--unit", unit, "--since", f"@{since.timestamp():.0f}", "--no-pager", "--quiet"]
    arguments += ["--output", "short-iso-precise", "--lines", str(_MOST_LINES)]
    try:
        answer = subprocess.run(  # noqa: S603 - a program found on the path, with fixed options
            [command, *arguments], capture_output=True, timeout=_JOURNAL_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return LeftOut(part=name, reason=f"journalctl: {error}")
    text = answer.stdout.decode(errors="replace")
    if answer.returncode != 0 or not text.strip():
        said = answer.stderr.decode(errors="replace").strip().partition("\n")[0]
        why = said or f"it has nothing of the unit {unit} since then that this user may read"
        return LeftOut(part=name, reason=f"journalctl: {why}")
    return Part(name=name, text=text)


def _packages() -> Iterator[tuple[str, str]]:
    """Yield the packages that this one needs, with the versions that are installed."""
    try:
        needed = metadata.requires("marginguard") or []
    except metadata.PackageNotFoundError:
        return
    names = {match.group() for line in needed if (match := re.match(r"[A-Za-z0-9_.-]+", line))}
    for name in sorted(names):
        try:
            yield name, metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
