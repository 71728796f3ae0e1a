"""An incident's archive: what somebody needs who is to find a fault, and nothing secret."""

import gzip
import io
import os
import re
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

from marginguard.redaction import Redactor

_CHAT: Final = re.compile(r"telegram chat (-?\d{5,})(?:, user (\d{5,}))?|\bchat=(-?\d{5,})")
"""How records and the log name who commands, or would like to; nobody's id is shorter."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """One file of the archive, as text."""

    name: str
    text: str


@dataclass(frozen=True, kw_only=True, slots=True)
class LeftOut:
    """What is not in the archive, and why."""

    part: str
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Incident:
    """Everything that goes into the archive, made `at`, about the time since `since`."""

    at: datetime
    since: datetime
    parts: tuple[Part, ...]
    left_out: tuple[LeftOut, ...]


def redacted(incident: Incident, secrets: Iterable[str]) -> Incident:
    """Return the incident without any of the secrets, and with a word on what it holds."""
    redactor = Redactor({*secrets, *_chats_in(incident.parts)})
    parts = tuple(Part(name=part.name, text=redactor.text(part.text)) for part in incident.parts)
    left_out = tuple(
        LeftOut(part=one.part, reason=redactor.text(one.reason)) for one in incident.left_out
    )
    readme = Part(name="README.txt", text=_readme(incident, parts, left_out))
    return Incident(at=incident.at, since=incident.since, parts=(readme, *parts), left_out=left_out)


def _chats_in(parts: Iterable[Part]) -> Iterator[str]:
    """Yield the ids of chats and of their members, strangers among them, wherever they wrote."""
    for part in parts:
        for match in _CHAT.finditer(part.text):
            yield from (id_ for id_ in match.groups() if id_)


def write_archive(incident: Incident, target: Path) -> None:
    """Write the parts as a gzipped tar to `target`, readable by its owner alone.

    A file that is there already is not replaced (`FileExistsError`), and nothing is left behind
    by a write that fails (`OSError`).
    """
    packed = _packed(incident)
    handle = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(packed)
    except BaseException:
        target.unlink(missing_ok=True)
        raise


def _packed(incident: Incident) -> bytes:
    directory = f"marginguard-incident-{incident.at:%Y%m%dT%H%M%SZ}"
    packed = io.BytesIO()
    with (
        gzip.GzipFile(fileobj=packed, mode="wb", mtime=incident.at.timestamp()) as compressed,
        tarfile.open(fileobj=compressed, mode="w") as archive,
    ):
        for part in incident.parts:
            content = part.text.encode(errors="replace")
            entry = tarfile.TarInfo(f"{directory}/{part.name}")
            entry.size, entry.mode = len(content), 0o600
            entry.mtime = int(incident.at.timestamp())
            archive.addfile(entry, io.BytesIO(content))
    return packed.getvalue()


def _readme(incident: Incident, parts: Sequence[Part], left_out: Sequence[LeftOut]) -> str:
    since, at = f"{incident.since:%Y-%m-%d %H:%M:%S}", f"{incident.at:%Y-%m-%d %H:%M:%S}"
    lines = [
        f"An incident of marginguard, from {since} to {at} UTC.",
        "Keys, passwords, tokens and addresses are left out and read ***. Positions, prices and",
        "amounts are in it: give it to those alone who are to find the fault.",
        "",
        *(f"{part.name}: {len(part.text):,} characters" for part in parts),
    ]
    if left_out:
        lines += ["", "Left out:", *(f"{one.part}: {one.reason}" for one in left_out)]
    return "\n".join(lines) + "\n"
