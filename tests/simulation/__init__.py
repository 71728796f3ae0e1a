"""A deterministic simulation: the real engine on a virtual clock, against everything that fails.

A seed decides all: the market, the guards, the faults, the crashes. `World` plays one seed and
returns what was wrong with it; `python -m tests.simulation` plays many, or one again, line by
line.
"""
