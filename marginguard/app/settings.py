"""What the configuration means to the parts: pure translations."""

from collections.abc import Collection, Iterable
from dataclasses import replace

from marginguard.config import AccountSettings, Config, GuardSettings, rules_of
from marginguard.domain.model import MarginMode
from marginguard.domain.units import CROSS, AccountId, Percent
from marginguard.engine.engine import Disarmed
from marginguard.engine.settings import EngineSettings, Guard
from marginguard.lnmarkets.signing import Credentials
from marginguard.lnmarkets.validation import Needs
from marginguard.lnmarkets.venue import VenueSettings

_PRICE_SHARED_S = 1.0


def credentials_of(account: AccountSettings) -> Credentials:
    """Return what the account's calls are signed with."""
    return Credentials(
        key=account.key.get_secret_value(),
        secret=account.secret.get_secret_value(),
        passphrase=account.passphrase.get_secret_value(),
    )


def venue_settings(config: Config, account: AccountSettings) -> VenueSettings:
    """Return how to reach the exchange of an account."""
    exchange = config.exchange
    interval_s = config.daemon.interval.total_seconds()
    return VenueSettings(
        rest_url=account.rest_url,
        stream_url=account.stream_url,
        timeout_s=exchange.timeout.total_seconds(),
        stale_after_s=exchange.stale_after.total_seconds(),
        share_s=min(_PRICE_SHARED_S, interval_s / 2),
        max_jump=Percent(exchange.max_jump),
        rate_scale=exchange.rate_scale,
    )


def without(config: Config, account_ids: Collection[AccountId]) -> Config:
    """Return the configuration as it is without these accounts and their guards."""
    if not account_ids:
        return config
    return replace(
        config,
        accounts=tuple(one for one in config.accounts if one.id not in account_ids),
        guards=tuple(one for one in config.guards if one.account not in account_ids),
        refused_guards=tuple(
            one for one in config.refused_guards if one.account not in account_ids
        ),
    )


def guards_to_run(config: Config, *, dry_run: bool) -> list[Guard]:
    """Return the guards that are enabled; with `dry_run` none of them sends anything."""
    return [
        _guard(guard, config, dry_run=guard.dry_run or dry_run)
        for guard in config.guards
        if guard.enabled
    ]


def _guard(guard: GuardSettings, config: Config, *, dry_run: bool) -> Guard:
    plan = config.plan_of(guard.account)
    return Guard(
        id=guard.id,
        account_id=guard.account,
        user_id=config.owners[guard.account].id,
        rules=rules_of(guard, config.actions, plan),
        dry_run=dry_run,
        real_time_monitoring=guard.real_time_monitoring,
        plan=plan.name,
        priority=plan.priority,
    )


def disarmed_guards(config: Config) -> list[Disarmed]:
    """Return the guards that are not run, each with the reason."""
    disabled = [
        Disarmed(
            guard_id=guard.id,
            account_id=guard.account,
            reason="enabled = false in the configuration",
        )
        for guard in config.guards
        if not guard.enabled
    ]
    refused = [
        Disarmed(
            guard_id=guard.id,
            account_id=guard.account or AccountId(""),
            reason=f"its configuration is refused ({guard.code}): " + "; ".join(guard.problems),
        )
        for guard in config.refused_guards
    ]
    return disabled + refused


def needs_of(account_id: AccountId, guards: Iterable[Guard]) -> Needs:
    """Return what the guards of an account need its key for.

    A guard over all positions does without the cross position where the key may not read it;
    one that names the cross position does not.
    """
    modes = set()
    acts = False
    for guard in guards:
        if guard.account_id != account_id:
            continue
        acts = acts or (guard.rules.auto_execution and not guard.dry_run)
        selected = guard.rules.selected
        if selected is not None and CROSS in selected:
            modes.add(MarginMode.CROSS)
        if selected is None or selected - {CROSS}:
            modes.add(MarginMode.ISOLATED)
    return Needs(modes=frozenset(modes), acts=acts)


def engine_settings(config: Config, *, spending_from_s: float) -> EngineSettings:
    """Return the engine's settings; nothing is spent before `spending_from_s` (monotonic)."""
    daemon, actions, exchange = config.daemon, config.actions, config.exchange
    return EngineSettings(
        interval_s=daemon.interval.total_seconds(),
        max_concurrent=daemon.max_concurrent,
        timeout_s=daemon.timeout.total_seconds(),
        retry_attempts=daemon.retry_attempts,
        retry_delay_s=daemon.retry_delay.total_seconds(),
        blind_after_s=daemon.blind_after.total_seconds(),
        stale_after_s=exchange.stale_after.total_seconds(),
        view_max_age_s=(exchange.stale_after + exchange.timeout).total_seconds(),
        action_attempts=actions.retry_attempts,
        action_base_delay_s=actions.base_delay.total_seconds(),
        action_max_delay_s=actions.max_delay.total_seconds(),
        settle_delay_s=actions.settle_delay.total_seconds(),
        verify_within_s=actions.verify_within.total_seconds(),
        spending_from_s=spending_from_s,
    )
