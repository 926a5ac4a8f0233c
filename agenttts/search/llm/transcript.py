"""The transcript: prompts, replies and their outcomes (a run's ``agent.jsonl``).

It has one JSON object per line. It is also the memory of the agent. A recorded reply is used again
instead of a call to the model. So a restarted controller makes the same proposals as the one
before, and a run's caps count over all of its starts.

Events, besides ``time``:

- ``search``: what decides the proposals of a replay, whose questions follow;
- ``reply``: a call that brought a reply: key, purpose, model, messages, trials, state, reply,
  tokens, seconds, notes;
- ``failed``: an attempt without a reply: key, purpose, model, messages, fault, error, seconds;
- ``proposals``: the proposals from a reply: asked, usable, known (allocations tried then),
  decisions (raw, outcome, allocation, notes, predicted score, what the surrogate expected of it
  and of the best trial, and the mean of the scores known then);
- ``sketch``: whether a reply had a usable sketch of utility curves, and the problem;
- ``guidelines``: the guidelines read from a reply, and the number of results known then;
- ``fallback``: why the rules or random draws had to propose;
- ``served``: what happened to a model that the run serves itself.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import BaseModel, create_model

from agenttts.files.documents import typed
from agenttts.files.json_lines import JsonLinesFile, read_json_lines
from agenttts.search.llm.base import Chat, LLMError, Reply
from agenttts.space import Choice

log = logging.getLogger(__name__)


class Transcript:
    """Appends events to a file, or only keeps them if there is no path.

    Args:
        path: The file.
        go_on: What goes on with the calls after the file could not be written, for errors.
    """

    def __init__(self, path: Path | None = None, *, go_on: str = "run the command again") -> None:
        self.events: list[dict[str, Any]] = []
        self._file: JsonLinesFile | None = None
        if path is not None:
            self.events, damaged = _read(path)
            if damaged:
                lines = ", ".join(map(str, damaged))
                log.warning(
                    "%s: line %s is not an event of the transcript and is ignored; "
                    "its call is made again",
                    path,
                    lines,
                )
            fix = f"free space there, then {go_on}; recorded replies are used again"
            self._file = JsonLinesFile(path, what="transcript", fix=fix)

    @property
    def calls(self) -> int:
        """The number of attempts so far, with and without a reply."""
        return len(self.purposes())

    @property
    def tokens(self) -> int:
        """The tokens of all prompts and replies so far."""
        replies = (e for e in self.events if e["event"] == "reply")
        return sum(e["prompt_tokens"] + e["completion_tokens"] for e in replies)

    def add(self, event: str, **values: Any) -> None:
        """Record an event; it is on the disk when this returns.

        Raises:
            MissingRequirement: It cannot be written.
        """
        record = {"event": event, "time": datetime.now(UTC).isoformat(), **values}
        if self._file is not None:
            self._file.append(record)
        self.events.append(record)

    def add_reply(self, chat: Chat, model: str, reply: Reply, seconds: float) -> None:
        """Record a call that brought a reply."""
        self.add(
            "reply",
            **_asked(chat, model),
            reply=reply.text,
            prompt_tokens=reply.prompt_tokens,
            completion_tokens=reply.completion_tokens,
            finish_reason=reply.finish_reason,
            seconds=round(seconds, 3),
            notes=list(reply.notes),
        )

    def add_failure(self, chat: Chat, model: str, error: LLMError, seconds: float) -> None:
        """Record an attempt without a reply."""
        failure = {"fault": error.fault, "error": str(error), "seconds": round(seconds, 3)}
        self.add("failed", **_asked(chat, model), **failure)

    def keep_search(
        self, search: Mapping[str, Any], until: Mapping[str, float] | None = None
    ) -> list[str]:
        """Record whose questions follow, unless other questions are recorded already.

        A transcript of an earlier version does not say whose its questions are; it is taken.

        Args:
            search: What decides the proposals of the search, as JSON values by name. A value that
                another version did not record is not compared.
            until: Numbers by name; such a value differs only if the recorded one is a lower number.

        Returns:
            The names of what differs in the search that the transcript belongs to.
        """
        until = until or {}
        known = [event["search"] for event in self.events if event["event"] == "search"]
        if len(known) == len(self.events) and search not in known[-1:]:
            self.add("search", search=dict(search))
        elif known:
            recorded = known[-1]
            same = {name for name in search if recorded.get(name) == search[name]}
            same |= {n for n, end in until.items() if not (recorded.get(n) or math.inf) < end}
            differing = [name for name in search if name in recorded and name not in same]
            if not differing and search != recorded:
                self.add("search", search=dict(search))
            return differing
        return []

    def recorded(self, chat: Chat) -> Reply | None:
        """Return the recorded reply to the same question."""
        event = self.find("reply", chat.key)
        if event is None:
            return None
        return Reply(
            event["reply"],
            event["prompt_tokens"],
            event["completion_tokens"],
            event["finish_reason"],
        )

    def find(self, kind: str, key: str) -> dict[str, Any] | None:
        """Return the latest event of a kind about the question ``key``."""
        about = (e for e in reversed(self.events) if (e["event"], e.get("key")) == (kind, key))
        return next(about, None)

    def before(self, state: str) -> list[dict[str, Any]]:
        """Return the events before the first question in a state of the search.

        These are the same when the question is asked again after a restart.
        """
        asked = (i for i, event in enumerate(self.events) if event.get("state") == state)
        return self.events[: next(asked, len(self.events))]

    def purposes(self) -> list[str]:
        """Return the purposes of all attempts so far, in order."""
        return [e["purpose"] for e in self.events if e["event"] in ("reply", "failed")]


def summarise(path: Path) -> dict[str, Any] | None:
    """Return a transcript's summary for status and report; None without a file.

    ``calls`` counts attempts, ``failed`` those without a reply (by fault), ``decisions`` the
    proposals by outcome, ``fallbacks`` the batches that the rules or random draws had to propose.
    ``damaged_lines`` has the numbers of the lines that are not read.
    """
    if not path.exists():
        return None
    events, damaged = _read(path)
    kinds = Counter(event["event"] for event in events)
    decisions = Counter(d["outcome"] for e in events for d in e.get("decisions", ()))
    return {
        "model": next((e["model"] for e in events if "model" in e), None),
        "calls": kinds["reply"] + kinds["failed"],
        "replies": kinds["reply"],
        "failed": dict(Counter(e["fault"] for e in events if e["event"] == "failed")),
        "prompt_tokens": sum(e.get("prompt_tokens", 0) for e in events),
        "completion_tokens": sum(e.get("completion_tokens", 0) for e in events),
        "seconds": round(sum(e.get("seconds", 0.0) for e in events), 1),
        "decisions": dict(decisions),
        "repairs": [
            {"allocation": d["allocation"], "notes": d["notes"]}
            for e in events
            for d in e.get("decisions", ())
            if d["outcome"] == "repaired"
        ],
        "fallbacks": [e["reason"] for e in events if e["event"] == "fallback"],
        "served": [
            {"time": e["time"], "what": e["what"]} for e in events if e["event"] == "served"
        ],
        "damaged_lines": damaged,
    }


def _asked(chat: Chat, model: str) -> dict[str, Any]:
    return {
        "key": chat.key,
        "purpose": chat.purpose,
        "model": model,
        "messages": [dict(message) for message in chat.messages],
        **({} if chat.trials is None else {"trials": chat.trials}),
        **({} if chat.state is None else {"state": chat.state}),
    }


def _read(path: Path) -> tuple[list[dict[str, Any]], list[int]]:
    """Return the events of a transcript, and the numbers of its damaged lines."""
    events: list[dict[str, Any]] = []
    damaged: list[int] = []
    for number, event in read_json_lines(path, lambda number, problem: damaged.append(number)):
        try:
            typed(_kind(str(event.get("event")) if isinstance(event, dict) else ""), event)
        except ValueError:
            damaged.append(number)
        else:
            events.append(event)
    return events, damaged


@dataclass(frozen=True)
class _Decision:
    outcome: str
    allocation: list[Choice] | None
    notes: list[str]
    predicted: float | None = None
    expected: tuple[float, float] | None = None
    best: float | None = None
    mean: float | None = None


# The fields that readers of each kind of event need: their type, and the default of those that
# earlier versions did not write.
_CALL: dict[str, Any] = {"key": str, "purpose": str, "model": str, "seconds": float}
_COUNTS: dict[str, Any] = {"prompt_tokens": int, "completion_tokens": int}
_FIELDS: dict[str, dict[str, Any]] = {
    "search": {"search": dict[str, Any]},
    "reply": {**_CALL, **_COUNTS, "reply": str, "finish_reason": str, "trials": (int | None, None)},
    "failed": {**_CALL, "fault": str, "error": str},
    "proposals": {"key": str, "usable": int, "decisions": list[_Decision], "known": (int, 0)},
    "guidelines": {"key": str, "trials": int, "guidelines": list[str]},
    "sketch": {"key": str, "usable": bool},
    "fallback": {"key": str, "reason": str},
    "served": {"time": str, "what": str},
}


@cache
def _kind(event: str) -> type[BaseModel]:
    """Return what an event must fit; of an unknown one only its name is checked."""
    fields: dict[str, Any] = {
        name: kind if isinstance(kind, tuple) else (kind, ...)
        for name, kind in {"event": str, **_FIELDS.get(event, {})}.items()
    }
    return create_model("Event", **fields)
