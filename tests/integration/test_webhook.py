"""The webhook against a real receiver: delivery, retries, order, overflow, shutdown, secrets."""

import asyncio
import contextlib
from datetime import UTC, datetime
from types import SimpleNamespace
from uuid import UUID

import pytest
import structlog
from aiohttp import web
from aiohttp.test_utils import TestServer, unused_port

from marginguard.domain.errors import ConfigError
from marginguard.domain.notice import Notice, NoticeKind, Severity
from marginguard.domain.units import AccountId, GuardId, PositionId
from marginguard.notify.webhook import NullNotifier, WebhookNotifier

SECRET = "s3cr3t-token"


class Logs:
    """Captures every log event, and lets a test wait for one."""

    def __init__(self):
        self.events = []
        self._written = asyncio.Event()

    def __call__(self, logger, method, event):
        self.events.append({"level": method, **event})
        self._written.set()
        raise structlog.DropEvent

    def of(self, name):
        return [event for event in self.events if event["event"] == name]

    async def until(self, name, count=1):
        while len(self.of(name)) < count:
            self._written.clear()
            await self._written.wait()
        return self.of(name)


class Receiver:
    """A webhook's far end: answers the scripted statuses in turn, then 204."""

    def __init__(self):
        self.requests = []
        self.script = []
        self.release = asyncio.Event()
        self._came = asyncio.Event()
        app = web.Application()
        app.router.add_route("*", "/{tail:.*}", self._receive)
        self.app = app

    async def _receive(self, request):
        self.requests.append(
            SimpleNamespace(
                method=request.method,
                path=request.path_qs,
                headers=request.headers,
                body=await request.json(),
            )
        )
        self._came.set()
        answer = self.script.pop(0) if self.script else 204
        if answer == "hang":
            await self.release.wait()
            answer = 204
        return web.Response(status=answer, headers={"Location": "/elsewhere"})

    @property
    def texts(self):
        return [request.body["text"] for request in self.requests]

    async def until(self, count):
        while len(self.requests) < count:
            self._came.clear()
            await self._came.wait()


@pytest.fixture
def logs():
    captured = Logs()
    structlog.configure(processors=[captured])
    yield captured
    structlog.reset_defaults()


@pytest.fixture
async def receiver():
    receiver = Receiver()
    async with TestServer(receiver.app) as server:
        receiver.url = str(server.make_url(f"/hook?token={SECRET}"))
        yield receiver
        receiver.release.set()


@contextlib.asynccontextmanager
async def running(notifier):
    """Run the notifier; at the end stop it and wait until it has ended.

    The time limit is for a test that would hang for ever, and far beyond any bound tested.
    """
    stop = asyncio.Event()
    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        group.create_task(notifier.run(stop))
        yield
        stop.set()


def a_notifier(url, **settings):
    return WebhookNotifier(url, **{"backoff_s": (0.0, 0.0), **settings})


def a_notice(text="Margin was added.", *, number=1, severity=Severity.INFO, **changes):
    return Notice(
        id=UUID(int=number),
        kind=changes.pop("kind", NoticeKind.ACTION_DONE),
        severity=severity,
        text=text,
        at=datetime(2026, 3, 14, 12, 0, 5, tzinfo=UTC),
        **changes,
    )


def some_notices(texts, severity=Severity.INFO):
    return [a_notice(text, number=i, severity=severity) for i, text in enumerate(texts, 1)]


# --- delivery -------------------------------------------------------------------------------


async def test_a_notice_is_posted_as_json(receiver, logs):
    notice = a_notice(
        severity=Severity.CRITICAL,
        guard_id=GuardId("guard-1"),
        account_id=AccountId("main"),
        position_id=PositionId("trade-1"),
        execution_id=UUID(int=9),
        data={"level": 81.5, "amount": 7_000, "capped": False, "liquidation": None},
    )

    notifier = a_notifier(receiver.url)
    notifier.tell(notice)
    async with running(notifier):
        pass

    (request,) = receiver.requests
    assert request.method == "POST"
    assert request.path == f"/hook?token={SECRET}"
    assert request.headers["Content-Type"] == "application/json"
    assert request.body == {
        "id": "00000000-0000-0000-0000-000000000001",
        "timestamp": "2026-03-14T12:00:05+00:00",
        "type": "action_done",
        "version": "1",
        "severity": "critical",
        "text": "Margin was added.",
        "guard_id": "guard-1",
        "account_id": "main",
        "position_id": "trade-1",
        "execution_id": "00000000-0000-0000-0000-000000000009",
        "data": {"level": 81.5, "amount": 7_000, "capped": False, "liquidation": None},
    }


