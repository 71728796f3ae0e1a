"""The command line: `marginguard COMMAND`. Each command's module is imported when it is used."""

import importlib
from typing import Any, Final, NamedTuple

import click

from marginguard import __version__
from marginguard.cli.common import error_boundary


class _Command(NamedTuple):
    """Where a command is found, and what it does in one line."""

    module: str
    attribute: str
    help: str


COMMANDS: Final = {
    "run": _Command("marginguard.cli.run", "run", "Guard the configured accounts."),
    "check": _Command("marginguard.cli.check", "check", "Say what is wrong with a configuration."),
    "status": _Command("marginguard.cli.status", "status", "Show positions, levels and guards."),
    "debug": _Command(
        "marginguard.cli.debug", "debug", "Say why a guard does or does not act, on live data."
    ),
    "credentials": _Command(
        "marginguard.cli.credentials", "credentials", "Say whether the accounts' keys are good."
    ),
    "account": _Command("marginguard.cli.account", "account", "Say how the accounts stand."),
    "notify": _Command("marginguard.cli.notify", "notify", "Try the ways users are told."),
    "explain": _Command(
        "marginguard.cli.explain", "explain", "Tell what happened in an execution or to a position."
    ),
    "executions": _Command("marginguard.cli.executions", "executions", "List what guards did."),
    "analyze": _Command(
        "marginguard.cli.analyze", "analyze", "Say how executions or notifications went."
    ),
    "profile": _Command("marginguard.cli.profile", "profile", "Say where time and memory go."),
    "chart": _Command("marginguard.cli.chart", "chart", "Draw a position's margin level."),
    "incident": _Command(
        "marginguard.cli.incident", "incident", "Pack what a report of a fault needs."
    ),
    "pause": _Command("marginguard.cli.control", "pause", "Let a guard only alert for a while."),
    "resume": _Command("marginguard.cli.control", "resume", "End a guard's pause."),
    "run-now": _Command("marginguard.cli.control", "run_now", "Run a guard at once."),
    "reload": _Command("marginguard.cli.control", "reload", "Have the configuration read again."),
    "recover": _Command("marginguard.cli.recover", "recover", "Do afresh what went wrong."),
    "demo": _Command("marginguard.cli.demo", "demo", "Watch guards work through a real crash."),
    "simulator": _Command("marginguard.cli.simulator", "simulator", "Serve a simulated exchange."),
}


class _LazyGroup(click.Group):
    """Knows its commands by name, so that `run` never loads what only `demo` needs."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's protocol
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - click's protocol
        if (entry := COMMANDS.get(cmd_name)) is None:
            return None
        command: click.Command = getattr(importlib.import_module(entry.module), entry.attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - click's protocol
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry.help) for name, entry in COMMANDS.items()])

    def invoke(self, ctx: click.Context) -> Any:  # noqa: ANN401 - click's protocol
        with error_boundary():
            return super().invoke(ctx)


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="marginguard", message="%(prog)s %(version)s")
def main() -> None:
    """Guard leveraged positions on LN Markets against liquidation."""
