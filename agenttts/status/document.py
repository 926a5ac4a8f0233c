"""The output of ``status``, ``launch``, ``resume`` and ``cancel`` with ``--json``.

The schemas are in ``docs/schemas/``.
"""

from __future__ import annotations

from typing import Any, Literal

from agenttts.launch.document import SourceDocument
from agenttts.tables.cost import CostDocument
from agenttts.tables.documents import (
    AgentDocument,
    Allocation,
    ConfidenceDocument,
    CutDocument,
    Document,
    SpanDocument,
)


class ControllerDocument(Document):
    """The run's controller.

    Attributes:
        kind: ``slurm`` (a job), ``local`` or ``in_process`` (a process).
        job_id: The job's id or the process's number; None if none was started or it is not known.
        host: The host of a process.
        described: What it is and how it is found, for users; empty if none was started.
        alive: Whether it has not ended: it runs, or waits and will run. None if that cannot be seen
            from here.
        running: Whether it runs now; false while it waits. None as for ``alive``.
        state: The state that the queue reports.
        reason: Why it waits or did not start.
        stuck: Whether it waits for something that does not happen by itself.
        cancelled: Whether its cancel is recorded. Perhaps it has not seen that yet.
        queue: Why the queue could not be asked; None if it could.
        log: The log of its last start that has written one.
        when: The command that shows when it may start, while it is pending; else empty.
    """

    kind: str
    job_id: str | None
    host: str | None
    described: str
    alive: bool | None
    running: bool | None
    state: str | None
    reason: str
    stuck: bool
    cancelled: bool
    queue: str | None
    log: str | None
    when: str


class IntervalDocument(Document):
    """The 95 % interval of a score over its examples."""

    low: float
    high: float


class BestTrial(Document):
    """The trial with the best score so far.

    It is one of those compared on more examples, if there are any.
    """

    trial: str
    score: float
    budget: float
    allocation: Allocation


class TestedTrial(Document):
    """A trial of the final test."""

    trial: str
    state: str
    score: float | None
    allocation: Allocation


class ServedJob(Document):
    """The job of a model that the run serves itself, while it waits or runs."""

    job_id: str
    state: str
    reason: str
    stuck: bool


class StageProgress(Document):
    """The stage of a trial whose samples are drawn, or were drawn last.

    Attributes:
        trial: The trial.
        stage: The stage.
        number: Its number, from 1.
        stages: Number of stages of the trial.
        examples: Number of examples for which samples are drawn.
        done: For how many of them all samples are there.
    """

    trial: str
    stage: str
    number: int
    stages: int
    examples: int
    done: int


class LiveJob(Document):
    """The job of a trial that has not ended.

    ``progress`` is None before the trial begins there.
    """

    trial: str
    job_id: str
    state: str
    reason: str
    allocation: str
    progress: StageProgress | None


class WorkerDocument(Document):
    """A job that evaluates trials and has not ended.

    Attributes:
        name: The name of its directory: the worker's, or its only trial's.
        job_id: Its id in the queue.
        state: The state that the queue reports.
        reason: Why it waits.
        stuck: Whether it waits for something that does not happen by itself.
        node: Its node; None while it waits.
        gpus: Its GPUs; None before it has started.
        seconds: Seconds since it started; None before.
        trials: Its trials that have not ended.
        phase: ``start`` (its program has not begun), ``load`` (an engine starts or wakes),
            ``generate`` (an engine call), ``other`` (such as the task's own code) or ``idle`` (it
            waits for trials); None before it has started.
        model: The model that is loaded or generates.
        tokens_per_second: The rate of the draw so far; None before its first samples.
    """

    name: str
    job_id: str
    state: str
    reason: str
    stuck: bool
    node: str | None
    gpus: int | None
    seconds: float | None
    trials: list[str]
    phase: Literal["start", "load", "generate", "other", "idle"] | None
    model: str | None
    tokens_per_second: float | None


class ToComeDocument(Document):
    """What the rest of the search may use.

    Attributes:
        trials: The trials that may still run, with unfinished ones, finalists and final tests; None
            before the first was proposed. A further trial of the recommendation is not counted.
        gpu_seconds: Their GPU-seconds, without a served model's.
        measured: Whether that follows from the trials that have ended; else it is the forecast of
            the launch.
    """

    trials: int | None
    gpu_seconds: SpanDocument
    measured: bool


