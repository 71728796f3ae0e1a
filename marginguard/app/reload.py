"""What a changed configuration changes: in place, by a new session, or at a restart alone."""

from dataclasses import dataclass

from marginguard.app.settings import engine_settings
from marginguard.config import Config


@dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """What it takes to go from one configuration to another.

    `new_session`: exchanges are opened and guards set up anew, what is under way ending first.
    `at_restart` names the tables whose change only a restart of the daemon takes over.
    """

    new_session: bool
    at_restart: tuple[str, ...]


def change_between(old: Config, new: Config) -> Change:
    """Return what it takes to take `new` over; guards, users and plans change in place."""
    fixed = {
        "[daemon] state_dir": old.daemon.state_dir != new.daemon.state_dir,
        "[database]": old.database != new.database,
        "[http]": old.http != new.http,
        "[heartbeat]": old.heartbeat != new.heartbeat,
        "[retention]": old.retention != new.retention,
    }
    timing = engine_settings(old, spending_from_s=0.0) != engine_settings(new, spending_from_s=0.0)
    anew = old.accounts != new.accounts or old.exchange != new.exchange or timing
    return Change(
        new_session=anew, at_restart=tuple(name for name, changed in fixed.items() if changed)
    )
