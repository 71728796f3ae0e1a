"""What is seen but need not survive a crash, written to the database every second."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

import structlog

from marginguard.aio import sleep_or_stop
from marginguard.domain.errors import DatabaseUnavailable
from marginguard.domain.model import Assessment
from marginguard.domain.units import AccountId, GuardId, PositionId
from marginguard.storage.codec import json_rows
from marginguard.storage.database import Pool, acquired
from marginguard.storage.statements import statement

FLUSH_EVERY_S: Final = 1.0
SAMPLE_EVERY: Final = timedelta(seconds=60)
SAMPLE_STEP: Final = 1.0
MAX_SAMPLES: Final = 10_000
_LAST_FLUSH_TIMEOUT_S: Final = 2.0

Seen = Mapping[PositionId, tuple[Assessment, GuardId | None]]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Sample:
    """The newest sample of a position in the history."""

    at: datetime
    level: float
    risk: str
    guard_id: GuardId | None


class BufferedObservations:
    """Implements `ports.Observations`: keeps the newest view, and writes it when it can.

    While the database is away the newest view wins, and of the history the newest
    `MAX_SAMPLES` samples are kept.
    """

    def __init__(self) -> None:
        self._views: dict[AccountId, list[dict[str, Any]]] = {}
        self._samples: list[dict[str, Any]] = []
        self._sampled: dict[tuple[AccountId, PositionId], _Sample] = {}
        self._checks: dict[GuardId, dict[str, Any]] = {}
        self._log = structlog.get_logger()

    def positions(self, account_id: AccountId, seen: Seen, at: datetime) -> None:
        """Note all running positions of an account, each with the guard that covers it."""
        self._views[account_id] = [
            _row(account_id, assessment, guard_id, at) for assessment, guard_id in seen.values()
        ]
        for assessment, guard_id in seen.values():
            self._sample(account_id, assessment, guard_id, at)
        for key in [k for k in self._sampled if k[0] == account_id and k[1] not in seen]:
            del self._sampled[key]

    def checked(self, guard_id: GuardId, account_id: AccountId, at: datetime) -> None:
        """Note that a guard looked and had nothing to do."""
        row = self._checks.setdefault(
            guard_id, {"guard_id": guard_id, "account_id": account_id, "checks": 0}
        )
        row["checks"] += 1
        row["last_checked_at"] = at

    async def run(self, pool: Pool, stop: asyncio.Event) -> None:
        """Write what was noted about every second until `stop` is set, and once more then."""
        while not await sleep_or_stop(FLUSH_EVERY_S, stop):
            await self._flush(pool)
        try:
            async with asyncio.timeout(_LAST_FLUSH_TIMEOUT_S):
                await self._flush(pool)
        except TimeoutError:
            self._log.info("observations.unwritten")

    async def _flush(self, pool: Pool) -> None:
        """Write in one round trip; what cannot be written is kept for the next time."""
        if not (self._views or self._checks):
            return
        views, samples, checks = self._views, self._samples, self._checks
        self._views, self._samples, self._checks = {}, [], {}
        try:
            async with acquired(pool) as connection:
                await connection.execute(
                    statement("observations", "flush"),
                    list(views),
                    json_rows([row for rows in views.values() for row in rows]),
                    json_rows(samples),
                    json_rows(list(checks.values())),
                )
        except DatabaseUnavailable as error:
            # The drain speaks of the outage; this is its echo.
            self._log.debug("observations.unwritten", error=str(error))
            self._views = {**views, **self._views}
            self._samples = [*samples, *self._samples][-MAX_SAMPLES:]
            for guard_id, row in checks.items():
                newer = self._checks.setdefault(guard_id, {**row, "checks": 0})
                newer["checks"] += row["checks"]

    def _sample(
        self,
        account_id: AccountId,
        assessment: Assessment,
        guard_id: GuardId | None,
        at: datetime,
    ) -> None:
        key = (account_id, assessment.position.id)
        last = self._sampled.get(key)
        if last is not None and not _worth_a_sample(last, assessment, guard_id, at):
            return
        self._sampled[key] = _Sample(
            at=at, level=assessment.level, risk=assessment.risk.value, guard_id=guard_id
        )
        self._samples.append(
            {
                "account_id": account_id,
                "position_id": assessment.position.id,
                "at": at,
                "guard_id": guard_id,
                "level": assessment.level,
                "risk": assessment.risk.value,
                "price": assessment.price,
                "margin": assessment.position.margin,
            }
        )


def _worth_a_sample(
    last: _Sample, assessment: Assessment, guard_id: GuardId | None, at: datetime
) -> bool:
    return (
        abs(assessment.level - last.level) >= SAMPLE_STEP
        or assessment.risk.value != last.risk
        or guard_id != last.guard_id
        or at - last.at >= SAMPLE_EVERY
    )


def _row(
    account_id: AccountId, assessment: Assessment, guard_id: GuardId | None, at: datetime
) -> dict[str, Any]:
    position = assessment.position
    return {
        "account_id": account_id,
        "position_id": position.id,
        "guard_id": guard_id,
        "mode": position.mode.value,
        "side": position.side.value,
        "quantity": position.quantity,
        "entry_price": position.entry_price,
        "leverage": position.leverage,
        "margin": position.margin,
        "pl": position.pl,
        "price": assessment.price,
        "level": assessment.level,
        "risk": assessment.risk.value,
        "trigger_price": assessment.trigger_price,
        "liquidation_price": assessment.liquidation_price,
        "liquidation_distance": assessment.liquidation_distance,
        "seen_at": at,
    }
