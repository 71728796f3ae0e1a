"""The engine: when a guard runs, how one run goes, and how an action is carried out."""
