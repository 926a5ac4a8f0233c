"""Which figures a report has, in their order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import altair as alt
from altair.utils.schemapi import debug_mode

from agenttts.report.figures.best import PROGRESS, pareto_figure, progress_figure
from agenttts.report.figures.costs import time_figure
from agenttts.report.figures.insights import curve_figure, pair_figure
from agenttts.report.figures.style import Figure
from agenttts.report.summary import RunReport
from agenttts.tables.aggregate import COSTS

# Altair checks every part of a chart against Vega-Lite's schema, which takes most of the time of a
# page. The form of the charts does not depend on the input, so the tests check it instead. It also
# refuses tables of more than 5,000 rows.


@contextmanager
def _unchecked() -> Iterator[None]:
    with debug_mode(False), alt.data_transformers.enable("default", max_rows=None):
        yield


def progress_figures(runs: Sequence[RunReport], titles: Sequence[str]) -> list[Figure]:
    """Return the best score so far of runs over trials, GPU-hours and tokens."""
    with _unchecked():
        return _some(progress_figure(runs, titles, over, f"best-{over}") for over in PROGRESS)


def pareto_figures(run: RunReport) -> list[Figure]:
    """Return the scores against each cost."""
    with _unchecked():
        return _some(pareto_figure(run, cost, f"pareto-{cost.replace('_', '-')}") for cost in COSTS)


def insight_figures(run: RunReport) -> list[Figure]:
    """Return the curves of each stage, and the stages against each other."""
    outlook = run.background.outlook
    if outlook is None:
        return []
    models = list(dict.fromkeys(curve.model for curve in outlook.curves))
    stages = list(dict.fromkeys(curve.stage for curve in outlook.curves))
    with _unchecked():
        curves = _some(curve_figure(outlook, s, models, f"samples-{s}") for s in stages)
        pairs = _some(pair_figure(p, f"stages-{p.x_stage}-{p.y_stage}") for p in outlook.pairs)
    return curves + pairs


def time_figures(runs: Sequence[RunReport], titles: Sequence[str]) -> list[Figure]:
    """Return where the time of runs went."""
    with _unchecked():
        return _some(iter([time_figure(runs, titles, "time")]))


def _some(figures: Iterator[Figure | None]) -> list[Figure]:
    return [each for each in figures if each is not None]
