"""The running daemon as an operator commands it: by the control socket, by Telegram, by SIGHUP."""

from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import timedelta
from typing import Final, TypeVar
from uuid import UUID

import structlog
from uuid_utils.compat import uuid7

from marginguard.config import Config
from marginguard.diagnose.nearest import nearest
from marginguard.domain.errors import DiskFull, MarginguardError, Refused
from marginguard.domain.operating import GuardNow, Overview, protected_words
from marginguard.domain.pause import LONGEST_PAUSE, Pause
from marginguard.domain.records import (
    ActionRecord,
    ArmedState,
    CommandRecord,
    ExecutionRecord,
    ExecutionSource,
)
from marginguard.domain.units import AccountId, GuardId
from marginguard.engine.engine import Engine
from marginguard.ports import Clock, Journal

T = TypeVar("T")

SHORTEST_PAUSE: Final = timedelta(seconds=1)
ACTIONS_KEPT: Final = 10
COMMAND_CHARACTERS: Final = 500
"""How much is recorded of what was asked: a message may be as long as it likes."""


class DaemonOperator:
    """Carries out what operators ask, and writes it down; implements `ports.Operator`.

    `engine` returns what guards at this moment, or None while the daemon starts, `config` the
    configuration in force, and `left` the accounts that another daemon guards, each with who.
    `reload` takes a changed configuration over, or raises `Refused`. `stopping` says whether the
    daemon was asked to end.
    """

    def __init__(
        self,
        *,
        clock: Clock,
        journal: Journal,
        engine: Callable[[], Engine | None],
        config: Callable[[], Config],
        left: Callable[[], Mapping[AccountId, str]],
        reload: Callable[[], Awaitable[str]],
        stopping: Callable[[], bool],
    ) -> None:
        self._clock = clock
        self._journal = journal
        self._engine = engine
        self._config = config
        self._left = left
        self._reload = reload
        self._stopping = stopping
        self._started_at = clock.now()
        self._ended: deque[ActionRecord] = deque(maxlen=ACTIONS_KEPT)
        self._log = structlog.get_logger()

    def heard(self, record: ActionRecord) -> None:
        """Take note of what is written of an action: one that has ended is shown."""
        if not record.kind.protects or not (record.status.settled or record.frozen):
            return
        known = next((one for one in self._ended if one.id == record.id), None)
        if known is not None:
            self._ended.remove(known)  # written once more, after a full disk or the owner's word
        self._ended.appendleft(record)

    def overview(self) -> Overview:
        """Return the guards and positions as they are known now, without reading anything."""
        engine = self._engine()
        guards = () if engine is None else engine.guards_now()
        positions = () if engine is None else engine.positions_now()
        left = self._left()
        guards += tuple(
            GuardNow(
                guard_id=guard.id,
                account_id=guard.account,
                armed=ArmedState.DISARMED,
                reason=f"this daemon only stands by for account {guard.account}:"
                f" {left[guard.account]}",
                since=self._started_at,
                looked_at=None,
                pause=None,
            )
            for guard in self._config().guards
            if guard.account in left
        )
        now = self._clock.now()
        words = protected_words(
            guards, positions, now=now, patience=self._config().daemon.look_counts_for
        )
        if engine is None:
            words = "NOT PROTECTED: the daemon is still starting"
        elif self._stopping():
            words = "NOT PROTECTED: the daemon is being stopped"
        return Overview(at=now, protected=words, guards=guards, positions=positions)

    def last_actions(self) -> Sequence[ActionRecord]:
        """Return the actions that ended last since the daemon started, newest first."""
        return tuple(self._ended)

    async def note(self, command: str, *, by: str, answer: str, accepted: bool) -> None:
        """Record a use that changes nothing, or that was not understood."""
        await self._record(command, None, by=by, answer=answer, accepted=accepted)

    async def pause(self, guard_id: str, span: timedelta, *, by: str) -> str:
        """Let a guard do no more than alert for a while (at most `LONGEST_PAUSE`)."""
        command = f"pause {guard_id} {span.total_seconds():g}s"
        return await self._carried_out(command, self._pause(guard_id, span, by), guard_id, by=by)

    async def resume(self, guard_id: str, *, by: str) -> str:
        """End a guard's pause at once."""
        return await self._carried_out(
            f"resume {guard_id}", self._resume(guard_id), guard_id, by=by
        )

    async def reload(self, *, by: str) -> str:
        """Read the configuration again; refused where it is not valid."""
        return await self._carried_out("reload", self._reload(), by=by)

    async def run_now(
        self, guard_id: str, *, by: str, source: ExecutionSource
    ) -> ExecutionRecord | None:
        """Run a guard at once under its usual rules; None where it had nothing to do."""
        return await self._carried_out(
            f"{source.value} {guard_id}",
            self._run_now(guard_id, source),
            guard_id,
            by=by,
            in_words=_run_in_words,
        )

    async def settle(self, action_id: UUID, *, applied: bool, by: str) -> str:
        """Settle an action whose outcome no reading can tell by the owner's word."""
        word = "applied" if applied else "not applied"
        return await self._carried_out(
            f"settle {action_id} as {word}", self._settle(action_id, applied=applied, by=by), by=by
        )

    async def _pause(self, guard_id: str, span: timedelta, by: str) -> str:
        id_, engine = self._found(guard_id)
        if not SHORTEST_PAUSE <= span <= LONGEST_PAUSE:
            longest_h = LONGEST_PAUSE.total_seconds() / 3600
            raise Refused(
                f"a pause lasts from 1 s to {longest_h:g} h, so that no guard is forgotten"
            )
        pause = Pause(until=self._clock.now() + span, by=by)
        durable = await engine.pause(id_, pause)
        words = [
            f"Guard {id_} is {pause}: until then it alerts and does nothing.",
            "Stop-losses on the exchange stay as they are.",
        ]
        if under_way := sorted(engine.under_way(id_)):
            words.append(f"What is under way goes on: on {', '.join(under_way)}.")
        if not durable:
            words.append("The disk is full and the pause is not written down: a restart ends it.")
        return " ".join(words)

    async def _resume(self, guard_id: str) -> str:
        id_, engine = self._found(guard_id)
        durable = await engine.resume(id_)
        words = f"The pause of guard {id_} is over: it looks at once and acts again."
        if not durable:
            words += (
                " The disk is full and this is not written down: restarted before the pause would"
                " have ended, it is paused again."
            )
        return words

    async def _run_now(self, guard_id: str, source: ExecutionSource) -> ExecutionRecord | None:
        id_, engine = self._found(guard_id)
        return await engine.run_now(id_, source)

    async def _settle(self, action_id: UUID, *, applied: bool, by: str) -> str:
        record = await self._at_work().settle(action_id, applied=applied, by=by)
        what = f"{record.kind.value} on position {record.position_id}"
        if not record.kind.spends:
            sats = ""
        elif applied:
            sats = f" Its {record.amount:,} sats count as spent."
        else:
            sats = f" Its {record.amount:,} sats do not count as spent any more."
        how = "was carried out" if applied else "was not carried out"
        return (
            f"Action {action_id} ({what}) is settled: by your word it {how}.{sats} The guard may"
            " spend on the position again."
        )

    def _at_work(self) -> Engine:
        if self._stopping():
            raise Refused("the daemon is being stopped: start it again first")
        engine = self._engine()
        if engine is None:
            raise Refused("the daemon is still starting: ask again in a moment")
        return engine

    def _found(self, guard_id: str) -> tuple[GuardId, Engine]:
        """Return a guard that this daemon runs, if its configuration is to be believed."""
        engine, config = self._at_work(), self._config()
        accounts = {guard.id: guard.account for guard in config.guards}
        known = [*accounts, *(guard.id for guard in config.refused_guards)]
        if guard_id not in known:
            offer = nearest(guard_id, known)
            raise Refused(f'there is no guard "{guard_id}"' + (f"; {offer}" if offer else ""))
        id_ = GuardId(guard_id)
        account_id = accounts.get(id_)
        why = None if account_id is None else self._left().get(account_id)
        if why is not None:
            raise Refused(
                f"this daemon only stands by for account {account_id}: {why}; ask that daemon"
            )
        return id_, engine

    async def _carried_out(
        self,
        command: str,
        work: Awaitable[T],
        guard_id: str | None = None,
        *,
        by: str,
        in_words: Callable[[T], str] = str,
    ) -> T:
        """Do what was asked and write down what came of it, also where it is refused."""
        try:
            result = await work
        except MarginguardError as error:
            await self._record(command, guard_id, by=by, answer=str(error), accepted=False)
            raise
        await self._record(command, guard_id, by=by, answer=in_words(result), accepted=True)
        return result

    async def _record(
        self, command: str, guard_id: str | None, *, by: str, answer: str, accepted: bool
    ) -> None:
        record = CommandRecord(
            id=uuid7(),
            at=self._clock.now(),
            by=_text(by),
            command=_text(command[:COMMAND_CHARACTERS]),
            guard_id=None if guard_id is None else GuardId(_text(guard_id[:COMMAND_CHARACTERS])),
            accepted=accepted,
            answer=_text(answer),
        )
        paused = accepted and command.startswith("pause ")
        log = self._log.bind(by=record.by, command=record.command, guard=record.guard_id)
        if paused:
            log.warning(
                "operator.command",
                accepted=accepted,
                answer=record.answer,
                advice=f"marginguard resume {record.guard_id} ends the pause at once",
            )
        else:
            log.info("operator.command", accepted=accepted, answer=record.answer)
        try:
            await self._journal.append(record)
        except DiskFull as error:
            log.critical(
                "operator.unrecorded",
                error=str(error),
                advice="free space in the state directory; the command is in this log alone",
            )


def _run_in_words(record: ExecutionRecord | None) -> str:
    if record is None:
        return "it looked and had nothing to do"
    why = f": {record.error}" if record.error else ""
    return f"execution {record.id} {record.status.value}{why}"


def _text(text: str) -> str:
    """Return a text from outside as one that can be written down: without lone surrogates."""
    return text.encode(errors="replace").decode()
