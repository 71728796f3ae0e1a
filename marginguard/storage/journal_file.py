"""The journal's file: checksummed lines, written so that a crash leaves no doubt.

Each line is `<crc32> <sequence number> <payload>`. The payload is a record in JSON, or a mark:
everything up to that sequence number is in the database. Nothing here is asynchronous; the
journal calls it off the event loop.
"""

import errno
import os
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final
from uuid import UUID

from marginguard.domain.errors import ConfigError, Malformed
from marginguard.domain.ledger import state_after
from marginguard.domain.records import ActionRecord, GuardState, Record
from marginguard.domain.units import GuardId
from marginguard.storage import codec

_FORMAT: Final = b"drained format="
_MARK: Final = _FORMAT + b"1"
_READ_BYTES: Final = 256 * 1024


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """A record with its place in the journal."""

    seq: int
    record: Record


@dataclass(frozen=True, kw_only=True, slots=True)
class Damage:
    """Lines of the journal that could not be read, and where the damaged file was put."""

    lines: int
    kept_at: Path


@dataclass(kw_only=True, slots=True)
class Memory:
    """What the journal's lines come to: the newest snapshots, and how far the drain has come."""

    last_seq: int = 0
    drained_seq: int = 0
    unsettled: dict[UUID, Entry] = field(default_factory=dict)
    guards: dict[GuardId, Entry] = field(default_factory=dict)

    def note(self, entry: Entry) -> None:
        """Take in the next record."""
        self.last_seq = max(self.last_seq, entry.seq)
        match entry.record:
            case ActionRecord() as action:
                self._note_action(action, entry)
            case GuardState(guard_id=guard_id):
                self.guards[guard_id] = entry
            case _:
                pass

    def _note_action(self, action: ActionRecord, entry: Entry) -> None:
        if action.status.settled:
            self.unsettled.pop(action.id, None)
        else:
            self.unsettled[action.id] = entry
        known = self.guards.get(action.guard_id)
        if known is not None and isinstance(known.record, GuardState):
            state = state_after(known.record, action)
            self.guards[action.guard_id] = replace(known, record=state)

    def note_mark(self, seq: int) -> None:
        """Take in that everything up to `seq` is in the database."""
        self.drained_seq = max(self.drained_seq, seq)
        # Numbers go on above the mark even if the lines are gone: below it they would count as
        # drained already.
        self.last_seq = max(self.last_seq, seq)

    def snapshot(self) -> bytes:
        """Return the lines that a new file begins with: all that is still needed, but drained."""
        kept = [*self.unsettled.values(), *self.guards.values()]
        kept = sorted((e for e in kept if e.seq <= self.drained_seq), key=lambda e: e.seq)
        lines = [frame(entry.seq, codec.encode(entry.record)) for entry in kept]
        return b"".join([frame_mark(self.drained_seq), *lines])


def frame(seq: int, payload: bytes) -> bytes:
    """Return one whole line."""
    body = b"%d %s" % (seq, payload)
    return b"%08x %s\n" % (zlib.crc32(body), body)


def frame_mark(seq: int) -> bytes:
    """Return the line which says that everything up to `seq` is in the database."""
    return frame(seq, _MARK)


def parse(line: bytes) -> tuple[int, Record | None]:
    """Return the sequence number and the record (None for a mark) of a line.

    Raises `Malformed` for a damaged line and `ConfigError` for one of another format.
    """
    seq, payload = _unframe(line)
    if payload == _MARK:
        return seq, None
    if payload.startswith(_FORMAT):
        raise ConfigError(
            "the journal was written by another version of marginguard, in the format"
            f" {payload.removeprefix(_FORMAT).decode(errors='replace')} instead of 1; run that"
            " version, or move the journal away after checking the account by hand"
        )
    return seq, codec.decode(payload)


def _unframe(line: bytes) -> tuple[int, bytes]:
    checksum, _, body = line.removesuffix(b"\n").partition(b" ")
    if checksum != b"%08x" % zlib.crc32(body):
        raise Malformed("the checksum does not match")
    seq, _, payload = body.partition(b" ")
    if not seq.isdigit():
        raise Malformed("there is no sequence number")
    return int(seq), payload


