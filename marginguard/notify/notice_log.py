"""Notices in the log: whoever reads it misses nothing, whatever the channels do."""

import structlog

from marginguard.domain.notice import Notice, Severity
from marginguard.domain.notification import Notification


def log_notice(notice: Notice) -> None:
    """Log the notice as loudly as it is urgent."""
    log = structlog.get_logger()
    write = {
        Severity.INFO: log.info,
        Severity.WARNING: log.warning,
        Severity.CRITICAL: log.critical,
    }[notice.severity]
    write(f"notice.{notice.kind.value}", text=notice.text, **ids_of(notice))


def ids_of(notice: Notice) -> dict[str, str]:
    """Return what a notice is about, for a log line."""
    ids = {
        "notice_id": notice.id,
        "guard_id": notice.guard_id,
        "account_id": notice.account_id,
        "position_id": notice.position_id,
        "execution_id": notice.execution_id,
    }
    return {key: str(value) for key, value in ids.items() if value is not None}


def context_of(row: Notification) -> dict[str, str]:
    """Return which notification it is, for a log line."""
    return {
        "notice_id": str(row.id),
        "kind": row.notice.kind.value,
        "user": row.user_id,
        "channel": row.channel,
    }
