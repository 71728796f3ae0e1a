"""How the notifications of some time were delivered."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from marginguard.diagnose.figures import (
    CommonError,
    Slice,
    Timing,
    common_errors,
    pattern,
    success_rate,
    timing,
)
from marginguard.diagnose.finding import Finding
from marginguard.domain.history import Delivery
from marginguard.domain.notification import FAILING_AFTER, NotificationStatus

_DELIVERED = {
    NotificationStatus.DELIVERED: True,
    NotificationStatus.FAILED: False,
    NotificationStatus.PENDING: None,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class ChannelFigures:
    """How one channel did; `failing` of the `pending` have failed again and again so far.

    `success_rate` (0 to 1) is over what was delivered or given up.
    """

    total: int
    delivered: int
    failed: int
    pending: int
    failing: int
    success_rate: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class NotificationAnalysis:
    """The notifications from `since` to `until`; `delay` is how long the delivered ones took."""

    since: datetime
    until: datetime
    total: int
    delivered: int
    failed: int
    pending: int
    success_rate: float | None
    delay: Timing | None
    channels: Mapping[str, ChannelFigures]
    common_errors: Sequence[CommonError]
    pattern: Sequence[Slice]
    recommendations: Sequence[Finding]


def analyze(
    deliveries: Sequence[Delivery], *, since: datetime, until: datetime, slices: int = 24
) -> NotificationAnalysis:
    """Return what the notifications of a time show."""
    by_channel: dict[str, list[Delivery]] = defaultdict(list)
    for delivery in deliveries:
        by_channel[delivery.channel].append(delivery)
    channels = {name: _figures(by_channel[name]) for name in sorted(by_channel)}
    counts = Counter(delivery.status for delivery in deliveries)
    delivered, failed = counts[NotificationStatus.DELIVERED], counts[NotificationStatus.FAILED]
    return NotificationAnalysis(
        since=since,
        until=until,
        total=len(deliveries),
        delivered=delivered,
        failed=failed,
        pending=counts[NotificationStatus.PENDING],
        success_rate=success_rate(delivered, failed),
        delay=timing(_delays_s(deliveries)),
        channels=channels,
        common_errors=common_errors(
            f"{one.channel}: {one.last_error or 'no error was recorded'}"
            for one in deliveries
            if _shut(one)
        ),
        pattern=pattern(
            ((one.created_at, _DELIVERED[one.status]) for one in deliveries),
            since=since,
            until=until,
            slices=slices,
        ),
        recommendations=tuple(
            finding
            for name, figures in channels.items()
            for finding in _recommendations(name, figures, by_channel[name])
        ),
    )


def _shut(delivery: Delivery) -> bool:
    """Whether its way is shut as far as is known: given up, or failed again and again."""
    if delivery.status is NotificationStatus.PENDING:
        return delivery.attempts >= FAILING_AFTER
    return delivery.status is NotificationStatus.FAILED


def _figures(deliveries: Sequence[Delivery]) -> ChannelFigures:
    counts = Counter(delivery.status for delivery in deliveries)
    delivered, failed = counts[NotificationStatus.DELIVERED], counts[NotificationStatus.FAILED]
    return ChannelFigures(
        total=len(deliveries),
        delivered=delivered,
        failed=failed,
        pending=counts[NotificationStatus.PENDING],
        failing=sum(map(_shut, deliveries)) - failed,
        success_rate=success_rate(delivered, failed),
    )


def _delays_s(deliveries: Sequence[Delivery]) -> Iterator[float]:
    for one in deliveries:
        if one.status is NotificationStatus.DELIVERED and one.settled_at is not None:
            yield max(0.0, (one.settled_at - one.created_at).total_seconds())


def _recommendations(
    name: str, figures: ChannelFigures, deliveries: Sequence[Delivery]
) -> Iterator[Finding]:
    if figures.failed + figures.failing <= figures.delivered:
        return
    newest = max(filter(_shut, deliveries), key=lambda one: one.created_at)
    yield Finding(
        issue=f"{name} failed {figures.failed + figures.failing} times and delivered"
        f" {figures.delivered}: {newest.last_error or 'no error was recorded'}",
        solution=newest.advice
        or f"check the settings under [notifications.{name}]: marginguard notify test",
        action=newest.action or "verify_channel_config",
    )
