"""What a guard will do, in plain English and as JSON."""

from collections.abc import Iterator, Mapping

from marginguard.config import Config, GuardSettings, rules_of
from marginguard.config.fields import duration_text
from marginguard.domain.budget import Budget
from marginguard.domain.model import ActionKind
from marginguard.domain.plans import PlanLimits
from marginguard.domain.rules import Ladder, ProtectionMode, Rules, Rung, Step
from marginguard.domain.units import CROSS, Sats

_HELD_AGAINST: Mapping[ProtectionMode, str] = {
    ProtectionMode.UNITARIO: "each by how much of its own margin is used up",
    ProtectionMode.TOTAL: "by how much of all their margins together is used up",
    ProtectionMode.BOTH: "each by how much of its own margin is used up, and all by how much of"
    " their margins together is",
}


def in_words(guard: GuardSettings, config: Config) -> Iterator[tuple[str, str]]:
    """Yield what a guard will do: paragraphs, each with the start of its first line.

    Later lines of a paragraph are indented as deep as that start is long.
    """
    if not guard.enabled:
        yield "  ", f"{guard.id}: off"
        return
    rules = rules_of(guard, config.actions, config.plan_of(guard.account))
    yield "  ", _head(guard, config)
    acts = guard.auto_execution and not guard.dry_run
    crosses = rules.selected is None or CROSS in rules.selected
    note = "; the cross position has none" if crosses else ""
    yield from _ladder_in_words("    ", rules.ladder, acts=acts, note=note)
    for position_id, ladder in rules.individual.items():
        yield "    ", f"position {position_id}:"
        yield from _ladder_in_words("      ", ladder, acts=acts, note="")
    yield "    ", _pace(rules)
    yield "    ", _spending(rules)


def _head(guard: GuardSettings, config: Config) -> str:
    networks = {account.id: account.network or account.rest_url for account in config.accounts}
    manner = ""
    if not guard.auto_execution:
        manner = " only tells, never acts:"
    elif guard.dry_run:
        manner = " a dry run, sends nothing:"
    selected = guard.selected_positions
    which = (
        _every(config.plan_of(guard.account)) if selected is None else ", ".join(sorted(selected))
    )
    looks = f"every {duration_text(config.daemon.interval)}"
    if guard.real_time_monitoring:
        looks += " and at every price of the stream"
    return (
        f"{guard.id}:{manner} {which} on account {guard.account} ({networks[guard.account]}),"
        f" {_HELD_AGAINST[guard.protection_mode]}; looks {looks}"
    )


def _every(plan: PlanLimits) -> str:
    if plan.max_positions is None:
        return "every position"
    return f"the riskiest {plan.max_positions} positions (plan {plan.name})"


def _ladder_in_words(
    indent: str, ladder: Ladder, *, acts: bool, note: str
) -> Iterator[tuple[str, str]]:
    for rung in ladder.rungs:
        steps = ", else ".join(_step_in_words(step) for step in rung.steps)
        yield f"{indent}at {rung.threshold:g} %: ", steps
    if ladder.backstop is not None:
        words = f"the backstop, a stop-loss on the exchange, closes an isolated trade{note}"
        if not acts:
            words = "no backstop is kept on the exchange by a guard that does not act"
        yield f"{indent}at {ladder.backstop:g} %: ", words


def _step_in_words(step: Step) -> str:
    match step.kind:
        case ActionKind.CLOSE_POSITION:
            return "close the position"
        case ActionKind.REDUCE_POSITION:
            return f"reduce the position by {step.reduce_percentage:g} %"
        case ActionKind.ADD_MARGIN if step.add_margin_amount is not None:
            return f"add {step.add_margin_amount:,} sats of margin"
        case ActionKind.ADD_MARGIN:
            return f"add margin to bring the level down to {step.target_margin_level:g} %"
        case ActionKind.INCREASE_LIQUIDATION_DISTANCE:
            return (
                "add margin to put liquidation"
                f" {step.new_liquidation_distance:g} % away from the price"
            )
        case ActionKind.SET_STOP_LOSS:
            return "set a stop-loss"


