"""`marginguard recover intents`: the owner says how actions ended that no reading can tell."""

import asyncio
import logging
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import click

from marginguard import logs
from marginguard.app.control_client import ControlClient, Unanswered
from marginguard.cli.common import config_option, json_option
from marginguard.cli.control import AskedInVain
from marginguard.cli.record import WrongUse, echo_json, end_with, opened, say, when
from marginguard.config import Config, load_config
from marginguard.diagnose.story import asked
from marginguard.domain.errors import Refused
from marginguard.domain.records import ActionRecord
from marginguard.domain.units import CROSS
from marginguard.storage.records import load_unsettled_actions

_CHOICES: Final = {"y": True, "n": False, "s": None}


@dataclass(frozen=True, kw_only=True, slots=True)
class _Settled:
    """What came of the owner's word on an action."""

    action: ActionRecord
    applied: bool
    accepted: bool
    answer: str


@click.command(short_help="Settle by your word what no reading can tell.")
@config_option
@click.option(
    "--applied",
    metavar="ID",
    multiple=True,
    help="This action took effect (its id, or the beginning); may be given again.",
)
@click.option(
    "--not-applied",
    metavar="ID",
    multiple=True,
    help="This action did not take effect; may be given again.",
)
@click.option("--dry-run", is_flag=True, help="Only list them.")
@json_option
def recover_intents(
    config_path: Path,
    *,
    applied: Sequence[str],
    not_applied: Sequence[str],
    dry_run: bool,
    as_json: bool,
) -> None:
    """Settle the actions whose outcome the daemon cannot tell, by your word.

    Until then nothing more is spent on their positions. In a terminal it asks for each; elsewhere
    say it by --applied and --not-applied. Exits with 1 while one waits for your word.
    """
    config = load_config(config_path, os.environ)
    logs.configure(environ=os.environ, secrets=config.secret_values(), level=logging.WARNING)
    actions = asyncio.run(_unsettled(config))
    frozen = [action for action in actions if action.frozen]
    others = [action for action in actions if not action.frozen]
    words = _words(frozen, applied, not_applied)
    if not as_json:
        for text, first in _lines(frozen, others):
            say(text, first)
    settled: Sequence[_Settled] = ()
    if not dry_run:
        if not words and not as_json and sys.stdin.isatty():
            words = _prompted(frozen)
        settled = asyncio.run(_settle(config, frozen, words))
    waiting = len(frozen) - sum(one.accepted for one in settled)
    if as_json:
        echo_json(_report(frozen, others, settled, dry_run=dry_run))
    else:
        _tell(settled, waiting, prompted=sys.stdin.isatty())
    end_with(waiting)


async def _unsettled(config: Config) -> tuple[ActionRecord, ...]:
    async with opened(config) as connection:
        return await load_unsettled_actions(connection)


def _words(
    frozen: Sequence[ActionRecord], applied: Sequence[str], not_applied: Sequence[str]
) -> Mapping[str, bool]:
    """Return the owner's word by action; raises `WrongUse` where it names none, or twice."""
    words: dict[str, bool] = {}
    for beginning, word in (
        *((one, True) for one in applied),
        *((one, False) for one in not_applied),
    ):
        ids = [str(action.id) for action in frozen]
        found = [id_ for id_ in ids if beginning and id_.startswith(beginning.lower())]
        if len(found) != 1:
            there = ", ".join(ids) or "none does"
            few = "several actions begin" if found else "no action that waits for your word begins"
            raise WrongUse(f"{few} with {beginning!r}: {there}")
        if words.setdefault(found[0], word) is not word:
            raise WrongUse(f"action {found[0]} is named both as applied and as not applied")
    return words


def _prompted(frozen: Sequence[ActionRecord]) -> Mapping[str, bool]:
    words: dict[str, bool] = {}
    for action in frozen:
        answer: str = click.prompt(
            f"Was {action.id} applied? (y)es, (n)o, (s)kip",
            type=click.Choice(list(_CHOICES)),
            show_choices=False,
            default="s",
        )
        word = _CHOICES[answer]
        if word is not None:
            words[str(action.id)] = word
    return words


async def _settle(
    config: Config, frozen: Sequence[ActionRecord], words: Mapping[str, bool]
) -> list[_Settled]:
    client, settled = ControlClient(config.daemon.state_dir), []
    for action in frozen:
        word = words.get(str(action.id))
        if word is None:
            continue
        try:
            answer, accepted = await client.settle(action.id, applied=word), True
        except Refused as error:
            answer, accepted = str(error), False
        except Unanswered as error:
            raise AskedInVain(str(error)) from error
        settled.append(_Settled(action=action, applied=word, accepted=accepted, answer=answer))
    return settled


def _lines(
    frozen: Sequence[ActionRecord], others: Sequence[ActionRecord]
) -> Iterator[tuple[str, str]]:
    """Yield paragraphs, each with the start of its first line."""
    if frozen:
        yield f"Waiting for your word: {len(frozen)}", ""
    else:
        yield "No action waits for your word.", ""
    for action in frozen:
        before = action.before
        sent = "at an unknown time" if action.sent_at is None else f"{when(action.sent_at)} UTC"
        yield f"{action.id}: {_what(action)}", "- "
        yield f"sent {sent}, answer: {action.outcome or 'none'}; {action.error or ''}", "  "
        yield f"before: margin {before.margin:,} sats, quantity {before.quantity:,} USD", "  "
        yield f"look at the exchange: {_sign(action)}", "  "
    for action in others:
        yield f"{action.id} settles by itself: {_what(action)}, {action.status.value}", "- "


def _what(action: ActionRecord) -> str:
    return (
        f"{asked(action)} on position {action.position_id} of account {action.account_id}, guard"
        f" {action.guard_id}"
    )


def _sign(action: ActionRecord) -> str:
    """Say by what the owner sees whether an action took effect."""
    if action.is_reopening:
        tag = f" with the client id {action.client_id}" if action.client_id else ""
        return f"was a trade opened then{tag}?"
    if action.kind.spends and action.position_id == CROSS:
        return f"was {action.amount:,} sats transferred into the cross margin then?"
    if action.kind.spends:
        return (
            f"did the margin of the trade grow by {action.amount:,} sats then, from"
            f" {action.before.margin:,}?"
        )
    if action.closes:
        return "is the trade closed?"
    return "did this happen then?"


def _tell(settled: Sequence[_Settled], waiting: int, *, prompted: bool) -> None:
    for one in settled:
        say(one.answer if one.accepted else f"refused: {one.answer}")
    if settled:
        accepted = sum(one.accepted for one in settled)
        say(f"{accepted} settled, {len(settled) - accepted} refused, {waiting} still waiting")
    elif waiting and not prompted:
        say("Say how they ended: marginguard recover intents --applied ID --not-applied ID")


def _report(
    frozen: Sequence[ActionRecord],
    others: Sequence[ActionRecord],
    settled: Sequence[_Settled],
    *,
    dry_run: bool,
) -> Mapping[str, object]:
    accepted = {one.action.id for one in settled if one.accepted}
    return {
        "dry_run": dry_run,
        "total": len(frozen),
        "succeeded": len(accepted),
        "failed": len(settled) - len(accepted),
        "waiting": [asdict(action) for action in frozen if action.id not in accepted],
        "settling_by_themselves": [asdict(action) for action in others],
        "results": [
            {
                "action": one.action.id,
                "applied": one.applied,
                "accepted": one.accepted,
                "answer": one.answer,
            }
            for one in settled
        ],
    }
