"""The commands that count what is in the record: executions, analyze."""

from datetime import timedelta

import pytest

from marginguard.domain.notification import NotificationStatus
from marginguard.storage.notifications import upsert
from marginguard.storage.records import apply
from tests.acceptance.recorded import ago, commands_over_a_record, failed, linked, ran
from tests.notifying import a_notification


@pytest.fixture
async def link(database_url):
    async with linked(database_url) as link:
        yield link


@pytest.fixture
async def command(state_dir, database_url, link):
    return await commands_over_a_record(state_dir, database_url, link)


async def test_executions_are_counted_and_listed_newest_first(command, link):
    rows = [ran(ago(hours=3)), failed(ago(hours=2)), ran(ago(hours=1)), ran(ago(days=3))]
    await apply(link.pool, rows)
    code, out, err = await command("executions")
    assert (code, err) == (0, "")
    first = out.splitlines()[0]
    assert first.startswith("3 executions since ")
    assert "2 completed, 1 failed; 67%" in " ".join(out.splitlines()[:2])
    assert out.index(str(rows[2].id)) < out.index(str(rows[1].id))
    code, found = await command.json("executions", "--status", "failed", "--since", "7d")
    assert code == 0
    assert [row["id"] for row in found["executions"]] == [str(rows[1].id)]
    assert found["counts"] == {"completed": 3, "partial": 0, "failed": 1, "skipped": 0}
    assert found["executions"][0]["error_type"] == "NETWORK_ERROR"


async def test_no_executions_is_an_answer(command):
    code, out, err = await command("executions", "--since", "90m")
    assert (code, err) == (0, "")
    assert out.startswith("No executions since ")
    assert "1 looks" in out


async def test_more_than_are_listed_are_said_to_be_there(command, link):
    await apply(link.pool, [ran(ago(minutes=minute)) for minute in range(5)])
    _, out, _ = await command("executions", "--limit", "2")
    assert out.startswith("5 executions")
    assert "3 older ones are not shown" in out


async def test_executions_that_mostly_fail_are_analyzed_with_a_cure(command, link):
    await apply(link.pool, [ran(ago(hours=5)), failed(ago(hours=3)), failed(ago(hours=1))])
    code, out, err = await command("analyze executions")
    assert (code, err) == (1, "")
    assert out.startswith("33% of the executions since ")
    assert "2 x connection refused" in out
    assert "What to do" in out
    code, found = await command.json("analyze executions", "--guard", "guard-1")
    assert code == 1
    assert (found["total"], found["completed"], found["failed"]) == (3, 1, 2)
    assert found["common_errors"] == [{"error": "connection refused", "count": 2}]
    assert found["duration"]["average_s"] == 0.75
    assert sum(part["failed"] for part in found["pattern"]) == 2
    [advice] = found["recommendations"]
    assert advice.keys() == {"issue", "solution", "action"}
    assert advice["action"] == "check_network"


async def test_executions_that_went_well_need_nothing(command, link):
    await apply(link.pool, [ran(ago(hours=5))])
    code, out, _ = await command("analyze executions", "--since", "24h")
    assert code == 0
    assert out.startswith("100% of the executions")
    assert "What to do" not in out


async def test_a_channel_that_fails_more_than_it_delivers_is_named_with_its_cure(command, link):
    shut = a_notification(
        status=NotificationStatus.FAILED,
        attempts=5,
        created_at=ago(hours=1),
        settled_at=ago(minutes=50),
        attempted_at=ago(minutes=50),
        last_error="535 authentication failed",
        action="verify_smtp_config",
        advice="check username and password",
        revision=1,
    )
    arrived = a_notification(
        channel="webhook",
        status=NotificationStatus.DELIVERED,
        created_at=ago(hours=1),
        settled_at=ago(hours=1) + timedelta(seconds=2),
        revision=1,
    )
    await upsert(link.pool, [shut, arrived])
    code, out, err = await command("analyze notifications", "--since", "24h")
    assert (code, err) == (1, "")
    assert out.startswith("50% of the notifications since ")
    assert "email: 0% arrived" in out
    code, found = await command.json("analyze notifications")
    assert code == 1
    assert found["channels"]["webhook"]["success_rate"] == 1.0
    assert found["delay"]["average_s"] == 2.0
    [advice] = found["recommendations"]
    assert (advice["action"], advice["solution"]) == (
        "verify_smtp_config",
        "check username and password",
    )
