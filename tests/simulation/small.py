"""One position, one guard, one breach: small enough to crash at every single step."""

from dataclasses import replace
from datetime import timedelta
from fractions import Fraction

from marginguard.domain.model import ActionKind, MarginMode, Side
from marginguard.engine.settings import EngineSettings, Guard
from marginguard.simulator.trades import Order
from tests.simulation.faults import Weather
from tests.simulation.scenario import AccountPlan, GuardPlan, Life, Scenario
from tests.unit.strategies import NOON, some_rules

FATES_TO_CRASH_IN = ("done", "lost", "applied_unheard", "very_late")

_PRICE = 100_000.0
_BREACHED = 92_500.0
_BREACH_S = 11.0
_CALM_S = 25.0


def one_breach(
    mode: MarginMode, kind: ActionKind, fate: str, *, crash_in: int | None = None
) -> Scenario:
    """Return a scenario in which one long is breached, and each request has the same `fate`.

    The faults end soon after, so that the action can come to its end.
    """
    rules = some_rules(
        threshold=80.0,
        action=kind,
        rung={"new_liquidation_distance": 5.0},
        cooldown=timedelta(seconds=60),
        reopen_slippage=2.0,
    )
    guard = Guard(
        id="guard-1",
        account_id="main",
        user_id="owner",
        rules=replace(rules, guard_id="guard-1"),
    )
    order = Order(side=Side.LONG, leverage=Fraction(10), quantity=1_000)
    account = AccountPlan(id="main", balance=1_000_000, trades=(order,))
    if mode is MarginMode.CROSS:
        account = AccountPlan(id="main", balance=1_000_000, cross=1_000, cross_margin=103_000)
    return Scenario(
        seed=f"small/{mode.value}/{kind.value}/{fate}",
        start=NOON,
        settings=EngineSettings(interval_s=10.0),
        accounts=(account,),
        guards=(GuardPlan(guard=guard),),
        path=((0.0, _PRICE), (_BREACH_S, _BREACHED)),
        weather=Weather(changes=0.0 if fate == "done" else 1.0, fates=((fate, 1.0),)),
        lives=() if crash_in is None else (Life(crash_in=crash_in, down_s=2.0),),
        duration_s=_CALM_S,
        quiet_s=120.0,
    )
