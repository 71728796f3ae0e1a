"""What people read: every figure that a notice has, templates of the owner's, and their faults."""

import json
import math
from dataclasses import replace
from datetime import UTC, datetime
from uuid import UUID

import pytest
from structlog.testing import capture_logs

from marginguard.domain.errors import ConfigError
from marginguard.domain.notice import Notice, NoticeKind, Severity
from marginguard.domain.units import AccountId, GuardId, PositionId
from marginguard.notify.rendering import SAMPLE_DATA, Recipient, Renderer, check_templates

NOTICE = Notice(
    id=UUID(int=0xABC),
    kind=NoticeKind.ACTION_DONE,
    severity=Severity.WARNING,
    text="Level 81.5 % is over 80 %. Margin was added.",
    at=datetime(2026, 3, 14, 12, 0, 5, tzinfo=UTC),
    guard_id=GuardId("night"),
    account_id=AccountId("main"),
    position_id=PositionId("trade-1"),
    execution_id=UUID(int=9),
    data=SAMPLE_DATA,
)
MADRID = Recipient(user_id="ana", to="ana@example.com", timezone="Europe/Madrid")


def rendered(notice=NOTICE, channel="email", recipient=MADRID, directory=None):
    return Renderer(directory).message(notice, channel, recipient)


def bare(**changes):
    return Notice(
        id=UUID(int=1), kind=NoticeKind.EXECUTION_FAILED, severity=Severity.INFO, text="It failed.",
        at=NOTICE.at, **changes,
    )  # fmt: skip


# --- content --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "line",
    [
        "WARNING: Action done",
        "Level 81.5 % is over 80 %. Margin was added.",
        "Guard: night",
        "Account: main",
        "Position: trade-1 (long 1,000 USD)",
        "Margin level: 81.5 %, now 50.0 % (threshold 80.0 %), risk medium",
        "Price: 61,000.50 USD",
        "Liquidation price: 58,000.00 USD, before 60,000.00 USD",
        "Action: add margin, 7,000 sats (4.27 USD) (done)",
        "Proof: the margin is 48,000 sats",
        "Still at risk: 41,000 sats (25.01 USD) of margin, liquidation is 4.9 % away",
        "Balance left: 250,000 sats (152.50 USD)",
        "What to do: Look at the position.",
        "2026-03-14 13:00:05 CET · notice 00000000-0000-0000-0000-000000000abc",
    ],
)
def test_the_text_tells_every_figure(line):
    assert line in rendered().text.splitlines()


def test_what_a_notice_does_not_know_is_left_out():
    assert rendered(bare()).text == (
        "INFO: Execution failed\n\nIt failed.\n\n"
        "2026-03-14 13:00:05 CET · notice 00000000-0000-0000-0000-000000000001"
    )


def test_figures_that_are_null_are_left_out():
    nothing = dict.fromkeys(SAMPLE_DATA)

    assert rendered(bare(data=nothing)).text == rendered(bare()).text


@pytest.mark.parametrize(
    ("data", "line"),
    [
        ({"action": "close_position", "amount_sats": 0}, "Action: close position"),
        (
            {"action": "reduce_position", "quantity_cut_usd": 500},
            "Action: reduce position, 500 USD less",
        ),
        (
            {"action": "set_stop_loss", "stop_loss": 59_000.0},
            "Action: set stop loss, stop-loss at 59,000.00 USD",
        ),
        (
            {"action": "add_margin", "amount_sats": 5, "dry_run": True, "status": "intended"},
            "Action: add margin, 5 sats (dry run, nothing was sent)",
        ),
        ({"liquidation_price": 58_000.0}, "Liquidation price: 58,000.00 USD"),
        ({"error": "the exchange refused"}, "Error: the exchange refused"),
        ({"count": 4}, "Happened: 4 times"),
        ({"price": 61_000.0, "level": math.inf, "amount_sats": math.nan}, "Price: 61,000.00 USD"),
    ],
)
def test_a_figure_is_told_as_far_as_it_is_known(data, line):
    assert line in rendered(bare(data=data)).text.splitlines()


def test_a_kind_whose_text_has_no_next_step_gets_one():
    notice = replace(NOTICE, kind=NoticeKind.GUARD_DISARMED, data={})

    assert "What to do: Put the cause right" in rendered(notice).text


def test_the_subject_names_severity_event_and_position():
    assert rendered().subject == "marginguard WARNING: Action done, position trade-1"
    assert rendered(bare(guard_id="night")).subject == (
        "marginguard: Execution failed, guard night"
    )


def test_the_html_is_escaped():
    html = rendered(replace(NOTICE, text="<script>alert(1)</script>")).html

    assert "&lt;script&gt;" in html
    assert "<script>" not in html
    assert ">58,000.00 USD, before 60,000.00 USD<" in html


def test_an_sms_is_short():
    assert rendered(channel="sms").text == (
        "WARNING Level 81.5 % is over 80 %. Margin was added. Look at the position."
        " 2026-03-14 13:00:05 CET (00000abc)"
    )


def test_a_late_message_says_when_it_was_meant():
    message = replace(rendered(), late=True)

    assert message.full_text.startswith("Late: this was meant for 2026-03-14 13:00:05 CET.\n\n")
    assert rendered().full_text == rendered().text


