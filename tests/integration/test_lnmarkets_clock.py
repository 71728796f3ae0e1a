"""The exchange's time, from samples taken by a clock that is moved by hand."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest
from structlog.testing import capture_logs

from marginguard.domain.errors import Unreachable
from marginguard.lnmarkets.server_clock import ServerClock, TimeReading
from tests.integration.canned_exchange import HandClock


class TimeServer:
    """Tells a time `ahead_s` before ours, after `trip_s` on each way."""

    def __init__(self, clock: HandClock, *, ahead_s: float = 0.0, trip_s: float = 0.0) -> None:
        self.clock = clock
        self.ahead_s = ahead_s
        self.trip_s = trip_s
        self.asked = 0
        self.fails = False

    async def __call__(self):
        self.asked += 1
        await asyncio.sleep(0)
        if self.fails:
            raise Unreachable("no network")
        self.clock.pass_time(self.trip_s)
        told = self.clock.wall + timedelta(seconds=self.ahead_s)
        self.clock.pass_time(self.trip_s)
        return TimeReading(time=told, round_trip_s=2 * self.trip_s)


@pytest.fixture
def clock():
    return HandClock()


def wall_ms(clock: HandClock) -> int:
    return int(clock.wall.timestamp() * 1000)


async def test_before_the_first_sample_our_own_clock_is_believed(clock):
    server_clock = ServerClock(TimeServer(clock, ahead_s=9), clock)
    assert server_clock.offset_s is None
    assert server_clock.timestamp_ms() == wall_ms(clock)


async def test_the_offset_is_taken_at_the_middle_of_the_round_trip(clock):
    server_clock = ServerClock(TimeServer(clock, ahead_s=3, trip_s=2), clock)
    await server_clock.resync()
    assert server_clock.offset_s == pytest.approx(3)
    assert server_clock.timestamp_ms() == pytest.approx(wall_ms(clock) + 3000, abs=1)


async def test_time_goes_on_after_the_sample(clock):
    server_clock = ServerClock(TimeServer(clock, ahead_s=-2), clock)
    await server_clock.resync()
    clock.pass_time(100)
    assert server_clock.timestamp_ms() == pytest.approx(wall_ms(clock) - 2000, abs=1)


async def test_a_jump_of_the_wall_clock_does_not_spoil_signatures(clock):
    """Failure 8: wall clock jumps."""
    server_clock = ServerClock(TimeServer(clock), clock)
    await server_clock.resync()
    before = server_clock.timestamp_ms()
    clock.wall += timedelta(hours=5)
    assert server_clock.timestamp_ms() == before


async def test_a_fresh_sample_replaces_the_one_before(clock):
    server = TimeServer(clock, ahead_s=2)
    server_clock = ServerClock(server, clock)
    await server_clock.resync()
    server.ahead_s = 4
    clock.pass_time(1)
    await server_clock.resync()
    assert server_clock.timestamp_ms() == pytest.approx(wall_ms(clock) + 4000, abs=1)


@pytest.mark.parametrize(
    ("ahead_s", "level"),
    [
        (0, "debug"),
        (4.9, "debug"),
        (-4.9, "debug"),
        (5, "warning"),
        (-6, "warning"),
        (24.9, "warning"),
        (25, "critical"),
        (-300, "critical"),
    ],
)
async def test_an_offset_is_told_by_how_near_it_is_to_the_limit(clock, ahead_s, level):
    """Failure 8: warn at 5 s, critical at 25 s, and guard on with the exchange's time."""
    server_clock = ServerClock(TimeServer(clock, ahead_s=ahead_s), clock)
    with capture_logs() as logs:
        await server_clock.resync()
    (event,) = logs
    assert (event["event"], event["log_level"]) == ("clock.offset", level)
    assert event["offset_s"] == pytest.approx(ahead_s)
    assert server_clock.timestamp_ms() == pytest.approx(wall_ms(clock) + ahead_s * 1000, abs=1)


async def test_a_failed_sample_keeps_the_one_before(clock):
    server = TimeServer(clock, ahead_s=2)
    server_clock = ServerClock(server, clock)
    await server_clock.resync()
    server.fails = True
    clock.pass_time(1)
    with pytest.raises(Unreachable):
        await server_clock.resync()
    assert server_clock.timestamp_ms() == pytest.approx(wall_ms(clock) + 2000, abs=1)


async def test_those_who_ask_together_share_one_sample(clock):
    server = TimeServer(clock, trip_s=0.1)
    server_clock = ServerClock(server, clock)
    async with asyncio.TaskGroup() as tasks:
        for _ in range(5):
            tasks.create_task(server_clock.resync())
    assert server.asked == 1


async def test_the_sample_with_the_shortest_round_trip_counts(clock):
    """A slow answer may have spent its time on one way alone."""
    server = TimeServer(clock, ahead_s=3, trip_s=0.01)
    server_clock = ServerClock(server, clock)
    await server_clock.resync()
    server.trip_s, server.ahead_s = 2.0, 4.5
    await server_clock.resync()
    assert server_clock.offset_s == pytest.approx(3, abs=0.001)


