"""The commands that speak to a running daemon: pause, resume, run-now, reload, recover."""

import json
import os
import stat
from datetime import UTC, datetime, timedelta

import asyncpg
from uuid_utils.compat import uuid7

from marginguard.domain.records import ActionStatus
from marginguard.simulator.faults import Fault, FaultKind
from marginguard.storage.journal import FileJournal
from tests.commands import run_alone, run_here
from tests.daemons import DaemonProcess, Market, a_guard, until_true, write_config
from tests.records import a_position_state, an_action

BREACHED = 94_000.0  # 64 % of the margin of a 10x long at 100,000
TRADES = "/v3/futures/isolated/trades/running"


async def left_behind(state_dir, trade):
    """Leave an action behind in the journal whose outcome nobody can tell; return it."""
    at = datetime.now(UTC) - timedelta(hours=1)
    action = an_action(
        id=uuid7(),
        position_id=str(trade.id),
        status=ActionStatus.UNKNOWN,
        frozen=True,
        attempts=1,
        outcome="ambiguous",
        error="its outcome cannot be told from what the exchange shows",
        before=a_position_state(margin=trade.margin),
        intended_at=at,
        sent_at=at,
    )
    state_dir.mkdir(mode=0o700)
    journal = await FileJournal.open(state_dir)
    await journal.append(action)
    await journal.close()
    return action


async def until_recorded(connection, query, *arguments):
    """Wait until the query finds a row; what the daemon writes reaches the database soon."""
    found = []

    async def look():
        found[:] = await connection.fetch(query, *arguments)

    while not found:
        await look()
    return found[0]


async def test_a_running_daemon_is_commanded_by_its_socket(state_dir, database_url):
    market = Market()
    frozen = await left_behind(state_dir / "state", market.trades["main"])
    async with market.open_for_trade():
        # It looks when it starts and when it is told to, and then not for a long time.
        config = write_config(
            state_dir, market, a_guard(), database_url=database_url, interval="10m",
            blind_after="30m",
        )  # fmt: skip

        async def command(*words):
            return await run_here(*words, "--config", str(config), COLUMNS="80")

        async with DaemonProcess(config) as daemon:
            await daemon.until("daemon.ready", "armed=1")
            await daemon.until("database.connected")
            path = state_dir / "state" / "control.sock"
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
            assert path.stat().st_uid == os.geteuid()

            await paused_and_resumed(command, market, daemon)
            await settled_by_word(command, frozen)
            await failed_and_recovered(command, market, daemon)
            await reloaded(command, config)
            connection = await asyncpg.connect(database_url)
            row = await until_recorded(
                connection, "SELECT * FROM commands WHERE command LIKE 'pause %' AND accepted"
            )
            assert row["by"].endswith(" (control socket)")
            assert row["guard_id"] == "guard-1"
            row = await until_recorded(connection, "SELECT * FROM commands WHERE NOT accepted")
            assert "there is no guard" in row["answer"]
            await connection.close()
            assert await daemon.end() == 0
        assert not path.exists()
        code, _, err = await command("resume", "guard-1")
        assert code == 1
        assert "no daemon answers" in err


async def paused_and_resumed(command, market, daemon):
    code, out, err = await command("pause", "guard-1", "--for", "1h")
    assert (code, err) == (0, "")
    assert "it alerts and does nothing" in " ".join(out.split())
    code, _, err = await command("pause", "gard-1", "--for", "1h")
    assert code == 1
    assert "did you mean guard-1" in err
    await daemon.until("guard.state", "guard=guard-1", "now=disarmed")
    market.move(BREACHED)
    assert (await command("run-now", "guard-1"))[0] in {0, 1}
    assert market.calls("/trade/close") == []

    async def status():
        return await command("status")

    code, out, _ = await status()
    while "paused" not in out:  # the record follows within a second
        code, out, _ = await status()
    assert code == 1
    assert out.startswith("NOT PROTECTED")
    market.move(100_000.0)
    code, out, err = await command("resume", "guard-1", "--json")
    assert (code, err) == (0, "")
    assert json.loads(out)["accepted"] is True
    await daemon.until("guard.state", "guard=guard-1", "now=armed")


async def settled_by_word(command, frozen):
    code, out, _ = await command("recover", "intents")
    assert code == 1
    assert str(frozen.id) in out
    code, out, err = await command("recover", "intents", "--not-applied", str(frozen.id)[:13])
    assert (code, err) == (0, "")
    assert "1 settled" in out


async def recovered(command):
    code, out, err = await command("recover", "executions", "--json")
    assert (code, err) == (0, "")
    found = json.loads(out)
    assert [found[key] for key in ("total", "succeeded", "failed")] == [1, 1, 0]
    return found


async def failed_and_recovered(command, market, daemon):
    code, out, _ = await command("run-now", "guard-1", "--json")
    assert (code, json.loads(out)) == (
        0,
        {"guard": "guard-1", "accepted": True, "execution": None},
    )
    market.move(BREACHED)
    fault = Fault(method="GET", path=TRADES, fault=FaultKind.STATUS, times=50, status=500)
    market.server.faults.add(fault)
    before = len(daemon.lines)
    code, out, _ = await command("run-now", "guard-1", "--json")
    assert code == 1
    failed = json.loads(out)["execution"]
    assert (failed["status"], failed["source"]) == ("failed", "run-now")
    # A failed run is retried three times.
    await until_true(lambda: sum("execution.failed" in line for line in daemon.lines[before:]) >= 4)
    while market.server.faults.take("GET", TRADES):
        pass
    found = await recovered(command)
    while found["results"][0]["outcome"] == "nothing_to_do":  # a price is good for a second
        found = await recovered(command)
    assert found["results"][0]["outcome"] == "completed"
    assert len(market.calls("/trade/close")) == 1
    code, out, _ = await command("recover", "executions")
    assert code == 0
    assert "nothing to recover" in " ".join(out.split())


async def reloaded(command, config):
    good = config.read_text()
    config.write_text(good + "\n[nonsense]\n[daemin]\n")
    code, out, err = await command("reload")
    assert (code, out) == (1, "")
    assert "nonsense" in err
    assert "daemin" in err
    config.write_text(good.replace("margin_threshold = 60", "margin_threshold = 70"))
    code, out, err = await run_alone("reload", "--config", str(config))
    assert (code, err) == (0, "")
    assert "in force" in out
