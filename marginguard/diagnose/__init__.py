"""Finding out from the record what happened, why, and what to do about it."""
