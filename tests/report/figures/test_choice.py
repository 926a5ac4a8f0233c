"""Which figures there are, for runs of any size, and that they are valid."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import altair as alt
import pytest

from agenttts.report.contents import run_contents
from agenttts.report.figures.choice import (
    insight_figures,
    pareto_figures,
    progress_figures,
    time_figures,
)
from agenttts.report.figures.drawing import svg
from agenttts.report.figures.style import Figure
from agenttts.space import Allocation, Choice
from agenttts.tables.schema import TrialRow, TrialState

ALL = {
    "best-trials", "best-gpu_hours", "best-tokens", "pareto-budget", "pareto-tokens", "pareto-gpu-seconds",
    "samples-retrieval", "samples-answer", "stages-retrieval-answer", "time",
}  # fmt: skip


def figures_of(report):
    """All figures of a report's runs, with those that compare them."""
    titles = [run.run for run in report.runs]
    found = [*progress_figures(report.runs, titles), *time_figures(report.runs, titles)]
    for run in report.runs:
        found += [*pareto_figures(run), *insight_figures(run)]
    return found


def check(figures, *, schema=False):
    """Each draws, and has no address and no missing number; ``schema``: it is valid Vega-Lite."""
    for figure in figures:
        if schema:  # takes a second a figure, mostly for the parts that do not depend on the data
            alt.LayerChart.from_dict({**figure.spec, "datasets": {}})
        text = json.dumps(figure.spec, allow_nan=False)
        assert "http" not in text, figure.name
        drawn = svg(figure)
        assert drawn.startswith("<svg"), figure.name
        assert "NaN" not in drawn, figure.name
        assert figure.title in drawn, figure.name
        assert figure.caption.endswith("."), figure.name


def test_a_run_has_all_figures(read_runs):
    figures = figures_of(read_runs())
    assert {figure.name for figure in figures} == ALL
    check(figures, schema=True)


def test_a_figure_of_many_points_is_not_refused(read_runs):
    """Altair takes 5,000 rows by default."""
    [run] = read_runs().runs
    outlook = run.background.outlook
    curve = outlook.curves[0]
    many = replace(outlook, curves=[replace(curve, trials=curve.trials * 3000)])
    figures = insight_figures(replace(run, background=replace(run.background, outlook=many)))
    assert any(len(rows) > 5000 for rows in figures[0].spec["datasets"].values())


def test_results_of_fewer_samples_are_smaller_points(read_runs):
    [run] = read_runs().runs
    outlook = run.background.outlook
    curves = [
        replace(curve, trials=[replace(t, stored=True) for t in curve.trials])
        for curve in outlook.curves
    ]
    stored = replace(
        run, background=replace(run.background, outlook=replace(outlook, curves=curves))
    )

    def sizes(of):
        marks = [layer["mark"] for layer in insight_figures(of)[0].spec["layer"]]
        return {m["size"] for m in marks if m["type"] == "point" and "shape" not in m}

    assert sizes(run) == {46}
    assert sizes(stored) == {14}


def test_a_score_that_rounds_to_one_is_written_so(read_runs):
    [run] = read_runs().runs
    outlook = run.background.outlook
    cells = [replace(cell, mean=0.997) for cell in outlook.pairs[0].cells]
    high = replace(outlook, pairs=[replace(outlook.pairs[0], cells=cells)])
    figures = insight_figures(replace(run, background=replace(run.background, outlook=high)))
    drawn = svg(next(figure for figure in figures if figure.name.startswith("stages-")))
    assert ">1.00<" in drawn
    assert ">.00<" not in drawn


def test_costs_below_one_have_no_unit(read_runs):
    [run] = read_runs().runs
    figures = progress_figures([run], [run.run])
    drawn = svg(next(figure for figure in figures if figure.name == "best-gpu_hours"))
    ticks = re.findall(r">([0-9.]+[a-zµ]?)<", drawn)
    assert any(0 < float(tick) < 1 for tick in ticks if not tick[-1].isalpha())
    assert not any(tick.endswith("m") for tick in ticks)


def test_several_runs_are_told_apart_by_colour(read_runs):
    report = read_runs("one", "two", "three")
    titles = [run.run for run in report.runs]
    figures = [*progress_figures(report.runs, titles), *time_figures(report.runs, titles)]
    check([figures[0], figures[-1]], schema=True)
    check(figures)
    best = next(figure for figure in figures if figure.name == "best-trials")
    drawn = svg(best)
    for name in ("one", "two", "three"):
        assert f">{name}<" in drawn, "the legend names every run"


@pytest.mark.parametrize("rows", [None, [], "failed"], ids=["no table", "no rows", "all failed"])
def test_without_a_score_there_are_no_figures_of_scores(rows, read_run, trial):
    if rows == "failed":
        rows = [trial(i, None, 10.0, state=TrialState.OOM, error="out of memory") for i in range(3)]
    run = read_run(rows=rows)
    assert progress_figures([run], ["demo"]) == []
    assert pareto_figures(run) == []
    assert len(time_figures([run], ["demo"])) == 1, "what failed took time as well"


