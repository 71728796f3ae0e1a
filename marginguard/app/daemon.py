"""The daemon's life from start to end: what is made, in which order, and what outlives what."""

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack

import structlog
from uuid_utils.compat import uuid7

import marginguard
from marginguard.aio import SystemClock, until_stopped
from marginguard.app import control
from marginguard.app.chat_commands import ChatCommands
from marginguard.app.notifications import changed_channels, channels_of, routing_of
from marginguard.app.operator import DaemonOperator
from marginguard.app.recall import recall, tell_what_was_not
from marginguard.app.reload import change_between
from marginguard.app.session import Keeping, Session
from marginguard.app.settings import without
from marginguard.app.sharing import Claims
from marginguard.app.vitals import Vitals
from marginguard.config import Config, load_config
from marginguard.domain.errors import ConfigError, Refused
from marginguard.domain.notice import Notice, NoticeKind, Severity
from marginguard.domain.units import AccountId
from marginguard.engine.executor import REQUEST_LIFE_S
from marginguard.notify.channel import Channel
from marginguard.notify.rendering import Renderer
from marginguard.notify.telegraph import Telegraph
from marginguard.ports import Notifier
from marginguard.storage.journal import FileJournal
from marginguard.storage.keeper import DatabaseKeeper
from marginguard.storage.retention import RetentionRules
from marginguard.telemetry.server import serve


