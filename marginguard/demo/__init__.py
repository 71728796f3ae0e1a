"""A real crash, replayed against the daemon."""
