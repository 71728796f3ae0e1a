"""What happened in one execution, or to one position: moments in their order, in plain English."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from marginguard.domain.history import Delivery, LevelSample
from marginguard.domain.margin import show_level
from marginguard.domain.model import ActionKind
from marginguard.domain.notification import NotificationStatus
from marginguard.domain.records import (
    ActionRecord,
    ActionStatus,
    ExecutionRecord,
    ExecutionStatus,
    PositionState,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Moment:
    """Something that happened at a time."""

    at: datetime
    text: str


_ENDS = {
    ExecutionStatus.COMPLETED: "COMPLETED",
    ExecutionStatus.PARTIAL: "was done in PART",
    ExecutionStatus.FAILED: "FAILED",
    ExecutionStatus.SKIPPED: "did nothing (skipped)",
}


_TELLS = {
    NotificationStatus.DELIVERED: "told",
    NotificationStatus.PENDING: "still to tell",
    NotificationStatus.FAILED: "could not tell",
}


def headline_of_execution(
    execution: ExecutionRecord | None, actions: Sequence[ActionRecord]
) -> str:
    """Say in a sentence how an execution ended."""
    if execution is None:
        guards = ", ".join(sorted({action.guard_id for action in actions}))
        return (
            f"The execution of guard {guards} has left no record of its end: it is under way, or"
            " the daemon ended during it and settled its actions later"
        )
    words = (
        f"The execution of guard {execution.guard_id} {_ENDS[execution.status]} after"
        f" {execution.duration_s:.2f} s"
    )
    if execution.dry_run:
        words += ", a dry run that sent nothing"
    if execution.positions_requiring_action:
        words += (
            f": {execution.positions_succeeded} of {execution.positions_requiring_action}"
            " positions that needed action got it"
        )
    if execution.error is not None:
        words += f": {execution.error}"
    return words


def story_of_execution(
    execution: ExecutionRecord | None,
    actions: Sequence[ActionRecord],
    deliveries: Sequence[Delivery],
) -> tuple[Moment, ...]:
    """Return what happened in an execution, oldest first."""
    return _in_order((*_run(execution), *_steps(actions), *_tellings(deliveries)))


def story_of_position(
    samples: Sequence[LevelSample],
    actions: Sequence[ActionRecord],
    deliveries: Sequence[Delivery],
) -> tuple[Moment, ...]:
    """Return what happened to a position as far as the record goes, oldest first."""
    return _in_order((*_levels(samples), *_steps(actions), *_tellings(deliveries)))


def asked(action: ActionRecord) -> str:
    """Say in plain English what an action asked for."""
    match action.kind:
        case ActionKind.CLOSE_POSITION:
            return "close position"
        case ActionKind.REDUCE_POSITION:
            rest = ""
            if action.reopening is not None:
                rest = f", reopen {action.reopening.quantity:,} USD"
            return f"reduce by {action.quantity:,} USD{rest}"
        case ActionKind.ADD_MARGIN:
            return f"add {action.amount:,} sats"
        case ActionKind.INCREASE_LIQUIDATION_DISTANCE:
            return f"move liquidation away with {action.amount:,} sats"
        case ActionKind.SET_STOP_LOSS if action.stop_loss is None:
            return "remove stop-loss"
        case ActionKind.SET_STOP_LOSS:
            return f"set stop-loss to {action.stop_loss:,.1f}"


def _in_order(moments: Iterable[Moment]) -> tuple[Moment, ...]:
    return tuple(sorted(moments, key=lambda moment: moment.at))


def _run(execution: ExecutionRecord | None) -> Iterator[Moment]:
    if execution is None:
        return
    price = "unknown" if execution.price is None else f"{execution.price:,.1f}"
    plural = "" if execution.positions_total == 1 else "s"
    yield Moment(
        at=execution.started_at,
        text=f"began (source: {execution.source.value}; marginguard {execution.version});"
        f" {execution.positions_total} position{plural}, price {price}",
    )
    phases = ", ".join(f"{name} {spent:.2f} s" for name, spent in execution.phases.items())
    yield Moment(
        at=execution.finished_at,
        text=f"ended, {execution.status.value}" + (f" ({phases})" if phases else ""),
    )


def _steps(actions: Sequence[ActionRecord]) -> Iterator[Moment]:
    for action in actions:
        yield Moment(
            at=action.intended_at,
            text=f"{action.position_id}: decided to {asked(action)}, because {action.reason}"
            f" (level {show_level(action.level, action.threshold)} %, threshold"
            f" {action.threshold:g} %; {_figures(action.before)})",
        )
        if action.sent_at is not None and not action.dry_run:
            yield Moment(
                at=action.sent_at,
                text=f"{action.position_id}: sent, attempt {action.attempts}"
                + (f"; outcome: {action.outcome}" if action.outcome else ""),
            )
        if action.settled_at is not None:
            yield Moment(at=action.settled_at, text=f"{action.position_id}: {_end(action)}")
        elif action.status is ActionStatus.UNKNOWN:
            yield Moment(
                at=action.sent_at or action.intended_at,
                text=f"{action.position_id}: {_end(action)}",
            )


def _end(action: ActionRecord) -> str:
    words = [f"{asked(action)}: {action.status.value}"]
    if action.dry_run:
        words.append("a dry run, nothing was sent")
    if action.proof is not None:
        words.append(f"proved: {action.proof}")
    if action.error is not None:
        words.append(action.error)
    if action.successor is not None:
        words.append(f"the position is {action.successor} from now on")
    if action.frozen:
        words.append("frozen: its outcome cannot be told by reading, and nothing more is spent")
    if action.after is not None:
        words.append(_figures(action.after))
    return "; ".join(words)


def _figures(state: PositionState) -> str:
    words = f"margin {state.margin:,} sats, {state.quantity:,} USD"
    if state.liquidation_price is not None:
        words += f", liquidation at {state.liquidation_price:,.1f}"
    if state.price is not None:
        words += f", price {state.price:,.1f}"
    return words


def _tellings(deliveries: Sequence[Delivery]) -> Iterator[Moment]:
    for one in deliveries:
        verb = _TELLS[one.status]
        yield Moment(at=one.created_at, text=f"{verb} {one.user_id} by {one.channel}: {_told(one)}")


def _told(one: Delivery) -> str:
    what = f'"{one.subject}", ' if one.subject else f"{one.kind}, "
    if one.status is NotificationStatus.DELIVERED and one.settled_at is not None:
        after_s = max(0.0, (one.settled_at - one.created_at).total_seconds())
        return f"{what}delivered after {after_s:.1f} s"
    why = f": {one.last_error}" if one.last_error else ""
    tried = f" after {one.attempts} failed attempts" if one.attempts else ""
    return f"{what}{one.status.value}{tried}{why}"


def _levels(samples: Sequence[LevelSample]) -> Iterator[Moment]:
    """Tell where the level began, where it was highest, and where it was last."""
    if not samples:
        return
    told = {id(one): name for name, one in _landmarks(samples).items()}
    for sample in samples:
        if (name := told.get(id(sample))) is not None:
            guard = sample.guard_id or "no guard"
            yield Moment(
                at=sample.seen_at,
                text=f"{sample.position_id}: {name} level {show_level(sample.level)} % at price"
                f" {sample.price:,.1f}, margin {sample.margin:,} sats, guarded by {guard}",
            )


def _landmarks(samples: Sequence[LevelSample]) -> dict[str, LevelSample]:
    highest = max(samples, key=lambda one: one.level)
    found = {"highest": highest}
    if samples[0] is not highest:
        found["first"] = samples[0]
    if samples[-1] not in (highest, samples[0]):
        found["last"] = samples[-1]
    return found
