"""The control socket: whom it serves, and that nothing said to it harms the daemon."""

import asyncio
import contextlib
import json
import os
import socket
import stat
from datetime import timedelta
from uuid import UUID

import pytest
import uvloop
from aiohttp import web
from structlog.testing import capture_logs

from marginguard.app import control, control_wire
from marginguard.app.control_client import ControlClient, NoDaemon, Unanswered
from marginguard.domain.errors import DiskFull, Refused
from marginguard.domain.records import ExecutionSource
from tests.operating import LAST, OVERVIEW, FakeOperator
from tests.records import an_execution

ACTION = UUID(int=7)


@pytest.fixture
def operator():
    return FakeOperator()


@pytest.fixture
async def client(tmp_path, operator):
    async with control.serve(tmp_path, operator):
        yield ControlClient(tmp_path)


async def raw(path, data):
    """Send bytes to the socket; return all that comes back until it is closed."""
    reader, writer = await asyncio.open_unix_connection(path / "control.sock")
    writer.write(data)
    async with asyncio.timeout(20):
        answer = await reader.read()
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()
    return answer


def post(name, body, *, length=None):
    size = len(body) if length is None else length
    return f"POST /v1/{name} HTTP/1.1\r\nHost: m\r\nContent-Length: {size}\r\n\r\n{body}".encode()


ME = f"{control._user(os.geteuid())} (control socket)"


async def test_everything_that_is_asked_reaches_the_operator_with_who_asked(client, operator):
    assert await client.pause("guard-1", timedelta(hours=1)) == "done"
    assert await client.resume("guard-1") == "done"
    assert await client.reload() == "done"
    assert await client.settle(ACTION, applied=False) == "done"
    assert operator.asked == [
        ("pause", "guard-1", timedelta(hours=1), ME),
        ("resume", "guard-1", ME),
        ("reload", ME),
        ("settle", ACTION, False, ME),
    ]


async def test_a_run_returns_its_record_or_that_there_was_nothing_to_do(client, operator):
    operator.result = an_execution()
    source = ExecutionSource.RECOVER
    assert await client.run_now("guard-1", source=source, patience_s=5) == operator.result
    operator.result = None
    assert await client.run_now("guard-1", patience_s=5) is None
    assert operator.asked == [
        ("run-now", "guard-1", ExecutionSource.RECOVER, ME),
        ("run-now", "guard-1", ExecutionSource.RUN_NOW, ME),
    ]


async def test_what_the_daemon_knows_is_read_back_as_it_was(client):
    assert await client.overview() == OVERVIEW
    assert await client.last_actions() == (LAST,)


async def test_the_types_that_fill_the_daemons_memory_are_told(client):
    first, second = await client.heap(limit=2)
    assert first.bytes >= second.bytes > 0
    assert first.count > 0


async def test_a_refusal_comes_with_its_reason(client, operator):
    operator.result = Refused("there is no guard x\nthere are guard-1")
    with pytest.raises(Refused, match="there is no guard x\nthere are guard-1"):
        await client.pause("x", timedelta(hours=1))


@pytest.mark.parametrize("name", ["reload", "overview", "last_actions"])
async def test_an_answer_that_is_not_understood_is_taken_for_another_versions(
    client, monkeypatch, name
):
    monkeypatch.setattr(control, "_json", lambda *_: web.Response(body=b'{"newer": 1}'))
    with pytest.raises(Unanswered, match="another version"):
        await getattr(client, name)()


async def test_a_daemon_that_cannot_do_it_says_why(client, operator):
    operator.result = DiskFull("the disk is full")
    with pytest.raises(Unanswered, match="the disk is full"):
        await client.resume("guard-1")


async def test_a_fault_in_a_command_is_logged_and_ends_nothing(client, operator):
    operator.result = KeyError("a bug")
    with capture_logs() as logged, pytest.raises(Unanswered, match="its log says how"):
        await client.resume("guard-1")
    assert [line["event"] for line in logged] == ["control.failed"]
    operator.result = "done"
    assert await client.resume("guard-1") == "done"


@pytest.mark.parametrize(
    ("request_", "status", "words"),
    [
        (post("pause", "{"), 400, "not understood"),
        (post("pause", "[]"), 400, "not understood"),
        (post("pause", '{"guard": "guard-1"}'), 400, "seconds"),
        (post("pause", '{"guard": "g", "seconds": NaN}'), 400, "seconds"),
        (post("pause", '{"guard": "g", "seconds": -1}'), 400, "seconds"),
        (post("pause", '{"guard": 1, "seconds": 1}'), 400, "guard"),
        (post("resume", '{"guard": "g", "more": 1}'), 400, "more"),
        (post("run-now", '{"guard": "g", "source": "schedule"}'), 400, "source"),
        (post("settle", '{"action": "7", "applied": true}'), 400, "action"),
        (post("resume", '{"guard": "' + "g" * 20_000 + '"}'), 413, "longer than"),
        (post("resume", "{}", length=50_000_000), 413, "longer than"),
        (post("explode", "{}"), 404, "does not know this request"),
        (b"GET /v1/pause HTTP/1.1\r\nHost: m\r\n\r\n", 405, "does not know this request"),
    ],
)
async def test_a_request_that_is_not_understood_is_answered_and_asks_for_nothing(
    client, operator, tmp_path, request_, status, words
):
    if status == 413 and b"50000000" in request_:
        request_ += b"x" * 20_000  # it is not waited for in full
    head, _, body = (await raw(tmp_path, request_)).partition(b"\r\n\r\n")
    assert head.startswith(f"HTTP/1.1 {status} ".encode())
    assert words in json.loads(body)["error"]
    assert operator.asked == []
    assert await client.resume("guard-1") == "done"


