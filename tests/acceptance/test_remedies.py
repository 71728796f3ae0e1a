"""Reductions, fallbacks, rungs and the backstop, as the daemon carries them out for real."""

import asyncpg

from marginguard.domain.model import Side
from tests.daemons import DaemonProcess, Market, a_guard, until_true, write_config

BREACHED = 94_000.0  # 64 % of the margin of a 10x long at 100,000
REDUCE = 'reduce_percentage = 40\nbackstop_threshold = 90\nselected_positions = ["{trade}"]\n'


async def actions(database_url):
    connection = await asyncpg.connect(database_url)
    try:
        return await connection.fetch("SELECT * FROM actions ORDER BY intended_at")
    finally:
        await connection.close()


async def test_an_isolated_trade_is_reduced_and_the_guard_follows_it(state_dir, database_url):
    market = Market()
    trade = market.trades["main"]
    wallet = market.accounts["main"].balance
    async with market.open_for_trade():
        guard = a_guard(action="reduce_position", more=REDUCE.format(trade=trade.id))
        config = write_config(state_dir, market, guard, database_url=database_url)
        async with DaemonProcess(config) as daemon:
            await daemon.until("action.done", "set_stop_loss")
            first_stop = market.exchange.running_trades(market.accounts["main"])[0].stop_loss
            market.move(BREACHED)
            await daemon.until("action.done", "reduce_position")
            (rest,) = market.exchange.running_trades(market.accounts["main"])
            await until_true(
                lambda: market.exchange.running_trades(market.accounts["main"])[0].stop_loss
            )
            await daemon.until("action.done", f"position={rest.id}")
            market.move(BREACHED * 0.99)
            assert await daemon.end() == 0
    (rest,) = market.exchange.running_trades(market.accounts["main"])
    assert first_stop == 91_743.5  # 90 % of the margin, rounded towards the market
    assert rest.quantity == 600
    assert rest.client_id.startswith("mg-")
    assert rest.stop_loss > rest.liquidation
    assert market.accounts["main"].balance >= wallet
    rows = await actions(database_url)
    reductions = [row for row in rows if row["kind"] == "reduce_position"]
    assert [(row["status"], row["successor"]) for row in reductions] == [("done", str(rest.id))]


async def test_an_empty_wallet_makes_the_guard_fall_back(state_dir, database_url):
    market = Market()
    market.accounts["main"].balance = 0
    async with market.open_for_trade():
        guard = a_guard(action="add_margin", more='fallback = ["close_position"]\n')
        config = write_config(state_dir, market, guard, database_url=database_url)
        async with DaemonProcess(config) as daemon:
            await daemon.until("daemon.ready", "armed=1")
            market.move(BREACHED)
            await daemon.until("action.done", "close_position")
            assert await daemon.end() == 0
    (row,) = await actions(database_url)
    assert (row["kind"], row["status"]) == ("close_position", "done")
    assert "add_margin: " in row["reason"]


async def test_the_cross_position_is_cut_by_one_order_and_a_higher_rung_closes_it(
    state_dir, database_url
):
    market = Market()
    market.open_cross()
    rung = '\n[[guards.escalation]]\nmargin_threshold = 90\naction = "close_position"\n'
    async with market.open_for_trade():
        guard = a_guard(action="reduce_position") + rung
        config = write_config(state_dir, market, guard, database_url=database_url)
        async with DaemonProcess(config) as daemon:
            await daemon.until("daemon.ready", "armed=1")
            market.move(BREACHED)
            await daemon.until("action.done", "reduce_position")
            position = market.exchange.cross.position(market.accounts["main"])
            assert (position.side, position.size) == (Side.LONG, 500)
            market.move(88_700.0)
            await daemon.until("action.done", "close_position")
            assert await daemon.end() == 0
    assert len(market.calls("/cross/order")) == 1
    kinds = [row["kind"] for row in await actions(database_url)]
    assert kinds == ["reduce_position", "close_position"]
