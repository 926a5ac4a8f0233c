"""The output of ``launch --dry-run --json``.

Its schema is ``docs/schemas/plan.json``.
"""

from __future__ import annotations

from typing import Any

from agenttts.tables.documents import Document, ForecastDocument


class ClusterDocument(Document):
    """The profile's name, its kind of scheduler, and the last check of its nodes.

    ``nodes`` says when a job last looked at them (None: never).
    """

    name: str
    kind: str
    nodes: str | None


class SourceDocument(Document):
    """What was read of one file or hub split.

    Attributes:
        source: The file or split.
        records: Number of records, bad ones included.
        key: Key of the document that holds the records.
        skipped: Number of bad records.
        reasons: Why the first of the bad records are bad.
        notes: Further remarks.
    """

    source: str
    records: int
    key: str
    skipped: int
    reasons: list[str]
    notes: list[str]


class TaskDocument(Document):
    """The task.

    ``examples`` is null if the data are not here and the spec does not give a number.
    """

    name: str
    main_metric: str
    examples: int | None
    skip_bad: int
    data: list[SourceDocument]


class AfterSearchDocument(Document):
    """Trials after the search: the number of examples and of allocations."""

    examples: int
    allocations: int


class FidelityDocument(Document):
    """Examples of a new trial, and the most of an allocation (None: all)."""

    first: int
    most: int | None


class SearchDocument(Document):
    """The search.

    Attributes:
        method: The searcher's name.
        budget: The budget of an allocation, in budget units.
        least_budget: The cost of the cheapest allocation, in budget units.
        initial_trials: Trials before the first iteration.
        first: The user's own allocations, which are among them and come first.
        iterations: Number of iterations after the initial trials.
        batch_size: Trials per iteration.
        trials_at_most: The most trials of the search.
        seed: The seed of the spec.
        seed_role: What the seed decides in the method, besides the examples and samples it draws.
        recommended: How many trials may follow to try a recommended allocation that has not been
            tried, or to compare it with its rivals on common examples.
        examples: On how many of the examples trials are scored; None if always on all.
        finalists: The comparison of the best allocations on more examples; None without one.
        test: The final test; None without one.
    """

    method: str
    budget: float
    least_budget: float
    initial_trials: int
    first: list[str]
    iterations: int
    batch_size: int
    seed: int
    seed_role: str
    trials_at_most: int
    recommended: int
    examples: FidelityDocument | None
    finalists: AfterSearchDocument | None
    test: AfterSearchDocument | None


class AgentPlanDocument(Document):
    """The language model that the search asks.

    ``gpus`` and ``why`` are None unless the run serves the model itself.
    """

    kind: str
    model: str
    max_calls: int
    gpus: int | None = None
    why: str | None = None


class StageModelDocument(Document):
    """A model of a stage.

    It has the model's parameters, the budget of 1 sample, the samples that the budget allows, and
    its GPUs.
    """

    model: str
    params: float
    unit_budget: float
    samples_within_budget: int
    gpus: int


class StageDocument(Document):
    """A stage and the costs of its models.

    It has the tokens of a prompt and of a sample, the fewest and most samples, and the cost of 1
    sample of each model. ``unit_budget`` is the one of the largest model.
    """

    stage: str
    prompt_tokens: int
    decode_tokens: int
    samples: tuple[int, int]
    largest_model: str
    unit_budget: float
    models: list[StageModelDocument]


class ThinkingDocument(Document):
    """The markers around a model's thinking.

    ``known`` says that they are in the model's files; else they are the common ones.
    """

    starts: list[str]
    ends: list[str]
    known: bool


class ModelDocument(Document):
    """A model.

    It has the thinking that is removed from its replies (null: none is), the arguments of its chat
    template, and the fingerprint of its directory (null: the directory is not here).
    """

    thinking: ThinkingDocument | None
    template_args: dict[str, Any]
    weights: str | None


class ResourcesDocument(Document):
    """The resources of jobs.

    It says what jobs request, how many run at a time (null: no limit), and why each model takes its
    GPUs.
    """

    controller: dict[str, Any]
    trial: dict[str, Any]
    max_running: int | None
    gpus: dict[str, str]


class ContainerDocument(Document):
    """The container of the trials."""

    runtime: str
    image: str


class ProblemDocument(Document):
    """A reason to refuse a launch from here, and how to fix it."""

    what: str
    fix: str


class PlanDocument(Document):
    """A checked spec.

    Attributes:
        run: The run's name.
        path: Its directory.
        new_results: Whether the results directory does not exist yet.
        cluster: Where the run would be executed.
        task: The task that scores trials.
        search: The search, in numbers.
        agent: The language model that the search asks; None without one.
        stages: The stages, in order.
        models: The models, by name.
        resources: What jobs request.
        forecast: What the trials are expected to cost; None if the number of examples is not known
            here.
        container: The container of the trials; None for the host's Python.
        problems: What is missing here for a launch.
    """

    run: str
    path: str
    new_results: bool
    cluster: ClusterDocument
    task: TaskDocument
    search: SearchDocument
    agent: AgentPlanDocument | None
    stages: list[StageDocument]
    models: dict[str, ModelDocument]
    resources: ResourcesDocument
    forecast: ForecastDocument | None
    container: ContainerDocument | None
    problems: list[ProblemDocument]


class ExtensionPlanDocument(PlanDocument):
    """The output of ``extend --dry-run``.

    It is the plan of the whole search, and what changes.

    Attributes:
        changes: For each changed key of the spec, its old and its new value.
        trials: Number of the trials of the search so far.
    """

    changes: dict[str, list[Any]]
    trials: int


class CleanPart(Document):
    """A part of a run that goes, and what cannot be done any more without it."""

    what: str
    files: int
    bytes: int
    without: str


class CleanRun(Document):
    """What goes of a run.

    Attributes:
        run: The run's name.
        path: Its directory.
        parts: The parts.
        kept: Parts that stay, and why.
        bytes: The size of the parts.
    """

    run: str
    path: str
    parts: list[CleanPart]
    kept: list[str]
    bytes: int


class CleanDocument(Document):
    """The output of ``clean``: what is removed of each run.

    ``removed`` says whether that was done (``--yes``).
    """

    runs: list[CleanRun]
    removed: bool
