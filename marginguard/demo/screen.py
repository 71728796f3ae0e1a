"""What the demo shows while it runs, and the table at its end."""

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from marginguard.demo.market import DEPOSIT, LEVERAGE, QUANTITY, THRESHOLD, Holding
from marginguard.demo.play import Scene, Summary
from marginguard.domain.margin import risk_level, show_level
from marginguard.domain.model import RiskLevel
from marginguard.domain.units import Percent

_BAR_WIDTH = 40
_EVENTS_SHOWN = 9
_COLOURS = {
    RiskLevel.SAFE: "green",
    RiskLevel.LOW: "yellow",
    RiskLevel.MEDIUM: "yellow",
    RiskLevel.HIGH: "red",
    RiskLevel.CRITICAL: "bold red",
}
_SEVERITY_COLOURS = {"info": "dim", "warning": "yellow", "critical": "bold red"}


class Screen:
    """Draws scenes as they come: live on a terminal, line by line elsewhere."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live: Live | None = None
        self._events_printed = 0

    @contextmanager
    def showing(self) -> Iterator[None]:
        """Own the screen until the block ends."""
        if not self._console.is_terminal:
            yield
            return
        with Live(console=self._console, refresh_per_second=10, transient=True) as live:
            self._live = live
            try:
                yield
            finally:
                self._live = None

    def say(self, text: str) -> None:
        """Say what is going on before there is a scene."""
        self._console.print(text, style="dim", highlight=False, markup=False)

    def draw(self, scene: Scene) -> None:
        """Show a scene; where there is no live screen, only what is new in it."""
        if self._live is not None:
            self._live.update(_render(scene))
            return
        for severity, text in scene.events[self._events_printed :]:
            self._console.print(
                f"{scene.market_time}  {severity:8}  {text}", highlight=False, markup=False
            )
        self._events_printed = len(scene.events)

    def conclude(self, summary: Summary) -> None:
        """Show what became of the three accounts, and where the records are."""
        self._console.print(_results(summary))
        self._console.print(_actions(summary))
        self._console.print(_honest_words(summary), highlight=False, markup=False)


def _render(scene: Scene) -> RenderableType:
    table = Table.grid(padding=(0, 2))
    for holding in scene.holdings:
        table.add_row(_name(holding), _bar(holding), _figures(holding))
    heading = Text.assemble(
        f"{scene.market_time}   last price ",
        (f"{scene.price:,.1f}", "bold"),
        f"   low {scene.price_low:,.1f}",
    )
    events = Text("\n").join(
        Text(text, style=_SEVERITY_COLOURS.get(severity, ""))
        for severity, text in scene.events[-_EVENTS_SHOWN:]
    )
    return Group(
        Panel(Group(heading, Text(), table), title="margin used up"),
        Panel(events, title="what the daemon tells its owner"),
    )


def _name(holding: Holding) -> Text:
    what = "no guard" if holding.action is None else f"guard: {holding.action.value}"
    return Text.assemble((holding.name, "bold"), f"\n{what}")


def _bar(holding: Holding) -> Text:
    if holding.level is None:
        if holding.liquidated:
            return Text("LIQUIDATED".center(_BAR_WIDTH + 2), style="bold white on red")
        return Text("closed by its guard".center(_BAR_WIDTH + 2), style="black on green")
    colour = _COLOURS[risk_level(Percent(holding.level))]
    filled = min(_BAR_WIDTH, round(holding.level / 100 * _BAR_WIDTH))
    mark = round(THRESHOLD / 100 * _BAR_WIDTH) if holding.action is not None else -1
    bar = Text("[")
    for place in range(_BAR_WIDTH):
        if place == mark:
            bar.append("|", style="bold")
        else:
            bar.append("█" if place < filled else "·", style=colour if place < filled else "dim")
    return bar.append("]")


def _figures(holding: Holding) -> str:
    level = "" if holding.level is None else f"{show_level(Percent(holding.level)):>5} %   "
    runs = holding.level is not None
    liquidation = (
        f"liquidation at {holding.liquidation_price:,.1f}"
        if runs and holding.liquidation_price is not None
        else ""
    )
    return f"{level}equity {holding.equity:,} sats\n{liquidation}"


def _results(summary: Summary) -> Table:
    table = Table(title=f"After the crash (price low {summary.price_low:,.1f})")
    table.add_column("account")
    table.add_column("liquidated")
    table.add_column("sats left", justify="right")
    table.add_column("lost", justify="right")
    table.add_column("actions", justify="right")
    for holding in summary.holdings:
        lost = DEPOSIT - holding.equity
        table.add_row(
            holding.name,
            Text("YES", style="bold red") if holding.liquidated else Text("no", style="green"),
            f"{holding.equity:,}",
            f"{lost:,} ({100 * lost / DEPOSIT:.1f} %)",
            str(len(summary.actions[holding.name])),
        )
    return table


def _actions(summary: Summary) -> Table:
    table = Table(title="Actions in the database, each with its proof")
    for column in ("account", "action", "status", "proof"):
        table.add_column(column, overflow="fold")
    for name, rows in summary.actions.items():
        for row in rows:
            what = row.kind.value + (f" {row.amount:,} sats" if row.amount else "")
            table.add_row(name, what, row.status.value, row.proof or row.error or "")
    return table


def _honest_words(summary: Summary) -> str:
    lines = [
        (
            f"Each account began with {DEPOSIT:,} sats and the same {LEVERAGE}x long of"
            f" {QUANTITY:,} USD{' on cross margin' if summary.cross else ''}."
        )
    ]
    for holding in summary.holdings:
        if holding.action is None:
            lost = "the exchange took its whole margin; what is left was never staked"
            kept = "it came through, by luck: nothing would have stopped its liquidation"
            what = lost if holding.liquidated else kept
        elif holding.liquidated:
            what = "its guard failed"
        elif holding.level is None:
            what = "its loss is taken and no recovery brings it back; nothing more is at risk"
        else:
            what = (
                f"it still holds the position, with {holding.margin:,} sats of margin at risk. If"
                " the price does not come back, all of that can go: adding margin buys time, and"
                " costs more than closing when the fall goes on"
            )
        lines.append(f"{holding.name}: {what}.")
    return "\n".join(lines)
