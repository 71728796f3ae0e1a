"""The directory that holds whatever the daemon keeps."""

import os
from pathlib import Path


def make_state_dir(state_dir: Path) -> None:
    """Create the state directory if it is missing; an existing one is left as it is.

    It is its owner's alone. Root's can be passed through by others, but not listed: PostgreSQL
    does not run as root, and its data lies within. Raises `OSError`.
    """
    if not state_dir.is_dir():
        state_dir.mkdir(parents=True, exist_ok=True)
        state_dir.chmod(0o711 if os.geteuid() == 0 else 0o700)
