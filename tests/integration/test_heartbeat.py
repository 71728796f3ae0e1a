"""The dead man's switch against a real receiver: how often, and never in the way."""

import asyncio
import contextlib

import pytest
import structlog
from aiohttp import web
from aiohttp.test_utils import TestServer, unused_port

from marginguard.domain.errors import ConfigError
from marginguard.telemetry.heartbeat import Heartbeat

SECRET = "s3cr3t-token"
PATIENCE_S = 30.0


class HandClock:
    """A clock that is moved by hand."""

    def __init__(self):
        self.elapsed_s = 1000.0

    def monotonic(self):
        return self.elapsed_s

    def advance(self, seconds):
        self.elapsed_s += seconds


class Receiver:
    """The far end: notes each ping's path, and answers the scripted statuses in turn, then 200."""

    def __init__(self):
        self.paths = []
        self.script = []
        self.release = asyncio.Event()
        self._came = asyncio.Event()
        self.app = web.Application()
        self.app.router.add_get("/{tail:.*}", self._receive)

    async def _receive(self, request):
        self.paths.append(request.path_qs)
        self._came.set()
        answer = self.script.pop(0) if self.script else 200
        if answer == "hang":
            await self.release.wait()
            answer = 200
        return web.Response(status=answer, headers={"Location": "/elsewhere"})

    async def until(self, count):
        while len(self.paths) < count:
            self._came.clear()
            await self._came.wait()


@pytest.fixture
async def receiver():
    receiver = Receiver()
    async with TestServer(receiver.app) as server:
        receiver.url = str(server.make_url(f"/{SECRET}"))
        yield receiver
        receiver.release.set()


@contextlib.asynccontextmanager
async def beating(url, *, interval_s=60.0, **settings):
    """Run a heartbeat with a clock moved by hand; at the end stop it and wait until it ended."""
    clock = HandClock()
    heartbeat = Heartbeat(url, interval_s=interval_s, clock=clock, **settings)
    stop = asyncio.Event()
    async with asyncio.timeout(PATIENCE_S), asyncio.TaskGroup() as group:
        group.create_task(heartbeat.run(stop))
        yield heartbeat, clock
        stop.set()


@contextlib.contextmanager
def logged():
    """Give what is logged, and see that it never shows any part of the URL's path."""
    with structlog.testing.capture_logs() as logs:
        yield logs
    assert SECRET not in repr(logs)


async def logged_until(logs, name, count=1):
    while sum(event["event"] == name for event in logs) < count:  # noqa: ASYNC110 - nothing to wait for
        await asyncio.sleep(0.005)  # capture_logs gives no event


async def test_a_completed_cycle_pings_and_the_next_ones_wait_for_the_interval(receiver):
    async with beating(receiver.url) as (heartbeat, clock):
        heartbeat.completed(degraded=False)
        await receiver.until(1)
        for _ in range(5):
            clock.advance(10)
            heartbeat.completed(degraded=False)
        clock.advance(10)
        heartbeat.completed(degraded=False)
        await receiver.until(2)
    assert receiver.paths == [f"/{SECRET}"] * 2


async def test_a_first_cycle_that_is_degraded_pings_fail_alone(receiver):
    async with beating(receiver.url) as (heartbeat, clock):
        clock.advance(10_000)
        heartbeat.completed(degraded=True)
        await receiver.until(1)
    assert receiver.paths == [f"/{SECRET}/fail"]


async def test_degraded_is_told_at_once_and_so_is_the_recovery(receiver):
    async with beating(receiver.url) as (heartbeat, clock):
        for count, degraded in enumerate((False, True, False), start=1):
            clock.advance(1)
            heartbeat.completed(degraded=degraded)
            await receiver.until(count)
            heartbeat.completed(degraded=degraded)
    assert receiver.paths == [f"/{SECRET}", f"/{SECRET}/fail", f"/{SECRET}"]