async def test_a_field_that_says_nothing_is_null(receiver, logs):
    notifier = a_notifier(receiver.url)
    notifier.tell(a_notice())
    async with running(notifier):
        pass

    (request,) = receiver.requests
    ids = ("guard_id", "account_id", "position_id", "execution_id")
    assert [request.body[key] for key in ids] == [None] * 4
    assert request.body["data"] == {}


@pytest.mark.parametrize("status", [200, 201, 204, 299])
async def test_any_2xx_is_success(receiver, logs, status):
    receiver.script = [status]
    notifier = a_notifier(receiver.url)
    async with running(notifier):
        notifier.tell(a_notice())
        await receiver.until(1)

    assert len(receiver.requests) == 1
    assert not logs.of("notify.retry")
    assert not logs.of("notify.failed")


async def test_notices_arrive_in_the_order_in_which_they_were_told(receiver, logs):
    receiver.script = [204, 500, 204, 503, 500]
    notifier = a_notifier(receiver.url)
    async with running(notifier):
        for notice in some_notices("abcde"):
            notifier.tell(notice)
        await receiver.until(8)

    assert "".join(receiver.texts) == "abbcccde"


async def test_what_waits_at_the_stop_is_still_delivered(receiver, logs):
    notifier = a_notifier(receiver.url)
    for notice in some_notices("abc"):
        notifier.tell(notice)

    async with running(notifier):
        pass

    assert receiver.texts == ["a", "b", "c"]


async def test_what_is_told_while_draining_is_still_delivered(receiver, logs):
    receiver.script = ["hang"]
    notifier, stop = a_notifier(receiver.url), asyncio.Event()
    notifier.tell(a_notice("first"))
    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        group.create_task(notifier.run(stop))
        await receiver.until(1)
        stop.set()
        # The stop has been seen by then: it was set before this callback was.
        await asyncio.sleep(0)
        notifier.tell(a_notice("second", number=2))
        receiver.release.set()

    assert receiver.texts == ["first", "second"]


# --- retries --------------------------------------------------------------------------------


async def test_after_a_500_the_same_notice_is_sent_again(receiver, logs):
    receiver.script = [500, 502]
    notifier = a_notifier(receiver.url)
    async with running(notifier):
        notifier.tell(a_notice())
        await receiver.until(3)

    assert {request.body["id"] for request in receiver.requests} == {str(UUID(int=1))}
    assert not logs.of("notify.failed")


async def test_a_receiver_that_comes_up_late_still_gets_the_notice(logs):
    port = unused_port()
    notifier = a_notifier(f"http://127.0.0.1:{port}/hook", backoff_s=(0.02,) * 1_000)
    receiver = Receiver()
    async with running(notifier):
        notifier.tell(a_notice())
        (first, *_) = await logs.until("notify.retry")
        async with TestServer(receiver.app, port=port):
            await receiver.until(1)

    assert "cannot connect" in first["reason"]
    assert receiver.texts == ["Margin was added."]
    assert not logs.of("notify.failed")


async def test_after_three_attempts_a_notice_is_given_up_with_a_warning(receiver, logs):
    receiver.script = [500, 500, 503]
    notifier = a_notifier(receiver.url)
    async with running(notifier):
        notifier.tell(a_notice("lost", guard_id=GuardId("guard-1")))
        notifier.tell(a_notice("next", number=2))
        await receiver.until(4)

    assert receiver.texts == ["lost", "lost", "lost", "next"]
    (failed,) = logs.of("notify.failed")
    assert failed["level"] == "warning"
    assert failed["reason"] == "the receiver answered 503 (3 attempts)"
    assert failed["host"] == "127.0.0.1"
    assert failed["guard_id"] == "guard-1"
    assert failed["notice_id"] == str(UUID(int=1))
    assert "[notifications.webhook] url" in failed["advice"]


