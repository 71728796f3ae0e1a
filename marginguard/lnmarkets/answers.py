"""What may be concluded from an HTTP answer of the exchange; pure."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from marginguard.domain.errors import (
    Malformed,
    MarginguardError,
    RateLimited,
    Rejected,
    Transient,
    Unauthorized,
)
from marginguard.domain.outcome import Outcome, OutcomeKind
from marginguard.lnmarkets import wire

MAX_RETRY_AFTER_S: Final = 60.0
_MESSAGE_LENGTH: Final = 200
_REFUSED_KEY: Final = frozenset({"UNAUTHORIZED", "FORBIDDEN"})

_REQUEST_TIMEOUT = 408
_TOO_MANY_REQUESTS = 429
_SERVICE_UNAVAILABLE = 503


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """An HTTP answer, read to its end.

    `retry_after_s` is the server's wish, bounded; `waited_s` the time until the call's turn came
    and it was sent, `took_s` that from sending to the end.
    """

    status: int
    body: bytes
    retry_after_s: float | None = None
    waited_s: float = 0.0
    took_s: float = 0.0

    @property
    def ok(self) -> bool:
        """Whether the status is 2xx."""
        return 200 <= self.status < 300

    @property
    def over_limit(self) -> bool:
        """Whether the exchange says that it gets too many calls."""
        return self.status == _TOO_MANY_REQUESTS

    @property
    def refused(self) -> bool:
        """Whether the status is a 4xx that means: understood, not done, do not repeat."""
        return 400 <= self.status < 500 and self.status not in {
            _REQUEST_TIMEOUT,
            _TOO_MANY_REQUESTS,
        }


def retry_after_s(header: str | None) -> float | None:
    """Return the seconds that a `Retry-After` header asks for, at most a minute.

    The bound is ours: a guard that waits longer is blind. A date or nonsense gives None.
    """
    if header is None:
        return None
    try:
        seconds = float(header)
    except ValueError:
        return None
    if not math.isfinite(seconds) or seconds < 0:
        return None
    return min(seconds, MAX_RETRY_AFTER_S)


def read_error(answer: Answer) -> MarginguardError:
    """Return the error that an answer other than 2xx to a read means."""
    error = wire.api_error(answer.body)
    code = error.code if error else None
    said = _describe(answer, error)
    if answer.refused:
        kind = Unauthorized if _key_refused(answer, code) else Rejected
        return kind(said, status=answer.status, code=code)
    if answer.status < 400:
        return Malformed(said)
    kind_of_wait = RateLimited if answer.over_limit else Transient
    return kind_of_wait(said, retry_after_s=answer.retry_after_s)


def outcome(answer: Answer, exchange_id: Callable[[bytes], str | None]) -> Outcome:
    """Return what an answer to a call that changes something means.

    `exchange_id` takes the id out of a 2xx body (None if it has none), or raises `Malformed`.
    """
    if answer.ok:
        try:
            done = exchange_id(answer.body)
        except Malformed as malformed:
            return Outcome(
                kind=OutcomeKind.AMBIGUOUS,
                detail=f"the exchange answered {answer.status}, but {malformed}",
            )
        return Outcome(
            kind=OutcomeKind.DONE,
            detail=f"the exchange answered {answer.status}",
            exchange_id=done,
        )
    error = wire.api_error(answer.body)
    code = error.code if error else None
    return Outcome(
        kind=_refusal_kind(answer, code),
        detail=_describe(answer, error),
        retry_after_s=answer.retry_after_s,
        unauthorized=_key_refused(answer, code),
    )


def _refusal_kind(answer: Answer, code: str | None) -> OutcomeKind:
    if answer.refused:
        return OutcomeKind.REJECTED
    if answer.over_limit:
        return OutcomeKind.BUSY
    # The engine itself says that it is away; a gateway's 503 says nothing about the request.
    if answer.status == _SERVICE_UNAVAILABLE and code is not None:
        return OutcomeKind.BUSY
    return OutcomeKind.AMBIGUOUS


def _key_refused(answer: Answer, code: str | None) -> bool:
    """Whether the exchange itself, and not a gateway before it, refuses the key."""
    return answer.status in {401, 403} and code in _REFUSED_KEY


def _describe(answer: Answer, error: wire.ApiError | None) -> str:
    if error is None or (error.code is None and not error.message):
        return f"the exchange answered {answer.status} without a reason of its own"
    message = "".join(c if c.isprintable() else " " for c in error.message[:_MESSAGE_LENGTH])
    reason = ": ".join(part for part in (error.code, message) if part)
    return f"the exchange answered {answer.status}: {reason}"
