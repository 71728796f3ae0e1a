"""The one place that wires the parts together."""

from marginguard.app.daemon import Daemon

__all__ = ["Daemon"]
