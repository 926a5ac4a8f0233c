"""Regret of agenttts with its mechanisms switched off one at a time.

    python benchmarks/search/ablation.py                 # goes on where it stopped
    python benchmarks/search/ablation.py --minutes 5     # at most 5 minutes of CPU
    python benchmarks/search/ablation.py --table         # only print what there is

Problems are simulated pipelines, some of them with a model that fails from a number of samples on,
surfaces of curves with 50 examples a trial, and the recorded tables (items.py, run.py and
tables_by_example.py say more of them). Every mechanism (mechanisms.py) runs on the same problems
and seeds. Finished runs are kept in results/ablation.jsonl.

Regret is the best expected score less that of the recommended allocation, in percent of the best
(in points on tables with scores by example, because their halves have no expected scores). The
change is to the search with all mechanisms on the same problem.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

# One thread a process: the matrices are small, and the processes run side by side.
for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(variable, "1")

import numpy as np  # noqa: E402

from agenttts.replay.table import RecordedTable  # noqa: E402
from agenttts.search import Proposal, TrialResult, create  # noqa: E402
from agenttts.search.fidelity import Fidelity  # noqa: E402
from agenttts.space import Allocation, SearchSpace  # noqa: E402
from benchmarks.search.items import EXAMPLES, recorded, table_of  # noqa: E402
from benchmarks.search.logs import finished  # noqa: E402
from benchmarks.search.mechanisms import BY_EXAMPLE, DELETED, FAILING, MECHANISMS, METRICS  # noqa: E402
from benchmarks.search.problems import FAMILIES, Problem, surface_problem, table_problem  # noqa: E402
from benchmarks.search.problems.items import draw_pipeline  # noqa: E402
from benchmarks.search.tables_by_example import halves  # noqa: E402

LOG = Path(__file__).parent / "results" / "ablation.jsonl"
SPENT = (1000, 2650)
SEARCHER = "agenttts:25:400:stored"
BATCH, SURFACE_EXAMPLES, TABLE_EXAMPLES = 10, 50, 40

# Problems of each family, and what they have.
TABLES = ("two_facts", "two_facts_three_models", "two_hops_three_models", "kgqa_three_models")
SIZES = {
    "two stages": 16, "three stages": 6, "failing": 8, **dict.fromkeys(TABLES, 6),
    **{f"curves {family}": 3 for family in FAMILIES}, "small_llms": 4,
}  # fmt: skip
HAS = {
    "two stages": {BY_EXAMPLE}, "three stages": {BY_EXAMPLE}, "failing": {BY_EXAMPLE, FAILING},
    **{table: {BY_EXAMPLE} for table in TABLES},
    **{f"curves {family}": {METRICS} for family in FAMILIES}, "small_llms": {METRICS},
}  # fmt: skip
# No choice was made by pipelines from 500 on and by surfaces from 9500 on.
FIRST_PIPELINE, FIRST_SURFACE = 500, 9500


@dataclass(frozen=True)
class Case:
    """A search: the mechanism that is switched off, and the problem."""

    off: str
    family: str
    number: int


@dataclass(frozen=True)
class Setting:
    """A problem as the search sees it.

    Attributes:
        space: The search space.
        examples: Number of examples with scores of their own; None: trials have only scores.
        trial: Results of a trial, those of its stored samples last if the flag says so, and the
            example evaluations that it cost.
        regret: Regret of a recommendation, in percent.
    """

    space: SearchSpace
    examples: int | None
    trial: Callable[[Proposal, bool], tuple[list[TrialResult], int]]
    regret: Callable[[Allocation], float]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=25.0, help="of CPU, of all processes")
    parser.add_argument("--off", nargs="+", choices=MECHANISMS, default=list(MECHANISMS))
    parser.add_argument("--families", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--problems", type=int, help="at most so many of each family")
    parser.add_argument("--evaluations", nargs=2, type=int, default=SPENT, help="of examples")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--log", type=Path, default=LOG, help="where finished runs are kept")
    parser.add_argument("--table", action="store_true", help="only print the table")
    arguments = parser.parse_args()
    done = dict(read(arguments.log))
    todo = [
        c for c in cases(arguments.off, arguments.families, arguments.problems) if c not in done
    ]
    if not arguments.table:
        arguments.log.parent.mkdir(parents=True, exist_ok=True)
        spent = 0.0
        with ProcessPoolExecutor(arguments.jobs) as pool, arguments.log.open("a") as log:
            waiting = iter(todo)
            running = {
                pool.submit(run, case, arguments.evaluations)
                for case in islice(waiting, arguments.jobs)
            }
            while running:
                future = next(as_completed(running))
                running.remove(future)
                record = future.result()
                spent += record["seconds"]
                log.write(json.dumps(record) + "\n")
                log.flush()
                if spent < 60.0 * arguments.minutes and (case := next(waiting, None)):
                    running.add(pool.submit(run, case, arguments.evaluations))
        done = dict(read(arguments.log))
    print_tables(done, arguments.evaluations)


def cases(off: Iterable[str], families: Sequence[str], most: int | None) -> list[Case]:
    """Problem by problem, so that what is done when it is stopped can be compared."""
    sizes = {family: min(SIZES[family], most or SIZES[family]) for family in families}
    return [
        Case(name, family, number)
        for number in range(max(sizes.values()))
        for family in families
        if number < sizes[family]
        for name in off
        if MECHANISMS[name].needs in (None, *HAS[family])
    ]


def run(case: Case, evaluations: Sequence[int]) -> dict[str, Any]:
    """Regret after each number of evaluations, and seconds of CPU."""
    started = time.process_time()
    setting = setting_of(case.family, case.number)
    mechanism = MECHANISMS[case.off]
    method, first, most, *stored = (mechanism.searcher or SEARCHER).split(":")
    with mechanism.switched_off():
        searcher = create(method, setting.space, case.number)
        if setting.examples is not None:
            examples = setting.examples
            searcher.fidelity = Fidelity(int(first), min(int(most), examples), examples)
        regrets, spent, each = [], 0, int(first)
        for goal in evaluations:
            while spent < goal:
                proposals = searcher.propose(min(BATCH, math.ceil((goal - spent) / each)))
                if not proposals:
                    break
                for proposal in proposals:
                    if proposal.allocation not in searcher.archive.pending:
                        continue  # stored samples of the same batch have given its result
                    told, cost = setting.trial(proposal, bool(stored))
                    searcher.tell(told)
                    spent += cost
            best = searcher.best()
            regrets.append(100.0 if best is None else round(setting.regret(best), 4))
    return {**vars(case), "regrets": regrets, "seconds": round(time.process_time() - started, 2)}


@lru_cache(maxsize=1)
def setting_of(family: str, number: int) -> Setting:
    """Problem ``number`` of a family."""
    if family in ("two stages", "three stages", "failing"):
        offset = {"two stages": 0, "three stages": 100, "failing": 200}[family]
        pipeline = draw_pipeline(
            FIRST_PIPELINE + offset + number, EXAMPLES, 3 if family == "three stages" else 2
        )
        table = recorded(pipeline)
        works = _limit(pipeline.space, number) if family == "failing" else lambda _: True
        best = max(pipeline.expected(a) for a in pipeline.space.feasible() if works(a))

        def below(allocation: Allocation) -> float:
            expected = pipeline.expected(allocation) if works(allocation) else 0.0
            return 100.0 * (1.0 - expected / best)

        return _by_example(table, pipeline.space, EXAMPLES, works, below)
    if family in TABLES:
        half = halves(family, number)
        examples = len(next(iter(half.searched.values())))
        return _by_example(
            table_of(half.searched), half.space, examples, lambda _: True, half.regret
        )
    if family == "small_llms":
        return _by_score(table_problem(family), TABLE_EXAMPLES)
    kind = family.removeprefix("curves ")
    return _by_score(surface_problem(kind, FIRST_SURFACE + number), SURFACE_EXAMPLES)


def _limit(space: SearchSpace, number: int) -> Callable[[Allocation], bool]:
    """A stage's largest model fails from some number of samples on."""
    rng = np.random.default_rng([number, 11])
    stage = space.stages[int(rng.integers(len(space.stages)))]
    limit = stage.samples[int(rng.integers(1, 4))]

    def works(allocation: Allocation) -> bool:
        choice = allocation[stage.name]
        return choice.model != stage.largest.name or choice.samples < limit

    return works


