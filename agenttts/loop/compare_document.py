"""What ``compare --json`` prints; ``docs/schemas/compare.json`` is its schema."""

from __future__ import annotations

from typing import Any, Literal

from agenttts.tables.documents import Allocation, DifferenceDocument, Document


class SideDocument(Document):
    """One of the two runs, and its allocation that is compared.

    Attributes:
        run: The run's name.
        path: Its directory.
        finished: Whether the run is over.
        of: Whether the allocation is the recommended one, the best measured one, or the baseline.
        allocation: The allocation.
        trial: The trial whose examples are compared.
        examples: Number of examples of that trial.
        budget: What one example costs in budget units.
        tokens_per_example: Prompt and generated tokens of one example, reused ones included.
        gpu_seconds_per_example: GPU-seconds that the trial took, by example.
        reused_share: The share of the trial's tokens that were found in the sample store.
        run_gpu_hours: GPU-hours of all jobs of the run, with those of a served model.
        run_tokens: Tokens that the run's jobs computed.
        run_trials: Number of trials of the run.
    """

    run: str
    path: str
    finished: bool
    of: Literal["recommended", "best", "baseline"]
    allocation: Allocation
    trial: str
    examples: int
    budget: float | None
    tokens_per_example: float | None
    gpu_seconds_per_example: float | None
    reused_share: float | None
    run_gpu_hours: float
    run_tokens: int
    run_trials: int


class SettingDocument(Document):
    """A setting in which the specs differ; a key that a spec lacks is null."""

    key: str
    first: Any
    second: Any


class CompareDocument(Document):
    """The first run's allocation against the second run's.

    Attributes:
        metric: The metric that is the score.
        kind: Where the compared trials are from: the search, the finalists or the final test.
        same_allocation: Whether both allocations are equal.
        only_chance: Whether only chance makes the scores differ: the allocation and the models are
            equal, and of the settings those of the search alone differ.
        first: The first run.
        second: The second run.
        score: The difference in score.
        tokens: The difference in tokens per example; null if it is not known. Its verdict "better"
            means fewer tokens.
        settings: The settings in which the specs differ.
        warnings: What limits the comparison.
    """

    metric: str
    kind: Literal["search", "finalist", "test"]
    same_allocation: bool
    only_chance: bool
    first: SideDocument
    second: SideDocument
    score: DifferenceDocument
    tokens: DifferenceDocument | None
    settings: list[SettingDocument]
    warnings: list[str]
