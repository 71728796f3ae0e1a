"""How events come out: one line each, with a priority, and never a secret (Failure 36)."""

import asyncio
import io
import json
import logging
import os
import pty
import re
from collections.abc import Iterator
from datetime import timedelta
from decimal import Decimal
from enum import Enum
from pathlib import Path
from types import MappingProxyType
from urllib.parse import quote

import pytest
import structlog

from marginguard import logs

CANARY = 'can"ary\\ 4f1d é/9b'
NUMBER = "9081726354"


@pytest.fixture(autouse=True)
def _own_logging() -> Iterator[None]:
    """Leave the logging of the other tests as it was."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def configured(
    *, level: int = logging.INFO, stream: io.StringIO | None = None, secrets: tuple[str, ...] = ()
) -> io.StringIO:
    stream = stream if stream is not None else io.StringIO()
    logs.configure(environ={}, secrets=secrets, level=level, stream=stream)
    return stream


def line_of(stream: io.StringIO) -> str:
    """Return the only line, without its time stamp."""
    (line,) = stream.getvalue().splitlines()
    match = re.fullmatch(r"(<\d>)\d{4}-\d\d-\d\dT[\d:.]+Z (.*)", line)
    assert match is not None, line
    return match[1] + match[2]


@pytest.mark.parametrize(
    ("method", "priority"), [("info", 6), ("warning", 4), ("error", 3), ("critical", 2)]
)
def test_an_event_is_a_line_with_the_journals_priority(method: str, priority: int) -> None:
    stream = configured()
    getattr(structlog.get_logger(), method)("daemon.ready", guards=2)
    assert line_of(stream) == f"<{priority}>daemon.ready guards=2"


def test_debug_events_come_out_at_debug_level_alone() -> None:
    stream = configured()
    structlog.get_logger().debug("price")
    assert stream.getvalue() == ""
    stream = configured(level=logging.DEBUG)
    structlog.get_logger().debug("price")
    assert line_of(stream) == "<7>price"


class Colour(Enum):
    RED = "red"


@pytest.mark.parametrize(
    ("value", "written"),
    [
        ("plain", "plain"),
        ("two words", '"two words"'),
        ("a=b", '"a=b"'),
        ('say "x"', r'"say \"x\""'),
        ("back\\slash", r'"back\\slash"'),
        ("", '""'),
        ("two\nlines", r'"two\nlines"'),
        ("\x1b[31mred", r'"\u001b[31mred"'),
        ("new\u2028line\x85", r'"new\u2028line\u0085"'),
        ("é", "é"),
        (None, "null"),
        (True, "true"),
        (1.5, "1.5"),
        (timedelta(seconds=5), "0:00:05"),
        (Decimal("1.50"), "1.50"),
        (Colour.RED, "red"),
        (["a", 1], r'"[\"a\", 1]"'),
        ([1], "[1]"),
    ],
)
def test_a_value_can_be_read_in_one_way_only(value: object, written: str) -> None:
    stream = configured()
    structlog.get_logger().info("event", value=value)
    assert line_of(stream) == f"<6>event value={written}"


def test_nested_values_become_dotted_keys() -> None:
    stream = configured()
    structlog.get_logger().info("event", data={"a": 1, "b c": {"d": None}})
    assert line_of(stream) == "<6>event data.a=1 data.b_c.d=null"


def test_a_margin_level_is_not_lost_to_the_events_severity() -> None:
    stream = configured()
    structlog.get_logger().warning("threshold.reached", level=83.2)
    assert line_of(stream) == "<4>threshold.reached margin_level=83.2"


def test_a_huge_value_is_cut() -> None:
    stream = configured(secrets=("secret-at-the-edge",))
    structlog.get_logger().info("event", body="x" * 3990 + "secret-at-the-edge")
    line = line_of(stream)
    assert len(line) < 4100
    assert "secret" not in line


def test_bound_context_comes_along() -> None:
    stream = configured()
    with structlog.contextvars.bound_contextvars(guard="long"):
        structlog.get_logger().info("event")
    assert line_of(stream) == "<6>event guard=long"


def test_an_exception_is_its_type_and_message_in_one_line() -> None:
    stream = configured()
    try:
        int("bad\nthing")
    except ValueError:
        structlog.get_logger().exception("event")
    assert line_of(stream).startswith('<3>event error="ValueError: invalid literal for int()')


def test_a_group_of_exceptions_is_told_by_its_members() -> None:
    stream = configured()
    group = ExceptionGroup("group", [ValueError("a"), ExceptionGroup("inner", [KeyError("b")])])
    structlog.get_logger().error("event", exc_info=group)
    assert line_of(stream) == """<3>event error="ValueError: a; KeyError: 'b'\""""


def test_an_exception_as_a_value_is_told_in_words_too() -> None:
    stream = configured()
    structlog.get_logger().error("event", why=TimeoutError())
    assert line_of(stream) == "<3>event why=TimeoutError"


