"""Every searcher on synthetic surfaces and recorded tables: regret, trials to the optimum,
overhead.

    python benchmarks/search/run.py [--surfaces 40] [--jobs 2]
    python benchmarks/search/run.py --agent http://127.0.0.1:8000/v1 MODEL --surfaces 8 --batches 10

With ``--agent``, the address and the model of an OpenAI-compatible server, it runs the searchers
that ask a language model: `agenttts` driven by it, and the baselines that are nothing without one.

Finished runs are kept in OUT/runs.jsonl and not repeated: stop it and start it again as you like.
Writes summary.md, summary.csv and regret.svg beside them. Regret is the optimum's noise-free score
less the recommended allocation's, relative to the optimum. The surfaces' numbers start at 9000: no
choice in the searchers was made by looking at them.
"""

from __future__ import annotations

import argparse
import json
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path

import benchmarks.search.one_thread  # noqa: F401  # before numpy

# isort: split
from agenttts.search import Searcher, create
from agenttts.search.llm.connect import connect
from agenttts.search.llm.task_description import TaskDescription
from agenttts.search.llm.transcript import Transcript
from agenttts.spec.agent import EndpointAgent
from benchmarks.search.logs import finished
from benchmarks.search.problems import (
    FAMILIES,
    HERE,
    TABLE_EXAMPLES,
    Problem,
    surface_problem,
    table_problem,
)
from benchmarks.search.summary import write_summary

METHODS = ("agenttts", "gp", "optuna_tpe", "genetic", "random", "optuna_gp")

# Optuna's Gaussian process takes about a second a proposal on one core: it runs on every
# SLOW_SHARE-th surface only.
SLOW, SLOW_SHARE = {"optuna_gp"}, 5

# Searchers that ask a language model; in the results they are called METHOD + MODEL.
ASKING = ("agenttts", "llm_zs", "agenthpo", "mlcopilot")
DRIVEN = " + "
# What the sources of proposals begin with that such a model wrote.
WRITTEN = ("agent", "llm_zs", "mlcopilot")

TRIALS = 50
FIRST = 9000
TABLE_SEEDS = 10


@dataclass(frozen=True)
class Case:
    """One search.

    ``number`` is the surface's, or the seed on a table; ``examples`` 0 means exact scores.
    """

    method: str
    problem: str
    number: int
    examples: int
    batch: int


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--surfaces", type=int, default=40, help="surfaces of the plain family")
    parser.add_argument("--first", type=int, default=FIRST, help="number of the first surface")
    parser.add_argument("--others", type=int, default=10, help="surfaces of every other family")
    parser.add_argument("--table-seeds", type=int, default=TABLE_SEEDS, help="seeds on each table")
    parser.add_argument("--methods", nargs="+", help="default: all")
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 10])
    parser.add_argument("--agent", nargs=2, metavar=("URL", "MODEL"))
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    parser.add_argument("--out", type=Path, default=HERE / "results")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    log = arguments.out / "runs.jsonl"
    done = {Case(**record["case"]) for record in finished(log)}
    url, model = arguments.agent or (None, None)
    methods = arguments.methods or list(METHODS if model is None else ASKING)
    if model is not None:
        methods = [method + DRIVEN + model for method in methods]
    todo = [
        case
        for case in cases(
            methods,
            arguments.first,
            arguments.surfaces,
            arguments.others,
            arguments.table_seeds,
        )
        if case not in done and case.batch in arguments.batches
    ]
    print(f"{len(done)} runs done, {len(todo)} to do", flush=True)
    with ProcessPoolExecutor(arguments.jobs) as pool, log.open("a") as out:
        for count, future in enumerate(
            as_completed([pool.submit(run, case, url) for case in todo]), 1
        ):
            out.write(json.dumps(future.result()) + "\n")
            out.flush()
            if count % 50 == 0:
                print(f"{count} of {len(todo)}", flush=True)
    write_summary(list(finished(log)), arguments.out)
    print((arguments.out / "summary.md").read_text())


def cases(
    methods: list[str], first: int, surfaces: int, others: int, table_seeds: int = TABLE_SEEDS
) -> list[Case]:
    """Surface by surface, so that what is done when it is stopped can be compared."""
    made: list[Case] = []
    for offset in range(max(surfaces, others)):
        for family in FAMILIES:
            if offset < (surfaces if family == "chain" else others):
                made += [
                    Case(method, family, first + offset, examples, batch)
                    for method in methods
                    for examples in (0, 100)
                    for batch in (1, 10)
                    if method not in SLOW or (offset % SLOW_SHARE == 0 and family == "chain")
                ]
    return made + [
        Case(method, f"table {name}", seed, 0, batch)
        for name in TABLE_EXAMPLES
        for method in methods
        for batch in (1, 10)
        for seed in range(
            min(2, table_seeds) if method in SLOW or DRIVEN in method else table_seeds
        )
    ]


def run(case: Case, url: str | None = None) -> dict[str, object]:
    """Regret after every trial, and seconds of the searcher's own a trial.

    ``url``: where the driving model is served.
    """
    table = case.problem.startswith("table ")
    problem: Problem = (
        table_problem(case.problem.removeprefix("table "))
        if table
        else surface_problem(case.problem, case.number)
    )
    transcript = Transcript()
    searcher = made(case, problem, transcript, url)
    taken = 0
    regrets: list[float] = []
    seconds = 0.0
    while len(regrets) < TRIALS:
        started = time.process_time()
        proposals = searcher.propose(min(case.batch, TRIALS - len(regrets)))
        seconds += time.process_time() - started
        taken += sum(proposal.source.startswith(WRITTEN) for proposal in proposals)
        asked = [proposal.allocation for proposal in proposals]
        if not asked:
            break
        for (
            allocation
        ) in asked:  # one at a time: what would be recommended if the search stopped there
            searcher.tell([problem.trial(allocation, case.examples)])
            best = searcher.best()
            regret = 1.0 if best is None else (problem.best - problem.score(best)) / problem.best
            regrets.append(round(regret, 6))
    # An exhausted space: what it recommends stays.
    regrets += regrets[-1:] * (TRIALS - len(regrets))
    record = {"case": asdict(case), "regret": regrets, "seconds": round(seconds / TRIALS, 5)}
    if transcript.calls:
        record["agent"] = {"calls": transcript.calls, "tokens": transcript.tokens, "taken": taken}
    return record


def made(case: Case, problem: Problem, transcript: Transcript, url: str | None) -> Searcher:
    """The searcher of a case."""
    method, _, model = case.method.partition(DRIVEN)
    if not model:
        return create(method, problem.space, case.number)
    section = EndpointAgent(
        kind="endpoint",
        base_url=url or "",
        model=model,
        max_tokens=400,
        timeout_seconds=600,
        max_calls=1000,
        max_total_tokens=10_000_000,
    )
    session = connect(section, TaskDescription(examples=case.examples or None), transcript)
    return create(method, problem.space, case.number, llm=session)


if __name__ == "__main__":
    main()
