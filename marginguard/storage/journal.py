"""The write-ahead record on the local disk: what is about to be done, before it is done."""

import asyncio
import contextlib
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self, TypeVar

import structlog

from marginguard.domain.errors import ConfigError, DiskFull
from marginguard.domain.records import ActionRecord, GuardState, Record
from marginguard.domain.units import GuardId
from marginguard.storage import codec
from marginguard.storage.journal_file import (
    Damage,
    Entry,
    JournalFile,
    Memory,
    frame,
    frame_mark,
)
from marginguard.storage.journal_lock import lock_state_dir, opening_failed
from marginguard.storage.journal_progress import DrainProgress
from marginguard.storage.timing import OnWork, unmeasured

T = TypeVar("T")

COMPACT_BYTES: Final = 4 * 1024 * 1024
WARN_BYTES: Final = 256 * 1024 * 1024


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """Records that the database does not hold yet, in order; to be given back to `drained`.

    There are no others that can be read up to the sequence number `upto` and the offset `end`.
    """

    entries: tuple[Entry, ...]
    upto: int
    end: int
    generation: int


@dataclass(frozen=True, kw_only=True, slots=True)
class _Append:
    """Records handed over, and where their last sequence number or their failure goes."""

    entries: tuple[tuple[Record, bytes], ...]
    written: asyncio.Future[int | OSError]


