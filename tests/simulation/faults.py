"""What goes wrong: drawn from a seed, and counted."""

import random
from collections import Counter
from dataclasses import dataclass

from marginguard.domain.errors import (
    Malformed,
    MarginguardError,
    Transient,
    Unauthorized,
    Unreachable,
)
from marginguard.domain.outcome import OutcomeKind
from tests.simulation.ledger import MOST_LATE_S, Wish

HTTP_TIMEOUT_S = 5.0


@dataclass(frozen=True, kw_only=True)
class ReadFault:
    """How one read goes: the time to the exchange and back, and the error it ends with."""

    delay_s: float
    answer_delay_s: float = 0.0
    error: MarginguardError | None = None


@dataclass(frozen=True, kw_only=True)
class PriceFault:
    """How one look at the price goes; `factor` falsifies it, `stale_s` makes it old."""

    delay_s: float
    error: MarginguardError | None = None
    stale_s: float = 0.0
    factor: float = 1.0
    confirmed: bool = True

    @property
    def is_sight(self) -> bool:
        """Whether whoever gets this sees a price, be it a false one."""
        return self.error is None and self.stale_s == 0.0


@dataclass(frozen=True, kw_only=True)
class Fate:
    """How one call that changes something goes. Times count from its signing.

    `processed_after_s` None means that the exchange never carries it out.
    """

    name: str
    kind: OutcomeKind
    detail: str
    wait_s: float
    answer_after_s: float
    processed_after_s: float | None
    retry_after_s: float | None = None
    unauthorized: bool = False


@dataclass(frozen=True, kw_only=True)
class Weather:
    """How often things fail, as shares of 1, and which fates calls have, by weight."""

    reads: float = 0.0
    prices: float = 0.0
    changes: float = 0.0
    slow: float = 0.0
    fates: tuple[tuple[str, float], ...] = ()


FATES = (
    "not_sent",
    "busy",
    "busy_retry_after",
    "rejected",
    "clock_off",
    "lost",
    "applied_unheard",
    "late",
    "very_late",
    "garbled",
)


