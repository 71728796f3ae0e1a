"""SIGHUP: a changed configuration is taken over without a gap, a broken one is refused."""

import asyncio
import os
import signal
import socket

from tests.daemons import DaemonProcess, Market, a_guard, write_config

BREACHED = 94_000.0  # 64 % of the margin of a 10x long at 100,000


def hang_up(daemon):
    daemon.process.send_signal(signal.SIGHUP)


async def test_a_new_threshold_is_taken_over_and_acted_on(state_dir, database_url):
    market = Market()
    async with market.open_for_trade():
        config = write_config(state_dir, market, a_guard(threshold=90), database_url=database_url)
        async with DaemonProcess(config) as daemon:
            await daemon.until("daemon.ready", "armed=1")
            market.move(BREACHED)
            text = config.read_text().replace("margin_threshold = 90", "margin_threshold = 60")
            config.write_text(text)
            hang_up(daemon)
            await daemon.until("config.reloaded", "new_session=false")
            await daemon.until("action.done", "close_position")
            assert await daemon.end() == 0


async def test_guards_that_have_not_changed_are_not_touched(state_dir, database_url):
    market = Market("main", "other")
    async with market.open_for_trade():
        guards = a_guard() + a_guard("guard-2", "other")
        config = write_config(state_dir, market, guards, database_url=database_url)
        async with DaemonProcess(config) as daemon:
            await daemon.until("daemon.ready", "armed=2")
            text = config.read_text().replace('id = "guard-2"', 'id = "guard-3"')
            config.write_text(text)
            hang_up(daemon)
            await daemon.until("guard.state", "guard=guard-3", "now=armed")
            armed = [line for line in daemon.lines if "guard.state" in line]
            assert sum("guard=guard-1" in line for line in armed) == 1
            assert await daemon.end() == 0


async def test_a_broken_configuration_is_refused_and_the_old_one_goes_on(state_dir, database_url):
    """Failure 39: the old configuration stays, and says so."""
    market = Market()
    async with market.open_for_trade():
        config = write_config(state_dir, market, a_guard(), database_url=database_url)
        async with DaemonProcess(config) as daemon:
            await daemon.until("daemon.ready", "armed=1")
            config.write_text(config.read_text() + "\n[nonsense]\nkey = 1\n")
            hang_up(daemon)
            line = await daemon.until("config.refused")
            assert "nonsense" in line
            await daemon.until("notice.config_refused")
            market.move(BREACHED)
            await daemon.until("action.done", "close_position")
            assert await daemon.end() == 0


async def test_a_changed_interval_begins_a_new_session_that_goes_on_guarding(
    state_dir, database_url
):
    market = Market()
    async with market.open_for_trade():
        config = write_config(state_dir, market, a_guard(), database_url=database_url)
        async with DaemonProcess(config) as daemon:
            await daemon.until("daemon.ready", "armed=1")
            text = config.read_text().replace('interval = "200ms"', 'interval = "300ms"')
            config.write_text(text)
            hang_up(daemon)
            await daemon.until("config.reloaded", "new_session=true")
            market.move(BREACHED)
            await daemon.until("action.done", "close_position")
            assert await daemon.end() == 0
    assert len(market.calls("/trade/close")) == 1


async def test_a_second_daemon_stands_by_and_takes_over_when_the_first_ends(
    state_dir, database_url
):
    """Failure 27: two daemons, one account: one acts, the other says who holds it."""
    market = Market()
    async with market.open_for_trade():
        first = write_config(state_dir, market, a_guard(), database_url=database_url)
        elsewhere = state_dir / "elsewhere"
        elsewhere.mkdir(mode=0o700)
        second = write_config(elsewhere, market, a_guard(), database_url=database_url)
        async with DaemonProcess(first) as acting:
            await acting.until("daemon.ready", "armed=1")
            async with DaemonProcess(second) as standing_by:
                line = await standing_by.until("account.standing_by")
                assert f"process {acting.process.pid}" in line or str(acting.process.pid) in line
                assert await acting.end() == 0
                await standing_by.until("guard.state", "now=armed")
                market.move(BREACHED)
                await standing_by.until("action.done", "close_position")
                assert await standing_by.end() == 0
    assert len(market.calls("/trade/close")) == 1


async def test_systemd_hears_of_readiness_status_and_decisions(state_dir, database_url, tmp_path):
    heard, decided = [], asyncio.Event()
    loop = asyncio.get_running_loop()

    class Ear(asyncio.DatagramProtocol):
        def datagram_received(self, data, _addr):
            heard.append(data.decode())
            if b"WATCHDOG=1" in data:
                decided.set()

    path = tmp_path / "notify"
    ear = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    ear.bind(str(path))
    ear.setblocking(False)
    transport, _ = await loop.create_datagram_endpoint(Ear, sock=ear)
    market = Market()
    environ = {"NOTIFY_SOCKET": str(path), "WATCHDOG_USEC": "3000000"}
    os.environ.update(environ)
    try:
        async with market.open_for_trade():
            config = write_config(state_dir, market, a_guard(), database_url=database_url)
            async with DaemonProcess(config) as daemon:
                await daemon.until("daemon.ready", "armed=1")
                await asyncio.wait_for(decided.wait(), 30)
                assert await daemon.end() == 0
    finally:
        for name in environ:
            del os.environ[name]
        transport.close()
    said = "\n".join(heard)
    assert "READY=1" in said
    assert "STATUS=guarding: 1 of 1 guards armed" in said
    assert "STOPPING=1" in said
