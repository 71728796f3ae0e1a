"""Units as types: money is whole sats, prices are USD for one BTC."""

from typing import Final, NewType

Sats = NewType("Sats", int)
"""An amount of money in satoshis; whole, may be negative (a loss)."""

Usd = NewType("Usd", int)
"""A position's quantity in USD contracts; whole and positive."""

Price = NewType("Price", float)
"""USD for one BTC. The exchange quotes steps of 0.5, which a float holds exactly."""

Percent = NewType("Percent", float)
"""A percentage: 100 is all of it."""

AccountId = NewType("AccountId", str)
GuardId = NewType("GuardId", str)
PositionId = NewType("PositionId", str)

CROSS: Final = PositionId("cross")
"""The id of an account's cross position."""

SATS_PER_BTC: Final = 100_000_000
PRICE_STEP: Final = 0.5
