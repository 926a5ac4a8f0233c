"""Parts that several JSON outputs share.

They are parts of the output of ``status``, ``launch --dry-run`` and ``report``. The outputs are
pydantic models, so that ``docs/schemas/`` can publish their schemas.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict


class Document(BaseModel):
    """Base of what a command prints as JSON.

    A document has no keys and no types of values except those that it names.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)


def printed(kind: type[Document], values: Mapping[str, Any]) -> dict[str, Any]:
    """Return a document as JSON values, checked against its model.

    Keys that ``values`` leaves out stay out.

    Raises:
        ValidationError: The published schema does not allow the values (pydantic's error). It is a
            fault of this package.
    """
    return kind.model_validate(values).model_dump(mode="json", exclude_unset=True)


class ConfidenceDocument(Document):
    """How sure the searcher is of its recommendation.

    Attributes:
        within: A share of the best expected score.
        probability: The probability that the recommended allocation's expected score is at most
            this share below the best of all feasible allocations.
        shortfall: By how much it is expected to be below the best, in units of the score.
    """

    within: float
    probability: float
    shortfall: float


class DifferenceDocument(Document):
    """The mean of one side minus the mean of the other (`agenttts.tables.difference`).

    ``low`` and ``high`` are the bounds of its 95 % interval. They and ``stderr`` are null if a side
    has fewer than two examples. ``more_examples`` is null then too, where the difference can be
    told, and where it is 0.
    """

    first: float
    second: float
    difference: float
    low: float | None
    high: float | None
    stderr: float | None
    paired: bool
    examples: int
    verdict: Literal["better", "worse", "not to be told"]
    more_examples: int | None


class ChoiceDocument(Document):
    """The choice of one stage: its model, and how many samples it draws."""

    stage: str
    model: str
    samples: int


Allocation = list[ChoiceDocument]
"""One choice per stage, in the order of the stages."""


class CutDocument(Document):
    """Samples of a stage that were cut at its ``decode_tokens``.

    Attributes:
        samples: Number of samples drawn.
        cut: Number of samples that were cut.
        share: Share of samples that were cut.
        models: That share for each model.
    """

    samples: int
    cut: int
    share: float
    models: dict[str, float]


class SpanDocument(Document):
    """The range that a quantity is expected to be in."""

    low: float
    high: float


class ForecastDocument(Document):
    """What a search was expected to cost before it began.

    Attributes:
        gpu_seconds: GPU-seconds of the trials' jobs.
        wall_seconds: Seconds from the first trial to the last.
        engine_starts: Engine starts.
        jobs: Jobs of trials.
        one_trial_a_job: GPU-seconds if each trial had a job of its own.
        assumptions: What was assumed, in sentences.
    """

    gpu_seconds: SpanDocument
    wall_seconds: SpanDocument
    engine_starts: SpanDocument
    jobs: SpanDocument
    one_trial_a_job: SpanDocument
    assumptions: list[str]


class RepairDocument(Document):
    """A proposal of the language model that was changed to fit the space, and how."""

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
        calls: Number of attempts.
        replies: Attempts that brought a reply.
        failed: The other attempts, by fault.
        prompt_tokens: Tokens of all prompts.
        completion_tokens: Tokens of all replies.
        seconds: Duration of all attempts.
        decisions: Number of proposals by outcome.
        repairs: Proposals that had to be changed to fit the search space.
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