class Daemon:
    """Guards as the configuration says, until it is asked to stop.

    `on_config` is called with every configuration that is taken over, to log by it.
    """

    def __init__(
        self,
        config: Config,
        *,
        dry_run: bool,
        on_config: Callable[[Config], None] = lambda _config: None,
    ) -> None:
        self._config = config
        self._dry_run = dry_run
        self._on_config = on_config
        self._clock = SystemClock()
        self._vitals = Vitals(config, environ=os.environ, clock=self._clock)
        self._stop = asyncio.Event()
        # What is told and recorded outlives what acts.
        self._stop_telling = asyncio.Event()
        self._stop_recording = asyncio.Event()
        self._telegraph: Telegraph | None = None
        self._chats: ChatCommands | None = None
        self._started_at = self._clock.now()
        self._hung_up = asyncio.Event()
        # Held while a session is made ready too: it is of one configuration from start to end.
        self._reloading = asyncio.Lock()
        self._begun = asyncio.Event()
        self._claims = Claims(clock=self._clock, on_change=self._end_session)
        self._session: Session | None = None
        self._session_stop = asyncio.Event()
        self._log = structlog.get_logger()

    async def run(self) -> None:
        """Run until SIGINT or SIGTERM, then let what is under way end; SIGHUP reloads.

        Raises `ConfigError` for what the operator must change, and whatever ends a task that
        should not end, in an exception group.
        """
        self._log.info("daemon.starting", version=marginguard.__version__, dry_run=self._dry_run)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._ask_to_stop, number)
        loop.add_signal_handler(signal.SIGHUP, self._hung_up.set)
        try:
            async with AsyncExitStack() as stack:
                await self._live(stack)
        finally:
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                loop.remove_signal_handler(number)
        self._log.info("daemon.stopped")

    def _ask_to_stop(self, number: signal.Signals) -> None:
        self._log.info("daemon.stopping", signal=signal.Signals(number).name)
        self._vitals.manager.stopping("settling what is under way")
        self._stop.set()
        self._session_stop.set()

    def _end_session(self) -> None:
        self._session_stop.set()

    async def _live(self, stack: AsyncExitStack) -> None:
        config = self._config
        if config.http.listen is not None:
            vitals = self._vitals
            await stack.enter_async_context(
                serve(
                    config.http.listen,
                    live=vitals.live,
                    ready=vitals.ready,
                    registry=vitals.metrics.registry,
                )
            )
        journal = await FileJournal.open(
            config.daemon.state_dir, on_work=self._vitals.metrics.database
        )
        stack.push_async_callback(journal.close)
        url = config.database.url
        database = DatabaseKeeper(
            url=url.get_secret_value() if url else None,
            state_dir=config.daemon.state_dir,
            journal=journal,
            clock=self._clock,
            retention=RetentionRules(
                days=config.retention.days, failure_days=config.retention.failure_days
            ),
            on_work=self._vitals.metrics.database,
        )
        notifier = Telegraph(
            channels_of(config.notifications),
            routing=routing_of(config),
            renderer=Renderer(config.notifications.templates),
            store=database.notifications,
            clock=self._clock,
            on_result=self._vitals.metrics.notification,
            on_unreachable=self._vitals.reaches_nobody,
        )
        self._telegraph = notifier
        operator = DaemonOperator(
            clock=self._clock,
            journal=journal,
            engine=lambda: None if self._session is None else self._session.engine,
            config=lambda: self._config,
            left=lambda: self._claims.left_to_others,
            reload=lambda: self._reload(notifier),
            stopping=self._stop.is_set,
        )
        await stack.enter_async_context(control.serve(config.daemon.state_dir, operator))
        self._chats = chats = ChatCommands(config, operator, clock=self._clock)
        keeping = Keeping(
            journal=journal,
            observations=database.observations,
            notifier=notifier,
            vitals=self._vitals,
            clock=self._clock,
            barred=self._claims.barred,
            on_action=operator.heard,
        )
        stack.callback(self._claims.close)
        works = (
            ("database", database.run, self._stop_recording),
            ("notifier", notifier.run, self._stop_telling),
            ("vitals", self._vitals.run, self._stop_telling),
            ("telegram", chats.run, self._stop),
        )
        async with asyncio.TaskGroup() as side:
            tasks = {
                name: side.create_task(until_stopped(work(stop), name, stop), name=name)
                for name, work, stop in works
            }
            # Each has begun before anything here can fail, so that none is left unawaited.
            await asyncio.sleep(0)
            reloading = side.create_task(self._keep_reloading(operator), name="reload")
            telling = side.create_task(
                tell_what_was_not(database, notifier, self._started_at), name="untold"
            )
            if journal.fresh:
                await recall(database, journal)
            await self._guard(keeping, database)
            telling.cancel()
            reloading.cancel()
            self._stop_telling.set()
            # What is still to be told is kept in the database.
            await asyncio.wait([tasks["notifier"]])
            self._stop_recording.set()

    async def _guard(self, keeping: Keeping, database: DatabaseKeeper) -> None:
        """Guard, session after session, until the daemon is to stop."""
        left: dict[AccountId, str] = {}
        spending_from_s = 0.0
        if keeping.journal.damage is not None:
            spending_from_s = self._clock.monotonic() + REQUEST_LIFE_S
        self._tell(
            keeping.notifier,
            NoticeKind.DAEMON_STARTED,
            Severity.INFO,
            f"marginguard {marginguard.__version__} has started with"
            f" {_guards(len(self._config.guards))}.",
        )
        while not self._stop.is_set():
            async with self._reloading:
                self._session_stop = asyncio.Event()
                if self._stop.is_set():
                    break
                await self._claims.take(self._config)
                before, left = left, self._claims.left_to_others
                if before.keys() - left.keys():
                    # What another daemon has sent for them may still be carried out.
                    spending_from_s = self._clock.monotonic() + REQUEST_LIFE_S
                    taken_over = before.keys() - left.keys()
                    await recall(database, keeping.journal, taken_over)
                self._tell_of_claims(left, keeping.notifier)
                self._session = Session(
                    without(self._config, left),
                    dry_run=self._dry_run,
                    keeping=keeping,
                    stop=self._session_stop,
                    on_ready=lambda: self._vitals.manager.ready(
                        "starting: no guard has looked yet"
                    ),
                    spending_from_s=spending_from_s,
                )
            self._begun.set()
            await self._run_session(self._session)
        self._tell(
            keeping.notifier,
            NoticeKind.DAEMON_STOPPED,
            Severity.WARNING,
            "marginguard has stopped as it was asked to: nothing guards until it is started again.",
        )

    async def _run_session(self, session: Session) -> None:
        """Guard, holding the locks until the last action has ended."""
        ended = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            group.create_task(until_stopped(self._claims.run(ended), "locks", ended), name="locks")
            await session.run()
            ended.set()

    def _tell_of_claims(self, left: Mapping[AccountId, str], notifier: Notifier) -> None:
        """Say which accounts another daemon guards; this one stands by for them."""
        self._vitals.standing_by = "; ".join(left.values()) or None
        for account_id, reason in left.items():
            self._tell(
                notifier,
                NoticeKind.GUARD_DISARMED,
                Severity.CRITICAL,
                f"This daemon stands by for account {account_id}: {reason}.",
            )

    async def _keep_reloading(self, operator: DaemonOperator) -> None:
        """Reload whenever a SIGHUP asks for it, until cancelled."""
        await self._begun.wait()
        while True:
            await self._hung_up.wait()
            self._hung_up.clear()
            with contextlib.suppress(Refused):  # it is told and logged where it is refused
                await operator.reload(by="SIGHUP")

    async def _reload(self, notifier: Notifier) -> str:
        """Take over a changed configuration, and return what came of it.

        Raises `Refused` where it is not valid, with all that is wrong with it.
        """
        if not self._begun.is_set():
            raise Refused("the daemon is still starting: ask again in a moment")
        async with self._reloading:
            if self._stop.is_set():
                raise Refused("the daemon is being stopped: the next start reads the file")
            self._vitals.manager.reloading()
            try:
                new = await asyncio.to_thread(load_config, self._config.path, os.environ)
                channels = await asyncio.to_thread(
                    changed_channels, self._config.notifications, new.notifications
                )
            except ConfigError as error:
                self._refuse(error, notifier)
                raise Refused(
                    "the changed configuration is refused and the one from before stays in"
                    f" force: {'; '.join(error.problems)}"
                ) from error
            else:
                return await self._take_over(new, channels, notifier)
            finally:
                self._vitals.manager.ready("guarding by the configuration in force")

    def _refuse(self, error: ConfigError, notifier: Notifier) -> None:
        self._log.critical(
            "config.refused",
            problems=list(error.problems),
            advice="the configuration from before stays in force; correct the file and reload",
        )
        self._tell(
            notifier,
            NoticeKind.CONFIG_REFUSED,
            Severity.CRITICAL,
            "The changed configuration is refused and the one from before stays in force: "
            + "; ".join(error.problems),
        )

    async def _take_over(
        self, new: Config, channels: Mapping[str, Channel | None], notifier: Notifier
    ) -> str:
        old, change = self._config, change_between(self._config, new)
        self._config = new
        self._on_config(new)
        if change.at_restart:
            self._log.warning(
                "config.restart_needed",
                tables=list(change.at_restart),
                advice="what changed there is taken over when the daemon is restarted",
            )
        if self._telegraph is not None:
            renderer = Renderer(new.notifications.templates)
            self._telegraph.reroute(routing_of(new), channels=channels, renderer=renderer)
        if self._chats is not None:
            self._chats.apply(new)
        if change.new_session:
            self._session_stop.set()
        elif self._session is not None:
            await self._session.apply(without(new, self._claims.left_to_others))
        guards = f"{_guards(len(new.guards))}, {len(new.refused_guards)} refused"
        self._log.info(
            "config.reloaded",
            guards=len(new.guards),
            refused=len(new.refused_guards),
            before=len(old.guards),
            new_session=change.new_session,
        )
        words = f"The changed configuration is in force: {guards}."
        for refused in new.refused_guards:
            words += f" Guard {refused.id} is refused: {'; '.join(refused.problems)}."
        if change.at_restart:
            words += f" A restart is needed for: {', '.join(change.at_restart)}."
        self._tell(notifier, NoticeKind.CONFIG_RELOADED, Severity.INFO, words)
        return words

    def _tell(self, notifier: Notifier, kind: NoticeKind, severity: Severity, text: str) -> None:
        notifier.tell(
            Notice(id=uuid7(), kind=kind, severity=severity, text=text, at=self._clock.now())
        )


def _guards(count: int) -> str:
    return f"{count} guard{'' if count == 1 else 's'}"
