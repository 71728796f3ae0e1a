"""The one screen of `marginguard status`: the answer first, then what matters most."""

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Final

from rich.text import Text

from marginguard.cli.status_findings import RESTORE_CHANNEL, looked_at, paused
from marginguard.diagnose.finding import Finding
from marginguard.diagnose.story import asked
from marginguard.domain.margin import show_level
from marginguard.domain.model import MarginMode
from marginguard.domain.records import ActionRecord, ActionStatus, ArmedState
from marginguard.storage.notification_reading import ChannelRecord
from marginguard.storage.reading import GuardView, PositionView

_ALARM: Final = "bold white on red"
_ALARM_TEXT: Final = "bold red"
_HEAD: Final = "bold"
_RISK_STYLES: Final = {
    "low": "yellow",
    "medium": "yellow",
    "high": "red",
    "critical": "bold red",
}
_FOR_COLUMNS: Final = 80
"""From how many columns on the figures of positions stand in columns of their own."""

_ROOM_FOR_ONE: Final = 2
"""How many lines an action takes with the words above it."""

_CROSS: Final = (
    "The cross position has no backstop: the exchange keeps no stop-loss for the cross position,"
    " so nothing protects it while the daemon does not run."
)


class Answer(StrEnum):
    """Whether the owner is protected."""

    PROTECTED = "protected"
    NOT_PROTECTED = "not_protected"
    UNKNOWN = "unknown"
    NOTHING_TO_PROTECT = "nothing_to_protect"


@dataclass(frozen=True, kw_only=True, slots=True)
class Status:
    """The record as it is now.

    `problems` are why the owner is not protected, or why that is not known; `advice` is what else
    to mend, users whom nothing reaches first. `channels` are those by which somebody is told.
    """

    answer: Answer
    problems: Sequence[Finding]
    advice: Sequence[Finding] = ()
    positions: Sequence[PositionView] = ()
    guards: Sequence[GuardView] = ()
    channels: Sequence[ChannelRecord] = ()
    actions: Sequence[ActionRecord] = ()


def screen(found: Status, *, width: int, height: int | None = None) -> list[Text]:
    """Return the lines of the screen, none wider than `width`.

    Of the advice, and of the actions, which come last, as much is shown as `height` leaves room
    for.
    """
    urgent = [one for one in found.advice if one.action == RESTORE_CHANNEL]
    words, style = _first(found)
    lines = _wrapped("", words, width, style)
    for one in (*found.problems, *urgent):
        lines += _finding(one, width)
    if found.positions:
        lines += _positions(found.positions, width)
    if found.guards:
        lines.append(Text("Guards", style=_HEAD))
        for guard in found.guards:
            lines += _guard(guard, width)
    if found.channels:
        lines.append(Text("Telling", style=_HEAD))
        for channel in found.channels:
            lines += _wrapped("  ", _channel(channel), width)
    room = None if height is None else height - len(lines)
    lines += _advice(found.advice[len(urgent) :], width, room)
    room = None if height is None else height - len(lines)
    lines += _actions(found.actions, width, room)
    return lines


def _advice(advice: Sequence[Finding], width: int, room: int | None) -> list[Text]:
    """Return what there is room for: the answer is not to be pushed off the screen."""
    lines = [_finding(one, width) for one in advice]
    shown = len(lines)
    while room is not None and shown and sum(map(len, lines[:shown])) > room - (shown < len(lines)):
        shown -= 1
    found = [line for one in lines[:shown] for line in one]
    if shown < len(lines):
        more = f"- {len(lines) - shown} more to mend: marginguard status | less"
        found += _wrapped("", more, width)
    return found


def _first(found: Status) -> tuple[str, str]:
    """Return the answer in words, and how it looks."""
    match found.answer:
        case Answer.NOT_PROTECTED:
            reasons = len(found.problems)
            return f"NOT PROTECTED: {reasons} reason{'s' if reasons > 1 else ''}", _ALARM
        case Answer.UNKNOWN:
            return "UNKNOWN: the record cannot be read", _ALARM
        case Answer.PROTECTED if len(found.positions) == 1:
            return "PROTECTED: 1 position, with an armed guard", "bold green"
        case Answer.PROTECTED:
            words = f"PROTECTED: {len(found.positions)} positions, each with an armed guard"
            return words, "bold green"
        case Answer.NOTHING_TO_PROTECT:
            return "NOTHING TO PROTECT: no position runs", _HEAD


def _finding(finding: Finding, width: int) -> list[Text]:
    style = _ALARM_TEXT if finding.action == RESTORE_CHANNEL else ""
    return _wrapped("- ", finding.issue, width, style) + _wrapped(
        "  cure: ", finding.solution, width
    )


