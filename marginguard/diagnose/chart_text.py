"""The chart of a margin level in characters."""

import itertools
from typing import Final

from marginguard.diagnose.chart import HIGHEST, Chart, y

LEVEL: Final = "•"
WORKED: Final = "▼"
FAILED: Final = "x"
THRESHOLD: Final = "-"
_AXIS_WIDTH: Final = 6
_NARROWEST: Final = 10
_TICK_WIDTH: Final = 16


def draw(chart: Chart, *, width: int, height: int = 16) -> str:
    """Return the chart in `width` columns and about as many lines as `height` says.

    A column shows the highest level of its time. ▼ is an action that worked, x one that did not.
    """
    columns = max(width - _AXIS_WIDTH, _NARROWEST)
    rows = [[" "] * columns for _ in range(height)]

    def row_of(level: float) -> int:
        return height - 1 - round(y(level) * (height - 1))

    def column_of(x: float) -> int:
        return round(x * (columns - 1))

    for threshold in chart.thresholds:
        rows[row_of(threshold)] = [THRESHOLD] * columns
    for column, level in _highest(chart, columns).items():
        rows[row_of(level)][column] = LEVEL
    for mark in chart.marks:
        rows[row_of(mark.level)][column_of(chart.x(mark.at))] = WORKED if mark.worked else FAILED
    labels = {row_of(level): f"{level:g}" for level in (0.0, HIGHEST / 2, HIGHEST)}
    labels |= {row_of(threshold): f"{threshold:g}" for threshold in chart.thresholds}
    lines = [
        f"{labels.get(index, ''):>4} |{''.join(row)}".rstrip() for index, row in enumerate(rows)
    ]
    lines.append(f"{'%':>4} +{'-' * columns}")
    lines.append(_times(chart, columns))
    return "\n".join(lines)


def _highest(chart: Chart, columns: int) -> dict[int, float]:
    """Return the highest level in each column that the line comes through."""
    found: dict[int, float] = {}
    for piece in chart.lines:
        corners = [(round(chart.x(point.at) * (columns - 1)), point.level) for point in piece]
        for column, level in corners:
            found[column] = max(found.get(column, level), level)
        for (left, first), (right, second) in itertools.pairwise(corners):
            for column in range(left + 1, right):
                between = first + (second - first) * (column - left) / (right - left)
                found[column] = max(found.get(column, between), between)
    return found


def _times(chart: Chart, columns: int) -> str:
    line = [" "] * (columns + _AXIS_WIDTH)
    for place, text in chart.ticks(max(2, columns // _TICK_WIDTH)):
        begin = _AXIS_WIDTH + round(place * (columns - len(text)))
        line[begin : begin + len(text)] = text
    return "".join(line).rstrip()