async def test_a_sample_that_contradicts_the_earlier_ones_replaces_them(clock):
    """Failure 8: after a jump the older samples are wrong, however short their round trips."""
    server = TimeServer(clock, ahead_s=3, trip_s=0.01)
    server_clock = ServerClock(server, clock)
    await server_clock.resync()
    server.trip_s, server.ahead_s = 1.0, 40
    await server_clock.resync()
    assert server_clock.offset_s == pytest.approx(40)


async def test_an_old_sample_gives_way_to_a_fresh_one(clock):
    server = TimeServer(clock, ahead_s=1, trip_s=0.01)
    server_clock = ServerClock(server, clock)
    await server_clock.resync()
    clock.pass_time(86_400)
    server.trip_s, server.ahead_s = 0.1, 1.05
    await server_clock.resync()
    assert server_clock.offset_s == pytest.approx(1.05, abs=0.001)


async def test_whether_it_was_measured_is_told(clock):
    """Failure 8: a refused key with an unmeasured clock may be a good key."""
    server = TimeServer(clock)
    server_clock = ServerClock(server, clock)
    assert not server_clock.measured
    server.fails = True
    with pytest.raises(Unreachable):
        await server_clock.resync()
    assert not server_clock.measured
    server.fails = False
    await server_clock.resync()
    assert server_clock.measured


async def test_an_offset_is_told_once_when_it_changes_and_hourly_while_it_lasts(clock):
    server = TimeServer(clock)
    server_clock = ServerClock(server, clock)

    async def told(ahead_s: float, after_s: float) -> list[tuple[str, str]]:
        server.ahead_s = ahead_s
        clock.pass_time(after_s)
        with capture_logs() as logs:
            await server_clock.resync()
        return [(e["event"], e["log_level"]) for e in logs if e["log_level"] != "debug"]

    assert await told(0, 0) == []
    assert await told(6, 10) == [("clock.offset", "warning")]
    assert await told(7, 10) == []
    assert await told(30, 10) == [("clock.offset", "critical")]
    assert await told(30, 3_000) == []
    assert await told(30, 700) == [("clock.offset", "critical")]
    assert await told(1, 10) == [("clock.right", "info")]
    assert await told(1, 4_000) == []


class LoopClock:
    """The loop's time, which looptime makes pass at once, and a wall clock that can be set."""

    def __init__(self):
        self.wall_at_0 = datetime(2026, 1, 2, tzinfo=UTC)

    def now(self):
        return self.wall_at_0 + timedelta(seconds=self.monotonic())

    def monotonic(self):
        return asyncio.get_running_loop().time()


class LoopServer:
    """Tells the time of an exchange whose clock is right; remembers when it was asked."""

    def __init__(self, *, fails=False):
        self.asked_s = []
        self.fails = fails

    async def __call__(self):
        now_s = asyncio.get_running_loop().time()
        self.asked_s.append(now_s)
        if self.fails:
            raise Unreachable("no network")
        time = datetime(2026, 1, 2, tzinfo=UTC) + timedelta(seconds=now_s)
        return TimeReading(time=time, round_trip_s=0.02)


async def run_for(server_clock, seconds, *, meanwhile=None):
    stop = asyncio.Event()
    running = asyncio.create_task(server_clock.run(stop))
    if meanwhile is not None:
        after_s, do = meanwhile
        await asyncio.sleep(after_s)
        do()
        seconds -= after_s
    await asyncio.sleep(seconds)
    stop.set()
    await running


@pytest.mark.looptime
async def test_the_measurement_is_refined_soon_and_refreshed_later():
    server = LoopServer()
    server_clock = ServerClock(server, LoopClock())
    await server_clock.resync()
    await run_for(server_clock, 3_600)
    first, *more = server.asked_s
    gaps = [after - before for before, after in zip([first, *more], more, strict=False)]
    assert len([gap for gap in gaps if gap < 60]) == 4
    assert all(gap > 1 for gap in gaps)
    assert 3 <= len([gap for gap in gaps if 890 < gap < 910]) <= 4


@pytest.mark.looptime
async def test_the_clock_is_measured_at_once_when_the_wall_clock_jumps():
    """Failure 8: wall clock jumps."""
    server = LoopServer()
    clock = LoopClock()
    server_clock = ServerClock(server, clock)
    await server_clock.resync()

    def jump():
        clock.wall_at_0 += timedelta(hours=1)

    with capture_logs() as logs:
        await run_for(server_clock, 320, meanwhile=(302, jump))
    assert len([asked for asked in server.asked_s if asked > 302]) == 1
    assert server_clock.offset_s == pytest.approx(-3600, abs=0.1)
    assert [e["log_level"] for e in logs if e["event"] == "clock.offset"][-1] == "critical"


@pytest.mark.looptime
async def test_a_clock_that_cannot_be_measured_is_told_once_and_tried_again():
    server = LoopServer(fails=True)
    server_clock = ServerClock(server, LoopClock())
    with capture_logs() as logs:
        await run_for(server_clock, 600)
    assert [(e["event"], e["log_level"]) for e in logs] == [("clock.unmeasured", "warning")]
    assert 15 <= len(server.asked_s) <= 21
