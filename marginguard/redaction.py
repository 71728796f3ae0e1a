"""Keeping secrets out of whatever is written: known ones by their text, others by their key."""

import json
import re
from collections.abc import Iterable, Mapping
from enum import Enum
from typing import Final
from urllib.parse import quote, quote_plus

from structlog.typing import EventDict, WrappedLogger

REDACTED: Final = "***"

_SENSITIVE_KEY = re.compile(
    r"secret|pass(phrase|word|wd)|token|signature|authorization|credential|keys?$", re.IGNORECASE
)
_LONGEST_VALUE: Final = 4000
_SHORT_SECRET: Final = 6


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


def in_words(error: BaseException) -> str:
    """Return an exception's type and message; of a group, those of its members."""
    if isinstance(error, BaseExceptionGroup):
        return "; ".join(in_words(member) for member in error.exceptions)
    message = str(error)
    return f"{type(error).__name__}: {message}" if message else type(error).__name__