def test_a_traceback_comes_out_at_debug_level_alone() -> None:
    stream = configured(level=logging.DEBUG)
    structlog.get_logger().error("event", exc_info=failure("x"))
    assert r"exception=\"Traceback" in line_of(stream).replace('="', r"=\"")
    assert "in failure" in line_of(stream)


def failure(message: str) -> Exception:
    try:
        raise RuntimeError(message)  # noqa: TRY301 - to have a traceback
    except RuntimeError as error:
        return error


def test_the_journal_adds_its_own_time(tmp_path: Path) -> None:
    with (tmp_path / "journal").open("w+") as stream:
        status = os.fstat(stream.fileno())
        environ = {"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"}
        logs.configure(environ=environ, stream=stream)
        structlog.get_logger().info("event")
        logs.configure(environ={"JOURNAL_STREAM": "1:1"}, stream=stream)
        structlog.get_logger().info("event")
        stream.seek(0)
        first, second = stream.read().splitlines()
    assert first == "<6>event"
    assert re.fullmatch(r"<6>\d{4}-.*Z event", second)


def test_a_terminal_gets_colours_and_no_priority() -> None:
    leader, follower = pty.openpty()
    try:
        with os.fdopen(follower, "w") as stream:
            logs.configure(environ={}, stream=stream)
            structlog.get_logger().warning("event", text="a\x1b[2Jb")
            shown = os.read(leader, 4096).decode()
            logs.configure(environ={"NO_COLOR": "1"}, stream=stream)
            structlog.get_logger().warning("event", text="a")
            plain = os.read(leader, 4096).decode()
    finally:
        os.close(leader)
    assert "\x1b[" in shown
    assert "\x1b[2J" not in shown, "a value must not steer the terminal"
    assert "<4>" not in shown
    assert re.match(r"\d\d:\d\d:\d\d \[warning *\] event +text=a", plain)


