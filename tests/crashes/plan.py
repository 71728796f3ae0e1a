"""What happens in a run, all of it drawn from the seed before anything starts."""

import random
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType

from marginguard.simulator.faults import Fault, FaultKind
from tests.crashes.invariants import Bounds
from tests.daemons import a_guard

CALM = 100_000.0
"""Where every position is opened."""

LOW = (92_600.0, 94_200.0)
HIGH = (106_200.0, 108_400.0)
"""Where longs and shorts are breached, and not yet liquidated with the margin they began with."""

THRESHOLD = 60
ACCOUNTS = ("long", "short", "pair", "cross")

_TRADE = "/v3/futures/isolated/trade"
_CROSS = "/v3/futures/cross"
CALLS = MappingProxyType(
    {
        ("isolated", "close_position"): (("POST", f"{_TRADE}/close"),),
        ("isolated", "reduce_position"): (("POST", f"{_TRADE}/close"), ("POST", _TRADE)),
        ("isolated", "add_margin"): (("POST", f"{_TRADE}/add-margin"),),
        ("isolated", "increase_liquidation_distance"): (("POST", f"{_TRADE}/add-margin"),),
        ("isolated", "set_stop_loss"): (("PUT", f"{_TRADE}/stoploss"),),
        ("cross", "close_position"): (("POST", f"{_CROSS}/position/close"),),
        ("cross", "reduce_position"): (("POST", f"{_CROSS}/order"),),
        ("cross", "add_margin"): (("POST", f"{_CROSS}/deposit"),),
        ("cross", "increase_liquidation_distance"): (("POST", f"{_CROSS}/deposit"),),
    }
)
"""What each kind of action calls, on a position of either sort."""

READS = (
    ("GET", "/v3/account"),
    ("GET", "/v3/futures/ticker"),
    ("GET", "/v3/futures/isolated/trades/running"),
    ("GET", "/v3/futures/isolated/trades/closed"),
    ("GET", "/v3/futures/cross/position"),
    ("GET", "/v3/futures/cross/transfers"),
)


class Moment(StrEnum):
    """From when on a kill is counted: the start, the first look, a call that asks for a change."""

    START = "start"
    READY = "ready"
    CALL = "call"


@dataclass(frozen=True, kw_only=True, slots=True)
class Kill:
    """When the daemon is killed: `after_s` after the moment, a call being the `number`th."""

    moment: Moment
    number: int
    after_s: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Life:
    """One start of the daemon until its kill.

    `moves` are seconds to wait and the price then; they begin at the start (`early`), or when the
    daemon is ready.
    """

    faults: tuple[Fault, ...]
    moves: tuple[tuple[float, float], ...]
    early: bool
    kill: Kill


@dataclass(frozen=True, kw_only=True, slots=True)
class Remedy:
    """What a guard does, in order: its action and the fallbacks; `settings` (TOML) size them."""

    kinds: tuple[str, ...]
    settings: str = ""


_CLOSES = Remedy(kinds=("close_position",))
_REDUCES = (
    Remedy(kinds=("reduce_position", "close_position"), settings="reduce_percentage = 50"),
    Remedy(kinds=("reduce_position",), settings="reduce_percentage = 30"),
)
_ADDS = (
    Remedy(kinds=("add_margin",), settings="add_margin_amount = 15_000"),
    Remedy(kinds=("add_margin",), settings="target_margin_level = 45"),
    Remedy(kinds=("add_margin", "close_position"), settings="add_margin_amount = 15_000"),
    Remedy(kinds=("add_margin", "reduce_position"), settings="target_margin_level = 50"),
    Remedy(kinds=("increase_liquidation_distance",), settings="new_liquidation_distance = 6"),
)
_REMEDIES = MappingProxyType(
    {
        "long": (_CLOSES, *_REDUCES, *_ADDS),
        "short": (_CLOSES, *_REDUCES, *_ADDS),
        "pair": _ADDS,
        "cross": (_CLOSES, *_REDUCES, *_ADDS),
    }
)
"""What the guard of each account may do; two positions share the budget of `pair`."""

_ESCALATES = f"""
[[guards.escalation]]
margin_threshold = {THRESHOLD + 15}
action = "close_position"
"""
_BACKSTOP = "backstop_threshold = 95"


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """A whole run. `guards` is TOML; `ends` are the prices at which everything must be handled."""

    seed: int
    guards: str
    bounds: dict[str, Bounds]
    stream: bool
    lives: tuple[Life, ...]
    ends: tuple[float, ...]


