"""The form of all figures: sizes, fonts, colours, axes."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt

WIDTH, HEIGHT = 460, 280
FONT_SIZE, LABEL_SIZE = 12, 11
# Numbers of ticks: 20k, and below 1 no unit: 0.5 GPU-hours as 500m would read as minutes.
TICKS = "abs(datum.value) < 1 ? format(datum.value, '~g') : format(datum.value, '~s')"

# Okabe & Ito (2008), "Color Universal Design": told apart with every kind of colour blindness.
# Yellow is left out, because it is hard to see on white.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
ACCENT, SECOND = PALETTE[0], PALETTE[1]
GREY, LIGHT, TEXT = "#8A9099", "#D9DCE1", "#1C2024"
# Lines that coincide are told apart by what shows through the gaps of the upper ones.
DASHES = ((1, 0), (7, 7), (3, 5), (12, 4, 3, 4))

# Of points more than this are thinned, so that a page of thousands of trials stays small.
MOST_POINTS = 600

# A cost whose largest value is this many times the least one gets a logarithmic axis.
COSTS_LOG_FROM = 30.0

# Mean width of a letter at the font size of labels, in pixels.
_LETTER = 6.5


@dataclass(frozen=True)
class Figure:
    """One figure.

    Attributes:
        name: Its file name, without an ending.
        title: What it shows, in a few words.
        caption: How to read it.
        spec: The Vega-Lite specification, with its data.
    """

    name: str
    title: str
    caption: str
    spec: dict[str, Any]


def figure(
    name: str,
    title: str,
    caption: str,
    layers: Sequence[alt.Chart],
    size: tuple[float, float],
    *,
    zoom: bool = False,
) -> Figure:
    """Return charts over each other as a figure, in the form of all figures.

    `alt.layer` makes the same of them, but its copies of all parts take most of the time of a page.

    Args:
        name: Its file name, without an ending.
        title: What it shows, in a few words.
        caption: How to read it.
        layers: Its charts, the lowest first.
        size: Its width and height in pixels, without axes and legend.
        zoom: Whether a reader on a screen can drag it, and zoom with Shift and the wheel.
    """
    spec: dict[str, Any] = {
        "title": title,
        "width": size[0],
        "height": size[1],
        "config": _CONFIG,
        "layer": [],
        "datasets": {},
    }
    for layer in layers:
        part = layer.to_dict(validate=False)
        spec["datasets"] |= part.pop("datasets", {})
        # The schema's address is for editors, and a page has no address in it.
        spec["layer"].append({k: v for k, v in part.items() if k not in ("config", "$schema")})
    if zoom:
        spec["layer"][0]["params"] = [
            {
                "name": "zoom",
                "select": {"type": "interval", "zoom": "wheel![event.shiftKey]"},
                "bind": "scales",
            }
        ]
        for part in spec["layer"]:
            part["mark"]["clip"] = True
    return Figure(name, title, caption, spec)


_CONFIG: dict[str, Any] = {
    "background": "#FFFFFF",
    "font": "Helvetica, Arial, 'Liberation Sans', sans-serif",
    "view": {"stroke": None},
    "axis": {
        "labelFontSize": LABEL_SIZE,
        "titleFontSize": FONT_SIZE,
        "titleFontWeight": "normal",
        "titleColor": TEXT,
        "labelColor": "#4A4F57",
        "gridColor": "#ECEEF1",
        "domainColor": GREY,
        "tickColor": GREY,
        "titlePadding": 8,
        "labelOverlap": True,
    },
    "legend": {
        "labelFontSize": LABEL_SIZE,
        "titleFontSize": LABEL_SIZE,
        "titleFontWeight": "normal",
        "labelLimit": 260,
        "orient": "top",
        "titleColor": TEXT,
    },
    "title": {"fontSize": 13, "anchor": "start", "fontWeight": "bold", "color": TEXT, "offset": 10},
    "text": {"fontSize": LABEL_SIZE, "color": TEXT},
}


@dataclass(frozen=True)
class Axis:
    """The extent of an axis in data and in pixels.

    ``low`` and ``high`` are its ends. ``log`` says whether it is logarithmic. ``pixels`` is its
    length.
    """

    low: float
    high: float
    pixels: float
    log: bool = False

    @classmethod
    def around(
        cls,
        values: Sequence[float],
        pixels: float,
        *,
        zero: bool = False,
        log_from: float = math.inf,
    ) -> Axis:
        """Return an axis with room around the values.

        Args:
            values: The values, at least one.
            pixels: Its length.
            zero: Whether it starts at 0, unless it is logarithmic.
            log_from: It is logarithmic if its largest value is so many times the least one.
        """
        low, high = min(values), max(values)
        if low > 0 and high > low and high / low >= log_from:
            room = (high / low) ** 0.06
            return cls(low / room, high * room, pixels, log=True)
        span = high - low or abs(high) or 1.0
        if zero:
            low = min(0.0, low)
            return cls(low, high + 0.06 * (high - low or 1.0), pixels)
        return cls(low - 0.08 * span, high + 0.08 * span, pixels)

    @property
    def scale(self) -> alt.Scale:
        """The axis as a scale of Vega-Lite."""
        ends = [self.low, self.high]
        if self.log:
            return alt.Scale(type="log", domain=ends, nice=False)
        return alt.Scale(domain=ends, nice=False, zero=False)

    def pixel(self, value: float) -> float:
        """Return the distance of a value from the low end."""
        share = (self._level(value) - self._level(self.low)) / (
            self._level(self.high) - self._level(self.low)
        )
        return share * self.pixels

    def value(self, pixel: float) -> float:
        """Return the value at a distance from the low end."""
        low, high = self._level(self.low), self._level(self.high)
        level = low + pixel / self.pixels * (high - low)
        return math.exp(level) if self.log else level

    def _level(self, value: float) -> float:
        return math.log(value) if self.log else value


@dataclass(frozen=True)
class Label:
    """A text beside a point.

    ``x`` and ``y`` are the middle of its left end, in data. ``point`` is the number of its point.
    """

    x: float
    y: float
    text: str
    point: int


def place_labels(
    points: Sequence[tuple[float, float, str]],
    x: Axis,
    y: Axis,
    others: Sequence[tuple[float, float]] = (),
    steps: Sequence[tuple[float, float]] = (),
) -> list[Label]:
    """Place texts beside their points.

    They do not cover each other, and cover as few points as possible. A text that finds no place
    is left out. The first points are placed first.

    Args:
        points: x, y and text of each point.
        x: The horizontal axis.
        y: The vertical axis.
        others: Further points not to be covered.
        steps: Points of a step line not to be covered.
    """
    dots = [(x.pixel(a), y.pixel(b)) for a, b in [*others, *((a, b) for a, b, _ in points)]]
    dots += _along([(x.pixel(a), y.pixel(b)) for a, b in steps])
    taken: list[tuple[float, float, float, float]] = []
    placed = []
    for number, (a, b, text) in enumerate(points):
        left, middle, width = x.pixel(a), y.pixel(b), _LETTER * len(text)
        best: tuple[int, tuple[float, float, float, float]] | None = None
        for dx, dy in _PLACES:
            start = left + dx if dx > 0 else left + dx - width
            if dx == 0:
                start = left - width / 2
            box = (start, middle + dy - 6, start + width, middle + dy + 6)
            inside = box[0] >= 2 and box[2] <= x.pixels and box[1] >= 4 and box[3] <= y.pixels
            if not inside or any(_overlap(box, other) for other in taken):
                continue
            covered = sum(box[0] - 3 < p < box[2] + 3 and box[1] < q < box[3] for p, q in dots)
            if best is None or covered < best[0]:
                best = (covered, box)
        if best is not None:
            taken.append(best[1])
            start, bottom, _, top = best[1]
            placed.append(Label(x.value(start), y.value((bottom + top) / 2), text, number))
    return placed


# Where a label may be, from its point, in pixels: right (positive), left, or centred (0); up is
# positive.
_PLACES = (
    *((9, 0), (7, -12), (-7, 12), (7, 12), (-9, 0), (-7, -12), (0, 15), (0, -15)),
    *((9, -24), (-9, 24), (9, 24), (-9, -24), (0, 28), (0, -28)),
)


def _along(steps: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return points along a step line, one every few pixels."""
    found = []
    for (a, b), (c, d) in itertools.pairwise(steps):
        for start, end in (((a, b), (c, b)), ((c, b), (c, d))):
            count = int(max(abs(end[0] - start[0]), abs(end[1] - start[1])) / 6) + 1
            found += [
                (
                    start[0] + (end[0] - start[0]) * i / count,
                    start[1] + (end[1] - start[1]) * i / count,
                )
                for i in range(count)
            ]
    return found


def _overlap(
    one: tuple[float, float, float, float], other: tuple[float, float, float, float]
) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