def _by_example(
    table: RecordedTable,
    space: SearchSpace,
    examples: int,
    works: Callable[[Allocation], bool],
    regret: Callable[[Allocation], float],
) -> Setting:
    def trial(proposal: Proposal, stored: bool) -> tuple[list[TrialResult], int]:
        allocation = proposal.allocation
        cost = len(proposal.examples or range(examples))
        if not works(allocation):
            return [TrialResult(allocation, None, {}, space.cost(allocation))], cost
        result = table.trial(space, allocation, proposal.source, examples=proposal.examples)
        told = table.stored(space, result, of_grid=True) if stored else []
        return [result, *told], cost

    return Setting(space, examples, trial, regret)


def _by_score(problem: Problem, examples: int) -> Setting:
    def trial(proposal: Proposal, stored: bool) -> tuple[list[TrialResult], int]:
        return [problem.trial(proposal.allocation, examples)], examples

    def regret(allocation: Allocation) -> float:
        return 100.0 * (problem.best - problem.score(allocation)) / problem.best

    return Setting(problem.space, None, trial, regret)


def read(log: Path) -> Iterable[tuple[Case, list[float]]]:
    """Finished runs, with their regrets."""
    for record in finished(log):
        yield Case(record["off"], record["family"], record["number"]), record["regrets"]


