"""What an HTTP answer means, for a read and for a call that changes something."""

import json

import pytest

from marginguard.domain.errors import Malformed, RateLimited, Rejected, Transient, Unauthorized
from marginguard.domain.outcome import OutcomeKind
from marginguard.lnmarkets.answers import Answer, outcome, read_error, retry_after_s

HTML = b"<html>from a gateway</html>"


def said(code: str) -> bytes:
    return json.dumps({"message": "as it says", "code": code}).encode()


def an_id(body: bytes) -> str:
    if body != b"good":
        raise Malformed("it is not good")
    return "the-id"


@pytest.mark.parametrize(
    ("status", "body", "kind", "unauthorized"),
    [
        (200, b"good", OutcomeKind.DONE, False),
        (201, b"good", OutcomeKind.DONE, False),
        (200, b"bad", OutcomeKind.AMBIGUOUS, False),
        (204, b"", OutcomeKind.AMBIGUOUS, False),
        (302, HTML, OutcomeKind.AMBIGUOUS, False),
        (400, said("BAD_REQUEST"), OutcomeKind.REJECTED, False),
        (401, said("UNAUTHORIZED"), OutcomeKind.REJECTED, True),
        (403, said("FORBIDDEN"), OutcomeKind.REJECTED, True),
        (401, said("SOMETHING_ELSE"), OutcomeKind.REJECTED, False),
        (403, HTML, OutcomeKind.REJECTED, False),
        (403, b'{"code": 1020}', OutcomeKind.REJECTED, False),
        (400, said("UNAUTHORIZED"), OutcomeKind.REJECTED, False),
        (404, said("NOT_FOUND"), OutcomeKind.REJECTED, False),
        (408, said("TIMEOUT"), OutcomeKind.AMBIGUOUS, False),
        (429, said("TOO_MANY_REQUESTS"), OutcomeKind.BUSY, False),
        (429, HTML, OutcomeKind.BUSY, False),
        (500, said("INTERNAL_SERVER_ERROR"), OutcomeKind.AMBIGUOUS, False),
        (502, HTML, OutcomeKind.AMBIGUOUS, False),
        (503, said("SERVICE_UNAVAILABLE"), OutcomeKind.BUSY, False),
        (503, HTML, OutcomeKind.AMBIGUOUS, False),
        (503, b"", OutcomeKind.AMBIGUOUS, False),
        (503, b'{"message": "no healthy upstream"}', OutcomeKind.AMBIGUOUS, False),
        (503, b'{"code": 503}', OutcomeKind.AMBIGUOUS, False),
        (504, said("GATEWAY_TIMEOUT"), OutcomeKind.AMBIGUOUS, False),
    ],
)
def test_a_change_ends_as_the_table_of_outcomes_says(status, body, kind, unauthorized):
    """Failures 3, 4, 5, 6 and 7: what each status proves and what it does not."""
    result = outcome(Answer(status=status, body=body), an_id)
    assert (result.kind, result.unauthorized) == (kind, unauthorized)
    assert result.exchange_id == ("the-id" if kind is OutcomeKind.DONE else None)
    assert str(status) in result.detail


@pytest.mark.parametrize(
    ("status", "body", "error"),
    [
        (302, HTML, Malformed),
        (400, said("BAD_REQUEST"), Rejected),
        (401, said("UNAUTHORIZED"), Unauthorized),
        (403, said("FORBIDDEN"), Unauthorized),
        (403, HTML, Rejected),
        (404, said("UNAUTHORIZED"), Rejected),
        (408, HTML, Transient),
        (429, said("TOO_MANY_REQUESTS"), RateLimited),
        (500, HTML, Transient),
        (503, said("SERVICE_UNAVAILABLE"), Transient),
    ],
)
def test_a_read_fails_by_what_its_caller_must_do(status, body, error):
    assert type(read_error(Answer(status=status, body=body))) is error


def test_a_refused_read_carries_status_and_code():
    error = read_error(Answer(status=404, body=said("NOT_FOUND")))
    assert isinstance(error, Rejected)
    assert (error.status, error.code) == (404, "NOT_FOUND")


def test_the_wish_to_wait_goes_to_whoever_must_wait():
    """Failure 5: a 429 says how long to wait."""
    answer = Answer(status=429, body=b"", retry_after_s=7.0)
    error = read_error(answer)
    assert isinstance(error, Transient)
    assert error.retry_after_s == 7.0
    assert outcome(answer, an_id).retry_after_s == 7.0


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, None),
        ("", None),
        ("3", 3.0),
        ("0", 0.0),
        ("0.5", 0.5),
        ("-1", None),
        ("nan", None),
        ("inf", None),
        ("soon", None),
        ("Fri, 02 Jan 2026 03:04:05 GMT", None),
        ("86400", 60.0),
    ],
)
def test_retry_after_is_seconds_and_at_most_a_minute(header, seconds):
    assert retry_after_s(header) == seconds


def test_a_long_or_many_lined_message_is_cut_to_one_line():
    body = json.dumps({"code": "BAD_REQUEST", "message": "a\nb\x1b[2J" + "c" * 5000}).encode()
    detail = outcome(Answer(status=400, body=body), an_id).detail
    assert detail.isprintable()
    assert len(detail) < 300
