"""Learning curves as SVG: lines with axes, their colours from the page's style sheet."""

from __future__ import annotations

import dataclasses
import html
import math
import statistics
from collections.abc import Sequence

WIDTH, HEIGHT = 460, 250
LEFT, RIGHT, TOP, BOTTOM = 52, 18, 36, 34
"""Margins around the plotted rectangle."""
COLOURS = 6
"""Classes ``c0`` to ``c5`` of the style sheet; further points share the last, ``other``."""
BINS = 40
"""A noisy curve is shown by so many means at most."""
TICKS = 5


@dataclasses.dataclass(frozen=True)
class Line:
    """One curve."""

    name: str
    """Shown when one points at it."""
    colour: int
    strong: bool
    points: tuple[tuple[float, float], ...]


def colour_class(index: int) -> str:
    """The class of the point with that number."""
    return f"c{index}" if index < COLOURS else "other"


def binned(points: Sequence[tuple[float, float]]) -> tuple[tuple[float, float], ...]:
    """Means over stretches of equally many values, so that single steps do not hide the trend."""
    size = math.ceil(len(points) / BINS) or 1
    pieces = [points[start : start + size] for start in range(0, len(points), size)]
    return tuple(
        (statistics.mean(x for x, _ in piece), statistics.mean(y for _, y in piece))
        for piece in pieces
    )


def chart(title: str, lines: Sequence[Line]) -> str:
    """An SVG element of all lines over the training steps; empty where there is no value."""
    values = [point for line in lines for point in line.points]
    if not values:
        return ""
    right = max(x for x, _ in values)
    y_ticks = ticks(min(y for _, y in values), max(y for _, y in values))
    low, high = y_ticks[0], y_ticks[-1]

    def place(point: tuple[float, float]) -> tuple[float, float]:
        across = point[0] / right * (WIDTH - LEFT - RIGHT)
        up = (point[1] - low) / (high - low) * (HEIGHT - TOP - BOTTOM)
        return round(LEFT + across, 1), round(HEIGHT - BOTTOM - up, 1)

    return "\n".join(
        [
            f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{html.escape(title)}">',
            f'<text class="title" x="{LEFT}" y="20">{html.escape(title)}</text>',
            *(_row(place((0, value))[1], _number(value, y_ticks)) for value in y_ticks),
            *(
                _mark(place((value, low))[0], f"{value:,.0f}")
                for value in ticks(0, right)
                if value <= right
            ),
            *(
                _curve(line, [place(point) for point in line.points])
                for line in sorted(lines, key=lambda line: line.strong)
                if line.points
            ),
            "</svg>",
        ]
    )


def ticks(low: float, high: float) -> list[float]:
    """Round numbers from below ``low`` to above ``high``, about :data:`TICKS` of them."""
    if high <= low:
        low, high = low - 0.5, high + 0.5
    rough = (high - low) / (TICKS - 1)
    unit = 10 ** math.floor(math.log10(rough))
    step = min((unit * factor for factor in (1, 2, 5, 10)), key=lambda s: abs(s - rough))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [number * step for number in range(first, last + 1)]


def _number(value: float, shown: Sequence[float]) -> str:
    step = shown[1] - shown[0]
    return f"{value:.{max(0, -math.floor(math.log10(step) + 1e-9))}f}"


def _row(y: float, text: str) -> str:
    return (
        f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y}" y2="{y}"/>'
        f'<text class="tick" x="{LEFT - 7}" y="{y + 4}" text-anchor="end">{text}</text>'
    )


def _mark(x: float, text: str) -> str:
    y = HEIGHT - BOTTOM
    return f'<text class="tick" x="{x}" y="{y + 18}" text-anchor="middle">{text}</text>'


def _curve(line: Line, places: Sequence[tuple[float, float]]) -> str:
    kind = f"{colour_class(line.colour)}{' strong' if line.strong else ''}"
    name = f"<title>{html.escape(line.name)}</title>"
    if len(places) == 1:
        [(x, y)] = places
        return f'<circle class="dot {kind}" cx="{x}" cy="{y}" r="3">{name}</circle>'
    points = " ".join(f"{x},{y}" for x, y in places)
    return f'<polyline class="line {kind}" points="{points}">{name}</polyline>'
