"""`marginguard run`: the daemon."""

import logging
import os
from pathlib import Path

import click
import uvloop

from marginguard import logs
from marginguard.app import Daemon
from marginguard.cli.common import config_option
from marginguard.config import Config, load_config


@click.command()
@config_option
@click.option("--dry-run", is_flag=True, help="Do everything but send: it does not guard then.")
@click.option("--debug", is_flag=True, help="Log more, with tracebacks.")
def run(config_path: Path, *, dry_run: bool, debug: bool) -> None:
    """Guard the configured accounts until SIGINT or SIGTERM."""
    config = load_config(config_path, os.environ)
    secrets: set[str] = set()

    def log_by(config: Config) -> None:
        # Those of an earlier configuration stay secret.
        secrets.update(config.secret_values())
        level = logs.LEVELS[config.logging.level]
        logs.configure(
            environ=os.environ,
            secrets=secrets,
            level=logging.DEBUG if debug else level,
            form=config.logging.format,
        )

    log_by(config)

    async def guard() -> None:
        await Daemon(config, dry_run=dry_run, on_config=log_by).run()

    uvloop.run(guard())
