"""The whole engine against everything that fails, on a virtual clock."""

import os
import subprocess
import sys
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest

from marginguard.domain.budget import Allowance
from marginguard.domain.model import ActionKind, MarginMode
from marginguard.domain.outcome import Outcome, OutcomeKind
from marginguard.engine import executor
from marginguard.engine.alerts import Alerts
from marginguard.engine.book import Book
from marginguard.engine.executor import Executor
from marginguard.engine.health import Health
from tests.simulation.scenario import Happening, scenario
from tests.simulation.small import FATES_TO_CRASH_IN, one_breach
from tests.simulation.venue import SimulatedAccount
from tests.simulation.world import CALM, play

SEEDS = 200
PARTS = 8
SEEDS_OF_A_BROKEN_ENGINE = 80
STEPS_TO_CRASH_AT = 25
A_LIVELY_SEED = 12
PROTECTING = [kind for kind in ActionKind if kind.protects]
UNCERTAIN_FATES = ("lost", "applied_unheard", "very_late")
BEFALLING = [
    ("clock jump", -60.0),
    ("clock jump", 60.0),
    ("database slow", 20.0),
    ("disk full", 8.0),
    ("freeze", 12.0),
    ("funding", 0.001),
    ("funding", -0.001),
    ("kill", 1.0),
    ("restart", 1.0),
    ("user cashes in", 0.05),
    ("user closes", 0.0),
    ("user deposits", 0.1),
    ("user tops up", 0.2),
]


@pytest.mark.parametrize("part", range(PARTS))
def test_every_invariant_holds_whatever_happens(part):
    failed = {}
    for seed in range(part, SEEDS, PARTS):
        result = play(scenario(seed))
        if result.violations:
            failed[seed] = result.violations[0]
    assert not failed, "replay with: python -m tests.simulation --replay SEED"


@pytest.mark.parametrize("mode", MarginMode)
@pytest.mark.parametrize("kind", PROTECTING)
@pytest.mark.parametrize("fate", FATES_TO_CRASH_IN)
def test_an_action_survives_a_crash_at_every_step(mode, kind, fate):
    """Failure 24: what a crash cut short is settled, done once, and on the record."""
    whole = play(one_breach(mode, kind, fate), verbose=True)
    assert whole.violations == []
    assert whole.counts[f"{kind.value} done"] >= 1
    steps = [line for line in whole.lines if "] step " in line or line.endswith(CALM)]
    first = next(n for n, line in enumerate(steps) if " ask " in line)
    last = next(n for n, line in enumerate(steps) if line.endswith(CALM))
    failed = {}
    for step in range(max(1, first - 5), min(last, first + STEPS_TO_CRASH_AT)):
        result = play(one_breach(mode, kind, fate, crash_in=step))
        assert result.counts["crashes"] == 1
        if result.violations:
            failed[step] = result.violations[0]
    assert not failed


@pytest.mark.parametrize(("name", "size"), BEFALLING)
def test_an_action_survives_what_befalls_it_under_way(name, size):
    """Failures 2, 8, 11, 12, 25, 26, 30: in the middle of every action, on both margins."""
    failed = {}
    for mode, kind, fate, at_s in product(MarginMode, PROTECTING, UNCERTAIN_FATES, (11.5, 15.0)):
        happening = Happening(at_s=at_s, name=name, size=size)
        result = play(replace(one_breach(mode, kind, fate), happenings=(happening,)))
        if result.violations:
            failed[f"{mode.value} {kind.value} {fate} at {at_s} s"] = result.violations[0]
    assert not failed


def test_a_seed_is_the_same_again_in_another_process():
    """A replay shows what happened, whatever the hash seed of the interpreter."""
    here = play(scenario(A_LIVELY_SEED), verbose=True)
    assert here.counts["crashes"] >= 1
    assert here.counts["notice action_done"] >= 1
    there = subprocess.run(
        [sys.executable, "-m", "tests.simulation", "--replay", str(A_LIVELY_SEED)],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "PYTHONHASHSEED": "1234"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert there.stdout.splitlines()[: len(here.lines)] == here.lines


def test_sending_again_before_a_request_has_expired_is_caught(monkeypatch):
    monkeypatch.setattr(executor, "REQUEST_LIFE_S", 0.0)
    assert _caught("may still be carried out", "but the exchange carried it out")


def test_an_intent_that_is_not_durable_is_caught(monkeypatch):
    write = Book.write

    async def write_the_end_alone(book, record, *, patience_s=0.0):
        return not record.status.settled or await write(book, record, patience_s=patience_s)

    monkeypatch.setattr(Book, "write", write_the_end_alone)
    assert _caught("sent without a durable intent")


def test_a_lost_answer_taken_for_a_failure_to_send_is_caught(monkeypatch):
    change = SimulatedAccount._change

    async def take_it_lightly(account, wish):
        outcome = await change(account, wish)
        if outcome.kind is OutcomeKind.AMBIGUOUS:
            return Outcome(kind=OutcomeKind.NOT_SENT, detail=outcome.detail)
        return outcome

    monkeypatch.setattr(SimulatedAccount, "_change", take_it_lightly)
    assert _caught("carried out 2 times", "may still be carried out")


def test_an_action_that_is_never_settled_is_caught(monkeypatch):
    async def leave_it(_executor, record, *_seen):
        return record

    monkeypatch.setattr(Executor, "settle", leave_it)
    assert _caught("which is no end")


def test_spending_beyond_the_budget_is_caught(monkeypatch):
    monkeypatch.setattr(
        "marginguard.domain.steps.allowance",
        lambda *_budget, **_planned: Allowance(amount=10**15, limit="none", decided_by=None),
    )
    assert _caught("overspent")


def test_a_breach_that_nobody_hears_of_is_caught(monkeypatch):
    monkeypatch.setattr(Alerts, "remind", lambda *_decisions: frozenset())
    assert _caught("nobody has heard of it")


def test_an_action_of_a_guard_that_is_paused_is_caught(monkeypatch):
    monkeypatch.setattr(Book, "paused", None)
    assert _caught("is paused and sent")


def test_a_blind_guard_that_does_not_say_so_is_caught(monkeypatch):
    async def say_nothing(_health, _error):
        return None

    monkeypatch.setattr(Health, "blind", say_nothing)
    assert _caught("does not say so")


def _caught(*words):
    """Return whether some seed shows what is broken, in these words."""
    for seed in range(SEEDS_OF_A_BROKEN_ENGINE):
        violations = play(scenario(seed)).violations
        if any(word in violation for word in words for violation in violations):
            return True
    return False
