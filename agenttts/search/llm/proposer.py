"""Allocations from a language model.

Proposals are parsed, projected onto the feasible space and de-duplicated. If nothing in a reply is
usable, the model is asked again. The transcript records every step.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from agenttts.errors import counted
from agenttts.search.archive import Archive
from agenttts.search.base import Proposal
from agenttts.search.llm.base import Chat, LLMError, Reply
from agenttts.search.llm.caller import Caller
from agenttts.search.llm.projection import project_to_space
from agenttts.search.llm.prompts import Prompts
from agenttts.search.llm.reading import RawAllocation, read_allocations
from agenttts.search.llm.task_description import TaskDescription
from agenttts.space import Allocation

log = logging.getLogger(__name__)

# After this number of batches in a row without a usable proposal, the model is not asked again.
GIVE_UP_AFTER = 3
# Past trials in a question, in about 10,000 tokens: at most, and at least before the model is not
# asked, because the question is too long for it.
_MOST_TRIALS_SHOWN, _FEWEST_TRIALS_SHOWN = 200, 4
_NO_TEXT = "(no text)"  # servers refuse empty messages
_REPEATED = 1500  # characters of a bad reply that are repeated to the model

Build = Callable[[int], Chat]
"""Writes the question with at most this number of past trials."""
Facts = Callable[[RawAllocation, Allocation], Mapping[str, Any]]
"""What the transcript keeps of a proposal besides the decision."""


@dataclass
class LLMSession:
    """A language model with its task description.

    ``bad_replies`` is how often the model is told what is wrong with a reply that has nothing
    usable. After that the rules or random draws fill the batch. ``at_once``: it answers without
    being started first, so that it may be asked before the first trials.
    """

    caller: Caller
    task_description: TaskDescription
    bad_replies: int = 2
    at_once: bool = True


class AllocationProposer:
    """Asks a model for allocations on behalf of one searcher.

    ``source`` marks its proposals in the table. Those that had to be changed have the mark
    ``SOURCE-repaired``. ``form`` is the template that asks for the form of replies.
    """

    def __init__(
        self, session: LLMSession, prompts: Prompts, source: str, form: str = "_format"
    ) -> None:
        self._caller = session.caller
        self._prompts = prompts
        self._bad_replies = session.bad_replies
        self._source = source
        self._form = form
        self._shown = _MOST_TRIALS_SHOWN

    def given_up(self, archive: Archive) -> bool:
        """Whether the model is no longer asked, after too many failed batches in a row.

        Only events before the question in this state of the archive count. So a replay that reads
        a whole transcript again gives up where it did the first time.
        """
        in_row = 0
        for event in self._caller.transcript.before(archive_state(archive)):
            if event["event"] == "fallback":
                in_row += 1
            elif event["event"] == "proposals" and event["usable"]:
                in_row = 0
        return in_row >= GIVE_UP_AFTER

    def ask(self, build: Build, archive: Archive) -> tuple[Chat, Reply]:
        """Ask the question; the transcript keeps the archive's state with it.

        If it is too long for the model, it is asked again with fewer past trials.

        Returns:
            The question as it was answered, and the reply.

        Raises:
            LLMError: The call failed.
        """
        state = archive_state(archive)
        while True:
            chat = replace(build(self._shown), state=state)
            try:
                return chat, self._caller.ask(chat)
            except LLMError as error:
                limit = min(self._shown, _lines(chat))
                if error.fault != "context" or limit // 2 < _FEWEST_TRIALS_SHOWN:
                    raise
                self._shown = limit // 2

    def propose(
        self,
        build: Build,
        n: int,
        archive: Archive,
        facts: Facts = lambda raw, allocation: {},
    ) -> list[Proposal]:
        """Return up to ``n`` new allocations of the space.

        There are none if the model fails or is given up; the transcript says why. Choices of stages
        that a proposal leaves out are those of the best trial.

        Args:
            build: Writes the question.
            n: The number of allocations.
            archive: The results so far.
            facts: Returns what the transcript keeps of a proposal besides the decision.
        """
        best = archive.best()
        otherwise = best.allocation if best else archive.space.cheapest
        asked: list[Chat] = []

        def remembered(limit: int) -> Chat:
            asked.append(build(limit))
            return asked[-1]

        replies = self._bad_replies + 1
        try:
            chat, reply = self.ask(remembered, archive)
            first = chat
            for attempt in range(replies):
                proposals, problem = self._use(chat, reply, n, archive, otherwise, facts)
                if proposals:
                    return proposals
                if attempt + 1 < replies:
                    chat = self._again(first, reply, problem, n, attempt)
                    reply = self._caller.ask(chat)
            number = counted(replies, "reply", "replies")
            reason = f"{number} without a usable allocation; the last: {problem}"
        except LLMError as error:
            reason = f"{error.fault}: {error}"
        self.fall_back(asked[-1], reason)
        return []

    def fall_back(self, chat: Chat, reason: str) -> None:
        """Record that the rules or random draws propose this batch.

        It is recorded once for each question, also after restarts.
        """
        if self._caller.transcript.find("fallback", chat.key) is None:
            self._caller.transcript.add("fallback", key=chat.key, reason=reason)
            log.warning("this batch has no proposals of the language model: %s", reason)

    def _use(
        self,
        chat: Chat,
        reply: Reply,
        n: int,
        archive: Archive,
        otherwise: Allocation,
        facts: Facts,
    ) -> tuple[list[Proposal], str]:
        """Return the usable proposals of a reply, and the fault if there are none."""
        raws = read_allocations(reply.text, archive.space)
        chosen: dict[Allocation, Proposal] = {}
        decisions: list[dict[str, Any]] = []
        for raw in raws:
            outcome, allocation, notes = self._judge(raw, n, archive, chosen, otherwise)
            if allocation is not None and outcome in ("valid", "repaired"):
                source = self._source if outcome == "valid" else f"{self._source}-repaired"
                chosen[allocation] = Proposal(allocation, source, _why(raw, notes))
            decisions.append(
                {
                    "raw": {s: [c.model, c.samples] for s, c in raw.choices.items()},
                    "outcome": outcome,
                    "allocation": None if allocation is None else allocation.to_records(),
                    "notes": notes,
                    **({} if allocation is None else facts(raw, allocation)),
                }
            )
        if self._caller.transcript.find("proposals", chat.key) is None:
            values = {"asked": n, "usable": len(chosen), "known": len(archive.tried)}
            self._caller.transcript.add("proposals", key=chat.key, **values, decisions=decisions)
        if not raws:
            cut = " (it was cut off)" if reply.finish_reason == "length" else ""
            return [], f"the reply contains no allocation{cut}"
        counts = {d["outcome"] for d in decisions}
        problem = (
            "every allocation in the reply is a repetition"
            if counts == {"duplicate"}
            else "; ".join(dict.fromkeys(note for d in decisions for note in d["notes"]))[:300]
        )
        return list(chosen.values()), problem

    def _judge(
        self,
        raw: RawAllocation,
        n: int,
        archive: Archive,
        chosen: dict[Allocation, Proposal],
        otherwise: Allocation,
    ) -> tuple[str, Allocation | None, list[str]]:
        projected = project_to_space(raw, archive.space, otherwise)
        if isinstance(projected, str):
            return "unusable", None, [projected]
        allocation, notes = projected.allocation, list(projected.notes)
        if allocation in archive or allocation in chosen:
            return "duplicate", allocation, [*notes, "already known"]
        if len(chosen) >= n:
            return "surplus", allocation, [*notes, f"more than the {n} requested"]
        return ("repaired" if notes else "valid"), allocation, notes

    def _again(self, first: Chat, reply: Reply, problem: str, n: int, attempt: int) -> Chat:
        messages = (
            *first.messages,
            {"role": "assistant", "content": reply.text[:_REPEATED] or _NO_TEXT},
            {
                "role": "user",
                "content": self._prompts.text("again", problem=problem, n=n, form=self._form),
            },
        )
        return replace(first, messages=messages, seed=first.seed + attempt + 1)


def archive_state(archive: Archive) -> str:
    """Return the identity of what the archive knows: 16 hex digits."""
    results = sorted(
        f"{result.allocation} {result.score!r} {len(result.examples or ())}"
        for result in archive.results
    )
    text = "\n".join([*results, "pending", *map(str, archive.pending)])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _lines(chat: Chat) -> int:
    """Return the number of lines of the question: at least its past trials."""
    return sum(message["content"].count("\n") for message in chat.messages)


def _why(raw: RawAllocation, notes: list[str]) -> str:
    """Return one line for the log: the model's words and what was changed."""
    projected = f" (changed: {'; '.join(notes)})" if notes else ""
    return f"{raw.reason or 'proposed by the model'}{projected}"
