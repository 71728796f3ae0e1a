"""What systemd hears, over a real socket, and when the watchdog is pinged."""

import os
import socket
import time

import pytest
import structlog

from marginguard.systemd import ServiceManager, Watchdog, watchdog_interval_s
from tests.unit.fakes import FakeClock


class Listener:
    """systemd's end of the socket."""

    def __init__(self, address):
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(address)
        self._socket.setblocking(False)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._socket.close()

    def heard(self):
        messages = []
        while True:
            try:
                messages.append(self._socket.recv(4096).decode())
            except BlockingIOError:
                return messages


@pytest.fixture
def listener(tmp_path):
    with Listener(str(tmp_path / "notify")) as listener:
        listener.environ = {"NOTIFY_SOCKET": str(tmp_path / "notify")}
        yield listener


def test_ready_status_and_stopping_reach_the_socket(listener):
    manager = ServiceManager(listener.environ)
    manager.ready("guards 3 of 3")
    manager.status("blind for 70 s")
    manager.stopping("settling 1 action")
    manager.watchdog()
    assert listener.heard() == [
        "READY=1\nSTATUS=guards 3 of 3",
        "STATUS=blind for 70 s",
        "STOPPING=1\nSTATUS=settling 1 action",
        "WATCHDOG=1",
    ]


def test_an_abstract_socket_is_reached_too():
    name = f"marginguard-test-{os.getpid()}"
    with Listener("\0" + name) as listener:
        ServiceManager({"NOTIFY_SOCKET": "@" + name}).status("guards")
        assert listener.heard() == ["STATUS=guards"]


def test_reloading_comes_with_the_monotonic_time_that_systemd_compares(listener):
    before_us = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1_000
    ServiceManager(listener.environ).reloading()
    after_us = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1_000
    (message,) = listener.heard()
    first, second = message.split("\n")
    assert first == "RELOADING=1"
    key, value = second.split("=")
    assert key == "MONOTONIC_USEC"
    assert before_us <= int(value) <= after_us


def test_a_status_cannot_smuggle_in_another_message(listener):
    ServiceManager(listener.environ).status("the exchange says:\nWATCHDOG=1\r\nREADY=1")
    assert listener.heard() == ["STATUS=the exchange says: WATCHDOG=1 READY=1"]


@pytest.mark.parametrize("environ", [{}, {"NOTIFY_SOCKET": ""}, {"NOTIFY_SOCKET": "vsock:2:1"}])
def test_without_a_usable_socket_nothing_happens_and_nothing_is_said(environ):
    with structlog.testing.capture_logs() as logs:
        manager = ServiceManager(environ)
        manager.ready("guards")
        manager.reloading()
        manager.status("guards")
        manager.watchdog()
        manager.stopping("ends")
    assert logs == []


def test_a_socket_that_is_gone_is_a_warning_and_no_error(tmp_path):
    with structlog.testing.capture_logs() as logs:
        ServiceManager({"NOTIFY_SOCKET": str(tmp_path / "gone")}).ready("guards")
    (event,) = logs
    assert (event["event"], event["log_level"], event["what"]) == (
        "systemd.not_told",
        "warning",
        "READY=1",
    )


def test_a_systemd_that_reads_nothing_does_not_stop_the_daemon(listener):
    manager = ServiceManager(listener.environ)
    with structlog.testing.capture_logs() as logs:
        while not logs:  # until the socket's queue is full
            manager.watchdog()
    assert (logs[0]["event"], logs[0]["error"]) == ("systemd.not_told", "timed out")


def test_a_watchdog_without_a_socket_is_a_warning_that_says_what_to_do():
    with structlog.testing.capture_logs() as logs:
        ServiceManager({"WATCHDOG_USEC": "60000000"})
    (event,) = logs
    assert (event["event"], event["log_level"]) == ("systemd.watchdog_without_socket", "warning")
    assert "Type=notify" in event["advice"]


def test_a_watchdog_with_a_socket_is_no_warning(listener):
    with structlog.testing.capture_logs() as logs:
        ServiceManager({**listener.environ, "WATCHDOG_USEC": "60000000"})
    assert logs == []


@pytest.mark.parametrize(
    ("environ", "expected_s"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "60000000"}, 60.0),
        ({"WATCHDOG_USEC": "1500000", "WATCHDOG_PID": str(os.getpid())}, 1.5),
        ({"WATCHDOG_USEC": "60000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "60000000", "WATCHDOG_PID": ""}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": ""}, None),
        ({"WATCHDOG_USEC": "-1"}, None),
        ({"WATCHDOG_USEC": "one minute"}, None),
    ],
)
def test_the_watchdog_interval_is_read_as_systemd_means_it(environ, expected_s):
    assert watchdog_interval_s(environ) == expected_s


def test_the_watchdog_is_silent_until_a_decision_is_made(listener):
    """Failure 38: a daemon that decides nothing is not kept alive, however long it runs."""
    clock = FakeClock()
    watchdog = Watchdog(ServiceManager(listener.environ), interval_s=60.0, clock=clock)
    clock.advance(1000)
    assert listener.heard() == []
    watchdog.decided()
    assert listener.heard() == ["WATCHDOG=1"]
    clock.advance(1000)
    assert listener.heard() == []


def test_many_decisions_ping_once_in_a_third_of_the_interval(listener):
    clock = FakeClock()
    watchdog = Watchdog(ServiceManager(listener.environ), interval_s=60.0, clock=clock)
    for _ in range(600):  # one minute of ten decisions a second
        watchdog.decided()
        clock.advance(0.1)
    assert listener.heard() == ["WATCHDOG=1"] * 3


def test_without_a_watchdog_no_decision_pings(listener):
    watchdog = Watchdog(ServiceManager(listener.environ), interval_s=None, clock=FakeClock())
    watchdog.decided()
    assert listener.heard() == []
