"""`marginguard credentials`: whether the exchange accepts the keys, and whether they suffice."""

from collections.abc import Iterator
from pathlib import Path

import click

from marginguard.cli.accounts import tell
from marginguard.cli.common import config_option, json_option, paragraph
from marginguard.config import Config
from marginguard.diagnose.account import AccountFacts
from marginguard.domain.errors import ErrorCode

_NOT_TOLD = "not told: the exchange's stream alone tells them"


@click.command()
@click.argument("account", required=False)
@config_option
@json_option
@click.pass_context
def credentials(
    ctx: click.Context, account: str | None, config_path: Path, *, as_json: bool
) -> None:
    """Say of each account (or of ACCOUNT) whether its key is good, and what cures it if not.

    Asks the exchange, which has to accept key, secret, passphrase and clock, and says what the
    key may do. A cause that its answer does not prove is told as possible.

    Exits with 0 when every key is good for its guards, with 1 when not.
    """
    ctx.exit(tell(account, config_path, _words, _figures, as_json=as_json))


def _key(facts: AccountFacts) -> str:
    if facts.code is ErrorCode.INVALID_CREDENTIALS:
        return "refused"
    return "not known" if facts.failure is not None else "accepted"


def _figures(_: Config, facts: AccountFacts) -> dict[str, object]:
    return {
        "key": _key(facts),
        "permissions": {
            "granted": None if facts.granted is None else sorted(facts.granted),
            "needed": list(facts.needed),
            "missing": list(facts.missing),
        },
        "clock_offset_s": facts.clock_offset_s,
    }


def _words(_: Config, facts: AccountFacts) -> Iterator[str]:
    yield paragraph("", f"account {facts.account_id} ({facts.where}): key {_key(facts)}")
    granted = _NOT_TOLD if facts.granted is None else ", ".join(sorted(facts.granted)) or "none"
    yield paragraph("  permissions: ", granted)
    yield paragraph("  needed: ", ", ".join(facts.needed))
    if facts.missing:
        yield paragraph("  missing: ", ", ".join(facts.missing))
    offset = "not measured"
    if facts.clock_offset_s is not None:
        offset = f"{facts.clock_offset_s:+.2f} s (the exchange's, against this machine's)"
    yield paragraph("  clock: ", offset)
