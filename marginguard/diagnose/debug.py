"""The six steps of a diagnosis on live data: what each found, how long it took, and the cure."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Final, Protocol

from marginguard.diagnose import debug_verdict
from marginguard.diagnose.account import AccountFacts, Cause, causes_of, causes_of_error
from marginguard.diagnose.debug_decision import Question, Why, causes_of_decisions, whys_of
from marginguard.diagnose.debug_record import GuardRecord
from marginguard.diagnose.debug_steps import (
    Diagnosis,
    Setup,
    Step,
    StepName,
    StepStatus,
)
from marginguard.domain import margin
from marginguard.domain.coverage import covered_by
from marginguard.domain.decision import Decisions, Verdict
from marginguard.domain.errors import MarginguardError, StaleData
from marginguard.domain.memory import GuardMemory
from marginguard.domain.model import Assessment, Position, PriceQuote
from marginguard.ports import Clock

STEP_TIMEOUT_S: Final = 30.0
_LIQUIDATION_TOLERANCE: Final = 0.005
"""The share by which our liquidation price may differ from the exchange's."""

_Found = tuple[str, tuple[Cause, ...]]


class Live(Protocol):
    """The exchange, asked without changing anything there."""

    async def facts(self) -> AccountFacts:
        """Return what is known of the account; never raises for what the exchange does."""
        ...

    async def positions(self) -> tuple[Position, ...]:
        """Return every running position; raises what reads raise."""
        ...

    async def quote(self) -> PriceQuote:
        """Return the last price; raises what reads raise."""
        ...

    def remarks(self) -> tuple[Cause, ...]:
        """Return what else was noticed about the market's data."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """The daemon's own limits: how old a price may be, and how long a proof may take."""

    stale_after: timedelta
    verify_within: timedelta


