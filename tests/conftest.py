"""Fixtures for every test."""

import asyncio
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from tests.postgres import TestServer, reachable_directory


def pytest_sessionstart() -> None:
    """Keep the plugins' first look at the current event loop from making one nobody closes."""
    asyncio.set_event_loop(None)


@pytest.fixture(autouse=True)
def logging_as_it_was() -> Iterator[None]:
    """Undo what a command that a test runs in this process does to the logging."""
    configured, before = structlog.is_configured(), structlog.get_config()
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    if configured:
        structlog.configure(**before)
    elif structlog.is_configured():
        structlog.reset_defaults()
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[TestServer]:
    """The session's PostgreSQL, started when the first test asks for it."""
    with reachable_directory() as state_dir, TestServer(state_dir) as server:
        yield server


@pytest.fixture
def database_url(postgres_server: TestServer) -> Iterator[str]:
    """The URL of a fresh, empty database."""
    with postgres_server.database() as url:
        yield url


@pytest.fixture
def state_dir() -> Iterator[Path]:
    """An empty state directory in which a server can run (pytest's `tmp_path` is closed to it)."""
    with reachable_directory() as directory:
        yield directory


@pytest.fixture(scope="session")
def used_state_dir() -> Iterator[Path]:
    """A state directory whose server ran before and does not run now; leave it like that."""
    with reachable_directory() as directory:
        with TestServer(directory):
            pass
        yield directory
