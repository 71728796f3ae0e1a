"""One account on the simulated exchange as a process sees it: the `Exchange` port, with faults."""

from dataclasses import replace
from datetime import datetime, timedelta
from fractions import Fraction
from uuid import UUID

from marginguard.domain.errors import Rejected
from marginguard.domain.model import (
    Balance,
    ClosedTrade,
    CrossOrder,
    OrderType,
    Position,
    Transfer,
)
from marginguard.domain.outcome import Outcome, OutcomeKind
from marginguard.domain.units import CROSS
from marginguard.simulator.orders import CrossRequest
from marginguard.simulator.trades import Order
from tests.simulation.figures import closed_trade, cross_order, positions_of
from tests.simulation.ledger import Request, Wish

_CLOCK_SLACK = timedelta(minutes=2)


class SimulatedAccount:
    """Reads and changes one account over a network that fails as `Faults` says."""

    def __init__(self, account_id, world, process):
        self.account_id = account_id
        self._world = world
        self._process = process
        self._faults = world.faults
        # What the process measured of the exchange's clock is not exact.
        self._clock_error = timedelta(seconds=world.faults.clock_error_s())

    async def balance(self, *, max_age_s=0.0):
        return await self._read(
            "balance",
            lambda: Balance(account_id=self.account_id, available=self._account.balance),
        )

    async def running_positions(self, *, max_age_s=0.0):
        positions = await self._read("running_positions", self._running)
        self._process.saw_positions(self.account_id)
        return positions

    async def closed_trade(self, position_id, since):
        start = self._exchange_time(since)
        if position_id == CROSS:
            return await self._read("closed_trade cross", lambda: self._cross_end(start))
        return await self._read(
            f"closed_trade {position_id}",
            lambda: self._closed(start, lambda trade: str(trade.id) == position_id),
        )

    async def closed_by_client_id(self, client_id, since):
        start = self._exchange_time(since)
        return await self._read(
            f"closed_by_client_id {client_id}",
            lambda: self._closed(start, lambda trade: trade.client_id == client_id),
        )

    async def deposits(self, since):
        start = self._exchange_time(since)
        return await self._read("deposits", lambda: self._transfers(start))

    async def cross_order(self, client_id, since):
        start = self._exchange_time(since)
        return await self._read(
            f"cross_order {client_id}", lambda: self._filled_order(client_id, start)
        )

    async def close_position(self, position_id):
        return await self._change(Wish(call="close", position_id=position_id))

    async def add_margin(self, position_id, amount):
        return await self._change(Wish(call="add_margin", position_id=position_id, amount=amount))

    async def reduce_cross(self, side, quantity, client_id):
        return await self._change(
            Wish(
                call="reduce_cross",
                position_id=CROSS,
                amount=quantity,
                client_id=client_id,
                order=side,
            )
        )

    async def open_trade(self, order):
        return await self._change(
            Wish(call="open_trade", position_id="new", client_id=order.client_id, order=order)
        )

    async def set_stop_loss(self, position_id, price):
        return await self._change(Wish(call="set_stop_loss", position_id=position_id, price=price))

    async def resync_clock(self):
        await self._process.step("resync_clock")
        await self._process.pause(self._faults.latency_s())
        self._process.clock_off = False

    @property
    def _account(self):
        return self._world.account(self.account_id)

    @property
    def _exchange(self):
        return self._world.exchange

    def _exchange_time(self, at: datetime) -> datetime:
        """Return what the exchange's clock shows when ours shows `at`, as far as is known."""
        return at - timedelta(seconds=self._world.wall_offset_s) + self._clock_error

    async def _read(self, name, snapshot):
        """Take `snapshot` half-way through a round trip, or fail as a read does."""
        await self._process.step(f"{self.account_id} read {name}")
        fault = self._faults.of_read(name, self.account_id)
        await self._process.pause(fault.delay_s)
        if fault.error is None:
            answer = snapshot()
            await self._process.step(f"{self.account_id} answered {name}")
            await self._process.pause(fault.answer_delay_s)
        await self._process.step(f"{self.account_id} got {name}")
        if fault.error is not None:
            raise fault.error
        return answer

    async def _change(self, wish: Wish) -> Outcome:
        """Send `wish` once. Sent, it is the exchange's business, whatever becomes of us."""
        process = self._process
        await process.step(f"{self.account_id} ask {wish}")
        fate = self._faults.of_change(wish, self.account_id, clock_off=process.clock_off)
        # The call may wait for the limits before it is signed.
        await process.pause(fate.wait_s)
        if fate.kind is OutcomeKind.NOT_SENT:
            await process.step(f"{self.account_id} could not send {wish}")
            return _outcome(fate)
        request = self._world.signed(wish, self.account_id)
        answer = process.future()
        if fate.processed_after_s is not None:
            self._world.agenda.after(fate.processed_after_s, lambda: self._carry_out(request))
        self._world.agenda.after(
            fate.answer_after_s, lambda: process.wake(answer, self._answer(request, fate))
        )
        await process.step(f"{self.account_id} sent {wish}")
        outcome = await answer
        await process.step(f"{self.account_id} {wish}: {outcome.kind.value}")
        if outcome.kind is not OutcomeKind.AMBIGUOUS:
            request.settled = True
        return outcome

    def _answer(self, request: Request, fate) -> Outcome:
        if fate.kind is OutcomeKind.DONE and request.refusal is not None:
            return Outcome(kind=OutcomeKind.REJECTED, detail=request.refusal)
        return _outcome(fate, request.exchange_id)

    def _carry_out(self, request: Request) -> None:
        world, wish = self._world, request.wish
        try:
            request.exchange_id = self._do(wish)
        except Rejected as refusal:
            request.refusal = str(refusal)
            world.log(f"exchange refused {self.account_id} {wish}: {refusal}")
            return
        request.applied_s = world.agenda.now_s
        world.log(f"exchange carried out {self.account_id} {wish}")
        world.applied(request)

    def _do(self, wish: Wish) -> str | None:
        exchange, account, now = self._exchange, self._account, self._world.true_time()
        cross = wish.position_id == CROSS
        if wish.call == "close":
            if cross:
                return str(exchange.cross.close(account, now).id)
            return str(exchange.close_trade(account, UUID(wish.position_id), now).id)
        if wish.call == "add_margin":
            if cross:
                exchange.cross.deposit(account, wish.amount, now)
            else:
                exchange.add_margin(account, UUID(wish.position_id), wish.amount)
            return None
        if wish.call == "reduce_cross":
            order = CrossRequest(side=wish.order, quantity=wish.amount, client_id=wish.client_id)
            return str(exchange.cross.order(account, order, now).id)
        if wish.call == "open_trade":
            return str(exchange.open_trade(account, _order(wish.order), now).id)
        exchange.set_stop_loss(account, UUID(wish.position_id), wish.price)
        return None

    def _running(self) -> tuple[Position, ...]:
        return positions_of(self._exchange, self._account)

    def _closed(self, start, wanted) -> ClosedTrade | None:
        for trade in self._exchange.closed_trades(self._account):
            if wanted(trade):
                return None if trade.closing.at < start - _CLOCK_SLACK else closed_trade(trade)
        return None

    def _cross_end(self, start) -> ClosedTrade | None:
        filled = [o for o in self._orders() if o.filled_at >= start]
        if not filled:
            return None
        last = max(filled, key=lambda order: order.filled_at)
        return ClosedTrade(
            id=CROSS,
            exit_price=last.price,
            pl=None,
            closed_at=last.filled_at,
            liquidated=last.type is OrderType.LIQUIDATION,
        )

    def _filled_order(self, client_id, start) -> CrossOrder | None:
        return next(
            (o for o in self._orders() if o.client_id == client_id and o.filled_at >= start), None
        )

    def _orders(self) -> list[CrossOrder]:
        return [cross_order(o) for o in self._exchange.cross.filled_orders(self._account)]

    def _transfers(self, start) -> tuple[Transfer, ...]:
        return tuple(
            Transfer(id=str(transfer.id), amount=transfer.amount, at=transfer.time)
            for transfer in self._exchange.cross.transfers(self._account)
            if transfer.time >= start
        )


