"""What a language model behind an endpoint does to searches with `agenttts`.

    python benchmarks/search/endpoint_model.py 900:2 two_facts:0             # without a model
    python benchmarks/search/endpoint_model.py 900:2 --url http://127.0.0.1:8000/v1 --model NAME
    python benchmarks/search/endpoint_model.py --print                       # compare what there is

A problem is NUMBER:STAGES, a simulated pipeline searched with 25:400 examples, or TABLE:NUMBER, a
recorded table searched with 25:75 examples on one half and judged on the other, as in
tables_by_example.py. Batches of 10, stored trials are told, and the problem's number is the seed.
Nothing of a result is printed before ``--print``, so that a person or program that answers for
the model does not see it. Finished searches are kept in results/endpoint_model.jsonl. Regret is in
percent of the best (pipelines) or in points (tables).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import benchmarks.search.one_thread  # noqa: F401  # before numpy

# isort: split
from agenttts import tasks
from agenttts.endpoint import Address
from agenttts.replay.table import RecordedTable
from agenttts.run.agent import task_description_of
from agenttts.search import Searcher, create
from agenttts.search.fidelity import Fidelity
from agenttts.search.llm.caller import Caller, RetryPolicy
from agenttts.search.llm.endpoint import EndpointLLM
from agenttts.search.llm.proposer import LLMSession
from agenttts.search.llm.task_description import TaskDescription
from agenttts.search.llm.transcript import Transcript
from agenttts.space import Allocation, Choice, SearchSpace
from agenttts.spec import load_spec
from benchmarks.search.items import EXAMPLES, recommended_by, recorded, table_of
from benchmarks.search.items import SPENT as PIPELINE_SPENT
from benchmarks.search.logs import finished
from benchmarks.search.problems.items import draw_pipeline
from benchmarks.search.summary import standard_error
from benchmarks.search.tables_by_example import SPENT as TABLE_SPENT
from benchmarks.search.tables_by_example import halves

HERE = Path(__file__).parent
LOG = HERE / "results" / "endpoint_model.jsonl"
FIRST, MOST_OF_TABLE = 25, 75


@dataclass(frozen=True)
class Problem:
    """What is searched, and how a recommendation is judged."""

    space: SearchSpace
    table: RecordedTable
    fidelity: Fidelity
    spent: Sequence[int]
    seed: int
    task: TaskDescription
    expected: Mapping[Allocation, float]
    """The score of every allocation that judges, unseen by the search."""
    relative: bool

    def regret(self, allocation: Allocation) -> float:
        best = max(self.expected.values())
        lost = best - self.expected[allocation]
        return round(100.0 * (lost / best if self.relative else lost), 3)


@dataclass(frozen=True)
class Prediction:
    """A proposal of the model: its prediction, the surrogate's, and the judging score."""

    predicted: float | None
    surrogate: float
    expected: float
    tried: bool


@dataclass(frozen=True)
class Search:
    """What came of one search; ``model`` is empty without a language model."""

    problem: str
    model: str
    regrets: list[float]
    trials: int
    own: int
    questions: int
    prompt_tokens: int
    completion_tokens: int
    predictions: list[Prediction]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("problems", nargs="*", metavar="PROBLEM")
    parser.add_argument("--url", help="of an OpenAI-compatible server; without: no model")
    parser.add_argument("--model", default="model", help="the server's name of the model")
    parser.add_argument("--timeout", type=float, default=3600.0, help="seconds a question")
    parser.add_argument("--transcripts", type=Path, help="a directory for PROBLEM.agent.jsonl")
    parser.add_argument("--log", type=Path, default=LOG, help="finished searches")
    parser.add_argument("--print", action="store_true", help="print the comparison")
    arguments = parser.parse_args()
    for name in arguments.problems:
        found = searched(
            name, arguments.url, arguments.model, arguments.timeout, arguments.transcripts
        )
        with arguments.log.open("a") as log:
            log.write(json.dumps(asdict(found)) + "\n")
    if arguments.print:
        compare([read(record) for record in finished(arguments.log)])


