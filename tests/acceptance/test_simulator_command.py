"""`marginguard simulator` as a process."""

import base64
import hashlib
import hmac
import json
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

import pytest

TIMEOUT_S = 30
ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-m", "marginguard", "simulator"]
ACCOUNT = ("--account", "key:hidden-secret:hidden-phrase:5000")
LISTENING = r'rest_url = "http://(?P<address>[^"]+)/v3", stream_url = "ws://(?P=address)/v1"$'

Start = Callable[..., tuple[subprocess.Popen[str], str]]


@pytest.fixture
def start() -> Iterator[Start]:
    """Start the command on a free port; return the process and its base address."""
    started: list[subprocess.Popen[str]] = []

    def start_it(*options: str) -> tuple[subprocess.Popen[str], str]:
        process = subprocess.Popen(
            [*COMMAND, "--port", "0", *options], stderr=subprocess.PIPE, text=True, cwd=ROOT
        )
        started.append(process)
        for line in process.stderr:
            if (found := re.search(LISTENING, line)) is not None:
                return process, f"http://{found['address']}"
        pytest.fail(f"it ended with {process.wait()} before it listened")

    yield start_it
    for process in started:
        process.kill()
        process.wait()
        process.stderr.close()


def get(url: str):
    with urllib.request.urlopen(url, timeout=TIMEOUT_S) as answer:
        return json.loads(answer.read())


def signed_get(url: str):
    """Return the status and the exchange's code (None: it was carried out)."""
    stamp = str(int(time.time() * 1000))
    text = f"{stamp}get{urlsplit(url).path}"
    digest = hmac.new(b"hidden-secret", text.encode(), hashlib.sha256).digest()
    headers = {
        "lnm-access-key": "key",
        "lnm-access-passphrase": "hidden-phrase",
        "lnm-access-timestamp": stamp,
        "lnm-access-signature": base64.b64encode(digest).decode(),
    }
    request = urllib.request.Request(url, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
            return answer.status, None
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.loads(error.read())["code"]


def refused(*options: str) -> str:
    """Run the command, which must end with exit 2; return what it says."""
    done = subprocess.run(
        [*COMMAND, *options], capture_output=True, text=True, timeout=TIMEOUT_S, cwd=ROOT
    )
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    return done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_serves_until_it_is_told_to_stop(start, number):
    process, base = start(*ACCOUNT, "--price", "65000.5", "--spread", "10")

    ticker = get(f"{base}/v3/futures/ticker")
    (account,) = get(f"{base}/simulator/state")["accounts"]
    process.send_signal(number)

    assert (ticker["lastPrice"], ticker["index"]) == (65_000.5, 65_000.5)
    assert ticker["prices"][0]["askPrice"] - ticker["prices"][0]["bidPrice"] == 10
    assert (account["key"], account["balance"]) == ("key", 5_000)
    assert process.wait(TIMEOUT_S) == 0
    assert process.stderr.read() == ""


def test_a_price_file_is_played_to_its_end(start, tmp_path):
    path = tmp_path / "prices.csv"
    path.write_text("time,open,high,low,close\n60,100,120,90,110\n120,110,110,50,70\n")

    process, base = start("--prices", str(path), "--speed", "600")

    assert "the price stays at 70" in process.stderr.readline()
    assert get(f"{base}/v3/futures/ticker")["lastPrice"] == 70


def test_a_random_walk_moves_and_ends_on_a_signal(start):
    process, base = start("--walk", "7")

    deadline = time.monotonic() + TIMEOUT_S
    while get(f"{base}/simulator/state")["price"] == 100_000:
        assert time.monotonic() < deadline
    process.send_signal(signal.SIGTERM)

    assert process.wait(TIMEOUT_S) == 0


def test_the_clock_is_off_by_as_much_as_is_asked_for(start):
    _, base = start("--clock-skew", "-1000")

    behind = datetime.now(UTC) - datetime.fromisoformat(get(f"{base}/v3/time")["time"])

    assert abs(behind.total_seconds() - 1000) < TIMEOUT_S


def test_a_key_has_the_permissions_it_is_given(start):
    account = ("--account", "key:hidden-secret:hidden-phrase:5000:account:read,futures:write")
    _, base = start(*account)

    granted = signed_get(f"{base}/v3/account")
    refused = signed_get(f"{base}/v3/futures/isolated/trades/running")

    assert granted == (200, None)
    assert refused == (403, "FORBIDDEN")


def test_a_port_in_use_is_one_clear_line():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        said = refused("--port", str(port))

    assert said.count("\n") == 1
    assert f"port {port}: Address already in use" in said


def test_a_bad_account_is_one_line_that_shows_no_secret():
    """Failure 36: secrets are shown nowhere."""
    said = refused("--port", "0", *ACCOUNT, "--account", "key:hidden-secret:hidden-phrase:lots")

    assert said.count("\n") == 1
    assert "--account number 2" in said
    assert "hidden" not in said


def test_an_address_that_others_reach_is_warned_about():
    process = subprocess.Popen(
        [*COMMAND, "--port", "0", "--host", "0.0.0.0"],
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    try:
        first = process.stderr.readline()
        second = process.stderr.readline()
    finally:
        process.kill()
        process.wait()
        process.stderr.close()

    assert first.startswith("warning: --host 0.0.0.0")
    assert "rest_url" in second
