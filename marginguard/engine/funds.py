"""Whether an account's balance pays for what its guards would spend next, and telling if not."""

from collections.abc import Callable, Collection
from uuid import UUID

from marginguard.domain.funds import Shortfall
from marginguard.domain.units import AccountId, GuardId, Price
from marginguard.engine import telling_risk
from marginguard.engine.reminder import Reminder
from marginguard.ports import Clock, Notifier

BALANCE_LOW_REPEAT_S = 6 * 3600.0
"""How often a balance that is too low is spoken of again."""


class Funds:
    """Tells of one account's balance: that it is too low for a guard, and that it is enough."""

    def __init__(
        self,
        *,
        account_id: AccountId,
        notifier: Notifier,
        clock: Clock,
        new_id: Callable[[], UUID],
    ) -> None:
        self._account_id = account_id
        self._notifier = notifier
        self._clock = clock
        self._new_id = new_id
        self._short: dict[GuardId, Shortfall] = {}
        self._told = Reminder(repeat_s=BALANCE_LOW_REPEAT_S)

    def keep_to(self, guard_ids: Collection[GuardId]) -> None:
        """Forget the guards that look after the account no more."""
        for guard_id in self._short.keys() - frozenset(guard_ids):
            self.forget(guard_id)

    def forget(self, guard_id: GuardId) -> None:
        """Forget what a guard lacks: it spends nothing for now."""
        self._short.pop(guard_id, None)
        if not self._short:
            self._told.forget(self._account_id)

    def report(self, guard_id: GuardId, short: Shortfall | None, price: Price) -> None:
        """Take in what a guard lacks by a balance just read (None: nothing), and the price."""
        was_low = bool(self._short)
        if short is not None:
            self._short[guard_id] = short
            if self._told.due(self._account_id, "low", self._clock.monotonic()):
                self._notifier.tell(
                    telling_risk.of_balance_low(
                        short,
                        guard_id,
                        self._account_id,
                        price=price,
                        notice_id=self._new_id(),
                        at=self._clock.now(),
                    )
                )
            return
        self._short.pop(guard_id, None)
        if was_low and not self._short:
            self._told.forget(self._account_id)
            self._notifier.tell(
                telling_risk.of_balance_enough(
                    self._account_id, notice_id=self._new_id(), at=self._clock.now()
                )
            )
