"""What `marginguard status` finds: what leaves positions unguarded, and what else to mend."""

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Final

from marginguard.app.notifications import set_up
from marginguard.cli.record import stale
from marginguard.config import Config, UserSettings
from marginguard.config.notifications import CHANNELS, ChannelName
from marginguard.diagnose.finding import Finding
from marginguard.domain.margin import show_level
from marginguard.domain.model import Side
from marginguard.domain.records import ArmedState, ExecutionStatus
from marginguard.notify.channel import Action
from marginguard.notify.trial import missing_recipient
from marginguard.storage.notification_reading import ChannelRecord, UnreachableUser
from marginguard.storage.reading import GuardView, PositionView

RESTORE_CHANNEL: Final = "restore_channel"
"""What to do for a user whom nothing reaches."""

_UNMET = {ExecutionStatus.FAILED, ExecutionStatus.PARTIAL}
_VERIFY = {
    "email": Action.VERIFY_SMTP_CONFIG,
    "telegram": Action.VERIFY_TELEGRAM_TOKEN,
    "webhook": Action.VERIFY_WEBHOOK_URL,
    "sms": Action.VERIFY_SMS_CONFIG,
}
_KEYS = {"email": "host and sender", "telegram": "token", "webhook": "url", "sms": "provider"}


def looked_at(guard: GuardView) -> datetime | None:
    """Return when the guard looked last, whether it found something to do or not."""
    return max((at for at in (guard.last_checked_at, guard.last_execution_at) if at), default=None)


def problems(
    config: Config, positions: Sequence[PositionView], guards: Sequence[GuardView], now: datetime
) -> Iterator[Finding]:
    """Yield what keeps positions from being guarded, the worst first."""
    gone = tuple(_daemon(config, positions, guards, now))
    yield from gone or _held_up(config, guards, now)
    yield from _unprotected(positions, guards)
    for guard in guards:
        if guard.armed is not ArmedState.ARMED and not _unneeded(config, guard, positions, now):
            yield _not_armed(guard, now)
    for position in positions:
        if position.guard_id is None:
            yield Finding(
                issue=f"position {position.position_id} of account {position.account_id} is not"
                f" covered by an armed guard (level {show_level(position.level)} %)",
                solution="add a [[guards]] table for it, or arm the guard that should",
                action="add_guard",
            )
    yield from _never_run(config, guards)
    yield from _idle(config, positions)


def unneeded_guards(
    config: Config, positions: Sequence[PositionView], guards: Sequence[GuardView], now: datetime
) -> Iterator[Finding]:
    """Yield the guards that are disarmed while nothing lacks them, for a trade that has ended."""
    for guard in guards:
        if guard.armed is not ArmedState.ARMED and _unneeded(config, guard, positions, now):
            yield _not_armed(guard, now)


def _daemon(
    config: Config, positions: Sequence[PositionView], guards: Sequence[GuardView], now: datetime
) -> Iterator[Finding]:
    looked = [at for guard in guards if (at := looked_at(guard)) is not None]
    newest = max([*looked, *(position.seen_at for position in positions)], default=None)
    if (words := stale(config, newest, now)) is not None:
        yield Finding(
            issue=words,
            solution="see whether it runs: systemctl status marginguard, and its log",
            action="start_daemon",
        )


def _held_up(config: Config, guards: Sequence[GuardView], now: datetime) -> Iterator[Finding]:
    """Yield the guards that are armed and have not looked for too long, while others have."""
    for guard in guards:
        looked = max(looked_at(guard) or guard.since, guard.since)
        if guard.armed is ArmedState.ARMED and now - looked > config.daemon.look_counts_for:
            yield Finding(
                issue=f"guard {guard.guard_id} looked last at {looked:%Y-%m-%d %H:%M:%S} UTC,"
                " while others went on",
                solution="look at its positions on the exchange; what holds it up is in the log:"
                " journalctl -u marginguard -p warning; restart the daemon if its run is stuck",
                action="restart_daemon",
            )


def of_config(config: Config, positions: Sequence[PositionView]) -> tuple[PositionView, ...]:
    """Return the positions of the accounts that are configured.

    The record may hold those of another daemon, and of an account that was taken out.
    """
    accounts = {account.id for account in config.accounts}
    return tuple(one for one in positions if one.account_id in accounts)


def _unprotected(
    positions: Sequence[PositionView], guards: Sequence[GuardView]
) -> Iterator[Finding]:
    """Yield the positions that are past where their guard acts, while it does not manage to."""
    failing = {guard.guard_id: guard for guard in guards if guard.last_execution_status in _UNMET}
    for position in positions:
        guard = failing.get(position.guard_id) if position.guard_id else None
        if guard is not None and _breached(position):
            why = f": {guard.last_execution_error}" if guard.last_execution_error else ""
            yield Finding(
                issue=f"position {position.position_id} is UNPROTECTED at level"
                f" {show_level(position.level)} %: the last run of guard {guard.guard_id}"
                f" was {guard.last_execution_status}{why}",
                solution="act on the exchange yourself now; what blocks the guard:"
                f" marginguard debug {guard.guard_id}",
                action="unblock_action",
            )


def _breached(position: PositionView) -> bool:
    trigger = position.trigger_price
    if trigger is None:
        return False
    return position.price <= trigger if position.side is Side.LONG else position.price >= trigger


