"""The commands that tell of one thing in the record: explain, profile, chart."""

from dataclasses import replace
from uuid import UUID

import pytest

from marginguard.domain.model import ActionKind
from marginguard.domain.records import ActionStatus, ExecutionStatus
from marginguard.storage.observations import DatabaseObservations
from marginguard.storage.records import apply
from tests.acceptance.recorded import (
    NOW,
    a_failed_story,
    ago,
    commands_over_a_record,
    linked,
    ran,
    seen,
)
from tests.records import a_reduction, a_sighting, an_action, settled
from tests.unit.strategies import a_position


@pytest.fixture
async def link(database_url):
    async with linked(database_url) as link:
        yield link


@pytest.fixture
async def command(state_dir, database_url, link):
    return await commands_over_a_record(state_dir, database_url, link)


async def test_an_execution_is_explained_with_its_actions_reasons_and_notices(command, link):
    run, refused = await a_failed_story(link)
    code, out, err = await command("explain", str(run.id))
    assert (code, err) == (0, "")
    assert out.startswith("The execution of guard guard-1 FAILED after 4.00 s")
    told = " ".join(out.split())
    for said in (
        "decided to add 25,000 sats",
        "level 80.2 %, threshold 80 %",
        "sent, attempt 1; outcome: rejected",
        "market_error",
        'still to tell owner by email: "ACTION FAILED", pending',
    ):
        assert said in told, said
    assert told.index("decided to") < told.index("sent, attempt") < told.index("ended, failed")
    code, found = await command.json("explain", str(run.id)[:-2])
    assert found["id"] == str(run.id)
    [reason] = found["reasons"]
    assert (reason["type"], reason["action"]) == ("market_error", "wait_and_retry")
    assert {"issue", "solution", "action"} <= reason.keys()
    assert [action["id"] for action in found["actions"]] == [str(refused.id)]
    assert [one["channel"] for one in found["notifications"]] == ["email"]


async def test_an_action_leads_to_its_execution_even_where_that_left_no_end(command, link):
    action = an_action(intended_at=ago(hours=1), status=ActionStatus.SENT, sent_at=ago(hours=1))
    await apply(link.pool, [action])
    _, found = await command.json("explain", str(action.id))
    assert (found["id"], found["execution"]) == (str(action.execution_id), None)
    assert "no record of its end" in found["headline"]


async def test_a_position_is_explained_over_all_its_ids(command, link):
    cut = replace(a_reduction(position_id="trade-0", successor="trade-1"), intended_at=ago(hours=2))
    await apply(link.pool, [cut])
    await seen(link, [99_000.0, 92_000.0, 98_000.0])
    code, out, err = await command("explain", "trade-1")
    assert (code, err) == (0, "")
    assert out.startswith("Position trade-1 of account main runs at level")
    assert "1 of 1 actions worked" in " ".join(out.split())
    told = " ".join(out.split())
    assert "reduce by 500 USD" in told
    assert "the position is trade-1 from now on" in told
    assert "highest level 87.0 %" in told
    _, of_first = await command.json("explain", "trade-0")
    assert sorted(of_first["ids"]) == ["trade-0", "trade-1"]
    assert of_first["position"]["position_id"] == "trade-1"


async def test_a_mistyped_id_is_answered_with_the_nearest(command, link):
    run = ran(ago(hours=1))
    await apply(link.pool, [run])
    await seen(link, [99_000.0], position_id="trade-17")
    wrong = str(run.id)[:-1] + ("0" if str(run.id)[-1] != "0" else "1")
    code, out, err = await command("explain", wrong)
    assert (code, out) == (2, "")
    assert str(run.id) in err
    code, out, err = await command("chart", "trade-71")
    assert (code, out) == (2, "")
    assert "did you mean trade-17?" in " ".join(err.split())
    code, out, err = await command("profile", "gaurd-1")
    assert (code, out) == (2, "")
    assert "did you mean guard-1?" in " ".join(err.split())


