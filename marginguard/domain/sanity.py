"""Whether a price that jumped may be believed."""

from marginguard.domain.units import Percent, Price


def jumps(price: Price, reference: Price, max_jump: Percent) -> bool:
    """Return whether `price` lies more than `max_jump` percent away from `reference`."""
    return abs(price - reference) > reference * max_jump / 100


def is_confirmed(
    *,
    last: Price,
    index: Price,
    accepted: Price | None,
    unconfirmed: Price | None,
    max_jump: Percent,
) -> bool:
    """Return whether something bears out the last price.

    That is the last price `accepted` before it, the `index` read with it, or the price read
    just before it that nothing had confirmed: two readings that agree are no accident. Without
    an accepted price (the first reading) the index decides.
    """
    witnesses = (accepted, index, unconfirmed)
    return any(seen is not None and not jumps(last, seen, max_jump) for seen in witnesses)
