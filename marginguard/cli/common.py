"""What every command shares: the option that names the configuration, and how errors end."""

import shutil
import sys
import textwrap
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import IntEnum
from pathlib import Path
from typing import Any

import click

from marginguard.domain.errors import ConfigError, MarginguardError

DEFAULT_CONFIG = Path("/etc/marginguard/config.toml")
_WIDEST = 100


class ExitCode(IntEnum):
    """What a command's exit says to a script."""

    FINE = 0
    PROBLEM = 1
    CONFIG = 2
    FAILED = 3
    INTERRUPTED = 130


def config_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add `--config FILE`, passed on as the argument `config_path`."""
    return click.option(
        "--config",
        "config_path",
        metavar="FILE",
        type=click.Path(path_type=Path),
        default=DEFAULT_CONFIG,
        envvar="MARGINGUARD_CONFIG",
        help=f"The configuration [default: $MARGINGUARD_CONFIG, then {DEFAULT_CONFIG}].",
    )(command)


def json_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add `--json`, passed on as the argument `as_json`."""
    return click.option(
        "--json", "as_json", is_flag=True, help="Print one JSON value on stdout, nothing else."
    )(command)


@contextmanager
def error_boundary() -> Iterator[None]:
    """End the process with the exit code and the words that an error calls for.

    Only a fault of the program itself shows a traceback. A closed pipe is left to click, which
    ends quietly.
    """
    try:
        yield
    except KeyboardInterrupt:
        sys.exit(ExitCode.INTERRUPTED)
    except BrokenPipeError:
        raise
    except (click.exceptions.Exit, click.Abort, click.ClickException):
        raise
    except Exception as error:  # noqa: BLE001 - the last resort: nothing above can handle it
        sys.exit(_tell(error))


def _tell(error: Exception) -> ExitCode:
    from marginguard import logs  # noqa: PLC0415 - --help need not wait 0.2 s for it

    members = list(_members(error))
    if not all(isinstance(member, MarginguardError) for member in members):
        click.echo(logs.redacted("".join(traceback.format_exception(error))), nl=False, err=True)
        return ExitCode.FAILED
    for member in members:
        for line in str(member).splitlines():
            click.echo(logs.redacted(f"error: {line}"), err=True)
    only_config = all(isinstance(member, ConfigError) for member in members)
    return ExitCode.CONFIG if only_config else ExitCode.FAILED


def _members(error: Exception) -> Iterator[Exception]:
    """Yield the errors of a group (a task group's, say), or the error itself."""
    if isinstance(error, ExceptionGroup):
        for member in error.exceptions:
            yield from _members(member)
    else:
        yield error


def paragraph(start: str, text: str, every: str = "") -> str:
    """Return `text` after `start`, broken to the terminal's width.

    Later lines begin with `every`, and are indented as deep as `start` is long.
    """
    hanging = len(start) if start.strip() else len(start) + 2
    return textwrap.fill(
        text,
        width=min(shutil.get_terminal_size().columns, _WIDEST),
        initial_indent=start,
        subsequent_indent=every.ljust(hanging),
        break_long_words=False,
        break_on_hyphens=False,
    )
