"""Seconds of ask and tell in a space of a million feasible allocations with 500 past trials.

python benchmarks/search/large.py [--methods agenttts gp random]
"""

from __future__ import annotations

import argparse
import random
import time

from agenttts.search import create
from benchmarks.search.problems.surfaces import large_surface

PAST = 500


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--methods", nargs="+", default=["agenttts", "gp", "genetic", "random"])
    arguments = parser.parse_args()
    surface, feasible = large_surface()
    print(f"{len(feasible):,} feasible allocations, {PAST} past trials")
    rng = random.Random(0)
    past = [feasible[rng.randrange(len(feasible))] for _ in range(PAST + 1)]
    results = [surface.trial(allocation, 100, 0) for allocation in past]
    for method in arguments.methods:
        searcher = create(method, surface.space)
        searcher.tell(results[:-1])
        searcher.ask(1)  # what is made once a search (the thinned set) is not counted
        started, worked = time.perf_counter(), time.process_time()
        searcher.tell(results[-1:])
        searcher.best()
        asked = searcher.ask(10)
        seconds, worked = time.perf_counter() - started, time.process_time() - worked
        print(
            f"{method:12} {seconds:.3f} s ({worked:.3f} s of CPU) for tell, best and ask(10): "
            f"{asked[0]}"
        )


if __name__ == "__main__":
    main()
