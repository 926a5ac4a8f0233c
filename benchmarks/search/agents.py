"""What language models of different worth do to a search with `agenttts`.

    python benchmarks/search/agents.py                        # 6 pipelines, 6 surfaces
    python benchmarks/search/agents.py --models none random --first 360

The models are programs. ``random`` proposes at random, with random predictions; ``echo`` proposes
what the surrogate expects most of, as its question says; ``informed`` knows every expected score
with an error of 0.03; ``boaster`` proposes at random and predicts the best score so far. All sketch
utility curves, ``informed`` from its knowledge of the first and the largest counts, the others at
random. ``paper`` is ``echo`` in `agenttts_paper`, and therefore proposes at random.

Simulated pipelines are searched with 25:400 examples and stored trials, surfaces with 100 examples
and 50 trials; batches of 10. Regret is in percent of the best; the change is to ``none`` on the
same problem and seed, with its standard error.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass

import benchmarks.search.one_thread  # noqa: F401  # before numpy

# isort: split
import polars as pl

from agenttts.replay.replay import replay
from agenttts.search import Searcher, create
from agenttts.search.feasible import FeasibleSet
from agenttts.search.fidelity import Fidelity
from agenttts.search.llm.base import Chat, Reply
from agenttts.search.llm.caller import Caller, RetryPolicy
from agenttts.search.llm.proposer import LLMSession
from agenttts.search.llm.sketch import asked_counts
from agenttts.search.llm.task_description import TaskDescription
from agenttts.search.llm.transcript import Transcript
from agenttts.space import Allocation, SearchSpace
from benchmarks.search.items import EXAMPLES, recorded
from benchmarks.search.problems import FAMILIES, surface_problem
from benchmarks.search.problems.items import draw_pipeline
from benchmarks.search.summary import standard_error

MODELS = ("none", "random", "boaster", "echo", "informed", "paper")
SPENT, TRIALS = (500, 1000), (20, 50)
_ERROR = 0.03
_PROPOSED = 5
_ROW = re.compile(r"^untried ([\d → ]+): expected (-?[\d.e-]+)", re.M)

COLUMNS = (
    "problems", "model", "regret, %", "change", "later regret, %", "change", "own trials",
    "questions", "prompt tokens",
)  # fmt: skip

Truth = Callable[[Allocation], float]
Run = tuple[list[float], Transcript, int]
"""Regrets in percent, what was said, and the number of trials that the model proposed."""


@dataclass(frozen=True)
class Record:
    """What came of one search."""

    regrets: tuple[float, ...]
    own: int
    questions: int
    tokens: int


class Program:
    """An `LLM` that is a program; ``kind`` is one of `MODELS`."""

    def __init__(self, kind: str, space: SearchSpace, truth: Truth, seed: int) -> None:
        self.model = kind
        self._space, self._truth = space, truth
        self._feasible = FeasibleSet(space)
        self._rng = random.Random(f"{kind}/{seed}")

    def complete(self, chat: Chat) -> Reply:
        asked = "".join(message["content"] for message in chat.messages)
        if chat.purpose == "sketch":
            answer: dict[str, object] = {"analysis": "-", "utility": self._sketch()}
        elif chat.purpose == "guidelines":
            answer = {"guidelines": ["-"]}
        else:
            answer = {"analysis": "-", "guidelines": ["-"], "allocations": self._proposals(asked)}
        text = json.dumps(answer)
        return Reply(text, len(asked) // 4, len(text) // 4)

    def close(self) -> None:
        return

    def _proposals(self, asked: str) -> list[dict[str, object]]:
        if self.model == "informed":
            drawn = [self._drawn() for _ in range(200)]
            guessed = {a: self._truth(a) + self._rng.gauss(0.0, _ERROR) for a in drawn}
            best = sorted(guessed, key=lambda a: -guessed[a])[:_PROPOSED]
            return [self._entry(a, guessed[a]) for a in best]
        found = _untried(asked, self._space) if self.model == "echo" else []
        if found:
            return [self._entry(a, mean) for a, mean in found[:_PROPOSED]]
        scores = [float(s) for s in re.findall(r"^[\d → ]+: (-?[\d.]+)", asked, re.M)]
        high = max(scores, default=0.5)
        return [
            self._entry(self._drawn(), high if self.model == "boaster" else self._rng.random())
            for _ in range(_PROPOSED)
        ]

    def _sketch(self) -> dict[str, object]:
        return {
            stage.name: {
                model.name: {
                    str(count): round(self._utility(stage.name, model.name, count), 3)
                    for count in asked_counts(stage)
                }
                for model in stage.models
            }
            for stage in self._space.stages
        }

    def _utility(self, stage: str, model: str, count: int) -> float:
        if self.model != "informed":
            return self._rng.random()
        drawn = [self._drawn() for _ in range(30)]
        own = [a for a in drawn if a[stage].model == model and abs(a[stage].samples - count) <= 8]
        return statistics.fmean(map(self._truth, own)) if own else 0.3

    def _drawn(self) -> Allocation:
        return self._feasible[self._rng.randrange(len(self._feasible))]

    def _entry(self, allocation: Allocation, predicted: float) -> dict[str, object]:
        choices = {c.stage: {"model": c.model, "samples": c.samples} for c in allocation.choices}
        return {"reason": "-", **choices, "predicted_score": round(predicted, 3)}


def _untried(asked: str, space: SearchSpace) -> list[tuple[Allocation, float]]:
    """Return the untried allocations of a question with the surrogate's estimates, best first."""
    found = []
    for part in asked.split("\n## ")[1:]:
        models = part.split(" (most")[0].split(" → ")
        for counts, mean in _ROW.findall(part):
            choices = zip(models, map(int, counts.split(" → ")), strict=True)
            found.append((space.allocation(*choices), float(mean)))
    return sorted(found, key=lambda item: -item[1])


