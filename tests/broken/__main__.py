"""`python -m tests.broken`: break every set-up, have it diagnosed, cure it, and look again."""

import argparse
import asyncio
import sys
import time

from tests.broken.playing import play
from tests.broken.setups import SETUPS
from tests.broken.telling_setups import TELLING_SETUPS

ALL = {**SETUPS, **TELLING_SETUPS}


def main() -> int:
    """Play the set-ups named, or all; return 1 if a cause was missed or a cure did not work."""
    parser = argparse.ArgumentParser(prog="python -m tests.broken", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of: {', '.join(ALL)}")
    chosen = parser.parse_args().names or list(ALL)
    if unknown := set(chosen) - set(ALL):
        parser.error(f"there is no {', '.join(sorted(unknown))}")
    failed = 0
    for name in chosen:
        began_s = time.monotonic()
        try:
            played = asyncio.run(play(ALL[name]))
        except AssertionError as error:
            failed += 1
            print(f"FAILED {name}: {error}")
            continue
        print(f"{name} ({time.monotonic() - began_s:.1f} s): marginguard {played.command}")
        print(f"  cause: {played.issue}\n  cure:  {played.solution} [{played.action}]")
    print(f"{len(chosen) - failed} of {len(chosen)} set-ups: cause named, cure works")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
