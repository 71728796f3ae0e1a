"""`marginguard recover` and the commands of a daemon, over a real record and a fake daemon."""

import asyncio
import json
from datetime import UTC, datetime, timedelta

import pytest

from marginguard.app import control
from marginguard.domain.errors import Refused
from marginguard.domain.memory import GuardMemory
from marginguard.domain.model import ActionKind
from marginguard.domain.notification import NotificationStatus
from marginguard.domain.records import ActionStatus, ExecutionSource, ExecutionStatus
from marginguard.storage.database import acquired
from marginguard.storage.link import DatabaseLink
from marginguard.storage.notifications import upsert
from marginguard.storage.reading_executions import deliveries
from marginguard.storage.records import apply
from tests.commands import run_here
from tests.daemons import Market, a_guard, write_config
from tests.notifying import a_notice, a_notification
from tests.operating import FakeOperator
from tests.records import a_guard_state, an_action, an_execution

NOW = datetime.now(UTC).replace(microsecond=0)
COMMANDS = (
    ("pause", "guard-1", "--for", "1h"),
    ("resume", "guard-1"),
    ("reload",),
    ("run-now", "guard-1"),
    ("recover", "executions"),
)


@pytest.fixture
async def link(database_url):
    link = DatabaseLink(database_url)
    await link.connect()
    yield link
    await link.close(timeout_s=10.0)


@pytest.fixture
async def config(tmp_path, database_url):
    market = Market()
    async with market.open_for_trade():
        guards = a_guard() + a_guard("guard-2") + a_guard("guard-off", more="enabled = false")
        guards += a_guard("guard-bad", threshold=0)
        path = write_config(tmp_path, market, guards, database_url=database_url)
    (tmp_path / "state").mkdir(mode=0o700)
    return path


@pytest.fixture
async def operator(tmp_path, config):
    operator = FakeOperator()
    async with control.serve(tmp_path / "state", operator):
        yield operator


@pytest.fixture
def command(config):
    async def run(*words, **environment):
        given = {"COLUMNS": "80", **environment}
        return await run_here(*words, "--config", str(config), **given)

    return run


async def has_failed(link, *guard_ids, ago=timedelta(minutes=5), **changes):
    """Let the guards' last execution have failed."""
    at = NOW - ago
    for id_ in guard_ids:
        failed = an_execution(
            **{
                "guard_id": id_,
                "status": ExecutionStatus.FAILED,
                "error": "connection refused",
                "started_at": at - timedelta(seconds=1),
                "finished_at": at,
                **changes,
            }
        )
        state = a_guard_state(guard_id=id_, since=NOW, updated_at=NOW, memory=GuardMemory())
        await apply(link.pool, [failed, state])


def flat(text):
    return " ".join(text.split())


async def test_a_guard_that_failed_last_is_run_again_and_others_are_left_alone(
    command, operator, link
):
    await has_failed(link, "guard-1", "guard-2", "guard-off", "guard-bad", "guard-gone")
    fine = an_execution(guard_id="guard-2", started_at=NOW, finished_at=NOW)
    await apply(link.pool, [fine])
    operator.result = None
    code, out, err = await command("recover", "executions", "--json")
    assert (code, err) == (1, "")
    assert [what[:3] for what in operator.asked] == [
        ("run-now", "guard-1", ExecutionSource.RECOVER)
    ]
    found = json.loads(out)
    assert [found[key] for key in ("total", "succeeded", "failed", "left_alone")] == [4, 1, 1, 2]
    results = {one["guard_id"]: one for one in found["results"]}
    assert results.keys() == {"guard-1", "guard-bad", "guard-gone", "guard-off"}
    assert results["guard-1"]["outcome"] == "nothing_to_do"
    assert "margin_threshold" in results["guard-bad"]["reason"]
    assert "not in the configuration" in results["guard-gone"]["reason"]
    assert "switched off" in results["guard-off"]["reason"]


@pytest.mark.parametrize(
    ("result", "code", "words"),
    [
        (an_execution(results={"trade-1": "closed and proved"}), 0, "closed and proved"),
        (an_execution(status=ExecutionStatus.PARTIAL, error="no margin left"), 1, "no margin left"),
        (Refused("the account's key is refused"), 1, "the account's key is refused"),
    ],
)
async def test_what_came_of_each_run_is_told_with_its_reason(
    command, operator, link, result, code, words
):
    await has_failed(link, "guard-1", status=ExecutionStatus.PARTIAL)
    operator.result = result
    ended, out, err = await command("recover", "executions")
    assert (ended, err) == (code, "")
    assert words in flat(out)
    assert f"{1 - code} succeeded, {code} failed" in flat(out)
    assert "connection refused" in flat(out)


