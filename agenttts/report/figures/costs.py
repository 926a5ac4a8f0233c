"""Where the time of a run's jobs went."""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt
import polars as pl

from agenttts.report.contents import number
from agenttts.report.figures.style import PALETTE, WIDTH, Figure, figure
from agenttts.report.summary import RunReport
from agenttts.tables.cost import PARTS

_BAR = 24
_UNITS = (("hours", 3600.0), ("minutes", 60.0), ("seconds", 1.0))
# `queue` is not part of a job's time. The parts in their usual order, and what each means.
PART_TITLES = {
    "start": "starting jobs",
    "load": "starting engines",
    "generate": "generating",
    "other": "the task's own code",
    "idle": "waiting for trials",
    "lost": "lost to the cluster",
}
_COLOURS = (PALETTE[5], PALETTE[4], PALETTE[2], PALETTE[0], "#B8BDC5", PALETTE[1])


def time_figure(runs: Sequence[RunReport], titles: Sequence[str], name: str) -> Figure | None:
    """Draw the GPU-hours of runs by part, or the hours of jobs if none has a GPU.

    One run has a bar for each part, several have a bar each.
    """
    assert set(PART_TITLES) == set(PARTS) - {"queue"}
    known = [(t, run.cost) for run, t in zip(runs, titles, strict=True) if run.cost is not None]
    on_gpus = any(cost.gpu_seconds.used for _, cost in known)
    rows = []
    for title, cost in known:
        seconds = cost.gpu_seconds if on_gpus else cost.seconds
        for order, (part, says) in enumerate(PART_TITLES.items()):
            value = float(getattr(seconds, part))
            share = value / seconds.used if seconds.used else 0.0
            rows.append((title, says, order, value, share))
    longest = max((value for *_, value, _ in rows), default=0.0)
    if not longest > 0:
        return None
    word, size = next(unit for unit in _UNITS if longest >= unit[1] or unit[1] == 1.0)
    unit = f"GPU-{word}" if on_gpus else f"{word} of jobs"
    frame = pl.DataFrame(
        [(*each, v / size, f"{number(v / size)} ({share:.0%})") for *each, v, share in rows],
        schema=["run", "part", "order", "used", "text"],
        orient="row",
    )
    names = list(PART_TITLES.values())
    scale = alt.Scale(domain=names, range=list(_COLOURS))
    used = alt.X("used:Q").title(unit)
    tips = [alt.Tooltip("run:N"), alt.Tooltip("part:N"), alt.Tooltip("text:N", title=unit)]
    if len(known) == 1:
        room = alt.Scale(domain=[0, 1.3 * longest / size], nice=False)
        base = alt.Chart(frame).encode(
            x=used.scale(room), y=alt.Y("part:N").title(None).sort(names)
        )
        bars = base.mark_bar(height=_BAR - 8).encode(
            color=alt.Color("part:N").scale(scale).legend(None), tooltip=tips
        )
        texts = base.mark_text(align="left", dx=5).encode(text="text:N")
        layers, size_of = [bars, texts], (WIDTH - 60, _BAR * len(names))
    else:
        layers = [
            alt.Chart(frame)
            .mark_bar(height=_BAR - 6)
            .encode(
                x=used,
                y=alt.Y("run:N").title(None).sort(list(titles)),
                color=alt.Color("part:N").title(None).scale(scale).sort(names),
                order=alt.Order("order:Q"),
                tooltip=tips,
            )
        ]
        size_of = (WIDTH - 60, max(60, _BAR * len(known)))
    return figure(
        name,
        "Where the time went",
        "Time of jobs on their nodes by what they did; waiting in the queue is not part of it."
        + ("" if on_gpus else " No job had a GPU."),
        layers,
        size_of,
    )
