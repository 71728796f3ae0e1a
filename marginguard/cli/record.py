"""What the commands share that read the record: opening it, and the options that bound it.

They need the database alone, so they work when the daemon does not run, and say so.
"""

import asyncio
import logging
import os
import re
import shutil
import sys
import textwrap
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final, TypeVar

import click
import orjson

from marginguard import logs
from marginguard.cli.common import ExitCode
from marginguard.config import Config, load_config
from marginguard.diagnose.finding import Finding
from marginguard.diagnose.nearest import nearest
from marginguard.domain.errors import ConfigError, DatabaseUnavailable
from marginguard.domain.units import AccountId, GuardId, PositionId
from marginguard.storage.database import Connection, acquired, close_pool, open_pool
from marginguard.storage.embedded import server_for_reading
from marginguard.storage.journal_lock import LOCK_FILE
from marginguard.storage.migrate import check_schema
from marginguard.storage.reading import has_records
from marginguard.storage.reading_executions import newest_look
from marginguard.storage.reading_positions import accounts_of

_T = TypeVar("_T")

_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_LONGEST: Final = timedelta(days=3660)
_WIDEST: Final = 100
_JOURNAL: Final = "journal.log"


class WrongUse(click.ClickException):
    """An argument that names nothing: told in one line, exit code 2."""

    exit_code = ExitCode.CONFIG

    def show(self, file: Any = None) -> None:  # noqa: ANN401 - click's protocol
        """Tell it as every other error is told."""
        click.echo(f"error: {self.message}", err=True, file=file)


def span_of(value: str, longest: timedelta = _LONGEST) -> timedelta:
    """Return the time that `value` says, such as `24h`; raises `click.BadParameter`."""
    parts = re.findall(r"(\d+(?:\.\d+)?)([smhdw])", value)
    if not parts or "".join(number + unit for number, unit in parts) != value:
        raise click.BadParameter(
            f"{value!r} is not a duration; write a number with a unit (s, m, h, d or w), such as"
            ' "90m", "24h" or "7d"'
        )
    seconds = sum(float(number) * _UNITS[unit] for number, unit in parts)
    if not 0 < seconds <= longest.total_seconds():
        most = f"{longest.days}d" if longest.days > 1 else f"{longest.total_seconds() / 3600:g}h"
        raise click.BadParameter(f"{value!r} must be above 0 and at most {most}")
    return timedelta(seconds=seconds)


def _moment(_: click.Context, __: click.Parameter, value: str) -> datetime:
    """Return the moment that is as long ago as `value` says, such as `24h`."""
    return datetime.now(UTC) - span_of(value)