def problem(name: str) -> Problem:
    """The problem of a name."""
    first, _, second = name.partition(":")
    if first.isdigit():
        pipeline = draw_pipeline(int(first), EXAMPLES, int(second))
        space = pipeline.space
        return Problem(
            space,
            recorded(pipeline),
            Fidelity(FIRST, EXAMPLES, EXAMPLES),
            PIPELINE_SPENT,
            int(first),
            TaskDescription(examples=EXAMPLES),
            {allocation: pipeline.expected(allocation) for allocation in space.feasible()},
            relative=True,
        )
    half = halves(first, int(second))
    examples = len(next(iter(half.searched.values())))
    spec = load_spec(HERE / "tables" / f"{first}.yaml")
    return Problem(
        half.space,
        table_of(half.searched),
        Fidelity(FIRST, MOST_OF_TABLE, examples),
        TABLE_SPENT,
        int(second),
        task_description_of(tasks.create_for(spec), examples),
        {allocation: fmean(scores) for allocation, scores in half.judged.items()},
        relative=False,
    )


def searched(
    name: str, url: str | None, model: str, timeout: float, transcripts: Path | None
) -> Search:
    """Search a problem, with the model at ``url`` or without any."""
    given = problem(name)
    path = transcripts / f"{name.replace(':', '_')}.agent.jsonl" if transcripts and url else None
    transcript = Transcript(path)
    session = None
    if url:
        address = Address(url)
        llm = EndpointLLM(model, lambda: address, max_tokens=4000, timeout=timeout, direct=True)
        session = LLMSession(Caller(llm, transcript, RetryPolicy(max_calls=1000)), given.task)
    searcher = create("agenttts", given.space, given.seed, llm=session)
    searcher.fidelity = given.fidelity
    chosen, _ = recommended_by(
        searcher, given.table, given.space, given.spent, given.fidelity.total, stored=True
    )
    replies = [event for event in transcript.events if event["event"] == "reply"]
    sources = _sources(searcher)
    return Search(
        name,
        model if url else "",
        [given.regret(allocation) for allocation in chosen],
        len(sources),
        sum(source.startswith("agent") for source in sources.values()),
        transcript.calls,
        sum(event["prompt_tokens"] for event in replies),
        sum(event["completion_tokens"] for event in replies),
        [
            Prediction(
                decision["predicted"],
                decision["expected"][0],
                given.expected[allocation],
                allocation in sources,
            )
            for event in transcript.events
            for decision in event.get("decisions", ())
            if decision["outcome"] in ("valid", "repaired")
            for allocation in [Allocation(tuple(Choice(**c) for c in decision["allocation"]))]
        ],
    )


def _sources(searcher: Searcher) -> dict[Allocation, str]:
    """The source of every trial; stored trials are none."""
    results = searcher.archive.results
    return {r.allocation: r.source for r in results if not r.source.startswith("stored")}


def read(record: Mapping[str, Any]) -> Search:
    """A line of the log."""
    return Search(**{**record, "predictions": [Prediction(**p) for p in record["predictions"]]})


def compare(found: Sequence[Search]) -> None:
    """Print the regrets with each model beside those without."""
    without = {one.problem: one for one in found if not one.model}
    for model in dict.fromkeys(one.model for one in found if one.model):
        pairs = [(without[s.problem], s) for s in found if s.model == model if s.problem in without]
        print(
            f"| problem | without | with {model} | without, later | with, later | own trials"
            " | proposed | questions | tokens asked | written | error of its predictions"
            " | of the surrogate's |"
        )
        print(f"|---|{'--:|' * 11}")
        for base, one in pairs:
            said = [p for p in one.predictions if p.predicted is not None]
            cells = [
                base.problem, *(f"{s.regrets[at]:.2f}" for at in (0, 1) for s in (base, one)),
                one.own, len(one.predictions), one.questions, one.prompt_tokens,
                one.completion_tokens, f"{_error(said, 'predicted'):.3f}",
                f"{_error(said, 'surrogate'):.3f}",
            ]  # fmt: skip
            print(f"| {' | '.join(map(str, cells))} |")
        for at, when in enumerate(("first", "later")):
            changes = [one.regrets[at] - base.regrets[at] for base, one in pairs]
            print(
                f"{when}: {len(pairs)} problems, {fmean(b.regrets[at] for b, _ in pairs):.2f} → "
                f"{fmean(one.regrets[at] for _, one in pairs):.2f}, change {fmean(changes):+.2f} ± "
                f"{standard_error(changes):.2f}, largest loss {max(changes):+.2f}"
            )


def _error(said: Sequence[Prediction], of: str) -> float:
    """Root of the mean squared error."""
    squares = [(getattr(p, of) - p.expected) ** 2 for p in said]
    return fmean(squares) ** 0.5 if squares else 0.0


if __name__ == "__main__":
    main()
