"""Aggregation against brute force over small tables."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

import agenttts
from agenttts.files.table_files import atomic_write_parquet
from agenttts.space import Allocation, Choice
from agenttts.tables.aggregate import (
    COSTS,
    Cost,
    best_so_far,
    best_trial,
    bootstrap_interval,
    concat_trials,
    load_runs,
    main_metric,
    pareto_front,
    scored,
    summarise_runs,
)
from agenttts.tables.schema import ExampleRow, TrialRow, TrialState, examples_frame, trials_frame

START = datetime(2026, 1, 1, tzinfo=UTC)


def row(number: int, score: float | None, budget: float = 10.0, **changes: Any) -> TrialRow:
    values: dict[str, Any] = {
        "run": "r",
        "trial": f"t{number:04d}",
        "iteration": 0,
        "source": "random",
        "state": TrialState.FAILED if score is None else TrialState.COMPLETED,
        "score": score,
        "budget": budget,
        "allocation": Allocation((Choice("s", "m", number + 1),)),
        "started": START,
        "finished": START + timedelta(seconds=number),
    }
    return TrialRow(**values | changes)


def frame(rows: Sequence[TrialRow], metrics: Sequence[str] = ()) -> pl.DataFrame:
    return trials_frame(rows, metrics)


# Few distinct values, so that ties are common.
@st.composite
def tables(draw: st.DrawFn) -> list[TrialRow]:
    few = st.integers(0, 4)
    examples = draw(
        st.sampled_from([st.none(), st.just(50), st.integers(1, 3).map(lambda n: 25 * n)])
    )
    return [
        row(
            number,
            draw(st.none() | few.map(lambda n: n / 4)),
            float(draw(few)),
            finished=draw(st.none() | few.map(lambda n: START + timedelta(seconds=n))),
            gpu_seconds=float(draw(few)),
            prompt_tokens=draw(few),
            examples=draw(examples),
            decode_tokens=draw(few),
        )
        for number in range(draw(st.integers(0, 12)))
    ]


def cost_of(trial: TrialRow, cost: Cost) -> float:
    if cost == "tokens":
        return trial.prompt_tokens + trial.decode_tokens
    return trial.budget if cost == "budget" else trial.gpu_seconds


def on_most(rows: Sequence[TrialRow]) -> list[TrialRow]:
    """The scored trials on the most examples."""
    scored = [r for r in rows if r.score is not None]
    widest = max((r.examples or 0 for r in scored), default=0)
    return [r for r in scored if (r.examples or 0) == widest]


def finish_order(trial: TrialRow) -> tuple[bool, datetime, str]:
    return trial.finished is None, trial.finished or START, trial.trial


@given(tables())
def test_the_front_is_what_no_trial_dominates(rows: list[TrialRow]) -> None:
    for cost in COSTS:
        points = [(cost_of(r, cost), r.score, r.trial) for r in on_most(rows)]
        expected = [
            (c, s, t)
            for c, s, t in points
            if not any(oc <= c and os >= s and (oc < c or os > s) for oc, os, _ in points)
        ]
        front = pareto_front(frame(rows), cost)
        assert list(front.select(cost, "score", "trial").iter_rows()) == sorted(expected)
        assert front["score"].is_sorted()


@given(tables())
def test_the_trace_is_the_running_maximum_in_order_of_finishing(rows: list[TrialRow]) -> None:
    ordered = sorted((r for r in rows if r.score is not None), key=finish_order)
    trace = best_so_far(frame(rows))
    assert trace["trial"].to_list() == [r.trial for r in ordered]
    assert trace["step"].to_list() == list(range(1, len(ordered) + 1))
    best: list[TrialRow] = []
    for number in range(1, len(ordered) + 1):
        widest = max(r.examples or 0 for r in ordered[:number])
        on_most = [r for r in ordered[:number] if (r.examples or 0) == widest]
        best.append(max(on_most, key=lambda r: r.score or 0.0))
    assert trace["best_so_far"].to_list() == [r.score for r in best]
    improved = [i == 0 or best[i] is not best[i - 1] for i in range(len(best))]
    assert trace["improved"].to_list() == improved


@given(tables())
def test_the_best_trial_by_score_then_budget_then_finish(rows: list[TrialRow]) -> None:
    candidates = on_most(rows)
    expected = min(
        candidates, key=lambda r: (-(r.score or 0.0), r.budget, *finish_order(r)), default=None
    )
    found = best_trial(frame(rows))
    assert (found and found["trial"]) == (expected and expected.trial)


def test_ties() -> None:
    later_but_cheaper = [row(0, 0.5, 20.0), row(1, 0.5, 10.0), row(2, 0.5, 10.0)]
    best = best_trial(frame(later_but_cheaper))
    assert best is not None
    assert best["trial"] == "t0001"


def test_many_trials_keep_their_order_beyond_four_digits() -> None:
    rows = [row(10000, 0.1, finished=START), row(9999, 0.2, finished=START)]
    assert best_so_far(frame(rows))["trial"].to_list() == ["t9999", "t10000"]


def test_no_table_is_sorted_by_ids_as_texts():
    package = Path(agenttts.__file__).parent
    asked = {path: re.findall(r"\.sort\([^)]*\"trial\"", path.read_text()) for path in package.rglob("*.py")}  # fmt: skip
    assert len(asked) > 100, "the package is found"
    assert {path.name: found for path, found in asked.items() if found} == {}


def test_zero_is_a_score_and_nothing_is_not() -> None:
    rows = [
        row(0, 0.0),
        row(1, None),
        row(2, float("nan")),
        row(3, 0.9, state=TrialState.CANCELLED),
    ]
    assert scored(frame(rows))["trial"].to_list() == ["t0000"]
    best = best_trial(frame(rows))
    assert best is not None
    assert best["score"] == 0.0
    assert best_trial(frame(rows[1:])) is None
    assert pareto_front(frame(rows[1:]), "budget").is_empty()
    assert best_so_far(frame(rows[1:])).is_empty()


def test_summary_of_runs() -> None:
    rows = [
        row(0, 0.0, gpu_seconds=1800.0, prompt_tokens=60, decode_tokens=40, reused_tokens=25),
        row(1, None, gpu_seconds=1800.0, state=TrialState.TIMEOUT),
        row(0, None, run="q", finished=None),
    ]
    first, second = summarise_runs(frame(rows)).to_dicts()
    assert (first["run"], first["trials"], first["scored"], first["best"]) == ("r", 2, 1, 0.0)
    assert (first["COMPLETED"], first["TIMEOUT"], first["FAILED"]) == (1, 1, 0)
    assert (first["tokens"], first["reused_share"], first["gpu_hours"]) == (100, 0.25, 1.0)
    assert first["wall_seconds"] == 1.0
    assert (second["run"], second["best"], second["reused_share"]) == ("q", None, None)
    assert second["wall_seconds"] is None
    assert summarise_runs(frame([])).is_empty()


def test_runs_with_other_metrics_are_put_together(tmp_path: Path) -> None:
    one = frame([row(0, 0.5, metrics={"a.x": 0.5, "b.y": 0.1})], ["a.x", "b.y"])
    two = frame([row(0, 0.7, run="q", metrics={"c.z": 0.7, "a.x": 0.2})], ["c.z", "a.x"])
    none = frame([row(1, None)])
    for name, table in {"one": one, "two": two, "none": none}.items():
        (tmp_path / name).mkdir()
        atomic_write_parquet(tmp_path / name / "trials.parquet", table)
    both = load_runs([tmp_path / "one", tmp_path / "two" / "trials.parquet", tmp_path / "none"])
    assert both["metrics"].to_list() == [
        {"a.x": 0.5, "b.y": 0.1, "c.z": None},
        {"a.x": 0.2, "b.y": None, "c.z": 0.7},
        {"a.x": None, "b.y": None, "c.z": None},
    ]
    assert both["run"].to_list() == ["r", "q", "r"]
    assert load_runs([]).is_empty()
    assert concat_trials([none, none]).height == 2


def test_the_main_metric_is_the_one_that_equals_the_score() -> None:
    names = ["a.x", "b.y"]
    rows = [
        row(0, 0.5, metrics={"a.x": 0.5, "b.y": 0.5}),
        row(1, 0.6, metrics={"a.x": 0.6, "b.y": 0.1}),
        row(2, None),
    ]
    assert main_metric(frame(rows, names)) == "a.x"
    assert main_metric(frame(rows[:1], names)) == "b.y"
    assert main_metric(frame(rows[2:], names)) is None
    assert main_metric(frame([row(0, 0.5, metrics={"a.x": 0.1})], names)) is None


def examples(values: Sequence[float | None], stage: str = "answer") -> pl.DataFrame:
    rows = [
        ExampleRow("t", f"e{i:03d}", s, "m", 1, "null", (), metrics)
        for i, value in enumerate(values)
        for s, metrics in ((stage, {"em": value}), ("retrieval", {"em": 0.123}))
    ]
    return examples_frame(rows, ["em"])


def test_the_interval_is_seeded_and_holds_the_mean() -> None:
    values = [float(i % 3 == 0) for i in range(60)]
    table = examples(values)
    interval = bootstrap_interval(table, "answer.em", seed=1)
    assert interval is not None
    assert interval.low < sum(values) / 60 < interval.high
    # The normal approximation: 1.96 standard errors.
    assert interval.high - interval.low == pytest.approx(2 * 1.96 * (2 / 9 / 60) ** 0.5, rel=0.2)
    assert interval == bootstrap_interval(table, "answer.em", seed=1)
    assert interval == bootstrap_interval(table.reverse(), "answer.em", seed=1)
    narrower = bootstrap_interval(table, "answer.em", seed=1, level=0.5)
    assert narrower is not None
    assert interval.low < narrower.low < narrower.high < interval.high


MANY = """
import resource
import polars as pl
from agenttts.tables.aggregate import bootstrap_interval
metrics = pl.Series([{"em": float(n % 3 == 0)} for n in range(60_000)])
examples = pl.DataFrame({"example": range(60_000), "stage": "answer", "metrics": metrics})
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
interval = bootstrap_interval(examples, "answer.em")
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before, interval.high - interval.low)
"""


@pytest.mark.processes
def test_very_many_examples_are_drawn_in_parts() -> None:
    done = subprocess.run([sys.executable, "-c", MANY], capture_output=True, text=True, check=True)
    memory_kib, width = map(float, done.stdout.split())
    assert memory_kib < 300_000, "all draws at once are 12 bytes each: 720 MB"
    assert width == pytest.approx(2 * 1.96 * (2 / 9 / 60_000) ** 0.5, rel=0.2)


def test_no_interval_without_two_examples_of_the_metric() -> None:
    assert bootstrap_interval(examples([1.0]), "answer.em") is None
    assert bootstrap_interval(examples([]), "answer.em") is None
    assert bootstrap_interval(examples([1.0, None]), "answer.em") is None
    assert bootstrap_interval(examples([1.0, 0.0]), "answer.f1") is None
    assert bootstrap_interval(examples([1.0, 0.0]), "other.em") is None
    assert bootstrap_interval(examples([0.3, 0.3, 0.3]), "answer.em") is None


# Wilson's interval of 4 of 4, and of 50 of 50, as in published tables.
@pytest.mark.parametrize(("count", "low"), [(4, 0.5101), (50, 0.9287)])
def test_examples_that_are_all_right_or_all_wrong_leave_others_open(count, low) -> None:
    right = bootstrap_interval(examples([1.0] * count), "answer.em")
    wrong = bootstrap_interval(examples([0.0] * count), "answer.em")
    assert right == (pytest.approx(low, abs=1e-4), 1.0, 0.95)
    assert wrong == (0.0, pytest.approx(1 - low, abs=1e-4), 0.95)
    narrower = bootstrap_interval(examples([1.0] * count), "answer.em", level=0.5)
    assert narrower is not None
    assert low < narrower.low < 1.0
