"""Who is told of a notice, and on which channels."""

from types import SimpleNamespace

import pytest

from marginguard.domain.notice import EVENT_OF, Event, NoticeKind, Severity
from marginguard.notify.preferences import Preferences
from marginguard.notify.rendering import Recipient
from marginguard.notify.routing import Narrowing
from tests.notifying import a_notice, a_person, a_routing, an_alarm

CHANNELS = [SimpleNamespace(name=name) for name in ("email", "telegram", "sms")]


def ana(**preferences):
    return a_person("ana", preferences=Preferences(**preferences))


@pytest.mark.parametrize("kind", NoticeKind)
def test_every_kind_of_notice_belongs_to_an_event(kind):
    assert isinstance(EVENT_OF[kind], Event)


def test_the_owner_of_the_account_is_told_on_every_channel_that_is_set_up_in_order():
    routing = a_routing(CHANNELS, ana(), a_person("ben"), owners={"main": "ana", "two": "ben"})
    assert routing.first(a_notice()) == [("ana", "telegram"), ("ana", "email"), ("ana", "sms")]


@pytest.mark.parametrize("account_id", [None, "nobody's"])
def test_everybody_is_told_of_what_is_of_no_one_account(account_id):
    routing = a_routing(CHANNELS[:1], ana(), a_person("ben"))
    assert routing.first(a_notice(account_id=account_id)) == [("ana", "email"), ("ben", "email")]


def test_a_user_is_told_only_where_there_is_an_address():
    routing = a_routing(CHANNELS, a_person("ana", addresses={"email": "ana@example.com"}))
    assert routing.channels_of("ana") == ("email",)
    assert routing.recipient("ana", "email") == Recipient(user_id="ana", to="ana@example.com")
    assert routing.recipient("ana", "sms") is None
    assert routing.recipient("nobody", "email") is None


def test_a_channel_is_used_for_the_events_that_are_wanted_there():
    wishes = {"telegram": frozenset({Event.THRESHOLD_ALERT}), "sms": frozenset()}
    routing = a_routing(CHANNELS, ana(events=wishes))
    assert routing.first(a_notice()) == [("ana", "email")]
    assert routing.first(a_notice(kind=NoticeKind.THRESHOLD_REACHED)) == [
        ("ana", "telegram"),
        ("ana", "email"),
    ]


def test_the_order_of_the_channels_is_the_users_and_others_are_not_used():
    routing = a_routing(CHANNELS, ana(channels=("sms", "email", "webhook", "sms")))
    assert routing.channels_of("ana") == ("sms", "email")


def test_a_guard_narrows_what_its_user_wants():
    narrowed = {"night": Narrowing(channels=frozenset({"email"}))}
    routing = a_routing(CHANNELS, ana(), narrowed=narrowed)
    assert routing.first(a_notice()) == [("ana", "email")]
    assert len(routing.first(a_notice(guard_id="day"))) == 3
    narrowed = {"night": Narrowing(events=frozenset({Event.DAEMON}))}
    assert a_routing(CHANNELS, ana(), narrowed=narrowed).first(a_notice()) == []


@pytest.mark.parametrize(
    "more",
    [
        {"narrowed": {"night": Narrowing(channels=frozenset())}},
        {"wishes": dict.fromkeys(("email", "telegram", "sms"), frozenset())},
    ],
)
def test_a_critical_notice_reaches_the_first_channel_whatever_is_wished(more):
    person = ana(events=more.pop("wishes", {}))
    routing = a_routing(CHANNELS, person, **more)
    assert routing.first(an_alarm()) == [("ana", "telegram")]
    assert routing.first(an_alarm(severity=Severity.WARNING)) == []
