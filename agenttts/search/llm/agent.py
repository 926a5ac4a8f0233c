"""The agent: one question a batch, and trials of its own if it predicts well.

The model reads the noise of the scores, the results by combination of models, the surrogate's
estimates, and what became of its last proposals. Its reply has an analysis, guidelines, and
proposals with predicted scores.

The number of its own places in a batch follows from its weight (`agenttts.search.llm.weight`): the
posterior probability that it, and not the surrogate, is the better predictor of the trials that it
has proposed. The proposals of a model of weight w have w/2 of all places. A model begins with
`PRIOR_WEIGHT`, so with one place in a batch of ten. Its other proposals are candidates like the
rules' own, and preferred to them once its weight has risen. A model that predicts badly, or whose
trials fail or score badly, has no places after its first trials, and is asked only in every third
batch.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from typing import Any

from agenttts.search.agenttts import Offer
from agenttts.search.archive import Archive
from agenttts.search.base import Proposal
from agenttts.search.llm.base import Chat
from agenttts.search.llm.overview import expected, overview, with_sd
from agenttts.search.llm.prompts import Prompts, allocation_text
from agenttts.search.llm.proposer import AllocationProposer, LLMSession, archive_state
from agenttts.search.llm.reading import RawAllocation, read_guidelines
from agenttts.search.llm.sketch import sketched
from agenttts.search.llm.weight import PRIOR_WEIGHT, judged, model_weight, places, usable
from agenttts.search.noise import score_text
from agenttts.search.surrogate import Surrogate
from agenttts.space import Allocation, SearchSpace

SOURCE = "agent"

# The weight below which the model is asked only once in so many batches.
_MIN_WEIGHT, _SELDOM = 0.02, 3
_MOST_GUIDELINES = 4


class LLMAgent:
    """The `Proposer` of the agenttts searcher.

    Everything follows from the archive, the seed and the transcript. A question depends only on
    events that were recorded before it, so that it is the same after a restart.
    """

    def __init__(
        self,
        space: SearchSpace,
        seed: int,
        session: LLMSession,
        insights: Collection[int] = (1, 2, 3),
    ) -> None:
        self._space = space
        self._seed = seed
        self._session = session
        self._transcript = session.caller.transcript
        self._prompts = Prompts(space, session.task_description, insights)
        self._proposer = AllocationProposer(session, self._prompts, SOURCE, "_batch_format")

    def start(self, n: int, known: Collection[Allocation]) -> Sequence[Proposal]:
        """Return up to ``n`` new allocations from the model's sketch of utility curves.

        There are none if the model would have to be started first: trials do not wait for it.
        """
        if not self._session.at_once:
            return []
        caller = self._session.caller
        return sketched(caller, self._prompts, self._space, self._seed, n, SOURCE, known)

    def propose(self, n: int, archive: Archive, model: Surrogate) -> Offer:
        """Return the model's proposals, the first of them for its own places.

        There are fewer than half of the batch, or none, if the model gives fewer usable ones.
        """
        state = archive_state(archive)
        before = self._transcript.before(state)
        for sentences in self._guidelines(before):
            archive.write_guidelines(sentences)
        told = [event for event in before if event["event"] == "proposals"]
        weight = model_weight(told, archive, model)
        known = len(archive.tried)  # stored trials took no place
        seldom = weight < _MIN_WEIGHT and told and known - told[-1].get("known", 0) < _SELDOM * n
        if seldom or self._proposer.given_up(archive):
            return Offer([])
        own, asked = places(weight, known, n), min(n, max(2, (n + 1) // 2))
        best = max(model.tried.values())
        scores = [trial.score for trial in archive.scored]
        mean = statistics.fmean(scores)

        def facts(raw: RawAllocation, allocation: Allocation) -> Mapping[str, Any]:
            estimate = model.expect(allocation)
            predicted = _in_units(raw.predicted, scores)
            said = {"predicted": predicted, "expected": [estimate.mean, estimate.sd]}
            return {**said, "best": best, "mean": mean}

        def build(limit: int) -> Chat:
            return self._prompts.chat(
                "propose",
                "batch",
                schema=self._prompts.batch_schema(asked, _MOST_GUIDELINES),
                seed=self._seed + known,
                n=asked,
                most=_MOST_GUIDELINES,
                overview=overview(archive, model, limit, self._session.task_description.examples),
                fates=_fates(told, archive, model),
                record=_record(told, archive),
                own=own,
                guidelines=(self._guidelines(before) or [[]])[-1],
                waiting=[allocation_text(a) for a in archive.pending],
            )

        proposals = self._proposer.propose(build, asked, archive, facts)
        own_events = [e for e in self._transcript.events if e.get("state") == state]
        for sentences in self._guidelines(own_events):
            archive.write_guidelines(sentences)
        return Offer(proposals, own, preferred=weight > PRIOR_WEIGHT)

    def _guidelines(self, events: Sequence[Mapping[str, Any]]) -> list[list[str]]:
        """Return the guidelines of every reply that has some, in order."""
        replies = (
            self._session.caller.without_thinking(event["reply"])
            for event in events
            if event["event"] == "reply" and event.get("state")
        )
        found = (read_guidelines(text, _MOST_GUIDELINES, named=True) for text in replies)
        return [sentences for sentences in found if sentences]


def _fates(told: Sequence[Mapping[str, Any]], archive: Archive, model: Surrogate) -> list[str]:
    """Return what became of the proposals of the last reply, a line each."""
    if not told:
        return []
    scored = {trial.allocation: trial for trial in archive.scored}
    failed = {result.allocation for result in archive.results if result.failed}
    best = max(model.tried.values())
    text = partial(score_text, error=model.resolution)
    lines = []
    for decision, allocation in usable(told[-1]):
        predicted = decision.get("predicted")
        said = "" if predicted is None else f"you predicted {text(predicted)}, "
        if decision.get("expected"):
            mean, sd = decision["expected"]
            said += f"the surrogate then {with_sd(mean, sd, model)}"
        if allocation in scored:
            how = "known from stored samples" if scored[allocation].stored else "tried"
            fate = f"{how}, score {text(scored[allocation].score)} ({said})"
        elif allocation in failed:
            fate = "tried, and the trial failed"
        elif allocation in archive.pending:
            fate = "being tried"
        else:
            now = expected(model, allocation) if allocation in archive.space else "not allowed"
            fate = (
                f"passed over as worth less than other trials ({said}; now {now}, "
                f"the best tried {text(best)})"
            )
        if decision["outcome"] == "repaired":
            fate += f"; changed: {'; '.join(decision['notes'])[:160]}"
        lines.append(f"{allocation}: {fate}")
    lost = [d for d in told[-1]["decisions"] if d["outcome"] in ("duplicate", "unusable")]
    if lost:
        notes = dict.fromkeys(note for decision in lost for note in decision["notes"])
        lines.append(f"{len(lost)} more could not be used: {'; '.join(notes)[:160]}")
    return lines


def _record(told: Sequence[Mapping[str, Any]], archive: Archive) -> str:
    """Return how the model has predicted so far, against the surrogate."""
    pairs = [
        (decision["predicted"] - trial.score, decision["expected"][0] - trial.score)
        for batch in judged(told, archive)
        for decision, trial in batch
        if trial is not None and decision.get("predicted") is not None
    ]
    if not pairs:
        return ""
    own, other = (
        math.sqrt(statistics.fmean(error * error for error in errors))
        for errors in zip(*pairs, strict=True)
    )
    return (
        f"Of your {len(pairs)} predictions that were tried, the typical error is "
        f"{score_text(own, None, 2)}, the surrogate's {score_text(other, None, 2)}."
    )


def _in_units(predicted: float | None, scores: Collection[float]) -> float | None:
    """Return a prediction in units of the scores.

    Percent of a share become a share, and a share becomes percent if all scores look like percent.
    """
    low, high = min(scores), max(scores)
    if predicted is None:
        return None
    if 1.5 < predicted <= 100.0 and 0.0 <= high <= 1.0:
        return predicted / 100.0
    if 0.0 < predicted <= 1.0 and low > 1.0 and 10.0 < high <= 100.0:
        return predicted * 100.0
    return predicted
