"""`marginguard demo`: the first thing that anybody tries."""

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest


def demo(*arguments, timeout=120):
    return subprocess.run(
        [sys.executable, "-m", "marginguard", "demo", *arguments],
        capture_output=True,
        text=True,
        timeout=timeout,
    )


@pytest.fixture(scope="module")
def played():
    """Both demos, played side by side: they spend their time waiting for the market."""
    with ThreadPoolExecutor() as threads:
        runs = {
            name: threads.submit(demo, "--json", "--speed", "150", *arguments)
            for name, arguments in {"isolated": [], "cross": ["--cross"]}.items()
        }
        return {name: run.result() for name, run in runs.items()}


@pytest.mark.parametrize("margin", ["isolated", "cross"])
def test_the_guarded_positions_survive_the_crash_and_the_unguarded_one_does_not(margin, played):
    result = played[margin]
    assert result.returncode == 0, result.stderr
    [line] = result.stdout.splitlines()
    summary = json.loads(line)
    assert summary["price_low"] == 6380.0
    assert summary["unguarded"]["liquidated"]
    assert [guarded["action"] for guarded in summary["guarded"]] == ["add_margin", "close_position"]
    for guarded in summary["guarded"]:
        assert not guarded["liquidated"]
        assert guarded["equity"] > summary["unguarded"]["equity"]
        assert all(action["status"] == "done" and action["proof"] for action in guarded["actions"])
        assert guarded["actions"]
    assert summary["executions"] >= 2


def test_a_price_file_with_a_broken_line_is_refused_in_one_line_that_names_it(tmp_path):
    prices = tmp_path / "prices.csv"
    prices.write_text("time,open,high,low,close\n60,100,101,99,100\n120,100,abc,99,100\n")
    result = demo("--prices", str(prices))
    assert result.returncode == 2
    [line] = [line for line in result.stderr.splitlines() if line.startswith("error:")]
    assert str(prices) in line
    assert "line 3" in line
    assert "abc" in line
    assert "Traceback" not in result.stderr
