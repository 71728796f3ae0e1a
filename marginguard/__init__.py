"""A daemon that guards leveraged positions on LN Markets against liquidation."""