@pytest.mark.parametrize("score", [0.0, -2.0, 1e6])
def test_one_trial(score, read_runs, trial):
    figures = figures_of(read_runs(rows=[trial(1, score, 100.0, score_stderr=0.1)], examples=False))
    assert {figure.name for figure in figures} >= ALL
    check(figures)


def test_equal_trials(read_runs, trial):
    check(figures_of(read_runs(rows=[trial(i, 0.5, 100.0) for i in (1, 2, 3)])))


def test_many_trials_stay_small(read_run, trial):
    rows = [
        trial(i, (i * 37 % 101) / 101, 10.0 + i % 90, score_stderr=0.02) for i in range(1, 3001)
    ]
    run = read_run(rows=rows, examples=False)
    figures = [*progress_figures([run], ["demo"]), *pareto_figures(run)]
    assert len(figures) == 6
    check(figures)
    for figure in figures:
        assert len(json.dumps(figure.spec)) < 200_000, figure.name


def test_names_with_marks_of_html_and_vega_are_texts(read_runs, trial):
    odd = Allocation((Choice("retrieval", "<b>a.b['x']\\\"", 1),))
    row = trial(1, 0.5, 10.0, allocation=odd)
    figures = figures_of(read_runs(rows=[row, trial(2, 0.7, 20.0)], examples=False))
    check(figures)
    drawn = svg(next(figure for figure in figures if figure.name == "pareto-budget"))
    assert "<b>" not in drawn


def test_a_front_of_some_of_the_trials_says_so(read_runs, trial):
    rows = [trial(n, 0.9 - n / 10, 10.0 * n, examples=20 if n < 3 else 5) for n in range(1, 6)]
    [run] = read_runs(rows=rows).runs
    assert run.compared == (2, 5, 20)
    says = ", among the 2 of 5 trials on the most examples (20)"
    assert run_contents(run, "demo").fronts[0].title.endswith(says)
    [figure, *_] = pareto_figures(run)
    assert f"the line is the Pareto front{says}; hollow dots are on fewer; " in figure.caption
    [run] = read_runs("alike", rows=rows[:2]).runs
    assert run.compared is None
    assert "most examples" not in run_contents(run, "demo").fronts[0].title
    assert "hollow" not in pareto_figures(run)[0].caption


def test_bars_of_scores_that_no_example_varies(read_run, trial):
    def row(number: int, score: float, **changes: object) -> TrialRow:
        return trial(number, score, 10.0 * number, examples=4, **changes)

    scores = [(0.0, 0.0), (0.2, 0.0), (0.5, None), (0.75, 0.25), (1.0, 0.0)]
    rows = [row(n, s, score_stderr=e) for n, (s, e) in enumerate(scores, start=1)]
    run = read_run(rows=rows, examples=False)
    bars = _bounds_of(pareto_figures(run)[0], "score")
    assert bars[0.0] == (0.0, pytest.approx(0.490, abs=1e-3))
    assert bars[1.0] == (pytest.approx(0.510, abs=1e-3), 1.0)
    assert bars[0.75] == (pytest.approx(0.26, abs=1e-3), 1.0)
    assert bars[0.2] == bars[0.5] == (None, None)
    band = _bounds_of(progress_figures([run], ["demo"])[0], "best")
    assert band == bars, "a best score without bounds has no band of another"


def test_scores_of_another_scale_have_no_bars_of_shares(read_run, trial):
    rows = [trial(1, 0.0, 10.0, examples=4, score_stderr=0.0), trial(2, 7.5, 20.0, examples=4, score_stderr=0.5)]  # fmt: skip
    bars = _bounds_of(pareto_figures(read_run(rows=rows, examples=False))[0], "score")
    assert bars[0.0] == (None, None)
    assert bars[7.5] == (pytest.approx(6.52), pytest.approx(8.48))


def _bounds_of(figure: Figure, score: str) -> dict[float, tuple[float | None, float | None]]:
    rows = [row for rows in figure.spec["datasets"].values() for row in rows]
    return {row[score]: (row["low"], row["high"]) for row in rows if "low" in row and score in row}


def test_there_is_no_front_against_gpu_seconds_without_gpus(read_runs, trial):
    rows = [trial(n, n / 10, 10.0 * n, gpu_seconds=0.0) for n in range(1, 4)]
    [run] = read_runs(rows=rows).runs
    fronts = [front.title for front in run_contents(run, "demo").fronts]
    figures = [figure.name for figure in pareto_figures(run)]
    assert [len(fronts), len(figures)] == [2, 2]
    assert not any("GPU-seconds" in title for title in fronts)