class SimulatedPrices:
    """The market's price as a process gets it: the `PriceSource` port, with faults."""

    def __init__(self, world, process):
        self._world = world
        self._process = process

    async def quote(self):
        await self._process.step("read price")
        fault = self._world.faults.of_price()
        asked_s = self._world.agenda.now_s
        await self._process.pause(fault.delay_s)
        await self._process.step("got price")
        if fault.error is not None:
            raise fault.error
        quote = replace(
            self._world.quote(), received_s=asked_s - fault.stale_s, confirmed=fault.confirmed
        )
        if fault.factor != 1.0:
            quote = replace(quote, last=round(quote.last * fault.factor * 2) / 2)
        if fault.is_sight:
            self._process.saw_price()
        return quote

    def bear_out(self, position):
        """The world knows which price is true."""


def _order(order) -> Order:
    return Order(
        side=order.side,
        leverage=Fraction(str(order.leverage)),
        quantity=order.quantity,
        stop_loss=order.stop_loss,
        take_profit=order.take_profit,
        client_id=order.client_id,
    )


def _outcome(fate, exchange_id: str | None = None) -> Outcome:
    return Outcome(
        kind=fate.kind,
        detail=fate.detail,
        exchange_id=exchange_id if fate.kind is OutcomeKind.DONE else None,
        retry_after_s=fate.retry_after_s,
        unauthorized=fate.unauthorized,
    )
