"""Notices of what grows into danger and passes again: risk, budget, balance."""

from datetime import datetime
from uuid import UUID

from marginguard.domain import margin
from marginguard.domain.decision import Decision
from marginguard.domain.funds import Shortfall
from marginguard.domain.model import Assessment, RiskLevel
from marginguard.domain.notice import Notice, NoticeKind, Severity
from marginguard.domain.records import GuardState
from marginguard.domain.steps import OverBudget
from marginguard.domain.units import AccountId, GuardId, Percent, Price

_RISK_SEVERITY = {
    RiskLevel.SAFE: Severity.INFO,
    RiskLevel.LOW: Severity.INFO,
    RiskLevel.MEDIUM: Severity.WARNING,
    RiskLevel.HIGH: Severity.WARNING,
    RiskLevel.CRITICAL: Severity.CRITICAL,
}

_Figures = dict[str, str | int | float | bool | None]


def of_risen(
    assessment: Assessment,
    account_id: AccountId,
    *,
    guard_id: GuardId | None,
    threshold: Percent | None,
    notice_id: UUID,
    at: datetime,
) -> Notice:
    """Tell that a position is at a higher risk; `threshold` is where its guard does something."""
    if guard_id is None or threshold is None:
        step = "No armed guard covers it: close it or add margin yourself."
    else:
        where = "" if (price := assessment.trigger_price) is None else f", at {price:,.1f} USD"
        step = f"Its guard {guard_id} answers at {threshold:g} %{where}."
    return Notice(
        id=notice_id,
        kind=NoticeKind.RISK_RISING,
        severity=_RISK_SEVERITY[assessment.risk],
        text=(
            f"The risk of position {assessment.position.id} of account {account_id} has risen to"
            f" {assessment.risk.value}: {margin.show_level(assessment.level, threshold)} % of its"
            f" margin is used up. {step}"
        ),
        at=at,
        guard_id=guard_id,
        account_id=account_id,
        position_id=assessment.position.id,
        data={**_figures(assessment), "threshold": threshold},
    )


def of_recovered(
    decision: Decision, state: GuardState, *, threshold: Percent, notice_id: UUID, at: datetime
) -> Notice:
    """Tell that a position which was spoken of as at risk no longer is."""
    assessment = decision.assessment
    return Notice(
        id=notice_id,
        kind=NoticeKind.RECOVERED,
        severity=Severity.INFO,
        text=(
            f"Position {decision.position.id} is out of danger: its level is"
            f" {margin.show_level(assessment.level, threshold)} %, and its breach of"
            f" {threshold:g} % is over. Nothing is to be done."
        ),
        at=at,
        guard_id=state.guard_id,
        account_id=state.account_id,
        position_id=decision.position.id,
        data={**_figures(assessment), "threshold": threshold},
    )


def of_over_budget(
    decision: Decision,
    over: OverBudget,
    state: GuardState,
    *,
    execution_id: UUID,
    notice_id: UUID,
    at: datetime,
) -> Notice:
    """Tell that a guard may not spend what it takes."""
    if decision.plan is not None:
        instead = f"It does {decision.plan.kind.value} instead."
    else:
        instead = "Add margin or close it yourself."
    return Notice(
        id=notice_id,
        kind=NoticeKind.BUDGET_SPENT,
        severity=Severity.WARNING,
        text=(
            f"The budget of guard {state.guard_id} does not allow {over.kind.value} on position"
            f" {decision.position.id}: {over.reason}. {instead} To let it spend more, raise"
            f" {over.decided_by.value} in its [guards.budget]."
        ),
        at=at,
        guard_id=state.guard_id,
        account_id=state.account_id,
        position_id=decision.position.id,
        execution_id=execution_id,
        data={
            **_figures(decision.assessment),
            "level": decision.level,
            "threshold": decision.threshold,
            "action": over.kind.value,
            "status": "not allowed by the budget",
            "amount_sats": over.needed,
            "allowed_sats": over.allowed,
            "limit": over.decided_by.value,
        },
    )


def of_balance_low(
    short: Shortfall,
    guard_id: GuardId,
    account_id: AccountId,
    *,
    price: Price,
    notice_id: UUID,
    at: datetime,
) -> Notice:
    """Tell that an account's balance does not pay for what a guard would spend next."""
    need = short.need
    trigger = need.trigger_price
    where = "" if trigger is None else f" ({trigger:,.1f} USD)"
    reserved = "" if short.free == short.balance else f", {short.free:,} of them beyond its reserve"
    return Notice(
        id=notice_id,
        kind=NoticeKind.BALANCE_LOW,
        severity=Severity.WARNING,
        text=(
            f"The balance of account {account_id} is too low for guard {guard_id}:"
            f" {need.kind.value} on position {need.position.id} at {need.rung.threshold:g} %{where}"
            f" takes {need.amount:,} sats, and the balance is {short.balance:,} sats{reserved}."
            f" Deposit {need.amount - short.free:,} sats at least."
        ),
        at=at,
        guard_id=guard_id,
        account_id=account_id,
        position_id=need.position.id,
        data={
            "action": need.kind.value,
            "status": "not covered by the balance",
            "amount_sats": need.amount,
            "balance_sats": short.balance,
            "free_sats": short.free,
            "threshold": need.rung.threshold,
            "trigger_price": trigger,
            "price": price,
            "side": need.position.side.value,
            "quantity_usd": need.position.quantity,
        },
    )


def of_balance_enough(account_id: AccountId, *, notice_id: UUID, at: datetime) -> Notice:
    """Tell that an account's balance pays again for what its guards would spend next."""
    return Notice(
        id=notice_id,
        kind=NoticeKind.RECOVERED,
        severity=Severity.INFO,
        text=(
            f"The balance of account {account_id} pays again for what its guards would spend next."
            " Nothing is to be done."
        ),
        at=at,
        account_id=account_id,
    )


def _figures(assessment: Assessment) -> _Figures:
    position = assessment.position
    return {
        "side": position.side.value,
        "quantity_usd": position.quantity,
        "level": assessment.level,
        "risk": assessment.risk.value,
        "price": assessment.price,
        "liquidation_price": assessment.liquidation_price,
        "liquidation_distance": assessment.liquidation_distance,
        "at_risk_sats": position.margin,
        "trigger_price": assessment.trigger_price,
    }
