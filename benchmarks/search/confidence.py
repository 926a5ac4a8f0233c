"""Whether agenttts is as sure of its recommendations as it may be, on simulated pipelines.

    python benchmarks/search/confidence.py                    # 40 pipelines, some minutes

Searches are those of items.py (``agenttts:25:400:stored``). After 400, 1,000 and 2,650 example
evaluations, the searcher's probability that its recommendation is at most 2 % below the best is
compared with how often it is.
"""

from __future__ import annotations

import argparse
from concurrent.futures import ProcessPoolExecutor
from itertools import chain, pairwise
from statistics import fmean

from agenttts.search import create
from agenttts.search.fidelity import Fidelity
from benchmarks.search.items import EXAMPLES, recorded
from benchmarks.search.problems.items import draw_pipeline

SPENT = (400, 1000, 2650)
WITHIN = 0.02
BOUNDS = (0.0, 0.3, 0.6, 0.8, 0.9, 1.01)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pipelines", type=int, default=40)
    parser.add_argument("--first", type=int, default=460, help="number of the first")
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    arguments = parser.parse_args()
    with ProcessPoolExecutor(arguments.jobs) as pool:
        numbers = range(arguments.first, arguments.first + arguments.pipelines)
        found = list(pool.map(run, numbers))
    print("| evaluations | said | was so | expected shortfall | was |\n|--:|--:|--:|--:|--:|")
    for spent, results in zip(SPENT, zip(*found, strict=True), strict=True):
        said, was, shortfall, below = map(fmean, zip(*results, strict=True))
        print(f"| {spent} | {said:.2f} | {was:.2f} | {shortfall:.4f} | {below:.4f} |")
    print("\n| said | searches | mean | was so |\n|---|--:|--:|--:|")
    for low, high in pairwise(BOUNDS):
        part = [r for r in chain(*found) if low <= r[0] < high]
        if part:
            mean, was = fmean(r[0] for r in part), fmean(r[1] for r in part)
            print(f"| {low:g} to {min(high, 1):g} | {len(part)} | {mean:.2f} | {was:.2f} |")


def run(number: int) -> list[tuple[float, bool, float, float]]:
    """What was said and what was so, after each of `SPENT`: probability and shortfall."""
    pipeline = draw_pipeline(number, EXAMPLES, 2)
    table = recorded(pipeline)
    searcher = create("agenttts", pipeline.space, number)
    searcher.fidelity = Fidelity(25, 400, EXAMPLES)
    spent, found = 0, []
    for goal in SPENT:
        while spent < goal:
            for proposal in searcher.propose(10):
                if proposal.allocation not in searcher.archive.pending:
                    continue  # stored samples of the same batch have given its result
                result = table.trial(
                    pipeline.space,
                    proposal.allocation,
                    proposal.source,
                    examples=proposal.examples,
                )
                searcher.tell([result, *table.stored(pipeline.space, result, of_grid=True)])
                spent += len(proposal.examples or ())
        best = searcher.best()
        assert best is not None
        sure = searcher.confidence(best, WITHIN)
        assert sure is not None
        below = pipeline.best - pipeline.expected(best)
        was = below <= WITHIN * pipeline.best
        found.append((sure.probability, was, sure.shortfall, below))
    return found


if __name__ == "__main__":
    main()
