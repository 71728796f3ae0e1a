"""The cross positions of all accounts, with their orders, transfers and funding fees."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime
from uuid import UUID

from marginguard.domain.errors import Rejected
from marginguard.domain.units import Price, Sats
from marginguard.simulator import cross
from marginguard.simulator.accounts import Account
from marginguard.simulator.contract import Limit, opposite
from marginguard.simulator.cross import CrossPosition
from marginguard.simulator.events import CrossChanged, CrossEvent, CrossOrderChanged, Event
from marginguard.simulator.funding import FundingFee, Settlement
from marginguard.simulator.history import Stamps
from marginguard.simulator.market import Market
from marginguard.simulator.orders import CrossOrder, CrossRequest, OrderType, Transfer
from marginguard.simulator.refusals import bad_request, not_found


@dataclass(kw_only=True, slots=True)
class _Holding:
    """What one account has on cross margin. Lists are oldest first."""

    account: Account
    position: CrossPosition
    open: dict[UUID, CrossOrder] = field(default_factory=dict)
    filled: list[CrossOrder] = field(default_factory=list)
    canceled: list[CrossOrder] = field(default_factory=list)
    transfers: list[Transfer] = field(default_factory=list)
    funding_fees: list[FundingFee] = field(default_factory=list)
    stamps: Stamps = field(default_factory=Stamps)


class CrossBook:
    """Carries out commands on cross positions, which raise `Rejected` as the exchange refuses.

    A partial reduction at a loss books its loss where `losing_reduction_books_loss`, and else
    carries it in the entry price of what remains. `tell` is told of every change.
    """

    def __init__(
        self,
        market: Market,
        ids: Iterator[UUID],
        *,
        losing_reduction_books_loss: bool,
        tell: Callable[[Event], None],
    ) -> None:
        self._market = market
        self._ids = ids
        self._books_loss = losing_reduction_books_loss
        self._tell = tell
        self._holdings: dict[str, _Holding] = {}

    def add_account(self, account: Account) -> None:
        """Give `account` a flat position."""
        flat = CrossPosition(id=next(self._ids), account=account.key)
        self._holdings[account.key] = _Holding(account=account, position=flat)

    def position(self, account: Account) -> CrossPosition:
        """Return the account's position, which may be flat."""
        return self._holdings[account.key].position

    @property
    def positions(self) -> tuple[CrossPosition, ...]:
        """Every position, flat ones included, in the order of their accounts' making."""
        return tuple(holding.position for holding in self._holdings.values())

    def open_orders(self, account: Account) -> tuple[CrossOrder, ...]:
        """Return the account's orders that wait to be filled, oldest first."""
        return tuple(self._holdings[account.key].open.values())

    def filled_orders(self, account: Account) -> tuple[CrossOrder, ...]:
        """Return the account's filled orders, newest fill first; no two at one time."""
        return tuple(reversed(self._holdings[account.key].filled))

    def canceled_orders(self, account: Account) -> tuple[CrossOrder, ...]:
        """Return the account's canceled orders, newest first."""
        return tuple(reversed(self._holdings[account.key].canceled))

    def transfers(self, account: Account) -> tuple[Transfer, ...]:
        """Return the account's deposits and withdrawals, newest first; no two at one time."""
        return tuple(reversed(self._holdings[account.key].transfers))

    def funding_fees(self, account: Account) -> tuple[FundingFee, ...]:
        """Return what the position paid and received, newest first; no two at one time."""
        return tuple(reversed(self._holdings[account.key].funding_fees))

    def order(self, account: Account, wanted: CrossRequest, now: datetime) -> CrossOrder:
        """Fill an order at the market, or let it wait for its price."""
        if wanted.quantity < 1:
            raise bad_request(f"Quantity must be at least 1 USD, not {wanted.quantity}")
        holding = self._holdings[account.key]
        last = self._market.last
        limit = None if wanted.price is None else Limit.placed(wanted.price, last=last)
        order = CrossOrder(
            id=next(self._ids),
            account=account.key,
            type=OrderType.MARKET if limit is None else OrderType.LIMIT,
            side=wanted.side,
            quantity=wanted.quantity,
            price=self._market.fill_price(wanted.side) if limit is None else limit.price,
            created_at=now,
            client_id=wanted.client_id,
            limit=limit,
        )
        if limit is None or limit.reached_at(last):
            filled = self._filled(holding, order, now, last=last)
            self._liquidate_at(holding, last, now)
            return filled
        holding.open[order.id] = order
        self._tell_of_order(holding, order, CrossEvent.LIMIT, now)
        return order

    def close(self, account: Account, now: datetime) -> CrossOrder:
        """Close the whole position at the market."""
        position = self.position(account)
        if not position.quantity:
            raise bad_request("There is no position to close")
        closing = CrossRequest(side=opposite(position.side), quantity=position.size)
        return self.order(account, closing, now)

    def cancel(self, account: Account, order_id: UUID, now: datetime) -> CrossOrder:
        """Take an open order back."""
        holding = self._holdings[account.key]
        if order_id not in holding.open:
            if any(order.id == order_id for order in (*holding.filled, *holding.canceled)):
                raise bad_request(f"Order {order_id} is not open")
            raise not_found(f"Order {order_id} not found")
        return self._canceled(holding, order_id, now)

    def cancel_all(self, account: Account, now: datetime) -> tuple[CrossOrder, ...]:
        """Take every open order of the account back."""
        holding = self._holdings[account.key]
        return tuple(self._canceled(holding, order_id, now) for order_id in tuple(holding.open))

    def deposit(self, account: Account, amount: Sats, now: datetime) -> CrossPosition:
        """Move `amount` sats (above 0) from the balance into the margin."""
        if amount <= 0:
            raise bad_request("Amount must be above 0 sats")
        account.pay(amount)
        return self._transfer(account, amount, CrossEvent.DEPOSIT, now)

    def withdraw(self, account: Account, amount: Sats, now: datetime) -> CrossPosition:
        """Move `amount` sats (above 0) that the position does not need back to the balance."""
        if amount <= 0:
            raise bad_request("Amount must be above 0 sats")
        left = cross.with_margin(self.position(account), Sats(-amount))
        if left.margin < 0:
            raise bad_request(f"Insufficient margin to withdraw {amount} sats")
        cross.refuse_uncovered(left, self._market.last)
        account.receive(amount)
        return self._transfer(account, Sats(-amount), CrossEvent.WITHDRAW, now)

    def set_leverage(self, account: Account, leverage: int, now: datetime) -> CrossPosition:
        """Set the leverage, a whole number from 1 to 100; the margin stays as it is."""
        holding = self._holdings[account.key]
        changed = cross.with_leverage(holding.position, leverage)
        cross.refuse_too_large(changed)
        if leverage < holding.position.leverage:
            cross.refuse_uncovered(changed, self._market.last)
        return self._keep(holding, changed, CrossEvent.LEVERAGE, now)

    def follow_price(self, before: Price, now: datetime) -> None:
        """Fill and liquidate what the market reached on its way from `before` to the last price.

        What lies nearer to `before` comes first.
        """
        for holding in self._holdings.values():
            self._follow(holding, before, now)

    def settle(self, settlement: Settlement, now: datetime) -> None:
        """Let every position pay or receive funding; one that cannot pay is liquidated."""
        for holding in self._holdings.values():
            before = holding.position
            if before.quantity:
                funded = cross.with_funding(
                    before, rate=settlement.exact_rate, price=settlement.price
                )
                fee = Sats(funded.funding_fees - before.funding_fees)
                holding.funding_fees.append(
                    FundingFee(settlement_id=settlement.id, time=settlement.time, fee=fee)
                )
                self._keep(holding, funded, CrossEvent.FUNDING, now)
                if fee > 0 and funded.margin == 0:
                    self._liquidate(holding, now)
                self._liquidate_at(holding, self._market.last, now)

    def _follow(self, holding: _Holding, before: Price, now: datetime) -> None:
        last = self._market.last
        reached = [o for o in holding.open.values() if o.limit and o.limit.reached_at(last)]
        for order in sorted(reached, key=lambda order: abs(order.price - before)):
            self._liquidate_at(holding, order.price, now)
            try:
                self._filled(holding, order, now, last=order.price)
            except Rejected:
                self._canceled(holding, order.id, now)
        self._liquidate_at(holding, last, now)

    def _filled(
        self, holding: _Holding, order: CrossOrder, now: datetime, *, last: Price
    ) -> CrossOrder:
        """Fill `order` when the last price is `last`; raises `Rejected`, nothing changed."""
        before = holding.position
        position = cross.with_fill(
            before,
            side=order.side,
            quantity=order.quantity,
            price=order.price,
            fee_rate=holding.account.fee_rate,
            losing_reduction_books_loss=self._books_loss,
        )
        if position.quantity * before.quantity < 0 or position.size > before.size:
            cross.refuse_too_large(position)
            cross.refuse_uncovered(position, last)
        filled = replace(
            order,
            trading_fee=Sats(position.trading_fees - before.trading_fees),
            filled_at=holding.stamps.take(now),
        )
        holding.open.pop(order.id, None)
        self._add_filled(holding, filled, now)
        self._keep(holding, position, CrossEvent.NEW, now)
        return filled

    def _add_filled(self, holding: _Holding, order: CrossOrder, now: datetime) -> None:
        holding.filled.append(order)
        self._tell(CrossOrderChanged(order=order, at=now))

    def _canceled(self, holding: _Holding, order_id: UUID, now: datetime) -> CrossOrder:
        order = replace(holding.open.pop(order_id), canceled_at=holding.stamps.take(now))
        holding.canceled.append(order)
        self._tell_of_order(holding, order, CrossEvent.CANCEL, now)
        return order

    def _tell_of_order(
        self, holding: _Holding, order: CrossOrder, event: CrossEvent, now: datetime
    ) -> None:
        self._tell(CrossOrderChanged(order=order, at=now))
        self._tell(CrossChanged(event=event, position=holding.position, at=now))

    def _liquidate_at(self, holding: _Holding, price: Price, now: datetime) -> None:
        if holding.position.is_liquidated_at(price):
            self._liquidate(holding, now)

    def _liquidate(self, holding: _Holding, now: datetime) -> None:
        position = holding.position
        at = holding.stamps.take(now)
        order = CrossOrder(
            id=next(self._ids),
            account=position.account,
            type=OrderType.LIQUIDATION,
            side=opposite(position.side),
            quantity=position.size,
            price=position.liquidation or self._market.last,
            created_at=at,
            client_id=None,
            filled_at=at,
        )
        self._add_filled(holding, order, now)
        self._keep(holding, cross.liquidated(position), CrossEvent.LIQUIDATION, now)

    def _transfer(
        self, account: Account, amount: Sats, event: CrossEvent, now: datetime
    ) -> CrossPosition:
        holding = self._holdings[account.key]
        transfer = Transfer(id=next(self._ids), time=holding.stamps.take(now), amount=amount)
        holding.transfers.append(transfer)
        return self._keep(holding, cross.with_margin(holding.position, amount), event, now)

    def _keep(
        self, holding: _Holding, position: CrossPosition, event: CrossEvent, now: datetime
    ) -> CrossPosition:
        kept = replace(position, updated_at=now, price_at_update=self._market.last)
        holding.position = kept
        self._tell(CrossChanged(event=event, position=kept, at=now))
        return kept
