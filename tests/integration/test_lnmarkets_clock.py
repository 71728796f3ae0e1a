"""The exchange's time, from samples taken by a clock that is moved by hand."""

import asyncio
from datetime import timedelta

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
