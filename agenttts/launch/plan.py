"""Make a plan of a job spec.

Everything is checked. Nothing is created or submitted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path

from agenttts import search, tasks
from agenttts.dispatch.profile import Profile, profile_name
from agenttts.dispatch.schedulers import create_scheduler, load_completed_profile
from agenttts.dispatch.sizing.gpu_need import GpuNeed
from agenttts.dispatch.sizing.model_facts import model_facts
from agenttts.dispatch.sizing.model_size import ModelSize, model_size
from agenttts.errors import UserError, located
from agenttts.inference.base import ModelConfig
from agenttts.launch.agent_checks import check_agent, check_extra_fields, served_dtype
from agenttts.launch.checks import (
    check_agent_files,
    check_effective_options,
    check_endpoints,
    check_engine_options,
    check_formats,
    check_prompt_styles,
    check_servers_differ,
    checks_of,
    model_needs,
    warn_of_other_servers,
)
from agenttts.launch.examples import Examples, frozen_examples, read_examples
from agenttts.launch.expected_cost import expected_cost
from agenttts.launch.experiment import (
    Experiment,
    ordered,
    with_container,
    with_knowledge,
    with_snapshots,
    without_profile_image,
)
from agenttts.launch.node_record import last_look
from agenttts.launch.problems import Problem, Problems
from agenttts.run.directory import Run, RunDirectory
from agenttts.run.models import (
    ModelFacts,
    find_facts,
    frozen_facts,
    model_configs,
    with_dtype,
)
from agenttts.run.search_files import with_search_files
from agenttts.search.base import Searcher
from agenttts.spec import JobSpec
from agenttts.spec.paths import check_characters
from agenttts.tables.forecast import Forecast
from agenttts.tasks.user_tasks import frozen_name, make_importable


@dataclass(frozen=True)
class Plan:
    """A checked experiment, ready to be launched unless it has ``problems``.

    Only the plan of a dry run may have problems.
    """

    experiment: Experiment
    examples: Examples
    needs: Mapping[str, GpuNeed]
    sizes: Mapping[str, ModelSize]
    facts: Mapping[str, ModelFacts]
    agent_need: GpuNeed | None = None
    """GPUs of the language model that the run serves itself; None if it serves none."""
    agent_dtype: str | None = None
    """The data type that this model gets on a CPU; None for its engine's default."""
    problems: tuple[Problem, ...] = ()
    nodes: str | None = None
    """When ``doctor --submit`` last looked at the profile's nodes; None without nodes."""

    @property
    def agent_gpus(self) -> int | None:
        """GPUs of the language model that the run serves itself; None if it serves none."""
        return self.agent_need.gpus if self.agent_need else None

    @property
    def models(self) -> dict[str, ModelConfig]:
        """The form of every model that its engine needs."""
        gpus = {name: need.gpus for name, need in self.needs.items()}
        return model_configs(self.experiment.spec, gpus, self.facts)

    @cached_property
    def forecast(self) -> Forecast | None:
        """What the run is expected to cost; None if the number of examples is unknown."""
        return expected_cost(self.experiment, self.examples, self.sizes)


def make_plan(
    spec: JobSpec, profile_folders: list[Path], results: Path, *, dry_run: bool = False
) -> Plan:
    """Check a spec against its task, method, models, data, profile and this machine.

    Nothing is created or submitted.

    Args:
        spec: The spec.
        profile_folders: Where profiles are looked for.
        results: The results directory.
        dry_run: List what is only missing here (models, data, image, Slurm, enough GPUs) in the
            plan's ``problems``. A spec that is wrong is still refused.

    Raises:
        UserError: The spec is wrong.
        MissingRequirement: Something is missing here.
    """
    check_characters(str(results.absolute()), "results directory: its path")
    with spec.located():
        return _make_plan(spec, profile_folders, results, Problems(dry_run=dry_run))


def _make_plan(
    spec: JobSpec, profile_folders: list[Path], results: Path, problems: Problems
) -> Plan:
    profile = load_completed_profile(spec.cluster, profile_folders)
    spec = spec.model_copy(update={"cluster": profile_name(spec.cluster)})
    scheduler = create_scheduler(profile, results.absolute() / spec.name)
    task = tasks.create_for(spec)
    spec = with_knowledge(ordered(spec, task), results)
    space = spec.space()
    check_trials(spec, search.create_for(spec))
    experiment = Experiment(spec, results, profile, scheduler, task, space)
    experiment = _with_models(experiment, problems)
    # Not of runs that exist: they go on as they were, also by a launch of their spec.
    if not RunDirectory(experiment.path).exists:
        check_effective_options(experiment.spec)
        check_extra_fields(experiment.spec)
    check_servers_differ(experiment.spec)
    warn_of_other_servers(experiment.spec, experiment.path)
    check_formats(experiment.spec)
    check_prompt_styles(experiment.spec)
    found = _Found(
        find_facts(experiment.spec, gpus_per_node=profile.gpus_per_node),
        served_dtype(experiment.spec, gpus_per_node=profile.gpus_per_node),
        "because this CPU has no instructions for bfloat16",
    )
    return _planned(experiment, found, partial(read_examples, problems=problems), problems)


