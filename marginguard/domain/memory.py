"""What a guard remembers between its runs: episodes and what it has spent."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from typing import Self
from uuid import UUID

from marginguard.domain.units import GuardId, Percent, PositionId, Sats

SPENDING_MEMORY = timedelta(hours=24)


@dataclass(frozen=True, kw_only=True, slots=True)
class Episode:
    """One breach of one threshold by one position, until the level is well below it again.

    `last_action_at` and `last_action_level` are of the newest action that took effect or was
    refused; `refusal` says why the newest one did not take effect.
    """

    id: str
    position_id: PositionId
    threshold: Percent
    opened_at: datetime
    last_action_at: datetime | None = None
    last_action_level: Percent | None = None
    refusal: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Spend:
    """Sats that an action took, or may have taken, from the account's balance."""

    action_id: UUID
    position_id: PositionId
    amount: Sats
    at: datetime


@dataclass(frozen=True, kw_only=True, slots=True)
class DayOpening:
    """The account's balance when the guard first looked on a day (UTC)."""

    day: date
    balance: Sats


@dataclass(frozen=True, kw_only=True, slots=True)
class GuardMemory:
    """Open episodes, spending, and the day's opening balance; changed by making a new one."""

    episodes: tuple[Episode, ...] = ()
    spends: tuple[Spend, ...] = ()
    opening: DayOpening | None = None

    def episode(self, position_id: PositionId, threshold: Percent) -> Episode | None:
        """Return the open episode of this position and threshold, if there is one."""
        return next(
            (
                episode
                for episode in self.episodes
                if episode.position_id == position_id and episode.threshold == threshold
            ),
            None,
        )

    def opened(
        self, guard_id: GuardId, position_id: PositionId, threshold: Percent, now: datetime
    ) -> Self:
        """Return the memory with an episode opened at `now`."""
        episode = Episode(
            id=f"{guard_id}/{position_id}/{threshold:g}/{now.isoformat()}",
            position_id=position_id,
            threshold=threshold,
            opened_at=now,
        )
        return replace(self, episodes=(*self.episodes, episode))

    def closed(self, episode: Episode) -> Self:
        """Return the memory without `episode`."""
        return replace(self, episodes=tuple(e for e in self.episodes if e.id != episode.id))

    def intending(self, spend: Spend) -> Self:
        """Return the memory with `spend` counted, since its request may now go out."""
        return replace(self, spends=(*self.spends, spend))

    def acted(
        self, episode_id: str, *, at: datetime, level: Percent, refusal: str | None = None
    ) -> Self:
        """Return the memory of an action that took effect, or was refused with `refusal`."""
        return replace(
            self,
            episodes=tuple(
                replace(e, last_action_at=at, last_action_level=level, refusal=refusal)
                if e.id == episode_id
                else e
                for e in self.episodes
            ),
        )

    def unspent(self, action_id: UUID) -> Self:
        """Return the memory without the spend of an action that certainly did not happen."""
        return replace(
            self, spends=tuple(spend for spend in self.spends if spend.action_id != action_id)
        )

    def observed(
        self, *, now: datetime, balance: Sats | None, running: Iterable[PositionId]
    ) -> Self:
        """Return the memory after a look at the account.

        Takes the day's opening balance at the first look, ends the episodes of positions that
        no longer run, and forgets spending that no budget looks at any more.
        """
        alive = frozenset(running)
        opening = self.opening
        if balance is not None and (opening is None or opening.day != now.date()):
            opening = DayOpening(day=now.date(), balance=balance)
        return replace(
            self,
            opening=opening,
            episodes=tuple(e for e in self.episodes if e.position_id in alive),
            spends=tuple(
                s for s in self.spends if s.position_id in alive or now - s.at < SPENDING_MEMORY
            ),
        )
