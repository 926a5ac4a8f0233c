"""What ``report --format json`` prints.

``docs/schemas/report.json`` is its schema.
"""

from __future__ import annotations

from agenttts.tables.cost import AloneDocument, CostDocument, JobCostDocument
from agenttts.tables.documents import (
    AgentDocument,
    Allocation,
    ConfidenceDocument,
    CutDocument,
    DifferenceDocument,
    Document,
    ForecastDocument,
)


class IntervalDocument(Document):
    """A confidence interval of a score: its bounds and its level."""

    low: float
    high: float
    level: float


class StageCutsDocument(Document):
    """Samples of one stage in one trial, and how many of them were cut."""

    stage: str
    samples: int
    cut: int


class TrialSecondsDocument(Document):
    """Wall seconds of one trial, null where they are not known.

    Attributes:
        queue: Waiting for jobs to start; the same for all trials of a job.
        start: Its part of the time until the job's program began.
        load: Its part of loading engines.
        generate: Its part of engine calls.
        lost: Its part of attempts that ended by preemption or a failure of the node or the cluster.
    """

    queue: float | None
    start: float | None
    load: float | None
    generate: float | None
    lost: float | None


class TrialDocument(Document):
    """A row of ``trials.parquet``.

    Times are ISO 8601 in UTC. The names of metrics are ``STAGE.METRIC``. ``score_stderr`` and
    ``metrics_stderr`` are standard errors, null where there is none. ``worker`` is the job of
    several trials or lists that evaluated the trial. ``examples`` is the number of examples that
    it was scored on. ``engine_starts``, ``seconds`` and ``examples`` are null in runs of versions
    that did not record them.
    """

    run: str
    trial: str
    iteration: int
    source: str
    state: str
    score: float | None
    budget: float | None
    metrics: dict[str, float | None]
    allocation: Allocation
    started: str | None
    finished: str | None
    gpu_seconds: float | None
    prompt_tokens: int
    decode_tokens: int
    reused_tokens: int
    job_id: str | None
    attempts: int
    error: str | None
    cut_share: float | None
    cut_samples: list[StageCutsDocument] | None
    score_stderr: float | None
    metrics_stderr: dict[str, float | None]
    worker: str | None
    engine_starts: int | None
    seconds: TrialSecondsDocument | None
    examples: int | None


class BestDocument(TrialDocument):
    """The best trial.

    ``confidence`` is null if the scores of its examples are not recorded.
    """

    confidence: IntervalDocument | None = None


class RecommendedDocument(Document):
    """The recommended allocation.

    It is the best finalist's; without finalists, the one that the searcher expects to score best.

    ``trial`` is null if it was not tried, and ``score`` if its trial has none. ``confidence`` says
    how sure the searcher is; it is null if that is not known, or if the searcher recommends another
    allocation than the best finalist's.
    """

    trial: str | None
    score: float | None
    budget: float | None
    allocation: Allocation
    confidence: ConfidenceDocument | None


class BaselineDocument(Document):
    """A run's allocation against the baseline, example by example.

    Attributes:
        allocation: The baseline.
        trial: Its trial.
        of: Which allocation of the run is compared with it: the one that the searcher recommends
            (``recommended``), or the one with the best score (``best``). It is the latter if there
            are finalists, or if the recommended one has no score.
        same_allocation: Whether both are equal.
        kind: Where the compared trials are from: the search, the finalists or the final test.
        score: The difference of the scores: the run's allocation minus the baseline.
        tokens: The difference of the tokens of one example; "better" are fewer.
        gpu_seconds_per_example: GPU-seconds that the two trials took, by example.
    """

    allocation: Allocation
    trial: str
    of: str
    same_allocation: bool
    kind: str
    score: DifferenceDocument | None
    tokens: DifferenceDocument | None
    gpu_seconds_per_example: list[float | None]


class AfterSearchTrial(Document):
    """A trial after the search: its score, and its allocation's score in the search."""

    trial: str
    state: str
    score: float | None
    search_score: float | None
    budget: float | None
    metrics: dict[str, float | None]
    allocation: Allocation
    confidence: IntervalDocument | None = None


class TraceStep(Document):
    """A scored trial in the order of finishing, and the best score up to it."""

    step: int
    trial: str
    iteration: int
    source: str
    finished: str | None
    budget: float | None
    score: float
    best_so_far: float
    improved: bool


class ParetoPoint(Document):
    """A trial that no other one dominates in score and one cost.

    Only this cost is given.
    """

    trial: str
    allocation: Allocation
    score: float
    budget: float | None = None
    tokens: int | None = None
    gpu_seconds: float | None = None


class TotalsDocument(Document):
    """Counts and sums of a run's trials; null where they are not known.

    ``wall_seconds`` are from the first trial's start to the last one's end, without the time
    between an end of the run and its next start.
    """

    trials: int
    scored: int
    best: float | None
    prompt_tokens: int
    decode_tokens: int
    tokens: int
    gpu_seconds: float
    reused_tokens: int
    wall_seconds: float | None
    reused_share: float | None
    gpu_hours: float


class RunReportDocument(Document):
    """One run.

    Attributes:
        run: The run's name.
        path: Its directory.
        finished: Whether it is over.
        outcome: How it ended; None while it is not over.
        states: Trials by state.
        sources: Trials by who proposed them.
        trials: Every trial.
        best: The best one; None when none scored.
        recommended: What is recommended; None without finalists if the searcher names none.
        baseline: The run's allocation against the user's baseline; None without one, or without
            scores.
        finalists: The best allocations, scored again on more examples, best first.
        test: The final test.
        agent: What the search's language model did; None without one.
        trace: The best score so far, by step.
        pareto: The trials that no other dominates, by cost: ``budget``, ``tokens``,
            ``gpu_seconds``. Only trials on the most examples are compared.
        totals: Counts and sums.
        cost: What the run used; None for runs of versions that did not record it.
        jobs: What each job used.
        forecast: What was expected at launch; None in a run of an older version.
        one_trial_a_job: What the trials would have taken with one trial a job; None if it cannot be
            estimated.
        cut_share: Samples that were cut, by stage.
        warnings: What to know before the scores.
        guidelines: What the search has learnt, in sentences.
    """

    run: str
    path: str
    finished: bool
    outcome: str | None
    states: dict[str, int]
    sources: dict[str, int]
    trials: list[TrialDocument]
    best: BestDocument | None
    recommended: RecommendedDocument | None
    baseline: BaselineDocument | None
    finalists: list[AfterSearchTrial]
    test: list[AfterSearchTrial]
    agent: AgentDocument | None
    trace: list[TraceStep]
    pareto: dict[str, list[ParetoPoint]]
    totals: TotalsDocument
    cost: CostDocument | None
    jobs: list[JobCostDocument]
    forecast: ForecastDocument | None
    one_trial_a_job: AloneDocument | None
    cut_share: dict[str, CutDocument]
    warnings: list[str]
    guidelines: list[str]


class ReportDocument(Document):
    """One or many runs, and the best trial of all.

    Attributes:
        runs: The runs.
        best: The best trial of all; None when none scored, or when the best trials of the runs are
            on other numbers or kinds of examples.
    """

    runs: list[RunReportDocument]
    best: BestDocument | None
