"""Guards that would get in each other's way on one position."""

from collections.abc import Iterable, Iterator

from marginguard.config.guards import GuardSettings
from marginguard.config.ladders import rules_of
from marginguard.config.models import ActionsSettings
from marginguard.config.problems import Fault
from marginguard.domain.model import ActionKind
from marginguard.domain.rules import Ladder, Rules


def share_positions(first: GuardSettings, second: GuardSettings) -> bool:
    """Return whether two guards can come to look after the same position."""
    if first.account != second.account:
        return False
    if first.selected_positions is None or second.selected_positions is None:
        return True
    return not first.selected_positions.isdisjoint(second.selected_positions)


def clash_faults(
    guard: GuardSettings, others: Iterable[GuardSettings], actions: ActionsSettings
) -> Iterator[Fault]:
    """Yield a fault for each of the account's other guards whose actions clash with the guard's.

    Each guard looks on its own and minds what it has done itself, so that two which act on one
    position would add margin twice, or add to what the other closes. Closing alone does no harm
    twice. A guard that does not act clashes with none.
    """
    for other in others:
        if not (_acts(guard) and _acts(other) and share_positions(guard, other)):
            continue
        if kinds := _beyond_closing(rules_of(other, actions), rules_of(guard, actions)):
            yield Fault(
                loc=("selected_positions",),
                rule=f'clashes with guard "{other.id}" above, which goes on: both would act on the'
                f" same positions, and not only close them ({', '.join(kinds)}); make them rungs"
                " of one guard ([[guards.escalation]]), select different positions, or let one"
                " only tell (auto_execution = false)",
            )


def _acts(guard: GuardSettings) -> bool:
    return guard.enabled and guard.auto_execution and not guard.dry_run


def _beyond_closing(first: Rules, second: Rules) -> list[str]:
    """Return what either guard does, besides closing, to positions that both look after."""
    kinds = {
        step.kind
        for ladder in _shared_ladders(first, second)
        for rung in ladder.rungs
        for step in rung.steps
    }
    return [kind.value for kind in ActionKind if kind in kinds - {ActionKind.CLOSE_POSITION}]


def _shared_ladders(first: Rules, second: Rules) -> Iterator[Ladder]:
    if first.selected is None and second.selected is None:
        yield from (first.ladder, second.ladder)
    named = {*first.individual, *second.individual, *(first.selected or second.selected or ())}
    for position_id in named:
        if first.selects(position_id) and second.selects(position_id):
            yield from (first.ladder_of(position_id), second.ladder_of(position_id))