def print_tables(done: dict[Case, list[float]], evaluations: Sequence[int]) -> None:
    """The changes over all families, then by family."""
    heads = [f"{head} at {n:,}" for n in evaluations for head in ("regret", "change")]
    print(f"| switched off | lines | problems | {' | '.join(heads)} |")
    print(f"|---|{'--:|' * (len(heads) + 2)}")
    lines = {off: mechanism.lines for off, mechanism in MECHANISMS.items()} | DELETED
    for off in lines:
        pairs = _pairs(done, off)
        if pairs:
            cells = [str(lines[off]), str(len(pairs))]
            for column in range(len(evaluations)):
                cells.append(_mean([without[column] for without, _ in pairs]))
                cells.append(_mean([a[column] - b[column] for a, b in pairs]))
            print(f"| {off} | {' | '.join(cells)} |")
    print(f"\n| switched off | {' | '.join(_groups())} |\n|---|{'--:|' * len(_groups())}")
    for off in lines:
        if not _pairs(done, off):
            continue
        cells = []
        for families in _groups().values():
            pairs = _pairs(done, off, families)
            change = [fmean(a) - (fmean(b) if off != "nothing" else 0.0) for a, b in pairs]
            cells.append(_mean(change) if pairs else "")
        print(f"| {off} | {' | '.join(cells)} |")


def _groups() -> dict[str, list[str]]:
    curves = [family for family in SIZES if family.startswith("curves")]
    others = {family: [family] for family in SIZES if family not in curves}
    tables = {family: [family] for family in TABLES}
    others = {family: names for family, names in others.items() if family not in TABLES}
    return {**others, "curves": curves, **tables}


def _pairs(
    done: dict[Case, list[float]], off: str, families: Iterable[str] = SIZES
) -> list[tuple[list[float], list[float]]]:
    """Regrets without a mechanism and with all of them, on the same problems."""
    both = (
        (regrets, done.get(Case("nothing", c.family, c.number)), c) for c, regrets in done.items()
    )
    return [(a, b) for a, b, case in both if case.off == off and case.family in families and b]


def _mean(values: Sequence[float]) -> str:
    if len(values) < 2:
        return f"{fmean(values):.2f}"
    return f"{fmean(values):.2f} ± {stdev(values) / math.sqrt(len(values)):.2f}"


if __name__ == "__main__":
    main()
