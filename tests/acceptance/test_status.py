"""`marginguard status`: am I protected?"""

import json
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest

from marginguard.domain.model import ActionKind
from marginguard.domain.notification import NotificationStatus
from marginguard.domain.records import ActionStatus
from marginguard.storage.link import DatabaseLink
from marginguard.storage.notifications import upsert
from marginguard.storage.observations import DatabaseObservations
from marginguard.storage.records import apply
from tests.commands import run_alone, run_here
from tests.daemons import DaemonProcess, Market, a_guard, write_config
from tests.notifying import a_notification, an_alarm
from tests.records import a_guard_state, a_reduction, a_sighting, a_stop_loss, an_action
from tests.unit.strategies import a_cross_position, a_position

HOUR = timedelta(hours=1)
FAILED, DELIVERED = NotificationStatus.FAILED, NotificationStatus.DELIVERED
WITH_MAIL = """
[[users]]
id = "owner"
email = "owner@example.com"
[notifications.email]
host = "127.0.0.1"
sender = "guard@example.com"
security = "none"
"""


async def status(config, *arguments, columns=80, run=run_here):
    return await run("status", "--config", str(config), *arguments, COLUMNS=str(columns))


async def seen_positions(config):
    """Wait until the daemon has written its view down; return what status makes of it."""
    while True:
        code, out, _ = await status(config, "--json")
        found = json.loads(out) if out else {}
        if found.get("positions"):
            return code, found


@asynccontextmanager
async def recorded(state_dir, database_url, seen, *actions):
    """Put into the database what a daemon that runs now would; give its configuration."""
    now = datetime.now(UTC)
    link = DatabaseLink(database_url)
    pool = await link.connect()
    await apply(pool, [a_guard_state(since=now, updated_at=now), *actions])
    observations = DatabaseObservations(link)
    observations.positions("main", seen, now)
    observations.checked("guard-1", "main", now)
    await observations.flush()
    await link.close(timeout_s=10.0)
    market = Market()
    async with market.open_for_trade():
        yield write_config(state_dir, market, a_guard(), database_url=database_url)


def words(out):
    """Return what a table says without its lines and line breaks."""
    return " ".join("".join(c if ord(c) < 0x2500 else " " for c in out).split())


@pytest.mark.parametrize("columns", [80, 120])
async def test_the_stop_loss_the_backstop_and_the_lineage_of_each_position_are_shown(
    state_dir, database_url, columns
):
    reopened = a_position(id="reopened", margin=34_210, stop_loss=91_234.5)
    seen = {
        "reopened": a_sighting(reopened, 99_000.0, backstop=91_234.5, original_margin=100_000),
        "users": a_sighting(a_position(id="users", stop_loss=80_000.0), 99_000.0),
        "bare": a_sighting(a_position(id="bare"), 99_000.0),
    }
    async with recorded(state_dir, database_url, seen) as config:
        code, out, err = await status(config, columns=columns)
        _, as_json, _ = await status(config, "--json")
    assert (code, err) == (0, "")
    assert max(len(line) for line in out.splitlines()) <= columns
    for said in ("backstop 91,234.5", "stop-loss 80,000.0", "no stop-loss"):
        assert out.count(said) == 1
    assert words(out).count("margin 34,210 of 100,000 sats") == 1
    assert "cross position" not in out
    figures = {
        row["position_id"]: (row["stop_loss"], row["backstop"], row["original_margin"])
        for row in json.loads(as_json)["positions"]
    }
    assert figures == {
        "reopened": (91_234.5, 91_234.5, 100_000),
        "users": (80_000.0, None, None),
        "bare": (None, None, None),
    }


async def test_the_cross_position_is_said_to_have_no_backstop(state_dir, database_url):
    seen = {"cross": a_sighting(a_cross_position(), 99_000.0)}
    async with recorded(state_dir, database_url, seen) as config:
        code, out, _ = await status(config)
    assert code == 0
    assert "no backstop" in out
    assert "the exchange keeps no stop-loss for the cross position" in words(out)


