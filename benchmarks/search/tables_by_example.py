"""Searchers on a recorded table with scores by example, by what they spend: example evaluations.

    python benchmarks/search/tables_by_example.py                # tables/two_facts.parquet
    python benchmarks/search/tables_by_example.py --seeds 5 --searchers agenttts:25:75:stored

Split-half: a search sees a random half of the examples, and the other half judges the allocation
that it recommends; then the halves change places. A searcher is METHOD:FIRST:MOST as in items.py.
Regret is in points of the score (0 to 100): the judging half's best score less that of the
recommended allocation. The best of a half is partly luck, so no searcher can reach 0. The last row
is the allocation that is best on all examples of the searching half: the whole grid measured.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev

from items import recommendations, table_of

from agenttts.replay.table import load_table
from agenttts.space import Allocation, SearchSpace
from agenttts.spec import load_spec

HERE = Path(__file__).parent
SEARCHERS = (
    "agenttts:25:75:stored", "agenttts:25:75", "gp:25:25", "gp:75:75",
    "genetic:25:25", "genetic:75:75", "random:25:25", "random:75:75",
)  # fmt: skip
SPENT = (500, 1500)


@dataclass(frozen=True)
class Halves:
    """A recorded table on two halves of its examples."""

    space: SearchSpace
    searched: dict[Allocation, list[float]]
    judged: dict[Allocation, list[float]]

    def regret(self, allocation: Allocation) -> float:
        """Points below the best allocation, on the half that judges."""
        best = max(map(fmean, self.judged.values()))
        return 100.0 * (best - fmean(self.judged[allocation]))

    def exhaustive(self) -> Allocation:
        """The best allocation on the half for the search."""
        return max(self.searched, key=lambda allocation: fmean(self.searched[allocation]))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--table", default="two_facts", help="tables/NAME.parquet and NAME.yaml")
    parser.add_argument("--seeds", type=int, default=5, help="random divisions into halves")
    parser.add_argument("--searchers", nargs="+", default=list(SEARCHERS))
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    arguments = parser.parse_args()
    cases = [(arguments.table, number) for number in range(2 * arguments.seeds)]
    print(f"| searcher | {' | '.join(f'regret at {n}' for n in SPENT)} |")
    print(f"|---|{'--:|' * len(SPENT)}")
    with ProcessPoolExecutor(arguments.jobs) as pool:
        for searcher in arguments.searchers:
            found = pool.map(run, [searcher] * len(cases), *zip(*cases, strict=True))
            print(line(searcher, list(found)), flush=True)
    whole = [halves(*case) for case in cases]
    regrets = [[half.regret(half.exhaustive())] * len(SPENT) for half in whole]
    print(line("whole grid", regrets))


def line(name: str, regrets: Sequence[Sequence[float]]) -> str:
    """A row of the printed table: means with their standard errors over the searches."""
    cells = [
        f"{fmean(column):.1f} ± {stdev(column) / len(column) ** 0.5:.1f}"
        for column in zip(*regrets, strict=True)
    ]
    return f"| {name} | {' | '.join(cells)} |"


def run(searcher: str, table: str, number: int) -> list[float]:
    """Regret after each of `SPENT`, in points."""
    half = halves(table, number)
    examples = len(next(iter(half.searched.values())))
    chosen, _ = recommendations(
        searcher, table_of(half.searched), half.space, number, examples, SPENT
    )
    return [half.regret(allocation) for allocation in chosen]


def halves(name: str, number: int) -> Halves:
    """Division ``number // 2`` of a table; in odd numbers the halves change places.

    Raises:
        SystemExit: The table has no scores by example, or an allocation has none.
    """
    path = HERE / "tables" / f"{name}.parquet"
    space = load_spec(path.with_suffix(".yaml")).space()
    table = load_table(path, space)
    if table.example_count is None:
        raise SystemExit(f"{path}: no scores by example; valid: a table with a column 'examples'")
    space = table.within(space)
    order = list(range(table.example_count))
    random.Random(number // 2).shuffle(order)
    middle = len(order) // 2
    parts = [order[:middle], order[middle : 2 * middle]]
    searched, judged = parts if number % 2 == 0 else parts[::-1]
    scores = {}
    for allocation in space.feasible():
        found = table.trial(space, allocation).examples
        if found is None:
            raise SystemExit(f"{path}: {allocation} has no scores; record the table again")
        scores[allocation] = found
    return Halves(
        space,
        {allocation: [found[i] for i in searched] for allocation, found in scores.items()},
        {allocation: [found[i] for i in judged] for allocation, found in scores.items()},
    )


if __name__ == "__main__":
    main()
