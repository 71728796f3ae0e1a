"""`python -m marginguard` is `marginguard`."""

from marginguard.cli import main

if __name__ == "__main__":
    main(prog_name="marginguard")