def plan(seed):
    """Return the run of this seed."""
    source = random.Random(seed)
    bounds = {account: _bounds(source) for account in ACCOUNTS}
    guards, calls = "", []
    for account in ACCOUNTS:
        text, called = _guard(source, account, bounds[account])
        guards += text
        calls += called
    ends = [source.uniform(*LOW), source.uniform(*HIGH)]
    source.shuffle(ends)
    return Plan(
        seed=seed,
        guards=guards,
        bounds=bounds,
        stream=source.random() < 0.5,
        lives=tuple(_life(source, calls) for _ in range(source.randint(2, 3))),
        ends=tuple(_on_step(price) for price in ends),
    )


def _bounds(source):
    return Bounds(
        max_per_position=source.randrange(40_000, 120_000, 1_000),
        max_per_day=source.randrange(60_000, 200_000, 1_000),
        max_per_hour=source.randint(2, 6),
    )


def _guard(source, account, bounds):
    """Return a guard's tables, and the calls that it may come to make."""
    mode = "cross" if account == "cross" else "isolated"
    remedy = source.choice(_REMEDIES[account])
    action, *fallback = remedy.kinds
    kinds = set(remedy.kinds)
    settings = ['cooldown = "200ms"', f"fallback = {fallback}".replace("'", '"'), remedy.settings]
    if mode == "isolated" and source.random() < 0.5:
        settings.append(_BACKSTOP)
        kinds.add("set_stop_loss")
    settings += [
        "[guards.budget]",
        f"max_per_position = {bounds.max_per_position}",
        f"max_per_day = {bounds.max_per_day}",
        f"max_spending_actions_per_hour = {bounds.max_per_hour}",
    ]
    if source.random() < 0.3:
        settings.append(_ESCALATES)
        kinds.add("close_position")
    text = a_guard(
        f"guards-{account}", account, threshold=THRESHOLD, action=action, more="\n".join(settings)
    )
    return text, [call for kind in sorted(kinds) for call in CALLS[mode, kind]]


def _life(source, calls):
    faults = [_fault(source, source.choice(calls)) for _ in range(source.randint(3, 6))]
    faults += [_blind(source, source.choice(READS)) for _ in range(source.randint(0, 2))]
    moves = []
    for _ in range(source.randint(2, 5)):
        low, high = source.choice((LOW, LOW, HIGH, HIGH, (CALM - 500, CALM + 500)))
        moves.append((source.uniform(0.1, 0.8), _on_step(source.uniform(low, high))))
    return Life(
        faults=tuple(faults),
        moves=tuple(moves),
        early=source.random() < 0.3,
        kill=_kill(source),
    )


def _kill(source):
    moment = source.choices(list(Moment), weights=(1, 2, 5))[0]
    number = source.randint(1, 6) if moment is Moment.CALL else 0
    longest_s = {Moment.START: 1.5, Moment.READY: 2.0, Moment.CALL: 0.08}[moment]
    return Kill(moment=moment, number=number, after_s=source.uniform(0.0, longest_s))


def _fault(source, call):
    """Return a fault of a call that asks for a change; most leave its outcome open."""
    method, path = call
    kind = source.choice(list(FaultKind))
    more = {}
    if kind is FaultKind.STATUS:
        status, gateway = source.choice(((500, False), (502, True), (503, False), (400, False)))
        more = {"status": status, "gateway": gateway}
    elif kind is FaultKind.STATUS_AFTER:
        # None of these says that nothing was carried out: the exchange does not lie.
        more = {"status": source.choice((500, 502, 503, 504)), "gateway": True}
    elif kind is FaultKind.DELAY:
        more = {"delay": source.uniform(0.05, 0.5)}
    elif kind is FaultKind.LATE:
        more = {"delay": source.uniform(0.1, 3.0)}
    elif kind is FaultKind.BLACKHOLE:
        more = {"processed": source.random() < 0.5}
    return Fault(method=method, path=path, fault=kind, times=source.randint(1, 2), **more)


def _blind(source, call):
    method, path = call
    kind = source.choice((FaultKind.STATUS, FaultKind.DROP_RESPONSE, FaultKind.MALFORMED))
    more = {"status": source.choice((500, 503))} if kind is FaultKind.STATUS else {}
    return Fault(method=method, path=path, fault=kind, times=source.randint(1, 3), **more)


def _on_step(price):
    return round(price * 2) / 2
