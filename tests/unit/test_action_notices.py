"""What a user reads of an action: made by the engine, written by the templates."""

from marginguard.domain.model import ActionKind
from marginguard.domain.notice import NoticeKind
from marginguard.notify.rendering import Recipient, Renderer
from tests.unit.fakes import Rig, rejected
from tests.unit.strategies import a_cross_position, a_position

OWNER = Recipient(user_id="ana", to="ana@example.com", timezone="Europe/Madrid")


async def lines_of(kind, action, position=None, *, script=(), **more):
    """Return the lines of the notice of an action at 85 %, by their labels."""
    position = position or a_position()
    rig = Rig(position, action=action, **more)
    rig.exchange.script.extend(script)
    rig.market(position, 85)
    await rig.run()
    notice = next(notice for notice in rig.ears.notices if notice.kind is kind)
    text = Renderer().message(notice, "email", OWNER).text
    return dict(line.split(": ", 1) for line in text.splitlines() if ": " in line)


async def test_a_top_up_tells_the_levels_the_amount_and_what_is_left_at_risk():
    lines = await lines_of(NoticeKind.ACTION_DONE, ActionKind.ADD_MARGIN)
    assert lines["Margin level"] == "85.0 %, now 50.0 % (threshold 80.0 %), risk medium"
    assert lines["Position"].startswith("trade-1 (long 1,000 USD)")
    assert "add margin, " in lines["Action"]
    assert "sats (" in lines["Action"]
    assert lines["Proof"].startswith("margin ")
    amount, distance = lines["Still at risk"].split(" of margin, liquidation is ")
    assert "USD" in amount
    assert float(distance.removesuffix(" % away")) > 0


async def test_after_a_close_nothing_is_left_at_risk():
    lines = await lines_of(NoticeKind.ACTION_DONE, ActionKind.CLOSE_POSITION)
    assert lines["Still at risk"] == "nothing of this position"
    assert lines["Margin level"] == "85.0 % (threshold 80.0 %), risk medium"


async def test_a_reduction_tells_the_cut_and_the_position_as_it_was():
    position = a_cross_position()
    lines = await lines_of(NoticeKind.ACTION_DONE, ActionKind.REDUCE_POSITION, position)
    assert lines["Position"] == f"cross (long {position.quantity:,} USD)"
    assert f"{position.quantity // 2:,} USD less" in lines["Action"]
    assert "% away" in lines["Still at risk"]
    assert "now" not in lines["Margin level"], "a reduction may set the entry anew"


async def test_after_an_action_that_failed_all_is_still_at_risk():
    refusals = [(False, rejected())] * 3
    lines = await lines_of(NoticeKind.ACTION_FAILED, ActionKind.ADD_MARGIN, script=refusals)
    margin = f"{a_position().margin:,} sats"
    assert lines["Still at risk"].startswith(margin)
    assert "now" not in lines["Margin level"]


async def test_an_alert_tells_what_is_at_risk():
    lines = await lines_of(
        NoticeKind.THRESHOLD_REACHED, ActionKind.CLOSE_POSITION, auto_execution=False
    )
    assert lines["Still at risk"].startswith(f"{a_position().margin:,} sats")
    assert lines["Margin level"] == "85.0 % (threshold 80.0 %), risk medium"
    assert "Liquidation price" in lines
