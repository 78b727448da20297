"""Line charts as SVG text: enough for a figure of a paper redrawn, without a plotting library."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

_COLOURS = ("#1b6ca8", "#d1495b", "#66a182", "#edae49", "#6f4e7c", "#2e4057", "#8d96a3", "#00798c")
_LEFT, _TOP, _WIDTH, _HEIGHT, _BELOW, _LEGEND = 70, 40, 560, 330, 60, 170


@dataclass(frozen=True)
class Axis:
    """label: what is along it. ticks: where numbers stand, in order from its start to its end. log: logarithmic."""

    label: str
    ticks: Sequence[float]
    log: bool = False

    def place(self, value: float) -> float:
        """0 at the first tick, 1 at the last; values beyond them lie outside of that."""
        low, high, at = (math.log(v) if self.log else v for v in (self.ticks[0], self.ticks[-1], value))
        return (at - low) / (high - low)


Points = Sequence[tuple[float, float, float]]
"""x, y, and the deviation of y that its bar shows (0: no bar)."""


def chart(title: str, x: Axis, y: Axis, lines: Mapping[str, Points]) -> str:
    """One SVG picture of the named lines, in the order given. Points outside of the axes are drawn at their edge."""

    def across(value: float) -> float:
        return _LEFT + _WIDTH * min(max(x.place(value), 0), 1)

    def down(value: float) -> float:
        return _TOP + _HEIGHT * (1 - min(max(y.place(value), 0), 1))

    parts = [_text(_LEFT + _WIDTH / 2, 22, title, size=15)]
    for tick in x.ticks:
        parts.append(_stroke([(across(tick), _TOP), (across(tick), _TOP + _HEIGHT)], "#dddddd", 1))
        parts.append(_text(across(tick), _TOP + _HEIGHT + 18, f"{tick:g}"))
    for tick in y.ticks:
        parts.append(_stroke([(_LEFT, down(tick)), (_LEFT + _WIDTH, down(tick))], "#dddddd", 1))
        parts.append(_text(_LEFT - 8, down(tick) + 4, f"{tick:g}", anchor="end"))
    parts.append(_text(_LEFT + _WIDTH / 2, _TOP + _HEIGHT + 42, x.label))
    parts.append(
        f'<g transform="translate(18 {_TOP + _HEIGHT / 2}) rotate(-90)">{_text(0, 0, y.label)}</g>',
    )
    for index, (name, points) in enumerate(lines.items()):
        colour = _COLOURS[index % len(_COLOURS)]
        parts.append(_stroke([(across(a), down(b)) for a, b, _ in points], colour, 2))
        for a, b, spread in points:
            parts.append(f'<circle cx="{across(a):.1f}" cy="{down(b):.1f}" r="3" fill="{colour}"/>')
            if spread > 0:
                parts.append(_stroke([(across(a), down(b - spread)), (across(a), down(b + spread))], colour, 1))
        row = _TOP + 16 + 20 * index
        parts.append(_stroke([(_LEFT + _WIDTH + 14, row - 4), (_LEFT + _WIDTH + 34, row - 4)], colour, 2))
        parts.append(_text(_LEFT + _WIDTH + 40, row, name, anchor="start"))
    size = f'width="{_LEFT + _WIDTH + _LEGEND}" height="{_TOP + _HEIGHT + _BELOW}"'
    body = "\n".join(parts)
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif">\n{body}\n</svg>\n'


def _text(x: float, y: float, text: str, anchor: str = "middle", size: int = 12) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}">{escape(text)}</text>'


def _stroke(points: Sequence[tuple[float, float]], colour: str, width: int) -> str:
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="{width}"/>'
