"""Logging: one event a line on stderr, fit for journald or a terminal, never a secret.

Nothing happens on import: `configure` is called by the application and the command line alone.
"""

import json
import logging
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping
from enum import Enum
from typing import Any, Final, TextIO
from urllib.parse import quote, quote_plus

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

REDACTED: Final = "***"

_JOURNAL_PRIORITY: Final = {"debug": 7, "info": 6, "warning": 4, "error": 3, "critical": 2}
_SENSITIVE_KEY = re.compile(
    r"secret|pass(phrase|word|wd)|token|signature|authorization|credential|keys?$", re.IGNORECASE
)
_PLAIN_VALUE = re.compile(r'[^\s"=\\]+')
_LONGEST_VALUE: Final = 4000
_FRAMES: Final = 12
_SHORT_SECRET: Final = 6


def configure(
    *,
    environ: Mapping[str, str],
    secrets: Iterable[str] = (),
    level: int = logging.INFO,
    stream: TextIO | None = None,
) -> None:
    """Send every log event, structlog's and the standard library's, to `stream` (stderr).

    On a terminal events are coloured and aligned; elsewhere each is one line with journald's
    priority in front, and with a time stamp unless journald adds its own. Whatever is in
    `secrets` comes out as `***`, and so does every value under a key that sounds secret. May be
    called again, for instance when the secrets have changed. `level` is one of `logging`'s: DEBUG
    adds tracebacks, WARNING is for commands that only read.
    """
    stream = stream if stream is not None else sys.stderr
    redactor = Redactor(secrets)
    processors: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        _severity,
        _ErrorInWords(debug=level <= logging.DEBUG),
        redactor.processor,
    ]
    if stream.isatty():
        processors.append(structlog.processors.TimeStamper(fmt="%H:%M:%S", utc=False))
        renderer: Callable[..., str] = structlog.dev.ConsoleRenderer(
            colors="NO_COLOR" not in environ,
            sort_keys=False,
            exception_formatter=structlog.dev.plain_traceback,
        )
        processors.append(_printable)
    else:
        if not _is_journal(stream, environ):
            processors.append(structlog.processors.TimeStamper(fmt="iso", utc=True))
        renderer = render_line
    structlog.configure(
        processors=[*processors, _RedactedRendering(renderer, redactor)],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=lambda *_: _Writer(stream),
        cache_logger_on_first_use=False,  # so that a second call reaches loggers made before it
    )
    root = logging.getLogger()
    root.handlers[:] = [_StandardLibrary()]
    root.setLevel(logging.WARNING)


class Redactor:
    """Replaces known secrets in text, and all values under keys that sound secret."""

    def __init__(self, secrets: Iterable[str]) -> None:
        forms = {form for secret in secrets if secret for form in _forms(secret)}
        self._pattern = (
            re.compile("|".join(map(_occurrence, sorted(forms, key=len, reverse=True))))
            if forms
            else None
        )

    def text(self, text: str) -> str:
        """Return `text` without any known secret."""
        return text if self._pattern is None else self._pattern.sub(REDACTED, text)

    def value(self, value: object) -> object:
        """Return `value` made of plain types alone, without any known secret."""
        if value is None or isinstance(value, bool | int | float):
            return value
        if isinstance(value, Enum):
            return self.value(value.value)
        if isinstance(value, Mapping):
            return {
                self.text(str(key)): (
                    REDACTED if _SENSITIVE_KEY.search(str(key)) else self.value(item)
                )
                for key, item in value.items()
            }
        if isinstance(value, list | tuple | set | frozenset):
            return [self.value(item) for item in value]
        if isinstance(value, BaseException):
            return self._shortened(in_words(value))
        if isinstance(value, bytes | bytearray):
            return self._shortened(value.decode(errors="backslashreplace"))
        return self._shortened(str(value))

    def processor(self, _: WrappedLogger, __: str, event_dict: EventDict) -> EventDict:
        """Redact a whole event, as a structlog processor."""
        redacted = self.value(event_dict)
        assert isinstance(redacted, dict)  # noqa: S101 - a mapping becomes a dict
        return redacted

    def _shortened(self, text: str) -> str:
        # Redacted first: a cut through a secret would leave its beginning.
        text = self.text(text)
        return text if len(text) <= _LONGEST_VALUE else f"{text[:_LONGEST_VALUE]}..."


def _forms(secret: str) -> set[str]:
    """Return how a secret may look in text: as it is, quoted, or in a URL."""
    return {
        secret,
        repr(secret)[1:-1],
        ascii(secret)[1:-1],
        repr(secret.encode())[2:-1],
        json.dumps(secret)[1:-1],
        json.dumps(secret, ensure_ascii=False)[1:-1],
        quote(secret),
        quote(secret, safe=""),
        quote_plus(secret),
    }


def _occurrence(form: str) -> str:
    # A very short secret is found as a word only, or it would blot out parts of other words.
    pattern = re.escape(form)
    return pattern if len(form) >= _SHORT_SECRET else rf"(?<!\w){pattern}(?!\w)"


class _RedactedRendering:
    """The last look: redacts the finished line too, whatever way a secret came into it."""

    def __init__(self, renderer: Callable[..., str], redactor: Redactor) -> None:
        self._renderer = renderer
        self._redactor = redactor

    def __call__(self, logger: WrappedLogger, name: str, event_dict: EventDict) -> str:
        return self._redactor.text(self._renderer(logger, name, event_dict))


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


def in_words(error: BaseException) -> str:
    """Return an exception's type and message; of a group, those of its members."""
    if isinstance(error, BaseExceptionGroup):
        return "; ".join(in_words(member) for member in error.exceptions)
    message = str(error)
    return f"{type(error).__name__}: {message}" if message else type(error).__name__


def render_line(_: WrappedLogger, __: str, event_dict: EventDict) -> str:
    """Return an event as `<6>event key=value`, on one line and to be read in one way only."""
    priority = _JOURNAL_PRIORITY.get(str(event_dict.pop("level", "info")), 6)
    timestamp = event_dict.pop("timestamp", None)
    words = [_text(event_dict.pop("event", ""))]
    if timestamp is not None:
        words.insert(0, str(timestamp))
    words.extend(f"{_key(key)}={_text(value)}" for key, value in _flat(event_dict))
    return f"<{priority}>{' '.join(words)}"


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
