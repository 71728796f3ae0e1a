"""Broken set-ups, each started for real: what a command says of it, and whether the cure works."""
