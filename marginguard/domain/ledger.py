"""What a guard remembers of an action, as the action goes from intent to its end."""

from dataclasses import replace

from marginguard.domain.memory import GuardMemory, Setback, Spend
from marginguard.domain.model import ActionKind
from marginguard.domain.outcome import OutcomeKind
from marginguard.domain.records import ActionRecord, ActionStatus, GuardState
from marginguard.domain.units import CROSS, Price


def remember(memory: GuardMemory, record: ActionRecord) -> GuardMemory:
    """Return the memory after `record` was written; doing it twice changes nothing more.

    Sats count as spent from the intent on, until it is certain that they were not. Only an
    action that worked, or that the exchange refused, holds the next one back: one that never
    reached the exchange may be tried again at once.
    """
    if record.kind is ActionKind.SET_STOP_LOSS:
        return _remember_stop_loss(memory, record)
    if record.status is ActionStatus.REJECTED:
        memory = memory.unspent(record.id)
        if record.dry_run:
            return _acted(memory, record)
        return _refused(memory, record) if record.outcome == OutcomeKind.REJECTED else memory
    if record.kind.spends and all(spend.action_id != record.id for spend in memory.spends):
        spend = Spend(
            action_id=record.id,
            position_id=record.position_id,
            amount=record.amount,
            at=record.intended_at,
        )
        memory = memory.intending(spend)
    if record.status is not ActionStatus.DONE:
        return memory
    if record.kind.spends and record.position_id == CROSS and record.exchange_id is not None:
        memory = memory.proved_by(record.id, record.exchange_id)
    if record.successor is not None:
        memory = memory.followed(
            record.position_id,
            record.successor,
            margin=record.before.margin,
            at=record.settled_at or record.intended_at,
        )
    return _acted(memory, record)


def state_after(state: GuardState, record: ActionRecord) -> GuardState:
    """Return a guard's state after `record` of an action of it was written.

    So an action is written without its guard's state, and costs the same however much the guard
    remembers.
    """
    return replace(state, memory=remember(state.memory, record))


def _acted(memory: GuardMemory, record: ActionRecord) -> GuardMemory:
    at = record.settled_at or record.intended_at
    return memory.acted(record.episode_id, kind=record.kind, at=at, level=record.level)


def _refused(memory: GuardMemory, record: ActionRecord) -> GuardMemory:
    setback = Setback(
        kind=record.kind,
        at=record.settled_at or record.intended_at,
        level=record.level,
        reason=record.error or "the exchange refused it",
    )
    return memory.refused(record.episode_id, setback)


def _remember_stop_loss(memory: GuardMemory, record: ActionRecord) -> GuardMemory:
    """Keep in mind which stop-losses may be ours: from the intent on, until it is settled."""
    known = memory.stop_losses_of(record.position_id)
    asked: tuple[Price, ...] = () if record.stop_loss is None else (record.stop_loss,)
    if record.dry_run:
        return memory
    if record.status is ActionStatus.DONE:
        prices = asked
    elif record.status is ActionStatus.GONE:
        prices = known  # it may have stood there, and come to stand there again
    elif record.status is ActionStatus.REJECTED:
        prices = tuple(p for p in known if p not in asked or p == record.before.stop_loss)
    else:
        prices = tuple(dict.fromkeys((*known, *asked)))
    return memory.with_stop_losses(record.position_id, prices, at=record.intended_at)
