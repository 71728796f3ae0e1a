"""The accounts of the simulated exchange: who may call, and what they can spend."""

from dataclasses import dataclass, field
from fractions import Fraction
from types import MappingProxyType
from typing import Final
from uuid import UUID

from marginguard.domain.units import Sats
from marginguard.simulator.refusals import bad_request

FEE_RATES: Final = MappingProxyType(
    {
        1: Fraction(10, 10_000),
        2: Fraction(8, 10_000),
        3: Fraction(7, 10_000),
        4: Fraction(6, 10_000),
    }
)
"""The share of a fill's value that each fee tier pays."""

DEFAULT_PERMISSIONS: Final = (
    "account:read",
    "futures:isolated:read",
    "futures:isolated:write",
    "futures:cross:read",
    "futures:cross:write",
)
"""What a key may do unless it is told: all that trading needs, no withdrawal."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Credentials:
    """What a client signs its calls with. The secrets stay out of `repr`."""

    key: str
    secret: str = field(repr=False)
    passphrase: str = field(repr=False)


@dataclass(kw_only=True, slots=True)
class Account:
    """One account: its credentials and the sats outside of any margin, never below 0."""

    id: UUID
    credentials: Credentials
    balance: Sats
    fee_tier: int = 1
    permissions: tuple[str, ...] = DEFAULT_PERMISSIONS

    @property
    def key(self) -> str:
        """The API key, which also names the account."""
        return self.credentials.key

    @property
    def fee_rate(self) -> Fraction:
        """The share of a fill's value that this account pays."""
        return FEE_RATES[self.fee_tier]

    def may(self, permission: str) -> bool:
        """Return whether the key has `permission`, itself or within a wider one.

        `futures:read` grants `futures:isolated:read`.
        """
        *scopes, action = permission.split(":")
        return any(
            ":".join([*scopes[:depth], action]) in self.permissions
            for depth in range(1, len(scopes) + 1)
        )

    def pay(self, amount: Sats) -> None:
        """Take `amount` sats from the balance; raises `Rejected` if it does not hold them."""
        if amount > self.balance:
            raise bad_request(f"Insufficient balance: {amount} sats needed, {self.balance} held")
        self.balance = Sats(self.balance - amount)

    def receive(self, amount: Sats) -> None:
        """Add `amount` sats (0 or more) to the balance."""
        self.balance = Sats(self.balance + amount)
