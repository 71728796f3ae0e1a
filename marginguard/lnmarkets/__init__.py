"""The client of LN Markets: REST v3."""
