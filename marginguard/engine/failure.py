"""Why a run failed, and how often it is worth trying again."""

from collections.abc import Sequence
from dataclasses import dataclass

from marginguard.domain.errors import ErrorCode, ErrorType, MarginguardError, Unauthorized
from marginguard.domain.outcome import OutcomeKind
from marginguard.domain.records import ActionRecord, ActionStatus

_CODES = {
    "positions": ErrorCode.POSITIONS_UNKNOWN,
    "settling": ErrorCode.POSITIONS_UNKNOWN,
    "price": ErrorCode.PRICE_UNKNOWN,
}
_TYPES: dict[str | None, ErrorType] = {
    OutcomeKind.NOT_SENT: ErrorType.NETWORK,
    OutcomeKind.BUSY: ErrorType.API,
    OutcomeKind.AMBIGUOUS: ErrorType.API,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Failure:
    """A failure by code, type and in words; `retries` is how often to try again soon."""

    code: ErrorCode
    error_type: ErrorType
    message: str
    retries: int


def of_read(error: MarginguardError, *, phase: str, stalled: bool, retries: int) -> Failure:
    """Return the failure of a run that could not read what it needs.

    `retries` is how often a network or API error is retried; what the account or the
    configuration causes is not cured by trying again soon.
    """
    if isinstance(error, Unauthorized):
        code = ErrorCode.INVALID_CREDENTIALS
    else:
        code = ErrorCode.STALLED if stalled else _CODES[phase]
    return Failure(
        code=code,
        error_type=error.error_type,
        message=str(error),
        retries=_allowed(error.error_type, retries),
    )


def of_ends(ends: Sequence[ActionRecord], *, stalled: bool, retries: int) -> Failure:
    """Return the failure of a run whose actions did not all work, by the first such action."""
    if stalled:
        return Failure(
            code=ErrorCode.STALLED,
            error_type=ErrorType.EXECUTION,
            message="an action could not be begun in time, or had not ended when the run's time"
            " was over",
            retries=_allowed(ErrorType.API, retries),
        )
    unmet = [end for end in ends if end.status in {ActionStatus.REJECTED, ActionStatus.UNKNOWN}]
    if not unmet:
        return Failure(
            code=ErrorCode.ACTION_FAILED,
            error_type=ErrorType.EXECUTION,
            message="a position needed action, and none was possible",
            retries=0,
        )
    error_type = _TYPES.get(unmet[0].outcome, ErrorType.EXECUTION)
    return Failure(
        code=ErrorCode.ACTION_FAILED,
        error_type=error_type,
        message=unmet[0].error or "the action could not be proved",
        retries=_allowed(error_type, retries),
    )


def _allowed(error_type: ErrorType, retries: int) -> int:
    if error_type in {ErrorType.NETWORK, ErrorType.API}:
        return retries
    return min(1, retries) if error_type is ErrorType.EXECUTION else 0
