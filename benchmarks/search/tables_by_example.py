"""Searchers on recorded tables with scores by example, by what they spend: example evaluations.

    python benchmarks/search/tables_by_example.py                # goes on where it stopped
    python benchmarks/search/tables_by_example.py --tables two_facts --seeds 2 --searchers gp:25:25
    python benchmarks/search/tables_by_example.py --print        # only print what there is

Split-half: a search sees a random half of the examples, and the other half judges the allocation
that it recommends; then the halves change places. A searcher is METHOD:FIRST:MOST as in items.py.
Regret is in points of the score (0 to 100): the judging half's best score less that of the
recommended allocation. The best of a half is partly luck, so no searcher can reach 0. The last row
is the allocation that is best on all examples of the searching half: the whole grid measured.
Finished searches are kept in results/tables_by_example.jsonl.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from statistics import fmean, stdev

from agenttts.replay.table import load_table
from agenttts.space import Allocation, SearchSpace
from agenttts.spec import load_spec
from benchmarks.search.items import recommendations, table_of
from benchmarks.search.logs import finished

HERE = Path(__file__).parent
LOG = HERE / "results" / "tables_by_example.jsonl"
TABLES = ("two_facts", "two_facts_three_models", "two_hops_three_models", "kgqa_three_models")
SEARCHERS = (
    "agenttts:25:75:stored",
    *(f"{method}:{each}:{each}"
      for method in ("gp", "optuna_tpe", "genetic", "grid", "random") for each in (25, 75)),
)  # fmt: skip
SPENT = (500, 1500)
WHOLE = "the whole grid measured"


@dataclass(frozen=True)
class Case:
    """A search: the searcher, the table, and the number of its halves."""

    searcher: str
    table: str
    number: int


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
    parser.add_argument(
        "--tables", nargs="+", default=list(TABLES), help="tables/NAME.parquet and NAME.yaml"
    )
    parser.add_argument("--seeds", type=int, default=5, help="random divisions into halves")
    parser.add_argument("--searchers", nargs="+", default=list(SEARCHERS))
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    parser.add_argument("--log", type=Path, default=LOG, help="finished searches")
    parser.add_argument("--print", action="store_true", help="run nothing")
    arguments = parser.parse_args()
    # Division by division, so that what is done when it is stopped can be compared.
    wanted = [
        Case(searcher, table, number)
        for number in range(2 * arguments.seeds)
        for table in arguments.tables
        for searcher in (*arguments.searchers, WHOLE)
    ]
    done = dict(read(arguments.log))
    todo = [] if arguments.print else [case for case in wanted if case not in done]
    with ProcessPoolExecutor(arguments.jobs) as pool, arguments.log.open("a+") as log:
        log.seek(0)
        if not f"\n{log.read()}".endswith("\n"):
            log.write("\n")  # after a line that was cut off
        for future in as_completed([pool.submit(run, case) for case in todo]):
            case, regrets = future.result()
            log.write(json.dumps({**vars(case), "regrets": regrets}) + "\n")
            log.flush()
            done[case] = regrets
    print_table({case: done[case] for case in wanted if case in done}, arguments.tables)


def print_table(done: Mapping[Case, Sequence[float]], tables: Sequence[str]) -> None:
    """Mean regrets by searcher and table, with their standard errors over the searches."""
    heads = [f"{table} at {n:,}" for table in tables for n in SPENT]
    print(f"| searcher | {' | '.join(heads)} | mean |")
    print(f"|---|{'--:|' * (len(heads) + 1)}")
    for searcher in dict.fromkeys(case.searcher for case in done):
        columns = []
        for table in tables:
            found = [
                r
                for case, r in done.items()
                if case == replace(case, searcher=searcher, table=table)
            ]
            columns += [[regrets[at] for regrets in found] for at in range(len(SPENT))]
        means = [fmean(column) for column in columns if column]
        print(f"| {searcher} | {' | '.join(map(cell, columns))} | {fmean(means):.1f} |")


def cell(regrets: Sequence[float]) -> str:
    """The mean and its standard error."""
    if len(regrets) < 2:
        return f"{regrets[0]:.1f}" if regrets else ""
    return f"{fmean(regrets):.1f} ± {stdev(regrets) / len(regrets) ** 0.5:.1f}"


def read(log: Path) -> Iterable[tuple[Case, list[float]]]:
    """Finished searches, with their regrets."""
    for record in finished(log):
        yield Case(record["searcher"], record["table"], record["number"]), record["regrets"]


def run(case: Case) -> tuple[Case, list[float]]:
    """Regret after each of `SPENT`, in points."""
    half = halves(case.table, case.number)
    if case.searcher == WHOLE:
        chosen = [half.exhaustive()] * len(SPENT)
    else:
        examples = len(next(iter(half.searched.values())))
        chosen, _ = recommendations(
            case.searcher, table_of(half.searched), half.space, case.number, examples, SPENT
        )
    return case, [round(half.regret(allocation), 4) for allocation in chosen]


@lru_cache(maxsize=1)
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
