"""Which figures a report has, in their order."""

from __future__ import annotations

from collections.abc import Sequence

from altair.utils.schemapi import debug_mode

from agenttts.report.figures.best import PROGRESS, pareto_figure, progress_figure
from agenttts.report.figures.style import Figure
from agenttts.report.summary import RunReport
from agenttts.tables.aggregate import COSTS

# Altair checks every part of a chart against Vega-Lite's schema, which takes most of the time of a
# page. The charts do not depend on the input, so the tests check them instead.


def run_figures(run: RunReport, title: str) -> list[Figure]:
    """Return the figures of one run that its trials give."""
    with debug_mode(False):
        return [each for each in _of_run(run, title) if each is not None]


def common_figures(runs: Sequence[RunReport], titles: Sequence[str]) -> list[Figure]:
    """Return the figures that compare runs."""
    with debug_mode(False):
        found = [progress_figure(runs, titles, over, f"best-{over}") for over in PROGRESS]
    return [each for each in found if each is not None]


def _of_run(run: RunReport, title: str) -> list[Figure | None]:
    found = [progress_figure([run], [title], over, f"best-{over}") for over in PROGRESS]
    found += [pareto_figure(run, cost, f"pareto-{cost}") for cost in COSTS]
    return found
