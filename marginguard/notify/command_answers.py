"""What the commands of a chat are answered with: plain text, the worst first."""

from collections.abc import Sequence
from typing import Final
from zoneinfo import ZoneInfo

from marginguard.domain.model import ActionKind
from marginguard.domain.operating import GuardNow, Overview, PositionNow
from marginguard.domain.records import ActionRecord, ArmedState
from marginguard.notify.wording import local_time, margin_level, sats, usd

HELP: Final = """\
/status - is everything guarded? each position with its level
/guards - each guard, and what it does now
/pause GUARD 1h - the guard only alerts for so long (30m, 2h; at most 24h; 1h by default)
/resume GUARD - it acts again at once
/last - the last actions
/help - this list"""

_LONGEST_LINE: Final = 300
_ARMED_ORDER: Final = (ArmedState.DISARMED, ArmedState.DEGRADED, ArmedState.ARMED)


def status(overview: Overview, zone: ZoneInfo) -> list[str]:
    """Return the verdict, the guards that do not act as they should, and every position."""
    lines = [overview.protected]
    odd = [g for g in _in_order(overview.guards) if g.pause or g.armed is not ArmedState.ARMED]
    if odd:
        lines += ["", *(_guard(guard, zone) for guard in odd)]
    lines += ["", *(_position(position, zone) for position in _riskiest_first(overview.positions))]
    if not overview.positions:
        lines.append("No position has been seen.")
    return [*lines, "", local_time(overview.at, zone)]


def guards(overview: Overview, zone: ZoneInfo) -> list[str]:
    """Return each guard with its state, since when, and when it looked last."""
    lines = [
        f"{_guard(guard, zone)}. {_looked(guard, zone)}" for guard in _in_order(overview.guards)
    ]
    return [*(lines or ["There is no guard."]), "", local_time(overview.at, zone)]


def last(actions: Sequence[ActionRecord], zone: ZoneInfo) -> list[str]:
    """Return the actions that ended last, each with how it ended and what proves it."""
    if not actions:
        return ["No action has ended since marginguard was started."]
    return ["The newest first:", *(_action(action, zone) for action in actions)]


def _in_order(guards: Sequence[GuardNow]) -> list[GuardNow]:
    return sorted(guards, key=lambda g: (_ARMED_ORDER.index(g.armed), g.pause is None, g.guard_id))


def _riskiest_first(positions: Sequence[PositionNow]) -> list[PositionNow]:
    return sorted(positions, key=lambda p: (p.guard_id is not None, -p.level))


def _guard(guard: GuardNow, zone: ZoneInfo) -> str:
    words = f"{guard.guard_id} (account {guard.account_id}): {_state(guard)}"
    words += f" since {local_time(guard.since, zone)}"
    if guard.pause is not None:
        ends = local_time(guard.pause.until, zone)
        words += f"; its PAUSE ends at {ends}, or by /resume {guard.guard_id}"
    return words


def _state(guard: GuardNow) -> str:
    if guard.armed is ArmedState.ARMED:
        return "armed"
    return f"{guard.armed.value.upper()}, {guard.reason}"


def _looked(guard: GuardNow, zone: ZoneInfo) -> str:
    if guard.looked_at is None:
        return "It has not looked yet."
    return f"It looked last at {local_time(guard.looked_at, zone)}."


def _position(position: PositionNow, zone: ZoneInfo) -> str:
    liquidation = position.liquidation_price
    cover = "NOT GUARDED" if position.guard_id is None else f"guarded by {position.guard_id}"
    return (
        f"{position.position_id} (account {position.account_id}):"
        f" margin level {margin_level(position.level)}, risk {position.risk.value},"
        f" price {usd(position.price)},"
        f" liquidation {'never' if liquidation is None else f'at {usd(liquidation)}'},"
        f" {cover}, seen {local_time(position.seen_at, zone)}"
    )


def _action(action: ActionRecord, zone: ZoneInfo) -> str:
    ended_at = action.settled_at or action.intended_at
    words = (
        f"{local_time(ended_at, zone)}: {_what(action)} on {action.position_id}"
        f" by {action.guard_id} at level {margin_level(action.level)}:"
    )
    if action.dry_run:
        return f"{words} dry run, nothing was sent"
    words += f" {action.status.value}"
    detail = ", ".join(part for part in (action.proof, action.error) if part)
    return f"{words}: {detail}"[:_LONGEST_LINE] if detail else words


def _what(action: ActionRecord) -> str:
    words = action.kind.value.replace("_", " ")
    if action.kind.spends:
        return f"{words} of {sats(action.amount, action.before.price)}"
    if action.kind is ActionKind.REDUCE_POSITION:
        return f"{words} by {action.quantity:,} USD"
    return words