async def test_a_redirect_is_not_followed(receiver, logs):
    receiver.script = [302, 307, 308]
    notifier = a_notifier(receiver.url)
    async with running(notifier):
        notifier.tell(a_notice())
        await logs.until("notify.failed")

    assert {request.path for request in receiver.requests} == {f"/hook?token={SECRET}"}
    assert len(receiver.requests) == 3


async def test_by_default_there_are_three_attempts():
    assert len(WebhookNotifier("http://127.0.0.1/")._backoff_s) == 2


# --- a receiver that hangs ------------------------------------------------------------------


async def test_an_attempt_that_hangs_is_ended_by_its_time_limit(receiver, logs):
    """Failure 33: a receiver hangs, and the notices after it still get their turn."""
    receiver.script = ["hang", "hang", "hang"]
    notifier = a_notifier(receiver.url, attempt_timeout_s=0.05)
    async with running(notifier):
        notifier.tell(a_notice("hangs"))
        notifier.tell(a_notice("next", number=2))
        await receiver.until(4)

    (failed,) = logs.of("notify.failed")
    assert failed["reason"] == "no answer within 0.05 s (3 attempts)"
    assert receiver.texts[-1] == "next"


async def test_a_receiver_that_hangs_for_ever_holds_up_neither_telling_nor_the_stop(receiver, logs):
    """Failures 33 and 34: telling never blocks acting, and what was not told is said."""
    receiver.script = ["hang"]
    # Were it not for the drain's bound, the time limit of `running` would end the test.
    notifier = a_notifier(receiver.url, attempt_timeout_s=3_600, drain_timeout_s=0.05)
    async with running(notifier):
        notifier.tell(a_notice("first"))
        await receiver.until(1)
        for notice in some_notices("bc"):
            notifier.tell(notice)

    assert receiver.texts == ["first"]
    failed = logs.of("notify.failed")
    assert len(failed) == 3
    assert all("stopped before it was delivered" in event["reason"] for event in failed)


async def test_a_cancelled_run_is_cancelled_and_says_what_it_leaves(receiver, logs):
    receiver.script = ["hang"]
    notifier = a_notifier(receiver.url)
    notifier.tell(a_notice())
    task = asyncio.create_task(notifier.run(asyncio.Event()))
    async with asyncio.timeout(10):
        await receiver.until(1)

        task.cancel()

        with pytest.raises(asyncio.CancelledError):
            await task
    assert len(logs.of("notify.failed")) == 1


async def test_a_notice_told_after_the_end_is_not_lost_in_silence(receiver, logs):
    notifier = a_notifier(receiver.url)
    async with running(notifier):
        pass

    notifier.tell(a_notice())

    assert receiver.requests == []
    assert len(logs.of("notice.action_done")) == 1
    (failed,) = logs.of("notify.failed")
    assert failed["reason"] == "the notifier has stopped"


# --- overflow -------------------------------------------------------------------------------

INFO, CRITICAL = Severity.INFO, Severity.CRITICAL


