"""The unsigned `/simulator` calls, which steer the simulated exchange and look into it."""

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, FiniteFloat, ValidationError

from marginguard.domain.errors import Rejected
from marginguard.domain.units import Price
from marginguard.ports import Clock
from marginguard.simulator.calls import Call, CallRow, Reply
from marginguard.simulator.exchange import Exchange
from marginguard.simulator.faults import Fault, FaultBook
from marginguard.simulator.refusals import bad_request, not_found
from marginguard.simulator.stream_server import StreamFault, StreamServer
from marginguard.simulator.wire import number, state_payload


class _PriceBody(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)
    price: FiniteFloat
    index: FiniteFloat | None = None


class _FundingBody(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)
    rate: FiniteFloat


class _StreamBody(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    fault: StreamFault


_B = TypeVar("_B", bound=BaseModel)


class Control:
    """Carries out `/simulator` calls."""

    def __init__(
        self,
        exchange: Exchange,
        stream: StreamServer,
        faults: FaultBook,
        calls: Sequence[CallRow],
        clock: Clock,
    ) -> None:
        self._exchange = exchange
        self._stream = stream
        self._faults = faults
        self._calls = calls
        self._clock = clock
        self._routes: Mapping[tuple[str, str], Callable[[Call], object]] = {
            ("PUT", "/simulator/price"): self._price,
            ("POST", "/simulator/funding"): self._funding,
            ("POST", "/simulator/faults"): self._fault,
            ("POST", "/simulator/stream"): self._stream_fault,
            ("GET", "/simulator/calls"): self._call_rows,
            ("GET", "/simulator/state"): self._state,
        }

    def process(self, call: Call) -> Reply:
        """Carry out `call` and return the answer; a wrong one is answered with 400 or 404."""
        handle = self._routes.get((call.method, call.path))
        try:
            if handle is None:
                raise not_found(f"{call.method} {call.path} is not a call of the simulator")
            return Reply.of(handle(call))
        except Rejected as refused:
            return Reply.refusal(refused)

    def _price(self, call: Call) -> object:
        wanted = _parse(_PriceBody, call)
        index = None if wanted.index is None else Price(wanted.index)
        self._exchange.set_price(Price(wanted.price), self._clock.now(), index=index)
        answer = {"price": number(self._exchange.last)}
        return answer if index is None else answer | {"index": number(self._exchange.index)}

    def _funding(self, call: Call) -> object:
        wanted = _parse(_FundingBody, call)
        self._exchange.settle_funding(wanted.rate, self._clock.now())
        return {"rate": wanted.rate}

    def _fault(self, call: Call) -> object:
        fault = _parse(Fault, call)
        self._faults.add(fault)
        return fault.model_dump(mode="json", exclude_none=True)

    def _stream_fault(self, call: Call) -> object:
        wanted = _parse(_StreamBody, call)
        self._stream.suffer(wanted.fault)
        return {"fault": wanted.fault}

    def _call_rows(self, _call: Call) -> object:
        return [row.payload() for row in self._calls]

    def _state(self, _call: Call) -> object:
        self._exchange.pass_time(self._clock.now())
        return state_payload(self._exchange)


def _parse(body: type[_B], call: Call) -> _B:
    try:
        return body.model_validate_json(call.body)
    except ValidationError as error:
        problems = (
            f"{'.'.join(map(str, problem['loc'])) or 'body'}: {problem['msg']}"
            for problem in error.errors(include_url=False)
        )
        raise bad_request("; ".join(problems)) from error
