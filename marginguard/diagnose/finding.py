"""What a diagnosis ends with."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """Something that is not as it should be, what to do, and the stable name of that."""

    issue: str
    solution: str
    action: str