async def test_each_action_says_in_plain_english_what_it_asked_for(state_dir, database_url):
    now = datetime.now(UTC)
    actions = [
        a_reduction(intended_at=now, successor="trade-22"),
        an_action(intended_at=now, amount=25_000),
        an_action(intended_at=now, kind=ActionKind.INCREASE_LIQUIDATION_DISTANCE, amount=31_000),
        an_action(intended_at=now, kind=ActionKind.CLOSE_POSITION, amount=0),
        a_stop_loss(91_234.5, intended_at=now),
        a_stop_loss(None, intended_at=now, status=ActionStatus.REJECTED),
    ]
    async with recorded(state_dir, database_url, {}, *actions) as config:
        _, out, _ = await status(config, columns=160)
        _, as_json, _ = await status(config, "--json")
    for said in (
        "reduce by 500 USD, reopen 500 USD",
        "now trade-22",
        "add 25,000 sats",
        "move liquidation away with 31,000 sats",
        "close position",
        "set stop-loss to 91,234.5",
        "remove stop-loss",
    ):
        assert out.count(said) == 1, said
    rows = {row["id"]: row for row in json.loads(as_json)["actions"]}
    assert len(rows) == len(actions)
    reduction = rows[str(actions[0].id)]
    assert (reduction["quantity"], reduction["successor"]) == (500, "trade-22")
    assert reduction["reopening"]["leverage"] == actions[0].reopening.leverage
    assert rows[str(actions[4].id)]["stop_loss"] == 91_234.5


async def test_stop_losses_that_are_moved_again_and_again_leave_room_for_what_counts(
    state_dir, database_url
):
    now = datetime.now(UTC)
    breach = an_action(intended_at=now - timedelta(hours=1))
    moves = [a_stop_loss(intended_at=now) for _ in range(20)]
    async with recorded(state_dir, database_url, {}, breach, *moves) as config:
        _, out, _ = await status(config, "--json")
    kinds = [row["kind"] for row in json.loads(out)["actions"]]
    assert kinds == ["set_stop_loss"] * 3 + ["add_margin"]


async def test_a_database_of_an_older_daemon_is_said_with_the_next_step(state_dir, database_url):
    async with recorded(state_dir, database_url, {}) as config:
        connection = await asyncpg.connect(database_url)
        await connection.execute("DELETE FROM schema_migrations WHERE version > 1")
        await connection.close()
        code, out, err = await status(config)
    assert (code, out) == (2, "")
    assert "restart the daemon" in err
    assert "Traceback" not in err


async def test_a_guarded_position_is_protected_and_shown_with_its_prices(state_dir, database_url):
    market = Market()
    async with market.open_for_trade():
        config = write_config(state_dir, market, a_guard(), database_url=database_url)
        market.move(98_000.0)
        async with DaemonProcess(config) as daemon:
            await daemon.until("daemon.ready")
            code, found = await seen_positions(config)
            human = await status(config)
            url = "postgresql://nobody@127.0.0.1:1/none"
            config.write_text(config.read_text().replace(database_url, url))
            without = await status(config)
    assert without[0] == 3
    assert "the running daemon says: PROTECTED" in words(without[1])
    assert code == 0
    assert found["protected"]
    [position] = found["positions"]
    assert position["position_id"] == str(market.trades["main"].id)
    assert position["guard_id"] == "guard-1"
    assert position["risk"] == "safe"
    assert 20.4 < position["level"] < 20.5
    assert 94_339.6 < position["trigger_price"] < 94_339.7
    assert 90_909.0 < position["liquidation_price"] < 90_909.1
    assert human[0] == 0
    assert human[1].startswith("PROTECTED")


async def test_a_position_that_nobody_covers_comes_first_and_fails_the_command(
    state_dir, database_url
):
    market = Market("main", "other")
    async with market.open_for_trade():
        config = write_config(state_dir, market, a_guard(), database_url=database_url)
        async with DaemonProcess(config) as daemon:
            await daemon.until("daemon.ready")
            await daemon.until("notice.position_not_covered")
            code, found = await seen_positions(config)
            while len(found["positions"]) < 2:
                code, found = await seen_positions(config)
            human = await status(config)
    assert code == 1
    assert not found["protected"]
    assert found["positions"][0]["guard_id"] is None
    [problem] = found["problems"]
    assert problem["action"] == "add_guard"
    assert human[1].startswith("NOT PROTECTED")


