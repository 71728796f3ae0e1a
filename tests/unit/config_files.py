"""Configurations as a user writes them, loaded or refused."""

from pathlib import Path

import pytest

from marginguard.config import Config, load_config
from marginguard.domain.errors import ConfigError

ACCOUNT = """
[[accounts]]
id = "main"
network = "signet"
key = "env:LNM"
secret = "env:LNM"
passphrase = "env:LNM"
"""
GUARD = """
[[guards]]
id = "long"
account = "main"
margin_threshold = 80
action = "add_margin"
"""
ENVIRON = {"LNM": "some-secret-of-the-account"}


def load(path: Path, text: str, **environ: str) -> Config:
    path.write_text(text)
    path.chmod(0o600)
    return load_config(path, ENVIRON | environ)


def problems(path: Path, text: str, **environ: str) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        load(path, text, **environ)
    assert str(caught.value) == "\n".join(caught.value.problems)
    return caught.value.problems


def refusal(path: Path, guard: str, before: str = ACCOUNT) -> tuple[str, ...]:
    """Return the problems of the only guard, which must be refused."""
    config = load(path, before + guard)
    assert config.guards == ()
    (refused,) = config.refused_guards
    return refused.problems
