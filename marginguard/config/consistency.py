"""Settings that are each allowed but contradict one another."""

from collections.abc import Collection, Iterator
from datetime import timedelta
from urllib.parse import urlsplit

import durationpy

from marginguard.config.fields import is_loopback
from marginguard.config.models import AccountSettings, ActionsSettings, File, GuardSettings
from marginguard.config.problems import Fault, Loc
from marginguard.domain.model import ActionKind

_ALWAYS_ALLOWED_TIMEOUT = timedelta(seconds=30)


def file_faults(file: File) -> Iterator[Fault]:
    """Yield the contradictions that concern the whole file."""
    yield from _timing(file)
    if file.exchange.rate_scale != 1 and not all(_on_this_machine(a) for a in file.accounts):
        yield _fault(
            "exchange",
            "rate_scale",
            rule="must be 1 unless every account's rest_url is on this machine: a real exchange"
            " would refuse calls over its limits",
        )
    seen: set[str] = set()
    keys: set[tuple[str, str]] = set()
    for index, account in enumerate(file.accounts):
        key = (account.rest_url, account.key.get_secret_value())
        if key in keys and account.id not in seen:
            yield _fault(
                "accounts", index, "key", rule="is another account's too: each needs its own"
            )
        keys.add(key)
        if account.id in seen:
            yield _fault("accounts", index, "id", rule="is used twice: each account needs its own")
        seen.add(account.id)


def _on_this_machine(account: AccountSettings) -> bool:
    return is_loopback(urlsplit(account.rest_url).hostname or "")


def _timing(file: File) -> Iterator[Fault]:
    daemon, exchange, actions = file.daemon, file.exchange, file.actions
    # A guard's executions never overlap: one that takes longer than the interval makes it miss
    # beats. That is refused as a contradiction, but not below 30 s: however short the interval,
    # an action on a slow network needs its seconds, and cutting it off would protect less.
    longest = max(daemon.interval, _ALWAYS_ALLOWED_TIMEOUT)
    if daemon.timeout > longest:
        yield _fault(
            "daemon",
            "timeout",
            rule=f"must be at most {_text(longest)}: not longer than interval,"
            " or than 30s where interval is shorter",
        )
    if exchange.timeout >= daemon.timeout:
        yield _fault(
            "exchange",
            "timeout",
            rule=f"must be shorter than daemon.timeout ({_text(daemon.timeout)}),"
            " in which a whole run of a guard must fit",
        )
    if actions.base_delay > actions.max_delay:
        yield _fault(
            "actions",
            "base_delay",
            rule=f"must be at most actions.max_delay ({_text(actions.max_delay)})",
        )
    if actions.settle_delay >= daemon.timeout:
        yield _fault(
            "actions",
            "settle_delay",
            rule=f"must be shorter than daemon.timeout ({_text(daemon.timeout)}),"
            " in which an action must be proved",
        )


def guard_faults(
    guard: GuardSettings, actions: ActionsSettings, accounts: Collection[str]
) -> Iterator[Fault]:
    """Yield the contradictions within one guard, and with what it refers to."""
    if guard.account not in accounts:
        known = ", ".join(sorted(accounts)) or "none, add one under [[accounts]]"
        yield _fault("account", rule=f"must be the id of one of the accounts ({known})")
    if guard.hysteresis >= guard.margin_threshold:
        yield _fault(
            "hysteresis",
            rule=f"must be below margin_threshold ({guard.margin_threshold:g}),"
            " or a breach could never end",
        )
    if guard.cooldown < actions.settle_delay:
        yield _fault(
            "cooldown",
            rule=f"must be at least actions.settle_delay ({_text(actions.settle_delay)}),"
            " after which an action is proved",
        )
    yield from _spending(guard)


def _spending(guard: GuardSettings) -> Iterator[Fault]:
    amount = guard.add_margin_amount
    has_target = "target_margin_level" in guard.model_fields_set
    if amount is not None and has_target:
        yield _fault("add_margin_amount", rule="give either this or target_margin_level, not both")
    needs_target = guard.action is ActionKind.ADD_MARGIN and amount is None
    if (has_target or needs_target) and guard.target_margin_level >= guard.margin_threshold:
        yield _fault(
            "target_margin_level",
            rule=f"must be below margin_threshold ({guard.margin_threshold:g}),"
            " or adding margin would not end the breach",
        )
    if amount is None:
        return
    for key in ("max_per_action", "max_per_position", "max_per_day"):
        limit: int | None = getattr(guard.budget, key)
        if limit is not None and limit < amount:
            yield _fault(
                "budget",
                key,
                rule=f"must be at least add_margin_amount ({amount}), or it is never added",
            )


def _fault(*loc: int | str, rule: str) -> Fault:
    way: Loc = loc
    return Fault(loc=way, rule=rule, shown=True)


def _text(duration: timedelta) -> str:
    text: str = durationpy.to_str(duration)
    return text
