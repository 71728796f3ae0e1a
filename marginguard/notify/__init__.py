"""How the owner is told."""
