"""What a guard beyond its user's plan could be instead, as text that goes into the file."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass

import tomlkit

from marginguard.config import Config, RefusedGuard
from marginguard.config.plan_fix import Correction, corrected


@dataclass(frozen=True, kw_only=True, slots=True)
class Fix:
    """A refused guard and its correction; `toml` is the corrected guard's table."""

    guard: RefusedGuard
    correction: Correction
    toml: str

    def in_words(self) -> Iterator[tuple[str, str]]:
        """Yield the comments that stand above the table, each with the start of its first line."""
        plan = f'plan "{self.correction.plan}"'
        if self.correction.within_plan:
            yield "# ", f"{self.guard.where}, brought within {plan}. Nothing was written."
        else:
            yield "# ", f"{self.guard.where}, NOT within {plan} yet. Nothing was written."
        for change in self.correction.changes:
            yield "# changed: ", change
        for left in self.correction.left:
            yield "# left to you: ", left
        if (upgrade := self.guard.upgrade) is not None:
            yield "# or: ", f'leave the guard as it is, and move its user to plan "{upgrade}"'

    def as_json(self) -> dict[str, object]:
        """Return the fix as one object."""
        return {
            "guard": self.guard.id,
            "plan": self.correction.plan,
            "within_plan": self.correction.within_plan,
            "changes": self.correction.changes,
            "left_to_you": self.correction.left,
            "suggested_upgrade": self.guard.upgrade,
            "toml": self.toml,
        }


def of(config: Config) -> list[Fix]:
    """Return a fix for every guard that its plan refuses."""
    terms = config.terms()
    found = ((guard, corrected(guard, terms)) for guard in config.refused_guards)
    return [
        Fix(guard=guard, correction=correction, toml=_toml(correction))
        for guard, correction in found
        if correction is not None
    ]


def beyond_plan(guard: RefusedGuard) -> dict[str, object]:
    """Return what the plan does not allow of a guard, in detail."""
    problems = []
    for one in guard.beyond_plan:
        details = asdict(one.problem)
        del details["place"]
        problems.append({key: value for key, value in details.items() if value is not None})
    return {
        "guard": guard.id,
        "problems": problems,
        "suggested_upgrade": guard.upgrade,
    }


def _toml(correction: Correction) -> str:
    guards = tomlkit.aot()
    guards.append(tomlkit.item(correction.table))
    document = tomlkit.document()
    document.append("guards", guards)
    return tomlkit.dumps(document)
