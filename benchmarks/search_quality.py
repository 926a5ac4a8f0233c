"""How good the searchers are on synthetic surfaces: median regret of the recommendation at 20 and 50 trials.

    python benchmarks/search_quality.py [--surfaces 30] [--first 0]

Regret is the optimum's noise-free score less the recommended allocation's, relative to the optimum.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Sequence

from surfaces import Surface, draw_surface, optimum

from agenttts.search import create

CHECKPOINTS = (20, 50)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--surfaces", type=int, default=30)
    parser.add_argument("--first", type=int, default=0, help="number of the first surface")
    parser.add_argument("--methods", nargs="*", default=["agenttts", "random"])
    arguments = parser.parse_args()
    surfaces = [draw_surface(arguments.first + i) for i in range(arguments.surfaces)]
    optima = [optimum(surface) for surface in surfaces]
    print(
        f"{arguments.surfaces} surfaces; regret in % of the optimum, median (mean); share within 1 %"
    )
    print(
        f"{'method':10} {'examples':>8} {'batch':>5}  {'at 20 trials':>21} {'at 50 trials':>21}  s/trial"
    )
    for examples in (0, 100):
        for batch in (1, 10):
            for method in arguments.methods:
                report(method, examples, batch, surfaces, optima)


def report(
    method: str, examples: int, batch: int, surfaces: Sequence[Surface], optima: Sequence[float]
) -> None:
    started = time.perf_counter()
    regrets = [
        [(best - score) / best for score in run(method, surface, examples, batch)]
        for surface, best in zip(surfaces, optima, strict=True)
    ]
    seconds = (time.perf_counter() - started) / (len(surfaces) * CHECKPOINTS[-1])
    cells = [
        f"{100 * statistics.median(column):6.2f} ({100 * statistics.fmean(column):5.2f})"
        f" {sum(r <= 0.01 for r in column) / len(column):5.0%}"
        for column in zip(*regrets, strict=True)
    ]
    label = examples or "exact"
    print(
        f"{method:10} {label:>8} {batch:>5}  {cells[0]:>21} {cells[1]:>21}  {seconds:.3f}",
        flush=True,
    )


def run(method: str, surface: Surface, examples: int, batch: int) -> list[float]:
    """Noise-free score of the recommendation at each checkpoint."""
    searcher = create(method, surface.space, surface.seed)
    recommended: list[float] = []
    done = 0
    while done < CHECKPOINTS[-1]:
        asked = searcher.ask(min(batch, CHECKPOINTS[-1] - done))
        searcher.tell([surface.trial(allocation, examples, 0) for allocation in asked])
        done += len(asked)
        if done in CHECKPOINTS or not asked:
            best = searcher.best()
            assert best is not None
            recommended.append(surface.score(best))
        if not asked:
            break
    return recommended + recommended[-1:] * (len(CHECKPOINTS) - len(recommended))


if __name__ == "__main__":
    main()
