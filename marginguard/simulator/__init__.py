"""A simulated LN Markets, true to its protocol."""
