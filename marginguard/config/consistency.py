"""Settings of the whole file that are each allowed but contradict one another."""

import re
from collections.abc import Iterator
from datetime import timedelta
from urllib.parse import urlsplit

from marginguard.config.fields import duration_text, is_loopback
from marginguard.config.models import AccountSettings, File
from marginguard.config.problems import Fault, Loc
from marginguard.config.table import NAME_PATTERN, NAMED
from marginguard.config.users import OWNER, plans_of

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
    kept = file.retention
    if kept.days > kept.failure_days:
        yield _fault(
            "retention",
            "days",
            rule=f"must be at most retention.failure_days ({kept.failure_days}): what failed is"
            " kept for at least as long as the rest",
        )
    yield from _users(file)
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


def _users(file: File) -> Iterator[Fault]:
    for name in file.plans:
        if not re.match(NAME_PATTERN, name):
            yield Fault(loc=("plans", name), rule=f"must be {NAMED}")
    plans = plans_of(file.plans)
    ids = [user.id for user in file.users]
    for index, user in enumerate(file.users):
        if user.plan not in plans:
            yield _fault("users", index, "plan", rule=f"must be one of {', '.join(plans)}")
        if user.id in ids[:index]:
            yield _fault("users", index, "id", rule="is used twice: each user needs its own")
    known = ", ".join(ids or [OWNER])
    for index, account in enumerate(file.accounts):
        if account.user and account.user not in (ids or [OWNER]):
            rule = f"must be the id of one of the users ({known})"
            yield _fault("accounts", index, "user", rule=rule)
        elif not account.user and len(ids) > 1:
            rule = f"is missing: with several users it must be the id of one of them ({known})"
            yield Fault(loc=("accounts", index, "user"), rule=rule)


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
            rule=f"must be at most {duration_text(longest)}: not longer than interval,"
            " or than 30s where interval is shorter",
        )
    if exchange.timeout >= daemon.timeout:
        yield _fault(
            "exchange",
            "timeout",
            rule=f"must be shorter than daemon.timeout ({duration_text(daemon.timeout)}),"
            " in which a whole run of a guard must fit",
        )
    if actions.base_delay > actions.max_delay:
        yield _fault(
            "actions",
            "base_delay",
            rule=f"must be at most actions.max_delay ({duration_text(actions.max_delay)})",
        )
    if actions.settle_delay >= daemon.timeout:
        yield _fault(
            "actions",
            "settle_delay",
            rule=f"must be shorter than daemon.timeout ({duration_text(daemon.timeout)}),"
            " in which an action must be proved",
        )
    elif actions.verify_within < actions.settle_delay:
        yield _fault(
            "actions",
            "verify_within",
            rule=f"must be at least actions.settle_delay ({duration_text(actions.settle_delay)}),"
            " after which an action is proved",
        )


def _fault(*loc: int | str, rule: str) -> Fault:
    way: Loc = loc
    return Fault(loc=way, rule=rule, shown=True)
