"""The benchmark's own parts: what it measures against, and that a small run writes its table
and figure.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.search.problems import FAMILIES, surface_problem
from benchmarks.search.problems.surfaces import draw_surface, optimum

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "search"


@pytest.mark.parametrize("family", FAMILIES)
def test_the_optimum_is_the_best_of_all(family):
    numbers = (n for n in range(40) if draw_surface(n).space.count(4001) <= 4000)
    problem = surface_problem(family, next(numbers))
    assert optimum(problem.surface) == pytest.approx(
        max(map(problem.score, problem.space.feasible()))
    )


def test_a_sparse_surface_is_a_step_function_with_the_same_noise_on_a_step():
    problem = surface_problem("sparse", 3)
    names = [stage.largest.name for stage in problem.space.stages]
    # Whether they are within the budget does not matter to the response.
    first, second = (
        problem.space.allocation(*((name, count) for name in names)) for count in (14, 19)
    )
    assert problem.score(first) == problem.score(second)
    assert problem.trial(first, 100).score == problem.trial(second, 100).score


def test_a_small_run_writes_table_and_figure_and_is_not_repeated(tmp_path):
    command = [
        sys.executable, str(BENCHMARK / "run.py"), "--surfaces", "1", "--others", "0", "--table-seeds", "1",
        "--methods", "random", "genetic", "--jobs", "1", "--out", str(tmp_path),
    ]  # fmt: skip
    first = subprocess.run(command, capture_output=True, text=True, check=True)
    runs = [json.loads(line) for line in (tmp_path / "runs.jsonl").read_text().splitlines()]
    surfaces = [run for run in runs if run["case"]["problem"] == "chain"]
    assert len(surfaces) == 2 * 2 * 2
    assert all(len(run["regret"]) == 50 for run in runs)
    assert "| random |" in (tmp_path / "summary.md").read_text()
    assert (tmp_path / "regret.svg").read_text().startswith("<svg")
    assert "0 runs done" in first.stdout
    second = subprocess.run(command, capture_output=True, text=True, check=True)
    assert f"{len(runs)} runs done, 0 to do" in second.stdout
