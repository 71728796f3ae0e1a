"""A session: the exchanges, the engine and all that feeds it, as one configuration has it."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass

import structlog
from uuid_utils.compat import uuid7

from marginguard.aio import until_stopped
from marginguard.app.account_notices import AccountNotices
from marginguard.app.settings import (
    credentials_of,
    disarmed_guards,
    engine_settings,
    guards_to_run,
    needs_of,
)
from marginguard.app.venues import open_venues
from marginguard.app.vitals import Vitals
from marginguard.config import Config
from marginguard.domain.errors import Unauthorized
from marginguard.domain.model import PriceQuote
from marginguard.domain.records import ActionRecord
from marginguard.domain.units import AccountId, PositionId
from marginguard.engine.engine import Engine, Surroundings
from marginguard.lnmarkets.client import AccountClient
from marginguard.lnmarkets.stream_account import AccountListener
from marginguard.lnmarkets.validation import AccountValidation, Verdict
from marginguard.lnmarkets.validator import Validator
from marginguard.lnmarkets.venue import Venue
from marginguard.ports import Clock, Notifier, Observations
from marginguard.storage.journal import FileJournal
from marginguard.telemetry.measured import MeasuredJournal, MeasuredObservations


@dataclass(frozen=True, kw_only=True, slots=True)
class Keeping:
    """What outlives a session: where it writes, whom it tells.

    `barred` says why this daemon must not act on an account at this moment, or None. `on_action`
    hears of every record of an action.
    """

    journal: FileJournal
    observations: Observations
    notifier: Notifier
    vitals: Vitals
    clock: Clock
    barred: Callable[[AccountId], Awaitable[str | None]]
    on_action: Callable[[ActionRecord], None]


class Session:
    """Guards until `stop` is set; then lets what is under way end.

    Nothing is spent before `spending_from_s` (monotonic). `on_ready` is called once everything is
    up.
    """

    def __init__(
        self,
        config: Config,
        *,
        dry_run: bool,
        keeping: Keeping,
        stop: asyncio.Event,
        on_ready: Callable[[], None],
        spending_from_s: float,
    ) -> None:
        self._config = config
        self._dry_run = dry_run
        self._guards = guards_to_run(config, dry_run=dry_run)
        self._keeping = keeping
        self._stop = stop
        self._on_ready = on_ready
        self._spending_from_s = spending_from_s
        self._engine: Engine | None = None
        self._log = structlog.get_logger()

    @property
    def engine(self) -> Engine | None:
        """What guards; None until it is set up."""
        return self._engine

    async def run(self) -> None:
        """Open the exchanges and guard."""
        async with AsyncExitStack() as stack:
            keeping = self._keeping
            venues = await open_venues(
                stack,
                self._config,
                clock=keeping.clock,
                stop=self._stop,
                on_call=keeping.vitals.metrics.api_call,
            )
            await asyncio.gather(*(venue.measure_clock() for venue in set(venues.values())))
            await self._guard(venues)

    async def apply(self, config: Config) -> None:
        """Take over other guards for the same accounts."""
        self._config = config
        self._guards = guards_to_run(config, dry_run=self._dry_run)
        if self._engine is not None:
            await self._engine.apply(self._guards, disarmed_guards(config))

    async def _guard(self, venues: Mapping[AccountId, Venue]) -> None:
        accounts = {
            account.id: venues[account.id].account(account.id, credentials_of(account))
            for account in self._config.accounts
        }
        validator: Validator | None = None

        def on_refused(_account_id: AccountId) -> None:
            if validator is not None:
                validator.ask()

        engine = self._make_engine(venues, accounts, on_refused)
        validator = self._validator(accounts, engine)
        self._listen(venues, engine, validator)
        self._keeping.vitals.armed_guards = engine.armed_guards
        async with asyncio.TaskGroup() as main:
            works = [("engine", engine.run()), ("validator", validator.run(self._stop))]
            works += [("exchange", venue.run(self._stop)) for venue in set(venues.values())]
            for name, work in works:
                main.create_task(until_stopped(work, name, self._stop), name=name)
            main.create_task(self._announce(engine), name="announce")
            self._on_ready()

    def _make_engine(
        self,
        venues: Mapping[AccountId, Venue],
        accounts: Mapping[AccountId, AccountClient],
        on_refused: Callable[[AccountId], None],
    ) -> Engine:
        keeping = self._keeping
        metrics = keeping.vitals.metrics
        plans = {guard.id: guard.plan for guard in self._guards}
        self._engine = Engine(
            guards=self._guards,
            disarmed=disarmed_guards(self._config),
            surroundings=Surroundings(
                exchanges=accounts,
                prices={account_id: venue.prices for account_id, venue in venues.items()},
                journal=MeasuredJournal(
                    keeping.journal, metrics, plans=plans, on_action=keeping.on_action
                ),
                observations=MeasuredObservations(keeping.observations, metrics, plans=plans),
                notifier=keeping.notifier,
                clock=keeping.clock,
                new_id=uuid7,
                on_refused=on_refused,
                hooks=keeping.vitals.hooks(),
                barred=keeping.barred,
            ),
            settings=engine_settings(self._config, spending_from_s=self._spending_from_s),
            stop=self._stop,
        )
        return self._engine

    def _validator(self, accounts: Mapping[AccountId, AccountClient], engine: Engine) -> Validator:
        notices = AccountNotices(
            notifier=self._keeping.notifier, clock=self._keeping.clock, new_id=uuid7
        )

        def on_result(result: AccountValidation) -> None:
            notices.heard(result)
            if result.verdict is Verdict.VALID:
                engine.bar(result.account_id, None)
            elif result.verdict is Verdict.INVALID:
                engine.bar(result.account_id, f"{result.code}: {result.reason}; {result.advice}")

        return Validator(
            [
                (client, needs_of(account_id, self._guards))
                for account_id, client in accounts.items()
            ],
            clock=self._keeping.clock,
            on_result=on_result,
            streamed=[account.id for account in self._config.accounts if account.stream_url],
        )

    def _listen(
        self, venues: Mapping[AccountId, Venue], engine: Engine, validator: Validator
    ) -> None:
        """Connect the streams' ends with the engine: what is heard makes guards look at once."""
        for venue in set(venues.values()):
            ids = frozenset(account_id for account_id in venues if venues[account_id] is venue)
            self._listen_to_prices(venue, ids, engine)
        for account in self._config.accounts:
            venues[account.id].stream_account(
                account.id,
                credentials_of(account),
                self._account_listener(account.id, engine, validator),
            )

    def _listen_to_prices(
        self, venue: Venue, account_ids: frozenset[AccountId], engine: Engine
    ) -> None:
        def on_tick(quote: PriceQuote) -> None:
            engine.on_tick(quote, account_ids)

        def on_snapshot_needed() -> None:
            for account_id in account_ids:
                engine.on_account_event(account_id)

        venue.stream_prices(on_tick, on_snapshot_needed)

    def _account_listener(
        self, account_id: AccountId, engine: Engine, validator: Validator
    ) -> AccountListener:
        def on_account_event(kind: str, position_id: PositionId | None) -> None:
            self._log.info("account.event", account=account_id, kind=kind, position=position_id)
            engine.on_account_event(account_id)

        def on_refused(error: Unauthorized) -> None:
            self._log.debug("account.stream_refused", account=account_id, error=str(error))
            validator.ask()

        return AccountListener(
            on_account_event=on_account_event,
            on_snapshot_needed=lambda: engine.on_account_event(account_id),
            on_permissions=lambda permissions: validator.permissions(account_id, permissions),
            on_refused=on_refused,
        )

    async def _announce(self, engine: Engine) -> None:
        """Say once that the guards guard; returns then, or when the session is to stop."""
        waits = {
            asyncio.ensure_future(engine.first_pass.wait()),
            asyncio.ensure_future(self._stop.wait()),
        }
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        if engine.first_pass.is_set() and not self._stop.is_set():
            armed, guards = engine.armed_guards()
            log = self._log.info if armed == guards and guards else self._log.warning
            log("daemon.ready", guards=guards, armed=armed, accounts=len(self._config.accounts))
