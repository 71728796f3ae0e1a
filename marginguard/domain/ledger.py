"""What a guard remembers of an action, as the action goes from intent to its end."""

from marginguard.domain.memory import GuardMemory, Spend
from marginguard.domain.outcome import OutcomeKind
from marginguard.domain.records import ActionRecord, ActionStatus


def remember(memory: GuardMemory, record: ActionRecord) -> GuardMemory:
    """Return the memory after `record` was written; doing it twice changes nothing more.

    Sats count as spent from the intent on, until it is certain that they were not. Only an
    action that worked, or that the exchange refused, holds the next one back: one that never
    reached the exchange may be tried again at once.
    """
    if record.status is ActionStatus.REJECTED:
        memory = memory.unspent(record.id)
        if record.outcome == OutcomeKind.REJECTED or record.dry_run:
            return _acted(memory, record, refusal=None if record.dry_run else record.error)
        return memory
    if record.kind.spends and all(spend.action_id != record.id for spend in memory.spends):
        spend = Spend(
            action_id=record.id,
            position_id=record.position_id,
            amount=record.amount,
            at=record.intended_at,
        )
        memory = memory.intending(spend)
    if record.status is ActionStatus.DONE:
        return _acted(memory, record, refusal=None)
    return memory


def _acted(memory: GuardMemory, record: ActionRecord, *, refusal: str | None) -> GuardMemory:
    return memory.acted(
        record.episode_id,
        at=record.settled_at or record.intended_at,
        level=record.level,
        refusal=refusal,
    )