async def test_a_beginning_of_several_ids_is_not_guessed_at(command, link):
    first = ran(ago(hours=1), id=UUID("018f0000-0000-7000-8000-000000000001"))
    second = ran(ago(hours=1), id=UUID("018f0000-0000-7000-8000-000000000002"))
    await apply(link.pool, [first, second])
    code, _, err = await command("explain", "018f0000-0000")
    assert code == 2
    assert "write more of it" in " ".join(err.split())
    code, _, _ = await command("explain", "018f0000-0000-7000-8000-000000000002")
    assert code == 0


async def test_the_cross_position_of_several_accounts_needs_its_account(command, link):
    observations = DatabaseObservations(link)
    for account in ("main", "other"):
        cross = a_position(id="cross")
        observations.positions(account, {"cross": a_sighting(cross, 99_000.0)}, NOW)
    await observations.flush()
    code, _, err = await command("explain", "cross")
    assert code == 2
    assert "main, other" in err
    assert "--account" in err
    code, out, _ = await command("explain", "cross", "--account", "other")
    assert code == 0
    assert out.startswith("Position cross of account other runs")


async def test_the_profile_says_where_the_time_goes_and_what_to_change(command, link):
    slow = [
        ran(ago(minutes=minute), duration_s=4.0, phases={"positions": 3.0, "actions": 1.0})
        for minute in range(4)
    ]
    await apply(link.pool, [*slow, ran(ago(minutes=9), status=ExecutionStatus.SKIPPED)])
    code, out, err = await command("profile", "guard-1")
    assert (code, err) == (1, "")
    assert out.startswith("4.00 s on average, 4.00 s at most, of the 5 s")
    assert "Memory: unknown" in out
    code, found = await command.json("profile")
    assert code == 1
    assert found["profile"]["runs"] == 4
    assert found["profile"]["phases"]["positions"]["p99_s"] == 3.0
    actions = [finding["action"] for finding in found["profile"]["bottlenecks"]]
    assert actions == ["find_slow_phase", "check_network"]
    assert found["memory"] is None


async def test_a_chart_is_drawn_in_the_terminal_with_thresholds_and_actions(command, link):
    await seen(link, [99_000.0, 94_000.0, 98_000.0])
    closing = settled(
        an_action(
            kind=ActionKind.CLOSE_POSITION, amount=0, threshold=60.0, intended_at=ago(minutes=4)
        )
    )
    await apply(link.pool, [closing])
    code, out, err = await command("chart", "trade-1", columns=40)
    assert (code, err) == (0, "")
    assert out.startswith("Position trade-1 of account main: level")
    assert max(len(line) for line in out.splitlines()) <= 40
    for drawn in ("•", "▼", "  60 |", " 100 |"):
        assert drawn in out
    assert "close position: done" in " ".join(out.split())


@pytest.mark.parametrize(("suffix", "magic"), [(".svg", b"<svg "), (".png", b"\x89PNG")])
async def test_a_chart_is_written_as_a_picture(command, link, tmp_path, suffix, magic):
    await seen(link, [99_000.0, 94_000.0, 98_000.0])
    file = tmp_path / f"level{suffix}"
    code, out, _ = await command("chart", "trade-1", "-o", str(file))
    assert code == 0
    assert "Written to" in out
    assert file.read_bytes().startswith(magic)


async def test_a_chart_that_cannot_be_written_is_told_in_one_line(command, link, tmp_path):
    await seen(link, [99_000.0, 94_000.0])
    code, _, err = await command("chart", "trade-1", "-o", str(tmp_path / "level.jpg"))
    assert (code, err.count("\n")) == (2, 1)
    assert ".svg or .png" in err
    code, _, err = await command("chart", "trade-1", "-o", str(tmp_path / "no" / "level.svg"))
    assert (code, err.count("\n")) == (2, 1)
    assert "No such file or directory" in err
