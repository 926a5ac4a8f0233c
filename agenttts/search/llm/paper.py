"""The paper's agent: a language model writes guidelines, then proposes from them.

Source: AgentTTS (arXiv 2508.00890).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from agenttts.errors import counted
from agenttts.search.agenttts import Offer
from agenttts.search.archive import Archive
from agenttts.search.base import Proposal
from agenttts.search.llm.base import Chat, LLMError
from agenttts.search.llm.prompts import Prompts, history
from agenttts.search.llm.proposer import AllocationProposer, LLMSession, archive_state
from agenttts.search.llm.reading import read_guidelines
from agenttts.search.surrogate import Surrogate
from agenttts.space import Allocation, SearchSpace

SOURCE = "agent"

# New guidelines are written from this number of new results on (a batch of the paper has 10).
_MIN_NEW_RESULTS = 3
_MOST_GUIDELINES = 8
# Recent scores "hardly vary" when their spread is under this share of the spread of all scores.
_MIN_SPREAD_SHARE = 0.02
_RECENT_TRIALS = 8


class PaperAgent:
    """The `Proposer` of the searcher agenttts_paper.

    Each batch takes up to two questions: one for new guidelines, once there are enough new results,
    and one for the batch itself. The prompts hold the first guidelines and the two latest. The
    proposals are deterministic given the archive, the seed and the recorded replies. After a
    restart the transcript restores the guidelines. A question depends only on guidelines that were
    written before it, so that it is the same when a whole transcript is read again.
    """

    def __init__(
        self,
        space: SearchSpace,
        seed: int,
        session: LLMSession,
        insights: Collection[int] = (1, 2, 3),
    ) -> None:
        self._seed = seed
        self._caller = session.caller
        self._transcript = session.caller.transcript
        self._prompts = Prompts(space, session.task_description, insights)
        self._proposer = AllocationProposer(session, self._prompts, SOURCE)

    def start(self, n: int, known: Collection[Allocation]) -> list[Proposal]:
        """Return none: the paper's search starts with the initial trials alone."""
        return []

    def propose(self, n: int, archive: Archive, model: Surrogate) -> Offer:
        """Return up to ``n`` feasible and new allocations, without own places.

        There are fewer or none if the model gives fewer usable ones.
        """
        # A transcript that a replay repeats has later events, too.
        written = self._written(self._transcript.before(archive_state(archive)))
        for event in written:  # of earlier starts, too
            archive.write_guidelines(event["guidelines"])
        if self._proposer.given_up(archive):
            return Offer([])

        def build(limit: int | None) -> Chat:
            shown = {"history": history(archive, limit), "guidelines": _shown(written)}
            return self._prompts.proposals("propose", n, archive, self._seed, **shown)

        try:
            written += self._new_guidelines(archive, written)
        except LLMError as error:
            self._proposer.fall_back(build(None), f"{error.fault}: {error}")
            return Offer([])
        return Offer(self._proposer.propose(build, n, archive))

    def _new_guidelines(
        self, archive: Archive, written: Sequence[Mapping[str, Any]]
    ) -> list[dict[str, Any]]:
        """Ask for new guidelines if there are enough new results, and return them.

        Raises:
            LLMError: The model cannot be reached.
        """
        known = len(archive.evaluated)
        recent = known - (written[-1]["trials"] if written else 0)
        if written and recent < _MIN_NEW_RESULTS:
            return []
        chat, reply = self._proposer.ask(
            lambda limit: replace(
                self._prompts.chat(
                    "guidelines",
                    "guidelines" if written else "guidelines_first",
                    schema=self._prompts.guidelines_schema(_MOST_GUIDELINES),
                    seed=self._seed + len(archive.known),
                    history=history(archive, limit),
                    guidelines=_shown(written),
                    recent=recent,
                    flat=_flat([trial.score for trial in archive.scored]),
                    most=_MOST_GUIDELINES,
                ),
                trials=known,
            ),
            archive,
        )
        # A reply without guidelines is an answer too: the model is asked again only after more new
        # results.
        sentences = read_guidelines(reply.text, _MOST_GUIDELINES)
        new = {"key": chat.key, "trials": known, "guidelines": sentences}
        if self._transcript.find("guidelines", chat.key) is None:
            self._transcript.add("guidelines", **new)
        archive.write_guidelines(sentences)
        return [new]

    def _written(self, events: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """Return the guidelines in events of the transcript, in order.

        They are read from their own events, or from the reply if such an event is lost. Later
        questions contain them. The recorded replies are found only if those questions are the same
        as before.
        """
        written: dict[str, dict[str, Any]] = {}
        for event in events:
            if event["event"] == "guidelines":
                written[event["key"]] = event
            elif (event["event"], event.get("purpose")) == ("reply", "guidelines") and event.get(
                "trials"
            ) is not None:
                text = self._caller.without_thinking(event["reply"])
                read = {**event, "guidelines": read_guidelines(text, _MOST_GUIDELINES)}
                written.setdefault(event["key"], read)
        return list(written.values())


def _shown(written: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the first guidelines and the two latest, each with a title."""
    sets = [event for event in written if event["guidelines"]]
    kept = sets[:1] + sets[1:][-2:]
    return [
        {
            "title": f"Written after {counted(event['trials'], 'trial')}"
            + (" (the first)" if event is sets[0] else ""),
            "sentences": event["guidelines"],
        }
        for event in kept
    ]


def _flat(scores: Sequence[float]) -> bool:
    """Return whether the recent scores hardly vary, relative to the spread of all."""
    if len(scores) < 2 * _RECENT_TRIALS:
        return False
    recent = scores[-_RECENT_TRIALS:]
    spread = max(scores) - min(scores)
    return max(recent) - min(recent) <= _MIN_SPREAD_SHARE * spread
