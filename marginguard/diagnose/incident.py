"""An incident's archive: what somebody needs who is to find a fault, and nothing secret."""

import gzip
import io
import os
import tarfile
import tempfile
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from marginguard.logs import Redactor


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
    redactor = Redactor(secrets)
    parts = tuple(Part(name=part.name, text=redactor.text(part.text)) for part in incident.parts)
    left_out = tuple(
        LeftOut(part=one.part, reason=redactor.text(one.reason)) for one in incident.left_out
    )
    readme = Part(name="README.txt", text=_readme(incident, parts, left_out))
    return Incident(at=incident.at, since=incident.since, parts=(readme, *parts), left_out=left_out)


def write_archive(incident: Incident, target: Path) -> None:
    """Write the parts as a gzipped tar to `target`, readable by its owner alone.

    A file that is there already is not replaced (`FileExistsError`), and nothing is left behind
    by a write that fails (`OSError`).
    """
    handle, temporary = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(_packed(incident))
            file.flush()
            os.fsync(file.fileno())
        os.link(temporary, target)  # unlike a rename it never replaces
    finally:
        with suppress(FileNotFoundError):
            Path(temporary).unlink()


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
    lines = [
        f"An incident of marginguard, from {incident.since:%Y-%m-%d %H:%M:%S} to"
        f" {incident.at:%Y-%m-%d %H:%M:%S} UTC.",
        "Keys, passwords, tokens and addresses are left out and read ***. Positions, prices and",
        "amounts are in it: give it to those alone who are to find the fault.",
        "",
        *(f"{part.name}: {len(part.text):,} characters" for part in parts),
    ]
    if left_out:
        lines += ["", "Left out:", *(f"{one.part}: {one.reason}" for one in left_out)]
    return "\n".join(lines) + "\n"
