"""Guards as a user writes them, and what is read of them."""

from pathlib import Path

from marginguard.config import Config, load_config, rules_of
from marginguard.domain.rules import Rules

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
"""
ADDS = "action = 'add_margin'\n"
CLOSES = "action = 'close_position'\n"
ESCALATION = "[[guards.escalation]]\n"
INDIVIDUAL = "[guards.individual_configs.x]\n"


def load(path: Path, guard: str, before: str = "") -> Config:
    path.write_text(before + ACCOUNT + GUARD + guard)
    return load_config(path, {"LNM": "some-secret"})


def rules(path: Path, guard: str, before: str = "") -> Rules:
    config = load(path, guard, before)
    assert config.refused_guards == ()
    return rules_of(config.guards[0], config.actions)


def refusal(path: Path, guard: str) -> list[str]:
    """Return the faults of the guard, which must be refused, without where it stands."""
    config = load(path, guard)
    assert config.guards == ()
    start = f'{path}: guards[1] "long".'
    problems = config.refused_guards[0].problems
    assert all(problem.startswith(start) and problem.isprintable() for problem in problems)
    return [problem.removeprefix(start) for problem in problems]
