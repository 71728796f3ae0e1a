"""Errors, each class named by what the one who catches it must do.

A library's errors are translated into these once, at the boundary where they arise.
"""

from enum import StrEnum
from typing import ClassVar


class ErrorType(StrEnum):
    """What kind of thing went wrong; recorded with a failed execution."""

    CONFIGURATION = "CONFIGURATION_ERROR"
    ACCOUNT = "ACCOUNT_ERROR"
    API = "API_ERROR"
    NETWORK = "NETWORK_ERROR"
    EXECUTION = "EXECUTION_ERROR"
    NOTIFICATION = "NOTIFICATION_ERROR"


class ErrorCode(StrEnum):
    """The stable name of a failure, for records and for people who search them."""

    INVALID_CONFIG_SCHEMA = "INVALID_CONFIG_SCHEMA"
    PLAN_LIMITATIONS_EXCEEDED = "PLAN_LIMITATIONS_EXCEEDED"
    NO_EXCHANGE_ACCOUNTS = "NO_EXCHANGE_ACCOUNTS"
    INVALID_CREDENTIALS = "INVALID_CREDENTIALS"
    INVALID_ACCOUNT_STATUS = "INVALID_ACCOUNT_STATUS"
    ACCOUNT_FETCH_ERROR = "ACCOUNT_FETCH_ERROR"
    POSITIONS_UNKNOWN = "POSITIONS_UNKNOWN"
    PRICE_UNKNOWN = "PRICE_UNKNOWN"
    ACTION_FAILED = "ACTION_FAILED"
    INTERRUPTED = "INTERRUPTED"
    STALLED = "STALLED"


class MarginguardError(Exception):
    """The root of every error that this package raises on purpose."""

    error_type: ClassVar[ErrorType] = ErrorType.EXECUTION


class ConfigError(MarginguardError):
    """Tell the operator, who must change the configuration; retrying is useless.

    Each of `problems` is one line that names file, key, value and what is allowed.
    """

    error_type = ErrorType.CONFIGURATION

    def __init__(self, *problems: str) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class Transient(MarginguardError):
    """Try again, after `retry_after_s` seconds if it is given."""

    error_type = ErrorType.API

    def __init__(self, message: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class Unreachable(Transient):
    """Try again: the network failed before an answer came."""

    error_type = ErrorType.NETWORK


class RateLimited(Transient):
    """Wait and try again: the exchange takes no more calls of this key or address for now."""


class Malformed(Transient):
    """Do not use the answer: it does not parse or holds impossible values. Read again."""


class Rejected(MarginguardError):
    """Do not try again as it is: the exchange understood and refused.

    `status` is the HTTP status, `code` the exchange's own code (or None).
    """

    def __init__(self, message: str, *, status: int, code: str | None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


class Unauthorized(Rejected):
    """Disarm the account: its key is refused (`UNAUTHORIZED`) or lacks a permission."""

    error_type = ErrorType.ACCOUNT


class Refused(MarginguardError):
    """Tell the operator why what was asked for cannot be done, and what can be instead."""

    error_type = ErrorType.CONFIGURATION


class OutcomeUnknown(MarginguardError):
    """Read before doing anything else: the call may or may not have been carried out."""


class StaleData(MarginguardError):
    """Do not act on it: the data is older than it may be."""

    error_type = ErrorType.NETWORK


class DiskFull(MarginguardError):
    """The journal cannot be written: close and reduce go on, spending stops."""


class DatabaseUnavailable(Transient):
    """Go on without the database and drain later; nothing is lost."""
