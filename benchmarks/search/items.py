"""Searchers on simulated pipelines, by what they spend: example evaluations.

    python benchmarks/search/items.py                         # 24 pipelines, about ten minutes
    python benchmarks/search/items.py --pipelines 9 --searchers agenttts:25:400:stored gp:50:50

A searcher is METHOD:FIRST:MOST, with ``:stored`` where a trial's fewer samples of the last stage
are told too. Trials use 400 examples. Regret is judged on the pipeline's whole population: the best
expected score less that of the recommended allocation, relative to the best, in percent.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor

# One thread a process: the matrices are small, and the processes run side by side.
for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(variable, "1")

from agenttts.replay.table import Recorded, RecordedTable  # noqa: E402
from agenttts.search import Searcher, create  # noqa: E402
from agenttts.search.fidelity import Fidelity  # noqa: E402
from agenttts.space import Allocation, SearchSpace  # noqa: E402
from benchmarks.search.problems.items import Pipeline, draw_pipeline  # noqa: E402

SEARCHERS = (
    "agenttts:25:400:stored", "agenttts:25:400", "agenttts:25:25", "agenttts:50:50",
    "gp:25:25:stored", "gp:25:25", "gp:50:50", "gp:100:100", "optuna_tpe:50:50", "genetic:50:50",
    "random:50:50",
)  # fmt: skip
EXAMPLES, FIRST_PIPELINE = 400, 100
SPENT = (1000, 2650)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pipelines", type=int, default=24)
    parser.add_argument("--first", type=int, default=FIRST_PIPELINE, help="number of the first")
    parser.add_argument("--stages", type=int, default=2)
    parser.add_argument("--searchers", nargs="+", default=list(SEARCHERS))
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    arguments = parser.parse_args()
    numbers = range(arguments.first, arguments.first + arguments.pipelines)
    print(f"| searcher | {' | '.join(f'regret at {n}, %' for n in SPENT)} | CPU s a trial |")
    print(f"|---|{'--:|' * (len(SPENT) + 1)}")
    with ProcessPoolExecutor(arguments.jobs) as pool:
        for searcher in arguments.searchers:
            found = list(
                pool.map(run, [searcher] * len(numbers), numbers, [arguments.stages] * len(numbers))
            )
            means = [sum(values) / len(found) for values in zip(*found, strict=True)]
            cells = [f"{mean:.2f}" for mean in means]
            print(f"| {searcher} | {' | '.join(cells)} |", flush=True)


def run(searcher: str, number: int, stages: int) -> tuple[float, ...]:
    """Regret after each of `SPENT`, in percent, and the searcher's seconds a trial."""
    pipeline = draw_pipeline(number, EXAMPLES, stages)
    chosen, seconds = recommendations(
        searcher, recorded(pipeline), pipeline.space, number, EXAMPLES, SPENT
    )
    regrets = [100.0 * (1.0 - pipeline.expected(one) / pipeline.best) for one in chosen]
    return (*regrets, seconds)


def recommendations(
    searcher: str,
    table: RecordedTable,
    space: SearchSpace,
    seed: int,
    examples: int,
    spent: Sequence[int],
) -> tuple[list[Allocation], float]:
    """What a searcher recommends after each number of evaluations, and its seconds a trial.

    Args:
        searcher: METHOD:FIRST:MOST, with ``:stored`` if wanted.
        table: Recorded scores by example.
        space: The search space.
        seed: The searcher's seed.
        examples: The table's examples.
        spent: Numbers of example evaluations, ascending.
    """
    method, first, most, *stored = searcher.split(":")
    made = create(method, space, seed)
    made.fidelity = Fidelity(int(first), int(most), examples)
    started = time.process_time()
    found: list[Allocation] = []
    used = trials = 0
    while len(found) < len(spent):
        proposals = made.propose(10)
        for proposal in proposals:
            if proposal.allocation not in made.archive.pending:
                continue  # stored samples of the same batch have given its result
            used += len(proposal.examples or range(examples))
            # The recommendation before the trial that passes a number.
            while len(found) < len(spent) and used > spent[len(found)]:
                found.append(_recommended(made))
            result = table.trial(
                space, proposal.allocation, proposal.source, examples=proposal.examples
            )
            made.tell([result, *table.stored(space, result, of_grid=bool(stored))])
            trials += 1
        if not proposals:  # the space is exhausted
            found += [_recommended(made)] * (len(spent) - len(found))
    return found, (time.process_time() - started) / trials


def _recommended(searcher: Searcher) -> Allocation:
    best = searcher.best()
    assert best is not None, "the first number of evaluations allows no trial"
    return best


def recorded(pipeline: Pipeline) -> RecordedTable:
    """The scores of all feasible allocations by example."""
    return table_of({a: pipeline.scores(a).tolist() for a in pipeline.space.feasible()})


def table_of(scores_of: Mapping[Allocation, Sequence[float]]) -> RecordedTable:
    """The table to replay of scores by example."""
    points: dict[tuple[str, ...], dict[tuple[int, ...], Recorded]] = {}
    for allocation, scores in scores_of.items():
        models = tuple(choice.model for choice in allocation.choices)
        counts = tuple(choice.samples for choice in allocation.choices)
        points.setdefault(models, {})[counts] = Recorded(
            sum(scores) / len(scores), {}, examples=tuple(scores)
        )
    return RecordedTable(points)


if __name__ == "__main__":
    main()