class JournalFile:
    """The file, open. `size` is the length of what is whole and durable.

    A method that writes raises `OSError`, after which the file is as it was before, or else
    `needs_rewrite` is set: what the disk holds is in doubt, and only `rewrite` may come next.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.size = 0
        self.needs_rewrite = False
        self.damage: Damage | None = None
        self.fresh = False
        self._fd: int | None = None

    def open(self, memory: Memory) -> None:
        """Open the file and replay it into `memory`.

        A torn end (no line break) was never acknowledged and is cut off. Damaged lines are
        skipped and set `damage`; without a file it is `fresh`; either needs a rewrite. Raises
        `OSError` when the file may not be opened and `ConfigError` when it has another format.
        """
        try:
            self._fd = os.open(self.path, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            self.fresh = self.needs_rewrite = True
            return
        if damaged := self._replay(memory):
            at = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
            kept_at = self.path.with_name(f"{self.path.name}.damaged-{at}")
            self.damage = Damage(lines=damaged, kept_at=kept_at)
            self.needs_rewrite = True
        else:
            self._cut_off(self._fd)

    def append(self, data: bytes) -> None:
        """Add whole lines and return once they are durable."""
        fd = self._open_fd()
        try:
            _write(fd, data, self.size)
        except OSError:
            self._cut_off(fd)
            raise
        try:
            os.fdatasync(fd)
        except OSError:
            # The kernel may have dropped the pages that it could not write and call the next
            # fdatasync a success: nothing that this file says afterwards can be relied on.
            self.needs_rewrite = True
            raise
        self.size += len(data)

    def rewrite(self, head: bytes, *, tail_from: int, after_seq: int) -> int:
        """Put a new file in place: `head`, then the old file's records above `after_seq`.

        `tail_from` is an offset that none of those begins before. A damaged file is kept aside.
        Returns where the tail begins in the new file.
        """
        new_path = self.path.with_name(f"{self.path.name}.new")
        fd = os.open(new_path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            size = _write(fd, head, 0)
            for line in self._raw_records(tail_from, after_seq):
                size += _write(fd, line, size)
            os.fsync(fd)
            if self.damage is not None and not self.damage.kept_at.exists():
                self.damage.kept_at.hardlink_to(self.path)
            new_path.rename(self.path)
        except OSError:
            os.close(fd)
            new_path.unlink(missing_ok=True)
            raise
        old_fd, self._fd, self.size = self._fd, fd, size
        self.needs_rewrite = True
        if old_fd is not None:
            os.close(old_fd)
        _sync_directory(self.path.parent)
        self.needs_rewrite = False
        return len(head)

    def read(
        self, start: int, end: int, *, after_seq: int, limit: int
    ) -> tuple[list[Entry], int, int]:
        """Return at most `limit` records above `after_seq` from between two offsets.

        Returns also where to go on reading, and how many lines could not be read.
        """
        entries: list[Entry] = []
        unreadable = 0
        position = start
        for offset, line in self._lines(start, end):
            if len(entries) >= limit:
                break
            position = offset + len(line)
            try:
                seq, payload = _unframe(line)
                if seq > after_seq and payload != _MARK:
                    entries.append(Entry(seq=seq, record=codec.decode(payload)))
            except Malformed:
                unreadable += 1
        return entries, position, unreadable

    def close(self) -> None:
        """Close the file; it needs no last write."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def _open_fd(self) -> int:
        if self._fd is None:
            raise OSError(errno.EBADF, "the journal is not open")
        return self._fd

    def _cut_off(self, fd: int) -> None:
        """Remove what lies beyond the last whole line."""
        try:
            os.ftruncate(fd, self.size)
        except OSError:
            self.needs_rewrite = True

    def _replay(self, memory: Memory) -> int:
        """Return the number of damaged lines."""
        damaged = 0
        previous = 0
        for offset, line in self._lines(0, os.fstat(self._open_fd()).st_size):
            self.size = offset + len(line)
            try:
                seq, record = parse(line)
            except Malformed:
                damaged += 1
                continue
            if record is None:
                memory.note_mark(seq)
            elif seq > previous:
                memory.note(Entry(seq=seq, record=record))
                previous = seq
            else:
                damaged += 1
        # A file is put in place with a first line, so one without any has lost it.
        return damaged if self.size else 1

    def _raw_records(self, start: int, after_seq: int) -> Iterator[bytes]:
        if self._fd is None:
            return
        for _, line in self._lines(start, self.size):
            try:
                seq, payload = _unframe(line)
            except Malformed:
                continue
            if seq > after_seq and payload != _MARK:
                yield line

    def _lines(self, start: int, end: int) -> Iterator[tuple[int, bytes]]:
        """Yield the offset and bytes of every whole line from `start`, a line's begin, to `end`.

        A stretch that the disk cannot read is yielded as one line, which no checksum fits.
        """
        offset = position = start
        rest = b""
        while position < end:
            try:
                chunk = os.pread(self._open_fd(), min(_READ_BYTES, end - position), position)
            except OSError:
                yield offset, b"\n"
                return
            if not chunk:
                return
            position += len(chunk)
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                yield offset, line + b"\n"
                offset += len(line) + 1


def _write(fd: int, data: bytes, offset: int) -> int:
    """Write all of `data`; a disk that fills up cuts a write short before it refuses one."""
    view = memoryview(data)
    while view:
        written = os.pwrite(fd, view, offset)
        view = view[written:]
        offset += written
    return len(data)


def _sync_directory(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
