"""The method's insights in the run's own data.

Scores against samples by model, and stage against stage.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import altair as alt
import polars as pl

from agenttts.report.figures.style import (
    GREY,
    HEIGHT,
    LABEL_SIZE,
    PALETTE,
    TEXT,
    WIDTH,
    Axis,
    Figure,
    figure,
    place_labels,
)
from agenttts.tables.insights import ModelCurve, Outlook, StagePair

_NORMAL_95 = 1.96
# Pixels of a heat map's sides, and of its cells: at most, at least, and with a number in them.
_LARGEST, _CELL, _LEAST_CELL, _CELL_WITH_NUMBER = 400, 46, 20, 32
_LIGHT_TEXT_BELOW = 0.55
_NOT_WITHIN = "#EDEEF0"
# Square pixels of the point of a trial, and of the result of fewer of its samples.
_TRIAL_SIZE, _STORED_SIZE = 46, 14


def curve_figure(outlook: Outlook, stage: str, models: Sequence[str], name: str) -> Figure | None:
    """Draw the expected score over the samples of a stage.

    Each model has a curve with its band.

    Args:
        outlook: What is expected around the recommended allocation.
        stage: The stage.
        models: The models of all stages in a fixed order, which decides their colours.
        name: The file name of the figure.
    """
    curves = [curve for curve in outlook.curves if curve.stage == stage and curve.points]
    if not curves:
        return None
    points, trials = _points(curves), _trials(curves)
    x = Axis.around(points["samples"].to_list(), WIDTH, log_from=4.0)
    y = Axis.around([*points["low"], *points["high"], *trials["adjusted"]], HEIGHT)
    colours = [PALETTE[list(models).index(c.model) % len(PALETTE)] for c in curves]
    colour = (
        alt.Color("model:N")
        .title(None)
        .scale(alt.Scale(domain=[c.model for c in curves], range=colours))
        .legend(symbolOpacity=1)
    )
    ticks = alt.Axis(format="d", values=_ticks(points["samples"].to_list()))
    at_x = alt.X("samples:Q").title(f"samples of {stage}").scale(x.scale).axis(ticks)

    def at_y(column: str) -> alt.Y:
        return alt.Y(f"{column}:Q").title("score").scale(y.scale)

    base = alt.Chart(points)
    layers: list[Any] = [
        base.mark_area(opacity=0.13).encode(x=at_x, y=at_y("low"), y2="high:Q", color=colour),
        base.mark_line(strokeWidth=1.4, strokeDash=[3, 3]).encode(
            x=at_x, y=at_y("mean"), color=colour
        ),
        base.transform_filter("datum.within")
        .mark_line(strokeWidth=2.4)
        .encode(x=at_x, y=at_y("mean"), color=colour),
    ]
    tips = [
        alt.Tooltip("allocation:N"),
        alt.Tooltip("score:Q", format=".4f", title="measured score"),
        alt.Tooltip("adjusted:Q", format=".4f", title="score here"),
    ]
    for same, stored in itertools.product((False, True), (True, False)):
        part = trials.filter((pl.col("same") == same) & (pl.col("stored") == stored))
        size = _STORED_SIZE if stored else _TRIAL_SIZE
        if part.height:
            layers.append(
                alt.Chart(part)
                .mark_point(filled=same, size=size, opacity=0.9 if same else 0.6, strokeWidth=1.3)
                .encode(x=at_x, y=at_y("adjusted"), color=colour, tooltip=tips)
            )
    marks = pl.DataFrame(
        [
            (c.model, p.samples, p.expected.mean, f"enough: {p.samples}")
            for c in curves
            for p in c.points
            if p.samples == c.enough
        ],
        schema=["model", "samples", "mean", "text"],
        orient="row",
    )
    chosen = points.filter(pl.col("chosen"))
    layers.append(
        alt.Chart(marks)
        .mark_point(shape="triangle-down", filled=True, size=110, opacity=1, yOffset=-9)
        .encode(x=at_x, y=at_y("mean"), color=colour)
    )
    layers.append(
        alt.Chart(chosen)
        .mark_point(shape="diamond", filled=False, color=TEXT, size=190, strokeWidth=2)
        .encode(x=at_x, y=at_y("mean"))
    )
    labels = place_labels(
        [(float(r[1]), float(r[2]), str(r[3])) for r in marks.iter_rows()],
        x,
        y,
        list(zip(trials["samples"], trials["adjusted"], strict=True)),
        list(points.select("samples", "mean").iter_rows()),
    )
    frame = pl.DataFrame(
        [(label.x, label.y, label.text, marks["model"][label.point]) for label in labels],
        schema={"x": pl.Float64, "y": pl.Float64, "text": pl.String, "model": pl.String},
        orient="row",
    )
    layers.append(
        alt.Chart(frame)
        .mark_text(align="left", baseline="middle", fontWeight="bold")
        .encode(
            x=alt.X("x:Q").scale(x.scale),
            y=alt.Y("y:Q").scale(y.scale),
            text="text:N",
            color=colour,
        )
    )
    return figure(
        name,
        f"Score against samples of {stage}, by model",
        "Curves are the expected score with the recommended choices of the other stages, bands its "
        "95 % interval; dashed where the budget does not allow it. Points are trials, small ones "
        "what fewer of a trial's samples give: filled where the other stages are as on the curve, "
        "open where the score is adjusted for what they differ in (a part of them where there are "
        "hundreds). A triangle marks where more samples gain little; the diamond is the "
        "recommended allocation.",
        layers,
        (WIDTH, HEIGHT),
        zoom=True,
    )


def pair_figure(pair: StagePair, name: str) -> Figure | None:
    """Draw the expected score over the samples of two stages as a heat map."""
    within = [cell for cell in pair.cells if cell.within]
    if len(within) < 2:
        return None
    # Numbers of samples that the budget does not allow beside any other are left out.
    xs = sorted({cell.x for cell in within} | {pair.chosen[0]})
    ys = sorted({cell.y for cell in within} | {pair.chosen[1]})
    size = min(_CELL, max(_LEAST_CELL, _LARGEST // max(len(xs), len(ys))))
    low, high = min(c.mean for c in within), max(c.mean for c in within)
    cells = pl.DataFrame(
        [
            (
                c.x,
                c.y,
                c.mean,
                c.within,
                f"{c.mean:.2f}".removeprefix("0"),
            )
            for c in pair.cells
            if c.x in xs and c.y in ys
        ],
        schema=["x", "y", "mean", "within", "text"],
        orient="row",
    )
    at_x = (
        alt.X("x:O")
        .title(f"samples of {pair.x_stage} ({pair.x_model})")
        .sort(xs)
        .axis(alt.Axis(labelAngle=0))
    )
    at_y = alt.Y("y:O").title(f"samples of {pair.y_stage} ({pair.y_model})").sort(ys[::-1])
    inside = alt.Chart(cells).transform_filter("datum.within")
    tips = [alt.Tooltip("x:O", title=pair.x_stage), alt.Tooltip("y:O", title=pair.y_stage)]
    heat = alt.Color("mean:Q").title(["expected", "score"]).scale(alt.Scale(scheme="viridis"))
    layers: list[Any] = [
        alt.Chart(cells)
        .mark_rect(color=_NOT_WITHIN, stroke="#FFFFFF", strokeWidth=1)
        .encode(x=at_x, y=at_y),
        inside.mark_rect(stroke="#FFFFFF", strokeWidth=1).encode(
            x=at_x,
            y=at_y,
            color=heat.legend(orient="right", gradientLength=min(200, size * len(ys))),
            tooltip=[*tips, alt.Tooltip("mean:Q", format=".4f", title="expected score")],
        ),
    ]
    if size >= _CELL_WITH_NUMBER:
        limit = low + _LIGHT_TEXT_BELOW * (high - low)
        layers += [
            inside.transform_filter(f"datum.mean {side} {limit}")
            .mark_text(fontSize=LABEL_SIZE, color=colour)
            .encode(x=at_x, y=at_y, text="text:N")
            for side, colour in (("<", "#FFFFFF"), (">=", TEXT))
        ]
    tried = pl.DataFrame(pair.tried, schema={"x": pl.Int64, "y": pl.Int64}, orient="row")
    tried = tried.filter(pl.col("x").is_in(xs) & pl.col("y").is_in(ys))
    if tried.height:
        corner = size / 2 - 7
        layers.append(
            alt.Chart(tried)
            .mark_point(
                filled=True, color="#FFFFFF", stroke=GREY, size=34, opacity=1,
                xOffset=corner, yOffset=-corner,
            )
            .encode(x=at_x, y=at_y)
        )  # fmt: skip
    chosen = pl.DataFrame([pair.chosen], schema={"x": pl.Int64, "y": pl.Int64}, orient="row")
    layers.append(
        alt.Chart(chosen)
        .mark_rect(filled=False, stroke="#D55E00", strokeWidth=3)
        .encode(x=at_x, y=at_y)
    )
    return figure(
        name,
        f"{pair.x_stage} against {pair.y_stage}: expected score",
        "The recommended models, other stages as recommended. The frame is the recommended "
        "allocation, white dots are trials; grey is over the budget.",
        layers,
        (size * len(xs), size * len(ys)),
    )


def _points(curves: Sequence[ModelCurve]) -> pl.DataFrame:
    rows = [
        {
            "model": curve.model,
            "samples": point.samples,
            "mean": point.expected.mean,
            "low": point.expected.mean - _NORMAL_95 * point.expected.sd,
            "high": point.expected.mean + _NORMAL_95 * point.expected.sd,
            "within": point.within,
            "chosen": point.samples == curve.chosen,
        }
        for curve in curves
        for point in curve.points
    ]
    return pl.DataFrame(rows)


def _trials(curves: Sequence[ModelCurve]) -> pl.DataFrame:
    rows = [
        (curve.model, t.samples, t.adjusted, t.score, t.allocation, t.same, t.stored)
        for curve in curves
        for t in curve.trials
    ]
    schema = {
        "model": pl.String,
        "samples": pl.Int64,
        "adjusted": pl.Float64,
        "score": pl.Float64,
        "allocation": pl.String,
        "same": pl.Boolean,
        "stored": pl.Boolean,
    }
    return pl.DataFrame(rows, schema=schema, orient="row")


def _ticks(counts: Sequence[int]) -> list[int]:
    """Return round numbers and both ends for a logarithmic axis of counts."""
    low, high = min(counts), max(counts)
    round_numbers = [m * 10**e for e in range(7) for m in (1, 2, 5)]
    return sorted({low, high, *(n for n in round_numbers if low <= n <= 0.75 * high)})
