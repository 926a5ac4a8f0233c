"""The table of iterations, and that of all trials."""

from __future__ import annotations

from agenttts.report import build_report
from agenttts.report.background import Background
from agenttts.report.story import MOST_TRIALS, iterations_grid, trials_grid
from agenttts.tables.schema import TEST_SOURCE, TrialState
from tests.support.written_runs import START, trial

ROWS = [
    trial(0, 0.4, 10.0),
    trial(1, 0.5, 10.0, score_stderr=0.1),
    trial(2, 0.45, 10.0, iteration=1, source="agent"),
    trial(3, None, 10.0, iteration=1, source="insight", state=TrialState.OOM),
    trial(4, 0.7, 10.0, iteration=2, source="insight"),
    trial(5, 0.99, 10.0, iteration=3, source=TEST_SOURCE),
]


def run_of(make_run, rows=ROWS, reasons=None):
    background = Background(reasons=reasons or {})
    path = make_run(rows=rows, examples=False)
    return build_report([path], backgrounds={path: background}).runs[0]


def test_an_iteration_is_a_row(make_run):
    reasons = {"t0000": "models compared", "t0001": "models compared", "t0002": "more samples"}
    grid = iterations_grid(run_of(make_run, reasons=reasons))
    assert grid is not None
    assert grid.rows == (
        ("0", "2", "2 initial", "models compared (2 times)", "0.4000 to 0.5000", "0.5000",
         "best: qwen-7b×1 → llama[3b]×2 (t0001)"),
        ("1", "2", "1 agent, 1 insight", "more samples", "0.4500", "0.5000",
         "the best score stays; 1 OOM"),
        ("2", "1", "1 insight", "-", "0.7000", "0.7000",
         "best: qwen-7b×4 → llama[3b]×8 (t0004) (+0.2000)"),
    )  # fmt: skip


def test_a_score_on_more_examples_takes_the_place_of_luck_on_fewer(make_run):
    few, many = {"examples": 10}, {"examples": 100}
    rows = [
        trial(0, 1.0, 10.0, **few),
        trial(1, 0.7, 10.0, iteration=1, **many),
        trial(2, 0.6, 10.0, iteration=1, **many),
        trial(3, 0.9, 10.0, iteration=2, **few),
        # Finished before all others, which the order of iterations does not ask.
        trial(4, 0.75, 10.0, iteration=3, finished=START, **many),
    ]
    run = run_of(make_run, rows)
    grid = iterations_grid(run)
    assert grid is not None
    assert [row[5:] for row in grid.rows] == [
        ("1.0000", "best: qwen-7b×0 → llama[3b]×0 (t0000)"),
        ("0.7000", "best: qwen-7b×1 → llama[3b]×2 (t0001) (on more examples)"),
        ("0.7000", "the best score stays"),
        ("0.7500", "best: qwen-7b×4 → llama[3b]×8 (t0004) (+0.0500)"),
    ]
    assert run.best is not None
    assert grid.rows[-1][5] == f"{run.best['score']:.4f}"


def test_the_best_of_very_many_trials_are_on_the_most_examples(make_run):
    rows = [trial(i, 1.0, 1.0, examples=10) for i in range(MOST_TRIALS)]
    rows += [trial(5000, 0.5, 1.0, examples=100), trial(6000, None, 1.0, examples=100)]
    grid = trials_grid(run_of(make_run, rows))
    assert grid is not None
    names = [row[0] for row in grid.rows]
    assert (len(names), "t5000" in names, "t6000" in names) == (MOST_TRIALS, True, False)


def test_many_and_long_reasons_are_shortened(make_run):
    rows = [trial(i, 0.1, 1.0) for i in range(6)]
    reasons = {f"t{i:04d}": f"{i}" * 300 for i in range(6)}
    grid = iterations_grid(run_of(make_run, rows, reasons))
    assert grid is not None
    [(*_, why, _, _, _)] = grid.rows
    assert why.endswith("; and 3 more")
    assert len(why) < 3 * 190


def test_all_trials_are_rows(make_run):
    grid = trials_grid(run_of(make_run, reasons={"t0001": "why not"}))
    assert grid is not None
    assert grid.title == "All 6 trials"
    by_name = {row[0]: dict(zip(grid.columns, row, strict=True)) for row in grid.rows}
    assert by_name["t0001"]["score"] == "0.5000 ± 0.196"
    assert by_name["t0001"]["why"] == "why not"
    assert by_name["t0001"]["time"] == "1 min 00 s"
    assert (by_name["t0003"]["state"], by_name["t0003"]["score"]) == ("OOM", "-")
    assert by_name["t0005"]["proposed by"] == "test"


def test_trials_from_10000_on_follow_the_others(make_run):
    numbers = (9998, 10000, 10001, 9999, 1)
    rows = [trial(n, n / 20000, 1.0, source="agent" if n > 9999 else "insight") for n in numbers]
    run = run_of(make_run, rows)
    grid, iterations = trials_grid(run), iterations_grid(run)
    assert grid is not None
    assert iterations is not None
    assert [row[0] for row in grid.rows] == ["t0001", "t9998", "t9999", "t10000", "t10001"]
    assert iterations.rows[0][2] == "3 insight, 2 agent", "in the order of the trials"


def test_without_trials_there_are_no_tables(make_run):
    run = run_of(make_run, rows=[])
    assert iterations_grid(run) is None
    assert trials_grid(run) is None
