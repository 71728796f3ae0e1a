"""The exchanges of a configuration, opened; and its accounts, asked what they are good for."""

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack

from marginguard.aio import SystemClock, sleep_or_stop
from marginguard.app.settings import credentials_of, guards_to_run, needs_of, venue_settings
from marginguard.config import AccountSettings, Config
from marginguard.domain.units import AccountId
from marginguard.lnmarkets.stream import StreamLimits
from marginguard.lnmarkets.stream_account import AccountListener
from marginguard.lnmarkets.validation import Candidate, Validations, validate_all
from marginguard.lnmarkets.venue import Venue, VenueSettings
from marginguard.ports import Clock

STREAM_PATIENCE_S = 5.0
"""How long `check --online` waits for the streams to tell what the keys may do."""


async def open_venues(
    stack: AsyncExitStack,
    config: Config,
    *,
    clock: Clock,
    stop: asyncio.Event,
    on_call: Callable[[str, str, float], None] | None = None,
) -> dict[AccountId, Venue]:
    """Return the exchange of each account; accounts with the same addresses share one.

    `on_call` hears of every call over REST: its answer's status or "no answer", and the seconds.
    """
    limits = StreamLimits()
    made: dict[VenueSettings, Venue] = {}
    venues = {}
    for account in config.accounts:
        settings = venue_settings(config, account)
        if settings not in made:
            venue = Venue(settings, clock=clock, stream_limits=limits, stop=stop, on_call=on_call)
            made[settings] = await stack.enter_async_context(venue)
        venues[account.id] = made[settings]
    return venues


async def validate_online(config: Config) -> Validations:
    """Ask the exchange about every account of the configuration; nothing is changed there."""
    clock, stop = SystemClock(), asyncio.Event()
    permissions: dict[AccountId, frozenset[str]] = {}
    told = asyncio.Event()
    streamed = [account for account in config.accounts if account.stream_url]

    def listener(account: AccountSettings) -> AccountListener:
        def on_permissions(granted: frozenset[str]) -> None:
            permissions[account.id] = granted
            if len(permissions) == len(streamed):
                told.set()

        return AccountListener(
            on_account_event=lambda _kind, _position_id: None,
            on_snapshot_needed=lambda: None,
            on_permissions=on_permissions,
            on_refused=lambda _error: None,
        )

    async with AsyncExitStack() as stack:
        venues = await open_venues(stack, config, clock=clock, stop=stop)
        for account in streamed:
            venues[account.id].stream_account(
                account.id, credentials_of(account), listener(account)
            )
        async with asyncio.TaskGroup() as group:
            for venue in set(venues.values()):
                await venue.measure_clock()
                group.create_task(venue.run(stop), name="exchange")
            if streamed:
                await sleep_or_stop(STREAM_PATIENCE_S, told)
            guards = guards_to_run(config, dry_run=False)
            result = await validate_all(
                [
                    Candidate(
                        account=venues[account.id].account(account.id, credentials_of(account)),
                        needs=needs_of(account.id, guards),
                        permissions=permissions.get(account.id),
                    )
                    for account in config.accounts
                ],
                clock,
            )
            stop.set()
    return result