@pytest.mark.parametrize(
    ("tail", "fail"),
    [("/", "/fail"), ("?key=a%26b", "/fail?key=a%26b"), ("/a%20b", "/a%20b/fail")],
)
async def test_fail_is_appended_to_the_path_and_the_rest_is_kept(receiver, tail, fail):
    async with beating(receiver.url + tail) as (heartbeat, _):
        heartbeat.completed(degraded=True)
        await receiver.until(1)
    assert receiver.paths == [f"/{SECRET}{fail}"]


async def test_a_receiver_that_hangs_holds_nobody_up_and_is_given_up(receiver):
    receiver.script = ["hang"]
    with logged() as logs:
        async with beating(receiver.url, timeout_s=0.05) as (heartbeat, clock):
            heartbeat.completed(degraded=False)
            await receiver.until(1)
            heartbeat.completed(degraded=False)
            await logged_until(logs, "heartbeat.not_heard")
            clock.advance(60)
            heartbeat.completed(degraded=False)
            await receiver.until(2)
            await logged_until(logs, "heartbeat.heard_again")
    assert [(event["event"], event["log_level"]) for event in logs] == [
        ("heartbeat.not_heard", "warning"),
        ("heartbeat.heard_again", "info"),
    ]
    assert logs[0]["reason"] == "no answer within 0.05 s"


async def test_while_a_ping_hangs_only_the_newest_state_waits(receiver):
    receiver.script = ["hang"]
    async with beating(receiver.url) as (heartbeat, _):
        heartbeat.completed(degraded=False)
        await receiver.until(1)
        for degraded in (True, False, True):
            heartbeat.completed(degraded=degraded)
        receiver.release.set()
        await receiver.until(2)
    assert receiver.paths == [f"/{SECRET}", f"/{SECRET}/fail"]


async def test_stopping_does_not_wait_for_a_receiver_that_hangs(receiver):
    receiver.script = ["hang"]
    async with beating(receiver.url, timeout_s=10 * PATIENCE_S) as (heartbeat, _):
        heartbeat.completed(degraded=False)
        await receiver.until(1)


@pytest.mark.parametrize("status", [301, 404, 500])
async def test_an_answer_that_is_not_2xx_is_a_warning_once_and_not_followed(receiver, status):
    receiver.script = [status, status]
    with logged() as logs:
        async with beating(receiver.url) as (heartbeat, clock):
            heartbeat.completed(degraded=False)
            await logged_until(logs, "heartbeat.not_heard")
            for count in (2, 3):
                clock.advance(60)
                heartbeat.completed(degraded=False)
                await receiver.until(count)
            await logged_until(logs, "heartbeat.heard_again")
    assert [event["event"] for event in logs] == ["heartbeat.not_heard", "heartbeat.heard_again"]
    assert logs[0]["reason"] == f"the answer was {status}"
    assert set(receiver.paths) == {f"/{SECRET}"}


@pytest.mark.parametrize(
    ("host", "reason"),
    [
        ("127.0.0.1", "the call failed: ConnectionRefusedError"),
        ("no.such.host.invalid", "the call failed: "),
    ],
)
async def test_a_receiver_that_is_not_there_is_a_warning_without_the_url(host, reason):
    with logged() as logs:
        async with beating(f"http://{host}:{unused_port()}/{SECRET}") as (heartbeat, _):
            heartbeat.completed(degraded=False)
            await logged_until(logs, "heartbeat.not_heard")
    assert logs[0]["reason"].startswith(reason)
    assert host not in repr(logs)


@pytest.mark.parametrize(
    "url", ["", SECRET, f"ftp://host/{SECRET}", f"http:///{SECRET}", f"http://host:x/{SECRET}"]
)
def test_an_address_that_is_not_http_is_refused_without_showing_it(url):
    with pytest.raises(ConfigError) as raised:
        Heartbeat(url, interval_s=60.0, clock=HandClock())
    assert "[heartbeat] url must be an address like" in str(raised.value)
    assert SECRET not in str(raised.value)
