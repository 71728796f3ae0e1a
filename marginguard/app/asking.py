"""One account of a configuration, asked live: what a diagnosis sees of the exchange."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from typing import Final

from marginguard.aio import SystemClock, sleep_or_stop
from marginguard.app.settings import credentials_of, guards_to_run, needs_of
from marginguard.app.venues import STREAM_PATIENCE_S, open_venues, validate_online
from marginguard.config import AccountSettings, Config
from marginguard.diagnose.account import AccountFacts, Cause
from marginguard.domain.model import MarginMode, Position, PriceQuote
from marginguard.domain.units import AccountId
from marginguard.engine.settings import Guard
from marginguard.lnmarkets.stream_account import AccountListener
from marginguard.lnmarkets.validation import (
    AccountValidation,
    Candidate,
    Finding,
    Needs,
    Severity,
    Verdict,
    validate,
)
from marginguard.lnmarkets.venue import Venue
from marginguard.ports import Clock

_ABOUT_REACHING: Final = "check_network"
"""The validation's findings that the exchange did not tell something: said better here."""


async def ask_accounts(config: Config, accounts: Sequence[AccountSettings]) -> list[AccountFacts]:
    """Return what the exchange says of each of the accounts; nothing is changed there."""
    if not accounts:
        return []
    found = await validate_online(replace(config, accounts=tuple(accounts)))
    return [
        facts_of(config, account, validation)
        for account, validation in zip(accounts, found.accounts, strict=True)
    ]


def facts_of(
    config: Config, account: AccountSettings, validation: AccountValidation
) -> AccountFacts:
    """Return what a validation says of an account."""
    guards = [g for g in guards_to_run(config, dry_run=False) if g.account_id == account.id]
    return AccountFacts(
        account_id=account.id,
        where=where_is(account),
        checked_at=validation.last_validated,
        valid=validation.verdict is Verdict.VALID,
        code=validation.code,
        balance=None if validation.balance is None else validation.balance.available,
        needed=needs_of(account.id, guards).permissions,
        missing=validation.missing,
        granted=validation.permissions,
        clock_offset_s=validation.clock_offset_s,
        spends=any(_spends(guard) for guard in guards),
        failure=validation.failure,
        remarks=tuple(_remarks(account, validation, acts=any(map(_acts, guards)))),
    )


def where_is(account: AccountSettings) -> str:
    """Return the network of an account, or the address where it has none."""
    return account.network or account.rest_url


def _spends(guard: Guard) -> bool:
    ladders = (guard.rules.ladder, *guard.rules.individual.values())
    steps = (step for ladder in ladders for rung in ladder.rungs for step in rung.steps)
    return guard.rules.auto_execution and any(step.kind.spends for step in steps)


def _acts(guard: Guard) -> bool:
    return guard.rules.auto_execution and not guard.dry_run


def _remarks(
    account: AccountSettings, validation: AccountValidation, *, acts: bool
) -> Iterator[Cause]:
    """Yield what was found on the way, but what only follows from the account not answering."""
    for finding in validation.findings:
        if finding.action != _ABOUT_REACHING:
            yield _cause(finding)
    if validation.failure is not None or validation.permissions is not None or not acts:
        return
    if account.stream_url is None:
        solution, action = "add stream_url to the account: the stream tells it", "set_stream_url"
    else:
        solution, action = "see that stream_url is right and can be reached", "check_stream"
    yield Cause(
        issue="whether the key may close positions and add margin is not known: only the"
        " exchange's stream tells it, and has not",
        solution=solution,
        action=action,
        warning=True,
    )


def _cause(finding: Finding) -> Cause:
    return Cause(
        issue=finding.issue,
        solution=finding.solution,
        action=finding.action,
        # A clock that is far off is borne by signing with the exchange's time.
        warning=finding.severity is not Severity.CRITICAL,
    )


@asynccontextmanager
async def asked_live(config: Config, account: AccountSettings) -> AsyncIterator["LiveAccount"]:
    """Give the account, connected as the daemon would be, until the block ends."""
    clock, stop = SystemClock(), asyncio.Event()
    async with AsyncExitStack() as stack:
        alone = replace(config, accounts=(account,))
        venues = await open_venues(stack, alone, clock=clock, stop=stop)
        venue = venues[account.id]
        async with asyncio.TaskGroup() as group:

            def connect() -> None:
                group.create_task(venue.run(stop), name="exchange")

            try:
                yield LiveAccount(config, account, venue, clock=clock, connect=connect)
            finally:
                stop.set()


class LiveAccount:
    """The `Live` protocol of `diagnose.debug`. `connect` starts the venue's streams."""

    def __init__(
        self,
        config: Config,
        account: AccountSettings,
        venue: Venue,
        *,
        clock: Clock,
        connect: Callable[[], None],
    ) -> None:
        self._config = config
        self._account = account
        self._venue = venue
        self._clock = clock
        self._connect = connect
        self._client = venue.account(account.id, credentials_of(account))
        self._permissions: frozenset[str] | None = None
        self._told = asyncio.Event()
        self._heard = asyncio.Event()
        self._positions: tuple[Position, ...] = ()
        venue.stream_prices(lambda _quote: self._heard.set(), lambda: None)
        venue.stream_account(account.id, credentials_of(account), self._listener())

    async def facts(self) -> AccountFacts:
        """Measure the clock, let the stream tell what the key may do, and validate the account."""
        await self._venue.measure_clock()
        self._connect()
        if self._account.stream_url is not None and self._client.server_clock.measured:
            await sleep_or_stop(STREAM_PATIENCE_S, self._told)
        candidate = Candidate(
            account=self._client,
            needs=self._needs(),
            permissions=self._permissions,
        )
        return facts_of(self._config, self._account, await validate(candidate, self._clock))

    async def positions(self) -> tuple[Position, ...]:
        """Return every running position; raises what reads raise."""
        self._positions = await self._client.running_positions()
        return self._positions

    async def quote(self) -> PriceQuote:
        """Return the price that the daemon would go by; raises what reads raise."""
        if self._account.stream_url is not None:
            await sleep_or_stop(self._config.exchange.stale_after.total_seconds(), self._heard)
        for position in self._positions:
            if position.mode is MarginMode.ISOLATED:
                self._venue.prices.bear_out(position)
        return await self._venue.prices.quote()

    def remarks(self) -> tuple[Cause, ...]:
        """Return what was noticed about the prices."""
        if self._account.stream_url is None or self._heard.is_set():
            return ()
        return (
            Cause(
                issue=f"the stream at {self._account.stream_url} tells no price: guards see prices"
                " at their interval alone, not at every tick",
                solution="see that this machine can reach it (network, DNS, firewall), and that"
                " stream_url is right",
                action="check_stream",
                warning=True,
            ),
        )

    def _needs(self) -> Needs:
        needs = needs_of(self._account.id, guards_to_run(self._config, dry_run=False))
        # A guard that is off or refused is asked about because it should guard.
        return needs if needs.modes else Needs(modes=frozenset({MarginMode.ISOLATED}), acts=True)

    def _listener(self) -> AccountListener:
        def on_permissions(granted: frozenset[str]) -> None:
            self._permissions = granted
            self._told.set()

        return AccountListener(
            on_account_event=lambda _kind, _position_id: None,
            on_snapshot_needed=lambda: None,
            on_permissions=on_permissions,
            on_refused=lambda _error: self._told.set(),
        )


def account_of(config: Config, account_id: AccountId | None) -> AccountSettings | None:
    """Return the account of this id, if there is one."""
    return next((one for one in config.accounts if one.id == account_id), None)