async def test_a_failure_before_the_time_asked_for_is_let_be(command, operator, link):
    await has_failed(link, "guard-1", ago=timedelta(hours=25))
    code, out, _ = await command("recover", "executions")
    assert (code, operator.asked) == (0, [])
    assert "nothing to recover" in flat(out)
    operator.result = None
    assert (await command("recover", "executions", "--since", "26h"))[0] == 0
    assert len(operator.asked) == 1


async def test_a_dry_run_contacts_no_daemon(command, operator, link):
    await has_failed(link, "guard-1")
    code, out, _ = await command("recover", "executions", "--dry-run")
    assert (code, operator.asked) == (0, [])
    assert "guard-1: would run" in out


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
async def test_without_a_daemon_the_next_step_is_told(command, link, words):
    await has_failed(link, "guard-1")
    code, out, err = await command(*words)
    assert (code, out) == (1, "")
    assert err.startswith("error: no daemon answers at ")
    assert "systemctl start marginguard" in err
    assert err.count("\n") == 1


async def test_a_broken_configuration_does_not_keep_the_daemon_from_being_commanded(
    command, operator, config
):
    config.write_text(config.read_text() + '\n[nonsense]\n[http]\nlisten = "x"\n')
    for words in COMMANDS[:3]:
        assert (await command(*words))[0] == 0
    operator.result = None
    assert (await command("run-now", "guard-1"))[0] == 0
    assert [what[0] for what in operator.asked] == ["pause", "resume", "reload", "run-now"]
    config.write_text("[daemon")
    code, out, err = await command("resume", "guard-1")
    assert (code, out) == (2, "")
    assert "is not valid TOML" in err


async def test_every_problem_of_a_refused_configuration_is_told(command, operator):
    operator.result = Refused("config.toml: one\nconfig.toml: two")
    code, out, err = await command("reload")
    assert (code, out) == (1, "")
    assert err == "error: config.toml: one\nerror: config.toml: two\n"
    code, out, err = await command("reload", "--json")
    assert (code, err) == (1, "")
    assert json.loads(out) == {
        "guard": None,
        "accepted": False,
        "answer": "config.toml: one\nconfig.toml: two",
    }


@pytest.mark.parametrize("span", ["1", "soon", "0h", "25h", "-1h", ""])
async def test_a_pause_that_is_no_time_or_too_long_is_refused(command, operator, span):
    code, out, err = await command("pause", "guard-1", f"--for={span}")
    assert (code, out, operator.asked) == (2, "", [])
    assert repr(span) in err


async def test_a_run_that_failed_says_so_by_its_exit_code(command, operator):
    operator.result = an_execution(status=ExecutionStatus.FAILED, error="no price")
    code, out, _ = await command("run-now", "guard-1", COLUMNS="40")
    assert code == 1
    assert "no price" in flat(out)
    assert max(map(len, out.splitlines())) <= 60  # an id is not broken
    code, out, _ = await command("run-now", "guard-1", "--json")
    assert (code, json.loads(out)["execution"]["error"]) == (1, "no price")


def given_up(**changes):
    notice = a_notice(at=NOW - timedelta(minutes=30))
    return a_notification(
        **{
            "notice": notice,
            "status": NotificationStatus.FAILED,
            "created_at": NOW - timedelta(minutes=30),
            "settled_at": NOW - timedelta(minutes=20),
            "attempted_at": NOW - timedelta(minutes=20),
            "attempts": 3,
            "last_error": "535 authentication failed",
            "advice": "check the password",
            "action": "verify_smtp_config",
            **changes,
        }
    )


async def test_notifications_go_out_when_the_daemon_starts(command, link):
    old = given_up(settled_at=NOW - timedelta(hours=2))
    await upsert(link.pool, [given_up(), given_up(channel="sms"), old])
    code, out, _ = await command("recover", "notifications", "--dry-run")
    assert code == 0
    assert out.startswith("Would be sent again: 1 by email, 1 by sms")
    assert "535 authentication failed; check the password" in flat(out)
    code, out, err = await command("recover", "notifications")
    assert (code, err) == (0, "")
    assert out.startswith("Set to be sent again: 1 by email, 1 by sms")
    assert "No daemon answers: they go out when it starts" in out
    async with acquired(link.pool) as connection:
        rows = await deliveries(connection, since=NOW - timedelta(hours=1), limit=10)
    assert sorted(row.status for row in rows) == ["failed", "pending", "pending"]
    assert {row.created_at for row in rows} == {NOW - timedelta(minutes=30)}
    assert "nothing to recover" in flat((await command("recover", "notifications"))[1])
    _, out, _ = await command("recover", "notifications", "--json")
    assert json.loads(out)["daemon_answers"] is None  # nobody was asked


