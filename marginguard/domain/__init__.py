"""What a margin guard knows and decides: pure, importing the standard library alone."""
