"""The daemon: the one place that wires the parts together, and its life from start to end."""

import asyncio
import signal
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass

import structlog
from uuid_utils.compat import uuid7

import marginguard
from marginguard.aio import SystemClock, until_stopped
from marginguard.config import Config
from marginguard.domain.errors import MarginguardError, Transient
from marginguard.domain.units import AccountId, Percent
from marginguard.engine.engine import Disarmed, Engine, Surroundings
from marginguard.engine.executor import REQUEST_LIFE_S
from marginguard.engine.settings import EngineSettings, Guard
from marginguard.lnmarkets.client import AccountClient, PublicClient
from marginguard.lnmarkets.prices import TickerPrices
from marginguard.lnmarkets.server_clock import ServerClock
from marginguard.lnmarkets.signing import Credentials
from marginguard.lnmarkets.transport import Transport
from marginguard.notify.webhook import NullNotifier, WebhookNotifier
from marginguard.storage.journal import FileJournal
from marginguard.storage.keeper import DatabaseKeeper

OWNER = "owner"
"""The user who owns everything while the configuration names no users."""

MEMORY_PATIENCE_S = 2.0
"""How long a start with an empty state directory waits for what the database remembers."""

_PRICE_SHARED_S = 1.0


@dataclass(frozen=True, kw_only=True, slots=True)
class _Exchange:
    """One exchange address, shared by all accounts on it."""

    transport: Transport
    clock: ServerClock
    prices: TickerPrices


class Daemon:
    """Guards as the configuration says, until it is asked to stop."""

    def __init__(self, config: Config, *, dry_run: bool) -> None:
        self._config = config
        self._dry_run = dry_run
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
        exchanges = {
            url: await self._exchange(stack, url)
            for url in dict.fromkeys(account.rest_url for account in config.accounts)
        }
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
            side.create_task(
                until_stopped(database.run(self._stop_telling), "database", self._stop_telling),
                name="database",
            )
            side.create_task(
                until_stopped(notifier.run(self._stop_telling), "notifier", self._stop_telling),
                name="notifier",
            )
            await asyncio.gather(self._measure_clocks(exchanges), self._recall(database, journal))
            engine = self._engine(exchanges, journal, database, notifier)
            async with asyncio.TaskGroup() as main:
                main.create_task(until_stopped(engine.run(), "engine", self._stop), name="engine")
                main.create_task(self._announce(engine), name="announce")
            self._stop_telling.set()

    async def _exchange(self, stack: AsyncExitStack, rest_url: str) -> _Exchange:
        settings = self._config.exchange
        timeout_s = settings.timeout.total_seconds()
        transport = await stack.enter_async_context(Transport(rest_url, timeout_s=timeout_s))
        public = PublicClient(transport)
        interval_s = self._config.daemon.interval.total_seconds()
        return _Exchange(
            transport=transport,
            clock=ServerClock(public.server_time, self._clock),
            prices=TickerPrices(
                public.ticker,
                self._clock,
                share_s=min(_PRICE_SHARED_S, interval_s / 2),
                max_jump=Percent(settings.max_jump),
                stop=self._stop,
            ),
        )

    async def _measure_clocks(self, exchanges: Mapping[str, _Exchange]) -> None:
        for url, exchange in exchanges.items():
            try:
                await exchange.clock.resync()
            except MarginguardError as error:
                self._log.warning(
                    "clock.unmeasured",
                    exchange=url,
                    error=str(error),
                    advice="this machine's clock is believed until the exchange answers",
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
            await journal.append(*records)
            self._log.info("memory.recalled", records=len(records))

    def _engine(
        self,
        exchanges: Mapping[str, _Exchange],
        journal: FileJournal,
        database: DatabaseKeeper,
        notifier: WebhookNotifier | NullNotifier,
    ) -> Engine:
        accounts = self._config.accounts
        surroundings = Surroundings(
            exchanges={
                account.id: AccountClient(
                    account.id,
                    Credentials(
                        key=account.key.get_secret_value(),
                        secret=account.secret.get_secret_value(),
                        passphrase=account.passphrase.get_secret_value(),
                    ),
                    transport=exchanges[account.rest_url].transport,
                    server_clock=exchanges[account.rest_url].clock,
                )
                for account in accounts
            },
            prices={account.id: exchanges[account.rest_url].prices for account in accounts},
            journal=journal,
            observations=database.observations,
            notifier=notifier,
            clock=self._clock,
            new_id=uuid7,
        )
        return Engine(
            guards=self._guards(),
            disarmed=self._disarmed(),
            surroundings=surroundings,
            settings=self._settings(spending_barred=journal.damage is not None),
            stop=self._stop,
        )

    def _guards(self) -> list[Guard]:
        return [
            Guard(
                id=guard.id,
                account_id=guard.account,
                user_id=OWNER,
                rules=guard.rules(),
                dry_run=guard.dry_run or self._dry_run,
                real_time_monitoring=guard.real_time_monitoring,
            )
            for guard in self._config.guards
            if guard.enabled
        ]

    def _disarmed(self) -> list[Disarmed]:
        disabled = [
            Disarmed(
                guard_id=guard.id,
                account_id=guard.account,
                reason="enabled = false in the configuration",
            )
            for guard in self._config.guards
            if not guard.enabled
        ]
        refused = [
            Disarmed(
                guard_id=guard.id,
                account_id=guard.account or AccountId(""),
                reason="its configuration is refused (INVALID_CONFIG_SCHEMA): "
                + "; ".join(guard.problems),
            )
            for guard in self._config.refused_guards
        ]
        return disabled + refused

    def _settings(self, *, spending_barred: bool) -> EngineSettings:
        daemon, actions = self._config.daemon, self._config.actions
        return EngineSettings(
            interval_s=daemon.interval.total_seconds(),
            max_concurrent=daemon.max_concurrent,
            timeout_s=daemon.timeout.total_seconds(),
            retry_attempts=daemon.retry_attempts,
            retry_delay_s=daemon.retry_delay.total_seconds(),
            blind_after_s=daemon.blind_after.total_seconds(),
            stale_after_s=self._config.exchange.stale_after.total_seconds(),
            view_max_age_s=(
                self._config.exchange.stale_after + self._config.exchange.timeout
            ).total_seconds(),
            action_attempts=actions.retry_attempts,
            action_base_delay_s=actions.base_delay.total_seconds(),
            action_max_delay_s=actions.max_delay.total_seconds(),
            settle_delay_s=actions.settle_delay.total_seconds(),
            spending_from_s=self._clock.monotonic() + REQUEST_LIFE_S if spending_barred else 0.0,
        )

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
