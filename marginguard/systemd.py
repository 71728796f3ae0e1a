"""What systemd is told: ready, reloading, stopping, a status line, and that decisions are made.

The protocol of sd_notify(3): datagrams to the socket that `NOTIFY_SOCKET` names. Where it names
none, as when the daemon is run by hand, nothing is sent.
"""

import os
import socket
import time
from collections.abc import Mapping
from typing import Final

import structlog

from marginguard.ports import Clock

_SEND_TIMEOUT_S: Final = 0.2
_PINGS_PER_INTERVAL: Final = 3


class ServiceManager:
    """Tells systemd how the daemon does; never raises, and does nothing without systemd."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._address = _socket_address(environ.get("NOTIFY_SOCKET", ""))
        if self._address is None and "WATCHDOG_USEC" in environ:
            structlog.get_logger().warning(
                "systemd.watchdog_without_socket",
                advice="systemd expects watchdog pings and gave no usable $NOTIFY_SOCKET to send"
                " them to, so it will end the daemon again and again: set Type=notify and"
                " NotifyAccess=main in the unit",
            )

    def ready(self, status: str) -> None:
        """Say that the daemon is up, or that it has taken over a new configuration."""
        self._send("READY=1", _status(status))

    def reloading(self) -> None:
        """Say that the configuration is read again; `ready` must follow, whatever comes of it."""
        now_us = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1_000
        self._send("RELOADING=1", f"MONOTONIC_USEC={now_us}")

    def stopping(self, status: str) -> None:
        """Say that the daemon ends."""
        self._send("STOPPING=1", _status(status))

    def status(self, text: str) -> None:
        """Show `text` in `systemctl status`."""
        self._send(_status(text))

    def watchdog(self) -> None:
        """Say that the daemon is alive; for `Watchdog` alone."""
        self._send("WATCHDOG=1")

    def _send(self, *assignments: str) -> None:
        if self._address is None:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
                # Bounded: a service manager that reads nothing must not stop the guarding.
                sender.settimeout(_SEND_TIMEOUT_S)
                sender.connect(self._address)
                sender.sendall("\n".join(assignments).encode())
        except OSError as error:
            structlog.get_logger().warning(
                "systemd.not_told",
                what=assignments[0],
                error=str(error),
                advice="systemd cannot be told how the daemon does; with WatchdogSec= in the unit"
                " it will restart the daemon",
            )


class Watchdog:
    """Pings systemd's watchdog when decisions are made, and only then.

    `interval_s` is the unit's WatchdogSec, and None where there is no watchdog. A ping is sent
    at most once in a third of it, however many decisions there are.
    """

    def __init__(self, manager: ServiceManager, *, interval_s: float | None, clock: Clock) -> None:
        self._manager = manager
        self._clock = clock
        self._spacing_s = None if interval_s is None else interval_s / _PINGS_PER_INTERVAL
        self._pinged_s = float("-inf")

    def decided(self) -> None:
        """Note that a guard has come to a decision, or that none was due; never raises."""
        if self._spacing_s is None:
            return
        now_s = self._clock.monotonic()
        if now_s - self._pinged_s >= self._spacing_s:
            self._pinged_s = now_s
            self._manager.watchdog()


def watchdog_interval_s(environ: Mapping[str, str]) -> float | None:
    """Return within how many seconds systemd expects a ping, or None where it expects none.

    As sd_watchdog_enabled(3): a watchdog that is meant for another process is not ours.
    """
    if environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    microseconds = environ.get("WATCHDOG_USEC", "")
    if not (microseconds.isascii() and microseconds.isdecimal()) or int(microseconds) == 0:
        return None
    return int(microseconds) / 1e6


def _socket_address(name: str) -> str | None:
    """Return the socket's address, or None where there is none that we can reach.

    A leading @ stands for the null byte of an abstract socket.
    """
    if name.startswith("@"):
        return "\0" + name[1:]
    return name if name.startswith("/") else None


def _status(text: str) -> str:
    # A line break would begin another assignment.
    return "STATUS=" + " ".join(text.split())
