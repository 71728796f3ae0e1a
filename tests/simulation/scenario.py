"""What one seed is about: the market's way, the accounts, the guards, and what befalls them."""

import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from fractions import Fraction

from marginguard.domain.budget import Budget
from marginguard.domain.model import ActionKind, Side
from marginguard.domain.rules import ProtectionMode, Rung
from marginguard.engine.settings import EngineSettings, Guard
from marginguard.simulator.trades import Order
from tests.simulation.faults import FATES, Weather
from tests.simulation.market import price_path
from tests.unit.strategies import AMPLE, a_rung, some_rules

QUIET_S = 160.0
"""How long, after everything that goes wrong has ended, the daemon has to put things right."""

KINDS = (
    ActionKind.CLOSE_POSITION,
    ActionKind.ADD_MARGIN,
    ActionKind.ADD_MARGIN,
    ActionKind.INCREASE_LIQUIDATION_DISTANCE,
    ActionKind.REDUCE_POSITION,
    ActionKind.REDUCE_POSITION,
)
"""The actions that guards are drawn with."""


@dataclass(frozen=True, kw_only=True)
class AccountPlan:
    """An account, and what it holds at the start. `cross` is a signed quantity in USD."""

    id: str
    balance: int
    trades: tuple[Order, ...] = ()
    cross: int = 0
    cross_margin: int = 0
    cross_leverage: int = 10


@dataclass(frozen=True, kw_only=True)
class GuardPlan:
    """A guard. `picks` are the numbers of the account's positions that it selects; None: all."""

    guard: Guard
    picks: tuple[int, ...] | None = None


@dataclass(frozen=True, kw_only=True)
class Happening:
    """Something that befalls the world at a time, in seconds from the start."""

    at_s: float
    name: str
    size: float = 0.0
    pick: int = 0


@dataclass(frozen=True, kw_only=True)
class Life:
    """When a process ends: after so many steps, or so many steps from its first action on."""

    crash_in: int | None = None
    crash_in_action: int | None = None
    down_s: float = 1.0


FAIR_WEATHER = Weather()


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """Everything that a seed decides beforehand."""

    seed: str
    start: datetime
    settings: EngineSettings
    accounts: tuple[AccountPlan, ...]
    guards: tuple[GuardPlan, ...]
    path: tuple[tuple[float, float], ...]
    weather: Weather = FAIR_WEATHER
    happenings: tuple[Happening, ...] = ()
    lives: tuple[Life, ...] = ()
    streamed: bool = True
    books_loss: bool = False
    disabled_later: bool = False
    spread: float = 0.0
    duration_s: float = 600.0
    quiet_s: float = QUIET_S


def scenario(seed: int) -> Scenario:
    """Return the scenario of a seed."""
    draw = random.Random(f"{seed}/scenario")
    duration_s = draw.uniform(240.0, 600.0)
    path = tuple(price_path(draw, duration_s))
    settings = EngineSettings(
        interval_s=draw.choice((5.0, 10.0, 10.0, 30.0)),
        settle_delay_s=draw.choice((0.0, 2.0)),
        action_attempts=draw.choice((1, 3, 3)),
    )
    accounts = tuple(
        _account(draw, f"account-{number}", path)
        for number in range(1 if draw.random() < 0.85 else 2)
    )
    guards = tuple(guard for account in accounts for guard in _guards(draw, account))
    return Scenario(
        seed=str(seed),
        start=draw.choice(_STARTS),
        settings=settings,
        accounts=accounts,
        guards=guards,
        path=path,
        weather=_weather(draw),
        happenings=tuple(
            sorted(
                (*_happenings(draw, duration_s), *_pauses(seed, duration_s)), key=lambda h: h.at_s
            )
        ),
        lives=tuple(_life(draw) for _ in range(draw.choice((0, 0, 1, 1, 2, 4)))),
        streamed=draw.random() < 0.7,
        books_loss=draw.random() < 0.5,
        disabled_later=draw.random() < 0.05,
        spread=draw.choice((0.0, 0.0, 5.0)),
        duration_s=duration_s,
    )


