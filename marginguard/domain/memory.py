"""What a guard remembers between its runs: breaches, spending, lineages, its stop-losses."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from typing import Self
from uuid import UUID

from marginguard.domain.model import ActionKind
from marginguard.domain.units import GuardId, Percent, PositionId, Price, Sats

SPENDING_MEMORY = timedelta(hours=24)

_ENDED_MEMORY = timedelta(hours=1)
"""How long a position that is not among the running ones is kept in mind: a read may be older
than the trade that it does not show."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Setback:
    """A step that the exchange refused: the fallback's turn, until the rung may act again."""

    kind: ActionKind
    at: datetime
    level: Percent
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Episode:
    """One breach of one threshold by one position, until the level is well below it again.

    What is `last` is of the newest action that took effect; `setbacks` are the steps that were
    refused since then.
    """

    id: str
    position_id: PositionId
    threshold: Percent
    opened_at: datetime
    last_action_at: datetime | None = None
    last_action_level: Percent | None = None
    last_action_kind: ActionKind | None = None
    setbacks: tuple[Setback, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Spend:
    """Sats that an action took, or may have taken, from the account's balance.

    `transfer_id` is the transfer that proves a deposit: it must not prove another one.
    """

    action_id: UUID
    position_id: PositionId
    amount: Sats
    at: datetime
    transfer_id: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class DayOpening:
    """The account's balance when the guard first looked on a day (UTC)."""

    day: date
    balance: Sats


@dataclass(frozen=True, kw_only=True, slots=True)
class Lineage:
    """A trade that a reduction reopened: `position_id` now, `origin` at first.

    `original_margin` is what the first trade had when it was first reduced.
    """

    position_id: PositionId
    origin: PositionId
    original_margin: Sats
    at: datetime


@dataclass(frozen=True, kw_only=True, slots=True)
class Backstop:
    """The stop-losses that were asked for on a trade and may stand there: ours, not the user's."""

    position_id: PositionId
    prices: tuple[Price, ...]
    at: datetime


@dataclass(frozen=True, kw_only=True, slots=True)
class GuardMemory:
    """What must outlive a run and a restart; changed by making a new one."""

    episodes: tuple[Episode, ...] = ()
    spends: tuple[Spend, ...] = ()
    opening: DayOpening | None = None
    lineages: tuple[Lineage, ...] = ()
    backstops: tuple[Backstop, ...] = ()

    def lineage(self, position_id: PositionId) -> Lineage | None:
        """Return where a reopened trade comes from; None for one that never was."""
        return next((one for one in self.lineages if one.position_id == position_id), None)

    def origin_of(self, position_id: PositionId) -> PositionId:
        """Return the id that the position had before any reduction reopened it."""
        lineage = self.lineage(position_id)
        return position_id if lineage is None else lineage.origin

    def followed(
        self, before: PositionId, after: PositionId, *, margin: Sats, at: datetime
    ) -> Self:
        """Return the memory after `before` (with `margin`) was reopened as `after`.

        What was spent on the one counts for the other, its breaches go on, and a stop-loss of
        ours that was carried over is still ours.
        """
        if self.lineage(after) is not None:
            return self
        known = self.lineage(before)
        lineage = Lineage(
            position_id=after,
            origin=before if known is None else known.origin,
            original_margin=margin if known is None else known.original_margin,
            at=at,
        )
        others = (one for one in self.lineages if one.position_id != before)
        return replace(
            self,
            lineages=(*others, lineage),
            episodes=tuple(
                replace(e, position_id=after) if e.position_id == before else e
                for e in self.episodes
            ),
            spends=tuple(
                replace(s, position_id=after) if s.position_id == before else s for s in self.spends
            ),
            backstops=tuple(
                replace(b, position_id=after) if b.position_id == before else b
                for b in self.backstops
            ),
        )

    def stop_losses_of(self, position_id: PositionId) -> tuple[Price, ...]:
        """Return the prices at which a stop-loss of ours may stand on this trade."""
        return next((b.prices for b in self.backstops if b.position_id == position_id), ())

    def with_stop_losses(
        self, position_id: PositionId, prices: tuple[Price, ...], at: datetime
    ) -> Self:
        """Return the memory with these as the stop-losses of ours on this trade."""
        others = tuple(b for b in self.backstops if b.position_id != position_id)
        if prices:
            others = (*others, Backstop(position_id=position_id, prices=prices, at=at))
        return replace(self, backstops=others)

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

    def intending(self, spend: Spend) -> Self:
        """Return the memory with `spend` counted, since its request may now go out."""
        return replace(self, spends=(*self.spends, spend))

    def acted(self, episode_id: str, *, kind: ActionKind, at: datetime, level: Percent) -> Self:
        """Return the memory of an action that took effect."""

        def changed(episode: Episode) -> Episode:
            return replace(
                episode,
                last_action_at=at,
                last_action_level=level,
                last_action_kind=kind,
                setbacks=(),
            )

        return self._in_episode(episode_id, changed)

    def refused(self, episode_id: str, setback: Setback) -> Self:
        """Return the memory of a step that was refused."""

        def changed(episode: Episode) -> Episode:
            others = (s for s in episode.setbacks if s.kind is not setback.kind)
            return replace(episode, setbacks=(*others, setback))

        return self._in_episode(episode_id, changed)

    def proved_by(self, action_id: UUID, transfer_id: str) -> Self:
        """Return the memory with the transfer that proves a spend."""
        return replace(
            self,
            spends=tuple(
                replace(s, transfer_id=transfer_id) if s.action_id == action_id else s
                for s in self.spends
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
        no longer run, and forgets what nothing looks at any more.
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
            lineages=tuple(
                one
                for one in self.lineages
                if one.position_id in alive or now - one.at < _ENDED_MEMORY
            ),
            backstops=tuple(
                b for b in self.backstops if b.position_id in alive or now - b.at < _ENDED_MEMORY
            ),
        )

    def _in_episode(self, episode_id: str, changed: Callable[[Episode], Episode]) -> Self:
        return replace(
            self,
            episodes=tuple(changed(e) if e.id == episode_id else e for e in self.episodes),
        )


def open_episode(
    guard_id: GuardId, position_id: PositionId, threshold: Percent, now: datetime
) -> Episode:
    """Return the episode of a breach that begins now."""
    return Episode(
        id=f"{guard_id}/{position_id}/{threshold:g}/{now.isoformat()}",
        position_id=position_id,
        threshold=threshold,
        opened_at=now,
    )