@pytest.mark.parametrize(
    "data", [b"\x00\xff\n\n" * 50, b"pause guard-1\n\n", b"GET " + b"x" * 99_999]
)
async def test_what_is_no_request_at_all_harms_nothing(client, tmp_path, data):
    assert b" 400 " in (await raw(tmp_path, data)).splitlines()[0]
    assert await client.resume("guard-1") == "done"


@pytest.mark.parametrize("begun", [b"", b"POST /v1/reload HTT", post("resume", "{", length=99)])
async def test_who_says_nothing_for_long_is_cut_off(tmp_path, operator, begun):
    async with control.serve(tmp_path, operator, request_timeout_s=0.05):
        answer = await raw(tmp_path, begun)
    assert answer == b"" or b"408" in answer.splitlines()[0]
    assert operator.asked == []


async def test_a_request_under_way_is_not_cut_off(tmp_path, operator):
    operator.go_on.clear()
    async with control.serve(tmp_path, operator, request_timeout_s=0.05):
        asking = asyncio.create_task(ControlClient(tmp_path).reload())
        await asyncio.sleep(0.2)
        operator.go_on.set()
        assert await asking == "done"


async def test_what_was_begun_is_finished_though_the_asker_leaves(client, operator, tmp_path):
    operator.go_on.clear()
    _, writer = await asyncio.open_unix_connection(tmp_path / "control.sock")
    writer.write(post("resume", '{"guard": "guard-1"}'))
    await operator.begun.wait()
    writer.close()
    await writer.wait_closed()
    assert await client.overview() == OVERVIEW
    operator.go_on.set()
    async with asyncio.timeout(20):
        await operator.ended.wait()


async def test_an_answer_that_does_not_come_is_told_from_no_daemon(tmp_path, operator):
    operator.go_on.clear()
    async with control.serve(tmp_path, operator):
        with pytest.raises(Unanswered, match="has not answered within") as caught:
            await ControlClient(tmp_path, timeout_s=0.05).reload()
        operator.go_on.set()
    assert not isinstance(caught.value, NoDaemon)


async def test_a_daemon_that_ends_before_it_answers_is_told(tmp_path, operator):
    operator.go_on.clear()
    async with contextlib.AsyncExitStack() as serving:
        await serving.enter_async_context(control.serve(tmp_path, operator))
        asking = asyncio.create_task(ControlClient(tmp_path).reload())
        await operator.begun.wait()
    with pytest.raises(Unanswered, match="went away before it answered"):
        await asking


async def test_where_no_daemon_is_that_is_said_with_the_next_step(tmp_path):
    for directory in (tmp_path, tmp_path / "none", tmp_path / ("long" * 50)):
        with pytest.raises(NoDaemon, match="systemctl start marginguard"):
            await ControlClient(directory).overview()


async def test_the_socket_is_its_users_alone_and_goes_with_the_daemon(tmp_path, operator):
    path = tmp_path / "control.sock"
    async with control.serve(tmp_path, operator):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert not path.exists()


async def test_the_socket_of_a_killed_daemon_is_replaced(tmp_path, operator):
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(tmp_path / "control.sock"))
    with pytest.raises(NoDaemon):
        await ControlClient(tmp_path).overview()
    async with control.serve(tmp_path, operator):
        assert await ControlClient(tmp_path).overview() == OVERVIEW


async def test_a_socket_that_cannot_be_made_does_not_keep_the_daemon_from_guarding(
    tmp_path, operator
):
    (tmp_path / "control.sock").write_text("somebody's")
    with capture_logs() as logged:
        async with control.serve(tmp_path, operator):
            pass
        async with control.serve(tmp_path / "none", operator):
            pass
    assert [line["event"] for line in logged] == ["control.unavailable"] * 2
    assert "no socket" in logged[0]["error"]
    assert (tmp_path / "control.sock").read_text() == "somebody's"


async def test_a_state_directory_with_a_long_path_has_its_socket_too(tmp_path, operator):
    deep = tmp_path / ("a" * 100) / ("b" * 100)
    deep.mkdir(parents=True)
    async with control.serve(deep, operator):
        assert stat.S_IMODE((deep / "control.sock").stat().st_mode) == 0o600
        assert await ControlClient(deep).reload() == "done"
    assert not (deep / "control.sock").exists()


async def test_another_user_is_refused_though_the_file_were_open(client, operator, monkeypatch):
    monkeypatch.setattr(control, "_ROOT", -1)
    monkeypatch.setattr(os, "geteuid", lambda: 65_533)
    with pytest.raises(Unanswered, match="only root and user id 65533 may command"):
        await client.reload()
    with pytest.raises(Unanswered, match="only root and user id 65533 may command"):
        await client.overview()
    assert operator.asked == []


def test_the_socket_works_on_the_loop_that_the_daemon_runs_on(tmp_path):
    async def play():
        operator = FakeOperator()
        async with control.serve(tmp_path, operator):
            assert await ControlClient(tmp_path).reload() == "done"
        return operator.asked

    assert uvloop.run(play()) == [("reload", ME)]


def test_paths_are_shortened_only_where_they_are_too_long(tmp_path):
    with control_wire.address_of(tmp_path) as address:
        assert address == str(tmp_path / "control.sock")