def _pace(rules: Rules) -> str:
    return (
        f"a breach is over {rules.hysteresis:g} points below its threshold; until then the next"
        f" action comes after {duration_text(rules.cooldown)}, or sooner when it gets worse"
    )


def _spending(rules: Rules) -> str:
    ladders = (rules.ladder, *rules.individual.values())
    if not any(step.kind.spends for ladder in ladders for r in ladder.rungs for step in r.steps):
        return "spends nothing"
    budget = rules.budget
    per_action = _sats(budget.max_per_action, "as much as the other bounds allow")
    per_position = _sats(budget.max_per_position, "3 times the margin that it began with")
    per_day = _sats(budget.max_per_day, "half the balance that the day began with")
    return (
        f"spends at most: {per_action} in one action;"
        f" {per_position} on one position; {per_day} in a day (UTC);"
        f" {budget.max_spending_actions_per_hour} times an hour; and leaves"
        f" {budget.reserve_balance:,} sats in the balance"
    )


def _sats(amount: Sats | None, otherwise: str) -> str:
    return otherwise if amount is None else f"{amount:,} sats"


def as_json(guard: GuardSettings, config: Config) -> dict[str, object]:
    """Return a guard's settings and its rungs, whether it is switched on or off.

    A bound of the budget that is null has the default that `in_words` spells out.
    """
    rules = rules_of(guard, config.actions, config.plan_of(guard.account))
    return {
        "id": guard.id,
        "account": guard.account,
        "user": config.owners[guard.account].id,
        "plan": config.owners[guard.account].plan,
        "enabled": guard.enabled,
        "auto_execution": guard.auto_execution,
        "dry_run": guard.dry_run,
        "real_time_monitoring": guard.real_time_monitoring,
        "protection_mode": guard.protection_mode.value,
        "selected_positions": "all" if rules.selected is None else sorted(rules.selected),
        "max_positions": rules.max_positions,
        "cooldown_s": rules.cooldown.total_seconds(),
        "hysteresis": rules.hysteresis,
        **_ladder_as_json(rules.ladder),
        "individual_configs": {
            position_id: _ladder_as_json(ladder) for position_id, ladder in rules.individual.items()
        },
        "budget": _budget_as_json(rules.budget),
        "in_words": [f"{start.strip()} {text}".strip() for start, text in in_words(guard, config)],
    }


def _ladder_as_json(ladder: Ladder) -> dict[str, object]:
    return {
        "rungs": [_rung_as_json(rung) for rung in ladder.rungs],
        "backstop_threshold": ladder.backstop,
    }


def _rung_as_json(rung: Rung) -> dict[str, object]:
    return {
        "margin_threshold": rung.threshold,
        "steps": [{"action": step.kind.value, **_sizes(step)} for step in rung.steps],
    }


def _sizes(step: Step) -> dict[str, float | int | None]:
    match step.kind:
        case ActionKind.REDUCE_POSITION:
            return {"reduce_percentage": step.reduce_percentage}
        case ActionKind.ADD_MARGIN if step.add_margin_amount is not None:
            return {"add_margin_amount": step.add_margin_amount}
        case ActionKind.ADD_MARGIN:
            return {"target_margin_level": step.target_margin_level}
        case ActionKind.INCREASE_LIQUIDATION_DISTANCE:
            return {"new_liquidation_distance": step.new_liquidation_distance}
        case ActionKind.CLOSE_POSITION | ActionKind.SET_STOP_LOSS:
            return {}


def _budget_as_json(budget: Budget) -> dict[str, int | None]:
    return {
        "max_per_action": budget.max_per_action,
        "max_per_position": budget.max_per_position,
        "max_per_day": budget.max_per_day,
        "reserve_balance": budget.reserve_balance,
        "max_spending_actions_per_hour": budget.max_spending_actions_per_hour,
    }
