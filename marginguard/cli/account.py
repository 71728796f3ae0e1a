"""`marginguard account`: how each account stands on the exchange."""

from collections.abc import Iterator
from pathlib import Path

import click

from marginguard.cli.accounts import tell
from marginguard.cli.common import config_option, json_option, paragraph
from marginguard.config import Config
from marginguard.diagnose.account import AccountFacts


@click.command()
@click.argument("account", required=False)
@config_option
@json_option
@click.pass_context
def account(ctx: click.Context, account: str | None, config_path: Path, *, as_json: bool) -> None:
    """Say of each account (or of ACCOUNT) how it stands: status, balance, plan and guards.

    Asks the exchange. A cause that its answer does not prove (a suspended account, a missing
    verification) is told as possible.

    Exits with 0 when every account can be guarded, with 1 when not.
    """
    ctx.exit(tell(account, config_path, _words, _figures, as_json=as_json))


def _guards(config: Config, facts: AccountFacts) -> list[str]:
    return [g.id for g in config.guards if g.account == facts.account_id and g.enabled]


def _figures(config: Config, facts: AccountFacts) -> dict[str, object]:
    return {
        "balance_sats": facts.balance,
        "user": config.owners[facts.account_id].id,
        "plan": config.plan_of(facts.account_id).name,
        "guards": _guards(config, facts),
        "may_spend": facts.spends,
    }


def _words(config: Config, facts: AccountFacts) -> Iterator[str]:
    yield paragraph("", f"account {facts.account_id} ({facts.where}): {facts.status}")
    balance = "not known" if facts.balance is None else f"{facts.balance:,} sats to spend"
    yield paragraph("  balance: ", balance)
    user, plan = config.owners[facts.account_id].id, config.plan_of(facts.account_id).name
    yield paragraph("  owner: ", f"{user}, plan {plan}")
    names = _guards(config, facts)
    yield paragraph("  guards: ", ", ".join(names) or "none: its positions are NOT guarded")