@pytest.mark.parametrize(
    ("channel", "has_html", "has_payload"),
    [
        ("email", True, False),
        ("telegram", False, False),
        ("webhook", False, True),
        ("sms", False, False),
    ],
)
def test_each_channel_gets_what_it_sends(channel, has_html, has_payload):
    message = rendered(channel=channel)

    assert (message.html is not None, message.payload is not None) == (has_html, has_payload)
    assert (message.id, message.user_id, message.to) == (NOTICE.id, "ana", "ana@example.com")
    assert message.meant_at == NOTICE.at


def test_the_payload_has_the_specified_shape():
    payload = rendered(channel="webhook").payload

    assert json.loads(json.dumps(payload)) == payload
    assert {key: payload[key] for key in ("id", "timestamp", "type", "version")} == {
        "id": str(NOTICE.id),
        "timestamp": "2026-03-14T12:00:05+00:00",
        "type": "action_done",
        "version": "2",
    }
    data = payload["data"]
    assert {key: data[key] for key in ("execution_id", "user_id", "guard_id", "status")} == {
        "execution_id": str(UUID(int=9)),
        "user_id": "ana",
        "guard_id": "night",
        "status": "done",
    }
    assert data["details"] == {**SAMPLE_DATA, "text": NOTICE.text, "severity": "warning"}
    (position,) = data["positions"]
    assert (position["id"], position["liquidation_price_before"]) == ("trade-1", 60_000.0)
    assert data["account"] == {"id": "main", "balance_sats": 250_000}


def test_the_payload_has_every_field_where_nothing_is_known():
    assert rendered(bare(), channel="webhook").payload["data"] == {
        "execution_id": None,
        "user_id": "ana",
        "guard_id": None,
        "status": None,
        "details": {"text": "It failed.", "severity": "info"},
        "positions": [],
        "account": None,
    }


# --- the owner's templates ------------------------------------------------------------------


def test_a_template_of_the_owners_replaces_ours(tmp_path):
    (tmp_path / "text.j2").write_text("{{ guard_id }}: {{ data.amount_sats|sats(data.price) }}")

    assert rendered(directory=tmp_path).text == "night: 7,000 sats (4.27 USD)"
    assert rendered(directory=tmp_path).subject == rendered().subject


def test_a_template_for_one_kind_is_used_for_that_kind_alone(tmp_path):
    (tmp_path / "action_done.text.j2").write_text("Done.")

    assert rendered(directory=tmp_path).text == "Done."
    assert rendered(bare(), directory=tmp_path).text == rendered(bare()).text


def test_a_template_that_fails_is_logged_and_ours_takes_its_place(tmp_path):
    (tmp_path / "text.j2").write_text("first\n{{ data.nosuch }}")

    with capture_logs() as events:
        message = rendered(directory=tmp_path)

    assert message.text == rendered().text
    (event,) = events
    assert (event["event"], event["log_level"]) == ("notify.template", "warning")
    assert event["error"].startswith(f"{tmp_path}/text.j2, line 2: ")


def problems_of(directory):
    with pytest.raises(ConfigError) as refusal:
        check_templates(directory)
    return refusal.value.problems


def test_our_own_templates_have_no_fault(tmp_path):
    check_templates(None)
    check_templates(tmp_path)


@pytest.mark.parametrize(
    ("name", "source", "where", "words"),
    [
        ("text.j2", "a\n{% if x %}\nb", "text.j2, line 2: ", "Unexpected end of template"),
        ("html.j2", "a\n\n{{ txet }}", "html.j2, line 3: ", "'txet' is undefined"),
        ("short.j2", "{{ data.price }}", "short.j2, line 1: ", "no attribute 'price'"),
        ("text.j2", "{{ 1 / 0 }}", "text.j2, line 1: ", "division by zero"),
        ("text.j2", "{{ text|nosuch }}", "text.j2, line 1: ", "No filter named 'nosuch'"),
        ("text.j2", "{% include '_no.j2' %}", "text.j2, line 1: ", "'_no.j2' not found"),
        ("txet.j2", "a", "txet.j2: ", "text.j2"),
        ("action_don.text.j2", "a", "action_don.text.j2: ", "action_done"),
    ],
)
def test_a_template_with_an_error_is_refused_with_file_and_line(
    tmp_path, name, source, where, words
):
    (tmp_path / name).write_text(source)

    (problem,) = problems_of(tmp_path)

    assert problem.startswith(f"{tmp_path}/{where}")
    assert words in problem


def test_a_template_that_is_not_text_is_refused(tmp_path):
    (tmp_path / "text.j2").write_bytes(b"\xff\xfe")

    (problem,) = problems_of(tmp_path)

    assert problem.startswith(f"{tmp_path}/text.j2: ")


def test_every_template_with_an_error_is_told(tmp_path):
    (tmp_path / "text.j2").write_text("{{")
    (tmp_path / "short.j2").write_text("{{")

    assert len(problems_of(tmp_path)) == 2


def test_a_directory_that_is_not_there_is_refused(tmp_path):
    assert problems_of(tmp_path / "no") == (
        f"{tmp_path}/no: there is no such directory of templates",
    )


def test_a_piece_that_others_include_is_no_template_of_its_own(tmp_path):
    (tmp_path / "_foot.j2").write_text("{{ when }}")
    (tmp_path / "text.j2").write_text("{% include '_foot.j2' %}")

    check_templates(tmp_path)

    assert rendered(directory=tmp_path).text == "2026-03-14 13:00:05 CET"
