"""Parts that the JSON outputs of ``status``, ``launch --dry-run`` and ``report`` share.

The outputs are pydantic models, so that ``docs/schemas/`` can publish what they hold.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict


class Document(BaseModel):
    """Base of what a command prints as JSON: no other keys, and no value of another type, than
    it names.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")


def printed(kind: type[Document], values: Mapping[str, Any]) -> dict[str, Any]:
    """A document as JSON has it, checked against its model; keys that ``values`` leaves out stay
    out.

    Raises pydantic's `ValidationError` for values that the published schema does not promise: a
    fault of this package.
    """
    return kind.model_validate(values).model_dump(mode="json", exclude_unset=True)


class ChoiceDocument(Document):
    """The choice of one stage: its model, and how many samples it draws."""

    stage: str
    model: str
    samples: int


Allocation = list[ChoiceDocument]
"""One choice a stage, in the order of the stages."""


class CutDocument(Document):
    """Samples of a stage that were cut at its ``decode_tokens``.

    Attributes:
        samples: Samples drawn.
        cut: Those that were cut.
        share: Their share.
        models: The share of each model.
    """

    samples: int
    cut: int
    share: float
    models: dict[str, float]


class RepairDocument(Document):
    """A proposal of the language model that was brought into the search space, and how."""

    allocation: Allocation | None
    notes: list[str]


class ServedEvent(Document):
    """What happened to a model that the run serves itself, and when (ISO 8601)."""

    time: str
    what: str


class AgentDocument(Document):
    """What a run's language model did.

    Attributes:
        model: Its name; None before the first call.
        calls: Attempts.
        replies: Attempts that brought a reply.
        failed: The others, by fault.
        prompt_tokens: Tokens of all prompts.
        completion_tokens: Tokens of all replies.
        seconds: Duration of all attempts.
        decisions: Proposals by what became of them.
        repairs: Proposals that had to be brought into the search space.
        fallbacks: Why others proposed, a sentence for each batch.
        served: What happened to a model that the run serves itself.
        damaged_lines: Lines of the transcript that could not be read.
    """

    model: str | None
    calls: int
    replies: int
    failed: dict[str, int]
    prompt_tokens: int
    completion_tokens: int
    seconds: float
    decisions: dict[str, int]
    repairs: list[RepairDocument]
    fallbacks: list[str]
    served: list[ServedEvent]
    damaged_lines: list[int]
