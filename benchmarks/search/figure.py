"""The benchmark's figure: median regret over trials, one panel a setting, as SVG."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT, LEFT, TOP, GAP = 360, 240, 56, 34, 70

# Regret axis, logarithmic: 0.01 % to 30 %. Less is drawn at the bottom.
LOWEST, HIGHEST = 1e-4, 0.3
TICKS = ((0.1, "10 %"), (0.01, "1 %"), (0.001, "0.1 %"), (1e-4, "0.01 %"))

COLOURS = {
    "agenttts": "#0b6e4f",
    "gp": "#c1440e",
    "optuna_tpe": "#3a6ea5",
    "optuna_gp": "#7a4fa3",
    "genetic": "#a07c00",
    "random": "#777777",
}


@dataclass(frozen=True)
class Panel:
    title: str
    lines: Mapping[str, Sequence[float]]


def draw(panels: Sequence[Panel]) -> str:
    """The panels in two columns with one legend."""
    rows = math.ceil(len(panels) / 2)
    width, height = 2 * (WIDTH + GAP) + LEFT, rows * (HEIGHT + GAP) + TOP + 20
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
    ]
    names = [name for name in COLOURS if any(name in panel.lines for panel in panels)]
    for number, name in enumerate(names):
        x = LEFT + number * 120
        parts.append(
            f'<line x1="{x}" y1="14" x2="{x + 22}" y2="14" stroke="{COLOURS[name]}" '
            'stroke-width="2.5"/>'
            f'<text x="{x + 28}" y="18">{escape(name)}</text>'
        )
    for number, panel in enumerate(panels):
        x = LEFT + (number % 2) * (WIDTH + GAP)
        y = TOP + 20 + (number // 2) * (HEIGHT + GAP)
        parts.append(f'<g transform="translate({x},{y})">{_panel(panel)}</g>')
    return "\n".join([*parts, "</svg>"]) + "\n"


def _panel(panel: Panel) -> str:
    parts = [
        f'<text x="0" y="-8" font-weight="bold">{escape(panel.title)}</text>',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="none" stroke="#999"/>',
    ]
    for value, label in TICKS:
        y = _height(value)
        dash = ' stroke-dasharray="4 3"' if value == 0.01 else ""
        parts.append(f'<line x1="0" x2="{WIDTH}" y1="{y:.1f}" y2="{y:.1f}" stroke="#ddd"{dash}/>')
        parts.append(f'<text x="-6" y="{y + 4:.1f}" text-anchor="end">{label}</text>')
    trials = max(len(line) for line in panel.lines.values())
    for tick in range(10, trials + 1, 10):
        x = WIDTH * tick / trials
        parts.append(f'<text x="{x:.1f}" y="{HEIGHT + 16}" text-anchor="middle">{tick}</text>')
    parts.append(
        f'<text x="{WIDTH / 2}" y="{HEIGHT + 32}" text-anchor="middle">trials (median '
        "regret)</text>"
    )
    for name, line in panel.lines.items():
        points = " ".join(
            f"{WIDTH * step / trials:.1f},{_height(value):.1f}"
            for step, value in enumerate(line, 1)
        )
        colour = COLOURS.get(name, "#000")
        parts.append(
            f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>'
        )
    return "".join(parts)


def _height(value: float) -> float:
    inside = min(HIGHEST, max(LOWEST, value))
    return HEIGHT * math.log(HIGHEST / inside) / math.log(HIGHEST / LOWEST)
