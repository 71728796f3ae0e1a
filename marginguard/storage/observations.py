"""What is seen but need not survive a crash: the newest view of every position, and history."""

import asyncio
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Self

import structlog

from marginguard.aio import sleep_or_stop
from marginguard.domain.errors import DatabaseUnavailable
from marginguard.domain.model import RiskLevel, Sighting
from marginguard.domain.units import AccountId, GuardId, Percent, PositionId
from marginguard.storage.codec import json_rows
from marginguard.storage.database import Pool, acquired
from marginguard.storage.link import DatabaseLink
from marginguard.storage.records import REFUSALS
from marginguard.storage.sql_files import statement

SAMPLE_POINTS = 1.0
SAMPLE_AFTER = timedelta(seconds=60)
MAX_SAMPLES = 10_000
_FLUSH_TIMEOUT_S = 5.0

Seen = Mapping[PositionId, Sighting]
_Row = dict[str, object]


@dataclass(frozen=True, kw_only=True, slots=True)
class _View:
    at: datetime
    seen: Seen


@dataclass(frozen=True, kw_only=True, slots=True)
class _Sample:
    """What the newest sample of a position said."""

    at: datetime
    level: Percent
    risk: RiskLevel
    guard_id: GuardId | None

    @classmethod
    def of(cls, sighting: Sighting, at: datetime) -> Self:
        assessment = sighting.assessment
        return cls(at=at, level=assessment.level, risk=assessment.risk, guard_id=sighting.guard_id)

    def is_outdated_by(self, newer: "_Sample") -> bool:
        """Whether the history needs the newer one as well."""
        return (
            abs(newer.level - self.level) >= SAMPLE_POINTS
            or newer.risk is not self.risk
            or newer.guard_id != self.guard_id
            or newer.at - self.at >= SAMPLE_AFTER
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Checks:
    account_id: AccountId
    count: int
    last_at: datetime


class DatabaseObservations:
    """Implements `ports.Observations`: keeps the newest, and writes it every second or so.

    While the database is away the newest view of every account is kept, and of the history the
    newest samples; only older samples are lost.
    """

    def __init__(
        self, link: DatabaseLink, *, interval_s: float = 1.0, max_samples: int = MAX_SAMPLES
    ) -> None:
        self._log = structlog.get_logger()
        self._link = link
        self._interval_s = interval_s
        self._views: dict[AccountId, _View] = {}
        self._unwritten: set[AccountId] = set()
        self._last_samples: dict[tuple[AccountId, PositionId], _Sample] = {}
        self._samples: deque[_Row] = deque(maxlen=max_samples)
        self._checks: dict[GuardId, _Checks] = {}

    def positions(self, account_id: AccountId, seen: Seen, at: datetime) -> None:
        """Note all running positions of an account; a view older than the last is ignored."""
        last = self._views.get(account_id)
        if last is not None and at < last.at:
            return
        self._views[account_id] = _View(at=at, seen=dict(seen))
        self._unwritten.add(account_id)
        if last is not None:
            for position_id in last.seen.keys() - seen.keys():
                self._last_samples.pop((account_id, position_id), None)
        for position_id, sighting in seen.items():
            sample = _Sample.of(sighting, at)
            newest = self._last_samples.get((account_id, position_id))
            if newest is None or newest.is_outdated_by(sample):
                self._last_samples[account_id, position_id] = sample
                self._samples.append(_history_row(account_id, sighting, at))

    def checked(self, guard_id: GuardId, account_id: AccountId, at: datetime) -> None:
        """Note that a guard looked and had nothing to do."""
        self._count(guard_id, _Checks(account_id=account_id, count=1, last_at=at))

    async def run(self, stop: asyncio.Event) -> None:
        """Write what there is every `interval_s` until `stop` is set, and once more then."""
        while not await sleep_or_stop(self._interval_s, stop):
            await self.flush()
        await self.flush()

    async def flush(self) -> None:
        """Write everything noted in one round trip; what cannot be written now waits."""
        pool = self._link.pool
        if pool is None or not (self._unwritten or self._samples or self._checks):
            return
        accounts, self._unwritten = self._unwritten, set()
        samples = list(self._samples)
        self._samples.clear()
        checks, self._checks = self._checks, {}
        try:
            with self._link.timed("observations"):
                async with asyncio.timeout(_FLUSH_TIMEOUT_S):
                    await self._write(pool, accounts, samples, checks)
        except (DatabaseUnavailable, TimeoutError) as error:
            # The drain tells of the outage. If the commit went through all the same, the rows
            # are written once more without harm, and a few checks are counted twice.
            self._log.debug("observations.not_written", error=str(error))
            self._unwritten |= accounts
            newer = list(self._samples)
            self._samples.clear()
            self._samples.extend([*samples, *newer])
            for guard_id, counted in checks.items():
                self._count(guard_id, counted)

    async def _write(
        self,
        pool: Pool,
        accounts: set[AccountId],
        samples: list[_Row],
        checks: Mapping[GuardId, _Checks],
    ) -> None:
        rows = [
            _position_row(account_id, sighting, self._views[account_id].at)
            for account_id in accounts
            for sighting in self._views[account_id].seen.values()
        ]
        counts = [
            {
                "guard_id": guard_id,
                "account_id": counted.account_id,
                "checks": counted.count,
                "last_checked_at": counted.last_at,
            }
            for guard_id, counted in checks.items()
        ]
        async with acquired(pool) as connection:
            try:
                await connection.execute(
                    statement("flush_observations"),
                    json_rows(sorted(accounts)),
                    json_rows(rows),
                    json_rows(samples),
                    json_rows(counts),
                )
            except REFUSALS as error:
                # It would be refused again for ever, and block everything after it.
                self._log.error(
                    "observations.refused",
                    error=str(error),
                    advice="status may be out of date; report it as a bug of marginguard",
                )

    def _count(self, guard_id: GuardId, more: _Checks) -> None:
        if (known := self._checks.get(guard_id)) is not None:
            more = replace(
                more, count=known.count + more.count, last_at=max(known.last_at, more.last_at)
            )
        self._checks[guard_id] = more


def _history_row(account_id: AccountId, sighting: Sighting, at: datetime) -> _Row:
    assessment = sighting.assessment
    position = assessment.position
    return {
        "account_id": account_id,
        "position_id": position.id,
        "seen_at": at,
        "guard_id": sighting.guard_id,
        "price": assessment.price,
        "margin": position.margin,
        "pl": position.pl,
        "level": assessment.level,
        "risk": assessment.risk,
    }


def _position_row(account_id: AccountId, sighting: Sighting, at: datetime) -> _Row:
    assessment = sighting.assessment
    position = assessment.position
    return {
        **_history_row(account_id, sighting, at),
        "mode": position.mode,
        "side": position.side,
        "quantity": position.quantity,
        "entry_price": position.entry_price,
        "leverage": position.leverage,
        "trigger_price": assessment.trigger_price,
        "liquidation_price": assessment.liquidation_price,
        "liquidation_distance": assessment.liquidation_distance,
        "stop_loss": position.stop_loss,
        "take_profit": position.take_profit,
        "backstop": sighting.backstop,
        "original_margin": sighting.original_margin,
    }
