"""Where the engine's own log goes during a simulation."""

from contextlib import contextmanager
from logging import CRITICAL

import structlog


@contextmanager
def logging_to(world):
    """Send the engine's own log into the world's, or nowhere."""
    before = structlog.get_config()

    def keep(_logger, method, event):
        text = " ".join(f"{key}={value}" for key, value in event.items() if key != "event")
        world.log(f"  log {method} {event['event']} {text}")
        raise structlog.DropEvent

    def drop(_logger, _method, _event):
        raise structlog.DropEvent

    structlog.configure(
        processors=[drop if world is None else keep],
        wrapper_class=structlog.make_filtering_bound_logger(CRITICAL if world is None else 0),
        cache_logger_on_first_use=False,
    )
    try:
        yield
    finally:
        structlog.configure(**before)
