"""What to write in the place of a name that is not known."""

import difflib
from collections.abc import Iterable
from typing import Final

_FEW: Final = 7
"""How many names are offered where none is like the one that was meant."""


def nearest(wrong: str, known: Iterable[str]) -> str:
    """Return words that offer what is most like `wrong`, or else whatever little there is.

    Empty where there is nothing, or too much, to offer.
    """
    names = sorted(known)
    near = difflib.get_close_matches(wrong, names, n=3, cutoff=0.6)
    if near:
        return f"did you mean {' or '.join(near)}?"
    return f"there are {', '.join(names)}" if 0 < len(names) <= _FEW else ""
