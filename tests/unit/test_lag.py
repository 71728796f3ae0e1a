"""How late the event loop comes back, measured."""

import asyncio
import time

import pytest
import structlog

from marginguard.telemetry.lag import LagProbe


async def probed(block_s, **settings):
    """Block the loop once for `block_s` after the probe began; return its figures and the log."""
    stop, lags, probed_once = asyncio.Event(), [], asyncio.Event()

    def on_lag(lag_s):
        lags.append(lag_s)
        probed_once.set()

    with structlog.testing.capture_logs() as logs:
        async with asyncio.timeout(60), asyncio.TaskGroup() as group:
            group.create_task(LagProbe(on_lag, **settings).run(stop))
            await asyncio.sleep(0)  # the probe sleeps now
            await asyncio.sleep(0)
            time.sleep(block_s)  # noqa: ASYNC251 - blocking the loop is what is tested
            await probed_once.wait()
            stop.set()
    return lags, logs


async def test_a_blocked_loop_shows_as_lag_and_warns():
    """Failure 38: the loop is blocked, and its lag is measured."""
    lags, logs = await probed(0.3, probe_s=0.05, loud_s=0.2)
    assert lags[0] >= 0.2
    (event,) = [event for event in logs if event["event"] == "loop.lag"]
    assert event["log_level"] == "warning"
    assert event["lag_s"] >= 0.2


async def test_a_loop_that_is_not_blocked_longer_than_loud_is_measured_in_silence():
    lags, logs = await probed(0.0, probe_s=0.01, loud_s=60.0)
    assert lags[0] >= 0.0
    assert logs == []


@pytest.mark.looptime
async def test_the_probe_ends_at_once_when_told_to_stop():
    stop, lags = asyncio.Event(), []
    probe = asyncio.ensure_future(LagProbe(lags.append, probe_s=1.0).run(stop))
    await asyncio.sleep(3.5)
    stop.set()
    before_s = asyncio.get_running_loop().time()
    await probe
    assert asyncio.get_running_loop().time() == before_s
    assert len(lags) == 3