class Faults:
    """Draws faults while `on`, and notes when the last one was.

    `blackout_until_s`, `key_refused_until_s` and `database_slow_until_s` are spells of weather,
    set by the scenario.
    """

    def __init__(self, seed: str, weather: Weather, agenda, counts: Counter, log) -> None:
        self._random = random.Random(f"{seed}/faults")
        self._weather = weather
        self._agenda = agenda
        self._counts = counts
        self._log = log
        self.on = True
        self.last_s = float("-inf")
        self.blackout_until_s = float("-inf")
        self.key_refused_until_s = float("-inf")
        self.database_slow_until_s = float("-inf")
        self.disk_full_until_s = float("-inf")

    def happened(self, name: str) -> None:
        """Note a fault."""
        self.last_s = self._agenda.now_s
        self._counts[f"fault {name}"] += 1
        self._log(f"fault: {name}")

    def within(self, until_s: float) -> bool:
        """Whether a spell that lasts until then is on."""
        return self.on and self._agenda.now_s < until_s

    def clock_error_s(self) -> float:
        return self._random.uniform(-0.2, 0.2)

    def latency_s(self) -> float:
        """Return one way over the network."""
        if self.on and self._random.random() < self._weather.slow:
            self.happened("slow")
            return self._random.uniform(0.5, 2.4)
        return self._random.uniform(0.005, 0.06)

    def write_s(self) -> float:
        """Return how long the disk takes."""
        return self._random.uniform(0.0005, 0.004)

    def survivors(self, count: int) -> int:
        """Return how many of `count` records that are being written a crash leaves."""
        return self._random.randint(0, count)

    def of_read(self, name: str, account_id: str) -> ReadFault:
        """Draw how a read goes."""
        if self.within(self.key_refused_until_s):
            self.happened("read unauthorized")
            refused = Unauthorized("refused", status=401, code="UNAUTHORIZED")
            return ReadFault(delay_s=self.latency_s(), error=refused)
        dark = self.within(self.blackout_until_s)
        if dark or (self.on and self._random.random() < self._weather.reads):
            kind = (
                "unreachable"
                if dark
                else self._random.choice(("unreachable", "timeout", "transient", "malformed"))
            )
            self.happened(f"read {kind}")
            delay_s = HTTP_TIMEOUT_S if kind == "timeout" else self.latency_s()
            error: MarginguardError = {
                "unreachable": Unreachable(f"{name}: connection refused"),
                "timeout": Unreachable(f"{name}: no answer within {HTTP_TIMEOUT_S:g} s"),
                "transient": Transient(f"{name}: 503"),
                "malformed": Malformed(f"{name}: not JSON"),
            }[kind]
            return ReadFault(delay_s=delay_s, error=error)
        return ReadFault(delay_s=self.latency_s(), answer_delay_s=self.latency_s())

    def of_price(self) -> PriceFault:
        """Draw how a look at the price goes."""
        delay_s = self._random.uniform(0.0, 0.05)
        dark = self.within(self.blackout_until_s)
        if not dark and not (self.on and self._random.random() < self._weather.prices):
            return PriceFault(delay_s=delay_s)
        kind = (
            "unreachable"
            if dark
            else self._random.choice(("unreachable", "timeout", "stale", "absurd", "unconfirmed"))
        )
        self.happened(f"price {kind}")
        if kind == "stale":
            return PriceFault(delay_s=delay_s, stale_s=self._random.uniform(5.5, 60.0))
        if kind == "absurd":
            factor = self._random.choice((0.01, 0.7, 0.9, 1.1, 1.5, 20.0))
            return PriceFault(delay_s=delay_s, factor=factor, confirmed=False)
        if kind == "unconfirmed":
            return PriceFault(delay_s=delay_s, confirmed=False)
        if kind == "timeout":
            delay_s = HTTP_TIMEOUT_S
        return PriceFault(delay_s=delay_s, error=Unreachable(f"the price: {kind}"))

    def of_change(self, wish: Wish, account_id: str, *, clock_off: bool) -> Fate:
        """Draw how a call that changes something goes."""
        wait_s = self._random.uniform(0.0, 1.5) if self._random.random() < 0.1 else 0.0
        answer_s = 2 * self.latency_s()
        if self.within(self.key_refused_until_s) or (clock_off and self.on):
            return self._made("unauthorized", wait_s, answer_s)
        if self.within(self.blackout_until_s):
            return self._made("not_sent", wait_s, answer_s)
        if not (self.on and self._random.random() < self._weather.changes):
            return self._made("done", wait_s, answer_s)
        names, weights = zip(*self._weather.fates, strict=True)
        return self._made(self._random.choices(names, weights)[0], wait_s, answer_s)

    def _made(self, name: str, wait_s: float, answer_s: float) -> Fate:
        draw = self._random
        kind, detail = _KINDS[name]
        self._counts[f"fate {name}"] += 1
        if name != "done":
            self.happened(f"change {name}")
        processed_after_s = {
            "done": answer_s / 2,
            "garbled": answer_s / 2,
            "applied_unheard": draw.uniform(0.0, HTTP_TIMEOUT_S),
            "late": draw.uniform(0.0, 12.0),
            "very_late": draw.uniform(12.0, MOST_LATE_S),
        }.get(name)
        timed_out = name in {"lost", "applied_unheard", "late", "very_late"}
        if timed_out:
            # Either the connection breaks at some time, or nobody waits any longer.
            broken = draw.random() < 0.5
            answer_s = draw.uniform(0.01, HTTP_TIMEOUT_S) if broken else HTTP_TIMEOUT_S
        return Fate(
            name=name,
            kind=kind,
            detail=detail,
            wait_s=wait_s,
            answer_after_s=answer_s,
            processed_after_s=processed_after_s,
            retry_after_s=draw.uniform(0.0, 9.0) if name == "busy_retry_after" else None,
            unauthorized=name in {"unauthorized", "clock_off"},
        )


_KINDS = {
    "done": (OutcomeKind.DONE, "done"),
    "not_sent": (OutcomeKind.NOT_SENT, "connection refused"),
    "busy": (OutcomeKind.BUSY, "503 by the exchange's own code"),
    "busy_retry_after": (OutcomeKind.BUSY, "429"),
    "rejected": (OutcomeKind.REJECTED, "400 for no good reason"),
    "clock_off": (OutcomeKind.REJECTED, "401 UNAUTHORIZED: the timestamp is off"),
    "unauthorized": (OutcomeKind.REJECTED, "401 UNAUTHORIZED"),
    "lost": (OutcomeKind.AMBIGUOUS, "no answer, and never carried out"),
    "applied_unheard": (OutcomeKind.AMBIGUOUS, "no answer"),
    "late": (OutcomeKind.AMBIGUOUS, "no answer"),
    "very_late": (OutcomeKind.AMBIGUOUS, "no answer"),
    "garbled": (OutcomeKind.AMBIGUOUS, "an answer that does not parse"),
}
