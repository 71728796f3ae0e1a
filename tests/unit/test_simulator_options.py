"""What `marginguard simulator` refuses before it serves anything."""

import pytest
from click.testing import CliRunner

from marginguard.cli import main

ACCOUNT = ("--account", "key:hidden-secret:hidden-phrase:5000")


def refused(*options: str) -> str:
    """Run the command, which must end with exit 2; return what it says."""
    done = CliRunner().invoke(main, ["simulator", *options])
    assert done.exit_code == 2, done.output
    assert done.stdout == ""
    return done.stderr


@pytest.mark.parametrize(
    "text",
    [
        "key:hidden-secret:hidden-phrase",
        "key:hidden-secret:hidden-phrase:lots",
        "key:hidden-secret:hidden-phrase:-5",
        "key::hidden-phrase:5",
        "key:hidden-secret:hidden-phrase:5:5",
        "key:hidden-secret:hidden-phrase:5:account:read,",
        "key:hidden-secret:hidden-phrase:5:account:read,futures",
        "key:hidden-secret:hidden-phrase:5:account:delete",
        "key:hidden-secret:with-colon:hidden-phrase:5",
    ],
)
def test_every_bad_account_is_one_line_that_shows_no_secret(text):
    """Failure 36: secrets are shown nowhere."""
    said = refused("--port", "0", *ACCOUNT, "--account", text)

    assert said.count("\n") == 1
    assert "--account number 2" in said
    assert "hidden" not in said


def test_a_key_twice_is_refused():
    said = refused("--port", "0", *ACCOUNT, *ACCOUNT)

    assert "'key'" in said
    assert "hidden" not in said


def test_a_broken_price_file_is_named_with_its_line(tmp_path):
    path = tmp_path / "prices.csv"
    path.write_text("time,open,high,low,close\n60,100,120,90,nan\n")

    said = refused("--port", "0", "--prices", str(path))

    assert said.count("\n") == 1
    assert f"{path}, line 2: close 'nan'" in said


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--price", "1", "--walk", "1"), "--price and --walk exclude one another"),
        (("--speed", "2"), "--speed is the speed of --prices"),
        (("--price", "0"), "--price"),
        (("--price", "100.3"), "steps of 0.5"),
        (("--spread", "-1"), "spread"),
        (("--clock-skew", "nan"), "clock skew"),
        (("--clock-skew", "1e9"), "clock skew"),
    ],
)
def test_wrong_options_are_one_clear_line(options, words):
    said = refused("--port", "0", *options)

    assert said.count("\n") == 1
    assert words in said


@pytest.mark.parametrize("speed", ["0", "-1", "nan", "inf"])
def test_a_speed_must_be_above_0(tmp_path, speed):
    path = tmp_path / "prices.csv"
    path.write_text("time,open,high,low,close\n60,100,120,90,110\n")

    assert "--speed" in refused("--port", "0", "--prices", str(path), "--speed", speed)