class StatusDocument(Document):
    """The state of a run.

    Attributes:
        run: The run's name.
        path: Its directory.
        outcome: How it ended (``done``, or why not); None while it is not over.
        controller: The run's controller.
        iteration: The last iteration that was proposed; None before the first.
        iterations: Iterations of the search.
        finishing: Whether the user ended the search early (``finish``).
        ended_early: Whether the search is done and had fewer iterations than the spec allows.
        trials: Number of trials by state.
        best: The best trial so far; None before a trial has scored.
        best_interval: The interval of its score; None if its examples were not kept.
        guideline: The latest guideline of the search's language model; None without one.
        started: When the run began (ISO 8601); None before.
        recommended: The best finalist's allocation; without one, what the searcher expects to score
            best; None if it names none.
        recommended_tried: Whether a trial of it has scored.
        recommended_failed: Id and state of its last trial without a score; None without one.
        scored_since: Number of trials that have scored since, which it does not take into account.
        confidence: How sure the searcher is of it; None if it does not say, or recommends another
            allocation than the best finalist's.
        test: Trials of the final test.
        cost: What the run used so far; None before its first job, and in runs of versions that did
            not record it.
        to_come: What the rest of the search may use; None when it is over, or not known.
        cut_share: Samples that were cut, by stage.
        warnings: Lines for the user.
        strays: Ended jobs of the run that belonged to no trial: what each was, by id.
        avoided_nodes: Nodes that jobs avoid because trials failed there.
        agent: What the search's language model did; None without one.
        served: The job of a model that the run serves itself, while it waits or runs on Slurm.
        workers: Jobs that evaluate trials, each with what it does now.
        jobs: Trials that have a job and have not ended.
    """

    run: str
    path: str
    outcome: str | None
    controller: ControllerDocument
    iteration: int | None
    iterations: int
    finishing: bool
    ended_early: bool
    trials: dict[str, int]
    best: BestTrial | None
    best_interval: IntervalDocument | None
    guideline: str | None
    started: str | None
    recommended: Allocation | None
    recommended_tried: bool
    recommended_failed: str | None
    scored_since: int
    confidence: ConfidenceDocument | None
    test: list[TestedTrial]
    cost: CostDocument | None
    to_come: ToComeDocument | None
    cut_share: dict[str, CutDocument]
    warnings: list[str]
    strays: dict[str, str]
    avoided_nodes: list[str]
    agent: AgentDocument | None
    served: ServedJob | None
    workers: list[WorkerDocument]
    jobs: list[LiveJob]


class ProfileOutcomeDocument(Document):
    """What became of a profile that differs from the run's.

    Attributes:
        changes: For each key that differs, the run's value and the given one.
        refused: Why the run keeps its own; None if it took the given one.
    """

    changes: dict[str, list[Any]]
    refused: str | None


class LaunchedDocument(StatusDocument):
    """The output of ``launch``: the state of the run, and what was read of its data.

    Attributes:
        created: Whether the run is new. If it is not, and ``outcome`` is ``done``, nothing was
            started.
        new_results: Whether its results directory was made for it.
        nodes: When a job last looked at the profile's nodes; None: never.
        skip_bad: How many bad records of a data file were allowed.
        data: What was read of each file or hub split.
        profile: What became of a profile that was edited since the run was launched; absent if it
            was not.
    """

    created: bool
    new_results: bool
    nodes: str | None
    skip_bad: int
    data: list[SourceDocument]
    profile: ProfileOutcomeDocument | None = None


class RebuiltDocument(Document):
    """What a new journal holds (``resume --from-tables``).

    Trials are given by name.

    Attributes:
        old: Where the damaged journal is kept; None if there was none.
        from_results: Trials whose results are in their own directories.
        from_table: Trials known only by their row of the table.
        again: Trials without a result, which run again.
        lost: Trials whose allocation is not known.
        notes: Other differences from the old journal.
    """

    old: str | None
    from_results: list[str]
    from_table: list[str]
    again: list[str]
    lost: list[str]
    notes: list[str]


class ResumedDocument(StatusDocument):
    """The output of ``resume``: the state of the run, and what was changed before it.

    Attributes:
        rebuilt: What a new journal holds, if ``--from-tables`` made one.
        retried: The trials to be tried again, with ``--retry-failed``.
        profile: What the profile has changed, with ``--cluster``.
    """

    rebuilt: RebuiltDocument | None = None
    retried: list[str] | None = None
    profile: ProfileOutcomeDocument | None = None


class ExtendedDocument(StatusDocument):
    """The output of ``extend``: the state of the run, and what was changed before it.

    ``extended`` has the old and the new value of each changed key of the spec.
    """

    extended: dict[str, list[Any]]


class ListedRun(Document):
    """One run of ``list``.

    Attributes:
        run: The run's name.
        path: Its directory.
        state: ``running``; ``pending`` (its controller waits in the queue); ``stopped`` (it is not
            over and has no controller); ``done``, ``cancelled`` or ``failed``; ``unknown`` (its
            controller cannot be seen from here); ``damaged`` (its files cannot be read).
        detail: Why, or what to do; often empty.
        iteration: The last iteration that was proposed; None before the first.
        iterations: Iterations of the search; None if the spec cannot be read.
        trials: Number of trials.
        scored: How many of them have completed.
        best: The best trial so far; None before a trial has scored.
        gpu_hours: GPU-hours of the trials that have ended, without the idle time of their jobs.
        active: When the run last recorded something (ISO 8601, UTC).
    """

    run: str
    path: str
    state: str
    detail: str
    iteration: int | None
    iterations: int | None
    trials: int
    scored: int
    best: BestTrial | None
    gpu_hours: float
    active: str


class ListDocument(Document):
    """The output of ``list --json``.

    Attributes:
        results: The directory that was looked through.
        runs: Its runs, the latest activity first.
    """

    results: str
    runs: list[ListedRun]
