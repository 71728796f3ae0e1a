"""When a guard's interval falls due: a grid of beats that never drifts, spread over the guards."""

import hashlib

from marginguard.domain.units import GuardId

_STEPS = 2**64


def phase_s(guard_id: GuardId, interval_s: float) -> float:
    """Return how far into the interval the guard's beats lie, from 0 to below `interval_s`.

    By a hash of its id, so that guards do not all begin at once, and the same after a restart.
    """
    digest = hashlib.blake2b(guard_id.encode(), digest_size=8).digest()
    # A large hash times a large interval may round up to the interval itself.
    return int.from_bytes(digest) / _STEPS * interval_s % interval_s


def next_beat_s(after_s: float, *, origin_s: float, interval_s: float) -> float:
    """Return the first beat after `after_s` on the grid of `interval_s` through `origin_s`.

    Every beat is worked out from the origin, so that nothing drifts; none is given twice.
    """
    passed = int((after_s - origin_s) // interval_s)
    # The division may be off by one where `after_s` is a beat itself.
    beats = (origin_s + (passed + more) * interval_s for more in (0, 1, 2))
    return next(beat_s for beat_s in beats if beat_s > after_s)