_STARTS = (
    datetime(2026, 3, 14, 12, 0, tzinfo=UTC),
    datetime(2026, 3, 14, 12, 0, tzinfo=UTC),
    datetime(2026, 3, 14, 15, 56, tzinfo=UTC),
    datetime(2026, 3, 14, 23, 57, tzinfo=UTC),
)


def _account(draw: random.Random, account_id: str, path) -> AccountPlan:
    entry = path[0][1]
    prices = [price for _, price in path]
    orders = tuple(_order(draw, entry, prices) for _ in range(draw.choice((0, 1, 1, 1, 2, 3))))
    has_cross = not orders or draw.random() < 0.35
    cross, cross_margin, leverage = 0, 0, 10
    if has_cross:
        order = _order(draw, entry, prices)
        leverage = max(1, min(100, round(order.leverage)))
        cross = order.side.sign * order.quantity
        notional = order.quantity * 100_000_000 / entry
        cross_margin = int(notional / leverage * draw.uniform(1.1, 1.6) + notional * 0.01)
    held = sum(int(o.quantity * 1e8 / entry * (1 / float(o.leverage) + 0.003)) for o in orders)
    spare = draw.choice((0.0, 0.3, 2.0, 10.0)) * (held + cross_margin)
    return AccountPlan(
        id=account_id,
        balance=int(held + cross_margin + spare) + 1000,
        trades=orders,
        cross=cross,
        cross_margin=cross_margin,
        cross_leverage=leverage,
    )


def _order(draw: random.Random, entry: float, prices: list[float]) -> Order:
    """Return an order that this market is likely to bring near its liquidation."""
    fall, rise = 1 - min(prices) / entry, max(prices) / entry - 1
    side = Side.LONG if (fall > rise) == (draw.random() < 0.85) else Side.SHORT
    worst = max(0.002, fall if side is Side.LONG else rise)
    leverage = max(1.0, min(95.0, draw.uniform(0.4, 1.6) / worst))
    return Order(
        side=side,
        leverage=Fraction(round(leverage * 10), 10),
        quantity=draw.randint(10, 20_000),
    )


def _guards(draw: random.Random, account: AccountPlan) -> Iterator[GuardPlan]:
    count = len(account.trades) + bool(account.cross)
    if count >= 2 and draw.random() < 0.4:
        picks = list(range(count))
        draw.shuffle(picks)
        cut = draw.randint(1, count - 1)
        yield _guard(draw, account, "a", tuple(sorted(picks[:cut])))
        if draw.random() < 0.8:
            yield _guard(draw, account, "b", tuple(sorted(picks[cut:])))
        return
    yield _guard(draw, account, "a", None)


def _guard(draw: random.Random, account: AccountPlan, name: str, picks) -> GuardPlan:
    threshold = draw.choice((30.0, 50.0, 70.0, 80.0, 90.0))
    higher = (threshold + 100.0) / 2
    rules = some_rules(
        threshold=threshold,
        action=draw.choice(KINDS),
        fallback=tuple(draw.sample(KINDS, draw.choice((0, 0, 1, 2)))),
        rung=_sizes(draw, account, threshold),
        escalation=_escalation(draw, account, higher),
        backstop=draw.choice((None, None, (higher + 100.0) / 2)),
        hysteresis=draw.choice((0.0, 5.0, 5.0, 20.0)),
        cooldown=timedelta(seconds=draw.choice((5, 20, 60))),
        auto_execution=draw.random() > 0.05,
        mode=draw.choice((*[ProtectionMode.UNITARIO] * 4, *ProtectionMode)),
        budget=_budget(draw, account),
        reopen_slippage=draw.choice((0.1, 0.5, 2.0)),
    )
    guard_id = f"guard-{account.id}-{name}"
    guard = Guard(
        id=guard_id,
        account_id=account.id,
        user_id="owner",
        rules=replace(rules, guard_id=guard_id),
        dry_run=draw.random() < 0.03,
        real_time_monitoring=draw.random() < 0.8,
    )
    return GuardPlan(guard=guard, picks=picks)


