"""`marginguard debug`: the six steps on live data, and why the guard does or does not act."""

import asyncio
import json
import os
import sys

import pytest

from tests.daemons import Market, a_guard, write_config

STEPS = [
    "configuration_validation",
    "account_status",
    "position_data",
    "market_data",
    "margin_calculations",
    "threshold_checks",
]
BREACH = 92_500.0


async def marginguard(*arguments, config, columns=80):
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "marginguard", *arguments, "--config", str(config)),
        env=os.environ | {"COLUMNS": str(columns)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await asyncio.wait_for(process.communicate(), 60)
    assert b"Traceback" not in err, err.decode()
    return process.returncode, out.decode(), err.decode()


async def debugged(config, guard="guard-1"):
    code, out, err = await marginguard("debug", guard, "--json", config=config)
    assert err == ""
    return code, json.loads(out)


async def test_the_steps_have_the_promised_names_and_keys(tmp_path):
    market = Market()
    async with market.open_for_trade():
        code, report = await debugged(write_config(tmp_path, market, a_guard()))
    assert code == 0
    assert list(report) == ["guard", "steps", "verdict"]
    assert report["guard"] == "guard-1"
    assert [step["step"] for step in report["steps"]] == STEPS
    for step in report["steps"]:
        assert list(step) == ["step", "status", "message", "error", "solution", "seconds"]
        assert (step["status"], step["error"], step["solution"]) == ("passed", None, None)
        assert step["seconds"] >= 0
    assert report["steps"][1]["seconds"] > 0


async def test_a_safe_position_is_told_with_the_price_move_that_is_missing(tmp_path):
    market = Market()
    async with market.open_for_trade():
        market.move(99_000.0)
        _, report = await debugged(write_config(tmp_path, market, a_guard(threshold=60)))
    (why,) = report["verdict"]["positions"]
    assert (why["verdict"], why["next_threshold"]) == ("safe", 60.0)
    assert why["level"] == pytest.approx(10.2, abs=0.1)
    # 10x from 100,000: 60 % of the margin is lost where 1/p = 1/100,000 * 1.06.
    assert why["trigger_price"] == pytest.approx(100_000 / 1.06, rel=1e-4)
    assert why["move_usd"] == pytest.approx(why["trigger_price"] - 99_000.0)
    assert why["move_percent"] == pytest.approx(100 * why["move_usd"] / 99_000.0)


async def test_a_breach_is_told_and_not_acted_on(tmp_path):
    market = Market()
    async with market.open_for_trade():
        market.move(BREACH)
        config = write_config(tmp_path, market, a_guard(threshold=60))
        code, report = await debugged(config)
        assert market.server.calls == []
    assert code == 0
    assert not (tmp_path / "state").exists()
    (why,) = report["verdict"]["positions"]
    assert (why["verdict"], why["action"]) == ("act", "close_position")
    assert "has reached the threshold 60 %" in report["verdict"]["summary"]


async def test_what_a_failed_step_keeps_from_being_known_is_skipped(tmp_path):
    market = Market()
    async with market.open_for_trade():
        config = write_config(tmp_path, market, a_guard())
        config.write_text(config.read_text().replace("secret-of-main", "another"))
        code, report = await debugged(config)
    assert code == 1
    assert [step["status"] for step in report["steps"]] == [
        *("passed", "failed", "failed", "passed", "skipped", "skipped")
    ]
    certainties = {one["action"]: one["certainty"] for one in report["verdict"]["findings"]}
    assert certainties["set_network"] == "possible"


async def test_a_guard_that_does_not_exist_is_answered_with_the_nearest_name(tmp_path):
    market = Market()
    async with market.open_for_trade():
        config = write_config(tmp_path, market, a_guard("night-watch") + a_guard("other"))
        code, report = await debugged(config, "nightwatch")
    assert code == 2
    (finding,) = report["verdict"]["findings"]
    assert finding["action"] == "name_guard"
    assert "did you mean night-watch?" in finding["solution"]


async def test_a_configuration_that_is_refused_is_a_failed_first_step(tmp_path):
    config = tmp_path / "config.toml"
    config.write_text("[daemon]\nintervall = '30s'\n")
    code, report = await debugged(config)
    assert code == 2
    assert [step["status"] for step in report["steps"]] == ["failed", *["skipped"] * 5]
    assert "daemon.intervall" in report["steps"][0]["error"]


async def test_it_fits_a_terminal_of_40_columns(tmp_path):
    market = Market()
    async with market.open_for_trade():
        market.move(BREACH)
        config = write_config(tmp_path, market, a_guard(threshold=60))
        _, out, _ = await marginguard("debug", "guard-1", config=config, columns=40)
        _, keys, _ = await marginguard("credentials", config=config, columns=40)
    lines = (out + keys).splitlines()
    # A path or an id is not broken: it could not be copied.
    assert [line for line in lines if len(line) > 40 and " " in line.strip()] == []
    assert "  decision: act:" in out


async def test_a_reader_that_goes_away_is_no_error(tmp_path):
    market = Market()
    async with market.open_for_trade():
        config = write_config(tmp_path, market, a_guard())
        reading, writing = os.pipe()
        os.close(reading)
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "marginguard", "debug", "guard-1", "--config", str(config)),
            stdout=writing,
            stderr=asyncio.subprocess.PIPE,
        )
        os.close(writing)
        _, err = await asyncio.wait_for(process.communicate(), 60)
    assert err == b""


async def test_an_account_that_does_not_exist_is_answered_with_the_nearest_name(tmp_path):
    market = Market()
    async with market.open_for_trade():
        config = write_config(tmp_path, market, a_guard())
        for command in ("credentials", "account"):
            code, out, err = await marginguard(command, "mian", config=config)
            assert (code, out) == (2, "")
            assert "did you mean main" in err


async def test_no_account_at_all_is_a_problem_with_a_cure(tmp_path):
    config = tmp_path / "config.toml"
    config.write_text("")
    code, out, _ = await marginguard("account", "--json", config=config)
    report = json.loads(out)
    assert (code, report["code"]) == (1, "NO_EXCHANGE_ACCOUNTS")
    assert report["findings"][0]["action"] == "add_account"


async def test_an_account_is_told_with_its_balance_plan_and_guards(tmp_path):
    market = Market()
    async with market.open_for_trade():
        config = write_config(tmp_path, market, a_guard(action="add_margin"))
        code, out, _ = await marginguard("account", "--json", config=config)
        balance = market.accounts["main"].balance
    (account,) = json.loads(out)["accounts"]
    assert code == 0
    assert account["status"] == "active"
    assert account["balance_sats"] == balance
    assert (account["plan"], account["guards"]) == ("lifetime", ["guard-1"])
    assert account["may_spend"] is True
