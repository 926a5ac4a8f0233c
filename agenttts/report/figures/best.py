"""The best score so far, and scores against costs with their Pareto fronts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import altair as alt
import polars as pl

from agenttts.report.contents import COST_TITLES, allocation_text, compared_text
from agenttts.report.figures.style import (
    ACCENT,
    COSTS_LOG_FROM,
    DASHES,
    GREY,
    HEIGHT,
    LIGHT,
    MOST_POINTS,
    PALETTE,
    SECOND,
    TICKS,
    WIDTH,
    Axis,
    Figure,
    figure,
    place_labels,
)
from agenttts.report.summary import RunReport
from agenttts.tables.aggregate import BY_TRIAL, Cost, on_most_examples, scored
from agenttts.tables.schema import AFTER_SEARCH
from agenttts.tables.uncertainty import interval_of_equal

# Half the width of a 95 % interval, in standard errors.
_NORMAL_95 = 1.96

# What the best score so far is drawn over: the column, the title of the axis, the name.
PROGRESS = {
    "trials": ("trials finished", "by trials finished"),
    "gpu_hours": ("GPU-hours of trials", "by GPU-hours of trials"),
    "tokens": ("tokens computed (reused ones not counted)", "by tokens computed"),
}


def progress_figure(
    runs: Sequence[RunReport], titles: Sequence[str], over: str, name: str
) -> Figure | None:
    """Draw the best score so far of runs; None if there is nothing to draw.

    Each run has a step line, with the 95 % interval of the best trial as a band, and its trials as
    dots.

    Args:
        runs: The runs.
        titles: A title for each run.
        over: A key of `PROGRESS`.
        name: The file name of the figure.
    """
    frames = [
        _progress(run, over).with_columns(pl.lit(title).alias("title"))
        for run, title in zip(runs, titles, strict=True)
    ]
    frames = [frame for frame in frames if frame.height]
    rows: pl.DataFrame = pl.concat(frames) if frames else pl.DataFrame()
    if rows.is_empty() or not float(rows["x"].max() or 0.0) > 0:  # type: ignore[arg-type]
        return None
    axis_title, how = PROGRESS[over]
    many = len(runs) > 1
    x = Axis.around(rows["x"].to_list(), WIDTH, zero=over != "trials")
    if over == "trials":
        x = Axis(0.5, float(rows["x"].max()) + 0.5, WIDTH)  # type: ignore[arg-type]
    low = rows["low"].fill_null(rows["score"])
    high = rows["high"].fill_null(rows["score"])
    values = [*rows["score"], *low, *high]
    y = Axis.around(values, HEIGHT)
    ends = pl.concat([_ended(frame, x.high) for frame in frames])
    # One run has one colour, several have theirs.
    by_run: dict[str, Any] = {"color": _run_colour(titles)} if many else {}
    blue: dict[str, Any] = {} if many else {"color": ACCENT}
    grey: dict[str, Any] = {} if many else {"color": GREY}
    ticks = alt.Axis(labelExpr=TICKS)
    if over == "trials":
        ticks = alt.Axis(labelExpr=TICKS, tickMinStep=1)
    at_x = alt.X("x:Q").title(axis_title).scale(x.scale).axis(ticks)

    def at_y(column: str) -> alt.Y:
        return alt.Y(f"{column}:Q").title("score").scale(y.scale)

    line = alt.Chart(ends).encode(x=at_x, detail="title:N", **by_run)
    layers: list[Any] = []
    if ends["low"].null_count() < ends.height:
        band_mark = line.mark_area(interpolate="step-after", opacity=0.15, **blue)
        layers.append(band_mark.encode(y=at_y("low"), y2="high:Q"))
    tips = [*(["title:N"] if many else []), *_TRIAL_TIPS]
    better = rows.filter(pl.col("improved"))
    layers += [
        alt.Chart(pl.concat([_thinned(frame) for frame in frames]))
        .mark_circle(size=34, opacity=0.45, **grey)
        .encode(x=at_x, y=at_y("score"), tooltip=tips, **by_run),
        line.mark_line(interpolate="step-after", strokeWidth=2.2, **blue).encode(
            y=at_y("best"), **({"strokeDash": _run_dash(titles)} if many else {})
        ),
        alt.Chart(better)
        .mark_circle(size=64, opacity=1, **blue)
        .encode(x=at_x, y=at_y("score"), tooltip=tips, **by_run),
    ]
    if not many:
        named = list(better.select("x", "score", "text").iter_rows())
        dots_at = list(zip(rows["x"], rows["score"], strict=True))
        steps = list(ends.select("x", "best").iter_rows())
        layers.append(_labels(place_labels(named[::-1], x, y, dots_at, steps), at_x, y))
    band = "; the band is the 95 % interval of the best trial's score over its examples"
    return figure(
        name,
        f"Best score so far, {how}",
        "Dots are trials, the line is the best score so far"
        + (band if ends["low"].null_count() < ends.height else "")
        + ("." if many else "; labels name the allocations that improved it."),
        layers,
        (WIDTH, HEIGHT),
        zoom=True,
    )


def pareto_figure(run: RunReport, cost: Cost, name: str) -> Figure | None:
    """Draw scores against a cost with the Pareto front; None without such trials."""
    tokens = (pl.col("prompt_tokens") + pl.col("decode_tokens")).alias("tokens")
    rows = _described(scored(run.trials).with_columns(tokens)).with_columns(
        (pl.col(cost) * 1.0).alias("x")
    )
    rows = rows.filter(pl.col("x").is_not_null()).select(_SHOWN)
    if rows.is_empty() or not float(rows["x"].max() or 0.0) > 0:  # type: ignore[arg-type]
        return None
    front = _described(run.pareto[cost].select("trial", "allocation", cost, "score")).with_columns(
        (pl.col(cost) * 1.0).alias("x")
    )
    x = Axis.around(rows["x"].to_list(), WIDTH, zero=True, log_from=COSTS_LOG_FROM)
    low, high = rows["low"].fill_null(rows["score"]), rows["high"].fill_null(rows["score"])
    y = Axis.around([*rows["score"], *low, *high], HEIGHT)
    at_x = alt.X("x:Q").title(COST_TITLES[cost]).scale(x.scale).axis(alt.Axis(labelExpr=TICKS))
    at_y = alt.Y("score:Q").title("score").scale(y.scale)
    every = alt.Chart(_thinned(rows))
    most = on_most_examples(scored(run.trials)).select("trial")
    dots = (
        (rows.join(most, on="trial", how="semi"), True),
        (rows.join(most, on="trial", how="anti"), False),
    )
    on_front = rows.join(front.select("trial"), on="trial", how="semi")
    end = pl.DataFrame({"x": [x.high], "score": [float(front["score"][-1])]})
    steps = pl.concat([front.select("x", "score"), end])
    layers: list[Any] = [
        every.mark_rule(color=LIGHT, strokeWidth=1).encode(
            x=at_x, y=alt.Y("low:Q").title("score").scale(y.scale), y2="high:Q"
        ),
        alt.Chart(steps)
        .mark_line(interpolate="step-after", color=ACCENT, strokeWidth=2)
        .encode(x=at_x, y=at_y),
        *(
            alt.Chart(_thinned(part))
            .mark_point(shape="circle", color=GREY, size=36, opacity=0.6, filled=filled)
            .encode(x=at_x, y=at_y, tooltip=_TRIAL_TIPS)
            for part, filled in dots
            if part.height
        ),
        alt.Chart(on_front)
        .mark_circle(color=ACCENT, size=80, opacity=1)
        .encode(x=at_x, y=at_y, tooltip=_TRIAL_TIPS),
    ]
    chosen = run.result_trial
    if chosen is not None:
        mine = rows.filter(pl.col("trial") == chosen["trial"])
        layers.append(
            alt.Chart(mine)
            .mark_point(shape="diamond", color=SECOND, size=170, strokeWidth=2.2, filled=False)
            .encode(x=at_x, y=at_y, tooltip=_TRIAL_TIPS)
        )
    named = list(front.select("x", "score", "text").iter_rows())
    dots_at = list(zip(rows["x"], rows["score"], strict=True))
    line_at = list(steps.iter_rows())
    layers.append(_labels(place_labels(named[::-1], x, y, dots_at, line_at), at_x, y))
    hollow = f"{compared_text(run)}; hollow dots are on fewer" if run.compared else ""
    diamond = "; the diamond is the recommended allocation" if chosen is not None else ""
    return figure(
        name,
        f"Score against {COST_TITLES[cost]}",
        f"Dots are trials with 95 % intervals; the line is the Pareto front{hollow}; its "
        f"allocations are labelled{diamond}.",
        layers,
        (WIDTH, HEIGHT),
        zoom=True,
    )


_SHOWN = ("x", "score", "low", "high", "trial", "text", "budget", "source")
_TRIAL_TIPS = [
    alt.Tooltip("trial:N"),
    alt.Tooltip("text:N", title="allocation"),
    alt.Tooltip("score:Q", format=".4f"),
    alt.Tooltip("budget:Q", format=",.1f", title="budget (units)"),
    alt.Tooltip("source:N", title="proposed by"),
]


def _labels(labels: Sequence[Any], at_x: alt.X, y: Axis) -> Any:
    frame = pl.DataFrame(
        [(label.x, label.y, label.text) for label in labels],
        schema={"x": pl.Float64, "y": pl.Float64, "text": pl.String},
        orient="row",
    )
    return (
        alt.Chart(frame)
        .mark_text(align="left", baseline="middle", clip=False)
        .encode(x=at_x, y=alt.Y("y:Q").scale(y.scale), text="text:N")
    )


def _described(rows: pl.DataFrame) -> pl.DataFrame:
    """Return rows with the allocation as text and the interval of the score.

    The interval is null where it is not known.
    """
    texts = [allocation_text(allocation) for allocation in rows["allocation"]]
    found = rows.with_columns(pl.Series("text", texts, dtype=pl.String))
    if "score_stderr" not in rows.columns:  # rows of a front
        return found
    shares = bool(rows.height) and min(rows["score"]) >= 0.0 and max(rows["score"]) <= 1.0
    known = rows.select("score", "score_stderr", "examples").iter_rows()
    bounds = [_bounds(*row, shares=shares) for row in known]
    low, high = (
        pl.Series(name, [b and b[side] for b in bounds], dtype=pl.Float64)
        for side, name in enumerate(("low", "high"))
    )
    if shares:
        low, high = low.clip(0.0, 1.0), high.clip(0.0, 1.0)
    return found.with_columns(low, high)


def _bounds(
    score: float, stderr: float | None, examples: int | None, *, shares: bool
) -> tuple[float, float] | None:
    """Return the 95 % interval of a score; None where it is not known.

    ``shares`` says that all scores of the run are from 0 to 1.
    """
    if stderr is None:
        return None
    if stderr == 0.0:
        return interval_of_equal(score, examples) if shares and examples else None
    return score - _NORMAL_95 * stderr, score + _NORMAL_95 * stderr


def _progress(run: RunReport, over: str) -> pl.DataFrame:
    """Return the scored trials as they finished, with what was used until then."""
    searched = run.trials.filter(~pl.col("source").is_in(AFTER_SEARCH))
    # What trials without a score used counts too.
    used = searched.sort("finished", *BY_TRIAL, nulls_last=True).select(
        "trial",
        (pl.col("gpu_seconds").cum_sum() / 3600).alias("gpu_hours"),
        (pl.col("prompt_tokens") + pl.col("decode_tokens") - pl.col("reused_tokens"))
        .cum_sum()
        .cast(pl.Float64)
        .alias("tokens"),
    )
    found = _described(scored(run.trials))
    rows = (
        run.trace.join(used, on="trial", how="left")
        .join(found.select("trial", "text", "low", "high"), on="trial", how="left")
        .sort("step")
    )
    x = pl.col("step").cast(pl.Float64) if over == "trials" else pl.col(over)
    # As one value, because the bounds of a best trial may not be known.
    bounds = pl.when("improved").then(pl.struct("low", "high")).forward_fill().alias("bounds")
    return rows.select(
        *("trial", "source", "budget", "score", "improved", "text"),
        x.alias("x"),
        pl.col("best_so_far").alias("best"),
        bounds,
    ).unnest("bounds")


def _ended(rows: pl.DataFrame, end: float) -> pl.DataFrame:
    """Return the rows that improved, with a last one at the end of the axis.

    A line holds each value until the next point, so it needs no more of them.
    """
    last = rows.tail(1).with_columns(pl.lit(float(end)).alias("x"))
    steps = pl.concat([rows.filter(pl.col("improved")), last])
    return steps.select("x", "best", "low", "high", "title")


def _thinned(rows: pl.DataFrame) -> pl.DataFrame:
    if rows.height <= MOST_POINTS:
        return rows
    return rows.gather_every(-(-rows.height // MOST_POINTS))


def _run_dash(titles: Sequence[str]) -> alt.StrokeDash:
    dashes = [list(DASHES[i % len(DASHES)]) for i in range(len(titles))]
    scale = alt.Scale(domain=list(titles), range=dashes)
    return alt.StrokeDash("title:N").title(None).scale(scale)


def _run_colour(titles: Sequence[str]) -> alt.Color:
    colours = [PALETTE[i % len(PALETTE)] for i in range(len(titles))]
    scale = alt.Scale(domain=list(titles), range=colours)
    legend = alt.Legend(symbolOpacity=1, symbolStrokeWidth=0)
    return alt.Color("title:N", legend=legend).title(None).scale(scale)