def _unneeded(
    config: Config, guard: GuardView, positions: Sequence[PositionView], now: datetime
) -> bool:
    """Whether a disarmed guard still sees its account, and others cover all that runs there."""
    looked = looked_at(guard)
    fresh = looked is not None and now - looked <= config.daemon.look_counts_for
    if guard.armed is not ArmedState.DISARMED or not fresh or paused(guard, now):
        return False
    there = [one.guard_id for one in positions if one.account_id == guard.account_id]
    return not {None, guard.guard_id} & {*there}


def paused(guard: GuardView, now: datetime) -> bool:
    """Whether an operator has paused the guard, and the pause lasts."""
    return guard.paused_until is not None and guard.paused_until > now


def _not_armed(guard: GuardView, now: datetime) -> Finding:
    if paused(guard, now):
        return Finding(
            issue=f"guard {guard.guard_id} only alerts: it is paused until"
            f" {guard.paused_until:%Y-%m-%d %H:%M:%S} UTC by {guard.paused_by}",
            solution=f"end its pause: marginguard resume {guard.guard_id}",
            action="resume_guard",
        )
    return Finding(
        issue=f"guard {guard.guard_id} is {guard.armed.value}: {guard.reason}",
        solution=f"change what the reason names: marginguard debug {guard.guard_id}",
        action="arm_guard",
    )


def _never_run(config: Config, guards: Sequence[GuardView]) -> Iterator[Finding]:
    recorded = {guard.guard_id for guard in guards}
    for configured in config.guards:
        if configured.enabled and configured.id not in recorded:
            yield Finding(
                issue=f"guard {configured.id} is in the configuration and has never run",
                solution="let the daemon read the configuration again: systemctl reload"
                " marginguard",
                action="reload_daemon",
            )


def _idle(config: Config, positions: Sequence[PositionView]) -> Iterator[Finding]:
    """Yield the guards that cover a position and are told not to act on it."""
    covering = {position.guard_id for position in positions}
    for guard in config.guards:
        if guard.id not in covering:
            continue
        if guard.dry_run:
            yield Finding(
                issue=f"guard {guard.id} is a dry run: it decides, and sends nothing",
                solution="set dry_run = false and reload: systemctl reload marginguard",
                action="disable_dry_run",
            )
        elif not guard.auto_execution:
            yield Finding(
                issue=f"guard {guard.id} only tells and never acts (auto_execution = false)",
                solution="set auto_execution = true and reload: systemctl reload marginguard",
                action="enable_execution",
            )


def advice(
    config: Config, channels: Sequence[ChannelRecord], unreachable: Sequence[UnreachableUser]
) -> Iterator[Finding]:
    """Yield what to mend in the telling, users whom nothing reaches first."""
    for one in unreachable:
        yield Finding(
            issue=f"all channels failed for user {one.user_id}, and nothing has reached them"
            f" since {one.since:%Y-%m-%d %H:%M} UTC",
            solution=f"find out why: marginguard notify test --user {one.user_id}",
            action=RESTORE_CHANNEL,
        )
    wanted = {name for user in config.users for name in user.notifications.channels}
    for channel in channels:
        if channel.needs_attention and channel.channel in wanted:
            yield _failing(channel)
    for user in config.users:
        yield from ways_missing(config, user)


def _failing(channel: ChannelRecord) -> Finding:
    name = channel.channel
    parts = []
    if channel.settled:
        parts.append(f"{channel.delivered} of the last {channel.settled} arrived")
    if channel.failing:
        parts.append(f"{channel.failing} failing")
    why = f": {channel.last_error}" if channel.last_error else ""
    check = "check its mail server's settings" if name == "email" else "check its settings"
    return Finding(
        issue=f"{name}: {', '.join(parts)}{why}",
        solution=channel.advice
        or f"{check} under [notifications.{name}]: marginguard notify test --channel {name}",
        action=channel.action or _VERIFY.get(name, Action.CHECK_NETWORK).value,
    )


def ways_missing(config: Config, user: UserSettings) -> Iterator[Finding]:
    """Yield the channels that a user is meant to be told by, and cannot be.

    Meant is a channel that the user names, or has an address for, or that is set up. The webhook
    and the phone need no setting up, so they count where the user names them alone.
    """
    ready = set_up(config.notifications)
    chosen = "channels" in user.notifications.model_fields_set
    for name in CHANNELS:
        if name not in user.notifications.channels:
            continue
        address = _address(config, user, name)
        named = chosen or (name in ready and name != "webhook")
        if address and name not in ready:
            yield Finding(
                issue=f"user {user.id} has an address for {name}, and {name} is not set up",
                solution=f"set {_KEYS[name]} under [notifications.{name}]; then try:"
                f" marginguard notify test --channel {name}",
                action=_VERIFY[name].value,
            )
        elif named and not address:
            missing = missing_recipient(name, user.id)
            yield Finding(
                issue=missing.issue,
                solution=missing.solution,
                action="" if missing.action is None else missing.action.value,
            )


def _address(config: Config, user: UserSettings, name: ChannelName) -> bool:
    given = {
        "email": user.email,
        "telegram": user.telegram_chat_id,
        "webhook": user.webhook_url or config.notifications.webhook.url,
        "sms": user.phone,
    }
    return given[name] is not None