def objects_of(stream: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_json_is_one_object_a_line_that_every_parser_takes() -> None:
    stream = io.StringIO()
    logs.configure(environ={}, form="json", stream=stream)
    structlog.get_logger().warning(
        "event", text="two\nlines é \udc80", data={"a": [1, None]}, odd=float("nan"), big=2**70
    )
    (line,) = stream.getvalue().splitlines()
    assert line.isascii()
    event = json.loads(line, parse_constant=lambda name: pytest.fail(name))
    assert re.fullmatch(r"\d{4}-.*Z", event.pop("timestamp"))
    assert event == {
        "level": "warning",
        "event": "event",
        "text": "two\nlines é \udc80",
        "data": {"a": [1, None]},
        "odd": "nan",
        "big": 2**70,
    }


def test_json_has_what_libraries_log_and_tracebacks_at_debug_level() -> None:
    stream = io.StringIO()
    logs.configure(environ={}, form="json", level=logging.DEBUG, stream=stream)
    logging.getLogger("asyncpg").error("lost", exc_info=failure("x"))
    (event,) = objects_of(stream)
    assert (event["event"], event["message"], event["error"]) == (
        "asyncpg",
        "lost",
        "RuntimeError: x",
    )
    assert "Traceback" in str(event["exception"])


def test_the_console_form_has_no_colours_and_no_priority_in_a_file() -> None:
    stream = io.StringIO()
    logs.configure(environ={}, form="console", stream=stream)
    structlog.get_logger().warning("event", text="a")
    assert re.match(r"\d\d:\d\d:\d\d \[warning *\] event +text=a", stream.getvalue())


@pytest.mark.parametrize("form", ["auto", "console", "json"])
def test_the_journal_gets_the_priority_of_every_line_in_every_form(
    tmp_path: Path, form: logs.LogFormat
) -> None:
    """`journalctl -p warning` is the list of what needs an eye."""
    with (tmp_path / "journal").open("w+") as stream:
        status = os.fstat(stream.fileno())
        environ = {"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"}
        logs.configure(environ=environ, form=form, level=logging.DEBUG, stream=stream)
        structlog.get_logger().error("event", exc_info=failure("x"))
        stream.seek(0)
        lines = stream.read().splitlines()
    assert all(line.startswith("<3>") for line in lines)
    assert "Traceback" in "".join(lines)


@pytest.mark.parametrize("name", logs.LEVELS)
def test_a_level_lets_itself_through_and_nothing_below(name: str) -> None:
    stream = configured(level=logs.LEVELS[name])
    for method in ("debug", "info", "warning", "error", "critical"):
        getattr(structlog.get_logger(), method)(method)
    methods = ["debug", "info", "warning", "error", "critical"]
    heard = [line.split()[-1] for line in stream.getvalue().splitlines()]
    assert heard == methods[methods.index(name) :]


def test_what_is_written_past_the_log_can_be_redacted_too() -> None:
    structlog.reset_defaults()
    assert logs.redacted("nothing is known") == "nothing is known"
    configured(secrets=("hush-hush",))
    assert logs.redacted("ValueError: hush-hush") == "ValueError: ***"


def test_what_libraries_log_comes_out_the_same_way() -> None:
    stream = configured()
    logging.getLogger("asyncpg").warning("lost %d connections", 2)
    assert line_of(stream) == '<4>asyncpg message="lost 2 connections"'


def test_libraries_are_heard_from_warnings_on() -> None:
    stream = configured()
    logging.getLogger("aiohttp.access").info("GET /")
    assert stream.getvalue() == ""
    logging.getLogger("aiohttp.access").log(35, "odd level %s")
    assert line_of(stream) == '<4>aiohttp.access message="odd level %s"'


def test_a_library_that_formats_badly_is_still_heard() -> None:
    stream = configured()
    logging.getLogger("aiohttp").error("%d", "no number")
    assert line_of(stream) == "<3>aiohttp message=%d"


async def test_an_exception_that_nobody_collected_is_heard() -> None:
    stream = configured()
    asyncio.get_running_loop().call_exception_handler(
        {"message": "never retrieved", "exception": failure("lost")}
    )
    assert "<3>" in line_of(stream)
    assert 'error="RuntimeError: lost"' in line_of(stream)


def test_a_stream_that_cannot_be_written_stops_nothing() -> None:
    stream = configured()
    stream.close()
    structlog.get_logger().error("event")

    class Full(io.StringIO):
        def write(self, _: str) -> int:
            raise OSError(28, "No space left on device")

    configured(stream=Full())
    structlog.get_logger().error("event")


def test_a_second_configuration_reaches_loggers_made_before_it() -> None:
    first = configured()
    log = structlog.get_logger()
    log.info("event")
    second = configured(secrets=("new-secret",))
    log.info("event", text="the new-secret")
    assert line_of(first) == "<6>event"
    assert line_of(second) == '<6>event text="the ***"'


class Opaque:
    """An object whose text holds the secret."""

    def __repr__(self) -> str:
        return f"Opaque({CANARY!r}, {CANARY})"


@pytest.mark.parametrize("level", [logging.INFO, logging.DEBUG])
@pytest.mark.parametrize("form", ["auto", "console", "json"])
@pytest.mark.parametrize("terminal", [False, True])
def test_a_secret_never_comes_out(level: int, form: logs.LogFormat, terminal: bool) -> None:
    """Failure 36: whatever way it comes in, and however it is quoted on the way."""
    stream = Terminal() if terminal else io.StringIO()
    logs.configure(environ={}, level=level, form=form, stream=stream, secrets=(CANARY, NUMBER))
    log = structlog.get_logger()
    library = logging.getLogger("asyncpg")
    nested = {"deep": [{"deeper": (CANARY, {CANARY})}], "n": int(NUMBER), CANARY: CANARY}
    log.info(CANARY)
    log.info("event", text=CANARY, middle=f"x{CANARY}x", count=int(NUMBER), real=float(NUMBER))
    log.info("event", nested=nested, proxy=MappingProxyType(nested), items=[CANARY, nested])
    log.info("event", raw=CANARY.encode(), ascii=ascii(CANARY), literal=repr(CANARY))
    log.info("event", request=str({"body": CANARY.encode()}))
    log.info("event", body=json.dumps({"secret": CANARY}), url=f"https://h/{quote(CANARY)}")
    log.info("event", opaque=Opaque(), many=[Opaque()])
    log.info("event %s", CANARY)
    log.error("event", exc_info=failure(CANARY))
    log.error("event", exc_info=ExceptionGroup(CANARY, [failure(CANARY), KeyError(CANARY)]))
    log.error("event", error=ValueError(CANARY, NUMBER))
    library.error("%s and %r", CANARY, CANARY)
    library.error("event", exc_info=failure(CANARY))
    library.error("%d", CANARY)
    with structlog.contextvars.bound_contextvars(context=CANARY):
        log.info("event")
    out = stream.getvalue()
    assert out.count("***") > 20
    for part in (CANARY, "4f1d", "9b", NUMBER):
        assert part not in out


@pytest.mark.parametrize(
    "key",
    [
        "key",
        "api_key",
        "apiKey",
        "lnm-access-key",
        "secret",
        "client_secret",
        "passphrase",
        "password",
        "token",
        "bot_token",
        "signature",
        "lnm-access-signature",
        "Authorization",
    ],
)
def test_a_value_under_a_key_that_sounds_secret_never_comes_out(key: str) -> None:
    stream = configured()
    structlog.get_logger().info("event", **{key: "canary"}, headers={key: ["canary"]})
    assert "canary" not in stream.getvalue()
    assert stream.getvalue().count("***") == 2


def test_a_short_secret_blots_out_no_other_words() -> None:
    stream = configured(secrets=("guard",))
    structlog.get_logger().info("event", a="marginguard", b="the guard", c="guard")
    assert line_of(stream) == '<6>event a=marginguard b="the ***" c=***'


def test_importing_configures_nothing() -> None:
    assert not structlog.is_configured()
