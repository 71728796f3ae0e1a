"""Logging: one event a line on stderr, fit for journald or a terminal, never a secret.

Nothing happens on import: `configure` is called by the application and the command line alone.
"""

import json
import logging
import math
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any, Final, Literal, TextIO

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from marginguard.redaction import Redactor, in_words

LogFormat = Literal["auto", "console", "json"]

LEVELS: Final[Mapping[str, int]] = MappingProxyType(
    {
        "debug": logging.DEBUG,
        "info": logging.INFO,
        "warning": logging.WARNING,
        "error": logging.ERROR,
    }
)
"""What `level` may be, by the names that people give them."""

_JOURNAL_PRIORITY: Final = {"debug": 7, "info": 6, "warning": 4, "error": 3, "critical": 2}
_PLAIN_VALUE = re.compile(r'[^\s"=\\]+')
_FRAMES: Final = 12


def configure(
    *,
    environ: Mapping[str, str],
    secrets: Iterable[str] = (),
    level: int = logging.INFO,
    form: LogFormat = "auto",
    stream: TextIO | None = None,
) -> None:
    """Send every log event, structlog's and the standard library's, to `stream` (stderr).

    In the form `console` events are aligned, and coloured on a terminal; `json` is one object a
    line; `auto` is `console` on a terminal, elsewhere lines of `key=value` with journald's
    priority in front. The journal gets the priority in front in every form, and adds a time
    stamp of its own. Whatever is in `secrets` comes out as `***`, and so does every value under
    a key that sounds secret. May be called again, for instance when the secrets have changed.
    `level` is one of `LEVELS`: DEBUG adds tracebacks, WARNING is for commands that only read.
    """
    stream = stream if stream is not None else sys.stderr
    redactor = Redactor(secrets)
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            _severity,
            _ErrorInWords(debug=level <= logging.DEBUG),
            redactor.processor,
            *_rendering(form, stream, environ, redactor),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=lambda *_: _Writer(stream),
        cache_logger_on_first_use=False,  # so that a second call reaches loggers made before it
    )
    root = logging.getLogger()
    root.handlers[:] = [_StandardLibrary()]
    root.setLevel(logging.WARNING)


def redacted(text: str) -> str:
    """Return `text` without the secrets that `configure` was given last.

    For what is written past the log, such as a traceback that ends a command.
    """
    last = structlog.get_config()["processors"][-1]
    return last.redactor.text(text) if isinstance(last, _RedactedRendering) else text


def _rendering(
    form: LogFormat, stream: TextIO, environ: Mapping[str, str], redactor: Redactor
) -> list[Processor]:
    """Return the processors that make an event a line, or several with a traceback."""
    journal = _is_journal(stream, environ)
    if form == "json":
        stamp = structlog.processors.TimeStamper(fmt="iso", utc=True)
        return [stamp, _RedactedRendering(render_json, redactor, prioritized=journal)]
    if form == "console" or stream.isatty():
        console = structlog.dev.ConsoleRenderer(
            colors=stream.isatty() and "NO_COLOR" not in environ,
            sort_keys=False,
            exception_formatter=structlog.dev.plain_traceback,
        )
        stamp = structlog.processors.TimeStamper(fmt="%H:%M:%S", utc=False)
        rendering = _RedactedRendering(console, redactor, prioritized=journal)
        return [*([] if journal else [stamp]), _printable, rendering]
    stamp = structlog.processors.TimeStamper(fmt="iso", utc=True)
    rendering = _RedactedRendering(render_line, redactor, prioritized=True)
    return [*([] if journal else [stamp]), rendering]


class _RedactedRendering:
    """The last look: redacts the finished text too, whatever way a secret came into it.

    `prioritized` puts journald's priority in front of every line.
    """

    def __init__(
        self, renderer: Callable[..., str], redactor: Redactor, *, prioritized: bool
    ) -> None:
        self.redactor = redactor
        self._renderer = renderer
        self._prioritized = prioritized

    def __call__(self, logger: WrappedLogger, name: str, event_dict: EventDict) -> str:
        priority = _JOURNAL_PRIORITY.get(str(event_dict.get("level")), 6)
        text = self.redactor.text(self._renderer(logger, name, event_dict))
        if not self._prioritized:
            return text
        return "\n".join(f"<{priority}>{line}" for line in text.split("\n"))