def _escalation(draw: random.Random, account: AccountPlan, threshold: float) -> tuple[Rung, ...]:
    if draw.random() < 0.6:
        return ()
    return (a_rung(threshold, draw.choice(KINDS), **_sizes(draw, account, threshold)),)


def _sizes(draw: random.Random, account: AccountPlan, threshold: float) -> dict[str, object]:
    sizes: dict[str, object] = {
        "new_liquidation_distance": draw.uniform(0.5, 20.0),
        "reduce_percentage": draw.choice((10.0, 50.0, 75.0)),
    }
    if draw.random() < 0.5:
        sizes["add_margin_amount"] = draw.randint(100, max(200, account.balance // 20))
    else:
        sizes["target_margin_level"] = draw.uniform(10.0, threshold)
    return sizes


def _budget(draw: random.Random, account: AccountPlan) -> Budget:
    kind = draw.choice(("ample", "default", "tight", "tight"))
    if kind == "ample":
        return AMPLE
    if kind == "default":
        return Budget()
    size = account.balance
    return Budget(
        max_per_action=draw.choice((None, size // 10)),
        max_per_position=draw.choice((None, size // 5, size // 20)),
        max_per_day=draw.choice((None, size // 4, size // 15)),
        reserve_balance=draw.choice((0, size // 10)),
        max_spending_actions_per_hour=draw.choice((1, 3, 6, 1000)),
    )


def _weather(draw: random.Random) -> Weather:
    if draw.random() < 0.1:
        return FAIR_WEATHER
    weights = tuple((name, draw.choice((0.0, 1.0, 1.0, 4.0)) + 0.01) for name in FATES)
    return Weather(
        reads=draw.choice((0.0, 0.01, 0.05, 0.3)),
        prices=draw.choice((0.0, 0.01, 0.05, 0.2)),
        changes=draw.choice((0.3, 0.6, 0.9)),
        slow=draw.choice((0.0, 0.02, 0.3)),
        fates=weights,
    )


_SPELLS = {
    "blackout": (5.0, 250.0),
    "key refused": (5.0, 60.0),
    "database slow": (10.0, 300.0),
    "disk full": (5.0, 120.0),
    "freeze": (1.0, 90.0),
    "clock jump": (-90.0, 90.0),
    "funding": (-0.003, 0.003),
    "user closes": (0.0, 0.0),
    "user tops up": (0.01, 0.8),
    "user cashes in": (0.01, 0.3),
    "user opens": (0.0, 0.0),
    "user deposits": (0.01, 0.8),
    "user withdraws": (0.01, 0.3),
    "restart": (0.1, 30.0),
    "kill": (0.1, 90.0),
}


def _happenings(draw: random.Random, duration_s: float) -> Iterator[Happening]:
    for _ in range(draw.choice((0, 2, 4, 8, 12))):
        name = draw.choice([*_SPELLS])
        yield Happening(
            at_s=draw.uniform(1.0, duration_s),
            name=name,
            size=draw.uniform(*_SPELLS[name]),
            pick=draw.randrange(1000),
        )


def _pauses(seed: int, duration_s: float) -> Iterator[Happening]:
    draw = random.Random(f"{seed}/pauses")
    for _ in range(draw.choice((0, 0, 0, 1, 2))):
        yield Happening(
            at_s=draw.uniform(1.0, duration_s), name="pause", size=draw.uniform(5.0, 200.0)
        )


def _life(draw: random.Random) -> Life:
    down_s = draw.choice((0.2, 1.0, 5.0, draw.uniform(5.0, 60.0)))
    if draw.random() < 0.7:
        return Life(crash_in_action=draw.randint(1, 40), down_s=down_s)
    return Life(crash_in=draw.randint(1, 400), down_s=down_s)
