"""Who is told of a notice, on which channels, and where to turn when one fails."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from marginguard.domain.notice import EVENT_OF, Event, Notice, Severity
from marginguard.domain.units import AccountId, GuardId
from marginguard.notify.preferences import Preferences
from marginguard.notify.rendering import Recipient


@dataclass(frozen=True, kw_only=True, slots=True)
class Person:
    """A user: an address, chat id, URL or number for each channel, and what is wished."""

    user_id: str
    addresses: Mapping[str, str] = field(repr=False)
    timezone: str = "UTC"
    preferences: Preferences = field(default_factory=Preferences)


@dataclass(frozen=True, kw_only=True, slots=True)
class Narrowing:
    """What a guard takes away from its user's wishes; None: nothing."""

    channels: frozenset[str] | None = None
    events: frozenset[Event] | None = None

    def lets(self, event: Event, channel: str) -> bool:
        """Return whether the guard's notices of this event may use the channel at once."""
        return (self.channels is None or channel in self.channels) and (
            self.events is None or event in self.events
        )


class Routing:
    """Decides by the users' wishes; `owners` says whose an account is.

    `usable` are the channels that are set up. A channel counts for a user who has an address
    there and wants it used.
    """

    def __init__(
        self,
        people: Iterable[Person],
        *,
        usable: Collection[str],
        owners: Mapping[AccountId, str],
        narrowed: Mapping[GuardId, Narrowing] | None = None,
    ) -> None:
        self.usable = frozenset(usable)
        self._people = {person.user_id: person for person in people}
        self._owners = owners
        self._narrowed = narrowed or {}
        self._channels = {
            person.user_id: tuple(
                channel
                for channel in dict.fromkeys(person.preferences.channels)
                if channel in usable and person.addresses.get(channel)
            )
            for person in self._people.values()
        }

    def first(self, notice: Notice) -> list[tuple[str, str]]:
        """Return the user and channel of everybody who is told at once.

        A notice that is not of one account is for every user. A critical one always goes to the
        user's first channel, if to no other.
        """
        ways = []
        for person in self._readers(notice):
            channels = self._channels[person.user_id]
            wanted = [channel for channel in channels if self._wanted(notice, person, channel)]
            if not wanted and notice.severity is Severity.CRITICAL:
                wanted = list(channels[:1])
            ways += [(person.user_id, channel) for channel in wanted]
        return ways

    def knows(self, user_id: str) -> bool:
        """Return whether there is such a user."""
        return user_id in self._people

    def channels_of(self, user_id: str) -> tuple[str, ...]:
        """Return the channels that reach a user, the first choice first."""
        return self._channels.get(user_id, ())

    def recipient(self, user_id: str, channel: str) -> Recipient | None:
        """Return where a user is reached on a channel; None if nowhere (any more)."""
        if channel not in self.channels_of(user_id):
            return None
        person = self._people[user_id]
        return Recipient(user_id=user_id, to=person.addresses[channel], timezone=person.timezone)

    def preferences_of(self, user_id: str) -> Preferences:
        """Return a user's wishes; those of nobody in particular for one who is gone."""
        person = self._people.get(user_id)
        return Preferences() if person is None else person.preferences

    def _readers(self, notice: Notice) -> list[Person]:
        owner = None if notice.account_id is None else self._owners.get(notice.account_id)
        # Of an account that nobody owns (any more) everybody is told rather than nobody.
        if owner is None or owner not in self._people:
            return list(self._people.values())
        return [self._people[owner]]

    def _wanted(self, notice: Notice, person: Person, channel: str) -> bool:
        event = EVENT_OF[notice.kind]
        if not person.preferences.wants(event, channel):
            return False
        narrowing = None if notice.guard_id is None else self._narrowed.get(notice.guard_id)
        return narrowing is None or narrowing.lets(event, channel)