async def test_what_becomes_of_notifications_is_waited_for(command, operator, link):
    rows = [given_up(), given_up(channel="sms"), given_up(channel="webhook")]
    await upsert(link.pool, rows)
    asking = asyncio.create_task(command("recover", "notifications", "--wait", "2s"))
    async with acquired(link.pool) as connection:
        count = "SELECT count(*) FROM notifications WHERE status = 'pending'"
        async with asyncio.timeout(30):
            while await connection.fetchval(count) != 3:  # noqa: ASYNC110 - no event tells of it
                await asyncio.sleep(0.02)
        await connection.execute(
            "UPDATE notifications SET status = 'delivered', settled_at = now()"
            " WHERE channel = 'email'"
        )
        await connection.execute(
            "UPDATE notifications SET status = 'failed', last_error = 'no credit',"
            " settled_at = now() WHERE channel = 'sms'"
        )
    code, out, err = await asking
    assert (code, err) == (1, "")
    assert "1 delivered, 1 failed again, 1 still pending" in out
    assert "failed, sms to owner" in out
    assert "no credit" in out


def frozen(**changes):
    return an_action(
        **{
            "status": ActionStatus.UNKNOWN,
            "frozen": True,
            "sent_at": NOW,
            "outcome": "ambiguous",
            "error": "its outcome cannot be told from what the exchange shows",
            **changes,
        }
    )


async def test_actions_of_unknown_outcome_are_listed_with_what_to_look_for(command, link):
    await has_failed(link, "guard-1")
    under_way = an_action(status=ActionStatus.SENT, sent_at=NOW)
    closing = frozen(kind=ActionKind.CLOSE_POSITION, amount=0, position_id="trade-2")
    adding = frozen()
    await apply(link.pool, [under_way, closing, adding])
    code, out, err = await command("recover", "intents")
    assert (code, err) == (1, "")
    words = flat(out)
    assert words.startswith("Waiting for your word: 2")
    assert "add 25,000 sats on position trade-1 of account main, guard guard-1" in words
    assert "did the margin of the trade grow by 25,000 sats then, from 100,000?" in words
    assert "is the trade closed?" in words
    assert f"{under_way.id} settles by itself" in words
    assert "--applied ID" in words
    code, out, _ = await command("recover", "intents", "--json", "--dry-run")
    found = json.loads(out)
    assert code == 1
    assert {one["id"] for one in found["waiting"]} == {str(closing.id), str(adding.id)}
    assert [one["id"] for one in found["settling_by_themselves"]] == [str(under_way.id)]


async def test_the_owners_word_settles_them(command, operator, link):
    one, other = frozen(), frozen(position_id="trade-2")
    await apply(link.pool, [one, other])
    code, out, err = await command("recover", "intents", "--applied", str(one.id))
    assert (code, err) == (1, "")
    assert "1 settled, 0 refused, 1 still waiting" in out
    code, out, _ = await command(
        *("recover", "intents", "--not-applied", str(one.id)),
        *("--applied", str(other.id).upper(), "--json"),
    )
    found = json.loads(out)
    assert code == 0
    assert [result["applied"] for result in found["results"]] == [False, True]
    assert (found["total"], found["succeeded"], found["waiting"]) == (2, 2, [])
    assert [what[:3] for what in operator.asked] == [
        ("settle", one.id, True),
        ("settle", one.id, False),
        ("settle", other.id, True),
    ]
    operator.result = Refused("the action is settled")
    code, out, _ = await command("recover", "intents", "--applied", str(one.id))
    assert code == 1
    assert "refused: the action is settled" in out
    found = json.loads((await command("recover", "intents", "--applied", str(one.id), "--json"))[1])
    assert (found["succeeded"], found["failed"], len(found["waiting"])) == (0, 1, 2)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--applied", "ffff"), "no action that waits for your word begins with 'ffff'"),
        (("--applied", ""), "begins with ''"),
        (("--applied", "{id}", "--not-applied", "{id}"), "both as applied and as not applied"),
    ],
)
async def test_a_word_on_no_action_or_two_words_on_one_are_refused(
    command, operator, link, words, said
):
    one = frozen()
    await apply(link.pool, [one])
    words = [word.format(id=one.id) for word in words]
    code, out, err = await command("recover", "intents", *words)
    assert (code, out, operator.asked) == (2, "", [])
    assert said in err


async def test_a_word_without_a_daemon_is_told_the_next_step(command, link):
    one = frozen()
    await apply(link.pool, [one])
    code, _, err = await command("recover", "intents", "--applied", str(one.id))
    assert code == 1
    assert "no daemon answers" in err


async def test_with_nothing_unknown_there_is_nothing_to_say(command, link):
    await has_failed(link, "guard-1")
    code, out, _ = await command("recover", "intents")
    assert (code, out) == (0, "No action waits for your word.\n")


@pytest.mark.parametrize("what", ["executions", "notifications"])
async def test_a_since_that_is_no_duration_is_refused(command, what):
    code, out, err = await command("recover", what, "--since", "yesterday")
    assert (code, out) == (2, "")
    assert "'yesterday' is not a duration" in err