def _severity(_: WrappedLogger, method: str, event_dict: EventDict) -> EventDict:
    """Note how severe the event is, as structlog's own processor does, under `level`.

    In this program a level is a margin's, so an event's own `level` moves out of the way.
    """
    if "level" in event_dict:
        event_dict["margin_level"] = event_dict.pop("level")
    event_dict["level"] = method
    return event_dict


def _printable(_: WrappedLogger, __: str, event_dict: EventDict) -> EventDict:
    """Escape what could steer a terminal, except in a traceback, which has lines of its own."""
    for key, value in event_dict.items():
        if isinstance(value, str) and key != "exception" and not value.isprintable():
            event_dict[key] = json.dumps(value)
    return event_dict


class _ErrorInWords:
    """Turns `exc_info` into `error=...`, and at debug level into `exception=...` too."""

    def __init__(self, *, debug: bool) -> None:
        self._debug = debug

    def __call__(self, _: WrappedLogger, __: str, event_dict: EventDict) -> EventDict:
        error = event_dict.pop("exc_info", None)
        if isinstance(error, tuple):
            error = error[1]
        elif error and not isinstance(error, BaseException):
            error = sys.exception()
        event_dict.pop("stack_info", None)
        if isinstance(error, BaseException):
            event_dict.setdefault("error", in_words(error))
            if self._debug:
                frames = traceback.format_exception(error, limit=-_FRAMES)
                event_dict["exception"] = "".join(frames)
        return event_dict


def render_line(_: WrappedLogger, __: str, event_dict: EventDict) -> str:
    """Return an event as `event key=value`, on one line and to be read in one way only."""
    event_dict.pop("level", None)  # the priority in front says it
    timestamp = event_dict.pop("timestamp", None)
    words = [_text(event_dict.pop("event", ""))]
    if timestamp is not None:
        words.insert(0, str(timestamp))
    words.extend(f"{_key(key)}={_text(value)}" for key, value in _flat(event_dict))
    return " ".join(words)


def render_json(_: WrappedLogger, __: str, event_dict: EventDict) -> str:
    """Return an event as a JSON object on one line, in ASCII: any parser takes it."""
    first = {key: event_dict.pop(key, None) for key in ("timestamp", "level", "event")}
    return json.dumps(_finite({**first, **event_dict}), allow_nan=False)


def _finite(value: object) -> object:
    """Return a redacted value with words for the numbers that JSON does not have."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, list) else value


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, object]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _key(key: str) -> str:
    return re.sub(r"[^\w.-]", "_", key)


def _text(value: object) -> str:
    """Return a value bare where that is unambiguous, else in double quotes as JSON has it.

    What a stranger wrote, such as the exchange's error message, can so never begin a new line.
    """
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    text = json.dumps(value, ensure_ascii=False) if isinstance(value, list) else str(value)
    if _PLAIN_VALUE.fullmatch(text) and text.isprintable():
        return text
    return json.dumps(text, ensure_ascii=not text.isprintable())


def _is_journal(stream: TextIO, environ: Mapping[str, str]) -> bool:
    """Whether `stream` is the journal: systemd names its device and inode."""
    try:
        status = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return False
    return environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


class _Writer:
    """Writes lines; what structlog calls the wrapped logger."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def _write(self, line: str) -> None:
        try:
            self._stream.write(f"{line}\n")
            self._stream.flush()
        except (OSError, ValueError):
            # A full disk or a closed pipe must not stop the guarding, and there is nowhere left
            # to tell it.
            return

    debug = info = warning = error = critical = _write


class _StandardLibrary(logging.Handler):
    """Passes what libraries log on to structlog: the logger's name is the event."""

    def emit(self, record: logging.LogRecord) -> None:
        """Log the record; one that cannot be formatted is told as it is."""
        try:
            message = record.getMessage()
        except (TypeError, ValueError, KeyError):
            message = str(record.msg)
        # A level between the usual ones counts as the next lower of them.
        level = max(10, min(50, record.levelno // 10 * 10))
        structlog.get_logger().log(level, record.name, message=message, exc_info=record.exc_info)
