"""`marginguard chart`: a position's margin level over time, with thresholds and actions."""

from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Final

import click

from marginguard.cli.common import config_option
from marginguard.cli.record import (
    WrongUse,
    account_of,
    account_option,
    read,
    say,
    since_option,
    unknown,
    when,
    width,
)
from marginguard.config import Config, rules_of
from marginguard.diagnose.chart import Chart
from marginguard.diagnose.chart import chart as chart_of
from marginguard.diagnose.chart_files import png, svg
from marginguard.diagnose.chart_text import draw
from marginguard.diagnose.nearest import nearest
from marginguard.domain.margin import show_level
from marginguard.domain.records import ActionRecord
from marginguard.domain.units import AccountId, GuardId, Percent, PositionId
from marginguard.storage import reading_positions
from marginguard.storage.database import Connection
from marginguard.storage.reading_executions import known_ids

_MOST_SAMPLES: Final = 100_000
_MOST_ACTIONS: Final = 1000
_NEWEST_IDS: Final = 500
_FORMATS: Final[dict[str, Callable[[Chart], bytes]]] = {".svg": svg, ".png": png}


@click.command()
@click.argument("position_id", metavar="POSITION")
@account_option
@since_option("24h")
@click.option(
    "-o",
    "--output",
    metavar="FILE",
    type=click.Path(path_type=Path, dir_okay=False),
    help="A file to write, .svg or .png; without it the chart is shown here.",
)
@config_option
def chart(
    config_path: Path,
    *,
    position_id: PositionId,
    account_id: AccountId | None,
    since: datetime,
    output: Path | None,
) -> None:
    """Draw a position's margin level over time, with the thresholds and what was done.

    POSITION is the exchange's id of a trade, or "cross". Reads the database alone, whether the
    daemon runs or not.
    """
    if output is not None and output.suffix.lower() not in _FORMATS:
        raise WrongUse(f"--output {output}: name a file that ends in .svg or .png")

    async def query(connection: Connection, config: Config) -> tuple[Chart, str]:
        account = await account_of(connection, position_id, account_id)
        if account is None:
            of_account = "" if account_id is None else f" of account {account_id}"
            known = await known_ids(connection, newest=_NEWEST_IDS)
            raise unknown(
                f"the record holds no position {position_id}{of_account}",
                nearest(position_id, known),
            )
        ids = await reading_positions.lineage(connection, account, position_id)
        samples = await reading_positions.levels(
            connection, account, ids, since=since, limit=_MOST_SAMPLES
        )
        if not samples:
            raise WrongUse(
                f"position {position_id} was not seen since {when(since)} UTC: look farther back"
                " with --since"
            )
        actions = await reading_positions.actions_of(connection, account, ids, limit=_MOST_ACTIONS)
        newest, highest = samples[-1], max(samples, key=lambda one: one.level)
        answer = (
            f"Position {position_id} of account {account}: level {show_level(newest.level)} % at"
            f" {when(newest.seen_at)} UTC, at most {show_level(highest.level)} % at"
            f" {when(highest.seen_at)}"
        )
        called = max((one for one in actions if one.intended_at >= since), key=_level, default=None)
        if called is not None and called.level > highest.level:
            answer += (
                f"; an action was called for at {show_level(called.level)} %"
                f" at {when(called.intended_at)}"
            )
        title = f"Margin level of position {position_id}, account {account} (UTC)"
        thresholds = _thresholds(config, newest.guard_id, ids)
        return chart_of(title, samples, actions, thresholds=thresholds), answer

    drawn, answer = read(config_path, query)
    say(answer)
    if output is None:
        click.echo(draw(drawn, width=width()))
        _print_marks(drawn)
    else:
        _write(drawn, output)


def _level(action: ActionRecord) -> Percent:
    return action.level


def _thresholds(
    config: Config, guard_id: GuardId | None, ids: Sequence[PositionId]
) -> tuple[Percent, ...]:
    """Return the thresholds that the guard's configuration has for the position now."""
    guard = next((one for one in config.guards if one.id == guard_id), None)
    if guard is None:
        return ()
    rules = rules_of(guard, config.actions)
    origin = next((id_ for id_ in ids if id_ in rules.individual), ids[0])
    return tuple(rung.threshold for rung in rules.ladder_of(origin).all_rungs)


def _print_marks(drawn: Chart) -> None:
    for mark in drawn.marks:
        say(f"level {show_level(mark.level)} %: {mark.text}", f"{when(mark.at)} ")


def _write(drawn: Chart, output: Path) -> None:
    try:
        content = _FORMATS[output.suffix.lower()](drawn)
    except ImportError:
        raise WrongUse(
            f"--output {output}: a PNG needs Pillow; install it with"
            " `pip install 'marginguard[chart]'`, or name a file that ends in .svg"
        ) from None
    try:
        output.write_bytes(content)
    except OSError as error:
        raise WrongUse(f"--output {output} cannot be written: {error.strerror}") from error
    click.echo(f"Written to {output}")
