"""How a call that changes something on the exchange ended, as far as its caller can know."""

from dataclasses import dataclass
from enum import StrEnum


class OutcomeKind(StrEnum):
    """What may be concluded from a call.

    `not_sent`: the request's headers were never written, so it may be sent again. `done`: a 2xx
    answer that parses; still to be proved. `rejected`: a 4xx but 408 and 429; it did not happen.
    `busy`: 429, or 503 with the exchange's own code; it did not happen, wait and try again.
    `ambiguous`: everything else; read before doing anything.
    """

    NOT_SENT = "not_sent"
    DONE = "done"
    REJECTED = "rejected"
    BUSY = "busy"
    AMBIGUOUS = "ambiguous"


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """The end of one attempt. `detail` is plain English for records and people.

    `exchange_id` is the id that the exchange gave back; `retry_after_s` its wish when busy;
    `unauthorized` says that it refused the key itself, by its own code.
    """

    kind: OutcomeKind
    detail: str
    exchange_id: str | None = None
    retry_after_s: float | None = None
    unauthorized: bool = False
