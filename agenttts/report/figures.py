"""Figures as inline SVG.

The page's style sheet sets the colours: classes ``s0`` … ``s5`` are the series.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from html import escape

SERIES_COLOURS = 6
_WIDTH, _HEIGHT = 560, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 14, 12, 44


@dataclass(frozen=True)
class Point:
    """A point and the text of its tooltip."""

    x: float
    y: float
    tip: str


def trace_figure(series: Sequence[tuple[Sequence[Point], Sequence[float]]], label: str) -> str:
    """Draw the best score so far over trials.

    Each series shows its trials as dots and the best score so far as a step line.
    """
    points = [point for dots, _ in series for point in dots]
    if not points:
        return ""
    scale = _Scale.around([1.0, *(p.x for p in points)], [p.y for p in points])
    parts = [_axes(scale, "trials finished", "score", whole_x=True)]
    for index, (dots, best) in enumerate(series):
        colour = f"s{index % SERIES_COLOURS}"
        parts.append(_steps([(p.x, y) for p, y in zip(dots, best, strict=True)], scale, colour))
        parts.append(_dots(dots, scale, f"{colour} faint"))
    return _figure(parts, label)


def scatter_figure(
    points: Sequence[Point], front: Sequence[tuple[float, float]], x_label: str, label: str
) -> str:
    """Draw the score against a cost.

    Every trial is a dot. The Pareto front is a step line with larger dots.
    """
    if not points:
        return ""
    scale = _Scale.around([0.0, *(p.x for p in points)], [p.y for p in points])
    on_front = set(front)
    return _figure(
        [
            _axes(scale, x_label, "score"),
            _steps(list(dict.fromkeys(front)), scale, "s0"),
            _dots([p for p in points if (p.x, p.y) not in on_front], scale, "rest faint"),
            _dots([p for p in points if (p.x, p.y) in on_front], scale, "s0", radius=5),
        ],
        label,
    )


@dataclass(frozen=True)
class _Scale:
    """The mapping from data values to pixels."""

    x_ticks: tuple[float, ...]
    y_ticks: tuple[float, ...]

    @classmethod
    def around(cls, xs: Iterable[float], ys: Iterable[float]) -> _Scale:
        return cls(_ticks(xs), _ticks(ys))

    def x(self, value: float) -> float:
        return _place(value, self.x_ticks, _LEFT, _WIDTH - _RIGHT)

    def y(self, value: float) -> float:
        return _place(value, self.y_ticks, _HEIGHT - _BOTTOM, _TOP)


def _place(value: float, ticks: Sequence[float], start: float, end: float) -> float:
    return round(start + (value - ticks[0]) / (ticks[-1] - ticks[0]) * (end - start), 1)


def _ticks(values: Iterable[float]) -> tuple[float, ...]:
    """Return four to eight round numbers that enclose all values."""
    known = list(values)
    low, high = min(known), max(known)
    span = high - low if high > low else abs(high) or 1.0
    raw = span / 5
    magnitude = 10.0 ** math.floor(math.log10(raw))
    step = next(m * magnitude for m in (1, 2, 5, 10) if m * magnitude >= raw * 0.999)
    first = math.floor(low / step + 1e-9)
    last = max(math.ceil(high / step - 1e-9), first + 1)
    return tuple(round(i * step, 12) for i in range(first, last + 1))


def _axes(scale: _Scale, x_label: str, y_label: str, *, whole_x: bool = False) -> str:
    right, bottom = _WIDTH - _RIGHT, _HEIGHT - _BOTTOM
    parts = []
    for tick in scale.y_ticks:
        y = scale.y(tick)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{right}" y1="{y}" y2="{y}"/>')
        parts.append(f'<text x="{_LEFT - 8}" y="{y + 4}" text-anchor="end">{tick:g}</text>')
    for tick in scale.x_ticks:
        if whole_x and tick != int(tick):
            continue
        x = scale.x(tick)
        parts.append(f'<line class="grid" x1="{x}" x2="{x}" y1="{bottom}" y2="{bottom + 5}"/>')
        parts.append(f'<text x="{x}" y="{bottom + 19}" text-anchor="middle">{_short(tick)}</text>')
    middle = (_LEFT + right) / 2
    parts.append(
        f'<text class="axis" x="{middle}" y="{_HEIGHT - 6}" '
        f'text-anchor="middle">{escape(x_label)}</text>'
    )
    parts.append(
        f'<text class="axis" x="14" y="{bottom / 2}" text-anchor="middle" '
        f'transform="rotate(-90 14 {bottom / 2})">{escape(y_label)}</text>'
    )
    return "".join(parts)


def _short(value: float) -> str:
    for size, suffix in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= size:
            return f"{value / min(size, 1e3 if suffix == 'k' else size):g}{suffix}"
    return f"{value:g}"


def _steps(points: Sequence[tuple[float, float]], scale: _Scale, colour: str) -> str:
    """Return a line that holds each value until the next point."""
    if not points:
        return ""
    moves = [f"M{scale.x(points[0][0])} {scale.y(points[0][1])}"]
    moves += [f"H{scale.x(x)}V{scale.y(y)}" for x, y in points[1:]]
    return f'<path class="line {colour}" d="{"".join(moves)}"/>'


def _dots(points: Sequence[Point], scale: _Scale, colour: str, radius: float = 3.5) -> str:
    dot: Callable[[Point], str] = lambda p: (  # noqa: E731
        f'<circle class="dot {colour}" cx="{scale.x(p.x)}" cy="{scale.y(p.y)}" r="{radius}">'
        f"<title>{escape(p.tip)}</title></circle>"
    )
    return "".join(dot(point) for point in points)


def _figure(parts: Iterable[str], label: str) -> str:
    body = "".join(parts)
    return (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
        f'aria-label="{escape(label)}">{body}</svg>'
    )
