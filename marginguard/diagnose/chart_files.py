"""The chart of a margin level as a picture: SVG by hand, PNG by Pillow."""

from collections.abc import Iterator
from io import BytesIO
from typing import Final, NamedTuple
from xml.sax.saxutils import escape

from marginguard.diagnose.chart import HIGHEST, Chart, y

WIDTH: Final = 1200
HEIGHT: Final = 600
_LEFT: Final = 60
_RIGHT: Final = 24
_TOP: Final = 56
_BOTTOM: Final = 48
_TEXT_SIZE: Final = 16
_TITLE_SIZE: Final = 20
_TICKS: Final = 7
_LABELS: Final = 8
"""How many actions are named in the picture: more names would lie over one another."""
_EDGE: Final = 0.15
_INK: Final = "#202020"
_GRID: Final = "#d8d8d8"
_LINE: Final = "#1f5fbf"
_RED: Final = "#c62828"
_GREEN: Final = "#2e7d32"

_Place = tuple[float, float]


class _Line(NamedTuple):
    points: tuple[_Place, ...]
    colour: str
    width: int


class _Dot(NamedTuple):
    centre: _Place
    radius: float
    colour: str
    text: str


class _Text(NamedTuple):
    place: _Place
    text: str
    size: int
    anchor: str
    colour: str


_Shape = _Line | _Dot | _Text
_SVG_ANCHORS: Final = {"l": "start", "m": "middle", "r": "end"}


def svg(chart: Chart) -> bytes:
    """Return the chart as an SVG picture; hovering over an action tells what it was."""
    body = "\n".join(_svg_of(shape) for shape in _shapes(chart))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}"'
        f' font-family="sans-serif">\n<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>\n'
        f"{body}\n</svg>\n"
    ).encode()


def png(chart: Chart) -> bytes:
    """Return the chart as a PNG picture. Raises `ImportError` where Pillow is not installed."""
    from PIL import Image, ImageDraw, ImageFont  # noqa: PLC0415 - an extra that few need

    image = Image.new("RGB", (WIDTH, HEIGHT), "white")
    draw = ImageDraw.Draw(image)
    for shape in _shapes(chart):
        match shape:
            case _Line(points, colour, width):
                draw.line(points, fill=colour, width=width, joint="curve")
            case _Dot((x, y_), radius, colour, _):
                box = (x - radius, y_ - radius, x + radius, y_ + radius)
                draw.ellipse(box, fill=colour)
            case _Text(place, text, size, anchor, colour):
                font = ImageFont.load_default(size)
                draw.text(place, text, fill=colour, font=font, anchor=f"{anchor}s")
    file = BytesIO()
    image.save(file, format="PNG", optimize=True)
    return file.getvalue()


def _svg_of(shape: _Shape) -> str:
    match shape:
        case _Line(points, colour, width):
            places = " ".join(f"{x:.1f},{y_:.1f}" for x, y_ in points)
            return (
                f'<polyline points="{places}" fill="none" stroke="{colour}"'
                f' stroke-width="{width}"/>'
            )
        case _Dot((x, y_), radius, colour, text):
            return (
                f'<circle cx="{x:.1f}" cy="{y_:.1f}" r="{radius:g}" fill="{colour}">'
                f"<title>{escape(text)}</title></circle>"
            )
        case _Text((x, y_), text, size, anchor, colour):
            return (
                f'<text x="{x:.1f}" y="{y_:.1f}" font-size="{size}" fill="{colour}"'
                f' text-anchor="{_SVG_ANCHORS[anchor]}">{escape(text)}</text>'
            )


def _shapes(chart: Chart) -> Iterator[_Shape]:
    """Yield everything that is drawn, what lies behind first."""
    left, right = float(_LEFT), float(WIDTH - _RIGHT)
    bottom = float(HEIGHT - _BOTTOM)

    def down(level: float) -> float:
        return bottom - y(level) * (bottom - _TOP)

    def across(place: float) -> float:
        return left + place * (right - left)

    yield _Text((left, _TOP - 24.0), chart.title, _TITLE_SIZE, "l", _INK)
    for level in (0.0, HIGHEST / 4, HIGHEST / 2, 3 * HIGHEST / 4, HIGHEST):
        yield _Line(((left, down(level)), (right, down(level))), _GRID, 1)
        yield _Text((left - 8.0, down(level) + 5), f"{level:g} %", _TEXT_SIZE, "r", _INK)
    for place, text in chart.ticks(_TICKS):
        anchor = "l" if place == 0 else "r" if place == 1 else "m"
        yield _Text((across(place), bottom + 24.0), text, _TEXT_SIZE, anchor, _INK)
    for threshold in chart.thresholds:
        yield _Line(((left, down(threshold)), (right, down(threshold))), _RED, 1)
        words = f"threshold {threshold:g} %"
        yield _Text((right - 4.0, down(threshold) - 4), words, _TEXT_SIZE, "r", _RED)
    for piece in chart.lines:
        points = tuple((across(chart.x(point.at)), down(point.level)) for point in piece)
        if len(points) > 1:
            yield _Line(points, _LINE, 2)
        else:
            yield _Dot(points[0], 2.0, _LINE, "")
    for mark in chart.marks:
        place, colour = chart.x(mark.at), _GREEN if mark.worked else _RED
        centre = (across(place), down(mark.level))
        yield _Dot(centre, 6.0, colour, f"{mark.at:%H:%M:%S} {mark.text}")
        if len(chart.marks) <= _LABELS:
            anchor = "l" if place < _EDGE else "r" if place > 1 - _EDGE else "m"
            yield _Text((centre[0], centre[1] - 12.0), mark.text, _TEXT_SIZE, anchor, colour)