class Debugger:
    """Takes the steps for one guard. `live` None: no account is known to ask about."""

    def __init__(
        self,
        setup: Setup,
        live: Live | None,
        record: GuardRecord | None,
        *,
        clock: Clock,
        limits: Limits,
        more: tuple[Cause, ...] = (),
    ) -> None:
        self._setup = setup
        self._live = live
        self._record = record
        self._clock = clock
        self._limits = limits
        self._causes: list[Cause] = []
        self._more = more
        self._facts: AccountFacts | None = None
        self._positions: tuple[Position, ...] | None = None
        self._quote: PriceQuote | None = None
        self._assessed: tuple[Assessment, ...] | None = None
        self._question: Question | None = None
        self._decided: Decisions | None = None

    async def run(self) -> Diagnosis:
        """Take every step for which there is what it needs."""
        steps = [
            await self._take(StepName.CONFIGURATION, self._configuration, None),
            await self._take(StepName.ACCOUNT, self._account, self._unless_live()),
            await self._take(StepName.POSITIONS, self._read_positions, self._unless_live()),
            await self._take(StepName.MARKET, self._market, self._unless_live()),
        ]
        steps.append(await self._take(StepName.MARGINS, self._margins, self._unless_seen()))
        steps.append(await self._take(StepName.THRESHOLDS, self._thresholds, self._unless_ruled()))
        whys: tuple[Why, ...] = ()
        if self._question is not None and self._decided is not None:
            whys = whys_of(self._question, self._decided)
        causes = (*self._causes, *self._more)
        return Diagnosis(
            guard=self._setup.guard_id,
            steps=tuple(steps),
            verdict=debug_verdict.conclude(self._setup, steps, causes, whys, self._record),
        )

    def _unless_live(self) -> str | None:
        if self._live is None:
            return "the configuration names no account that can be asked"
        return None

    def _unless_seen(self) -> str | None:
        if self._positions is None:
            return "the positions are not known"
        return "the price is not known" if self._quote is None else None

    def _unless_ruled(self) -> str | None:
        if self._setup.rules is None:
            return "the guard's configuration is refused, so it has no thresholds"
        return "no margin level is known" if self._assessed is None else None

    async def _take(
        self, name: StepName, work: Callable[[], Awaitable[_Found]], obstacle: str | None
    ) -> Step:
        if obstacle is not None:
            return Step(step=name, status=StepStatus.SKIPPED, message=obstacle)
        began_s = time.monotonic()
        try:
            async with asyncio.timeout(STEP_TIMEOUT_S):
                message, causes = await work()
        except TimeoutError:
            message, causes = "", self._of(StaleData(f"no answer within {STEP_TIMEOUT_S:g} s"))
        except MarginguardError as error:
            message, causes = "", self._of(error)
        self._causes += (cause for cause in causes if cause not in self._causes)
        failures = [cause for cause in causes if not cause.warning]
        return Step(
            step=name,
            status=StepStatus.FAILED if failures else StepStatus.PASSED,
            message=message or None,
            error="; ".join(c.issue for c in failures if c.proved) if failures else None,
            solution="; ".join(dict.fromkeys(c.solution for c in failures if c.proved)) or None,
            seconds=round(time.monotonic() - began_s, 4),
        )

    def _of(self, error: MarginguardError) -> tuple[Cause, ...]:
        offset_s = None if self._facts is None else self._facts.clock_offset_s
        account_id = self._setup.account_id
        assert account_id is not None  # noqa: S101 - without an account nothing is asked
        return causes_of_error(
            error, account_id=account_id, where=self._setup.where, clock_offset_s=offset_s
        )

    async def _configuration(self) -> _Found:
        return self._setup.summary, self._setup.causes

    async def _account(self) -> _Found:
        assert self._live is not None  # noqa: S101 - checked before the step
        facts = self._facts = await self._live.facts()
        message = f"account {facts.account_id} ({facts.where}): {facts.status}"
        if facts.balance is not None:
            message += f", with {facts.balance:,} sats to spend"
        return message, causes_of(facts)

    async def _read_positions(self) -> _Found:
        assert self._live is not None  # noqa: S101 - checked before the step
        positions = self._positions = await self._live.positions()
        rules, memory = self._setup.rules, self._memory
        message = f"{_count(len(positions), 'position')} {_run(len(positions))}"
        if rules is None:
            return message, ()
        selected = [p for p in positions if rules.selects(memory.origin_of(p.id))]
        message += f", {len(selected)} of them selected by the guard"
        return message, tuple(self._missing(positions))

    def _missing(self, positions: tuple[Position, ...]) -> Iterator[Cause]:
        rules = self._setup.rules
        if rules is None or rules.selected is None:
            return
        running = {self._memory.origin_of(position.id) for position in positions}
        there = ", ".join(sorted(position.id for position in positions)) or "none"
        for position_id in sorted(rules.selected - running):
            yield Cause(
                issue=f"position {position_id} of selected_positions does not run on account"
                f" {self._setup.account_id}",
                solution=f"name positions that run ({there}) in selected_positions, or write"
                ' selected_positions = "all"; if it has ended, take it out',
                action="update_selected_positions",
            )

    async def _market(self) -> _Found:
        assert self._live is not None  # noqa: S101 - checked before the step
        quote = await self._live.quote()
        age_s = max(0.0, self._clock.monotonic() - quote.received_s)
        if age_s > self._limits.stale_after.total_seconds():
            raise StaleData(f"the price is {age_s:.1f} s old")
        self._quote = quote
        index = "not known" if quote.index is None else f"{quote.index:,.1f}"
        message = f"last price {quote.last:,.1f} USD, index {index}, {age_s:.1f} s old"
        causes = list(self._live.remarks())
        if not quote.confirmed:
            causes.append(
                Cause(
                    issue="the price jumped and nothing confirms it yet: positions may be closed"
                    " on it, and nothing is spent",
                    solution="compare it with other exchanges; the next prices confirm or drop it",
                    action="wait_and_retry",
                    warning=True,
                )
            )
        return message, tuple(causes)

    async def _margins(self) -> _Found:
        quote, rules = self._quote, self._setup.rules
        assert quote is not None  # noqa: S101 - checked before the step
        covered = self._positions or ()
        if rules is not None:
            covered = covered_by(rules, self._memory, covered, quote.last)
        assessed = self._assessed = tuple(
            margin.assess(position, quote.last, None) for position in covered
        )
        message = f"{_count(len(assessed), 'level')} worked out"
        if assessed:
            worst = max(assessed, key=lambda one: one.level)
            message += f", the highest {margin.show_level(worst.level)} % ({worst.risk.value})"
        causes = [*_disagreements(assessed), *self._beyond_plan(covered)]
        return message, tuple(causes)

    def _beyond_plan(self, covered: tuple[Position, ...]) -> Iterator[Cause]:
        rules = self._setup.rules
        if rules is None:
            return
        guarded = {position.id for position in covered}
        for position in self._positions or ():
            if rules.selects(self._memory.origin_of(position.id)) and position.id not in guarded:
                yield Cause(
                    issue=f"position {position.id} is NOT guarded: the plan covers"
                    f" {_count(rules.max_positions or 0, 'position')}, the riskiest",
                    solution="move the account's user to a larger plan, or guard fewer positions",
                    action="upgrade_plan",
                )

    async def _thresholds(self) -> _Found:
        rules, quote = self._setup.rules, self._quote
        assert rules is not None  # noqa: S101 - checked before the step
        assert quote is not None  # noqa: S101 - checked before the step
        question = self._question = Question(
            rules=rules,
            positions=self._positions or (),
            quote=quote,
            balance=None if self._facts is None else self._facts.balance,
            record=self._record,
            now=self._clock.now(),
            verify_within=self._limits.verify_within,
        )
        decided = self._decided = question.answer()
        breached = [one for one in decided.items if one.verdict is not Verdict.SAFE]
        message = f"{len(breached)} of {_count(len(decided.items), 'position')}"
        message += " at a threshold" if decided.items else ": nothing to hold against a threshold"
        return message, tuple(causes_of_decisions(rules, decided))

    @property
    def _memory(self) -> GuardMemory:
        return GuardMemory() if self._record is None else self._record.memory


def _disagreements(assessed: tuple[Assessment, ...]) -> Iterator[Cause]:
    """Compare our liquidation prices with the exchange's own."""
    for one in assessed:
        ours, theirs = one.liquidation_price, one.position.liquidation_price
        if ours is None or theirs is None or abs(ours - theirs) <= _LIQUIDATION_TOLERANCE * theirs:
            continue
        yield Cause(
            issue=f"position {one.position.id}: liquidation is at {ours:,.1f} by our arithmetic and"
            f" at {theirs:,.1f} by the exchange's",
            solution="go by the exchange's figure, update marginguard, and report this with:"
            " marginguard incident -o FILE",
            action="report_problem",
        )


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _run(number: int) -> str:
    return "runs" if number == 1 else "run"
