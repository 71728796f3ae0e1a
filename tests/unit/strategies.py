"""Builders with sensible defaults, and Hypothesis strategies, for the domain's types."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from math import floor
from uuid import UUID

from hypothesis import strategies as st

from marginguard.domain.budget import Budget
from marginguard.domain.decision import Pending, View
from marginguard.domain.memory import GuardMemory, Setback
from marginguard.domain.model import ActionKind, MarginMode, Position, PriceQuote, Side
from marginguard.domain.policy import decide
from marginguard.domain.records import ActionRecord, ActionStatus, PositionState
from marginguard.domain.rules import Ladder, Rules, Rung, Step
from marginguard.domain.units import AccountId, GuardId, Percent, PositionId, Price, Sats, Usd

NOON = datetime(2026, 3, 14, 12, 0, tzinfo=UTC)
"""A fixed moment in the middle of a day (UTC)."""

AMPLE = Budget(
    max_per_position=Sats(10**15), max_per_day=Sats(10**15), max_spending_actions_per_hour=10**6
)
"""A budget that never decides."""


def a_position(**changes):
    """Return a 10x long of 1,000 USD at 100,000 with a margin of 100,000 sats, changed."""
    position = Position(
        id=PositionId("trade-1"),
        mode=MarginMode.ISOLATED,
        side=Side.LONG,
        quantity=Usd(1_000),
        entry_price=Price(100_000.0),
        margin=Sats(100_000),
        maintenance_margin=Sats(0),
        leverage=10.0,
        pl=Sats(0),
        liquidation_price=None,
        stop_loss=None,
        take_profit=None,
        entry_margin=Sats(100_000),
        funding_paid=Sats(0),
        cashed_in=Sats(0),
        client_id=None,
    )
    return replace(position, **changes)


def a_cross_position(**changes):
    """Return the cross position of the exchange's example: margin 500,000 at 10x, changed."""
    return a_position(
        **{
            "id": PositionId("cross"),
            "mode": MarginMode.CROSS,
            "margin": Sats(500_000),
            "maintenance_margin": Sats(1_500),
            **changes,
        }
    )


def a_state(position=None, price=100_000.0, **changes):
    """Return what an action is measured against: the state of `position`, changed."""
    state = PositionState.of(position or a_position(), Price(price))
    return replace(state, **changes)


def price_at(position, level):
    """Return a price at which `position` has lost about `level` % of its buffer."""
    loss = Fraction(position.buffer) * Fraction(level) / 100
    inverse = 1 / Fraction(position.entry_price) + position.side.sign * loss / (
        position.quantity * 100_000_000
    )
    return Price(float(1 / inverse))


def a_quote(price, *, confirmed=True):
    """Return a quote whose last price and index are `price`."""
    return PriceQuote(last=Price(price), index=Price(price), received_s=0.0, confirmed=confirmed)


def a_view(*positions, price, balance=10_000_000, confirmed=True, **changes):
    """Return a view of `positions` at `price` with nothing in the way of spending, changed."""
    view = View(
        positions=positions,
        quote=a_quote(price, confirmed=confirmed),
        balance=balance,
    )
    return replace(view, **changes)


def a_pending(position=None, *, kind=ActionKind.ADD_MARGIN, threshold=80.0, **changes):
    """Return an action on `position` that is not settled yet, changed."""
    pending = Pending(
        position_id=(position or a_position()).id,
        kind=kind,
        threshold=Percent(threshold),
        reason="action 8 is not settled",
        overdue=False,
        frozen=False,
        repeatable=False,
    )
    return replace(pending, **changes)


def a_rung(threshold, *kinds, **sizes):
    """Return a rung whose steps are of these kinds, all with the same sizes."""
    return Rung(
        threshold=Percent(threshold), steps=tuple(Step(kind=kind, **sizes) for kind in kinds)
    )


def a_ladder(*rungs, backstop=None):
    """Return these rungs as a ladder."""
    return Ladder(rungs=rungs, backstop=backstop)