def since_option(default: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Add `--since DURATION`, passed on as the moment `since`."""
    return click.option(
        "--since",
        callback=_moment,
        metavar="DURATION",
        default=default,
        show_default=True,
        help='How far to look back, such as "90m", "24h" or "7d".',
    )


account_option = click.option(
    "--account", "account_id", metavar="ACCOUNT", help="Whose position, where several have it."
)


@asynccontextmanager
async def database(config: Config) -> AsyncIterator[str]:
    """Give the URL of the configured database, or of the embedded server.

    Raises `ConfigError` where that holds no records yet.
    """
    if config.database.url is not None:
        yield config.database.url.get_secret_value()
        return
    state_dir = config.daemon.state_dir
    if not any(state_dir.glob("pg[0-9]*")):
        raise _nothing_recorded(config)
    async with server_for_reading(state_dir) as url:
        yield url


@asynccontextmanager
async def opened(config: Config) -> AsyncIterator[Connection]:
    """Give a connection to the record, once it is known to be one that this program reads.

    Raises `ConfigError` (no record yet, another version's) and `DatabaseUnavailable`.
    """
    try:
        async with database(config) as url:
            pool = await open_pool(url, max_connections=1)
            try:
                async with acquired(pool) as connection:
                    if not await has_records(connection):
                        raise _nothing_recorded(config)
                    await check_schema(connection)
                    yield connection
            finally:
                await close_pool(pool, timeout_s=1.0)
    except DatabaseUnavailable as error:
        raise DatabaseUnavailable(
            f"the record cannot be read: {error}. See whether PostgreSQL runs and can be reached"
            " ([database] url); the daemon guards on without it"
        ) from error


def _nothing_recorded(config: Config) -> ConfigError:
    if (config.daemon.state_dir / _JOURNAL).exists():
        return ConfigError(
            f"the database holds no records: those of the daemon are still in its journal in"
            f" {config.daemon.state_dir}, and go to the database as soon as both run (systemctl"
            " status marginguard; its log says what keeps the database away)"
        )
    where = (
        f"the state directory {config.daemon.state_dir}"
        if config.database.url is None
        else "the database of [database] url"
    )
    return ConfigError(
        f"{where} holds no records: no daemon has run with {config.path} yet."
        " Start one: marginguard run"
    )


def read(config_path: Path, query: Callable[[Connection, Config], Awaitable[_T]]) -> _T:
    """Return what `query` finds in the record; say on stderr when the daemon does not look.

    Logs go to stderr, warnings alone.
    """
    config = load_config(config_path, os.environ)
    logs.configure(environ=os.environ, secrets=config.secret_values(), level=logging.WARNING)

    async def run() -> tuple[_T, datetime | None]:
        async with opened(config) as connection:
            return await query(connection, config), await newest_look(connection)

    found, looked = asyncio.run(run())
    if (words := stale(config, looked, datetime.now(UTC))) is not None:
        click.echo(f"note: {words}; this is the record as it was left", err=True)
    return found


def stale(config: Config, looked: datetime | None, now: datetime) -> str | None:
    """Say that the daemon has not looked for longer than it should; None if it has."""
    # The embedded database is this machine's alone, and so is the daemon that writes to it.
    gone = config.database.url is None and daemon_pid(config) is None
    if not gone and looked is not None and now - looked <= config.daemon.look_counts_for:
        return None
    when = "never" if looked is None else f"last at {looked:%Y-%m-%d %H:%M:%S} UTC"
    return f"{'no daemon runs here: ' if gone else ''}the daemon looked {when}"


def daemon_pid(config: Config) -> int | None:
    """Return the process that works in the state directory; None if none is seen to."""
    try:
        pid = int((config.daemon.state_dir / LOCK_FILE).read_text())
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
    except (OSError, ValueError):
        return None
    # The file outlives the daemon, and its number may be another process's by now, even ours.
    return pid if b"marginguard" in command and pid != os.getpid() else None


def check_guard(config: Config, guard_id: GuardId | None, recorded: Iterable[str] = ()) -> None:
    """Raise `WrongUse` if no guard is called so; `recorded` are those of the past."""
    known = {g.id for g in config.guards} | {g.id for g in config.refused_guards} | {*recorded}
    if guard_id is None or guard_id in known:
        return
    raise unknown(f"there is no guard {guard_id!r}", nearest(guard_id, known))


def unknown(words: str, offer: str) -> WrongUse:
    """Return the error for a name that is not known, with what is offered in its place."""
    return WrongUse(f"{words}; {offer}" if offer else words)


async def account_of(
    connection: Connection, position_id: PositionId, wanted: AccountId | None
) -> AccountId | None:
    """Return the account that has, or had, the position; None if none did.

    Raises `WrongUse` where several do and none is `wanted`.
    """
    accounts = await accounts_of(connection, position_id)
    if wanted is not None:
        return wanted if wanted in accounts else None
    if len(accounts) > 1:
        raise WrongUse(
            f"several accounts have a position {position_id}: {', '.join(accounts)};"
            " name one with --account"
        )
    return accounts[0] if accounts else None


def echo_json(value: object) -> None:
    """Print one JSON value."""
    # The driver's UUIDs are of a class of its own.
    click.echo(orjson.dumps(value, default=str, option=orjson.OPT_NON_STR_KEYS))


def say(text: str, first: str = "", later: str | None = None) -> None:
    """Print a paragraph, broken to the terminal's width.

    `first` begins its first line, `later` (blanks as wide as `first`) the others. What would
    steer the terminal is left out: words of the exchange are among what is printed.
    """
    click.echo(
        textwrap.fill(
            "".join(char if char.isprintable() else " " for char in text),
            width=width(),
            initial_indent=first,
            subsequent_indent=" " * len(first) if later is None else later,
            break_long_words=False,
            break_on_hyphens=False,
        )
    )


def width() -> int:
    """Return how many columns to use."""
    return min(shutil.get_terminal_size().columns, _WIDEST)


def print_findings(found: Sequence[Finding], title: str) -> None:
    """Print findings with what to do about each; nothing where there are none."""
    if not found:
        return
    click.echo(f"\n{title}")
    for finding in found:
        say(finding.issue, "- ")
        say(finding.solution, "  ")


def when(at: datetime) -> str:
    """Return a moment for people, in UTC to the second."""
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%S}"


def end_with(problems: object) -> None:
    """End with the exit code 1 where there are problems."""
    sys.exit(ExitCode.PROBLEM if problems else ExitCode.FINE)