def _positions(rows: Sequence[PositionView], width: int) -> Iterator[Text]:
    seen = f"seen {ago(min(row.seen_at for row in rows))}"
    if width >= _FOR_COLUMNS:
        columns = f"{'price':>12}{'trigger':>12}{'liquidation':>12}"
        yield Text.assemble((f"{'Positions':<20}", _HEAD), columns, f"   {seen}")
    else:
        yield Text(f"Positions, {seen}", style=_HEAD)
    for row in rows:
        level = f"{show_level(row.level)} %"
        risk = (f"{row.risk.value:<9}", _RISK_STYLES.get(row.risk, ""))
        prices = (row.price, row.trigger_price, row.liquidation_price)
        if width >= _FOR_COLUMNS:
            figures = "".join(f"{_price(one):>12}" for one in prices)
            yield Text.assemble(f"  {level:<9}", risk, figures, f"   {_stop_loss(row)}")
        else:
            yield Text.assemble(f"  {level} ", (row.risk.value, risk[1]))
            words = "price {}, trigger {}, liquidation {}".format(*map(_price, prices))
            yield from _wrapped("    ", f"{words}, {_stop_loss(row)}", width)
        yield from _wrapped("    ", _whose(row), width, "" if row.guard_id else _ALARM_TEXT)
    if any(row.mode is MarginMode.CROSS for row in rows):
        yield from _wrapped("  ", _CROSS, width)


def _whose(row: PositionView) -> str:
    words = f"{row.position_id} {row.account_id}, {row.side.value} {row.quantity:,} USD"
    if row.original_margin is not None:
        # What a trade that a reduction reopened has left of the margin that it began with.
        words += f", margin {row.margin:,} of {row.original_margin:,} sats"
    return f"{words}, {f'guard {row.guard_id}' if row.guard_id else 'NO GUARD'}"


def _stop_loss(row: PositionView) -> str:
    if row.mode is MarginMode.CROSS:
        return "no backstop"
    if row.backstop is not None:
        return f"backstop {_price(row.backstop)}"
    if row.stop_loss is not None:
        return f"stop-loss {_price(row.stop_loss)}"
    return "no stop-loss"


def _guard(row: GuardView, width: int) -> Iterator[Text]:
    looked = looked_at(row)
    armed = row.armed is ArmedState.ARMED
    state = "armed" if armed else f"{row.armed.value.upper()} since {row.since:%H:%M} UTC"
    if row.paused_until is not None and paused(row, datetime.now(UTC)):
        state = f"PAUSED until {row.paused_until:%H:%M} UTC"
    words = f"{row.guard_id} ({row.account_id}): {state}, "
    words += "never looked" if looked is None else f"looked {ago(looked)}"
    if row.last_execution_at is not None:
        words += f"; last run {row.last_execution_status} {ago(row.last_execution_at)}"
        if row.last_execution_error:
            words += f": {row.last_execution_error}"
    yield from _wrapped("  ", words, width, "" if armed else _ALARM_TEXT)


def _channel(row: ChannelRecord) -> str:
    if row.success_rate is None:
        words = "nothing has arrived yet" if row.pending else "nothing sent yet"
    else:
        words = f"{row.success_rate:.0%} of the last {row.settled} arrived"
    if row.last_delivery_at is not None:
        words += f", the last {ago(row.last_delivery_at)}"
    if row.pending:
        words += f", {row.pending} waiting"
    return f"{row.channel}: {words}"


def _actions(rows: Sequence[ActionRecord], width: int, room: int | None) -> Iterator[Text]:
    if not rows or (room is not None and room < _ROOM_FOR_ONE):
        return
    yield Text("Newest actions", style=_HEAD)
    used = 1
    for row in rows:
        lines = list(_action(row, width))
        used += len(lines)
        if room is not None and used > room:
            return
        yield from lines


def _action(row: ActionRecord, width: int) -> Iterator[Text]:
    status = "dry run" if row.dry_run else row.status.value
    words = f"{ago(row.intended_at)}, {row.guard_id}: {asked(row)}: {status}"
    if row.successor is not None:
        words += f", now {row.successor}"
    worked = row.dry_run or row.status is ActionStatus.DONE
    if not worked and row.error:
        words += f": {row.error}"
    yield from _wrapped("  ", words, width, "" if worked else "yellow")


def _wrapped(indent: str, text: str, width: int, style: str = "") -> list[Text]:
    """Return a paragraph as lines; what would steer the terminal is left out."""
    printable = "".join(char if char.isprintable() else " " for char in text)
    lines = textwrap.wrap(
        printable,
        width=width,
        initial_indent=indent,
        subsequent_indent="  " if indent == "- " else "    ",
        break_on_hyphens=False,
    )
    return [Text(line, style=style) for line in lines]


def _price(price: float | None) -> str:
    return "none" if price is None else f"{price:,.1f}"


def ago(at: datetime) -> str:
    """Return a moment for people: how long ago while that is short."""
    age = max(timedelta(0), datetime.now(UTC) - at)
    if age < timedelta(minutes=2):
        return f"{age.seconds} s ago"
    if age < timedelta(hours=2):
        return f"{age.seconds // 60} min ago"
    if age < timedelta(days=2):
        return f"{age // timedelta(hours=1)} h ago"
    return f"{age.days} days ago"