def some_rules(
    *,
    threshold=80.0,
    action=ActionKind.ADD_MARGIN,
    fallback=(),
    rung=None,
    escalation=(),
    backstop=None,
    **changes,
):
    """Return the rules of a guard with an ample budget, changed.

    `rung` has the sizes of the first rung's steps, `escalation` the rungs above it.
    """
    first = a_rung(threshold, action, *fallback, **(rung or {}))
    rules = Rules(
        guard_id=GuardId("guard-1"),
        ladder=a_ladder(first, *escalation, backstop=backstop),
        budget=AMPLE,
    )
    return replace(rules, **changes)


def minutes(count):
    """Return a span of `count` minutes."""
    return timedelta(minutes=count)


def at_level(level, *, position=None, **changes):
    """Return a view of one position at a price where its level is about `level`."""
    position = position or a_position()
    return a_view(position, price=price_at(position, level), **changes)


CLOSING = some_rules(action=ActionKind.CLOSE_POSITION)


def decide_one(view, rules=CLOSING, memory=None, now=NOON):
    """Decide about the only position of `view`; return the decision and the new memory."""
    decisions = decide(view, rules, memory or GuardMemory(), now)
    (decision,) = decisions.items
    return decision, decisions.memory


def acted(memory, decision, *, at, refusal=None):
    """Return the memory after the step decided on worked, or was refused."""
    kind, level = decision.plan.kind, decision.level
    if refusal is None:
        return memory.acted(decision.episode.id, kind=kind, at=at, level=level)
    setback = Setback(kind=kind, at=at, level=level, reason=refusal)
    return memory.refused(decision.episode.id, setback)


def an_action(kind=ActionKind.ADD_MARGIN, *, position=None, number=1, **changes):
    """Return the record of an action on `position` that was just intended, changed."""
    position = position or a_position()
    record = ActionRecord(
        id=UUID(int=number),
        execution_id=UUID(int=99),
        guard_id=GuardId("guard-1"),
        account_id=AccountId("account-1"),
        position_id=position.id,
        episode_id="",
        kind=kind,
        amount=Sats(0),
        status=ActionStatus.INTENDED,
        dry_run=False,
        reason="a breach",
        level=Percent(82.0),
        threshold=Percent(80.0),
        before=a_state(position),
        intended_at=NOON,
    )
    return replace(record, **changes)


sides = st.sampled_from(Side)
modes = st.sampled_from(MarginMode)

prices = st.integers(2_000, 1_000_000).map(lambda steps: Price(steps * 0.5))
"""Prices in the exchange's steps of 0.5, from 1,000 to 500,000 USD."""

thresholds = st.one_of(
    st.integers(1, 99).map(lambda whole: Percent(float(whole))),
    st.floats(0.01, 99.99).map(Percent),
)
"""Thresholds as people write them, and any other."""


@st.composite
def positions(draw, *, side=sides, mode=modes, min_buffer=1):
    """Positions as the exchange allows them: leverage 1 to 100, whole sats, price steps.

    `min_buffer` 0 or less allows cross positions whose maintenance margin has eaten the margin.
    """
    chosen_mode = draw(mode)
    isolated = chosen_mode is MarginMode.ISOLATED
    quantity = Usd(draw(st.integers(1, 500_000 if isolated else 10_000_000)))
    entry = draw(prices)
    notional = quantity * 100_000_000 / Fraction(entry)
    most = max(1, floor(notional))
    least = max(1, floor(notional / 100))
    maintenance = Sats(floor(notional * Fraction("0.0015")))
    if isolated:
        margin = draw(st.integers(least, most))
    else:
        margin = maintenance + draw(st.integers(max(-maintenance, min_buffer), 2 * most))
    return a_position(
        id=PositionId(draw(st.uuids()).hex),
        mode=chosen_mode,
        side=draw(side),
        quantity=quantity,
        entry_price=entry,
        margin=Sats(margin),
        maintenance_margin=maintenance,
        entry_margin=Sats(margin),
        leverage=float(notional / max(1, margin)),
    )