class FileJournal:
    """An append-only file in the state directory; implements `ports.Journal`.

    Concurrent appends share one fdatasync, which runs off the event loop. The file holds
    everything that the database does not, and beyond that the newest state of every guard and
    the newest record of every action that is not settled; the rest goes when it is compacted.

    After a crash a torn last line is cut off: it was never acknowledged, so nothing was sent on
    the strength of it. Any other damaged line is lost, and every line that can be read is kept,
    before the damage and after it: each is a whole snapshot with its own checksum, so an action
    that lost its newest record is found unsettled and is read again, which is safe. What is not
    safe is an intent lost whole, whose request may still be under way. So the damage is logged
    as critical, the damaged file is kept aside, and `damage` is set: nothing may be spent until
    a request signed before the start cannot be carried out any more. The daemon itself goes on,
    for not to guard would be worse.
    """

    def __init__(
        self,
        file: JournalFile,
        memory: Memory,
        *,
        lock_fd: int,
        compact_bytes: int,
        warn_bytes: int,
        on_work: OnWork,
    ) -> None:
        self._log = structlog.get_logger()
        self._file = file
        self._memory = memory
        self._lock_fd = lock_fd
        self._compact_bytes = compact_bytes
        self._warn_bytes = warn_bytes
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="journal")
        self._waiting: list[_Append] = []
        self._flusher: asyncio.Task[None] | None = None
        self._closed = False
        self._failing = False
        self._large = False
        # The file is replaced under this lock, and read by the drain. `_drain_from` is where the
        # drain goes on reading in the file of `_generation`: a hint, the numbers decide.
        self._replacing = asyncio.Lock()
        self._drain_from = 0
        self._generation = 0
        self._compact_from_bytes = compact_bytes
        self._marked_seq = memory.drained_seq
        self._progress = DrainProgress(memory.drained_seq, on_work=on_work)
        self.undrained = asyncio.Event()
        """Set while there are records that the database does not hold."""
        if self.backlog:
            self.undrained.set()

    @classmethod
    async def open(
        cls,
        state_dir: Path,
        *,
        compact_bytes: int = COMPACT_BYTES,
        warn_bytes: int = WARN_BYTES,
        on_work: OnWork = unmeasured,
    ) -> Self:
        """Open `journal.log` in `state_dir`, which is made if it is missing, and replay it.

        `on_work` hears of the waits for the database to hold what was appended.
        Raises `ConfigError` when another process has it open, when the directory cannot be used,
        or when a version with another format wrote the file; `DiskFull` when the disk does not
        even let it be read or locked.
        """
        path = state_dir / "journal.log"
        try:
            lock_fd = await asyncio.to_thread(lock_state_dir, state_dir)
        except OSError as error:
            raise opening_failed(state_dir, error) from error
        file, memory = JournalFile(path), Memory()
        try:
            await asyncio.to_thread(file.open, memory)
        except OSError as error:
            os.close(lock_fd)
            raise opening_failed(state_dir, error) from error
        except ConfigError:
            os.close(lock_fd)
            raise
        journal = cls(
            file,
            memory,
            lock_fd=lock_fd,
            compact_bytes=compact_bytes,
            warn_bytes=warn_bytes,
            on_work=on_work,
        )
        await journal._begin()
        return journal

    @property
    def damage(self) -> Damage | None:
        """What was lost when the journal was opened; None is the rule."""
        return self._file.damage

    @property
    def fresh(self) -> bool:
        """Whether there was no journal: what it knew, if anything, is in the database alone."""
        return self._file.fresh

    @property
    def backlog(self) -> int:
        """The number of records that the database does not hold."""
        return self._memory.last_seq - self._memory.drained_seq

    def unsettled_actions(self) -> Sequence[ActionRecord]:
        """Return the newest record of every action that is not settled, oldest first."""
        return tuple(
            entry.record
            for entry in sorted(self._memory.unsettled.values(), key=lambda entry: entry.seq)
            if isinstance(entry.record, ActionRecord)
        )

    def guard_states(self) -> Mapping[GuardId, GuardState]:
        """Return the newest state of every guard."""
        return {
            guard_id: entry.record
            for guard_id, entry in self._memory.guards.items()
            if isinstance(entry.record, GuardState)
        }

    async def append(self, *records: Record, patience_s: float = 0.0) -> None:
        """Make the records durable, in order; return once they are.

        Then waits at most `patience_s` for the database to hold them too, and not at all while
        it is known to be away. Raises `DiskFull` when they cannot be written. Cancelled, it
        stops waiting, but the records are written whole.
        """
        if self._closed:
            raise RuntimeError("the journal is closed")
        if not records:
            return
        entries = tuple((record, codec.encode(record)) for record in records)
        handed_over = _Append(entries=entries, written=asyncio.get_running_loop().create_future())
        self._waiting.append(handed_over)
        if self._flusher is None or self._flusher.done():
            self._flusher = asyncio.create_task(self._flush(), name="journal")
        result = await asyncio.shield(handed_over.written)
        if isinstance(result, OSError):
            raise DiskFull(f"{self._file.path} cannot be written: {result.strerror}") from result
        await self._progress.wait(result, patience_s)

    async def read_undrained(self, limit: int) -> Batch:
        """Return the next records, at most `limit`, that the database does not hold."""
        async with self._replacing:
            last_seq = self._memory.last_seq
            entries, end, unreadable = await asyncio.to_thread(
                self._file.read,
                self._drain_from,
                self._file.size,
                after_seq=self._memory.drained_seq,
                limit=limit,
            )
            batch = Batch(
                entries=tuple(entries),
                upto=entries[-1].seq if entries else last_seq,
                end=end,
                generation=self._generation,
            )
        if unreadable:
            self._log.critical(
                "journal.unreadable",
                lines=unreadable,
                file=str(self._file.path),
                advice="the database will lack these records; check the disk",
            )
        return batch

    def drained(self, batch: Batch) -> None:
        """Note that the database holds the batch; waiting appends go on."""
        memory = self._memory
        memory.drained_seq = batch.upto
        if batch.generation == self._generation:
            self._drain_from = batch.end
        if not self.backlog:
            self.undrained.clear()
        self._progress.reached(batch.upto)

    def database_down(self, *, down: bool) -> None:
        """Note whether the database is known to be away; no append waits for it then."""
        self._progress.database_down(down=down)

    async def close(self) -> None:
        """Finish what was handed over, keep the mark of what is drained, close the file."""
        self._closed = True
        if self._flusher is not None:
            await self._flusher
        if self._marked_seq < self._memory.drained_seq and not self._file.needs_rewrite:
            # Without the mark the next start drains a little again, which changes nothing.
            with contextlib.suppress(OSError):
                await self._run(lambda: self._file.append(frame_mark(self._memory.drained_seq)))
        await asyncio.to_thread(self._thread.shutdown)
        self._file.close()
        os.close(self._lock_fd)

    async def _begin(self) -> None:
        """Tell of damage, and put a sound file in place where there is none."""
        if self.damage is not None:
            self._log.critical(
                "journal.damaged",
                lines_lost=self.damage.lines,
                kept_at=str(self.damage.kept_at),
                actions_unsettled=len(self._memory.unsettled),
                advice="check the disk, and the account for actions that the records lack",
            )
        if self._file.needs_rewrite:
            try:
                await self._rewrite()
            except OSError as error:
                self._note_failure(error)

    async def _flush(self) -> None:
        """Write whatever waits, group by group, until nothing does."""
        while self._waiting:
            group, self._waiting = self._waiting, []
            try:
                await self._write_group(group)
            except OSError as error:
                self._note_failure(error)
                for item in group:
                    item.written.set_result(error)
            except BaseException as error:
                # A fault in this program: whoever waits must hear of it, not wait for ever.
                for item in (*group, *self._waiting):
                    if not item.written.done():
                        item.written.set_exception(error)
                self._waiting = []
                raise
            await self._compact_if_due()

    async def _write_group(self, group: Sequence[_Append]) -> None:
        if self._file.needs_rewrite:
            await self._rewrite()
        seq, marked = self._memory.last_seq, self._memory.drained_seq
        lines = [frame_mark(marked)] if marked > self._marked_seq else []
        entries: list[Entry] = []
        ends: list[int] = []
        for item in group:
            for record, payload in item.entries:
                seq += 1
                lines.append(frame(seq, payload))
                entries.append(Entry(seq=seq, record=record))
            ends.append(seq)
        data = b"".join(lines)
        await self._run(lambda: self._file.append(data))
        self._marked_seq = marked
        for entry in entries:
            self._memory.note(entry)
        self.undrained.set()
        for item, end in zip(group, ends, strict=True):
            item.written.set_result(end)
        self._note_success()

    async def _rewrite(self) -> None:
        async with self._replacing:
            marked = self._memory.drained_seq
            head, tail_from = self._memory.snapshot(), self._drain_from
            self._drain_from = await self._run(
                lambda: self._file.rewrite(head, tail_from=tail_from, after_seq=marked)
            )
            self._generation += 1
            self._marked_seq = marked
            self._compact_from_bytes = max(self._compact_bytes, 2 * self._file.size)

    async def _compact_if_due(self) -> None:
        """Replace a file that has grown and is at least half drained.

        At least twice the size of the last one, so that the cost stays small in proportion.
        """
        size = self._file.size
        if size >= self._compact_from_bytes and self._drain_from >= size // 2:
            try:
                await self._rewrite()
            except OSError as error:
                self._compact_from_bytes = size + self._compact_bytes
                self._log.warning(
                    "journal.not_compacted", error=str(error), advice="free space on the disk"
                )
        large = self._file.size >= self._warn_bytes
        if large and not self._large:
            self._log.warning(
                "journal.large",
                bytes=self._file.size,
                backlog=self.backlog,
                file=str(self._file.path),
                advice="bring the database back before the disk is full; nothing is dropped",
            )
        self._large = large

    def _note_failure(self, error: OSError) -> None:
        if not self._failing:
            self._failing = True
            self._log.critical(
                "journal.unwritable",
                file=str(self._file.path),
                error=str(error),
                advice="free space on the disk; until then positions are closed but nothing is"
                " spent to protect them",
            )

    def _note_success(self) -> None:
        if self._failing:
            self._failing = False
            self._log.info("journal.writable", file=str(self._file.path))

    async def _run(self, call: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, call)
