"""A daemon that guards leveraged positions on LN Markets against liquidation."""

__version__ = "0.1.0"
