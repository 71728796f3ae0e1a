"""`marginguard incident`: one archive for a report of a fault, with nothing secret in it."""

import asyncio
import logging
import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import click

from marginguard import logs
from marginguard.app import incidents
from marginguard.cli.common import config_option, json_option
from marginguard.cli.record import WrongUse, echo_json, opened, say, since_option
from marginguard.config import Config, load_config
from marginguard.diagnose.incident import Incident, LeftOut, Part, redacted, write_archive
from marginguard.domain.errors import ConfigError, MarginguardError
from marginguard.storage.reading_incident import rows_since, server_version


@click.command()
@config_option
@since_option("2h")
@click.option(
    "-o", "--output", "output", metavar="FILE", type=click.Path(path_type=Path),
    help="The archive, a .tar.gz [default: marginguard-incident-TIME.tar.gz here].",
)  # fmt: skip
@click.option("--unit", default="marginguard", show_default=True, help="The daemon's systemd unit.")
@json_option
def incident(
    config_path: Path, *, since: datetime, output: Path | None, unit: str, as_json: bool
) -> None:
    """Put into one archive what a report of a fault needs, without anything secret.

    That is the configuration with its secrets out, versions, the records, what lies in the state
    directory and, where this user may read it, the daemon's log. What cannot be had is named.
    """
    at = datetime.now(UTC)
    target = output or Path(f"marginguard-incident-{at:%Y%m%dT%H%M%SZ}.tar.gz")
    if target.exists():
        raise WrongUse(f"{target} is there already: choose another name with -o FILE")
    raw = incidents.raw_config(config_path)
    config, faults = _loaded(config_path)
    secrets = incidents.known_secrets(config, raw)
    logs.configure(environ=os.environ, secrets=secrets, level=logging.CRITICAL)
    found = [
        LeftOut(part="config.toml", reason="it is not TOML that can be read")
        if raw is None
        else incidents.config_part(raw),
        *_faults(faults),
    ]
    found += _of_daemon(config, since, unit)
    whole = redacted(
        Incident(
            at=at,
            since=since,
            parts=tuple(one for one in found if isinstance(one, Part)),
            left_out=tuple(one for one in found if isinstance(one, LeftOut)),
        ),
        secrets,
    )
    try:
        write_archive(whole, target)
    except OSError as error:
        raise WrongUse(f"{target} cannot be written: {error.strerror}") from error
    _tell(whole, target, as_json=as_json)


def _loaded(path: Path) -> tuple[Config | None, tuple[str, ...]]:
    try:
        config = load_config(path, os.environ)
    except ConfigError as error:
        return None, error.problems
    return config, tuple(line for guard in config.refused_guards for line in guard.problems)


def _faults(faults: tuple[str, ...]) -> Iterator[Part]:
    if faults:
        yield Part(name="config-faults.txt", text="\n".join(faults) + "\n")


def _of_daemon(config: Config | None, since: datetime, unit: str) -> Iterator[Part | LeftOut]:
    if config is None:
        # Nobody could tell what of a log or a record is secret.
        why = "the configuration is refused as a whole, so that its secrets are not known"
        yield incidents.versions_part(None)
        yield LeftOut(part="records", reason=why)
        yield LeftOut(part="journal.log", reason=why)
        return
    try:
        version, records = asyncio.run(_records(config, since))
    except (MarginguardError, TimeoutError) as error:
        version, records = None, []
        yield LeftOut(part="records", reason=str(error) or "no answer in time")
    yield from records
    yield incidents.versions_part(version)
    yield incidents.state_part(config.daemon.state_dir)
    if config.database.url is None:
        yield incidents.server_log_part(config.daemon.state_dir)
    yield incidents.journal_part(unit, since)


async def _records(config: Config, since: datetime) -> tuple[str, list[Part]]:
    async with opened(config) as connection:
        rows = await rows_since(connection, since)
        version = await server_version(connection)
    parts = [
        Part(name=f"records/{name}.jsonl", text="".join(f"{line}\n" for line in lines))
        for name, lines in rows.items()
    ]
    return version, parts


def _tell(whole: Incident, target: Path, *, as_json: bool) -> None:
    if as_json:
        echo_json(
            {
                "archive": str(target),
                "files": [{"name": p.name, "characters": len(p.text)} for p in whole.parts],
                "left_out": [{"part": o.part, "reason": o.reason} for o in whole.left_out],
            }
        )
        return
    say(
        f"{target} holds {', '.join(part.name for part in whole.parts)}. Keys, passwords, tokens"
        " and addresses are left out; positions and amounts are in it."
    )
    for one in whole.left_out:
        say(f"left out: {one.part}: {one.reason}", later="  ")
