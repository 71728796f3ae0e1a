"""Why an execution failed, by type, and what to do: from its error's class, never its words."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from marginguard.diagnose.finding import Finding
from marginguard.domain.errors import ErrorCode, ErrorType
from marginguard.domain.outcome import OutcomeKind
from marginguard.domain.records import ActionRecord, ActionStatus, ExecutionRecord


@dataclass(frozen=True, kw_only=True, slots=True)
class FailureReason(Finding):
    """A cause of a failure. `type` is its stable name, `detail` what the record says of it."""

    type: str
    detail: str


_KINDS: Final = {
    "api_error": (
        "the exchange answered with an error, not in time, or not in a way that can be used",
        "check the exchange's status and the API credentials; the guard tries again by itself",
        "verify_api_credentials",
    ),
    "network_error": (
        "the network between this machine and the exchange failed",
        "check this machine's network; the guard tries again by itself",
        "retry_execution",
    ),
    "permission_error": (
        "the exchange refused the API key, or the key lacks a permission",
        (
            "make sure on the exchange that the key exists and may trade futures, and put the right"
            " one into the configuration"
        ),
        "update_permissions",
    ),
    "market_error": (
        (
            "the market did not allow it: no price could be relied on, or the exchange refused the"
            " action as it was"
        ),
        (
            "look at the market and the account on the exchange, and at the API key's permissions"
            " if the refusal names one; the guard goes on to its fallback, or tries again by itself"
        ),
        "wait_and_retry",
    ),
    "configuration_error": (
        "the configuration does not allow it",
        "run marginguard check and change what it names",
        "fix_config",
    ),
    "execution_error": (
        "an action was needed, and could not be carried out or proved",
        (
            "look at the position on the exchange now; then see whether the guard has budget,"
            " a fallback, and time ([daemon] timeout)"
        ),
        "check_position",
    ),
}

_BY_TYPE: Final = {
    ErrorType.API: "api_error",
    ErrorType.NETWORK: "network_error",
    ErrorType.ACCOUNT: "permission_error",
    ErrorType.CONFIGURATION: "configuration_error",
    ErrorType.EXECUTION: "execution_error",
    ErrorType.NOTIFICATION: "network_error",
}
_BY_OUTCOME: Final[dict[str | None, str]] = {
    OutcomeKind.NOT_SENT: "network_error",
    OutcomeKind.BUSY: "api_error",
    OutcomeKind.AMBIGUOUS: "api_error",
    OutcomeKind.REJECTED: "market_error",
}
_UNMET: Final = {ActionStatus.REJECTED, ActionStatus.UNKNOWN}


def failure_reasons(
    execution: ExecutionRecord | None, actions: Sequence[ActionRecord]
) -> tuple[FailureReason, ...]:
    """Return the reasons why an execution, or actions of it, failed; each type once.

    `execution` is None where it has left no record of its end.
    """
    of_actions = tuple(_of_actions(actions))
    found: dict[str, FailureReason] = {}
    for kind, detail in (*of_actions, *_of_execution(execution, known=bool(of_actions))):
        found.setdefault(kind, _reason(kind, detail))
    return tuple(found.values())


def _of_actions(actions: Sequence[ActionRecord]) -> Iterator[tuple[str, str]]:
    for action in actions:
        if action.status in _UNMET and not action.dry_run:
            kind = _BY_OUTCOME.get(action.outcome, "execution_error")
            yield kind, action.error or f"{action.kind.value} is {action.status.value}"


def _of_execution(execution: ExecutionRecord | None, *, known: bool) -> Iterator[tuple[str, str]]:
    """Yield what the execution's own error says; `known` if its actions have told more."""
    if execution is None or execution.error_type is None:
        return
    if known and execution.error_code is ErrorCode.ACTION_FAILED:
        return
    detail = execution.error or execution.error_type.value
    yield _BY_TYPE[execution.error_type], detail
    if execution.error_code is ErrorCode.PRICE_UNKNOWN:
        yield "market_error", detail


def _reason(kind: str, detail: str) -> FailureReason:
    issue, solution, action = _KINDS[kind]
    return FailureReason(type=kind, issue=issue, detail=detail, solution=solution, action=action)
