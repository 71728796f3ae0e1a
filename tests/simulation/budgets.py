"""Whether spending kept within a guard's budget, counted from what the exchange carried out."""

from datetime import timedelta

MEANWHILE_S = 60.0
"""How long before a request somebody else may have taken what the guard saw in the balance."""


def overspending(world, known, request, plan):
    """Return which bound `request`, just carried out, has broken, in words, or None."""
    record, budget = request.record, plan.guard.rules.budget
    spent = [
        r.record
        for r in world.ledger.applied()
        if r.spends and r.record is not None and r.record.guard_id == record.guard_id
    ]
    if budget.max_per_action is not None and record.amount > budget.max_per_action:
        return f"max_per_action is {budget.max_per_action}"
    origin = known.origin_of(record.position_id)
    key = (record.account_id, origin)
    per_position = budget.max_per_position
    if per_position is None:
        per_position = 3 * known.entry_margins.get(key, 0)
    on_position = sum(r.amount for r in spent if known.origin_of(r.position_id) == origin)
    if on_position > per_position:
        return f"{on_position} on the position, max_per_position is {per_position}"
    per_day = budget.max_per_day
    if per_day is None:
        per_day = known.most_balance[record.account_id] // 2
    day = record.intended_at.date()
    on_day = sum(r.amount for r in spent if r.intended_at.date() == day)
    if on_day > per_day:
        return f"{on_day} on the day, max_per_day is {per_day}"
    before = record.intended_at - timedelta(hours=1)
    in_hour = sum(1 for r in spent if before < r.intended_at <= record.intended_at)
    if in_hour > budget.max_spending_actions_per_hour:
        return f"{in_hour} within an hour, of {budget.max_spending_actions_per_hour}"
    return _reserve(world, request, budget)


def _reserve(world, request, budget):
    left = world.account(request.account).balance
    if left >= budget.reserve_balance:
        return None
    now_s = world.agenda.now_s
    taken = any(
        where == request.account and at_s >= now_s - MEANWHILE_S
        for at_s, where, _, _ in world.ledger.foreign
    )
    return None if taken else f"{left} left, reserve_balance is {budget.reserve_balance}"