async def test_the_last_execution_and_its_action_are_shown_when_the_daemon_is_down(state_dir):
    market = Market()
    async with market.open_for_trade():
        config = write_config(state_dir, market, a_guard())
        async with DaemonProcess(config) as daemon:
            await daemon.until("daemon.ready")
            await daemon.until("database.connected")
            market.move(94_000.0)
            await daemon.until("position.closed")
            assert await daemon.end() == 0
        code, out, err = await status(config, "--json", run=run_alone)
    assert err == ""
    found = json.loads(out)
    [guard] = found["guards"]
    assert guard["last_execution_status"] == "completed"
    [action] = found["actions"]
    assert (action["kind"], action["status"]) == ("close_position", "done")
    assert found["positions"] == []
    assert [problem["action"] for problem in found["problems"]] == ["start_daemon"]
    assert "no daemon runs here" in found["problems"][0]["issue"]
    assert (code, found["answer"]) == (1, "not_protected")


async def test_a_database_that_is_down_leaves_the_answer_unknown(state_dir):
    market = Market()
    async with market.open_for_trade():
        url = "postgresql://nobody:secret@127.0.0.1:1/none"
        config = write_config(state_dir, market, a_guard(), database_url=url)
    code, out, err = await status(config)
    assert (code, err) == (3, "")
    assert out.startswith("UNKNOWN")
    assert "See whether PostgreSQL runs" in words(out)
    assert "secret" not in out
    code, out, _ = await status(config, "--json")
    found = json.loads(out)
    assert (code, found["protected"], found["answer"]) == (3, False, "unknown")
    [problem] = found["problems"]
    assert problem["action"] == "check_database"
    assert "no daemon answers" in problem["solution"]
    assert {
        type(found[key]) for key in ("advice", "positions", "guards", "channels", "actions")
    } == {list}


async def test_what_the_telling_lacks_is_told_beside_the_answer(state_dir, database_url):
    seen = {"trade-1": a_sighting(a_position(), 99_000.0)}
    async with recorded(state_dir, database_url, seen) as config:
        link = DatabaseLink(database_url)
        await link.connect()
        now = datetime.now(UTC)
        settled = {"channel": "email", "settled_at": now, "attempted_at": now, "revision": 1}
        lost = a_notification(status=FAILED, notice=an_alarm(at=now), created_at=now, **settled)
        came = a_notification(status=DELIVERED, **settled | {"settled_at": now - HOUR})
        await upsert(link.pool, [lost, came])
        await link.close(timeout_s=10.0)
        config.write_text(config.read_text() + WITH_MAIL)
        code, out, err = await status(config)
        _, as_json, _ = await status(config, "--json")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0] == "PROTECTED: 1 position, with an armed guard"
    assert lines[1].startswith("- all channels failed for user owner")
    assert "email: 50% of the last 2 arrived, the last 60 min ago" in out
    found = json.loads(as_json)
    assert [one["action"] for one in found["advice"]] == ["restore_channel", "verify_smtp_config"]
    [channel] = found["channels"]
    assert (channel["success_rate"], channel["settled"], channel["delivered"]) == (0.5, 2, 1)


async def test_no_record_yet_is_said_with_the_next_step(state_dir):
    market = Market()
    async with market.open_for_trade():
        config = write_config(state_dir, market, a_guard())
        code, _, err = await status(config)
    assert code == 2
    assert "marginguard run" in err
    assert "Traceback" not in err


async def test_a_daemon_that_has_not_looked_for_long_is_not_protection(state_dir, database_url):
    market = Market()
    async with market.open_for_trade():
        config = write_config(
            state_dir, market, a_guard(), database_url=database_url, blind_after="1s"
        )
        async with DaemonProcess(config) as daemon:
            await daemon.until("daemon.ready")
            await seen_positions(config)
            await daemon.end()
        codes = []

        async def look():
            code, out, _ = await status(config, "--json")
            codes.append((code, [p["action"] for p in json.loads(out)["problems"]]))

        await look()
        while codes[-1][0] == 0:
            await look()
    assert codes[-1] == (1, ["start_daemon"])
