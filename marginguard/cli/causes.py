"""Causes and cures, as JSON and in words that fit the terminal."""

from collections.abc import Iterable, Iterator

from marginguard.cli.common import paragraph
from marginguard.diagnose.account import Cause


def as_json(cause: Cause) -> dict[str, object]:
    """Return a cause with the stable name of its cure; `certainty` is `found` or `possible`."""
    return {
        "issue": cause.issue,
        "solution": cause.solution,
        "action": cause.action,
        "certainty": "found" if cause.proved else "possible",
        "severity": "warning" if cause.warning else "problem",
    }


def in_words(causes: Iterable[Cause]) -> Iterator[str]:
    """Yield the lines that tell of the causes."""
    for cause in causes:
        kind = "warning" if cause.warning else "found"
        yield paragraph(f"  {kind if cause.proved else 'possible'}: ", cause.issue)
        yield paragraph("    cure: ", cause.solution)