def check_trials(spec: JobSpec, searcher: Searcher) -> None:
    """Check that a search has trials.

    Raises:
        UserError: It has none.
    """
    if spec.search.iterations == 0 and searcher.initial_batch == 0:
        raise UserError(
            f"0 leaves this search without trials, because method '{spec.search.method}' has no "
            "initial trials; valid: 1 or more, or 0 with allocations in search.first",
            at=("search", "iterations"),
        )


def plan_of_run(run: Run, cluster: str, profile: Profile, *, dry_run: bool = False) -> Plan:
    """Make a plan of a run that exists, under another profile or with a wider search.

    Neither data nor the hub are read. The examples, the files that the search reads, and the
    markers of thinking, the fingerprints and the data types of models are those that launch froze.

    Args:
        run: The run.
        cluster: The name or file of the profile.
        profile: The profile, completed from this shell's environment.
        dry_run: As in `make_plan`.

    Raises:
        UserError: The spec does not fit the profile.
        MissingRequirement: Something is missing here.
    """
    directory, run = run.directory, with_search_files(run)
    spec = without_profile_image(run.spec, run.profile).model_copy(update={"cluster": cluster})
    problems = Problems(dry_run=dry_run)
    if directory.task_source.is_dir():
        make_importable(spec.task.name, str(directory.task_source))
    with spec.located():
        with located("task"):
            task = tasks.create(frozen_name(spec.task.name, directory.task_source))
        scheduler = create_scheduler(profile, directory.path)
        results = directory.path.parent
        frozen = Experiment(spec, results, profile, scheduler, task, spec.space())
        experiment = _with_models(frozen, problems)
        _check_same_models(frozen.spec, experiment.spec, cluster)
        found = _Found(
            frozen_facts(run.spec, run.record.models),
            run.record.agent.dtype if run.record.agent else None,
            "as at launch",
        )
        return _planned(experiment, found, lambda _: frozen_examples(run), problems)


@dataclass(frozen=True)
class _Found:
    """What launch finds out about models, or found out when it made the run.

    Attributes:
        facts: The facts of the spec's models.
        agent_dtype: The data type of a model that the run serves itself.
        why: Why models have another data type than their engine's default.
    """

    facts: Mapping[str, ModelFacts]
    agent_dtype: str | None
    why: str


def _with_models(experiment: Experiment, problems: Problems) -> Experiment:
    """Return the experiment with its snapshots; check the options of its engines."""
    experiment = with_snapshots(experiment, problems)
    check_engine_options(experiment.spec)
    return experiment


def _check_same_models(frozen: JobSpec, found: JobSpec, cluster: str) -> None:
    """Check that a profile leaves a run's models where they are.

    Samples are stored under the models' places.
    """
    for name, model in frozen.models.items():
        if model != found.models[name]:
            raise UserError(
                f"the run reads this model from a hub, and trials on {cluster} would read its "
                "downloaded copy, so another model would draw their samples; launch the "
                "spec under another --name",
                at=("models", name, "path"),
            )


def _planned(
    experiment: Experiment,
    found: _Found,
    examples_of: Callable[[Experiment], Examples],
    problems: Problems,
) -> Plan:
    """Check models, container and this machine.

    Args:
        experiment: The experiment, without its container; the options of its engines are checked.
        found: What is known of the spec's models.
        examples_of: Returns the examples, which are read late because that may take long.
        problems: Takes what is missing here.
    """
    models = experiment.spec.models
    facts = found.facts
    sizing = {
        name: model_facts(
            model.path, model.params, with_dtype(model.options, facts[name].dtype), model.engine
        )
        for name, model in models.items()
    }
    needs = {
        name: _with_remark(need, facts[name].dtype, found.why)
        for name, need in model_needs(experiment, sizing, problems).items()
    }
    check_endpoints(experiment, problems)
    check_agent_files(experiment.spec, problems)
    agent_need = None
    with problems.here():
        agent_need = check_agent(experiment.spec, experiment.profile, found.agent_dtype)
    examples = examples_of(experiment)
    experiment = with_container(experiment, problems)
    for check in checks_of(experiment, needs, agent_need):
        with problems.here():
            check()
    return Plan(
        experiment,
        examples,
        needs,
        {name: model_size(sizing[name], models[name].params, needs[name].gpus) for name in models},
        facts,
        agent_need,
        found.agent_dtype,
        tuple(problems.found),
        last_look(experiment.results, experiment.spec.cluster, experiment.profile),
    )


def _with_remark(need: GpuNeed, dtype: str | None, why: str) -> GpuNeed:
    """Return the need, with a remark on the data type that launch chose."""
    if dtype is None:
        return need
    return replace(need, reasoning=f"{need.reasoning}, in {dtype}, {why}")