@pytest.mark.parametrize(
    ("told", "delivered"),
    [
        pytest.param([("a", INFO), ("b", INFO), ("c", INFO), ("d", INFO)], "bcd", id="oldest"),
        pytest.param(
            [("a", CRITICAL), ("b", INFO), ("c", INFO), ("d", CRITICAL)],
            "acd",
            id="oldest-not-critical",
        ),
        pytest.param(
            [("a", CRITICAL), ("b", CRITICAL), ("c", CRITICAL), ("d", INFO)],
            "abc",
            id="the-new-one",
        ),
        pytest.param(
            [("a", CRITICAL), ("b", CRITICAL), ("c", CRITICAL), ("d", CRITICAL)],
            "bcd",
            id="only-critical",
        ),
        pytest.param(
            [
                ("a", Severity.WARNING),
                ("b", CRITICAL),
                ("c", INFO),
                ("d", CRITICAL),
                ("e", CRITICAL),
            ],
            "bde",
            id="two",
        ),
    ],
)
async def test_a_full_queue_drops_the_oldest_that_is_not_critical(receiver, logs, told, delivered):
    """Failure 35: a storm of alerts never costs a critical one while another can go."""
    notifier = a_notifier(receiver.url, capacity=3)
    for number, (text, severity) in enumerate(told, 1):
        notifier.tell(a_notice(text, number=number, severity=severity))
    async with running(notifier):
        pass

    assert "".join(receiver.texts) == delivered
    assert notifier.dropped == len(told) - 3
    dropped = logs.of("notify.dropped")
    assert [event["dropped"] for event in dropped] == list(range(1, len(told) - 2))
    gone = {text for text, _ in told} - set(delivered)
    ids = {str(UUID(int=number)) for number, (text, _) in enumerate(told, 1) if text in gone}
    assert {event["notice_id"] for event in dropped} == ids


# --- the log --------------------------------------------------------------------------------


@pytest.mark.parametrize("severity", list(Severity))
@pytest.mark.parametrize("make", [NullNotifier, lambda: a_notifier("http://127.0.0.1:9/")])
async def test_every_notice_is_logged_when_told_at_its_severity(logs, severity, make):
    notice = a_notice(
        "Nothing guards it.",
        severity=severity,
        kind=NoticeKind.UNPROTECTED,
        position_id=PositionId("trade-1"),
    )

    make().tell(notice)

    assert logs.events == [
        {
            "level": severity.value,
            "event": "notice.unprotected",
            "text": "Nothing guards it.",
            "notice_id": str(UUID(int=1)),
            "position_id": "trade-1",
        }
    ]


async def test_the_null_notifier_runs_until_it_is_stopped():
    stop = asyncio.Event()
    task = asyncio.create_task(NullNotifier().run(stop))
    await asyncio.sleep(0)
    assert not task.done()

    stop.set()
    await task


async def _answers_garbage(reader, writer):
    await reader.read(1)
    writer.write(b"nonsense\r\n\r\n")
    await writer.drain()
    writer.close()


@pytest.mark.parametrize("failure", ["status", "redirect", "hang", "garbage", "refused", "host"])
async def test_the_url_never_gets_into_the_log(receiver, logs, failure):
    """Failure 36: secrets never get into a log; the URL may hold a token."""
    receiver.script = {"status": [500] * 3, "redirect": [302] * 3, "hang": ["hang"] * 3}.get(
        failure, []
    )
    port = receiver.url.split(":")[2].split("/")[0]
    host = "127.0.0.1"
    if failure == "refused":
        port = unused_port()
    if failure == "host":
        host = "no-such-host.invalid"
    async with contextlib.AsyncExitStack() as stack:
        if failure == "garbage":
            server = await asyncio.start_server(_answers_garbage, "127.0.0.1", 0)
            await stack.enter_async_context(server)
            port = server.sockets[0].getsockname()[1]
        url = f"http://user:{SECRET}@{host}:{port}/{SECRET}?token={SECRET}"
        notifier = a_notifier(url, attempt_timeout_s=0.2)
        async with running(notifier):
            notifier.tell(a_notice())
            (failed,) = await logs.until("notify.failed")

    assert failed["host"] == host
    assert SECRET not in str(logs.events)
    assert SECRET not in repr(notifier)


@pytest.mark.parametrize(
    "url",
    [
        "",
        f"{SECRET}.example.com/hook",
        f"ftp://example.com/{SECRET}",
        f"https:///{SECRET}",
        f"https://[{SECRET}",
        f"https://example.com:port/{SECRET}",
    ],
)
async def test_a_url_that_is_none_is_refused_without_showing_it(url):
    with pytest.raises(ConfigError, match=r"\[notifications.webhook\] url") as caught:
        WebhookNotifier(url)

    assert SECRET not in str(caught.value)