def searcher_with(
    kind: str, space: SearchSpace, truth: Truth, seed: int
) -> tuple[Searcher, Transcript]:
    """Return a searcher with a model, and what they said to each other."""
    transcript = Transcript()
    if kind == "none":
        return create("agenttts", space, seed), transcript
    program = Program("echo" if kind == "paper" else kind, space, truth, seed)
    caller = Caller(program, transcript, RetryPolicy(max_calls=1000, max_total_tokens=10**9))
    method = "agenttts_paper" if kind == "paper" else "agenttts"
    return create(method, space, seed, llm=LLMSession(caller, TaskDescription())), transcript


def on_pipeline(kinds: Sequence[str], number: int, seed: int) -> Iterator[Run]:
    """Yield by model the regrets after each of `SPENT`."""
    pipeline = draw_pipeline(number, EXAMPLES, 2)
    table = recorded(pipeline)
    for kind in kinds:
        searcher, transcript = searcher_with(kind, pipeline.space, pipeline.expected, seed)
        searcher.fidelity = Fidelity(25, EXAMPLES, EXAMPLES)
        trace = replay(
            table, pipeline.space, searcher, None, 10, evaluations=SPENT[-1], stored=True
        )
        records = [trace.filter(pl.col("evaluations") <= n)["recommended"][-1] for n in SPENT]
        chosen = [Allocation.from_records(record) for record in records]
        regrets = [100.0 * (1.0 - pipeline.expected(one) / pipeline.best) for one in chosen]
        yield regrets, transcript, int(trace["source"].str.starts_with("agent").sum())


def on_surface(kinds: Sequence[str], family: str, number: int, seed: int) -> Iterator[Run]:
    """Yield by model the regrets after each of `TRIALS`."""
    problem = surface_problem(family, number)
    for kind in kinds:
        searcher, transcript = searcher_with(kind, problem.space, problem.score, seed)
        regrets, taken = [], 0
        for done in range(0, TRIALS[-1], 10):
            proposals = searcher.propose(10)
            taken += sum(proposal.source.startswith("agent") for proposal in proposals)
            searcher.tell([problem.trial(proposal.allocation, 100) for proposal in proposals])
            best = searcher.best() if done + 10 in TRIALS else None
            if best is not None:
                regrets.append(100.0 * (1.0 - problem.score(best) / problem.best))
        yield regrets, transcript, taken


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=MODELS)
    parser.add_argument("--first", type=int, default=340, help="number of the first pipeline")
    parser.add_argument("--pipelines", type=int, default=6)
    parser.add_argument("--surfaces", type=int, default=6, help="from 9100 on, families in turn")
    parser.add_argument("--seeds", type=int, default=1)
    arguments = parser.parse_args()
    kinds = ["none", *(kind for kind in arguments.models if kind != "none")]
    found: dict[tuple[str, str], list[Record]] = {}
    for seed in range(arguments.seeds):
        for offset in range(max(arguments.pipelines, arguments.surfaces)):
            runs: list[tuple[str, Iterator[Run]]] = []
            if offset < arguments.pipelines:
                runs.append(("pipelines", on_pipeline(kinds, arguments.first + offset, seed)))
            if offset < arguments.surfaces:
                at = (FAMILIES[offset % len(FAMILIES)], 9100 + offset)
                runs.append(("surfaces", on_surface(kinds, *at, seed)))
            for group, made in runs:
                for kind, (reached, transcript, own) in zip(kinds, made, strict=True):
                    events = transcript.events
                    tokens = sum(e["prompt_tokens"] for e in events if e["event"] == "reply")
                    record = Record(tuple(reached), own, transcript.calls, tokens)
                    found.setdefault((group, kind), []).append(record)
                    # Each run as it ends: it may be stopped.
                    print(json.dumps([group, offset, seed, kind, asdict(record)]), flush=True)
    print(f"| {' | '.join(COLUMNS)} |\n|---|---|{'--:|' * (len(COLUMNS) - 2)}")
    for (group, kind), records in found.items():
        cells = [group, kind]
        for position in range(2):
            regrets = [record.regrets[position] for record in records]
            base = [record.regrets[position] for record in found[group, "none"]]
            change = [value - other for value, other in zip(regrets, base, strict=True)]
            cells.append(f"{statistics.fmean(regrets):.2f}")
            cells.append(f"{statistics.fmean(change):+.2f} ± {standard_error(change):.2f}")
        for name in ("own", "questions", "tokens"):
            cells.append(f"{statistics.fmean(getattr(record, name) for record in records):.1f}")
        print(f"| {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
