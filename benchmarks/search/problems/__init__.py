"""What the searchers are measured on: synthetic surfaces and recorded tables, behind one shape."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from agenttts.replay.table import RecordedTable, load_table
from agenttts.search import TrialResult
from agenttts.space import Allocation, SearchSpace
from agenttts.spec import load_spec

from .surfaces import Surface, draw_surface, optimum, share_stderr

HERE = Path(__file__).parents[1]

# Families beside the plain one, to see that nothing hangs on its formula: other couplings, and
# tables with few counts and without stage metrics.
SPARSE = (1, 2, 4, 8, 16, 32, 64)
FAMILIES = ("chain", "additive", "logistic", "sparse")

# Recorded tables of scores alone, with the number of their examples. The others have scores by
# example: see tables_by_example.py.
TABLE_EXAMPLES = {"small_llms": 40}


class Problem(Protocol):
    """A space whose best noise-free score is known."""

    @property
    def space(self) -> SearchSpace: ...

    @property
    def best(self) -> float: ...

    def score(self, allocation: Allocation) -> float: ...

    def trial(self, allocation: Allocation, examples: int) -> TrialResult: ...


@dataclass(frozen=True)
class SurfaceProblem:
    surface: Surface
    best: float
    stage_metrics: bool

    @property
    def space(self) -> SearchSpace:
        return self.surface.space

    def score(self, allocation: Allocation) -> float:
        return self.surface.score(allocation)

    def trial(self, allocation: Allocation, examples: int) -> TrialResult:
        result = self.surface.trial(allocation, examples, 0)
        return result if self.stage_metrics else replace(result, metrics={})


@dataclass(frozen=True)
class TableProblem:
    table: RecordedTable
    space: SearchSpace
    best: float
    examples: int | None = None

    def score(self, allocation: Allocation) -> float:
        return self.trial(allocation, 0).score or 0.0

    def trial(self, allocation: Allocation, examples: int) -> TrialResult:
        result = self.table.trial(self.space, allocation)
        if self.examples is None or result.score is None:
            return result
        return replace(result, stderr=share_stderr(result.score, self.examples))


def surface_problem(family: str, number: int) -> SurfaceProblem:
    """The surface ``number`` of a family."""
    coupling, grid = ("chain", SPARSE) if family == "sparse" else (family, None)
    surface = draw_surface(number, coupling, grid)
    return SurfaceProblem(surface, optimum(surface), stage_metrics=family != "sparse")


def table_problem(name: str) -> TableProblem:
    """A recorded table: ``tables/NAME.parquet`` with the job spec it was recorded for,
    ``tables/NAME.yaml``.
    """
    space = load_spec(HERE / "tables" / f"{name}.yaml").space()
    table = load_table(HERE / "tables" / f"{name}.parquet", space)
    scores = (table.trial(space, allocation).score for allocation in space.feasible())
    best = max(score for score in scores if score is not None)
    return TableProblem(table, space, best, TABLE_EXAMPLES.get(name))
