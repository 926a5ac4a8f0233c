"""What ``launch --dry-run --json`` prints; ``docs/schemas/plan.json`` is its schema."""

from __future__ import annotations

from typing import Any

from agenttts.tables.documents import Document


class ClusterDocument(Document):
    """The profile's name, its kind of scheduler, and when its nodes were last looked at by a
    job (None: never).
    """

    name: str
    kind: str
    nodes: str | None


class SourceDocument(Document):
    """What was read of one file or hub split.

    Attributes:
        source: The file or split.
        records: Records in it, bad ones included.
        key: The key of the document under which they are.
        skipped: Bad ones.
        reasons: Why the first of them are bad.
        notes: What else a reader should know.
    """

    source: str
    records: int
    key: str
    skipped: int
    reasons: list[str]
    notes: list[str]


class TaskDocument(Document):
    """The task; ``examples`` is null when the data are not here and the spec does not say how
    many.
    """

    name: str
    main_metric: str
    examples: int | None
    skip_bad: int
    data: list[SourceDocument]


class AfterSearchDocument(Document):
    """Trials after the search: on how many examples, and how many allocations."""

    examples: int
    allocations: int


class SearchDocument(Document):
    """The search.

    Attributes:
        method: The searcher's name.
        budget: The budget of an allocation, in budget units.
        least_budget: What the cheapest allocation costs.
        initial_trials: Trials before the first iteration.
        iterations: Iterations after these.
        batch_size: Trials of an iteration.
        trials_at_most: All of them.
        seed: The seed of the spec.
        seed_role: What the seed decides in the method, besides the examples and samples it draws.
        recommended: How many trials may follow, of an allocation that the search recommends and has
            not tried.
        finalists: The comparison of the best on more examples; None without one.
        test: The final test; None without one.
    """

    method: str
    budget: float
    least_budget: float
    initial_trials: int
    iterations: int
    batch_size: int
    seed: int
    seed_role: str
    trials_at_most: int
    recommended: int
    finalists: AfterSearchDocument | None
    test: AfterSearchDocument | None


class AgentPlanDocument(Document):
    """The language model that the search asks; ``gpus`` and ``why`` of one that the run serves
    itself, else None.
    """

    kind: str
    model: str
    max_calls: int
    gpus: int | None = None
    why: str | None = None


class StageModelDocument(Document):
    """A model of a stage: its parameters, the budget of 1 sample, the samples that the budget
    allows, its GPUs.
    """

    model: str
    params: float
    unit_budget: float
    samples_within_budget: int
    gpus: int


class StageDocument(Document):
    """A stage: tokens of a prompt and of a sample, fewest and most samples, and what 1 sample of
    each model costs.

    ``unit_budget`` is that of the largest model.
    """

    stage: str
    prompt_tokens: int
    decode_tokens: int
    samples: tuple[int, int]
    largest_model: str
    unit_budget: float
    models: list[StageModelDocument]


class ThinkingDocument(Document):
    """The markers around a model's thinking; ``known``: they are in its files, not the common
    ones.
    """

    starts: list[str]
    ends: list[str]
    known: bool


class ModelDocument(Document):
    """A model: the thinking that is removed from its replies (null: none is), arguments of its
    chat template, the fingerprint of its directory (null: it is not here).
    """

    thinking: ThinkingDocument | None
    template_args: dict[str, Any]
    weights: str | None


class ResourcesDocument(Document):
    """What jobs ask for, how many run at a time (null: as many as there are), and why each
    model takes its GPUs.
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
    """What a launch from here would be refused for, and how to fix it."""

    what: str
    fix: str


class PlanDocument(Document):
    """A checked spec.

    Attributes:
        run: The run's name.
        cluster: Where it would run.
        task: What it would be scored on.
        search: The search, in numbers.
        agent: The language model that the search asks; None without one.
        stages: The stages, in order.
        models: The models, by name.
        resources: What jobs ask for.
        container: What trials run in; None for the host's Python.
        problems: What is missing here for a launch.
    """

    run: str
    cluster: ClusterDocument
    task: TaskDocument
    search: SearchDocument
    agent: AgentPlanDocument | None
    stages: list[StageDocument]
    models: dict[str, ModelDocument]
    resources: ResourcesDocument
    container: ContainerDocument | None
    problems: list[ProblemDocument]
