"""What became of notices in the store, and a person of few channels."""

from marginguard.domain.notification import NotificationStatus
from marginguard.notify.preferences import Preferences
from tests.notifying import a_person

DELIVERED, FAILED, PENDING = (
    NotificationStatus.DELIVERED,
    NotificationStatus.FAILED,
    NotificationStatus.PENDING,
)


def status(store, notice, channel):
    row = store.of(notice, channel)
    return None if row is None else row.status


def only(*channels, **preferences):
    return a_person(preferences=Preferences(channels=channels, **preferences))
