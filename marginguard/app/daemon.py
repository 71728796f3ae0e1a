"""The daemon's life from start to end: what is made, in which order, and what outlives what."""

import asyncio
import signal
from collections.abc import Mapping
from contextlib import AsyncExitStack

import structlog
from uuid_utils.compat import uuid7

import marginguard
from marginguard.aio import SystemClock, until_stopped
from marginguard.app.settings import (
    credentials_of,
    disarmed_guards,
    engine_settings,
    guards_to_run,
    needs_of,
)
from marginguard.app.venues import open_venues
from marginguard.config import Config
from marginguard.domain.errors import DiskFull, Transient, Unauthorized
from marginguard.domain.model import PriceQuote
from marginguard.domain.units import AccountId, PositionId
from marginguard.engine.engine import Engine, Surroundings
from marginguard.engine.executor import REQUEST_LIFE_S
from marginguard.lnmarkets.client import AccountClient
from marginguard.lnmarkets.stream_account import AccountListener
from marginguard.lnmarkets.validation import AccountValidation, Verdict
from marginguard.lnmarkets.validator import Validator
from marginguard.lnmarkets.venue import Venue
from marginguard.notify.webhook import NullNotifier, WebhookNotifier
from marginguard.storage.journal import FileJournal
from marginguard.storage.keeper import DatabaseKeeper

MEMORY_PATIENCE_S = 2.0
"""How long a start with an empty state directory waits for what the database remembers."""


class Daemon:
    """Guards as the configuration says, until it is asked to stop."""

    def __init__(self, config: Config, *, dry_run: bool) -> None:
        self._config = config
        self._dry_run = dry_run
        self._guards = guards_to_run(config, dry_run=dry_run)
        self._clock = SystemClock()
        self._stop = asyncio.Event()
        # What is told and recorded outlives what acts.
        self._stop_telling = asyncio.Event()
        self._log = structlog.get_logger()

    async def run(self) -> None:
        """Run until SIGINT or SIGTERM, then let what is under way end.

        Raises `ConfigError` for what the operator must change, and whatever ends a task that
        should not end, in an exception group.
        """
        self._log.info("daemon.starting", version=marginguard.__version__, dry_run=self._dry_run)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._ask_to_stop, number)
        try:
            async with AsyncExitStack() as stack:
                await self._guard(stack)
        finally:
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.remove_signal_handler(number)
        self._log.info("daemon.stopped")

    def _ask_to_stop(self, number: signal.Signals) -> None:
        self._log.info("daemon.stopping", signal=signal.Signals(number).name)
        self._stop.set()

    async def _guard(self, stack: AsyncExitStack) -> None:
        config = self._config
        journal = await FileJournal.open(config.daemon.state_dir)
        stack.push_async_callback(journal.close)
        venues = await open_venues(stack, config, clock=self._clock, stop=self._stop)
        url = config.database.url
        database = DatabaseKeeper(
            url=url.get_secret_value() if url else None,
            state_dir=config.daemon.state_dir,
            journal=journal,
            clock=self._clock,
        )
        webhook = config.notifications.webhook.url
        notifier = WebhookNotifier(webhook.get_secret_value()) if webhook else NullNotifier()
        async with asyncio.TaskGroup() as side:
            for name, work in (("database", database.run), ("notifier", notifier.run)):
                side.create_task(
                    until_stopped(work(self._stop_telling), name, self._stop_telling), name=name
                )
            await asyncio.gather(
                self._recall(database, journal),
                *(venue.measure_clock() for venue in set(venues.values())),
            )
            await self._run_engine(venues, journal, database, notifier)
            self._stop_telling.set()

    async def _run_engine(
        self,
        venues: Mapping[AccountId, Venue],
        journal: FileJournal,
        database: DatabaseKeeper,
        notifier: WebhookNotifier | NullNotifier,
    ) -> None:
        accounts = {
            account.id: venues[account.id].account(account.id, credentials_of(account))
            for account in self._config.accounts
        }
        damaged = journal.damage is not None
        engine = Engine(
            guards=self._guards,
            disarmed=disarmed_guards(self._config),
            surroundings=Surroundings(
                exchanges=accounts,
                prices={account_id: venue.prices for account_id, venue in venues.items()},
                journal=journal,
                observations=database.observations,
                notifier=notifier,
                clock=self._clock,
                new_id=uuid7,
                on_refused=lambda _account_id: validator.ask(),
            ),
            settings=engine_settings(
                self._config,
                spending_from_s=self._clock.monotonic() + REQUEST_LIFE_S if damaged else 0.0,
            ),
            stop=self._stop,
        )
        validator = self._validator(accounts, engine)
        self._listen(venues, engine, validator)
        async with asyncio.TaskGroup() as main:
            works = [("engine", engine.run()), ("validator", validator.run(self._stop))]
            works += [("exchange", venue.run(self._stop)) for venue in set(venues.values())]
            for name, work in works:
                main.create_task(until_stopped(work, name, self._stop), name=name)
            main.create_task(self._announce(engine), name="announce")

    def _validator(self, accounts: Mapping[AccountId, AccountClient], engine: Engine) -> Validator:
        def on_result(result: AccountValidation) -> None:
            if result.verdict is Verdict.VALID:
                engine.bar(result.account_id, None)
            elif result.verdict is Verdict.INVALID:
                engine.bar(result.account_id, f"{result.code}: {result.reason}; {result.advice}")

        return Validator(
            [
                (client, needs_of(account_id, self._guards))
                for account_id, client in accounts.items()
            ],
            clock=self._clock,
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

    async def _recall(self, database: DatabaseKeeper, journal: FileJournal) -> None:
        """Take over what only the database remembers, where the state directory is new."""
        if not journal.fresh:
            return
        try:
            async with asyncio.timeout(MEMORY_PATIENCE_S):
                records = await database.remembered()
        except (TimeoutError, Transient) as error:
            self._log.warning(
                "memory.empty",
                error=str(error) or "no answer in time",
                advice="the state directory is new and the database does not answer: guards begin"
                " without what they spent and did before",
            )
            return
        if records:
            try:
                await journal.append(*records)
            except DiskFull as error:
                self._log.critical(
                    "memory.not_kept",
                    error=str(error),
                    advice="free space in the state directory and restart; what guards spent and"
                    " did before is in the database alone",
                )
                return
            self._log.info("memory.recalled", records=len(records))

    async def _announce(self, engine: Engine) -> None:
        """Say once that the guards guard; returns then, or when the daemon is to stop."""
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
